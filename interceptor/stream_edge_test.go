package interceptor

import (
	"context"
	"errors"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// headerOnly returns a script whose streams send their header, and then stay open until the call's context ends.
func headerOnly() testpb.Script {
	return testpb.Script{OnServerStream: func(_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response]) error {
		if err := s.SendHeader(metadata.Pairs("k", "v")); err != nil {
			return err
		}
		<-s.Context().Done()
		return s.Context().Err()
	}}
}

// dialWith returns a connection that uses the given dialer.
func dialWith(
	t *testing.T, g *Guard, dial func(ctx context.Context) (net.Conn, error), opts ...grpc.DialOption,
) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///test", append(append(g.DialOptions(), opts...),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

// S2: RecvMsg may return the caller's deadline before OnFinish is called. The guard then calls Header too.
func TestS02_HeaderOnlyAtItsDeadlineConcurrentSafe(t *testing.T) {
	for range 300 {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(t, lenient, WithKey(oneKey), WithLongStream(time.Second))
			r := newStreamRig(t, g, headerOnly())
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			_, _ = drain(r.server(ctx))
			synctest.Wait()
			wantTally(t, "long-lived, at its deadline", g, one(breaker.Success))
		})
	}
}

// The same without chance: OnFinish is never called.
func TestS02_ReceivedBeforeOnFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, lenient)
		cs, _ := openDirect(t.Context(), t, g, serverStreams, &fakeStream{
			recv:   func(any) error { return down },
			header: func() (metadata.MD, error) { return metadata.Pairs("k", "v"), nil },
		})
		time.Sleep(time.Minute)
		_ = cs.RecvMsg(nil)
		wantTally(t, "long-lived, lost", g, one(breaker.Success))
	})
}

// S2: the age of a stream counts from its creation. It does not include the wait for a connection, nor the attempts
// that an interceptor makes before it returns a stream.
func TestS02_TheWaitForAConnectionDoesNotAge(t *testing.T) {
	inEach(t, func(t arranged) {
		g := newGuard(t.T, lenient, WithKey(oneKey))
		hang := func(ctx context.Context) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		client := testpb.NewTestClient(dialWith(t.T, g, hang, t.dial...))
		if _, err := client.ServerStream(t.Context(), new(testpb.Request)); err == nil {
			t.Fatal("a stream without a connection")
		}
		wantTally(t.T, "creation fails after the wait", g, one(breaker.Failure))

		g = newGuard(t.T, lenient, WithKey(oneKey))
		r := newStreamRig(t.T, g, failing(down), t.dial...)
		r.backend.Stop()
		r.conn.Connect()
		time.AfterFunc(15*time.Second, r.backend.Restart)
		s, err := r.client.ServerStream(t.Context(), new(testpb.Request), grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = drain(s)
		synctest.Wait()
		wantTally(t.T, "fails right after its creation", g, one(breaker.Failure))
	})
}

// S2, G3: a stream that the handler ends with Canceled, young and long-lived.
func TestS02_CanceledByThePeer(t *testing.T) {
	for age, want := range map[time.Duration]breaker.Outcome{time.Second: breaker.Failure, time.Hour: breaker.Success} {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(t, lenient, WithKey(oneKey))
			r := newStreamRig(t, g, paced(statusError(codes.Canceled), age, 0))
			endsWith(t, r.server(t.Context()), codes.Canceled)
			wantTally(t, age.String(), g, one(want))
		})
	}
}

// S9: a caller that calls Header first does not hide the error. If the connection is lost, grpc's Header ends the
// stream with nil, and RecvMsg returns the error.
func TestS09_HeaderOfALostStream(t *testing.T) {
	for _, end := range []error{nil, down} {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(t, lenient)
			var finish func(error)
			f := &fakeStream{
				header: func() (metadata.MD, error) { finish(nil); return nil, nil },
				recv:   func(any) error { return eofOr(end) },
			}
			cs, fin := openDirect(t.Context(), t, g, serverStreams, f)
			finish = fin
			_, _ = cs.Header()
			wantTally(t, "after Header", g, tally{InFlight: 1})
			_ = cs.RecvMsg(nil)
			want := breaker.Success
			if end != nil {
				want = breaker.Failure
			}
			wantTally(t, "RecvMsg decides", g, one(want))
			time.Sleep(time.Second)
			wantTally(t, "long after RecvMsg", g, one(want))
		})
	}
}

// S8: a probe that is canceled before a message is ignored, whether or not a header has come.
func TestS08_CanceledProbeWithAHeader(t *testing.T) {
	inEach(t, func(t arranged) {
		g := newGuard(t.T, probeConfig, WithKey(oneKey))
		r := newStreamRig(t.T, g, headerOnly(), t.dial...)
		halfOpen(t.T, g, breaker.Key{})
		ctx, cancel := context.WithCancel(t.Context())
		s := r.server(ctx)
		if _, err := s.Header(); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = drain(s) }()
		synctest.Wait()
		cancel()
		time.Sleep(time.Second)
		wantState(t.T, "canceled", g, breaker.HalfOpen)
		wantTally(t.T, "canceled", g, one(breaker.Ignored))
	})
}

// S13: the end of a long-lived stream does not show anything about a message that came long ago. If a load balancer
// resets a watch once a day, that does not add up to a failure streak.
func TestS13_DayLongWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := New(nil, WithKey(oneKey))
		if err != nil {
			t.Fatal(err)
		}
		reset := status.Error(codes.Internal, "stream terminated by RST_STREAM with error code: INTERNAL_ERROR")
		r := newStreamRig(t, g, paced(reset, 24*time.Hour, 0, 12*time.Hour))
		for day := range 10 {
			s, err := r.client.ServerStream(t.Context(), new(testpb.Request))
			if err != nil {
				t.Fatalf("day %d: %v", day, err)
			}
			if n, _ := drain(s); n != 2 {
				t.Fatalf("day %d: %d messages, want 2", day, n)
			}
		}
	})
}

// S13: a stream gives a sign of life only while the breaker is closed, once, and not after the stream's end.
func TestS13_NoSignAfterTheEnd(t *testing.T) {
	g := newGuard(t, breaker.Config{ConsecutiveFailures: 100, FailureRatio: -1, MinCalls: 1000})
	cs, _ := openFake(t.Context(), t, g, serverStreams, &fakeStream{recv: func(any) error { return nil }})
	b := onlyBreaker(t, g)
	s := cs.(*stream)
	s.on(received, down)
	settleOne(b, breaker.Failure)
	s.firstMessage()
	if got := b.Snapshot().Window.ConsecutiveFailures; got != 2 {
		t.Errorf("the streak is %d, want 2", got)
	}
}

// S14: a stream that has lost its connection does not close the breaker, even if no RecvMsg reports the loss. The
// channel is IDLE in that case.
func TestS14_DeadProbeThatNobodyReads(t *testing.T) {
	inEach(t, func(t arranged) {
		g := newGuard(t.T, probeConfig, WithKey(oneKey))
		r := newStreamRig(t.T, g, lives(0), t.dial...)
		_ = mustUnary(t.T, r)
		halfOpen(t.T, g, breaker.Key{})
		_ = r.bidi(t.Context())
		time.Sleep(time.Second)
		r.backend.Stop()
		time.Sleep(20 * time.Second)
		wantState(t.T, "after the server was stopped", g, breaker.HalfOpen)
		_ = r.conn.Close()
	})
}

// S14: the same for a stream that was read before.
func TestS14_DeadProbeThatNobodyReadsAnyMore(t *testing.T) {
	inEach(t, func(t arranged) {
		cfg := probeConfig
		cfg.SuccessesToClose = 5
		g := newGuard(t.T, cfg, WithKey(oneKey))
		r := newStreamRig(t.T, g, lives(1), t.dial...)
		halfOpen(t.T, g, breaker.Key{})
		s := r.bidi(t.Context())
		if _, err := s.Recv(); err != nil {
			t.Fatal(err)
		}
		r.backend.Stop()
		time.Sleep(20 * time.Second)
		wantState(t.T, "after the server was stopped", g, breaker.HalfOpen)
		_ = r.conn.Close()
	})
}

// S9: after Header has returned, OnFinish decides again.
func TestS09_OnFinishAfterHeader(t *testing.T) {
	g := newGuard(t, lenient)
	cs, finish := openDirect(t.Context(), t, g, serverStreams, &fakeStream{
		header: func() (metadata.MD, error) { return metadata.Pairs("k", "v"), nil },
	})
	_, _ = cs.Header()
	finish(nil)
	wantTally(t, "ended with success", g, one(breaker.Success))
}

// S14: if a hook exits the goroutine of the timer, the breaker still closes.
func TestS14_HookThatExits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := probeConfig
		cfg.SuccessesToClose = 5
		g := newGuard(t, cfg, WithHooks(hooksOf(exits{})))
		halfOpen(t, g, methodKey)
		cs, _ := openFake(t.Context(), t, g, serverStreams, new(fakeStream))
		time.Sleep(11 * time.Second)
		wantState(t, "old", g, breaker.Closed)
		_ = cs.RecvMsg(nil)
	})
}

type exits struct{ noopCallHooks }

func (exits) Probed(context.Context, Settlement) { runtime.Goexit() }

// G5: a call that waits for a free stream until the timeout of a service config is a failure too.
func TestG05_NoFreeStreamWithinAServiceConfigTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := New(nil, WithKey(oneKey))
		if err != nil {
			t.Fatal(err)
		}
		srv := new(testpb.Server)
		srv.Set(lives(1))
		backend := testpb.StartBufconn(t, srv, grpc.MaxConcurrentStreams(1))
		client := testpb.NewTestClient(backend.Dial(t, append(g.DialOptions(), grpc.WithDefaultServiceConfig(
			`{"methodConfig": [{"name": [{"service": "grpcircuit.testpb.Test", "method": "Unary"}], "timeout": "0.2s"}]}`))...))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s, err := client.ServerStream(ctx, new(testpb.Request), Bypass()) // uses the only stream
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); err != nil {
			t.Fatal(err)
		}
		for range 300 {
			_, _ = client.Unary(t.Context(), new(testpb.Request))
		}
		wantState(t, "no free stream", g, breaker.Open)
	})
}

type noAddr struct{ net.Conn }

func (noAddr) RemoteAddr() net.Addr { return nil }
func (noAddr) LocalAddr() net.Addr  { return nil }

// G5: a dialer may make connections without addresses. Their calls reach the backend too.
func TestG05_ConnectionWithoutAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := New(nil, WithKey(oneKey))
		if err != nil {
			t.Fatal(err)
		}
		srv := new(testpb.Server)
		srv.Set(failing(statusError(codes.Internal)))
		backend := testpb.StartBufconn(t, srv)
		client := testpb.NewTestClient(dialWith(t, g, func(ctx context.Context) (net.Conn, error) {
			c, err := backend.DialContext(ctx, "")
			if err != nil {
				return nil, err
			}
			return noAddr{c}, nil
		}))
		opened := false
		for range 100 {
			_, err := client.Unary(t.Context(), new(testpb.Request))
			opened = opened || IsRejected(err)
			_, err = client.ServerStream(t.Context(), new(testpb.Request))
			opened = opened || IsRejected(err)
			time.Sleep(100 * time.Millisecond)
		}
		if !opened {
			t.Error("the backend fails all calls, and the breaker does not open")
		}
	})
}

// G14: the wait for the connection does not count as time of the backend. It does not make a probe slow, and is not
// part of Settlement.Duration.
func TestG14_TheWaitDoesNotCount(t *testing.T) {
	for _, kind := range []string{"unary", "stream"} {
		synctest.Test(t, func(t *testing.T) {
			cfg := probeConfig
			cfg.SlowCall = 200 * time.Millisecond
			rec := new(settlements)
			g := newGuard(t, cfg, WithKey(oneKey), WithConnectionReset(2*time.Second), WithHooks(hooksOf(rec)))
			backend := testpb.StartBufconn(t, new(testpb.Server))
			backend.Stop()
			cc := dialWith(t, g, func(ctx context.Context) (net.Conn, error) {
				time.Sleep(500 * time.Millisecond)
				return backend.DialContext(ctx, "")
			})
			cc.Connect()
			time.Sleep(5 * time.Minute)
			halfOpen(t, g, breaker.Key{})
			backend.Restart()
			client := testpb.NewTestClient(cc)
			if kind == "unary" {
				if _, err := client.Unary(t.Context(), new(testpb.Request)); err != nil {
					t.Fatal(err)
				}
			} else {
				s, err := client.ServerStream(t.Context(), &testpb.Request{Count: 1})
				if err != nil {
					t.Fatal(err)
				}
				_, _ = drain(s)
			}
			wantState(t, kind+": the backend answered at once", g, breaker.Closed)
			if len(rec.settled) != 1 || rec.settled[0].Duration > 100*time.Millisecond {
				t.Errorf("%s: Settled got %+v, want one settlement of at most 100ms", kind, rec.settled)
			}
		})
	}
}

// G4, G14: the wait is not part of the call, so WithMinBudget compares the time that is left after it. If the wait was
// in vain, the backend is down, and the time before it counts.
func TestG14_TheWaitTakesFromTheBudget(t *testing.T) {
	hang := testpb.Script{
		OnUnary: silent.OnUnary,
		OnServerStream: func(_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response]) error {
			<-s.Context().Done()
			return s.Context().Err()
		},
	}
	for _, kind := range []string{"unary", "stream"} {
		for up, want := range map[bool]breaker.ProbeCounts{true: {Ignored: 1}, false: {Failure: 1}} {
			synctest.Test(t, func(t *testing.T) {
				g := newGuard(t, probeConfig, WithKey(oneKey), WithConnectionReset(2*time.Second), WithMinBudget(time.Second))
				srv := new(testpb.Server)
				srv.Set(hang)
				backend := testpb.StartBufconn(t, srv)
				backend.Stop()
				// The attempts during the outage take no time. Otherwise the probe might find one that is nearly done.
				var restarted atomic.Bool
				cc := dialWith(t, g, func(ctx context.Context) (net.Conn, error) {
					if restarted.Load() {
						time.Sleep(1500 * time.Millisecond)
					}
					return backend.DialContext(ctx, "")
				})
				cc.Connect()
				time.Sleep(5 * time.Minute)
				b := halfOpen(t, g, breaker.Key{})
				synctest.Wait()
				if up {
					backend.Restart()
					restarted.Store(true)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 1900*time.Millisecond)
				defer cancel()
				client := testpb.NewTestClient(cc)
				if kind == "unary" {
					_, err := client.Unary(ctx, new(testpb.Request))
					wantCode(t, kind, err, codes.DeadlineExceeded)
				} else if s, err := client.ServerStream(ctx, new(testpb.Request)); err == nil {
					_, _ = drain(s)
				}
				synctest.Wait()
				if got := b.Snapshot().Probes; got != want {
					t.Errorf("%s, the backend is up: %v: probes %+v, want %+v", kind, up, got, want)
				}
			})
		}
	}
}

// G14: a wait as long as the lease would leave no time for the call, so the probe could not decide.
func TestG14_TheWaitLeavesTimeForTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, probeConfig, WithKey(oneKey), WithConnectionReset(time.Minute))
		_, cc := inBackoff(t, g)
		halfOpen(t, g, breaker.Key{})
		start := time.Now()
		_, err := testpb.NewTestClient(cc).Unary(t.Context(), new(testpb.Request))
		wantCode(t, "the backend is down", err, codes.Unavailable)
		if got, want := time.Since(start), probeConfig.ProbeTimeout/2; got != want {
			t.Errorf("the probe waits for %v, want half of its lease, %v", got, want)
		}
		wantState(t, "the backend is down", g, breaker.Open)
	})
}

// G9: with an interceptor between, the guard sees a pushback in the trailer only with WithPeerEvidence. It always sees
// RetryInfo. A lost connection has no pushback.
func TestG09_NoPushbackOfALostConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := probeConfig
		g := newGuard(t, cfg, WithKey(oneKey))
		backend := testpb.StartRaw(t, func(*http2.Framer, uint32) error { return errors.New("closed") })
		cc := backend.Dial(t, g.DialOptions()...)
		b := halfOpen(t, g, breaker.Key{})
		_, err := testpb.NewTestClient(cc).Unary(t.Context(), new(testpb.Request))
		wantCode(t, "lost", err, codes.Unavailable)
		if got := b.Snapshot().RetryAfter; got != 10*time.Second { // the second period, of 5 s doubled
			t.Errorf("open for %v, want 10s", got)
		}
	})
}
