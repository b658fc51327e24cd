package breaker

import (
	"encoding/json"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// wantBalance checks the sum of B37.
func wantBalance(t *testing.T, when string, s Snapshot) {
	t.Helper()
	if got := s.Successes + s.Failures + s.Overloads + s.Ignored + s.Late + s.InFlight; got != s.Admitted {
		t.Errorf("%s: %d successes + %d failures + %d overloads + %d ignored + %d late + %d in flight = %d, want the %d "+
			"admitted", when,
			s.Successes, s.Failures, s.Overloads, s.Ignored, s.Late, s.InFlight, got, s.Admitted)
	}
}

func TestB37_SnapshotFields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := Key{Target: "t", Service: "s", Method: "m", Tag: "g"}
		b, err := New(key, Config{
			FailingFor: -1, SlowCall: time.Second, Jitter: -1, OpenFor: 10 * time.Second,
			MaxOpenFor: time.Minute, MinCalls: 30, MaxProbes: 2, ProbeTimeout: 5 * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		// Since is by the wall clock, without a monotonic reading.
		begin := time.Now().Round(0)
		at := func(d time.Duration) time.Time { return time.Unix(0, begin.Add(d).UnixNano()) }
		tl := newTimeline(t, b)
		want := Snapshot{Key: key, Generation: 1, Since: at(0), Ready: true, MinCalls: 30, Config: b.Config()}
		check := func(when string) {
			t.Helper()
			got := b.Snapshot()
			wantBalance(t, when, got)
			if !got.LastFailure.Equal(want.LastFailure) {
				t.Errorf("%s: the last failure was at %v, want %v", when, got.LastFailure, want.LastFailure)
			}
			got.LastFailure = want.LastFailure
			if !got.Opened.At.Equal(want.Opened.At) {
				t.Errorf("%s: it opened at %v, want %v", when, got.Opened.At, want.Opened.At)
			}
			got.Opened.At = want.Opened.At
			var until time.Time // it opens at 3 s, for 10 s, and again at 15 s, for 20 s
			if want.Underlying == Open {
				until = at(13 * time.Second)
				if want.Generation > 2 {
					until = at(35 * time.Second)
				}
			}
			if !got.OpenUntil.Equal(until) {
				t.Errorf("%s: open until %v, want %v", when, got.OpenUntil, until)
			}
			got.OpenUntil = time.Time{}
			if !got.Outage.At.Equal(want.Outage.At) {
				t.Errorf("%s: the outage began at %v, want %v", when, got.Outage.At, want.Outage.At)
			}
			got.Outage.At = want.Outage.At
			wantSame(t, when, got, want)
		}
		check("new")

		tl.run(row{time.Second, "success*3 success~2s ignored*2 overload begin:late", "closed"})
		want.Admitted, want.Successes, want.Ignored, want.Overloads, want.SlowCalls, want.InFlight = 8, 4, 2, 1, 1, 1
		want.Window = Counts{Successes: 4, Overloads: 1, Slow: 1}
		want.LastFailure = at(time.Second)
		check("closed")

		tl.run(row{2 * time.Second, "failure*4", "closed"})
		want.Admitted, want.Failures, want.LastFailure = 12, 4, at(2*time.Second)
		want.Window.Failures, want.Window.ConsecutiveFailures = 4, 4
		check("nearly open")

		tl.run(row{3 * time.Second, "failure success*3", "rejected:open*3 open"})
		want.State, want.Underlying, want.Generation, want.Since, want.Ready = Open, Open, 2, at(3*time.Second), false
		want.RetryAfter = 10 * time.Second
		want.Admitted, want.Failures, want.LastFailure, want.Window = 13, 5, at(3*time.Second), Counts{}
		want.Rejections.Open, want.Trips.Consecutive = 3, 1
		want.Opened = Opening{
			Rule: RuleConsecutive, Why: "5 failures in a row over 1s", At: at(3 * time.Second),
			Counts: Counts{Successes: 4, Failures: 5, Overloads: 1, Slow: 1, ConsecutiveFailures: 5},
		}
		want.Outage = want.Opened
		check("open")

		tl.run(row{7 * time.Second, "end:late=failure", "open"})
		want.Late, want.InFlight, want.RetryAfter, want.NotClosed = 1, 0, 6*time.Second, 4*time.Second
		check("open, with a late result")

		tl.until(13 * time.Second)
		want.RetryAfter, want.NotClosed, want.Ready = 0, 10*time.Second, true
		check("open and due")

		tl.run(row{14 * time.Second, "begin:lost begin:1 success", "probe*2 rejected:half_open half_open"})
		want.State, want.Underlying, want.Generation, want.Since, want.Ready = HalfOpen, HalfOpen, 3, at(14*time.Second),
			false
		want.Admitted, want.InFlight, want.NotClosed, want.Rejections.HalfOpen = 15, 2, 11*time.Second, 1
		check("half-open")

		tl.run(row{15 * time.Second, "end:1=ignored", "half_open"})
		want.Ready, want.InFlight, want.Ignored, want.Probes.Ignored, want.NotClosed = true, 1, 3, 1, 12*time.Second
		check("half-open, a slot free")

		tl.run(row{15 * time.Second, "success failure", "probe*2 open"})
		want.State, want.Underlying, want.Generation, want.Since, want.Ready = Open, Open, 4, at(15*time.Second), false
		want.RetryAfter, want.FailedRecoveries, want.LastFailure = 20*time.Second, 1, at(15*time.Second)
		want.Admitted, want.Successes, want.Failures = 17, 5, 6
		want.Probes.Success, want.Probes.Failure = 1, 1
		want.Opened = Opening{Rule: RuleProbe, Why: "a probe failed", At: at(15 * time.Second)}
		check("open again")

		tl.run(row{35 * time.Second, "success*2", "probe*2 closed"})
		want.State, want.Underlying, want.Generation, want.Since, want.Ready = Closed, Closed, 6, at(35*time.Second), true
		want.RetryAfter, want.NotClosed, want.Recoveries = 0, 32*time.Second, 1
		want.Outage = Opening{}
		want.Admitted, want.Successes, want.Probes.Success, want.Probes.Lost = 19, 7, 3, 1
		check("closed again, a lost probe still in flight")

		tl.run(row{40 * time.Second, "end:lost=success", "closed"})
		want.Late, want.InFlight = 2, 0
		check("the lost probe has reported")

		b.CountFallback(true)
		b.CountFallback(true)
		b.CountFallback(false)
		want.Fallbacks = FallbackCounts{Served: 2, Failed: 1}
		setOverride(t, b, ForceOpen, time.Minute)
		want.Override = Override{Mode: ForceOpen, TTL: time.Minute, Why: "test", By: t.Name()}
		want.State, want.Ready, want.Mode = Open, false, ForceOpen
		check("forced open")
	})
}

// The JSON names are stable.
func TestB37_SnapshotJSON(t *testing.T) {
	s := Snapshot{
		Key: Key{Target: "t", Service: "s", Method: "m", Tag: "g"}, State: Open, Underlying: HalfOpen, Generation: 1,
		Since: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Ready: true, RetryAfter: 2,
		Override: Override{Mode: Shadow, TTL: 3, Why: "w", By: "b"},
		Window:   Counts{4, 5, 6, 7, 43, 8}, MinCalls: 9, LastFailure: time.Date(2026, 1, 2, 3, 4, 5, 7, time.UTC),
		LastCause: "c",
		Opened: Opening{
			Rule: RuleRatio, Why: "w", Counts: Counts{1, 2, 3, 4, 5, 6}, Cause: "d",
			At: time.Date(2026, 1, 2, 3, 4, 5, 8, time.UTC),
		},
		Outage:           Opening{Rule: RuleSlow, Why: "v", Cause: "e"},
		FailedRecoveries: 10,
		Admitted:         11, Successes: 12, Failures: 13, Overloads: 14, Ignored: 15, Late: 16, InFlight: 17, SlowCalls: 18,
		Rejections: ReasonCounts{19, 20, 21, 22, 23}, ShadowRejections: ReasonCounts{24, 25, 26, 27, 28},
		Trips: RuleCounts{29, 30, 31, 32, 34}, ShadowTrips: RuleCounts{43, 44, 45, 46, 47}, Recoveries: 35, Probes: ProbeCounts{36, 37, 38, 39}, NotClosed: 40,
		Fallbacks: FallbackCounts{41, 42}, Mode: ForceOpen, OpenUntil: time.Date(2026, 1, 2, 3, 4, 5, 9, time.UTC),
		Config: Config{MinCalls: 50}, CustomRule: true,
	}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		`{"key":{"target":"t","service":"s","method":"m","tag":"g"},"state":"open","underlying":"half_open","generation":1,`,
		`"since":"2026-01-02T03:04:05.000000006Z","ready":true,"retryAfter":2,`,
		`"mode":"force_open","override":{"mode":"shadow","ttl":3,"why":"w","by":"b"},`,
		`"window":{"successes":4,"failures":5,"overloads":6,"slow":7,"slowCanceled":43,"consecutiveFailures":8},`,
		`"minCalls":9,`,
		`"lastFailure":"2026-01-02T03:04:05.000000007Z","lastCause":"c",`,
		`"openUntil":"2026-01-02T03:04:05.000000009Z",`,
		`"opened":{"rule":"ratio","why":"w","counts":{"successes":1,"failures":2,"overloads":3,"slow":4,"slowCanceled":5,`,
		`"consecutiveFailures":6},"cause":"d","at":"2026-01-02T03:04:05.000000008Z"},`,
		`"outage":{"rule":"slow","why":"v","counts":{"successes":0,"failures":0,"overloads":0,"slow":0,"slowCanceled":0,`,
		`"consecutiveFailures":0},"cause":"e","at":"0001-01-01T00:00:00Z"},"failedRecoveries":10,`,
		`"admitted":11,"successes":12,"failures":13,"overloads":14,"ignored":15,"late":16,"inFlight":17,"slowCalls":18,`,
		`"rejections":{"open":19,"halfOpen":20,"ramp":21,"forced":22,"concurrency":23},`,
		`"shadowRejections":{"open":24,"halfOpen":25,"ramp":26,"forced":27,"concurrency":28},`,
		`"trips":{"consecutive":29,"ratio":30,"slow":31,"custom":32,"manual":34},"shadowTrips":{"consecutive":43,"ratio":44,"slow":45,"custom":46,"manual":47},"recoveries":35,`,
		`"probes":{"success":36,"failure":37,"ignored":38,"lost":39},"notClosed":40,"fallbacks":{"served":41,"failed":42},"config":{"minCalls":50},"customRule":true}`,
	}, "")
	if got := string(text); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	var back Snapshot
	if err := json.Unmarshal(text, &back); err != nil {
		t.Errorf("reading it back: %v", err)
	}
	wantSame(t, "read back", back, s)
	if _, err := json.Marshal(mustNew(t, Config{}).Snapshot()); err != nil {
		t.Errorf("a snapshot of a breaker: %v", err)
	}
	if got, want := s.Rejections.Total(), uint64(19+20+21+22+23); got != want {
		t.Errorf("Rejections.Total is %d, want %d", got, want)
	}
	if got, want := s.Trips.Total(), uint64(29+30+31+32+34); got != want {
		t.Errorf("Trips.Total is %d, want %d", got, want)
	}
}

// In all states, Ready reports whether Acquire would admit a call.
func TestB37_ReadyMatchesAcquire(t *testing.T) {
	const due = 5 * time.Second
	ramp := steady()
	ramp.Ramp = time.Hour
	limited := steady()
	limited.MaxConcurrent = 1
	for _, tt := range []scenario{
		{"closed", steady(), nil},
		{"open", steady(), []row{{0, "trip", "open"}, {due - 1, "", "open"}}},
		{"due", steady(), []row{{0, "trip", "open"}, {due, "", "open"}}},
		{"half-open", steady(), []row{{0, "trip", "open"}, {due, "ignored", "probe half_open"}}},
		{"half-open, full", steady(), []row{{0, "trip", "open"}, {due, "begin:1", "probe half_open"}}},
		{
			"half-open, one nanosecond before the end of the lease", steady(),
			[]row{{0, "trip", "open"}, {due, "begin:1", "probe half_open"}, {due + 10*time.Second - 1, "", "half_open"}},
		},
		{"half-open, the lease over", steady(), []row{
			{0, "trip", "open"},
			{due, "begin:1", "probe half_open"},
			{due + 10*time.Second, "", "half_open"},
		}},
		{"many probes hang", probing(1, 1), []row{
			{0, "trip", "open"},
			{due, "begin:1", "probe half_open"},
			{6 * time.Second, "begin:2", "probe half_open"},
			{7 * time.Second, "begin:3", "probe half_open"},
			{8 * time.Second, "begin:4", "probe half_open"},
			{9 * time.Second, "begin:5", "probe half_open"},
			{10 * time.Second, "begin:6", "probe half_open"},
			{11 * time.Second, "begin:7", "probe half_open"},
			{12 * time.Second, "begin:8", "probe half_open"},
			{13 * time.Second, "success", "rejected:half_open half_open"},
		}},
		{"ramping", ramp, []row{{0, "trip", "open"}, {due, "success", "probe closed"}}},
		{"ramping, one call admitted", ramp, []row{{0, "trip", "open"}, {due, "success*2", "probe closed"}}},
		{"ramp over", ramp, []row{{0, "trip", "open"}, {due, "success*2", "probe closed"}, {due + time.Hour, "", "closed"}}},
		{"at MaxConcurrent", limited, []row{{0, "begin:1", "closed"}}},
		{"below MaxConcurrent", limited, []row{{0, "begin:1 end:1=success", "closed"}}},
		{"due, at MaxConcurrent", limited, []row{{0, "begin:1 trip", "open"}, {due, "", "open"}}},
		{"forced open", steady(), []row{{0, "force_open", "open"}}},
		{"forced closed", steady(), []row{{0, "trip force_closed", "closed"}}},
		{"shadow", steady(), []row{{0, "trip shadow", "open"}}},
		{"an override that is over", steady(), []row{{0, "trip force_closed/1s", "closed"}, {time.Second, "", "open"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := mustNew(t, tt.cfg)
				newTimeline(t, b).run(tt.rows...)
				ready := b.Snapshot().Ready
				_, err := b.Acquire(t.Context())
				if ready != (err == nil) {
					t.Errorf("ready: %v, and Acquire returned %v", ready, err)
				}
			})
		})
	}
}

// During calls, the sum of each snapshot is correct, and no counter falls.
func TestB37_SnapshotsUnderLoadConcurrentSafe(t *testing.T) {
	const callers, calls = 4, 1500
	g := mustGroup(t, Config{
		Window: time.Millisecond, ConsecutiveFailures: 3, MaxProbes: 2, SuccessesToClose: 1, SlowCall: time.Hour,
	})
	shortenOpenPeriods(g.policies)
	b := g.Get(Key{})
	var running sync.WaitGroup
	for i := range callers {
		running.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 37))
			for range calls {
				p, err := b.Acquire(t.Context())
				if err != nil {
					continue
				}
				if rnd.IntN(50) == 0 {
					runtime.Gosched()
				}
				p.Done(t.Context(), [...]Outcome{Success, Success, Success, Failure, Overload, Ignored}[rnd.IntN(6)])
			}
		})
	}
	var stop atomic.Bool
	var reader sync.WaitGroup
	reader.Go(func() {
		var last Snapshot
		for !stop.Load() && !t.Failed() {
			s := b.Snapshot()
			wantBalance(t, "under load", s)
			for what, pair := range map[string][2]uint64{
				"Admitted": {last.Admitted, s.Admitted}, "Successes": {last.Successes, s.Successes},
				"Failures":  {last.Failures, s.Failures},
				"Overloads": {last.Overloads, s.Overloads}, "Ignored": {last.Ignored, s.Ignored}, "Late": {last.Late, s.Late},
				"Generation": {last.Generation, s.Generation}, "Rejections": {last.Rejections.Total(), s.Rejections.Total()},
			} {
				if pair[1] < pair[0] {
					t.Errorf("%s fell from %d to %d", what, pair[0], pair[1])
				}
			}
			if s.Window.Successes > s.Successes || s.Window.Failures > s.Failures || s.Window.Overloads > s.Overloads {
				t.Errorf("the window holds more than the totals: %+v of %+v", s.Window, s)
			}
			last = s
			runtime.Gosched()
		}
	})
	running.Wait()
	stop.Store(true)
	reader.Wait()
	s := b.Snapshot()
	wantBalance(t, "in the end", s)
	if s.InFlight != 0 || s.Admitted+s.Rejections.Total() != callers*calls {
		t.Errorf("%d in flight, %d admitted and %d rejected of %d", s.InFlight, s.Admitted, s.Rejections.Total(),
			callers*calls)
	}
}

// A snapshot never contains more calls in flight than there are, however long it takes between reading two counters.
func TestB37_InFlightIsNeverTooLargeConcurrentSafe(t *testing.T) {
	const callers, snapshots = 2, 10_000
	b := mustNew(t, Config{Window: time.Hour})
	var stop atomic.Bool
	var most uint64
	runTogether(callers+1, func(i int) {
		if i == callers {
			for range snapshots {
				most = max(most, b.Snapshot().InFlight)
			}
			stop.Store(true)
			return
		}
		for !stop.Load() {
			if p, err := b.Acquire(t.Context()); err == nil {
				p.Done(t.Context(), Success)
			}
		}
	})
	if most > callers {
		t.Errorf("a snapshot saw %d calls in flight of %d callers", most, callers)
	}
}
