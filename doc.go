// Package grpcircuit is a circuit breaker for gRPC clients. It holds no code: this page says which package to open.
//
// A breaker stands between a client and a server. While calls succeed it is closed and costs next to nothing. When too
// many fail or are slow, it opens and answers at once with an error, so that callers do not wait and the server
// can recover. After a while it lets a few probes through, and closes when they succeed.
//
// Open [github.com/grpcircuit/grpcircuit/interceptor] first. Its Guard is all that most programs need: it guards every
// unary and streaming call of a [google.golang.org/grpc.ClientConn].
//
//	group, err := breaker.NewGroup(breaker.Config{FailureRatio: 0.5, OpenFor: 5 * time.Second})
//	if err != nil {
//		return err
//	}
//	guard, err := interceptor.New(group, interceptor.WithObserver(otelbridge.New()))
//	if err != nil {
//		return err
//	}
//	prometheus.MustRegister(prombridge.NewCollector(group))
//
//	conn, err := grpc.NewClient(target,
//		grpc.WithChainUnaryInterceptor(retry.UnaryClientInterceptor(retry.WithMax(3), retry.WithRetriable(interceptor.Retriable)), guard.Unary),
//		grpc.WithChainStreamInterceptor(guard.Stream),
//		grpc.WithStatsHandler(otelgrpc.NewClientHandler()),
//		grpc.WithTransportCredentials(creds))
//
// A Guard without retries, telemetry and settings of one's own is shorter: interceptor.New(nil), and its DialOptions.
//
// # Packages
//
//   - [github.com/grpcircuit/grpcircuit/interceptor]: the Guard, how it tells a failure from an answer, and the error of
//     a rejected call.
//   - [github.com/grpcircuit/grpcircuit/breaker]: the state machine, its Config, and the Group of breakers that guards share.
//     It imports the standard library only and works without gRPC.
//   - [github.com/grpcircuit/grpcircuit/keyfunc]: which calls share a breaker: by method, by service, by target, or by a tag.
//   - [github.com/grpcircuit/grpcircuit/otelbridge]: span events, log events and metrics for OpenTelemetry.
//   - [github.com/grpcircuit/grpcircuit/prombridge]: a collector for Prometheus.
//
// The directory docs holds the state machine and the decisions behind the design, and examples holds programs to run.
package grpcircuit
