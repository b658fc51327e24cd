package testpb_test

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: got %v (%v), want %v", what, got, err, want)
	}
}

// A call over bufconn takes no virtual time, so tests may count it to the nanosecond.
func TestBufconnVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := new(testpb.Server)
		client := testpb.NewTestClient(testpb.Bufconn(t, srv))
		start := time.Now()
		// Larger than the buffer, so that both sides wait for each other.
		payload := bytes.Repeat([]byte("x"), 1<<20)
		resp, err := client.Unary(t.Context(), &testpb.Request{Payload: payload})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(resp.GetPayload(), payload) {
			t.Error("the payload has changed")
		}
		if got := time.Since(start); got != 0 {
			t.Errorf("a call took %v, want 0s", got)
		}

		srv.Set(testpb.Script{OnUnary: func(ctx context.Context, _ *testpb.Request) (*testpb.Response, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = client.Unary(ctx, &testpb.Request{})
		wantCode(t, "call past its deadline", err, codes.DeadlineExceeded)
		if got := time.Since(start); got != time.Minute {
			t.Errorf("the deadline came after %v, want 1m0s", got)
		}
	})
}

// A test may end with calls of every kind in flight and with handlers that ignore their context. The bubble must not
// deadlock, and no goroutine may be left.
func TestBufconnEndsWithCallsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sleepFor := func(d time.Duration) testpb.Script {
			return testpb.Script{
				OnUnary: func(context.Context, *testpb.Request) (*testpb.Response, error) {
					time.Sleep(d)
					return &testpb.Response{}, nil
				},
				OnServerStream: func(_ *testpb.Request, stream grpc.ServerStreamingServer[testpb.Response]) error {
					<-stream.Context().Done()
					time.Sleep(d)
					return nil
				},
			}
		}
		srv := new(testpb.Server)
		srv.Set(sleepFor(2 * time.Hour))
		b := testpb.StartBufconn(t, srv)
		client := testpb.NewTestClient(b.Dial(t))
		// t.Context would end the calls before the cleanup does.
		ctx := context.WithoutCancel(t.Context())
		start := func() {
			go func() {
				_, _ = client.Unary(ctx, &testpb.Request{})
			}()
			if _, err := client.ServerStream(ctx, &testpb.Request{}); err != nil {
				t.Error(err)
			}
			if _, err := client.ClientStream(ctx); err != nil {
				t.Error(err)
			}
			if _, err := client.Bidi(ctx); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		start()
		if got, want := srv.Total(), 4; got != want {
			t.Errorf("calls in flight: got %d, want %d", got, want)
		}
		// Handlers from before a restart are waited for too, even if they run longest.
		srv.Set(sleepFor(time.Hour))
		b.Restart()
		time.Sleep(10 * time.Second) // after the reconnect back-off
		start()
		if got, want := srv.Total(), 8; got != want {
			t.Errorf("calls in flight after a restart: got %d, want %d", got, want)
		}
	})
}

func TestBufconnManyConns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent, served atomic.Int64
		srv := new(testpb.Server)
		b := testpb.StartBufconn(t, srv, grpc.ChainUnaryInterceptor(
			func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
				served.Add(1)
				return handler(ctx, req)
			}))
		plain := b.Dial(t)
		counted := b.DialTarget(t, "passthrough:///elsewhere", grpc.WithChainUnaryInterceptor(
			func(
				ctx context.Context, method string, req, reply any,
				cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption,
			) error {
				sent.Add(1)
				return invoker(ctx, method, req, reply, cc, opts...)
			}))
		for _, cc := range []*grpc.ClientConn{plain, counted} {
			if _, err := testpb.NewTestClient(cc).Unary(t.Context(), &testpb.Request{}); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := plain.Target(), b.Target(); got != want {
			t.Errorf("target of Dial = %q, want %q", got, want)
		}
		if got, want := counted.Target(), "passthrough:///elsewhere"; got != want {
			t.Errorf("target of DialTarget = %q, want %q", got, want)
		}
		if got := sent.Load(); got != 1 {
			t.Errorf("client interceptor saw %d calls, want 1", got)
		}
		if got := served.Load(); got != 2 {
			t.Errorf("server interceptor saw %d calls, want 2", got)
		}
	})
}

func TestBufconnStopAndRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := new(testpb.Server)
		b := testpb.StartBufconn(t, srv)
		client := testpb.NewTestClient(b.Dial(t))

		hang := make(chan struct{})
		defer close(hang)
		srv.Set(testpb.Script{OnUnary: func(context.Context, *testpb.Request) (*testpb.Response, error) {
			<-hang
			return &testpb.Response{}, nil
		}})
		inFlight := make(chan error, 1)
		go func() {
			_, err := client.Unary(t.Context(), &testpb.Request{})
			inFlight <- err
		}()
		synctest.Wait()

		// A kill does not wait for the handler.
		start := time.Now()
		b.Stop()
		wantCode(t, "call in flight when the server was killed", <-inFlight, codes.Unavailable)
		_, err := client.Unary(t.Context(), &testpb.Request{})
		wantCode(t, "call while the server is down", err, codes.Unavailable)
		if got := time.Since(start); got != 0 {
			t.Errorf("the kill took %v, want 0s", got)
		}
		b.Stop() // again

		srv.Set(testpb.Script{})
		b.Restart()
		_, err = client.Unary(t.Context(), &testpb.Request{}, grpc.WaitForReady(true))
		wantCode(t, "call after the restart", err, codes.OK)
		if got, want := srv.Received(testpb.Test_Unary_FullMethodName), 2; got != want {
			t.Errorf("received %d calls over both lives, want %d", got, want)
		}
	})
}

// A server may be stopped before its goroutine has begun to serve.
func TestBufconnStopAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := testpb.StartBufconn(t, new(testpb.Server))
		for range 100 {
			b.Stop()
			b.Restart()
		}
		_, err := testpb.NewTestClient(b.Dial(t)).Unary(t.Context(), &testpb.Request{})
		wantCode(t, "call to the last life", err, codes.OK)
	})
}

func TestBufconnGracefulStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := new(testpb.Server)
		b := testpb.StartBufconn(t, srv)
		client := testpb.NewTestClient(b.Dial(t))
		srv.Set(testpb.Script{OnUnary: func(ctx context.Context, _ *testpb.Request) (*testpb.Response, error) {
			select {
			case <-time.After(time.Minute):
				return &testpb.Response{}, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}})
		inFlight := make(chan error, 1)
		call := func() {
			go func() {
				_, err := client.Unary(t.Context(), &testpb.Request{}, grpc.WaitForReady(true))
				inFlight <- err
			}()
			synctest.Wait()
		}

		call()
		start := time.Now()
		b.GracefulStop()
		wantCode(t, "call in flight when the server stopped gracefully", <-inFlight, codes.OK)
		if got := time.Since(start); got != time.Minute {
			t.Errorf("the graceful stop took %v, want 1m0s", got)
		}

		b.Restart()
		call()
		time.Sleep(10 * time.Second) // after the reconnect back-off
		start = time.Now()
		var wg sync.WaitGroup
		wg.Go(b.GracefulStop)
		time.Sleep(time.Second)
		b.Stop() // interrupts the graceful stop
		wg.Wait()
		if got := time.Since(start); got != time.Second {
			t.Errorf("the graceful stop cut short took %v, want 1s", got)
		}
		wantCode(t, "call in flight when the graceful stop was cut short", <-inFlight, codes.Unavailable)
	})
}

// TestEndToEndTCPRestart uses a real port, outside any bubble. It kills a server under load and restarts it at the same
// address.
func TestEndToEndTCPRestart(t *testing.T) {
	srv := new(testpb.Server)
	b := testpb.StartTCP(t, srv)
	// The default back-off starts at one second of real time.
	soon := grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: time.Millisecond, Multiplier: 1, MaxDelay: time.Millisecond},
		MinConnectTimeout: 10 * time.Second, // zero would give a connection attempt one millisecond
	})
	cc := b.Dial(t, soon)
	if got, want := cc.Target(), b.Target(); got != want {
		t.Errorf("target = %q, want %q", got, want)
	}
	for _, c := range calls {
		_, err := c.do(t.Context(), cc, &testpb.Request{Count: 2})
		wantCode(t, c.method, err, codes.OK)
	}

	const workers, rounds = 4, 3
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	for range workers {
		client := testpb.NewTestClient(b.Dial(t, soon))
		load.Go(func() {
			for ctx.Err() == nil {
				_, err := client.Unary(ctx, &testpb.Request{}, grpc.WaitForReady(true))
				if code := status.Code(err); code != codes.OK && code != codes.Unavailable && ctx.Err() == nil {
					t.Errorf("call under load: %v", err)
				}
			}
		})
	}
	client := testpb.NewTestClient(cc)
	for range rounds {
		served := make(chan struct{})
		entered := make(chan struct{})
		var once sync.Once
		srv.Set(testpb.Script{
			OnUnary: func(context.Context, *testpb.Request) (*testpb.Response, error) {
				once.Do(func() { close(served) })
				return &testpb.Response{}, nil
			},
			OnPing: func(ctx context.Context, _ *testpb.Request) (*testpb.Response, error) {
				close(entered)
				<-ctx.Done()
				return nil, ctx.Err()
			},
		})
		<-served // calls are running
		hung := make(chan error, 1)
		go func() {
			_, err := testpb.NewOtherClient(cc).Ping(t.Context(), &testpb.Request{}, grpc.WaitForReady(true))
			hung <- err
		}()
		<-entered

		target := b.Target()
		b.Stop()
		wantCode(t, "call in flight when the server was killed", <-hung, codes.Unavailable)
		_, err := client.Unary(t.Context(), &testpb.Request{})
		wantCode(t, "call while the server is down", err, codes.Unavailable)

		b.Restart()
		if got := b.Target(); got != target {
			t.Errorf("target after the restart = %q, want %q", got, target)
		}
		_, err = client.Unary(t.Context(), &testpb.Request{}, grpc.WaitForReady(true))
		wantCode(t, "call after the restart", err, codes.OK)
	}
	cancel()
	load.Wait()

	// Restart of a running server, and a graceful stop without calls in flight.
	b.Restart()
	_, err := client.Unary(t.Context(), &testpb.Request{}, grpc.WaitForReady(true))
	for status.Code(err) == codes.Unavailable { // sent on the old connection before gRPC noticed that it is closed
		_, err = client.Unary(t.Context(), &testpb.Request{}, grpc.WaitForReady(true))
	}
	wantCode(t, "call after a restart without a stop", err, codes.OK)
	b.GracefulStop()
	_, err = client.Unary(t.Context(), &testpb.Request{})
	wantCode(t, "call after the graceful stop", err, codes.Unavailable)
}
