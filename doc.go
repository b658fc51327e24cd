// Package grpcircuit is a circuit breaker for gRPC clients. It has no code; this page describes the packages.
//
// A breaker guards the calls from a client to a backend. While calls succeed it is closed and admits all of them. When
// too many calls fail or are slow, it opens and rejects calls at once, so that callers do not wait and the backend can
// recover. After the open period it admits a few probes, and it closes when they succeed.
//
// Start with [github.com/grpcircuit/grpcircuit/interceptor]. Most programs need only its Guard, which guards every
// unary and streaming call of a [google.golang.org/grpc.ClientConn].
//
//	group, err := breaker.NewGroup(breaker.Config{}) // the zero Config has the defaults
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
// Without a retry interceptor, Guard.DialOptions returns both interceptors as dial options.
//
// # Packages
//
//   - [github.com/grpcircuit/grpcircuit/interceptor]: the Guard, the classification of results as success or failure,
//     and the error of a rejected call.
//   - [github.com/grpcircuit/grpcircuit/breaker]: the state machine, its Config, and the Group of breakers that guards
//     share. It imports only the standard library and works without gRPC.
//   - [github.com/grpcircuit/grpcircuit/keyfunc]: functions that choose the breaker of a call, by method, service,
//     target or tag.
//   - [github.com/grpcircuit/grpcircuit/otelbridge]: span events, log records and metrics for OpenTelemetry.
//   - [github.com/grpcircuit/grpcircuit/prombridge]: a collector for Prometheus.
//
// README.md is the introduction. The directory docs has the rules, the state machine and the decisions. The directory
// examples has programs to run; copy examples/minimal/main.go to begin.
package grpcircuit
