package interceptor

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// streakOf returns the failure streak of the guard's only breaker.
func streakOf(t *testing.T, g *Guard) uint64 {
	t.Helper()
	return onlyBreaker(t, g).Snapshot().Window.ConsecutiveFailures
}

// aMessageAnd opens a stream that receives one message and then ends with err. It returns after the message.
func aMessageAnd(ctx context.Context, t *testing.T, g *Guard, err error) grpc.ClientStream {
	t.Helper()
	messages := 1
	cs, _ := openFake(ctx, t, g, serverStreams, &fakeStream{recv: func(any) error {
		if messages--; messages >= 0 {
			return nil
		}
		return err
	}})
	if err := cs.RecvMsg(nil); err != nil {
		t.Fatal(err)
	}
	return cs
}

// S13: the first message of a stream ends the failure streak. The end of the stream restores the streak only if it is a
// failure and not a lost connection. After an overload or an ignored end the streak stays ended. This depends on the
// outcome from the classifier and not on the code, except that Unavailable never restores the streak.
func TestS13_WhatTakesTheSignBack(t *testing.T) {
	remote := withDetails(t, codes.Internal, "no", &errdetails.ErrorInfo{Reason: ErrorReason, Domain: ErrorDomain})
	judge := func(o breaker.Outcome) []Option {
		return []Option{WithClassifier(func(_ context.Context, r Result) breaker.Outcome {
			if r.Err == nil {
				return breaker.Success
			}
			return o
		})}
	}
	for _, tt := range []struct {
		name string
		end  error
		opts []Option
		want uint64
		one  tally
	}{
		{"Failure", statusError(13), nil, 3, one(breaker.Failure)},
		{"Overload", statusError(8), nil, 0, one(breaker.Overload)},
		{"Ignored: a rejection by a remote hop", remote, nil, 0, one(breaker.Ignored)},
		{"Unavailable", down, nil, 1, one(breaker.Failure)},
		{"Success", errNotFound, nil, 0, one(breaker.Success)},
		{"judged Failure", errNotFound, judge(breaker.Failure), 3, one(breaker.Failure)},
		{"judged no outcome", errNotFound, judge(99), 3, one(breaker.Failure)},
		{"judged Overload", statusError(13), judge(breaker.Overload), 0, one(breaker.Overload)},
		{"judged Ignored", statusError(13), judge(breaker.Ignored), 0, one(breaker.Ignored)},
		{"Unavailable, judged Failure", down, judge(breaker.Failure), 1, one(breaker.Failure)},
		{"Unavailable, judged Overload", down, judge(breaker.Overload), 0, one(breaker.Overload)},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(t, breaker.Config{ConsecutiveFailures: 100, FailureRatio: -1, MinCalls: 1000}, tt.opts...)
			for range 2 {
				settleOne(g.Group().Get(methodKey), breaker.Failure)
				time.Sleep(time.Second)
			}
			cs := aMessageAnd(t.Context(), t, g, tt.end)
			if got := streakOf(t, g); got != 0 {
				t.Errorf("%s: the streak is %d after the message, want 0", tt.name, got)
			}
			time.Sleep(time.Second)
			_, _ = drainRaw(cs)
			if got := streakOf(t, g); got != tt.want {
				t.Errorf("%s: the streak is %d after the end, want %d", tt.name, got, tt.want)
			}
			want := tt.one
			want.Failure += 2
			wantTally(t, tt.name, g, want)
		})
	}
}

// S13: a restored streak began with its original first failure. Config.FailingFor is measured from there.
func TestS13_TheStreakBeganWhenItBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heard := new(recorder)
		cfg := breaker.Config{ConsecutiveFailures: 3, FailingFor: 10 * time.Second, Window: time.Minute}
		g := newGuard(t, cfg, WithHooks(hooksOf(heard)))
		b := g.Group().Get(methodKey)
		settleOne(b, breaker.Failure)
		time.Sleep(5 * time.Second)
		settleOne(b, breaker.Failure)
		cs := aMessageAnd(t.Context(), t, g, statusError(13))
		time.Sleep(7 * time.Second)
		_, _ = drainRaw(cs)
		wantState(t, "after the third failure", g, breaker.Open)
		if len(heard.transitions) != 1 || heard.transitions[0].Why != "3 failures in a row over 12s" {
			t.Errorf("got %+v, want one event with 3 failures in a row over 12s", heard.transitions)
		}
	})
}

// S13: events between the message and the end of the stream count too. After a success the streak is not restored.
// Other failures are added to it. Apply with another window does not change it. After a transition nothing is restored.
func TestS13_BetweenTheSignAndTheEnd(t *testing.T) {
	cfg := breaker.Config{ConsecutiveFailures: 100, FailureRatio: -1, MinCalls: 1000, FailingFor: -1, Jitter: -1}
	for _, tt := range []struct {
		name   string
		during func(t *testing.T, g *Guard, b *breaker.Breaker)
		want   uint64
	}{
		{"nothing", func(*testing.T, *Guard, *breaker.Breaker) {}, 4},
		{"a success", func(_ *testing.T, _ *Guard, b *breaker.Breaker) { settleOne(b, breaker.Success) }, 1},
		{"a failure", func(_ *testing.T, _ *Guard, b *breaker.Breaker) { settleOne(b, breaker.Failure) }, 5},
		{"a success, a failure", func(_ *testing.T, _ *Guard, b *breaker.Breaker) {
			settleOne(b, breaker.Success)
			settleOne(b, breaker.Failure)
		}, 2},
		{"another window", func(t *testing.T, g *Guard, _ *breaker.Breaker) {
			t.Helper()
			cfg := cfg
			cfg.Window = time.Hour
			if err := g.Group().Apply(cfg); err != nil {
				t.Fatal(err)
			}
		}, 4},
		{"Reset", func(t *testing.T, _ *Guard, b *breaker.Breaker) { t.Helper(); b.Reset(t.Context()) }, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(t, cfg)
			b := g.Group().Get(methodKey)
			for range 3 {
				settleOne(b, breaker.Failure)
			}
			cs := aMessageAnd(t.Context(), t, g, statusError(13))
			time.Sleep(time.Second)
			tt.during(t, g, b)
			time.Sleep(time.Second)
			_, _ = drainRaw(cs)
			if got := streakOf(t, g); got != tt.want {
				t.Errorf("%s: the streak is %d, want %d", tt.name, got, tt.want)
			}
		})
	}
}

// S13: two streams have a message each. The second message ended no streak, so only the end of the first stream
// restores one.
func TestS13_OnlyTheSignThatEndedTheStreak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, breaker.Config{ConsecutiveFailures: 100, FailureRatio: -1, MinCalls: 1000})
		for range 3 {
			settleOne(g.Group().Get(methodKey), breaker.Failure)
		}
		first := aMessageAnd(t.Context(), t, g, statusError(13))
		second := aMessageAnd(t.Context(), t, g, statusError(13))
		time.Sleep(time.Second)
		_, _ = drainRaw(second)
		if got := streakOf(t, g); got != 1 {
			t.Errorf("after the second stream: the streak is %d, want 1", got)
		}
		time.Sleep(time.Second)
		_, _ = drainRaw(first)
		if got := streakOf(t, g); got != 5 {
			t.Errorf("after both: the streak is %d, want 5", got)
		}
	})
}

// lostProbe opens the stream of a probe on a channel that has no connection, and returns the events so far.
func lostProbe(
	t *testing.T,
) (g *Guard, b *breaker.Breaker, backend *testpb.Backend, cc *grpc.ClientConn, heard *recorder) {
	t.Helper()
	heard = new(recorder)
	cfg := probeConfig
	cfg.SuccessesToClose = 3
	g = newGuard(t, cfg, WithKey(oneKey), WithHooks(hooksOf(heard)))
	backend = testpb.StartBufconn(t, new(testpb.Server))
	cc = backend.Dial(t)
	backend.Stop()
	cc.Connect()
	time.Sleep(time.Second)
	b = halfOpen(t, g, breaker.Key{})
	if _, err := g.Stream(t.Context(), serverStreams, cc, fullMethod,
		func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
			return new(fakeStream), nil
		}); err != nil {
		t.Fatal(err)
	}
	return g, b, backend, cc, heard
}

// connect makes the channel connect to a backend that has recovered.
func connect(t *testing.T, backend *testpb.Backend, cc *grpc.ClientConn) {
	t.Helper()
	backend.Restart()
	cc.ResetConnectBackoff()
	synctest.Wait()
	if got := cc.GetState(); got != connectivity.Ready {
		t.Fatalf("the channel is %v, want READY", got)
	}
}

// S14: the stream of a probe is old, but has no connection. The timer runs again for the time of WithLongStream. When
// the channel is connected by then, the stream closes the breaker.
func TestS14_LooksAgainForAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _, backend, cc, heard := lostProbe(t)
		for range 3 {
			time.Sleep(10 * time.Second)
			synctest.Wait()
			wantState(t, "without a connection", g, breaker.HalfOpen)
		}
		wantTally(t, "without a connection", g, tally{InFlight: 1})
		connect(t, backend, cc)
		time.Sleep(10*time.Second - 1)
		synctest.Wait()
		wantState(t, "just before it looks again", g, breaker.HalfOpen)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		wantState(t, "when it looks again", g, breaker.Closed)
		e := heard.transitions[len(heard.transitions)-1]
		if e.Why != "the stream of a probe stayed open" || e.Rule != 0 || e.Cause != "" {
			t.Errorf("got %q with the rule %v and the cause %q", e.Why, e.Rule, e.Cause)
		}
		wantTally(t, "in the end", g, tally{Late: 1}) // its lease is long over
		wantProbeCounts(t, "in the end", g, breaker.ProbeCounts{Lost: 1})
	})
}

// S14: after the generation of the probe is over, a new connection has no effect, whatever state the breaker is in.
func TestS14_ConnectionAfterTheGeneration(t *testing.T) {
	for _, tt := range []struct {
		name string
		next func(t *testing.T, b *breaker.Breaker)
		want breaker.State
	}{
		{"open", func(t *testing.T, b *breaker.Breaker) { t.Helper(); b.Trip(t.Context(), "again") }, breaker.Open},
		{"closed", func(t *testing.T, b *breaker.Breaker) { t.Helper(); b.Reset(t.Context()) }, breaker.Closed},
		{"half-open again", func(t *testing.T, b *breaker.Breaker) {
			t.Helper()
			b.Trip(t.Context(), "again")
			time.Sleep(b.Snapshot().RetryAfter)
			if _, err := b.Acquire(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, breaker.HalfOpen},
	} {
		synctest.Test(t, func(t *testing.T) {
			g, b, backend, cc, heard := lostProbe(t)
			time.Sleep(15 * time.Second)
			tt.next(t, b)
			synctest.Wait()
			events := len(heard.transitions)
			time.Sleep(30 * time.Second) // without a connection
			connect(t, backend, cc)
			time.Sleep(30 * time.Second) // with one
			synctest.Wait()
			wantState(t, tt.name, g, tt.want)
			if got := heard.transitions[events:]; len(got) != 0 {
				t.Errorf("%s: %d transitions after the generation: %+v", tt.name, len(got), got)
			}
		})
	}
}

// S14: the timer of a probe without a connection ends with its stream.
func TestS14_TimerEndsWithoutAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, probeConfig, WithKey(oneKey))
		backend := testpb.StartBufconn(t, new(testpb.Server))
		cc := backend.Dial(t)
		backend.Stop()
		cc.Connect()
		time.Sleep(time.Second)
		halfOpen(t, g, breaker.Key{})
		ctx, cancel := context.WithCancel(t.Context())
		cs, err := g.Stream(ctx, serverStreams, cc, fullMethod,
			func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
				return new(fakeStream), nil
			})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(25 * time.Second)
		cancel()
		synctest.Wait()
		if cs.(*stream).ageTimer.Load().Stop() {
			t.Error("the timer still runs after the end of the stream")
		}
		wantState(t, "after the end of the stream", g, breaker.HalfOpen)
	})
}
