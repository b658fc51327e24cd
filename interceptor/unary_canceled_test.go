package interceptor

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// cancels makes one call that the server does not answer, and cancels it after d.
func (s *scene) cancels(d time.Duration) {
	s.Helper()
	err := s.inFlight(func(cancel context.CancelFunc) {
		time.Sleep(d)
		cancel()
	})
	wantCode(s.T, "a call that its caller canceled", err, codes.Canceled)
}

// guardPaths are the paths of a unary call through the guard.
var guardPaths = map[string][]Option{
	"plain":      nil,
	"evidence":   {WithPeerEvidence()},
	"classifier": {WithClassifier(DefaultClassifier)},
	"hooks":      {WithHooks(hooksOf(noopCallHooks{}))},
	"min budget": {WithMinBudget(time.Millisecond)},
}

// B6: a backend hangs, and its callers cancel. Their calls are ignored, but count as slow, so the slow rule opens.
func TestB06_CanceledSlowCallsOpen(t *testing.T) {
	const slow = time.Second
	for _, tt := range []struct {
		name     string
		slowCall time.Duration
		after    time.Duration // until the caller cancels
		want     breaker.State
		slow     uint64
	}{
		{"longer than SlowCall", slow, slow + 1, breaker.Open, 4},
		{"as long as SlowCall", slow, slow, breaker.Closed, 0},
		{"sooner", slow, slow / 2, breaker.Closed, 0},
		{"no SlowCall", 0, time.Minute, breaker.Closed, 0},
	} {
		for way, opts := range guardPaths {
			synctest.Test(t, func(t *testing.T) {
				what := tt.name + ", " + way
				cfg := breaker.Config{SlowCall: tt.slowCall, MinCalls: 4, FailingFor: time.Second}
				g := newGuard(t, cfg, append(opts, WithKey(oneKey))...)
				s := newScene(t, g, "")
				for range 3 {
					s.cancels(tt.after)
				}
				wantState(t, what+", after three calls", g, breaker.Closed)
				s.cancels(tt.after)
				wantState(t, what+", after four calls", g, tt.want)
				wantTally(t, what, g, tally{Ignored: 4})
				got := onlyBreaker(t, g).Snapshot()
				if got.SlowCalls != tt.slow {
					t.Errorf("%s: %d slow calls, want %d", what, got.SlowCalls, tt.slow)
				}
				var trips breaker.RuleCounts
				if tt.want == breaker.Open {
					trips.Slow = 1
				}
				if got.Trips != trips {
					t.Errorf("%s: trips %+v, want %+v", what, got.Trips, trips)
				}
			})
		}
	}
}

// B6, B20, B21: a probe that its caller cancels after more than SlowCall has failed. If it is canceled earlier, or
// without SlowCall, it decides nothing, and its slot is free again.
func TestB06_CanceledProbe(t *testing.T) {
	const slow = time.Second
	for _, tt := range []struct {
		name     string
		slowCall time.Duration
		after    time.Duration
		want     breaker.State
		probes   breaker.ProbeCounts
	}{
		{"longer than SlowCall", slow, slow + 1, breaker.Open, breaker.ProbeCounts{Failure: 1}},
		{"as long as SlowCall", slow, slow, breaker.HalfOpen, breaker.ProbeCounts{Ignored: 1}},
		{"sooner", slow, slow / 2, breaker.HalfOpen, breaker.ProbeCounts{Ignored: 1}},
		{"no SlowCall", 0, 5 * time.Second, breaker.HalfOpen, breaker.ProbeCounts{Ignored: 1}},
	} {
		for way, opts := range guardPaths {
			synctest.Test(t, func(t *testing.T) {
				what := tt.name + ", " + way
				g := newGuard(t, breaker.Config{SlowCall: tt.slowCall}, append(opts, WithKey(oneKey))...)
				s := newScene(t, g, "")
				b := halfOpen(t, g, breaker.Key{})
				s.cancels(tt.after)
				wantState(t, what, g, tt.want)
				wantTally(t, what, g, tally{Ignored: 1})
				wantProbeCounts(t, what, g, tt.probes)
				if got, want := b.Snapshot().Ready, tt.want == breaker.HalfOpen; got != want {
					t.Errorf("%s: ready for the next probe: %v, want %v", what, got, want)
				}
			})
		}
	}
}

// B6: an ignored call counts as slow only if its caller canceled it. Each of these calls takes twice SlowCall.
func TestB06_WhoCanceled(t *testing.T) {
	const slow = time.Second
	canceled := status.Error(codes.Canceled, "context canceled")
	here := &RejectedError{RejectedError: &breaker.RejectedError{}, code: codes.Canceled}
	cfg := breaker.Config{OpenFor: time.Hour}
	remote := overTheWire(t, rejectionOf(t, newGuard(t, cfg, WithRejectionCode(codes.Canceled))))
	for _, tt := range []struct {
		name    string
		err     error
		waits   bool // the caller does not cancel
		opts    []Option
		outcome breaker.Outcome
		want    uint64
	}{
		{name: "the caller", err: canceled, outcome: breaker.Ignored, want: 1},
		{name: "the caller, wrapped", err: wrapped(canceled), outcome: breaker.Ignored, want: 1},
		{name: "the caller, context error", err: context.Canceled, outcome: breaker.Ignored, want: 1},
		{name: "the peer or something between", err: canceled, waits: true, outcome: breaker.Ignored},
		{name: "a context further down", err: context.Canceled, waits: true, outcome: breaker.Ignored},
		{name: "rejection here", err: here, outcome: breaker.Ignored},
		{name: "rejection at a remote hop", err: remote, outcome: breaker.Ignored},
		{name: "local error", err: status.Error(codes.Internal, "grpc: error while marshaling: x"), outcome: breaker.Ignored},
		{
			name: "ignored by a classifier", err: down, outcome: breaker.Ignored,
			opts: []Option{WithClassifier(func(context.Context, Result) breaker.Outcome { return breaker.Ignored })},
		},
		// These calls are slow, whether or not they are canceled.
		{name: "a failure all the same", err: down, outcome: breaker.Failure, want: 1},
		{name: "a success all the same", err: nil, outcome: breaker.Success, want: 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(t, breaker.Config{SlowCall: slow, SlowRatio: 1, MinCalls: 100}, tt.opts...)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			if !tt.waits { // with any cause
				time.AfterFunc(2*slow-1, func() { cancel(context.DeadlineExceeded) })
			}
			_ = g.Unary(ctx, fullMethod, nil, nil, nil, takes(2*slow, tt.err))
			wantTally(t, tt.name, g, one(tt.outcome))
			if got := onlyBreaker(t, g).Snapshot().SlowCalls; got != tt.want {
				t.Errorf("%s: %d slow calls, want %d", tt.name, got, tt.want)
			}
		})
	}
}

// B6, G3: a call whose connection the caller closes does not count as slow, whether or not the caller cancels it too.
func TestB06_ClosedConnectionIsNotSlow(t *testing.T) {
	for name, cancels := range map[string]bool{"closed": false, "closed and canceled": true} {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(t, breaker.Config{SlowCall: time.Second, MinCalls: 1}, WithKey(oneKey))
			s := newScene(t, g, "")
			err := s.inFlight(func(cancel context.CancelFunc) {
				time.Sleep(time.Minute)
				_ = s.cc.Close()
				if cancels {
					cancel()
				}
			})
			wantCode(t, name, err, codes.Canceled)
			wantTally(t, name, g, tally{Ignored: 1})
			if got := onlyBreaker(t, g).Snapshot().SlowCalls; got != 0 {
				t.Errorf("%s: %d slow calls, want 0", name, got)
			}
			wantState(t, name, g, breaker.Closed)
		})
	}
}

// B6, G3: a call that was admitted with a short budget and reached its deadline is ignored. It was not canceled, so it
// is not slow.
func TestB06_ShortBudgetIsNotSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, breaker.Config{SlowCall: time.Second, MinCalls: 1}, WithKey(oneKey), WithMinBudget(time.Minute))
		s := newScene(t, g, "")
		s.srv.Set(silent)
		wantCode(t, "a call with a short budget", s.within(2*time.Second), codes.DeadlineExceeded)
		wantTally(t, "a call with a short budget", g, tally{Ignored: 1})
		if got := onlyBreaker(t, g).Snapshot().SlowCalls; got != 0 {
			t.Errorf("%d slow calls, want 0", got)
		}
	})
}

// S6, S10: a stream may be canceled at any age, with or without a message. That does not make it slow, also not as a
// probe. If it was answered it is a success (S2), and the time to its first message counts for the slow rule.
func TestS10_CanceledStreamIsNotSlow(t *testing.T) {
	for name, tt := range map[string]struct {
		script   testpb.Script
		messages int
		probe    bool
		want     breaker.Outcome
		slow     uint64
	}{
		"no message":         {lives(0), 0, false, breaker.Ignored, 0},
		"one message":        {lives(1), 1, false, breaker.Success, 0},
		"late message":       {paced(nil, time.Hour, 2*time.Second), 1, false, breaker.Success, 1},
		"probe, no message":  {lives(0), 0, true, breaker.Ignored, 0},
		"probe, one message": {lives(1), 1, true, breaker.Success, 0}, // the first message settles a probe (S8)
	} {
		t.Run(name, func(t *testing.T) {
			inEach(t, func(t arranged) {
				g := newGuard(t, breaker.Config{SlowCall: time.Second, MinCalls: 1}, WithKey(oneKey))
				r := newStreamRig(t, g, tt.script, t.dial...)
				if tt.probe {
					halfOpen(t, g, breaker.Key{})
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				s := r.server(ctx)
				for range tt.messages {
					if _, err := s.Recv(); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(5 * time.Second)
				cancel()
				endsWith(t, s, codes.Canceled)
				synctest.Wait() // the watch of the context may report the outcome
				wantTally(t, "after the cancel", g, one(tt.want))
				got := onlyBreaker(t, g).Snapshot()
				if got.SlowCalls != tt.slow || got.Trips.Slow != tt.slow || got.Probes.Failure != 0 {
					t.Errorf("%d slow calls, trips %+v, probes %+v, want %d and none of a probe's", got.SlowCalls, got.Trips, got.Probes, tt.slow)
				}
			})
		})
	}
}
