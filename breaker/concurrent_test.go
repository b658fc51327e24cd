package breaker

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// runTogether runs f on n goroutines that start at the same time, and waits for them. They spin until all are ready. If
// they slept, one might end before the next woke up.
func runTogether(n int, f func(i int)) {
	var ready atomic.Int64
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			for ready.Add(1); ready.Load() < int64(n); {
				runtime.Gosched()
			}
			f(i)
		})
	}
	wg.Wait()
}

// wantSettled checks that no call is in flight and that each admitted call has one outcome.
func wantSettled(t *testing.T, what string, b *Breaker) Snapshot {
	t.Helper()
	s := b.Snapshot()
	if got := s.Successes + s.Failures + s.Overloads + s.Ignored + s.Late; got != s.Admitted || s.InFlight != 0 {
		t.Errorf("%s: %d admitted, %d settled, %d in flight", what, s.Admitted, got, s.InFlight)
	}
	return s
}

func TestB09_CountsAreExactConcurrentSafe(t *testing.T) {
	const callers, calls = 4, 800
	b := mustNew(t, Config{
		ConsecutiveFailures: -1, FailureRatio: -1, Window: time.Hour, SlowCall: time.Hour,
		SlowRatio: 1,
	})
	runTogether(callers, func(i int) {
		for j := range calls {
			p, err := b.Acquire(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			r := Report{Outcome: Outcome((i + j) % 4)}
			if j%8 == 0 {
				r.Latency = 2 * time.Hour
			}
			p.Report(t.Context(), r)
		}
	})
	const all = callers * calls
	s := wantSettled(t, "in the end", b)
	if s.Admitted != all || s.Successes != all/4 || s.Failures != all/4 || s.Overloads != all/4 || s.Ignored != all/4 {
		t.Errorf("%d admitted: %d successes, %d failures, %d overloads, %d ignored; want %d: %d each", s.Admitted,
			s.Successes,
			s.Failures, s.Overloads, s.Ignored, all, all/4)
	}
	slow := uint64(all / 8 * 3 / 4) // ignored calls are not slow
	s.Window.ConsecutiveFailures = 0
	if want := (Counts{Successes: all / 4, Failures: all / 4, Overloads: all / 4, Slow: slow}); s.Window != want ||
		s.SlowCalls != slow {
		t.Errorf("window %+v, %d slow; want %+v", s.Window, s.SlowCalls, want)
	}
}

// If all calls succeed, no lock puts the callers in order.
func TestB09_SuccessesAloneAreExactConcurrentSafe(t *testing.T) {
	const callers, calls = 4, 20_000
	b := mustNew(t, Config{Window: time.Hour})
	runTogether(callers, func(int) {
		for range calls {
			if p, err := b.Acquire(t.Context()); err == nil {
				p.Done(t.Context(), Success)
			}
		}
	})
	s := wantSettled(t, "in the end", b)
	if s.Admitted != callers*calls || s.Successes != callers*calls || s.Window != (Counts{Successes: callers * calls}) {
		t.Errorf("%d admitted, %d successes, window %+v, want %d", s.Admitted, s.Successes, s.Window, callers*calls)
	}
}

// The window slides up to ten thousand times a second while calls, most of which take no lock, count in it.
func TestB09_SlidingLosesNothingConcurrentSafe(t *testing.T) {
	const callers, calls = 4, 4000
	b := mustNew(t, Config{ConsecutiveFailures: -1, FailureRatio: 1, MinCalls: math.MaxInt, Window: time.Millisecond})
	runTogether(callers, func(i int) {
		for j := range calls {
			p, err := b.Acquire(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			if j%64 == i {
				p.Done(t.Context(), Failure)
			} else {
				p.Done(t.Context(), Success)
			}
		}
	})
	s := wantSettled(t, "in the end", b)
	failures := uint64(0)
	for i := range callers {
		failures += uint64((calls - i + 63) / 64)
	}
	if s.Failures != failures || s.Successes != callers*calls-failures {
		t.Errorf("%d successes and %d failures, want %d and %d", s.Successes, s.Failures, callers*calls-failures, failures)
	}
}

// Crossing a threshold opens the breaker once: one event and one generation. Exactly the calls up to the threshold
// count, and the others are late.
func TestB09_AThresholdTripsOnceConcurrentSafe(t *testing.T) {
	const callers, calls, threshold = 4, 10, 20
	off := Config{ConsecutiveFailures: -1, FailureRatio: -1, OpenFor: time.Hour, Window: time.Hour}
	with := func(change func(*Config)) Config {
		c := off
		change(&c)
		return c
	}
	for name, tt := range map[string]struct {
		cfg  Config
		rule Rule
		r    Report
	}{
		"consecutive": {
			with(func(c *Config) { c.ConsecutiveFailures = threshold }), RuleConsecutive,
			Report{Outcome: Failure},
		},
		"ratio": {
			with(func(c *Config) { c.FailureRatio, c.MinCalls = 1, threshold }), RuleRatio,
			Report{Outcome: Overload},
		},
		"slow": {with(func(c *Config) { c.SlowCall, c.SlowRatio, c.MinCalls = time.Second, 1, threshold }), RuleSlow, Report{
			Outcome: Success, Latency: time.Minute,
		}},
	} {
		for range 10 {
			var rec recorder
			b := mustNew(t, tt.cfg, WithListener(rec.Transition))
			var permits [callers][calls]Permit
			for i := range permits {
				for j := range permits[i] {
					permits[i][j] = acquire(t, b)
				}
			}
			runTogether(callers, func(i int) {
				for _, p := range permits[i] {
					p.Report(t.Context(), tt.r)
				}
			})
			s := wantSettled(t, name, b)
			if s.State != Open || s.Generation != 2 || s.Trips.Total() != 1 || s.Late != callers*calls-threshold {
				t.Errorf("%s: %v in generation %d, %d trips, %d late; want open in 2, 1, %d", name, s.State, s.Generation,
					s.Trips.Total(), s.Late, callers*calls-threshold)
			}
			wantSame(t, name, rec.brief(), []string{fmt.Sprintf("1 closed>open %v", tt.rule)})
		}
	}
}

// A success takes no lock, so its generation may end while it is being counted. It is counted in any case, see
// drainStale.
func TestB09_SuccessesRacingATripAreNotLostConcurrentSafe(t *testing.T) {
	const callers, rounds = 2, 8000
	g := mustGroup(t, Config{})
	b := g.Get(Key{})
	var stop atomic.Bool
	var admitted atomic.Uint64
	runTogether(callers+1, func(i int) {
		if i < callers {
			for !stop.Load() {
				if p, err := b.Acquire(t.Context()); err == nil {
					admitted.Add(1)
					p.Done(t.Context(), Success)
				}
			}
			return
		}
		for round := range rounds {
			switch round % 4 {
			case 0:
				b.Trip(t.Context(), "test")
				b.Reset(t.Context())
			case 1: // another window in the same generation
				if err := g.Apply(Config{Window: time.Duration(1+round%7) * time.Second}); err != nil {
					t.Error(err)
				}
			default:
				b.Reset(t.Context())
			}
		}
		stop.Store(true)
	})
	s := wantSettled(t, "in the end", b)
	if s.Successes+s.Late != admitted.Load() {
		t.Errorf("%d successes and %d late, of %d admitted", s.Successes, s.Late, admitted.Load())
	}
}

// The same without a race: a success that is counted in a window after its generation has ended is collected once, by
// the call that counted it.
func TestB09_DrainStaleCollectsALateSuccess(t *testing.T) {
	b := mustNew(t, Config{})
	acquire(t, b) // its success is counted below, as if the goroutine had been delayed
	ph := b.phase.Load()
	w := ph.win
	b.drainStale(ph) // nothing has ended
	if s := b.Snapshot(); s.Successes != 0 || s.InFlight != 1 {
		t.Errorf("%d successes, %d in flight, want 0 and 1", s.Successes, s.InFlight)
	}
	inc(&w.successes[3])
	b.drainStale(ph)
	if s := b.Snapshot(); s.Successes != 1 || s.Window.Successes != 1 {
		t.Errorf("in its generation: %d successes, window %+v, want 1 in both", s.Successes, s.Window)
	}
	b.Reset(t.Context())
	acquire(t, b)
	inc(&w.successes[3])
	b.drainStale(ph)
	b.drainStale(ph)
	if s := b.Snapshot(); s.Successes != 2 || s.InFlight != 0 || s.Window.Successes != 0 {
		t.Errorf("after its generation: %d successes, %d in flight, window %+v, want 2, 0 and none", s.Successes, s.InFlight,
			s.Window)
	}
}

// SetOverride, ClearOverride, Apply, Trip and Reset race calls of all kinds, and each other.
func TestB28_B29_ChangesRacingCallsConcurrentSafe(t *testing.T) {
	const callers, calls = 4, 300
	policies := []Config{
		{MaxProbes: 3, SuccessesToClose: 1, FailingFor: -1},
		{Ramp: time.Millisecond, SlowCall: time.Hour, ConsecutiveFailures: 2, FailingFor: -1},
		{MaxConcurrent: 2, Window: time.Millisecond, FailingFor: -1},
		{OpenFor: time.Hour, ConsecutiveFailures: -1},
	}
	apply := func(g *Group, n int) {
		do := (*Group).Apply
		if n < 3 {
			do = func(g *Group, cfg Config, _ ...PolicyRule) error { return applyShortened(g, cfg) }
		}
		if err := do(g, policies[n]); err != nil {
			t.Error(err)
		}
	}
	var rec recorder
	g := mustGroup(t, policies[0], WithListener(rec.Transition))
	apply(g, 0)
	b := g.Get(Key{})
	var admitted, rejected atomic.Uint64
	runTogether(callers+2, func(i int) {
		rnd := rand.New(rand.NewPCG(uint64(i), 28))
		for range calls {
			if i < callers {
				p, err := b.Acquire(t.Context())
				if err != nil {
					rejected.Add(1)
					continue
				}
				admitted.Add(1)
				p.Done(t.Context(), Outcome(rnd.IntN(4)))
				continue
			}
			switch rnd.IntN(7) {
			case 0:
				b.Trip(t.Context(), "test")
			case 1:
				b.Reset(t.Context())
			case 2:
				b.ClearOverride(t.Context())
			case 3:
				apply(g, rnd.IntN(len(policies)))
			default:
				o := Override{
					Mode: Mode(1 + rnd.IntN(3)), Why: "race", By: "test",
					TTL: time.Duration(rnd.IntN(2)) * time.Millisecond,
				}
				if err := b.SetOverride(t.Context(), o); err != nil {
					t.Error(err)
				}
			}
		}
	})
	s := wantSettled(t, "in the end", b)
	if s.Admitted != admitted.Load() || s.Rejections.Total() != rejected.Load() {
		t.Errorf("%d admitted, %d rejected; the callers counted %d and %d", s.Admitted, s.Rejections.Total(), admitted.Load(),
			rejected.Load())
	}
	events := rec.received()
	generation := uint64(1)
	for i, e := range events {
		if !e.OverrideChanged {
			generation++
		}
		if e.Seq != uint64(i+1) || e.Generation != generation || (i > 0 && e.From != events[i-1].To) {
			t.Fatalf("event %d is %+v", i, e)
		}
	}
	if s.Generation != generation || s.Underlying != events[len(events)-1].To {
		t.Errorf("%v in generation %d after %d events, the last to %v", s.Underlying, s.Generation, len(events),
			events[len(events)-1].To)
	}
}

func TestMaxConcurrentHoldsConcurrentSafe(t *testing.T) {
	const callers, calls, limit = 6, 200, 2
	b := mustNew(t, Config{MaxConcurrent: limit, SlowCall: time.Hour})
	var running, most, admitted atomic.Int64
	runTogether(callers, func(int) {
		for range calls {
			p, err := b.Acquire(t.Context())
			if err != nil {
				runtime.Gosched()
				continue
			}
			admitted.Add(1)
			if n := running.Add(1); n > limit {
				most.Store(n)
			}
			runtime.Gosched()
			running.Add(-1)
			p.Done(t.Context(), Success)
		}
	})
	if most.Load() != 0 {
		t.Errorf("%d calls ran at once, want at most %d", most.Load(), limit)
	}
	s := wantSettled(t, "in the end", b)
	if s.Rejections.Concurrency+s.Admitted != callers*calls || s.Admitted != uint64(admitted.Load()) {
		t.Errorf("%d admitted (the callers: %d), %d rejected, of %d", s.Admitted, admitted.Load(), s.Rejections.Concurrency,
			callers*calls)
	}
}

// If Apply replaced the window in the same generation, such a success also ends the failure streak, which was copied to
// the new window.
func TestB34_ALateSuccessEndsTheStreak(t *testing.T) {
	g := mustGroup(t, Config{})
	b := g.Get(Key{})
	for range 3 {
		acquire(t, b).Done(t.Context(), Failure)
	}
	acquire(t, b)
	then := b.phase.Load()
	if err := g.Apply(Config{Window: time.Minute}); err != nil {
		t.Fatal(err)
	}
	inc(&then.win.successes[0]) // as if it had loaded the phase before Apply
	b.drainStale(then)
	if s := b.Snapshot(); s.Window.ConsecutiveFailures != 0 || s.Successes != 1 || s.InFlight != 0 {
		t.Errorf("%d consecutive failures, %d successes, %d in flight; want 0, 1, 0", s.Window.ConsecutiveFailures,
			s.Successes, s.InFlight)
	}
}
