package interceptor

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/retry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// retryConfig has grpc itself retry, up to two times.
const retryConfig = `{"methodConfig": [{"name": [{}], "retryPolicy": {
	"maxAttempts": 3, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1,
	"retryableStatusCodes": ["UNAVAILABLE"]}}]}`

// failsTimes is a script whose streams fail n times, before a message, and then send three and succeed.
func failsTimes(n int32) testpb.Script {
	var calls atomic.Int32
	answer := func(s sender) error {
		if calls.Add(1) <= n {
			return down
		}
		return sendAll(s, 3, nil)
	}
	return testpb.Script{
		OnServerStream: func(_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response]) error { return answer(s) },
		OnBidi:         func(s grpc.BidiStreamingServer[testpb.Request, testpb.Response]) error { return answer(s) },
	}
}

// retryInside is a retry interceptor for up to three attempts, to be put inside the guard.
func retryInside(opts ...retry.CallOption) grpc.DialOption {
	return grpc.WithChainStreamInterceptor(retry.StreamClientInterceptor(append([]retry.CallOption{
		retry.WithMax(3), retry.WithBackoff(retry.BackoffLinear(time.Second)),
	}, opts...)...))
}

// T6: with a retry interceptor inside, OnFinish fires for each attempt; the last one decides.
func TestS05_RetryInside(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script testpb.Script
		code   codes.Code
		want   breaker.Outcome
		served int
	}{
		{"two fail, the third succeeds", failsTimes(2), codes.OK, breaker.Success, 3},
		{"all three fail", failing(down), codes.Unavailable, breaker.Failure, 3},
		{"the first succeeds", failsTimes(0), codes.OK, breaker.Success, 1},
		{"fails late, with messages before", failsLate(2), codes.OK, breaker.Success, 3},
		{"not to be retried", sends(0, errNotFound), codes.NotFound, breaker.Success, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGuard(t, breaker.Config{})
				r := newStreamRig(t, g, tt.script, retryInside())
				s := r.server(t.Context())
				endsWith(t, s, tt.code)
				wantTally(t, "at the end", g, one(tt.want))
				if got := r.srv.Received(testpb.Test_ServerStream_FullMethodName); got != tt.served {
					t.Errorf("the server saw %d calls, want %d", got, tt.served)
				}
				endsWith(t, s, tt.code) // S4; a retry interceptor may try again for that
				_ = r.conn.Close()
				synctest.Wait()
				wantTally(t, "in the end", g, one(tt.want))
			})
		})
	}
}

// failsLate is failsTimes with two messages before each failure.
func failsLate(n int32) testpb.Script {
	var calls atomic.Int32
	return testpb.Script{OnServerStream: func(_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response]) error {
		if calls.Add(1) <= n {
			return sendAll(s, 2, down)
		}
		return sendAll(s, 3, nil)
	}}
}

var errNotFound = statusError(codes.NotFound)

// S5: while a retry interceptor waits for its next attempt, nothing is decided; who cancels then is ignored (S6).
func TestS05_CancelBetweenAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, breaker.Config{})
		r := newStreamRig(t, g, failing(down), retryInside(retry.WithBackoff(retry.BackoffLinear(time.Hour))))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s := r.server(ctx)
		ended := make(chan error)
		go func() {
			_, err := drain(s)
			ended <- err
		}()
		time.Sleep(time.Minute)
		synctest.Wait()
		wantTally(t, "between two attempts", g, tally{InFlight: 1})
		cancel()
		wantCode(t, "stream", <-ended, codes.Canceled)
		synctest.Wait()
		wantTally(t, "after the cancel", g, one(breaker.Ignored))
	})
}

// S5: Header ends an attempt that failed without one, and RecvMsg then makes another.
func TestS05_HeaderBeforeRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, breaker.Config{})
		r := newStreamRig(t, g, failsTimes(2), retryInside())
		s := r.server(t.Context())
		if md, err := s.Header(); md != nil || err != nil {
			t.Fatalf("Header: got %v, %v, want nil, nil", md, err)
		}
		wantTally(t, "after Header", g, tally{InFlight: 1})
		endsWith(t, s, codes.OK)
		wantTally(t, "at the end", g, one(breaker.Success))
	})
}

// S5: an interceptor may try again to open a stream, and hand on the one that opened as grpc made it. What OnFinish
// said of the others is no news of this one.
func TestS05_CreationRetriedInside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		again := func(
			ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption,
		) (grpc.ClientStream, error) {
			expired, cancel := context.WithTimeout(ctx, 0)
			defer cancel()
			if _, err := streamer(expired, desc, cc, method, opts...); err == nil {
				t.Error("the first attempt succeeded")
			}
			return streamer(ctx, desc, cc, method, opts...)
		}
		g := newGuard(t, breaker.Config{})
		r := newStreamRig(t, g, sends(3, nil), grpc.WithChainStreamInterceptor(again))
		s := r.server(t.Context())
		wantTally(t, "open", g, tally{InFlight: 1})
		endsWith(t, s, codes.OK)
		wantTally(t, "at the end", g, one(breaker.Success))
	})
}

// G10: with retry outside, each attempt is an outcome of its own.
func TestG10_RetryOutsideStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, breaker.Config{})
		r := &streamRig{TB: t, srv: new(testpb.Server), guard: g}
		r.srv.Set(failsTimes(2))
		r.conn = testpb.Bufconn(t, r.srv, retryInside(retry.WithRetriable(Retriable)), grpc.WithChainStreamInterceptor(g.Stream))
		r.client = testpb.NewTestClient(r.conn)
		endsWith(t, r.server(t.Context()), codes.OK)
		wantTally(t, "three attempts", g, tally{Success: 1, Failure: 2})

		onlyBreaker(t, g).Trip(t.Context(), "for the test")
		start := time.Now()
		if _, err := r.client.ServerStream(t.Context(), &testpb.Request{}); !IsRejected(err) {
			t.Errorf("got %v, want a rejection", err)
		}
		if got := time.Since(start); got != 0 {
			t.Errorf("the rejection took %v, want no pause between attempts", got)
		}
		wantTally(t, "open", g, tally{Success: 1, Failure: 2, Rejected: 1})
	})
}

// S9, T20: service-config retries go on working through the guard, and are one outcome (G10).
func TestS09_ServiceConfigRetries(t *testing.T) {
	for _, tt := range []struct {
		name   string
		fails  int32
		code   codes.Code
		want   breaker.Outcome
		served int
	}{
		{"two fail, the third succeeds", 2, codes.OK, breaker.Success, 3},
		{"all three fail", 9, codes.Unavailable, breaker.Failure, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inEach(t, func(t arranged) {
				g := newGuard(t, breaker.Config{})
				r := newStreamRig(t, g, failsTimes(tt.fails), append([]grpc.DialOption{grpc.WithDefaultServiceConfig(retryConfig)}, t.dial...)...)
				s := r.bidi(t.Context())
				// The server's failure must not be there yet when the stream opens, nor be settled by a call to Send.
				synctest.Wait()
				endsWith(t, s, tt.code)
				wantTally(t, "at the end", g, one(tt.want))
				if got := r.srv.Received(testpb.Test_Bidi_FullMethodName); got != tt.served {
					t.Errorf("the server saw %d calls, want %d", got, tt.served)
				}
			})
		})
	}
}

// S9 for a probe, whose first message the guard waits for.
func TestS09_ProbeRetries(t *testing.T) {
	inEach(t, func(t arranged) {
		g := newGuard(t, breaker.Config{SuccessesToClose: 1})
		r := newStreamRig(t, g, sends(1, nil), append([]grpc.DialOption{grpc.WithDefaultServiceConfig(retryConfig)}, t.dial...)...)
		endsWith(t, r.bidi(t.Context()), codes.OK)
		halfOpen(t, g, onlyBreaker(t, g).Key())
		r.srv.Set(failsTimes(2))
		if _, err := r.bidi(t.Context()).Recv(); err != nil {
			t.Error(err)
		}
		wantState(t, "after the probe", g, breaker.Closed)
		if got := r.srv.Received(testpb.Test_Bidi_FullMethodName); got != 4 {
			t.Errorf("the server saw %d calls, want 1 and 3", got)
		}
	})
}

// S9, from the stream's side: whatever is called and however it ends, the guard does not call Context, and calls Header
// and Trailer only once RecvMsg has returned an error. A stream that ends well it asks for neither, nor one that has
// settled.
func TestS09_NeverAsksWhileItRuns(t *testing.T) {
	for _, probe := range []bool{false, true} {
		for _, end := range []error{nil, down} {
			synctest.Test(t, func(t *testing.T) {
				g := newGuard(t, breaker.Config{}, WithPeerEvidence(), WithHooks(hooksOf(new(settlements))))
				if probe {
					halfOpen(t, g, methodKey)
				}
				messages, over := 0, false
				var asked []string
				ask := func(method string) {
					asked = append(asked, method)
					if !over {
						t.Errorf("the guard called %s before the end", method)
					}
				}
				f := &fakeStream{
					context: func() context.Context { t.Error("the guard called Context"); return nil },
					header:  func() (metadata.MD, error) { ask("Header"); return nil, nil },
					trailer: func() metadata.MD { ask("Trailer"); return nil },
				}
				f.recv = func(any) error {
					if messages++; messages <= 3 {
						return nil
					}
					over = true
					return eofOr(end)
				}
				cs, finish := openFake(t.Context(), t, g, bothStream, f)
				for range 3 {
					_ = cs.SendMsg(nil)
					_ = cs.RecvMsg(nil)
				}
				_ = cs.CloseSend()
				_ = cs.RecvMsg(nil)
				_ = cs.RecvMsg(nil)
				finish(end)
				var want []string
				if end != nil && !probe { // a probe has settled at its first message
					want = []string{"Header", "Trailer"}
				}
				if !slices.Equal(asked, want) {
					t.Errorf("probe: %v, ends with %v: the guard called %v, want %v", probe, end, asked, want)
				}
			})
		}
	}
}

// S9: nor when OnFinish fires, which need not be about this stream, nor when the context ends.
func TestS09_OnFinishAsksForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, breaker.Config{})
		f := &fakeStream{
			header: func() (metadata.MD, error) {
				t.Error("the guard called Header of a stream that lives")
				return nil, nil
			},
			trailer: func() metadata.MD { t.Error("the guard called Trailer of a stream that lives"); return nil },
		}
		ctx, cancel := context.WithCancel(t.Context())
		_, finish := openFake(ctx, t, g, serverStreams, f)
		finish(down)
		wantTally(t, "after OnFinish", g, tally{InFlight: 1})
		cancel()
		synctest.Wait()
		wantTally(t, "after the context's end", g, one(breaker.Ignored))
	})
}

// S9: nor where it ends in another way than by RecvMsg: by SendMsg, by CloseSend, or because its connection was closed
// while it opened. RecvMsg has returned no error then, and Header of a stream that is not grpc's might wait.
func TestS09_AsksOnlyAfterReceive(t *testing.T) {
	for name, tt := range map[string]struct {
		end    func(grpc.ClientStream)
		closed bool
		want   tally
	}{
		"SendMsg":                {end: func(cs grpc.ClientStream) { _ = cs.SendMsg(nil) }, want: one(breaker.Failure)},
		"CloseSend":              {end: func(cs grpc.ClientStream) { _ = cs.CloseSend() }, want: one(breaker.Failure)},
		"the connection's close": {end: func(grpc.ClientStream) {}, closed: true, want: one(breaker.Ignored)},
	} {
		cc, err := grpc.NewClient("passthrough:///nowhere", grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cc.Close() })
		f := &fakeStream{
			send: func(any) error { return down }, closeSend: func() error { return down },
			header: func() (metadata.MD, error) {
				t.Errorf("%s: the guard called Header, and RecvMsg has returned no error", name)
				return nil, nil
			},
			trailer: func() metadata.MD {
				t.Errorf("%s: the guard called Trailer, and RecvMsg has returned no error", name)
				return nil
			},
		}
		g := newGuard(t, breaker.Config{})
		if tt.closed {
			_ = cc.Close()
		}
		cs, _ := openFakeOn(t.Context(), t, g, bothStream, cc, f)
		tt.end(cs)
		wantTally(t, name, g, tt.want)
	}
}

// S9: OnFinish of a stream with grpc directly below is about this very stream, which is over. If it ends badly, its
// header tells whether it was answered. Its Trailer must not be called before RecvMsg has returned, so the option
// tells.
func TestS09_OnFinishOfDirectAsksForHeader(t *testing.T) {
	for _, header := range []metadata.MD{nil, metadata.Pairs("k", "v")} {
		for _, end := range []error{nil, down} {
			var got []Result
			g := newGuard(t, breaker.Config{}, WithClassifier(func(ctx context.Context, r Result) breaker.Outcome {
				got = append(got, r)
				return DefaultClassifier(ctx, r)
			}))
			asked, over := 0, false
			f := &fakeStream{
				context: func() context.Context { t.Error("the guard called Context"); return nil },
				header: func() (metadata.MD, error) {
					asked++
					if !over {
						t.Error("the guard called Header before the end")
					}
					return header, nil
				},
				trailer: func() metadata.MD { t.Error("the guard called Trailer"); return nil },
			}
			cs, finish := openDirect(t.Context(), t, g, bothStream, f)
			_ = cs.SendMsg(nil)
			over = true
			finish(end)
			want := 0
			if end != nil {
				want = 1
			}
			if asked != want {
				t.Errorf("ends with %v: the guard called Header %d times, want %d", end, asked, want)
			}
			if len(got) != 1 || end != nil && (got[0].Answered != (header != nil) || got[0].Code != codeOf(end)) {
				t.Errorf("header %v, ends with %v: the classifier got %+v", header, end, got)
			}
		}
	}
}

// S9, over grpc's own: an interceptor opens two streams, hands one on, and cancels the other before the one that it
// handed on has failed and is retried. Trailer of that one would have committed it.
func TestS09_LoserOfTwoAndRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		release := make(chan struct{})
		script := testpb.Script{OnBidi: func(s grpc.BidiStreamingServer[testpb.Request, testpb.Response]) error {
			switch calls.Add(1) {
			case 1: // the one to be cancelled
				<-s.Context().Done()
				return s.Context().Err()
			case 2:
				<-release
				return down
			default:
				return sendAll(s, 3, nil)
			}
		}}
		two := func(
			ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption,
		) (grpc.ClientStream, error) {
			loser, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			if _, err := streamer(loser, desc, cc, method, opts...); err != nil {
				t.Error(err)
			}
			synctest.Wait()
			return streamer(ctx, desc, cc, method, opts...)
		}
		g := newGuard(t, breaker.Config{})
		r := newStreamRig(t, g, script, grpc.WithDefaultServiceConfig(retryConfig), grpc.WithChainStreamInterceptor(two))
		s := r.bidi(t.Context())
		time.Sleep(time.Second)
		synctest.Wait() // OnFinish has fired for the one that was cancelled
		close(release)
		if n, err := drain(s); n != 3 || err != nil {
			t.Errorf("got %d messages and %v, want the 3 of the retry", n, err)
		}
	})
}

// G7, G10: of two guards, one inside the other, the outer one hears of the same end; what the inner one rejects is no
// failure of the backend's.
func TestG07_StackedStreamGuards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		outer, inner := newGuard(t, breaker.Config{}), newGuard(t, breaker.Config{})
		r := newStreamRig(t, outer, sends(2, nil), inner.DialOptions()...)
		endsWith(t, r.server(t.Context()), codes.OK)
		wantTally(t, "outer, after a success", outer, tally{Success: 1})
		wantTally(t, "inner, after a success", inner, tally{Success: 1})

		r.srv.Set(sends(2, down))
		endsWith(t, r.server(t.Context()), codes.Unavailable)
		wantTally(t, "outer, after a failure", outer, tally{Success: 1, Failure: 1})
		wantTally(t, "inner, after a failure", inner, tally{Success: 1, Failure: 1})

		r.srv.Set(lives(0)) // with a header or a message it would be a success
		ctx, cancel := context.WithCancel(t.Context())
		r.server(ctx)
		cancel()
		synctest.Wait()
		wantTally(t, "outer, after a cancel", outer, tally{Success: 1, Failure: 1, Ignored: 1})
		wantTally(t, "inner, after a cancel", inner, tally{Success: 1, Failure: 1, Ignored: 1})

		onlyBreaker(t, inner).Trip(t.Context(), "for the test")
		if _, err := r.client.ServerStream(t.Context(), &testpb.Request{}); !IsRejected(err) {
			t.Errorf("got %v, want a rejection", err)
		}
		wantTally(t, "outer, after a rejection", outer, tally{Success: 1, Failure: 1, Ignored: 2})
		wantTally(t, "inner, after a rejection", inner, tally{Success: 1, Failure: 1, Ignored: 1, Rejected: 1})
	})
}
