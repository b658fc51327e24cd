package breaker

import (
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const most = math.MaxUint64

func TestB11_CountersSaturate(t *testing.T) {
	for _, tt := range []struct {
		a    uint64
		more []uint64
		want uint64
	}{
		{0, nil, 0},
		{1, []uint64{2, 3}, 6},
		{most - 1, []uint64{1}, most},
		{most, []uint64{0}, most},
		{most, []uint64{1}, most},
		{most - 1, []uint64{2}, most},
		{most, []uint64{most, most}, most},
		{1, []uint64{most, 5}, most},
	} {
		if got := satAdd(tt.a, tt.more...); got != tt.want {
			t.Errorf("satAdd(%d, %d): got %d, want %d", tt.a, tt.more, got, tt.want)
		}
	}
	for _, tt := range []struct{ a, b, want uint64 }{
		{0, 0, 0}, {3, 2, 1}, {2, 3, 0}, {0, most, 0}, {most, most, 0}, {most, 0, most},
	} {
		if got := satSub(tt.a, tt.b); got != tt.want {
			t.Errorf("satSub(%d, %d): got %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
	for _, tt := range []struct{ from, want uint64 }{{0, 1}, {most - 1, most}, {most, most}} {
		var c atomic.Uint64
		c.Store(tt.from)
		inc(&c)
		if got := c.Load(); got != tt.want {
			t.Errorf("inc of %d: got %d, want %d", tt.from, got, tt.want)
		}
	}
}

// fillCounters sets all counters of a breaker to v.
func fillCounters(b *Breaker, v uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.ensureLazy()
	b.admitted.Store(v)
	b.retired = v
	all := &c.totals
	all.failures, all.overloads, all.ignored, all.late, all.slow, all.recoveries = v, v, v, v, v, v
	c.probes.counts = ProbeCounts{v, v, v, v}
	for i := range c.rejections {
		c.rejections[i].Store(v)
		all.shadow[i] = v
	}
	for i := range all.trips {
		all.trips[i] = v
	}
	for i := range c.fallbacks {
		c.fallbacks[i].Store(v)
	}
}

// A counter of a snapshot that is at its maximum stays there, whatever happens next.
func TestB11_FullCountersStayFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, Config{SlowCall: time.Millisecond, MinCalls: 1, Jitter: -1, ProbeTimeout: time.Second})
		fillCounters(b, most)
		newTimeline(t, b).run(
			row{0, "begin:late success success~1s", "open"}, // the slow rule
			row{0, "success end:late=success", "rejected:open open"},
			row{5 * time.Second, "success ignored success", "probe*3 closed"},
			row{5 * time.Second, "success overload~1s", "open"}, // a failed recovery: 10 s
			row{15 * time.Second, "failure", "probe open"},      // and another one: 20 s
			row{35 * time.Second, "begin:lost success", "probe rejected:half_open half_open"},
			row{36 * time.Second, "shadow begin:second success clear", "probe half_open"},
			row{36 * time.Second, "trip reset failure~1s", "open"},
			row{36 * time.Second, "force_open success clear", "rejected:forced open"},
		)
		b.CountFallback(true)
		b.CountFallback(false)
		s := b.Snapshot()
		full := ReasonCounts{most, most, most, most, most}
		wantSame(t, "Rejections", s.Rejections, full)
		wantSame(t, "ShadowRejections", s.ShadowRejections, full)
		wantSame(t, "Trips", s.Trips, RuleCounts{most, most, most, most, most})
		wantSame(t, "Probes", s.Probes, ProbeCounts{most, most, most, most})
		wantSame(t, "Fallbacks", s.Fallbacks, FallbackCounts{most, most})
		for name, got := range map[string]uint64{
			"Admitted": s.Admitted, "Successes": s.Successes, "Failures": s.Failures, "Overloads": s.Overloads,
			"Ignored": s.Ignored, "Late": s.Late, "SlowCalls": s.SlowCalls, "Recoveries": s.Recoveries,
			"Rejections.Total": s.Rejections.Total(), "Trips.Total": s.Trips.Total(),
		} {
			if got != most {
				t.Errorf("%s is %d, want the maximum", name, got)
			}
		}
		if s.InFlight != 0 {
			t.Errorf("InFlight is %d, want 0", s.InFlight)
		}
	})
}

// A read adds the probes whose leases have expired since the last call. That sum does not wrap either.
func TestB11_LostProbesSaturateInASnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, steady())
		tl := newTimeline(t, b)
		tl.run(row{0, "trip", "open"}, row{5 * time.Second, "begin:lost", "probe half_open"})
		fillCounters(b, most)
		tl.until(15 * time.Second)
		if got := b.Snapshot().Probes.Lost; got != most {
			t.Errorf("Lost is %d, want the maximum", got)
		}
	})
}

// The sum of failures and overloads in the ratio rule must not wrap either. Otherwise a full window would never open.
func TestB11_AFullWindowTrips(t *testing.T) {
	b := mustNew(t, Config{ConsecutiveFailures: -1})
	p := acquire(t, b)
	w := b.phase.Load().win
	b.mu.Lock()
	*w.currentBucket() = badCounts{failures: most - 1, overloads: 1}
	b.mu.Unlock()
	p.Done(t.Context(), Failure)
	if got := b.State(); got != Open {
		t.Errorf("after %d failures and an overload the state is %v, want open", uint64(most), got)
	}
}

func TestB11_AWindowSaturates(t *testing.T) {
	w := newWindow(0, 10)
	for i := range w.successes {
		w.successes[i].Store(most - 5)
	}
	for i := range buckets {
		w.ensureLazy().bad[i] = badCounts{failures: most - 5, overloads: most - 5, slow: most - 5, slowCanceled: most - 5}
	}
	got := w.counts(0, 10)
	wantSame(t, "counts", got, Counts{Successes: most, Failures: most, Overloads: most, Slow: most, SlowCanceled: most})
	if got.Calls() != most {
		t.Errorf("Calls is %d, want the maximum", got.Calls())
	}
	if r := got.FailureRatio(); r != 1 {
		t.Errorf("FailureRatio is %v, want 1", r)
	}
	if got := w.total(); got != most {
		t.Errorf("total is %d, want the maximum", got)
	}
	if got := w.drain(); got != most {
		t.Errorf("drain is %d, want the maximum", got)
	}
}
