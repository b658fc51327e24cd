package breaker

import (
	"maps"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// If the ratio and slow rules are off, and there is no custom rule, there is no window.
func TestWithoutRulesThereIsNoWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorder
		b := mustNew(t, Config{ConsecutiveFailures: 3, FailureRatio: -1, OpenFor: time.Second, Jitter: -1},
			WithListener(rec.Transition))
		tl := newTimeline(t, b)
		tl.run(
			row{0, "success*5 failure*2", "closed"},
			row{time.Second, "success ignored overload failure*2", "closed"},
		)
		s := b.Snapshot()
		wantSame(t, "window", s.Window, Counts{ConsecutiveFailures: 2})
		if s.Successes != 6 || s.Failures != 4 || s.Overloads != 1 || s.Ignored != 1 || s.Admitted != 12 || s.InFlight != 0 {
			t.Errorf("totals: %+v", s)
		}
		// B4: a streak does not expire. B8: after any gap.
		tl.run(row{50 * 365 * 24 * time.Hour, "failure", "open"})
		e := rec.received()
		if len(e) != 1 || e[0].Rule != RuleConsecutive || e[0].Counts != (Counts{ConsecutiveFailures: 3}) {
			t.Errorf("events: %+v", e)
		}
		tl.run(
			row{50*365*24*time.Hour + time.Second, "success", "probe half_open"},
			row{50*365*24*time.Hour + time.Second, "success", "probe closed"},
			row{50*365*24*time.Hour + 2*time.Second, "success*5 failure*2", "closed"},
		)
		wantSame(t, "window after recovery", b.Snapshot().Window, Counts{ConsecutiveFailures: 2})
	})
}

// A custom rule uses the window, so there is one. Apply makes and drops a window when a rule is switched on and off.
func TestAWindowForACustomRule(t *testing.T) {
	off := Config{ConsecutiveFailures: -1, FailureRatio: -1}
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, off, WithTrip(func(c Counts) bool { return c.Calls() >= 4 && c.Failures >= 2 }))
		newTimeline(t, b).run(
			row{0, "success*2 failure", "closed"},
			row{10 * time.Second, "success*2 failure", "closed"}, // the first three have left the window
			row{10 * time.Second, "failure", "open"},
		)
	})
	synctest.Test(t, func(t *testing.T) {
		g := mustGroup(t, off)
		b := g.Get(Key{})
		tl := newTimeline(t, b)
		apply := func(c Config) {
			t.Helper()
			if err := g.Apply(c); err != nil {
				t.Fatal(err)
			}
		}
		tl.run(row{0, "success failure*2 begin:1", "closed"})
		apply(Config{ConsecutiveFailures: -1, FailingFor: -1, FailureRatio: 0.5, MinCalls: 3, Jitter: -1})
		wantSame(t, "the rule is on now", b.Snapshot().Window, Counts{ConsecutiveFailures: 2})
		tl.run(row{time.Second, "end:1=success failure", "closed"})
		wantSame(t, "it counts from then on", b.Snapshot().Window, Counts{Successes: 1, Failures: 1, ConsecutiveFailures: 1})
		apply(off)
		wantSame(t, "off again", b.Snapshot().Window, Counts{ConsecutiveFailures: 1})
		apply(Config{ConsecutiveFailures: -1, FailingFor: -1, FailureRatio: 0.5, MinCalls: 3, Jitter: -1})
		tl.run(row{time.Second, "failure*2", "closed"}, row{time.Second, "failure", "open"})
		if s := b.Snapshot(); s.Successes != 2 || s.Failures != 6 || s.Late != 0 {
			t.Errorf("totals: %+v", s)
		}
	})
}

// B33: a breaker without a window reads no clock for a success. So eviction uses whether a call came since the last
// check.
func TestB33_WithoutAWindowTheUnusedIsEvictedFirst(t *testing.T) {
	for _, cfg := range []Config{{FailureRatio: -1}, {FailureRatio: -1, MaxConcurrent: 10}} {
		wantUnusedEvictedFirst(t, cfg)
	}
}

func wantUnusedEvictedFirst(t *testing.T, cfg Config) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g := mustGroup(t, cfg, WithMaxBreakers(5))
		use := func(keys ...Key) {
			t.Helper()
			for _, k := range keys {
				report(t, g.Get(k), 1, Success)
			}
		}
		newest := methodKey(5)
		for i := range 6 { // the sixth key checks the others and evicts one
			use(methodKey(i))
		}
		for i := 6; i < 40; i++ {
			time.Sleep(time.Second)
			left := slices.DeleteFunc(slices.Collect(maps.Keys(maps.Collect(g.All()))), func(k Key) bool { return k == newest })
			unused := left[i%len(left)]
			for _, k := range left {
				if k != unused {
					use(k)
				}
			}
			use(methodKey(i))
			if _, ok := g.Lookup(unused); ok {
				t.Errorf("%v was not evicted, though all others but the newest were used since", unused)
			}
			if _, ok := g.Lookup(newest); !ok {
				t.Errorf("%v was evicted before its first check", newest)
			}
			newest = methodKey(i)
		}
	})
}

// B33: the same for a breaker without a window whose admissions took the lock, after an override or a ramp is over.
func TestB33_WithoutAWindowTheUnusedIsEvictedAfterALock(t *testing.T) {
	for name, prepare := range map[string]func(*testing.T, *Breaker){
		"an override that is over": func(t *testing.T, b *Breaker) {
			t.Helper()
			setOverride(t, b, ForceClosed,
				time.Second)
		},
		"a ramp that is over": func(t *testing.T, b *Breaker) {
			t.Helper()
			b.Trip(t.Context(), "test")
			time.Sleep(10 * time.Second)
			report(t, b, 2, Success)
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := mustGroup(t, Config{FailureRatio: -1, Ramp: time.Second, Jitter: -1}, WithMaxBreakers(4))
			b := g.Get(Key{Method: "unused"})
			report(t, b, 1, Success)
			prepare(t, b)
			time.Sleep(time.Hour)
			for i := range 5 {
				report(t, g.Get(methodKey(i)), 1, Success)
				time.Sleep(2 * time.Second)
			}
			if _, ok := g.Lookup(Key{Method: "unused"}); ok {
				t.Errorf("%s: unused while 5 other keys were used, and not evicted", name)
			}
		})
	}
}

// The custom rule also applies to breakers with the Config of a PolicyRule.
func TestCustomRuleHasAWindowUnderAPolicy(t *testing.T) {
	off := Config{ConsecutiveFailures: -1, FailureRatio: -1}
	g := mustGroup(t, off, WithTrip(func(c Counts) bool { return c.Failures >= 2 }),
		WithPolicy(PolicyRule{Match: Key{Method: "m"}, Config: off}))
	b := g.Get(Key{Method: "m"})
	report(t, b, 2, Failure)
	if b.State() != Open {
		t.Error("the custom rule did not see the failures")
	}
}

// B4: a success during Apply ends the failure streak, also if Apply replaces the window.
func TestB34_ASuccessDuringApplyConcurrentSafe(t *testing.T) {
	cfgs := []Config{{}, {FailureRatio: -1}}
	g := mustGroup(t, cfgs[1])
	b := g.Get(Key{})
	for i := range 20_000 {
		p := acquire(t, b)
		b.mu.Lock()
		w := b.phase.Load().win
		for range 3 {
			w.addFailure(clock(), -1)
		}
		w.doubt.Store(1)
		b.mu.Unlock()
		var wg sync.WaitGroup
		wg.Go(func() { p.Done(t.Context(), Success) })
		if i%3 == 0 {
			runtime.Gosched()
		}
		if err := g.Apply(cfgs[i%2]); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if b.Snapshot().Window.ConsecutiveFailures != 0 {
			t.Fatalf("round %d: the success did not end the streak", i)
		}
	}
	if s := b.Snapshot(); s.InFlight != 0 || s.Successes != 20_000 {
		t.Errorf("%d in flight, %d successes", s.InFlight, s.Successes)
	}
}

// G5: doubt and the failure streak are copied to another window.
func TestB34_DoubtSurvivesAnotherWindow(t *testing.T) {
	g := mustGroup(t, Config{})
	b := g.Get(Key{})
	report(t, b, 1, Failure)
	if err := g.Apply(Config{FailureRatio: -1}); err != nil {
		t.Fatal(err)
	}
	if doubtOf(acquire(t, b)) != inDoubt {
		t.Error("after a failure and Apply the backend is not in doubt")
	}
}

// A late success of an earlier generation does not end the failure streak of the current one.
func TestB15_ALateSuccessEndsNoStreak(t *testing.T) {
	b := mustNew(t, Config{})
	then := b.phase.Load()
	b.Reset(t.Context())
	report(t, b, 3, Failure)
	then.win.addSuccess(&then.win.successes)
	b.drainStale(then)
	if got := b.Snapshot().Window.ConsecutiveFailures; got != 3 {
		t.Errorf("%d failures in a row, want 3", got)
	}
}
