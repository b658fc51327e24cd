package breaker

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// B40: which breakers All leaves out after the idle timeout. Such a breaker is not changed.
func TestB40_WhatIsIdle(t *testing.T) {
	const due, idle = 5 * time.Second, time.Hour
	forced := []row{{0, "force_open", "open"}}
	for _, tt := range []struct {
		scenario
		at   time.Duration // when All is called
		idle bool
	}{
		{scenario{"new", steady(), nil}, idle - 1, false},
		// A closed call that takes no lock is known to a tenth of the window, so this is added.
		{scenario{"new, an hour and a tenth of the window ago", steady(), nil}, idle + time.Second, true},
		{scenario{"used", steady(), []row{{0, "success", "closed"}}}, idle, false},
		{
			scenario{"used an hour and a tenth of the window ago", steady(), []row{{0, "success", "closed"}}},
			idle + time.Second, true,
		},
		{scenario{"used later", steady(), []row{{time.Minute, "success", "closed"}}}, idle + time.Minute - 1, false},
		{scenario{"an ignored call", steady(), []row{{time.Minute, "ignored", "closed"}}}, idle + time.Minute - 1, false},
		{
			scenario{"an ignored call an hour ago", steady(), []row{{time.Minute, "ignored", "closed"}}},
			idle + time.Minute,
			true,
		},
		{scenario{"in flight", steady(), []row{{0, "begin:1", "closed"}}}, 1000 * idle, false},
		{
			scenario{"no more in flight", steady(), []row{{0, "begin:1", "closed"}, {idle, "end:1=ignored", "closed"}}},
			2*idle - 1, false,
		},
		{scenario{"no more in flight for an hour", steady(), []row{
			{0, "begin:1", "closed"},
			{idle, "end:1=ignored", "closed"},
		}}, 2 * idle, true},
		{scenario{"open", steady(), []row{{0, "failure*5 success", "rejected:open open"}}}, idle - 1, false},
		{scenario{"open for an hour", steady(), []row{{0, "failure*5 success", "rejected:open open"}}}, idle, true},
		{
			scenario{"rejecting", steady(), []row{{0, "trip", "open"}, {2 * time.Second, "success", "rejected:open open"}}},
			idle + 2*time.Second - 1, false,
		},
		{scenario{"rejected an hour ago", steady(), []row{
			{0, "trip", "open"},
			{2 * time.Second, "success", "rejected:open open"},
		}}, idle + 2*time.Second, true},
		{scenario{"half-open, rejecting", steady(), []row{
			{0, "trip", "open"}, {due, "begin:1", "probe half_open"}, {2 * due, "success", "rejected:half_open half_open"},
		}}, idle + 2*due - 1, false},
		{scenario{"half-open, its probe lost", steady(), []row{
			{0, "trip", "open"}, {due, "begin:1", "probe half_open"}, {2 * due, "success", "rejected:half_open half_open"},
		}}, idle + 2*due, true},
		{scenario{"forced", steady(), forced}, 1000 * idle, false},
		{scenario{"forced for a while", steady(), []row{{0, "force_open/2h", "open"}}}, 2*idle - 1, false},
		{scenario{"no more forced", steady(), []row{{0, "force_open/2h", "open"}}}, 2 * idle, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := mustGroup(t, tt.cfg)
				b := g.Get(Key{Method: "a"})
				tl := newTimeline(t, b)
				tl.run(tt.rows...)
				tl.until(tt.at)
				before := b.Snapshot()
				if got := len(keysOf(g)) == 0; got != tt.idle {
					t.Errorf("idle: %v, want %v", got, tt.idle)
				}
				if again, ok := g.Lookup(Key{Method: "a"}); !ok || again != b || g.Len() != 1 || b.Evicted() {
					t.Error("an idle breaker must not change before a new key arrives")
				}
				wantSame(t, "snapshot", b.Snapshot(), before)
			})
		})
	}
}

// After a call, an idle breaker continues with its state. A new key frees it.
func TestB40_ACallKeepsAnIdleBreakerAndANewKeyFreesIt(t *testing.T) {
	for _, newKey := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			g := mustGroup(t, Config{OpenFor: 24 * time.Hour}, WithMaxBreakers(100))
			b := g.Get(Key{Method: "a"})
			b.Trip(t.Context(), "test")
			time.Sleep(time.Hour)
			wantSame(t, "keys", keysOf(g), []string(nil))
			if newKey {
				for i := range 2 * smallestTable / idleSample { // each checks a limited number of slots
					g.Get(methodKey(i))
				}
				if !b.Evicted() || g.Stats().Evictions != 0 {
					t.Errorf("evicted: %v, %d evictions to make room; want true, 0", b.Evicted(), g.Stats().Evictions)
				}
				if got := g.Get(Key{Method: "a"}); got.State() != Closed {
					t.Errorf("the new breaker of the key is %v", got.State())
				}
				return
			}
			_ = mustReject(t, b)
			wantSame(t, "keys after a call", keysOf(g), []string{"/a"})
			if s := b.Snapshot(); s.Trips.Manual != 1 || s.Rejections.Open != 1 {
				t.Errorf("it has changed: %+v", s)
			}
		})
	}
}

// Without a window, All or a new key finds out whether a call came since the last check.
func TestB40_WithoutAWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := mustGroup(t, Config{FailureRatio: -1})
		used, unused := g.Get(Key{Method: "used"}), g.Get(Key{Method: "unused"})
		report(t, unused, 1, Success)
		for range 4 {
			report(t, used, 1, Success)
			_ = keysOf(g)
			time.Sleep(20 * time.Minute)
		}
		wantSame(t, "keys", keysOf(g), []string{"/used"})
	})
}

func TestB40_TheTimeoutIsAnOption(t *testing.T) {
	for _, d := range []time.Duration{0, 1, ms - 1, maxDuration + 1} {
		if _, err := NewGroup(Config{}, WithIdleTimeout(d)); err == nil {
			t.Errorf("WithIdleTimeout(%v): got no error", d)
		}
	}
	_, err := NewGroup(Config{}, WithIdleTimeout(30))
	if got, want := fmt.Sprint(err), "breaker: WithIdleTimeout: d is 30ns, want negative (never) or from 1ms to 100 "+
		"years; "+
		"a number without a unit is nanoseconds, probably 30*time.Second or 30*time.Millisecond was meant"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	synctest.Test(t, func(t *testing.T) {
		never := mustGroup(t, Config{}, WithIdleTimeout(-1))
		soon := mustGroup(t, Config{Window: 10 * ms}, WithIdleTimeout(9*ms))
		never.Get(Key{})
		soon.Get(Key{})
		time.Sleep(10*ms - 1)
		if len(keysOf(soon)) != 1 {
			t.Error("idle before its time")
		}
		time.Sleep(time.Nanosecond)
		if len(keysOf(soon)) != 0 {
			t.Error("not idle after its time")
		}
		time.Sleep(1000 * time.Hour)
		if len(keysOf(never)) != 1 {
			t.Error("idle, though the timeout is off")
		}
		for i := range 100 {
			never.Get(methodKey(i))
		}
		if _, ok := never.Lookup(Key{}); !ok {
			t.Error("freed, though the timeout is off")
		}
	})
}

// A full group evicts the least recently used breaker, closed or open.
func TestB33_TheLeastRecentlyUsedIsEvictedClosedOrOpen(t *testing.T) {
	for _, open := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			g := mustGroup(t, steady(), WithMaxBreakers(3))
			dead := g.Get(Key{Method: "dead"})
			if open {
				dead.Trip(t.Context(), "test")
			}
			time.Sleep(5 * time.Minute)
			for _, m := range []string{"a", "b"} {
				report(t, g.Get(Key{Method: m}), 1, Success)
			}
			g.Get(Key{Method: "c"})
			wantSame(t, "keys", keysOf(g), []string{"/a", "/b", "/c"})
		})
	}
}

func TestB40_Remove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorder
		g := mustGroup(t, steady(), WithListener(rec.Transition))
		key := Key{Method: "a"}
		if g.Remove(key) {
			t.Error("Remove is true for a key without a breaker")
		}
		b := g.Get(key)
		p := acquire(t, b)
		b.Trip(t.Context(), "test")
		time.Sleep(5 * time.Second)
		probe := acquire(t, b)
		setOverride(t, b, ForceOpen, 0)
		if !g.Remove(key) || g.Len() != 0 || !b.Evicted() {
			t.Errorf("not removed: %d breakers, evicted: %v", g.Len(), b.Evicted())
		}
		wantSame(t, "keys", keysOf(g), []string(nil))
		events := len(rec.received())
		p.Done(t.Context(), Failure)
		probe.Done(t.Context(), Failure)
		probe.Done(t.Context(), Success)
		if got := len(rec.received()); got != events {
			t.Errorf("%d events after Remove", got-events)
		}
		if _, ok := g.Lookup(key); ok {
			t.Error("reports of calls in flight made a breaker")
		}
		// The next call gets a new breaker, also through the one that was kept.
		report(t, b, 1, Success)
		if s := g.Get(key).Snapshot(); s.State != Closed || s.Successes != 1 || s.Override.Mode != 0 || s.InFlight != 0 {
			t.Errorf("the new breaker is %+v", s)
		}
		if !g.Remove(key) || g.Remove(key) {
			t.Error("Remove must be true once")
		}
	})
}

func TestB40_RemoveTheOverflowBreaker(t *testing.T) {
	g := mustGroup(t, steady(), WithMaxBreakers(1))
	setOverride(t, g.Get(Key{Method: "a"}), Shadow, 0)
	first := g.Get(Key{Method: "b"})
	if !g.Remove(overflowKey) || g.Len() != 1 {
		t.Errorf("%d breakers after the overflow breaker was removed, want 1", g.Len())
	}
	if second := g.Get(Key{Method: "c"}); second == first || second.Key() != overflowKey || g.Len() != 2 {
		t.Errorf("the next overflow breaker is %v, of %d breakers", second.Key(), g.Len())
	}
	if !g.Remove(Key{Method: "a"}) || g.Get(Key{Method: "d"}).Key() != (Key{Method: "d"}) {
		t.Error("after Remove, a new key does not get a breaker")
	}
}

// Calls during Remove: each permit settles, and no call is left in flight on the breaker of the key.
func TestB40_RemoveDuringCallsConcurrentSafe(t *testing.T) {
	g := mustGroup(t, Config{ConsecutiveFailures: 2, OpenFor: ms, MaxOpenFor: ms})
	key := Key{Method: "a"}
	runTogether(5, func(i int) {
		if i == 0 {
			for range 200 {
				g.Remove(key)
				_ = keysOf(g)
			}
			return
		}
		b := g.Get(key)
		for j := range 300 {
			if b.Evicted() {
				b = g.Get(key)
			}
			_ = b.Do(t.Context(), func(context.Context) error {
				if (i+j)%3 == 0 {
					return context.DeadlineExceeded
				}
				return nil
			})
		}
	})
	wantSettled(t, "in the end", g.Get(key))
}
