// Package testpb is the gRPC service that the tests of grpcircuit call: its messages and stubs, a
// [Server] whose behaviour a test scripts while it runs, and a [Backend] that serves it in memory or
// on a TCP port and can be killed and restarted.
//
// In memory everything works inside a testing/synctest bubble, with real gRPC and virtual time:
//
//	synctest.Test(t, func(t *testing.T) {
//		srv := new(testpb.Server)
//		client := testpb.NewTestClient(testpb.Bufconn(t, srv, guard.DialOptions()...))
//		srv.Set(testpb.Script{OnUnary: func(context.Context, *testpb.Request) (*testpb.Response, error) {
//			return nil, status.Error(codes.Unavailable, "down")
//		}})
//		_, err := client.Unary(t.Context(), &testpb.Request{Text: "hello"})
//		…
//	})
//
// Nothing needs closing: connections, then servers, close in T.Cleanup, which in a bubble runs inside
// it, before it waits for its goroutines. Start the server, dial and take the guard's breakers all
// inside the bubble; channels and timers made outside it do not belong to it. Over TCP a bubble's
// clock stands still, as a read from a socket is not durably blocked.
package testpb

//go:generate ./generate.sh
