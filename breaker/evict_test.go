package breaker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// keysOf returns the keys that All yields, sorted.
func keysOf(g *Group) (out []string) {
	for k := range maps.Keys(maps.Collect(g.All())) {
		out = append(out, k.String())
	}
	slices.Sort(out)
	return out
}

func TestB33_TheGroupIsBounded(t *testing.T) {
	for _, bound := range []int{1, 2, 10, 100} {
		g := mustGroup(t, Config{}, WithMaxBreakers(bound))
		for i := range 500 {
			b := g.Get(methodKey(i))
			if b.Key() != methodKey(i) {
				t.Fatalf("bound %d: key %d got the breaker of %v, though all others are idle", bound, i, b.Key())
			}
			report(t, b, 1, Success)
		}
		wantSame(t, "stats", g.Stats(), GroupStats{Breakers: bound, Evictions: uint64(500 - bound)})
		if n := len(keysOf(g)); n != bound {
			t.Errorf("bound %d: All yields %d", bound, n)
		}
		if got := len(g.table.Load().slots); got > max(smallestTable, 8*bound) {
			t.Errorf("bound %d: the table has %d slots", bound, got)
		}
	}
}

func TestB33_TheDefaultBound(t *testing.T) {
	g := mustGroup(t, Config{})
	for i := range 10_010 {
		g.Get(methodKey(i))
	}
	wantSame(t, "stats", g.Stats(), GroupStats{Breakers: 10_000, Evictions: 10})
}

// A breaker with an override or with calls in flight is not evicted. An open or half-open one is evicted only if it was
// not used for a minute after it was due. A known bug of another breaker: it evicts open breakers, and then admits 474
// of 1 000 calls to a backend that is down.
func TestB33_WhichBreakersMayBeEvicted(t *testing.T) {
	const (
		due    = 5 * time.Second
		minute = time.Minute
	)
	long := steady()
	long.MaxOpenFor = 2 * minute
	ramp := steady()
	ramp.Ramp = time.Hour
	for _, tt := range []struct {
		scenario
		evict bool
	}{
		{scenario{"new", steady(), nil}, true},
		{scenario{"used", steady(), []row{{0, "success*9 failure*3 overload ignored", "closed"}}}, true},
		{scenario{"in flight", steady(), []row{{0, "begin:1", "closed"}}}, false},
		{
			scenario{"in flight and others that have ended", steady(), []row{{0, "begin:1 success*5 failure*3", "closed"}}},
			false,
		},
		{scenario{"no more in flight", steady(), []row{{0, "begin:1 end:1=failure", "closed"}}}, true},
		{scenario{"open", steady(), []row{{0, "trip", "open"}}}, false},
		{scenario{"open and due", steady(), []row{{0, "trip", "open"}, {due, "", "open"}}}, false},
		{
			scenario{"open and due for nearly a minute", steady(), []row{{0, "trip", "open"}, {due + minute - 1, "", "open"}}},
			false,
		},
		{scenario{"open and due for a minute", steady(), []row{{0, "trip", "open"}, {due + minute, "", "open"}}}, true},
		{scenario{
			"open and due for nearly MaxOpenFor, which is longer", long,
			[]row{{0, "trip", "open"}, {due + 2*minute - 1, "", "open"}},
		}, false},
		{scenario{
			"open and due for MaxOpenFor, which is longer", long,
			[]row{{0, "trip", "open"}, {due + 2*minute, "", "open"}},
		}, true},
		{scenario{"open for a year, forced open", steady(), []row{
			{0, "trip force_open", "open"},
			{365 * 24 * time.Hour, "", "open"},
		}}, false},
		{scenario{
			"open, an earlier call in flight", steady(),
			[]row{{0, "begin:1 trip", "open"}, {due + minute, "", "open"}},
		}, false},
		{scenario{"half-open, the probe ignored nearly a minute ago", steady(), []row{
			{0, "trip", "open"}, {due, "ignored", "probe half_open"}, {due + minute - 1, "", "half_open"},
		}}, false},
		{scenario{"half-open, the probe ignored a minute ago", steady(), []row{
			{0, "trip", "open"}, {due, "ignored", "probe half_open"}, {due + minute, "", "half_open"},
		}}, true},
		{scenario{"half-open, a call rejected while the probe was in flight", steady(), []row{
			{0, "trip", "open"},
			{due, "begin:1", "probe half_open"},
			{due + 5*time.Second, "success", "rejected:half_open half_open"},
			{due + minute, "", "half_open"},
		}}, false},
		{scenario{"half-open, a minute after a call was rejected while the probe was in flight", steady(), []row{
			{0, "trip", "open"},
			{due, "begin:1", "probe half_open"},
			{due + 5*time.Second, "success", "rejected:half_open half_open"},
			{due + 5*time.Second + minute, "", "half_open"},
		}}, true},
		{scenario{"half-open", steady(), []row{{0, "trip", "open"}, {due, "ignored", "probe half_open"}}}, false},
		{scenario{"half-open, its probe lost", steady(), []row{
			{0, "trip", "open"},
			{due, "begin:1", "probe half_open"},
			{time.Hour, "", "half_open"},
		}}, true},
		{scenario{"closed again", steady(), []row{{0, "trip", "open"}, {due, "success", "probe closed"}}}, true},
		{scenario{"closed again, a probe still in flight", Config{Jitter: -1, SuccessesToClose: 1, MaxProbes: 2}, []row{
			{0, "trip", "open"}, {due, "begin:1 success", "probe*2 closed"},
		}}, false},
		{scenario{"ramping", ramp, []row{{0, "trip", "open"}, {due, "success", "probe closed"}}}, true},
		{scenario{"forced open", steady(), []row{{0, "force_open", "open"}}}, false},
		{scenario{"forced closed", steady(), []row{{0, "force_closed", "closed"}}}, false},
		{scenario{"shadow", steady(), []row{{0, "shadow", "closed"}}}, false},
		{
			scenario{"an override for a while", steady(), []row{{0, "force_open/1h", "open"}, {time.Hour - 1, "", "open"}}},
			false,
		},
		{
			scenario{"an override that is over", steady(), []row{{0, "force_open/1h", "open"}, {time.Hour, "", "closed"}}},
			true,
		},
		{scenario{"an override that was cleared", steady(), []row{{0, "force_open clear", "closed"}}}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := mustGroup(t, tt.cfg, WithMaxBreakers(1))
				b := g.Get(Key{Method: "a"})
				newTimeline(t, b).run(tt.rows...)
				before := b.Snapshot()
				next := g.Get(Key{Method: "b"})
				if tt.evict {
					wantSame(t, "stats", g.Stats(), GroupStats{Breakers: 1, Evictions: 1})
					wantSame(t, "keys", keysOf(g), []string{"/b"})
					return
				}
				wantSame(t, "stats", g.Stats(), GroupStats{Breakers: 2, Overflow: 1})
				wantSame(t, "keys", keysOf(g), []string{"/a", "tag=overflow"})
				if next.Key() != overflowKey {
					t.Errorf("the other key got the breaker of %v, want the overflow breaker", next.Key())
				}
				if diff := cmp.Diff(before, b.Snapshot()); diff != "" {
					t.Errorf("looking for room changed it:\n%s", diff)
				}
			})
		})
	}
}

// The open breaker of a backend that is down is not evicted while calls with a thousand other keys are made.
func TestB33_AnOpenBreakerSurvivesChurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := mustGroup(t, steady(), WithMaxBreakers(8))
		dead := Key{Method: "dead"}
		report(t, g.Get(dead), 5, Failure)
		through := 0
		for i := range 1000 {
			if _, err := g.Get(dead).Acquire(t.Context()); err == nil {
				through++
			}
			report(t, g.Get(methodKey(i)), 1, Success)
		}
		if through != 0 {
			t.Errorf("%d of 1000 calls were admitted", through)
		}
	})
}

func TestB33_TheLeastRecentlyUsedIsEvictedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := mustGroup(t, steady(), WithMaxBreakers(4))
		use := func(methods string) {
			t.Helper()
			for _, m := range methods {
				report(t, g.Get(Key{Method: string(m)}), 1, Success)
				time.Sleep(2 * time.Second) // more than a bucket: "roughly"
			}
		}
		use("abcd")
		use("ba") // c is the oldest now, then d, b, a
		for _, tt := range []struct{ add, left string }{
			{"e", "/a /b /d /e"}, {"f", "/a /b /e /f"}, {"g", "/a /e /f /g"}, {"h", "/e /f /g /h"},
		} {
			use(tt.add)
			if got := keysOf(g); !slices.Equal(got, words(tt.left)) {
				t.Errorf("after %s: %v are left, want %v", tt.add, got, tt.left)
			}
		}
	})
}

func words(s string) (out []string) {
	for i := 0; i < len(s); i += 3 {
		out = append(out, s[i:i+2])
	}
	return out
}

// If no breaker can be evicted, further keys share one. When one can be evicted again, new keys get their own breakers.
func TestB33_Overflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := mustGroup(t, steady(), WithMaxBreakers(2))
		a, b := g.Get(Key{Method: "a"}), g.Get(Key{Method: "b"})
		a.Trip(t.Context(), "test")
		p := acquire(t, b)

		c, d := g.Get(Key{Method: "c"}), g.Get(Key{Method: "d"})
		if c != d || c.Key() != overflowKey {
			t.Fatalf("c and d got %v and %v, want the overflow breaker", c.Key(), d.Key())
		}
		if _, ok := g.Lookup(Key{Method: "c"}); ok {
			t.Error("Lookup finds a breaker for c")
		}
		if got := g.Get(overflowKey); got != c {
			t.Error("overflowKey has another breaker")
		}
		wantSame(t, "stats", g.Stats(), GroupStats{Breakers: 3, Overflow: 2})
		wantSame(t, "keys", keysOf(g), []string{"/a", "/b", "tag=overflow"})

		// It is a breaker like any other: it opens for all keys that share it.
		report(t, c, 5, Failure)
		_ = mustReject(t, g.Get(Key{Method: "e"}))
		if a.State() != Open || b.State() != Closed {
			t.Errorf("the others are %v and %v, want open and closed", a.State(), b.State())
		}

		// b becomes idle: the next key takes its place.
		p.Done(t.Context(), Success)
		if got := g.Get(Key{Method: "c"}); got.Key() != (Key{Method: "c"}) {
			t.Errorf("c still gets %v", got.Key())
		}
		wantSame(t, "keys", keysOf(g), []string{"/a", "/c", "tag=overflow"})
		wantSame(t, "stats", g.Stats(), GroupStats{Breakers: 3, Overflow: 3, Evictions: 1})

		// The overflow breaker is not evicted.
		g.Get(overflowKey).Reset(t.Context())
		acquire(t, g.Get(Key{Method: "c"}))
		if got := g.Get(Key{Method: "f"}); got != c {
			t.Errorf("f gets %v, want the overflow breaker", got.Key())
		}
		wantSame(t, "keys", keysOf(g), []string{"/a", "/c", "tag=overflow"})
	})
}

// Get with the overflow key makes the overflow breaker beyond the limit, and does not count as an overflow.
func TestB33_TheOverflowBreakerByItsKey(t *testing.T) {
	g := mustGroup(t, Config{}, WithMaxBreakers(1))
	g.Get(overflowKey)
	g.Get(Key{Method: "a"})
	g.Get(Key{Method: "b"})
	wantSame(t, "stats", g.Stats(), GroupStats{Breakers: 2, Evictions: 1})
	wantSame(t, "keys", keysOf(g), []string{"/b", "tag=overflow"})
}

// A search that found nothing is not repeated for each new key, see evict.
func TestB33_AFailedSearchIsNotRepeatedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := mustGroup(t, steady(), WithMaxBreakers(1))
		g.Get(Key{Method: "a"})
		g.mu.Lock()
		g.nextSearch = clock() + int64(time.Second) // as after a search that took a tenth of that
		g.mu.Unlock()
		time.Sleep(time.Second - 1)
		if got := g.Get(Key{Method: "b"}).Key(); got != overflowKey {
			t.Errorf("one nanosecond before: got %v, want the overflow breaker", got)
		}
		time.Sleep(time.Nanosecond)
		if got := g.Get(Key{Method: "b"}).Key(); got != (Key{Method: "b"}) {
			t.Errorf("after it: got %v, want its own breaker", got)
		}
	})
	// In real time a search takes some time. The pause after it is ten times as long.
	g := mustGroup(t, Config{OpenFor: time.Hour}, WithMaxBreakers(1000))
	for i := range 1000 {
		g.Get(methodKey(i)).Trip(t.Context(), "test")
	}
	start := clock()
	g.Get(methodKey(1000))
	took := clock() - start
	if g.nextSearch <= start || g.nextSearch > start+11*took {
		t.Errorf("after a failed search of at most %v, the next one is %v after its start, want up to eleven times as long",
			time.Duration(took), time.Duration(g.nextSearch-start))
	}
}

// evictedBreaker returns a breaker of key a that was evicted for key b. If back is true, key a has another breaker now.
func evictedBreaker(t *testing.T, back bool) (old *Breaker, g *Group) {
	t.Helper()
	g = mustGroup(t, steady(), WithMaxBreakers(1))
	old = g.Get(Key{Method: "a"})
	report(t, old, 3, Success)
	g.Get(Key{Method: "b"})
	if back {
		g.Get(Key{Method: "a"})
	}
	return old, g
}

// B33: a *Breaker may be kept. After an eviction its methods act on the breaker that its key has now, so no outcome is
// lost.
func TestB33_AKeptBreakerActsOnItsSuccessor(t *testing.T) {
	for _, back := range []bool{false, true} {
		for name, tt := range map[string]struct {
			do   func(t *testing.T, old *Breaker)
			want func(s Snapshot) bool
		}{
			"Acquire and Done": {func(t *testing.T, old *Breaker) {
				t.Helper()
				report(t, old, 5, Failure)
				_ = mustReject(t, old)
			}, func(s Snapshot) bool { return s.State == Open && s.Failures == 5 && s.Rejections.Open == 1 }},
			"Do": {func(t *testing.T, old *Breaker) {
				t.Helper()
				_ = old.Do(t.Context(), func(context.Context) error { return nil })
			}, func(s Snapshot) bool { return s.Successes == 1 && s.Admitted == 1 }},
			"Trip": {
				func(t *testing.T, old *Breaker) { t.Helper(); old.Trip(t.Context(), "x") },
				func(s Snapshot) bool { return s.State == Open },
			},
			"Reset": {
				func(t *testing.T, old *Breaker) { t.Helper(); old.Reset(t.Context()) },
				func(s Snapshot) bool { return s.Generation == 2 },
			},
			"SetOverride": {
				func(t *testing.T, old *Breaker) { t.Helper(); setOverride(t, old, ForceOpen, 0) },
				func(s Snapshot) bool {
					return s.Override.Mode == ForceOpen && s.State == Open
				},
			},
			"ClearOverride": {func(t *testing.T, old *Breaker) {
				t.Helper()
				setOverride(t, old, ForceOpen, 0)
				old.ClearOverride(t.Context())
			}, func(s Snapshot) bool { return s.Override.Mode == 0 && s.State == Closed }},
		} {
			old, g := evictedBreaker(t, back)
			before := old.Snapshot()
			if back && before.Successes != 0 || !back && before.Successes != 3 {
				t.Errorf("%s, back: %v: the kept breaker's snapshot has %d successes", name, back, before.Successes)
			}
			tt.do(t, old)
			now, ok := g.Lookup(Key{Method: "a"})
			if !ok || now == old {
				t.Errorf("%s, back: %v: the key has no new breaker", name, back)
				continue
			}
			s := now.Snapshot()
			if !tt.want(s) {
				t.Errorf("%s, back: %v: the successor is %+v", name, back, s)
			}
			if diff := changes(s, old.Snapshot()); diff != "" || old.State() != s.State {
				t.Errorf("%s, back: %v: the kept breaker shows something else: %v,\n%s", name, back, old.State(), diff)
			}
		}
	}
}

// CountFallback and ClearOverride act on the successor too, but they do not make one.
func TestB33_B40_OnlyCallsRecreateABreaker(t *testing.T) {
	old, g := evictedBreaker(t, false)
	old.CountFallback(true)
	old.ClearOverride(t.Context())
	if _, ok := g.Lookup(Key{Method: "a"}); ok {
		t.Error("the key has a breaker again without a call")
	}
	old, g = evictedBreaker(t, true)
	setOverride(t, old, ForceOpen, 0)
	old.CountFallback(true)
	old.CountFallback(false)
	live, _ := g.Lookup(Key{Method: "a"})
	if s := live.Snapshot(); s.Fallbacks != (FallbackCounts{1, 1}) || s.State != Open {
		t.Errorf("the successor is %v and has counted %+v", s.State, s.Fallbacks)
	}
	old.ClearOverride(t.Context())
	if live.State() != Closed {
		t.Error("the successor's override is still in force")
	}
}

// An override is for one key. If the key shares the overflow breaker, SetOverride returns an error and does not affect
// the other keys.
func TestB28_B33_AnOverrideOfAnEvictedBreakerInAFullGroup(t *testing.T) {
	old, g := evictedBreaker(t, false)
	acquire(t, g.Get(Key{Method: "b"})) // in flight, so that nothing can be evicted
	err := old.SetOverride(t.Context(), Override{Mode: ForceOpen, Why: "test", By: "test"})
	if got, want := fmt.Sprint(err), `breaker: SetOverride: "/a" has no breaker of its own, because the group is full `+
		`(WithMaxBreakers)`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	acquire(t, g.Get(Key{Method: "innocent"}))
}

// B14: reading an evicted breaker does not make another one.
func TestB33_ReadingAnEvictedBreakerMakesNone(t *testing.T) {
	old, g := evictedBreaker(t, false)
	reads(t, mustGroup(t, Config{}), old)
	if old.State() != Closed || old.Snapshot().Successes != 3 || old.Key() != (Key{Method: "a"}) {
		t.Errorf("%v, %d successes, key %v; want what it was", old.State(), old.Snapshot().Successes, old.Key())
	}
	wantSame(t, "keys", keysOf(g), []string{"/b"})
	wantSame(t, "stats", g.Stats(), GroupStats{Breakers: 1, Evictions: 1})
}

// A second report through a permit of an evicted breaker changes no other breaker.
func TestB25_B33_ASecondReportAfterEviction(t *testing.T) {
	g := mustGroup(t, steady(), WithMaxBreakers(1))
	p := acquire(t, g.Get(Key{Method: "a"}))
	p.Done(t.Context(), Success)
	b := g.Get(Key{Method: "b"})
	before := b.Snapshot()
	p.Done(t.Context(), Success)
	p.Done(t.Context(), Failure)
	if diff := cmp.Diff(before, b.Snapshot()); diff != "" {
		t.Errorf("another breaker changed:\n%s", diff)
	}
	if s := g.Get(Key{Method: "a"}).Snapshot(); s.Failures+s.Successes+s.Late != 0 {
		t.Errorf("the successor counted it: %+v", s)
	}
}

// The same for a report from an earlier generation, although it would have opened the breaker then.
func TestB25_B33_ALateReportAfterEviction(t *testing.T) {
	rec := new(recorder)
	g := mustGroup(t, Config{ConsecutiveFailures: 1}, WithMaxBreakers(1), WithListener(rec.Transition))
	old := g.Get(Key{Method: "a"})
	p := acquire(t, old)
	p.Done(t.Context(), Success)
	old.Reset(t.Context())
	g.Get(Key{Method: "b"})
	p.Done(t.Context(), Failure)
	wantSame(t, "events", rec.brief(), []string{"1 closed>closed manual"})
	if old.phase.Load().kind != removed {
		t.Error("the report undid the eviction")
	}
}

// Apply does not change an evicted breaker. Its successor has the new policy.
func TestB34_ApplyAfterEviction(t *testing.T) {
	old, g := evictedBreaker(t, false)
	if err := g.Apply(Config{ConsecutiveFailures: 1}); err != nil {
		t.Fatal(err)
	}
	report(t, old, 1, Failure)
	if got := old.State(); got != Open {
		t.Errorf("%v, want open: the successor has the new policy", got)
	}
	old.applyPolicy(g.policies.base) // as an Apply that found it just before the eviction
	if old.phase.Load().kind != removed {
		t.Error("Apply undid the eviction")
	}
}

func TestB33_Evicted(t *testing.T) {
	g := mustGroup(t, Config{}, WithMaxBreakers(1))
	first := g.Get(methodKey(1))
	if first.Evicted() {
		t.Error("Evicted is true for a breaker in its group")
	}
	second := g.Get(methodKey(2))
	if !first.Evicted() || second.Evicted() {
		t.Errorf("evicted: %v and %v, want the first only", first.Evicted(), second.Evicted())
	}
	report(t, first, 1, Success) // makes the successor
	if !first.Evicted() {
		t.Error("Evicted became false")
	}
	if b, ok := g.Lookup(methodKey(1)); !ok || b.Evicted() {
		t.Error("Evicted is true for the successor, or there is none")
	}
	if alone := mustNew(t, Config{}); alone.Evicted() {
		t.Error("Evicted is true for a breaker without a group")
	}
}
