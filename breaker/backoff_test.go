package breaker

import (
	"testing"
	"testing/synctest"
	"time"
)

// settleProbeWhenDue sleeps until the open period is over, and reports o through the probe.
func settleProbeWhenDue(t *testing.T, b *Breaker, o Outcome) {
	t.Helper()
	time.Sleep(b.Snapshot().RetryAfter)
	p := acquire(t, b)
	if !p.IsProbe() {
		t.Fatal("the call after the open period is not a probe")
	}
	p.Done(t.Context(), o)
}

// The number of failed recoveries falls by one for each MaxOpenFor that passes without another one and without being
// open.
func TestB17_TheOpenPeriodGrowsAndShrinks(t *testing.T) {
	const s = time.Second
	long := Config{OpenFor: s, MaxOpenFor: 64 * s, Jitter: -1, SuccessesToClose: 1}
	// Three failed recoveries, then one that succeeds. The breaker trips again after it was closed for that long.
	for _, tt := range []struct{ closed, want time.Duration }{
		{10 * s, 16 * s}, // within the window: one more failed recovery
		{10*s + 1, 8 * s},
		{64*s - 1, 8 * s},
		{64 * s, 4 * s},
		{2*64*s - 1, 4 * s},
		{2 * 64 * s, 2 * s},
		{3*64*s - 1, 2 * s},
		{3 * 64 * s, s},
		{1000 * 64 * s, s},
		{100 * 365 * 24 * time.Hour, s},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := mustNew(t, long)
			b.Trip(t.Context(), "test")
			for i, want := range []time.Duration{s, 2 * s, 4 * s} {
				if got := b.Snapshot().RetryAfter; got != want {
					t.Fatalf("period %d is %v, want %v", i, got, want)
				}
				settleProbeWhenDue(t, b, Failure)
			}
			settleProbeWhenDue(t, b, Success)
			time.Sleep(tt.closed)
			report(t, b, 5, Failure)
			if got := b.Snapshot().RetryAfter; got != tt.want {
				t.Errorf("closed for %v, the next period is %v, want %v", tt.closed, got, tt.want)
			}
		})
	}
}

func TestB17_TheOpenPeriodIsCapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, Config{OpenFor: time.Second, MaxOpenFor: 5 * time.Second, Jitter: -1})
		report(t, b, 5, Failure)
		for i, want := range []int64{1, 2, 4, 5, 5, 5} {
			if got := b.Snapshot().RetryAfter; got != time.Duration(want)*time.Second {
				t.Fatalf("period %d is %v, want %d s", i, got, want)
			}
			settleProbeWhenDue(t, b, Outcome(1+i%2)) // failures and overloads
		}
		if got := b.Snapshot().FailedRecoveries; got != 3 { // enough to reach MaxOpenFor, and no more
			t.Errorf("FailedRecoveries is %d, want 3", got)
		}
	})
}

// Only a failed recovery counts as one.
func TestB17_OnlyFailedRecoveriesCount(t *testing.T) {
	const s = time.Second
	const open = 5 * s
	for _, tt := range []struct {
		name string
		rows []row
		want int
	}{
		{"a first trip", []row{{0, "failure*5", "open"}}, 0},
		{"trips after recoveries that succeeded", []row{
			{0, "failure*5", "open"},
			{open, "success*3 failure*5", "probe open"},
			{2 * open, "success*3 failure*5", "probe open"},
		}, 0},
		{"trips soon after closing, with few successes in between", []row{
			{0, "failure*5", "open"}, {open, "success*2 failure*5", "probe open"}, {3 * open, "success failure*5", "probe open"},
		}, 2},
		{"a trip at the end of the window after closing", []row{
			{0, "failure*5", "open"}, {open, "success", "probe closed"}, {3 * open, "failure*5", "open"},
		}, 1},
		{"a trip a nanosecond later", []row{
			{0, "failure*5", "open"}, {open, "success", "probe closed"}, {3*open + 1, "failure*5", "open"},
		}, 0},
		{"a trip within an open period that was longer than the window", []row{
			{0, "failure*4 failure@30s", "open"}, {30 * s, "success", "probe closed"}, {60 * s, "failure*5", "open"},
		}, 1},
		{"a trip a nanosecond after that", []row{
			{0, "failure*4 failure@30s", "open"}, {30 * s, "success", "probe closed"}, {60*s + 1, "failure*5", "open"},
		}, 0},
		{"a trip by hand soon after closing", []row{{0, "failure*5", "open"}, {open, "success trip", "probe open"}}, 0},
		{"a trip soon after Reset", []row{{0, "failure*5", "open"}, {0, "reset failure*5", "open"}}, 0},
		{
			"a trip soon after closing, long after a trip by hand",
			[]row{{0, "trip", "open"}, {open, "success failure*5", "probe open"}},
			1,
		},
		{"Trip while open", []row{{0, "trip*3", "open"}}, 0},
		{"Trip while half-open", []row{{0, "trip", "open"}, {open, "begin:1 trip", "probe open"}}, 0},
		{"a probe that was ignored", []row{{0, "trip", "open"}, {open, "ignored", "probe half_open"}}, 0},
		{"a probe that was lost", []row{
			{0, "trip", "open"},
			{open, "begin:1", "probe half_open"},
			{time.Hour, "end:1=failure", "half_open"},
		}, 0},
		{"a failed probe", []row{{0, "trip", "open"}, {open, "failure", "probe open"}}, 1},
		{"0 after Reset", []row{{0, "trip", "open"}, {open, "failure", "probe open"}, {open, "reset trip", "open"}}, 0},
		{"0 after a recovery that succeeded", []row{
			{0, "trip", "open"},
			{open, "failure", "probe open"},
			{3 * open, "failure", "probe open"},
			{7 * open, "success*4 failure*5", "probe open"},
		}, 0},
		{"kept after one that did not, long after", []row{
			{0, "trip", "open"},
			{open, "failure", "probe open"},
			{3 * open, "failure", "probe open"},
			{7 * open, "success*2", "probe closed"},
			{7*open + 30*s, "failure*5", "open"},
		}, 2},
		{"kept by Trip, also after many successes", []row{
			{0, "trip", "open"}, {open, "failure", "probe open"}, {3 * open, "success*9 trip", "probe open"},
		}, 1},
		{"kept by Trip", []row{{0, "trip", "open"}, {open, "failure trip", "probe open"}}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := mustNew(t, steady())
				newTimeline(t, b).run(tt.rows...)
				if got := b.Snapshot().FailedRecoveries; got != tt.want {
					t.Errorf("FailedRecoveries is %d, want %d", got, tt.want)
				}
			})
		})
	}
}

// Jitter only lengthens the period, by at most Config.Jitter, and is drawn for each open period.
func TestB17_JitterIsDrawnAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorder
		b := mustNew(t, Config{OpenFor: 10 * time.Second, Jitter: 0.5, Backoff: 1}, WithListener(rec.Transition))
		seen := make(map[time.Duration]bool)
		var low, high int
		for range 200 {
			b.Trip(t.Context(), "test")
			d := b.Snapshot().RetryAfter
			if d < 10*time.Second || d >= 15*time.Second {
				t.Fatalf("a period of %v, want one in [10s, 15s)", d)
			}
			seen[d] = true
			if d < 11*time.Second {
				low++
			}
			if d >= 14*time.Second {
				high++
			}
		}
		if len(seen) < 190 {
			t.Errorf("200 periods have %d lengths, want at least 190", len(seen))
		}
		if low < 10 || high < 10 { // 40 each are expected; fewer than 10 once in 10^10 runs
			t.Errorf("%d of 200 periods are in the lowest fifth and %d in the highest, want at least 10 each", low, high)
		}
		events := rec.received()
		last := events[len(events)-1]
		if got := b.Snapshot().RetryAfter; last.OpenFor != got || !mustReject(t, b).Until.Equal(last.At.Add(got)) {
			t.Errorf("event, snapshot and error do not agree: %v, %v, %v", last.OpenFor, got, mustReject(t, b).Until)
		}
	})
}

// The default has jitter, so breakers that trip together do not all probe at the same time.
func TestB17_TheDefaultHasJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := make(map[time.Duration]bool)
		for range 50 {
			b := mustNew(t, Config{})
			report(t, b, 5, Failure)
			d := b.Snapshot().RetryAfter
			if d < 5*time.Second || d >= 6*time.Second {
				t.Fatalf("a period of %v, want one in [5s, 6s)", d)
			}
			seen[d] = true
		}
		if len(seen) < 45 {
			t.Errorf("50 breakers have %d periods", len(seen))
		}
	})
}

func TestB18_RetryAfter(t *testing.T) {
	const s = time.Second
	for _, tt := range []struct {
		name string
		rows []row
		want time.Duration
	}{
		{"on the failure that opens", []row{{0, "failure*4 failure@30s", "open"}}, 30 * s},
		{"for less than the period", []row{{0, "failure*4 failure@4s", "open"}}, 5 * s},
		{"for more than a minute", []row{{0, "failure*4 failure@61s", "open"}}, 60 * s},
		{"for years", []row{{0, "failure*4 failure@876000h", "open"}}, 60 * s},
		{"for less than nothing", []row{{0, "failure*4 failure@-30s", "open"}}, 5 * s},
		{"on failures that do not open", []row{{0, "failure@30s*4 failure", "open"}}, 5 * s},
		{"on an overload that opens", []row{{0, "success*10 overload*9 overload@30s", "open"}}, 30 * s},
		{"on a slow success that opens", []row{{0, "success~2s*19 success~2s@30s", "open"}}, 30 * s},
		{"on a failed probe", []row{{0, "trip", "open"}, {5 * s, "failure@30s", "probe open"}}, 30 * s},
		{"on an overloaded probe", []row{{0, "trip", "open"}, {5 * s, "overload@30s", "probe open"}}, 30 * s},
		{
			"on a failed probe, less than the back-off",
			[]row{{0, "trip", "open"}, {5 * s, "failure@9s", "probe open"}},
			10 * s,
		},
		{"on a failed probe, beyond the cap", []row{{0, "trip", "open"}, {5 * s, "failure@61s", "probe open"}}, 60 * s},
		{"not for the next period", []row{
			{0, "failure*4 failure@30s", "open"}, {30 * s, "success*5 failure*5", "probe*2 open"},
		}, 5 * s},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := mustNew(t, Config{Jitter: -1, SlowCall: s})
				newTimeline(t, b).run(tt.rows...)
				if got := b.Snapshot().RetryAfter; got != tt.want {
					t.Errorf("the period is %v, want %v", got, tt.want)
				}
			})
		})
	}
	t.Run("on a custom rule", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := mustNew(t, Config{Jitter: -1}, WithTrip(func(Counts) bool { return true }))
			acquire(t, b).Report(t.Context(), Report{Outcome: Failure, RetryAfter: 30 * s})
			if got := b.Snapshot().RetryAfter; got != 30*s {
				t.Errorf("the period is %v, want 30s", got)
			}
		})
	})
	t.Run("jitter is added", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			for range 50 {
				b := mustNew(t, Config{ConsecutiveFailures: 1, Jitter: 1})
				acquire(t, b).Report(t.Context(), Report{Outcome: Failure, RetryAfter: 8 * s})
				if got := b.Snapshot().RetryAfter; got < 8*s || got >= 16*s {
					t.Fatalf("the period is %v, want one in [8s, 16s)", got)
				}
			}
		})
	})
}
