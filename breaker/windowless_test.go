package breaker

import (
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// With the ratio and slow rules off and no rule of one's own, nothing looks at the window, and there is none.
func TestNoRuleNoWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorder
		b := mustNew(t, Config{ConsecutiveFailures: 3, FailureRatio: -1, OpenFor: time.Second, Jitter: -1}, WithListener(rec.Transition))
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
		// B4: however far apart the failures lie. B8: the longest gap there is.
		tl.run(row{50 * 365 * 24 * time.Hour, "failure", "open"})
		e := rec.heard()
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

// A rule of one's own looks at the window, so there is one; and Apply makes one and drops it.
func TestAWindowWhereARuleLooks(t *testing.T) {
	off := Config{ConsecutiveFailures: -1, FailureRatio: -1}
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, off, WithTrip(func(c Counts) bool { return c.Calls() >= 4 && c.Failures >= 2 }))
		newTimeline(t, b).run(
			row{0, "success*2 failure", "closed"},
			row{10 * time.Second, "success*2 failure", "closed"}, // the first three are forgotten
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
		apply(Config{ConsecutiveFailures: -1, FailureRatio: 0.5, MinCalls: 3, Jitter: -1})
		wantSame(t, "the rule is on now", b.Snapshot().Window, Counts{ConsecutiveFailures: 2})
		tl.run(row{time.Second, "end:1=success failure", "closed"})
		wantSame(t, "it counts from then on", b.Snapshot().Window, Counts{Successes: 1, Failures: 1, ConsecutiveFailures: 1})
		apply(off)
		wantSame(t, "off again", b.Snapshot().Window, Counts{ConsecutiveFailures: 1})
		apply(Config{ConsecutiveFailures: -1, FailureRatio: 0.5, MinCalls: 3, Jitter: -1})
		tl.run(row{time.Second, "failure*2", "closed"}, row{time.Second, "failure", "open"})
		if s := b.Snapshot(); s.Successes != 2 || s.Failures != 6 || s.Late != 0 {
			t.Errorf("totals: %+v", s)
		}
	})
}

// B33: a breaker without a window reads no clock for a success, so what it goes by is whether a call came since it was looked
// at last.
func TestB33_WithoutAWindowTheUnusedGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := mustGroup(t, Config{FailureRatio: -1}, WithMaxBreakers(5))
		use := func(keys ...Key) {
			t.Helper()
			for _, k := range keys {
				report(t, g.Get(k), 1, Success)
			}
		}
		newest := methodKey(5)
		for i := range 6 { // the sixth has the others looked at, and one of them go
			use(methodKey(i))
		}
		for i := 6; i < 40; i++ {
			left := slices.DeleteFunc(slices.Collect(maps.Keys(maps.Collect(g.All()))), func(k Key) bool { return k == newest })
			unused := left[i%len(left)]
			for _, k := range left {
				if k != unused {
					use(k)
				}
			}
			use(methodKey(i))
			if _, ok := g.Lookup(unused); ok {
				t.Errorf("%v is still there, though all others but the newest were used since", unused)
			}
			if _, ok := g.Lookup(newest); !ok {
				t.Errorf("%v went before anybody looked at it", newest)
			}
			newest = methodKey(i)
		}
	})
}
