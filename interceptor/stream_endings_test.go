package interceptor

import (
	"context"
	"errors"
	"io"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// streamEnding is one way for a stream to end: a row of the table of grpc-facts.md, 2.2. Whoever calls has left after run,
// and does not come back.
type streamEnding struct {
	name   string
	script testpb.Script
	dial   []grpc.DialOption
	run    func(ctx context.Context, t *testing.T, r *streamRig, cancel context.CancelFunc)
	want   tally // 60 ms after that, before anything is cancelled
	// wrapped: what is so in the arrangement of that name, where OnFinish in a call of the guard's decides nothing.
	wrapped *tally
}

var inFlight = tally{InFlight: 1}

// server, bidi and upload start a stream of that kind.
func (r *streamRig) server(ctx context.Context, t *testing.T, opts ...grpc.CallOption) grpc.ServerStreamingClient[testpb.Response] {
	t.Helper()
	s, err := r.client.ServerStream(ctx, &testpb.Request{}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (r *streamRig) bidi(
	ctx context.Context, t *testing.T, opts ...grpc.CallOption,
) grpc.BidiStreamingClient[testpb.Request, testpb.Response] {
	t.Helper()
	s, err := r.client.Bidi(ctx, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (r *streamRig) upload(
	ctx context.Context, t *testing.T, opts ...grpc.CallOption,
) grpc.ClientStreamingClient[testpb.Request, testpb.Response] {
	t.Helper()
	s, err := r.client.ClientStream(ctx, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// endsWith drains a stream and compares its status.
func endsWith[M any](t *testing.T, s interface{ Recv() (*M, error) }, want codes.Code) {
	t.Helper()
	_, err := drain(s)
	wantCode(t, "stream", err, want)
}

var streamEndings = []streamEnding{
	{
		name: "drained", script: sends(3, nil), want: one(breaker.Success),
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			endsWith(t, r.server(ctx, t), codes.OK)
		},
	},
	{
		name: "error after messages", script: sends(3, down), want: one(breaker.Failure),
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			endsWith(t, r.server(ctx, t), codes.Unavailable)
		},
	},
	{
		name: "messages read, EOF never", script: sends(3, nil), want: inFlight,
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			s := r.server(ctx, t)
			for range 3 {
				if _, err := s.Recv(); err != nil {
					t.Fatal(err)
				}
			}
		},
	},
	{
		name: "abandoned, server live", script: lives(0), want: inFlight,
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) { r.server(ctx, t) },
	},
	{
		name: "abandoned, server done OK", script: sends(0, nil), want: inFlight,
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) { r.server(ctx, t) },
	},
	{
		name: "abandoned, server failed", script: sends(0, down), want: inFlight,
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) { r.server(ctx, t) },
	},
	{
		name: "abandoned, deadline expires", script: lives(1), want: one(breaker.Failure),
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			t.Cleanup(cancel)
			r.server(ctx, t)
			time.Sleep(time.Second)
		},
	},
	{
		name: "Recv blocked, cancel", script: lives(1), want: one(breaker.Ignored),
		run: func(ctx context.Context, t *testing.T, r *streamRig, cancel context.CancelFunc) {
			s := r.server(ctx, t)
			time.AfterFunc(time.Second, cancel)
			endsWith(t, s, codes.Canceled)
		},
	},
	{
		name: "Recv blocked, deadline", script: lives(1), want: one(breaker.Failure),
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			t.Cleanup(cancel)
			endsWith(t, r.server(ctx, t), codes.DeadlineExceeded)
		},
	},
	{
		name: "Recv blocked, connection closed", script: lives(1), want: one(breaker.Ignored),
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			s := r.server(ctx, t)
			time.AfterFunc(time.Second, func() { _ = r.conn.Close() })
			endsWith(t, s, codes.Canceled)
		},
	},
	{
		name: "Recv blocked, server stopped", script: lives(1), want: one(breaker.Failure),
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			s := r.server(ctx, t)
			time.AfterFunc(time.Second, r.backend.Stop)
			endsWith(t, s, codes.Unavailable)
		},
	},
	{
		name: "nobody reading, connection closed", script: lives(1), want: one(breaker.Ignored),
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			r.server(ctx, t)
			synctest.Wait()
			_ = r.conn.Close()
		},
	},
	{
		name: "Header only, failed without one", script: sends(0, down), want: one(breaker.Failure), wrapped: &inFlight,
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			if md, err := r.server(ctx, t).Header(); md != nil || err != nil {
				t.Errorf("Header: got %v, %v, want nil, nil", md, err)
			}
		},
	},
	{
		name: "Header only, done OK without one", script: sends(0, nil), want: one(breaker.Success), wrapped: &inFlight,
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			_, _ = r.server(ctx, t).Header()
		},
	},
	{
		name: "Header, then Recv", script: sends(0, down), want: one(breaker.Failure),
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			s := r.server(ctx, t)
			_, _ = s.Header()
			endsWith(t, s, codes.Unavailable)
		},
	},
	{
		name: "Header received, nothing else", script: lives(1), want: inFlight,
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			if md, err := r.bidi(ctx, t).Header(); md == nil || err != nil {
				t.Errorf("Header: got %v, %v, want one", md, err)
			}
		},
	},
	{
		name: "upload, answered", script: testpb.Script{}, want: one(breaker.Success),
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			_, err := r.upload(ctx, t).CloseAndRecv()
			wantCode(t, "CloseAndRecv", err, codes.OK)
		},
	},
	{
		name: "upload, failed", script: failing(down), want: one(breaker.Failure),
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			_, err := r.upload(ctx, t).CloseAndRecv()
			wantCode(t, "CloseAndRecv", err, codes.Unavailable)
		},
	},
	{
		name: "upload, Send has EOF, Recv never", script: failing(down), want: inFlight,
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			s := r.upload(ctx, t)
			synctest.Wait()
			if err := s.Send(&testpb.Request{}); !errors.Is(err, io.EOF) {
				t.Errorf("Send: got %v, want io.EOF", err)
			}
		},
	},
	{
		name: "upload, CloseSend only", script: testpb.Script{}, want: inFlight,
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			if err := r.upload(ctx, t).CloseSend(); err != nil {
				t.Error(err)
			}
		},
	},
	{
		name: "Send has EOF, then Recv", script: failing(down), want: one(breaker.Failure),
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			s := r.bidi(ctx, t)
			synctest.Wait()
			if err := s.Send(&testpb.Request{}); !errors.Is(err, io.EOF) {
				t.Errorf("Send: got %v, want io.EOF", err)
			}
			endsWith(t, s, codes.Unavailable)
		},
	},
	{
		name: "Send too large", script: lives(0), want: one(breaker.Ignored),
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			s := r.bidi(ctx, t, grpc.MaxCallSendMsgSize(10))
			err := s.Send(&testpb.Request{Payload: make([]byte, 100)})
			wantCode(t, "Send", err, codes.ResourceExhausted)
		},
	},
	{
		name: "Send too large, Recv blocked", script: lives(1), want: one(breaker.Ignored),
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			s := r.bidi(ctx, t, grpc.MaxCallSendMsgSize(10))
			received := make(chan error)
			go func() {
				_, err := drain(s)
				received <- err
			}()
			synctest.Wait()
			err := s.Send(&testpb.Request{Payload: make([]byte, 100)})
			wantCode(t, "Send", err, codes.ResourceExhausted)
			if err := <-received; err == nil {
				t.Error("Recv: no error")
			}
		},
	},
	{
		name: "Send cannot marshal", script: lives(0), want: one(breaker.Ignored),
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			err := r.bidi(ctx, t).Send(&testpb.Request{Text: "\xff"})
			wantCode(t, "Send", err, codes.Internal)
		},
	},
	{
		name: "half-closed, drained", script: testpb.Script{}, want: one(breaker.Success),
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			s := r.bidi(ctx, t)
			for range 2 {
				if err := s.Send(&testpb.Request{}); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.CloseSend(); err != nil {
				t.Fatal(err)
			}
			endsWith(t, s, codes.OK)
		},
	},
	{
		name: "Recv again after EOF", script: sends(2, nil), want: one(breaker.Success),
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			s := r.bidi(ctx, t)
			for range 3 {
				endsWith(t, s, codes.OK)
			}
		},
	},
	{
		name: "creation, context done before", script: lives(0), want: tally{}, // B24
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			_, err := r.client.ServerStream(ctx, &testpb.Request{})
			wantCode(t, "creation", err, codes.Canceled)
		},
	},
	{
		name: "creation, refused", script: lives(0), want: one(breaker.Failure),
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			r.backend.Stop()
			_, err := r.client.ServerStream(ctx, &testpb.Request{})
			wantCode(t, "creation", err, codes.Unavailable)
		},
	},
	{
		name: "creation, refused, waits for ready until cancelled", script: lives(0), want: one(breaker.Ignored),
		run: func(ctx context.Context, t *testing.T, r *streamRig, cancel context.CancelFunc) {
			r.backend.Stop()
			time.AfterFunc(time.Minute, cancel)
			_, err := r.client.ServerStream(ctx, &testpb.Request{}, grpc.WaitForReady(true))
			wantCode(t, "creation", err, codes.Canceled)
		},
	},
	{
		name: "creation, unknown compressor", script: lives(0), want: one(breaker.Ignored),
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			_, err := r.client.ServerStream(ctx, &testpb.Request{}, grpc.UseCompressor("none such"))
			wantCode(t, "creation", err, codes.Internal)
		},
	},
	{
		name: "creation, bad metadata", script: lives(0), want: one(breaker.Ignored),
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			ctx = metadata.AppendToOutgoingContext(ctx, "a key", "v")
			_, err := r.client.ServerStream(ctx, &testpb.Request{})
			wantCode(t, "creation", err, codes.Internal)
		},
	},
	{
		name: "creation, connection closed", script: lives(0), want: one(breaker.Ignored),
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			_ = r.conn.Close()
			_, err := r.client.ServerStream(ctx, &testpb.Request{})
			wantCode(t, "creation", err, codes.Canceled)
		},
	},
	{
		name: "received too large", want: one(breaker.Ignored),
		script: testpb.Script{OnServerStream: func(_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response]) error {
			return s.Send(&testpb.Response{Payload: make([]byte, 100)})
		}},
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			endsWith(t, r.server(ctx, t, grpc.MaxCallRecvMsgSize(10)), codes.ResourceExhausted)
		},
	},
	{
		name: "service-config retries, the third succeeds", script: sends(0, nil), want: one(breaker.Success),
		dial: []grpc.DialOption{grpc.WithDefaultServiceConfig(retryConfig)},
		run: func(ctx context.Context, t *testing.T, r *streamRig, _ context.CancelFunc) {
			r.srv.Set(failsTimes(2))
			endsWith(t, r.server(ctx, t), codes.OK)
		},
	},
}

// TestStreamEndings has each way for a stream to end, in each arrangement: one outcome, of the right class, and never a
// permit kept (S1, S2, S3, S4, S6). Where a caller leaves a stream that lives (S7), the permit stays out, for an hour and
// longer, and is back within 100 ms of the end of what kept the stream alive: the context's, or the connection's. T2.
func TestStreamEndings(t *testing.T) {
	for _, row := range streamEndings {
		for _, a := range streamArrangements {
			for _, fate := range []string{"cancel", "close"} {
				t.Run(row.name+"/"+a.name+"/"+fate, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { row.check(t, a, fate) })
				})
			}
		}
	}
}

func (row streamEnding) check(t *testing.T, a streamArrangement, fate string) {
	t.Helper()
	want := row.want
	if a.wraps() && row.wrapped != nil {
		if fate == "close" {
			return // grpc has ended the stream already: only the context can say that its caller has left
		}
		want = *row.wrapped
	}
	g := newGuard(t, breaker.Config{})
	r := newStreamRig(t, g, row.script, append(append([]grpc.DialOption{}, a.dial...), row.dial...)...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	row.run(ctx, t, r, cancel)
	time.Sleep(60 * time.Millisecond)
	synctest.Wait()
	wantTally(t, "left alone", g, want)

	after := want
	if want.InFlight > 0 {
		time.Sleep(time.Hour)
		synctest.Wait()
		wantTally(t, "an hour later", g, want)
		after = one(breaker.Ignored)
	}
	if fate == "cancel" {
		cancel()
	} else {
		_ = r.conn.Close()
	}
	time.Sleep(100 * time.Millisecond)
	synctest.Wait()
	wantTally(t, "after the "+fate, g, after)
	cancel()
	_ = r.conn.Close()
	synctest.Wait()
	wantTally(t, "in the end", g, after)
}

// S6: the watch over the stream has no instant at which an end goes by unseen. A codec holds the call in which it comes.
func TestS06_EndsWhileReceiving(t *testing.T) {
	for _, fate := range []string{"cancel", "close"} {
		t.Run(fate, func(t *testing.T) {
			inEach(t, func(t *testing.T, a streamArrangement) {
				g := newGuard(t, breaker.Config{})
				r := newStreamRig(t, g, lives(2), a.dial...)
				codec, held, release := newHookedCodec(), make(chan struct{}), make(chan struct{})
				codec.unmarshal = func() {
					close(held)
					<-release
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				s := r.server(ctx, t, grpc.ForceCodecV2(codec))
				received := make(chan error)
				go func() {
					_, err := s.Recv()
					received <- err
				}()
				<-held
				if fate == "cancel" {
					cancel()
				} else {
					_ = r.conn.Close()
				}
				synctest.Wait() // by now OnFinish has fired, with RecvMsg on the stack
				close(release)
				if err := <-received; err != nil {
					t.Fatalf("Recv: %v, want a message: the test wants OnFinish to fire in a RecvMsg that succeeds", err)
				}
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
				wantTally(t, "nobody receives any more", g, one(breaker.Ignored))
			})
		})
	}
}

// S6 for SendMsg, whose io.EOF is no outcome (S3) and may be the last that the caller cares for.
func TestS06_EndsWhileSending(t *testing.T) {
	for _, fate := range []string{"cancel", "close"} {
		t.Run(fate, func(t *testing.T) {
			inEach(t, func(t *testing.T, a streamArrangement) {
				g := newGuard(t, breaker.Config{})
				r := newStreamRig(t, g, lives(0), a.dial...)
				codec, held, release := newHookedCodec(), make(chan struct{}), make(chan struct{})
				codec.marshal = func() {
					close(held)
					<-release
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				s := r.bidi(ctx, t, grpc.ForceCodecV2(codec))
				sent := make(chan error)
				go func() { sent <- s.Send(&testpb.Request{}) }()
				<-held
				if fate == "cancel" {
					cancel()
				} else {
					_ = r.conn.Close()
				}
				synctest.Wait()
				close(release)
				if err := <-sent; !errors.Is(err, io.EOF) {
					t.Fatalf("Send: got %v, want io.EOF", err)
				}
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
				wantTally(t, "nobody calls any more", g, one(breaker.Ignored))
			})
		})
	}
}

// S6: an interceptor inside may give the stream a context of its own, which ends for its own reasons: here a timeout of
// each attempt. The stream is over, and the backend did not answer in time.
func TestS06_InnerTimeout(t *testing.T) {
	for _, a := range streamArrangements {
		synctest.Test(t, func(t *testing.T) {
			timeout := func(
				ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption,
			) (grpc.ClientStream, error) {
				ctx, cancel := context.WithTimeout(ctx, time.Second)
				t.Cleanup(cancel)
				return streamer(ctx, desc, cc, method, opts...)
			}
			g := newGuard(t, breaker.Config{})
			r := newStreamRig(t, g, lives(1), append(append([]grpc.DialOption{}, a.dial...), grpc.WithChainStreamInterceptor(timeout))...)
			r.server(t.Context(), t)
			time.Sleep(time.Second - 1)
			synctest.Wait()
			wantTally(t, a.name+", before the timeout", g, tally{InFlight: 1})
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			wantTally(t, a.name+", after the timeout", g, one(breaker.Failure))
		})
	}
}

// S6 where grpc says it in another way: of the streams that are in flight when their caller closes the connection, one in a
// hundred ends with this, because its transport went first.
func TestS06_TransportOfClosedConnection(t *testing.T) {
	cc, err := grpc.NewClient("passthrough:///nowhere", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	g := newGuard(t, breaker.Config{})
	open := func() grpc.ClientStream {
		cs, err := g.Stream(t.Context(), serverStreams, cc, fullMethod,
			func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
				return &fakeStream{recv: func(any) error { return status.Error(codes.Unavailable, "transport is closing") }}, nil
			})
		if err != nil {
			t.Fatal(err)
		}
		return cs
	}
	before, after := open(), open()
	_, _ = drainRaw(before)
	wantTally(t, "while the connection is open", g, tally{Failure: 1, InFlight: 1})
	_ = cc.Close()
	_, _ = drainRaw(after)
	wantTally(t, "once it is closed", g, tally{Failure: 1, Ignored: 1})
}

// S6: an interceptor inside may lose the guard's option, or get the stream elsewhere. OnFinish never fires then.
func TestS06_OptionsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lose := func(
			ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, _ ...grpc.CallOption,
		) (grpc.ClientStream, error) {
			return streamer(ctx, desc, cc, method)
		}
		g := newGuard(t, breaker.Config{})
		r := newStreamRig(t, g, lives(1), grpc.WithChainStreamInterceptor(lose))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r.server(ctx, t)
		time.Sleep(time.Minute)
		wantTally(t, "abandoned", g, tally{InFlight: 1})
		cancel()
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		wantTally(t, "cancelled", g, one(breaker.Ignored))
	})
}

// S7: an abandoned stream whose context lives costs no goroutine of the guard's, whatever it lives for, and nothing else
// changes: permits are no timers.
func TestS07_AbandonedWithLiveContext(t *testing.T) {
	inEach(t, func(t *testing.T, a streamArrangement) {
		g := newGuard(t, breaker.Config{})
		r := newStreamRig(t, g, lives(1), a.dial...)
		r.server(context.WithoutCancel(t.Context()), t)
		time.Sleep(1000 * time.Hour)
		synctest.Wait()
		wantTally(t, "after 1000 hours", g, tally{InFlight: 1})
		_ = r.conn.Close()
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		wantTally(t, "after the connection's end", g, one(breaker.Ignored))
	})
}

// T8 for streams: callers who leave do not open a breaker, however many they are.
func TestS06_CancelsNeverOpen(t *testing.T) {
	inEach(t, func(t *testing.T, a streamArrangement) {
		g := newGuard(t, breaker.Config{ConsecutiveFailures: 1, MinCalls: 1, FailureRatio: math.SmallestNonzeroFloat64})
		r := newStreamRig(t, g, lives(0), a.dial...)
		for range 1000 {
			ctx, cancel := context.WithCancel(t.Context())
			r.server(ctx, t)
			cancel()
		}
		synctest.Wait()
		wantState(t, "after 1000 cancels", g, breaker.Closed)
		wantTally(t, "after 1000 cancels", g, tally{Ignored: 1000})
	})
}
