package breaker

import (
	"math"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// B33: evictions during Get, Acquire and Done lose no outcome. A breaker with a call in flight is not evicted. An
// evicted breaker admits nothing. Each outcome is counted on the breaker that admitted the call.
func TestB33_EvictionLosesNoOutcomeConcurrentSafe(t *testing.T) {
	const callers, calls, keys = 4, 500, 12
	for _, bound := range []int{1, 5} { // with 5 there is always one that can be evicted
		g := mustGroup(t, Config{ConsecutiveFailures: -1, FailureRatio: 1, MinCalls: math.MaxInt}, WithMaxBreakers(bound))
		var counts [callers]map[*Breaker]outcomes
		runTogether(callers+1, func(i int) {
			if i == callers {
				for range calls / 4 {
					checkAll(t, g, bound)
				}
				return
			}
			rnd := rand.New(rand.NewPCG(uint64(i), 4))
			counts[i] = make(map[*Breaker]outcomes)
			kept := g.Get(methodKey(0))
			for range calls {
				b := g.Get(methodKey(rnd.IntN(keys)))
				if rnd.IntN(2) == 0 { // one that was kept, and may have been evicted
					b, kept = kept, b
				}
				callAndCount(t, b, rnd, counts[i])
			}
		})
		if g.Stats().Evictions == 0 {
			t.Errorf("bound %d: nothing was evicted: %+v", bound, g.Stats())
		}
		compareCounts(t, counts[:])
	}
}

// Two callers use one breaker all the time while another goroutine evicts it again and again. No other test makes this
// race as likely.
func TestB33_EvictionRacingOneCallerConcurrentSafe(t *testing.T) {
	const rounds = 4000
	g := mustGroup(t, Config{}, WithMaxBreakers(1))
	var counts [2]map[*Breaker]outcomes
	var stop atomic.Bool
	runTogether(3, func(i int) {
		if i == 2 {
			for range rounds {
				g.Get(methodKey(1))
				g.Get(methodKey(0))
			}
			stop.Store(true)
			return
		}
		counts[i] = make(map[*Breaker]outcomes)
		b := g.Get(methodKey(0))
		for !stop.Load() {
			p, err := b.Acquire(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			p.Done(t.Context(), Success)
			sum := counts[i][p.b]
			sum[Success]++
			counts[i][p.b] = sum
			b = p.b // the breaker that the key has now
		}
	})
	compareCounts(t, counts[:])
}

// outcomes counts the reports of a caller by Outcome.
type outcomes [4]uint64

// callAndCount makes a call, checks the breaker that admits it, and adds the outcome to counts.
func callAndCount(t *testing.T, b *Breaker, rnd *rand.Rand, counts map[*Breaker]outcomes) {
	t.Helper()
	p, err := b.Acquire(t.Context())
	if err != nil {
		t.Error(err)
		return
	}
	if p.b.key != b.key && p.b.key != overflowKey {
		t.Errorf("a call for %v was admitted by the breaker of %v", b.key, p.b.key)
	}
	if rnd.IntN(3) == 0 {
		runtime.Gosched()
	}
	p.b.mu.Lock()
	if p.b.phase.Load().kind == removed {
		t.Error("a breaker was evicted while a call that it admitted is in flight")
	}
	p.b.mu.Unlock()
	o := [...]Outcome{Success, Success, Failure, Ignored}[rnd.IntN(4)]
	p.Done(t.Context(), o)
	sum := counts[p.b]
	sum[o]++
	counts[p.b] = sum
}

// checkAll checks All and Len while others use the group.
func checkAll(t *testing.T, g *Group, bound int) {
	t.Helper()
	seen := make(map[*Breaker]bool)
	for _, b := range g.All() {
		if seen[b] {
			t.Error("All yields a breaker twice")
		}
		seen[b] = true
	}
	if n := g.Len(); n > bound+1 {
		t.Errorf("%d breakers, want at most %d and the overflow breaker", n, bound)
	}
	runtime.Gosched()
}

// compareCounts compares what callers have reported with what all breakers have counted, also the evicted ones.
func compareCounts(t *testing.T, callers []map[*Breaker]outcomes) {
	t.Helper()
	want := make(map[*Breaker]outcomes)
	for _, counts := range callers {
		for b, sum := range counts {
			all := want[b]
			for o := range sum {
				all[o] += sum[o]
			}
			want[b] = all
		}
	}
	for b, sum := range want {
		b.mu.Lock()
		settled := b.current().settled()
		got := outcomes{Success: settled}
		if c := b.lazy.Load(); c != nil {
			got = outcomes{
				settled - c.totals.failures - c.totals.overloads - c.totals.ignored - c.totals.late,
				c.totals.failures, c.totals.overloads, c.totals.ignored,
			}
			if c.totals.late != 0 {
				t.Errorf("%v: %d late", b.key, c.totals.late)
			}
		}
		if admitted := b.admittedTotal(); got != sum || admitted != settled {
			t.Errorf("%v: counted %v, reported %v; %d settled of %d admitted", b.key, got, sum, settled, admitted)
		}
		b.mu.Unlock()
	}
}

// The same with breakers that open. A breaker that is not closed is not evicted, so it continues to reject calls.
func TestB33_OpenBreakersStayConcurrentSafe(t *testing.T) {
	const callers, calls, bound, keys, dead = 4, 200, 6, 30, 4
	g := mustGroup(t, Config{OpenFor: time.Hour, ConsecutiveFailures: 3}, WithMaxBreakers(bound))

	runTogether(callers, func(i int) {
		rnd := rand.New(rand.NewPCG(uint64(i), 33))
		for range calls {
			k := rnd.IntN(keys)
			b := g.Get(methodKey(k))
			p, err := b.Acquire(t.Context())
			if err != nil {
				continue
			}
			if k < dead && b.Key() != overflowKey {
				p.Done(t.Context(), Failure)
			} else {
				p.Done(t.Context(), Success)
			}
		}
	})
	// A breaker of a failing key may be evicted before its third failure. After that it admits nothing.
	for k := range dead {
		b, ok := g.Lookup(methodKey(k))
		if !ok || b.State() != Open {
			continue
		}
		s := b.Snapshot()
		if s.Generation != 2 || s.Trips.Total() != 1 || s.Failures != 3 || s.Late > callers {
			t.Errorf("key %d: generation %d, %d trips, %d failures, %d late", k, s.Generation, s.Trips.Total(), s.Failures,
				s.Late)
		}
	}
	for key, b := range g.All() {
		wantSettled(t, key.String(), b)
	}
}

// The same without a race: a caller that has found a breaker closed, and counts itself, sees that the breaker was
// evicted meanwhile.
func TestB33_AnAdmissionSeesTheEviction(t *testing.T) {
	b := mustGroup(t, Config{}).Get(Key{})
	ph := b.phase.Load()
	if !b.admitFast(ph, &b.admitted) {
		t.Error("nothing has changed, and the call is not admitted")
	}
	b.Reset(t.Context())
	if !b.admitFast(ph, &b.admitted) {
		t.Error("another generation has begun, and the call is not admitted in the one before")
	}
	if evictNow(b) {
		t.Error("it was evicted with two calls in flight")
	}
	Permit{b: b, ph: ph}.Done(t.Context(), Success)
	Permit{b: b, ph: ph}.Done(t.Context(), Success)
	ph = b.phase.Load()
	if !evictNow(b) {
		t.Fatal("it is idle and was not evicted")
	}
	if b.admitFast(ph, &b.admitted) {
		t.Error("it was evicted, and admits a call")
	}
	if got := b.admitted.Load(); got != 2 {
		t.Errorf("%d are counted as admitted, want 2", got)
	}
}

// A breaker that was idle when evict found it may be in use when tryEvict has the lock. Then it is not evicted.
func TestB33_ABreakerInUseIsNotEvicted(t *testing.T) {
	for name, use := range map[string]func(*testing.T, *Breaker){
		"tripped":   func(t *testing.T, b *Breaker) { t.Helper(); b.Trip(t.Context(), "test") },
		"forced":    func(t *testing.T, b *Breaker) { t.Helper(); setOverride(t, b, ForceOpen, 0) },
		"in flight": func(t *testing.T, b *Breaker) { t.Helper(); acquire(t, b) },
	} {
		g := mustGroup(t, Config{})
		b := g.Get(Key{})
		if _, ok := b.evictable(clock()); !ok {
			t.Fatalf("%s: it is not evictable at first", name)
		}
		use(t, b)
		ph := b.phase.Load()
		if evictNow(b) {
			t.Errorf("%s: it was evicted", name)
		}
		if b.phase.Load() != ph {
			t.Errorf("%s: it has another phase after the attempt", name)
		}
		if _, ok := b.evictable(clock()); ok != (name == "in flight") { // evictable does not check for calls in flight
			t.Errorf("%s: evictable is %v", name, ok)
		}
	}
	b := mustGroup(t, Config{}).Get(Key{})
	if !evictNow(b) || evictNow(b) {
		t.Error("an idle breaker must be evicted exactly once")
	}
	if _, ok := b.evictable(clock()); ok {
		t.Error("an evicted breaker is evictable")
	}
}

// Evicted is true only for a breaker that was evicted, however often evict tries others.
func TestB33_EvictedOnlyAfterEvictionConcurrentSafe(t *testing.T) {
	g := mustGroup(t, Config{}, WithMaxBreakers(1))
	b := g.Get(methodKey(0))
	acquire(t, b)
	var stop atomic.Bool
	runTogether(2, func(i int) {
		if i == 0 {
			for k := range 20_000 {
				g.Get(methodKey(k + 1))
			}
			stop.Store(true)
			return
		}
		for !stop.Load() {
			if b.Evicted() {
				t.Error("evicted, with a call in flight")
				return
			}
		}
	})
}

// evict finds the only breaker that is not in use, among many that are.
func TestB33_TheOnlyIdleBreakerIsEvicted(t *testing.T) {
	for _, bound := range []int{2, 40, 100} {
		synctest.Test(t, func(t *testing.T) {
			g := mustGroup(t, Config{}, WithMaxBreakers(bound))
			for i := range bound - 1 {
				acquire(t, g.Get(methodKey(i)))
			}
			time.Sleep(time.Hour)
			idle := g.Get(Key{Method: "idle"})
			report(t, idle, 1, Success) // the most recently used one
			if b := g.Get(Key{Method: "new"}); b.Key().Method != "new" || !idle.Evicted() {
				t.Errorf("bound %d: the only idle breaker was not evicted", bound)
			}
		})
	}
}

// B25: a second report after an eviction is late. It is not a failure of the breaker that the key has now.
func TestB25_ASecondReportAfterEvictionOpensNothing(t *testing.T) {
	g := mustGroup(t, Config{ConsecutiveFailures: 1}, WithMaxBreakers(1))
	b := g.Get(methodKey(1))
	p := acquire(t, b)
	p.Done(t.Context(), Success)
	g.Get(methodKey(2))
	p.Done(t.Context(), Failure)
	if !b.Evicted() {
		t.Error("a second report undid the eviction")
	}
}

// evictNow evicts b, as a full group would, and reports whether it did.
func evictNow(b *Breaker) bool {
	return b.tryEvict(func(now int64) bool { _, ok := b.evictable(now); return ok })
}
