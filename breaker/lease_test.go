package breaker

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// The most reported bug of other breakers: one was half-open for six days.
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
		{"a report at its end is late, also if no call came since", probing(1, 1), []row{
			{0, "trip", "open"},
			{due, "begin:1", "probe half_open"},
			{due + lease, "end:1=failure", "half_open"},
			{due + lease, "success", "probe closed"},
		}},
		{"late failures, overloads and cancellations decide nothing", probing(3, 1), []row{
			{0, "trip", "open"},
			{due, "begin:1 begin:2 begin:3", "probe*3 half_open"},
			{due + lease, "end:1=failure end:2=overload end:3=ignored", "half_open"},
			{due + lease, "success", "probe closed"},
		}},
		{"a late report does not free the slot of the next probe", probing(1, 1), []row{
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
		{"a lost probe decides nothing", probing(1, 2), []row{
			{0, "trip", "open"},
			{due, "success begin:lost", "probe*2 half_open"},
			{due + lease, "success", "probe closed"}, // the second in a row
		}},
		{"a call that does not end, in a breaker that closed long ago", probing(2, 1), []row{
			{0, "trip", "open"},
			{due, "begin:endless success", "probe*2 closed"},
			{time.Hour, "success failure end:endless=failure failure*3", "closed"},
			{time.Hour, "failure", "open"},
		}},
		{
			"a lease of an earlier generation takes no slot in this one",
			func() Config { c := probing(1, 1); c.ProbeTimeout = time.Hour; return c }(),
			[]row{
				{0, "trip", "open"},
				{due, "begin:old trip", "probe open"},
				{2 * due, "success", "probe closed"},
			},
		},
	})
}

// A backend that works, but takes longer than a lease, does not keep the breaker half-open. Its successes are late, but
// they count towards closing.
func TestB22_ALateSuccessOfTheSameGenerationCountsTowardsClosing(t *testing.T) {
	const due, lease = 5 * time.Second, time.Second
	slowRule := probing(1, 1)
	slowRule.SlowCall = 2 * lease
	runScenarios(t, []scenario{
		{"alone", probing(1, 1), []row{
			{0, "trip", "open"}, {due, "begin:1", "probe half_open"}, {due + 30*time.Second, "end:1=success", "closed"},
		}},
		{"at the end of its lease, without a call in between", probing(1, 1), []row{
			{0, "trip", "open"}, {due, "begin:1", "probe half_open"}, {due + lease, "end:1=success", "closed"},
		}},
		{"as one of those in a row", probing(1, 3), []row{
			{0, "trip", "open"},
			{due, "begin:1", "probe half_open"},
			{due + lease, "begin:2", "probe half_open"},
			{due + 30*time.Second, "end:1=success success", "probe half_open"},
			{due + 30*time.Second, "end:2=success", "closed"},
		}},
		{"it is counted once", probing(1, 2), []row{
			{0, "trip", "open"},
			{due, "begin:1", "probe half_open"},
			{due + lease, "end:1=success*2", "half_open"},
			{due + lease, "success", "probe closed"},
		}},
		{"unless a late failure comes in between", probing(1, 2), []row{
			{0, "trip", "open"},
			{due, "begin:1", "probe half_open"},
			{due + lease, "begin:2", "probe half_open"},
			{due + 2*lease, "begin:3", "probe half_open"},
			{due + 3*lease, "begin:4", "probe half_open"},
			{due + 4*lease, "end:1=success end:2=failure end:3=success", "half_open"},
			{due + 4*lease, "end:4=success", "closed"},
		}},
		{"or an overload; an ignored probe has no effect", probing(1, 2), []row{
			{0, "trip", "open"},
			{due, "begin:1", "probe half_open"},
			{due + lease, "begin:2", "probe half_open"},
			{due + 2*lease, "begin:3", "probe half_open"},
			{due + 3*lease, "begin:4", "probe half_open"},
			{due + 4*lease, "end:1=success end:2=overload end:3=success", "half_open"},
			{due + 4*lease, "end:4=ignored success", "probe closed"},
		}},
		{"it does not free the slot of another probe", probing(1, 9), []row{
			{0, "trip", "open"},
			{due, "begin:1", "probe half_open"},
			{due + lease, "begin:2", "probe half_open"},
			{due + lease, "end:1=success success", "rejected:half_open half_open"},
		}},
		{"but not if it was slow", slowRule, []row{
			{0, "trip", "open"},
			{due, "begin:1", "probe half_open"},
			{due + 2*lease, "begin:2", "probe half_open"},
			{due + 2*lease + 1, "end:1=success", "half_open"},
			{due + 3*lease, "begin:3", "probe half_open"},
			{due + 4*lease, "end:2=success", "closed"}, // exactly SlowCall, which is not slow
		}},
		{"but not in a later generation", probing(1, 1), []row{
			{0, "trip", "open"},
			{due, "begin:1", "probe half_open"},
			{due + lease, "failure", "probe open"},
			{due + lease, "end:1=success", "open"},
		}},
		{"but not in a later half-open generation", probing(1, 1), []row{
			{0, "trip", "open"},
			{due, "begin:1", "probe half_open"},
			{due + lease, "failure", "probe open"},
			{2*due + lease, "begin:2 end:1=success", "probe half_open"},
		}},
	})
}

// A long poll of half a minute with the default Config: after an outage, the breaker closes.
func TestB22_ABackendSlowerThanALeaseRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, Config{})
		tl := newTimeline(t, b)
		tl.do("failure*5")
		start := time.Now()
		for b.State() != Closed && time.Since(start) < time.Hour {
			if p, err := b.Acquire(t.Context()); err == nil {
				time.AfterFunc(30*time.Second, func() { p.Done(t.Context(), Success) })
			}
			time.Sleep(time.Second)
			synctest.Wait()
		}
		// 6 s open, 10 s until the second probe starts, 30 s until it ends, and a second for each call of the loop.
		if took := time.Since(start); took > 50*time.Second {
			t.Errorf("closed after %v, want at most 50s", took)
		}
		s := b.Snapshot()
		if s.Late != 2 || s.Probes.Lost < 2 || s.Probes.Success != 0 || s.Successes != 0 || s.Recoveries != 1 {
			t.Errorf("%d late, %+v, %d successes, %d recoveries; want 2 late, at least 2 lost, no successes, 1 recovery", s.Late,
				s.Probes, s.Successes, s.Recoveries)
		}
		time.Sleep(time.Minute)
		if s := b.Snapshot(); s.State != Closed || s.InFlight != 0 {
			t.Errorf("%v, %d in flight; want closed, 0", s.State, s.InFlight)
		}
	})
}

// A backend answers some probes, lets others hang, and fails in the end. Few probes hang at the same time. A successful
// probe excuses hung ones for the rest of its generation only.
func TestB22_HungProbesAmongGoodOnesStayBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, Config{Jitter: -1, MaxProbes: 3})
		b.Trip(t.Context(), "test")
		hung := 0
		for start := time.Now(); time.Since(start) < 24*time.Hour; time.Sleep(time.Second) {
			for _, o := range []Outcome{Success, Ignored, Failure} { // the one marked Ignored hangs
				p, err := b.Acquire(t.Context())
				switch {
				case err != nil:
				case o == Ignored:
					hung++
				default:
					p.Done(t.Context(), o)
				}
			}
		}
		if hung < 10 || hung > 300 {
			t.Errorf("%d probes hang after a day, want 10 to 300", hung)
		}
		if got := b.State(); got == Closed {
			t.Error("it closed, though a probe failed in each generation")
		}
	})
}

// After a successful probe, hung probes cause no delay: the next probe may start at once.
func TestB22_ASuccessfulProbeEndsTheDelay(t *testing.T) {
	for _, late := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := mustNew(t, probing(1, 2))
			b.Trip(t.Context(), "test")
			var last Permit
			for start := time.Now(); time.Since(start) < time.Hour; time.Sleep(time.Second) {
				if p, err := b.Acquire(t.Context()); err == nil {
					last = p
				}
			}
			if b.Snapshot().Ready {
				t.Fatal("after an hour of hung probes, a new one is not delayed, so the test proves nothing")
			}
			if !late {
				time.Sleep(time.Hour)
				last = acquire(t, b)
			}
			last.Done(t.Context(), Success)
			time.Sleep(time.Second)
			p, err := b.Acquire(t.Context())
			if err != nil {
				t.Fatalf("late: %v; the backend has answered, and the next probe is rejected: %v", late, err)
			}
			p.Done(t.Context(), Success)
			if got := b.State(); got != Closed {
				t.Errorf("late: %v; %v after two successful probes, want closed", late, got)
			}
		})
	}
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
		tl.until(6 * time.Second) // read, before any call
		want(2, 0, 2)
		tl.do("end:1=success") // reported, before any call
		want(2, 1, 1)
		tl.do("begin:3") // after a call
		want(2, 1, 2)
		tl.do("end:2=failure")
		want(2, 2, 1)
		tl.do("end:3=success")
		want(2, 2, 0)
		wantSame(t, "probes", b.Snapshot().Probes, ProbeCounts{Success: 1, Lost: 2})
	})
}

// With a backend that hangs, few probes are in flight: some dozens, and in the long run one more each hour
// (freeHungProbes, longestProbeDelay). New ones continue to start.
func TestB22_HungProbesStayBounded(t *testing.T) {
	for _, maxProbes := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			b := mustNew(t, probing(maxProbes, 1))
			b.Trip(t.Context(), "test")
			var hung []Permit
			var after [3]int // in flight after an hour, a day, a month
			start := time.Now()
			for i, end := range []time.Duration{time.Hour, 24 * time.Hour, 30 * 24 * time.Hour} {
				for time.Since(start) < end {
					p, err := b.Acquire(t.Context())
					if err == nil {
						hung = append(hung, p)
						continue
					}
					time.Sleep(max(time.Second, end/2e4)) // calls are more frequent than probes
				}
				after[i] = len(hung)
			}
			for i, most := range []int{90 * maxProbes, 90*maxProbes + 24, 90*maxProbes + 30*24} {
				if after[i] > most {
					t.Errorf("MaxProbes %d: %d probes are in flight, want at most %d (after an hour, a day, a month: %v)", maxProbes,
						after[i], most, after)
				}
			}
			if after[0] == after[1] || after[1] == after[2] {
				t.Errorf("MaxProbes %d: no more probes started (after an hour, a day, a month: %v)", maxProbes, after)
			}
			// The hung calls end. The next call is a probe at once.
			for _, p := range hung {
				p.Done(t.Context(), Failure)
			}
			if s := b.Snapshot(); s.State != HalfOpen || s.InFlight != 0 || s.Late == 0 || !s.Ready {
				t.Fatalf("MaxProbes %d: %v, %d in flight, %d late, ready: %v", maxProbes, s.State, s.InFlight, s.Late, s.Ready)
			}
			if p := acquire(t, b); !p.IsProbe() {
				t.Errorf("MaxProbes %d: the next call is not a probe", maxProbes)
			}
		})
	}
}

// Fewer than freeHungProbes*MaxProbes hung probes cause no delay.
func TestB22_AFewLostProbesDelayNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, probing(1, 1))
		rows := []row{{0, "trip", "open"}}
		for i := range freeHungProbes - 1 {
			at := time.Duration(5+i) * time.Second
			before := "rejected:half_open half_open"
			if i == 0 {
				before = "rejected:open open"
			}
			rows = append(rows, row{at - 1, "success", before}, row{at, fmt.Sprintf("begin:%d", i), "probe half_open"})
		}
		newTimeline(t, b).run(append(rows, row{(5 + freeHungProbes - 1) * time.Second, "success", "probe closed"})...)
	})
}

// Probes that were lost in earlier outages must not delay the next recovery.
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
				t.Fatalf("outage %d: after the lease of the lost probe, the next probe is rejected: %v", outage, err)
			}
			p.Done(t.Context(), Success)
			if got := b.State(); got != Closed {
				t.Fatalf("outage %d: %v after a successful probe, want closed", outage, got)
			}
			time.Sleep(24 * time.Hour)
		}
	})
}

// A report finds its probe by the id of the lease, not by its position in the list.
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
