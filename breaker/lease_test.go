package breaker

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// [stuck half-open for six days; the most reported breaker bug]
func TestB22_AProbeIsALease(t *testing.T) {
	const due, lease = 5 * time.Second, time.Second
	runScenarios(t, []scenario{
		{"taken until one nanosecond before its end", probing(1, 1), []row{
			{0, "trip", "open"},
			{due, "begin:lost", "probe half_open"},
			{due + lease - 1, "success", "rejected:half_open half_open"},
			{due + lease, "success", "probe closed"},
		}},
		{"a report one nanosecond before its end counts", probing(1, 1), []row{
			{0, "trip", "open"}, {due, "begin:1", "probe half_open"}, {due + lease - 1, "end:1=success", "closed"},
		}},
		{"a report at its end is late, also if nobody has asked since", probing(1, 1), []row{
			{0, "trip", "open"},
			{due, "begin:1", "probe half_open"},
			{due + lease, "end:1=success", "half_open"},
			{due + lease, "success", "probe closed"},
		}},
		{"a failure at its end is late", probing(1, 1), []row{
			{0, "trip", "open"}, {due, "begin:1", "probe half_open"}, {due + lease, "end:1=failure", "half_open"},
		}},
		{"a late report does not touch who has the slot now", probing(1, 1), []row{
			{0, "trip", "open"},
			{due, "begin:lost", "probe half_open"},
			{due + lease, "begin:next", "probe half_open"},
			{due + lease, "end:lost=failure success", "rejected:half_open half_open"},
			{due + lease, "end:next=success", "closed"},
		}},
		{"each slot has its own end", probing(3, 9), []row{
			{0, "trip", "open"},
			{due, "begin:1", "probe half_open"},
			{due + 1, "begin:2", "probe half_open"},
			{due + 2, "begin:3 success", "probe rejected:half_open half_open"},
			{due + lease - 1, "success", "rejected:half_open half_open"},
			{due + lease, "begin:4 success", "probe rejected:half_open half_open"},
			{due + lease + 1, "begin:5 success", "probe rejected:half_open half_open"},
			{due + lease + 2, "end:5=success begin:6 begin:7 success", "probe*2 rejected:half_open half_open"},
		}},
		{"a lost probe is no verdict", probing(1, 2), []row{
			{0, "trip", "open"},
			{due, "success begin:lost", "probe*2 half_open"},
			{due + lease, "success", "probe closed"}, // the second in a row
		}},
		{"an endless call in a breaker that has closed long since", probing(2, 1), []row{
			{0, "trip", "open"},
			{due, "begin:endless success", "probe*2 closed"},
			{time.Hour, "success failure end:endless=failure failure*3", "closed"},
			{time.Hour, "failure", "open"},
		}},
		{"a lease of an earlier stay takes no slot in this one", func() Config { c := probing(1, 1); c.ProbeTimeout = time.Hour; return c }(), []row{
			{0, "trip", "open"},
			{due, "begin:old trip", "probe open"},
			{2 * due, "success", "probe closed"},
		}},
	})
}

func TestB22_ALostProbeIsCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, probing(2, 9))
		tl := newTimeline(t, b)
		tl.run(row{0, "trip", "open"}, row{5 * time.Second, "begin:1 begin:2", "probe*2 half_open"})
		want := func(lost, late, inFlight uint64) {
			t.Helper()
			if s := b.Snapshot(); s.Probes.Lost != lost || s.Late != late || s.InFlight != inFlight {
				t.Errorf("%d lost, %d late, %d in flight; want %d, %d, %d", s.Probes.Lost, s.Late, s.InFlight, lost, late, inFlight)
			}
		}
		want(0, 0, 2)
		tl.until(6*time.Second - 1)
		want(0, 0, 2)
		tl.until(6 * time.Second) // read, before anybody has asked
		want(2, 0, 2)
		tl.do("end:1=success") // reported, before anybody has asked
		want(2, 1, 1)
		tl.do("begin:3") // asked
		want(2, 1, 2)
		tl.do("end:2=failure")
		want(2, 2, 1)
		tl.do("end:3=success")
		want(2, 2, 0)
		wantSame(t, "probes", b.Snapshot().Probes, ProbeCounts{Success: 1, Lost: 2})
	})
}

// With a backend that hangs, probes outstanding stay few over any number of cycles: a dozen or two, and in the long run one
// more each hour (patience, slowest). And yet another one always comes.
func TestB22_ProbesThatHangStayBounded(t *testing.T) {
	for _, maxProbes := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			b := mustNew(t, probing(maxProbes, 1))
			b.Trip(t.Context(), "test")
			var hung []Permit
			var after [3]int // outstanding after an hour, a day, a month
			start := time.Now()
			for i, end := range []time.Duration{time.Hour, 24 * time.Hour, 30 * 24 * time.Hour} {
				for time.Since(start) < end {
					p, err := b.Acquire(t.Context())
					if err == nil {
						hung = append(hung, p)
						continue
					}
					time.Sleep(max(time.Second, end/2e4)) // a call now and then, more often than there are probes
				}
				after[i] = len(hung)
			}
			for i, most := range []int{24 * maxProbes, 24*maxProbes + 24, 24*maxProbes + 30*24} {
				if after[i] > most {
					t.Errorf("MaxProbes %d: %d probes are out, want %d at most (after an hour, a day, a month: %v)", maxProbes, after[i], most, after)
				}
			}
			if after[0] == after[1] || after[1] == after[2] {
				t.Errorf("MaxProbes %d: no probe came any more (after an hour, a day, a month: %v)", maxProbes, after)
			}
			// The backend lets go of them: the next call is a probe at once.
			for _, p := range hung {
				p.Done(t.Context(), Failure)
			}
			if s := b.Snapshot(); s.State != HalfOpen || s.InFlight != 0 || s.Late == 0 || !s.Ready {
				t.Fatalf("MaxProbes %d: %v, %d in flight, %d late, ready: %v", maxProbes, s.State, s.InFlight, s.Late, s.Ready)
			}
			if p := acquire(t, b); !p.IsProbe() {
				t.Errorf("MaxProbes %d: no probe", maxProbes)
			}
		})
	}
}

// Short of patience*MaxProbes unreported probes nothing slows down.
func TestB22_AFewLostProbesDelayNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, probing(1, 1))
		rows := []row{{0, "trip", "open"}}
		for i := range patience - 1 {
			at := time.Duration(5+i) * time.Second
			before := "rejected:half_open half_open"
			if i == 0 {
				before = "rejected:open open"
			}
			rows = append(rows, row{at - 1, "success", before}, row{at, fmt.Sprintf("begin:%d", i), "probe half_open"})
		}
		newTimeline(t, b).run(append(rows, row{(5 + patience - 1) * time.Second, "success", "probe closed"})...)
	})
}

// The breaker is never stuck, whatever the callers do: probes that were lost in outages long ago, each of which ended
// well, must not hold up the next recovery.
func TestB22_ProbesLostLongAgoDelayNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, probing(1, 1))
		for outage := range 40 {
			b.Trip(t.Context(), "test")
			time.Sleep(5 * time.Second)
			acquire(t, b) // never reports
			time.Sleep(time.Second)
			p, err := b.Acquire(t.Context())
			if err != nil {
				t.Fatalf("outage %d: the lease of its lost probe is over, and no other comes: %v", outage, err)
			}
			p.Done(t.Context(), Success)
			if got := b.State(); got != Closed {
				t.Fatalf("outage %d: %v after a good probe, want closed", outage, got)
			}
			time.Sleep(24 * time.Hour)
		}
	})
}

// Probes are told apart by their lease, not by their place in a list.
func TestB22_LeasesAreNotMixedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const probes = 20
		b := mustNew(t, probing(probes, probes+1))
		b.Trip(t.Context(), "test")
		time.Sleep(5 * time.Second)
		var ps []Permit
		for range probes {
			ps = append(ps, acquire(t, b))
		}
		for _, i := range []int{7, 19, 0, 18, 1} {
			ps[i].Done(t.Context(), Ignored)
			ps[i].Done(t.Context(), Success)
		}
		if s := b.Snapshot(); s.Probes != (ProbeCounts{Ignored: 5}) || s.InFlight != probes-5 {
			t.Errorf("%+v, %d in flight; want 5 ignored, %d in flight", s.Probes, s.InFlight, probes-5)
		}
	})
}
