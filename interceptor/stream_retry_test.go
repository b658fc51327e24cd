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

// retryConfig is a service config with up to two retries by grpc itself.
const retryConfig = `{"methodConfig": [{"name": [{}], "retryPolicy": {
	"maxAttempts": 3, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1,
	"retryableStatusCodes": ["UNAVAILABLE"]}}]}`

// failsTimes returns a script whose streams fail n times before a message. Later streams send three messages and
// succeed.
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

// retryInside returns a retry interceptor with up to three attempts, for use inside the guard.
func retryInside(opts ...retry.CallOption) grpc.DialOption {
	return grpc.WithChainStreamInterceptor(retry.StreamClientInterceptor(append([]retry.CallOption{
		retry.WithMax(3), retry.WithBackoff(retry.BackoffLinear(time.Second)),
	}, opts...)...))
}

// S5: with a retry interceptor inside, OnFinish is called for each attempt. The last attempt decides.
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
				endsWith(t, s, tt.code) // received again after the end (S4); a retry interceptor may make another attempt
				_ = r.conn.Close()
				synctest.Wait()
				wantTally(t, "in the end", g, one(tt.want))
			})
		})
	}
}

// failsLate is like failsTimes, but sends two messages before each failure.
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

// S5: while a retry interceptor waits for its next attempt, nothing is decided. A cancel then is ignored (S6).
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

// S5: Header ends an attempt that failed without a header, and RecvMsg then makes another attempt.
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

// S5: an interceptor may open a stream several times, and return the one that opened as grpc made it. The OnFinish of
// earlier attempts does not count for that stream.
func TestS05_CreationRetriedInside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		again := func(
			ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer,
			opts ...grpc.CallOption,
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

// G10: with retry outside, each attempt is one outcome.
func TestG10_RetryOutsideStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, breaker.Config{})
		r := &streamRig{TB: t, srv: new(testpb.Server), guard: g}
		r.srv.Set(failsTimes(2))
		r.conn = testpb.Bufconn(t, r.srv, retryInside(retry.WithRetriable(Retriable)),
			grpc.WithChainStreamInterceptor(g.Stream))
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

// S9: service-config retries work through the guard. All attempts are one outcome (G10).
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
				r := newStreamRig(t, g, failsTimes(tt.fails),
					append([]grpc.DialOption{grpc.WithDefaultServiceConfig(retryConfig)}, t.dial...)...)
				s := r.bidi(t.Context())
				// The failure of the server must come after the stream was opened, and must not be the result of a Send.
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

// S9: the same for a probe, for which the guard waits for the first message.
func TestS09_ProbeRetries(t *testing.T) {
	inEach(t, func(t arranged) {
		g := newGuard(t, breaker.Config{SuccessesToClose: 1})
		r := newStreamRig(t, g, sends(1, nil), append([]grpc.DialOption{grpc.WithDefaultServiceConfig(retryConfig)},
			t.dial...)...)
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

// S9: the guard never calls Context. It calls Header and Trailer only after RecvMsg has returned an error. It calls
// neither for a stream that ends with success or has settled.
func TestS09_NoHeaderWhileTheStreamRuns(t *testing.T) {
	for _, probe := range []bool{false, true} {
		for _, end := range []error{nil, down} {
			synctest.Test(t, func(t *testing.T) {
				g := newGuard(t, breaker.Config{}, WithPeerEvidence(), WithHooks(hooksOf(new(settlements))))
				if probe {
					halfOpen(t, g, methodKey)
				}
				messages, over := 0, false
				var called []string
				record := func(method string) {
					called = append(called, method)
					if !over {
						t.Errorf("the guard called %s before the end", method)
					}
				}
				f := &fakeStream{
					context: func() context.Context { t.Error("the guard called Context"); return nil },
					header:  func() (metadata.MD, error) { record("Header"); return nil, nil },
					trailer: func() metadata.MD { record("Trailer"); return nil },
				}
				var finish func(error)
				f.recv = func(any) error {
					if messages++; messages <= 3 {
						return nil
					}
					over = true
					finish(end)
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
				if !slices.Equal(called, want) {
					t.Errorf("probe: %v, ends with %v: the guard called %v, want %v", probe, end, called, want)
				}
			})
		}
	}
}

// S9: the same when OnFinish is called, which may be for another stream, and when the context ends.
func TestS09_OnFinishCallsNoHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, breaker.Config{})
		f := &fakeStream{
			header: func() (metadata.MD, error) {
				t.Error("the guard called Header of an open stream")
				return nil, nil
			},
			trailer: func() metadata.MD { t.Error("the guard called Trailer of an open stream"); return nil },
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

// S9: the same if SendMsg or CloseSend ends the stream, or if its connection was closed while it opened. RecvMsg has
// not returned an error then, so Header might block for a stream that is not grpc's.
func TestS09_HeaderOnlyAfterRecvMsg(t *testing.T) {
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
				t.Errorf("%s: the guard called Headerbefore RecvMsg returned an error", name)
				return nil, nil
			},
			trailer: func() metadata.MD {
				t.Errorf("%s: the guard called Trailerbefore RecvMsg returned an error", name)
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

// S9: with grpc directly below, OnFinish means that this stream has ended. If it ended with an error, its header shows
// whether it was answered. Trailer must not be called before RecvMsg has returned, so the guard reads the trailer from
// its option.
func TestS09_OnFinishOfDirectCallsHeader(t *testing.T) {
	for _, header := range []metadata.MD{nil, metadata.Pairs("k", "v")} {
		for _, end := range []error{nil, down} {
			var got []Result
			g := newGuard(t, breaker.Config{}, WithClassifier(func(ctx context.Context, r Result) breaker.Outcome {
				got = append(got, r)
				return DefaultClassifier(ctx, r)
			}))
			called, over := 0, false
			f := &fakeStream{
				context: func() context.Context { t.Error("the guard called Context"); return nil },
				header: func() (metadata.MD, error) {
					called++
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
			if called != want {
				t.Errorf("ends with %v: the guard called Header %d times, want %d", end, called, want)
			}
			if len(got) != 1 || end != nil && (got[0].Answered != (header != nil) || got[0].Code != codeOf(end)) {
				t.Errorf("header %v, ends with %v: the classifier got %+v", header, end, got)
			}
		}
	}
}

// S9: over grpc's own streams: an interceptor opens two streams, returns one, and cancels the other. The first then
// fails and is retried. A call of its Trailer would have committed it to the failed attempt.
func TestS09_DroppedAttemptAndRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		release := make(chan struct{})
		script := testpb.Script{OnBidi: func(s grpc.BidiStreamingServer[testpb.Request, testpb.Response]) error {
			switch calls.Add(1) {
			case 1: // will be canceled
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
			ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer,
			opts ...grpc.CallOption,
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
		synctest.Wait() // OnFinish was called for the canceled one
		close(release)
		if n, err := drain(s); n != 3 || err != nil {
			t.Errorf("got %d messages and %v, want the 3 of the retry", n, err)
		}
	})
}

// G7, G10: of two guards, one inside the other, both get the same end. A rejection by the inner guard is not a failure
// for the outer one.
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

		r.srv.Set(lives(0)) // no header and no message, or the cancel would be a success
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
