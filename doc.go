// Package grpcircuit is a circuit breaker for gRPC clients. It has no code; this page describes the packages.
//
// A breaker guards the calls from a client to a server. While calls succeed it is closed and admits all of them. When
// too many calls fail or are slow, it opens and rejects calls at once, so that callers do not wait and the server can
// recover. After the open period it admits a few probes, and it closes when they succeed.
//
// Start with [github.com/grpcircuit/grpcircuit/interceptor]. Most programs need only its Guard, which guards every
// unary and streaming call of a [google.golang.org/grpc.ClientConn].
//
//	group, err := breaker.NewGroup(breaker.Config{FailureRatio: 0.5, OpenFor: 5 * time.Second})
//	if err != nil {
//		return err
//	}
//	guard, err := interceptor.New(group, interceptor.WithHooks(otelbridge.New()))
//	if err != nil {
//		return err
//	}
//	prometheus.MustRegister(prombridge.NewCollector(group))
//
//	conn, err := grpc.NewClient(target,
//		grpc.WithChainUnaryInterceptor(
//			retry.UnaryClientInterceptor(retry.WithMax(3), retry.WithRetriable(interceptor.Retriable)),
//			guard.Unary),
//		grpc.WithChainStreamInterceptor(guard.Stream),
//		grpc.WithStatsHandler(otelgrpc.NewClientHandler()),
//		grpc.WithTransportCredentials(creds))
//
// For a Guard with default settings and without retries and telemetry, call interceptor.New(nil) and use its
// DialOptions.
//
// # Packages
//
//   - [github.com/grpcircuit/grpcircuit/interceptor]: the Guard, the classification of results as success or failure,
//     and the error of a rejected call.
//   - [github.com/grpcircuit/grpcircuit/breaker]: the state machine, its Config, and the Group of breakers that guards
//     share. It imports only the standard library and works without gRPC.
//   - [github.com/grpcircuit/grpcircuit/keyfunc]: which calls share a breaker: those of a method, a service, a target,
//     or a tag.
//   - [github.com/grpcircuit/grpcircuit/otelbridge]: span events, log events and metrics for OpenTelemetry.
//   - [github.com/grpcircuit/grpcircuit/prombridge]: a collector for Prometheus.
//
// The directory docs describes the state machine and the design decisions. The directory examples has programs to run.
package grpcircuit
