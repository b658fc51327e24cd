// Package testpb is the gRPC service that the tests of grpcircuit call. It holds its messages and stubs, a [Server]
// whose behaviour a test can script and change at run time, and a [Backend] that serves it in memory or on a TCP port
// and that can be killed and restarted.
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
// Tests need not close anything: T.Cleanup closes the connections and then the servers. In a bubble, cleanups run
// inside the bubble, before it waits for its goroutines. Start the server, dial, and create the guard's breakers inside
// the bubble, because channels and timers that were made outside do not belong to it. Over TCP the clock of a bubble
// does not advance, because a read from a socket is not durably blocked.
package testpb

//go:generate ./generate.sh
