package breaker

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// scenario is a timeline of a new breaker.
type scenario struct {
	name string
	cfg  Config
	rows []row
}

func runScenarios(t *testing.T, tests []scenario) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newTimeline(t, mustNew(t, tt.cfg)).run(tt.rows...) })
		})
	}
}

func TestB03_AFastSuccessNeverTrips(t *testing.T) {
	runScenarios(t, []scenario{
		{"it is the MinCalls-th call of the ratio rule", ratioOnly(0.5, 20), []row{
			{0, "failure*10 success*9", "closed"},
			{0, "success", "closed"}, // 10 of 20
			{0, "success ignored", "closed"},
			{time.Second, "ignored", "closed"},
			{time.Second, "failure", "open"}, // 11 of 22
		}},
		{"it is the MinCalls-th call of the slow rule", Config{MinCalls: 4, SlowCall: time.Second}, []row{
			{0, "success~2s*2 success", "closed"},
			{0, "success~1s", "closed"}, // 2 of 4
			{0, "success~2s", "open"},
		}},
		{"older successes leave the window", ratioOnly(0.5, 2), []row{
			{0, "success*3", "closed"},
			{9 * time.Second, "failure*2", "closed"}, // 2 of 5
			{10 * time.Second, "success", "closed"},  // 2 of 3
			{10 * time.Second, "failure", "open"},
		}},
	})
}

func TestB03_WhenTheCustomRuleIsCalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var called []Counts
		b := mustNew(t, Config{SlowCall: time.Second}, WithTrip(func(c Counts) bool {
			called = append(called, c)
			return false
		}))
		newTimeline(t, b).run(
			row{0, "success*30 ignored*5 success~1s", "closed"},
			row{0, "failure", "closed"},
			row{0, "overload", "closed"},
			row{0, "success~2s", "closed"},
			row{0, "success ignored~2s", "closed"},
		)
		wantSame(t, "arguments of the custom rule", called, []Counts{
			{Successes: 31, Failures: 1, ConsecutiveFailures: 1},
			{Successes: 31, Failures: 1, Overloads: 1, ConsecutiveFailures: 1},
			{Successes: 32, Failures: 1, Overloads: 1, Slow: 1},
		})
	})
}

func TestB04_ConsecutiveRule(t *testing.T) {
	const year = 365 * 24 * time.Hour
	off := Config{ConsecutiveFailures: -1, FailureRatio: -1}
	three := Config{ConsecutiveFailures: 3, FailureRatio: -1}
	runScenarios(t, []scenario{
		{"the Nth trips", three, []row{
			{0, "failure", "closed"}, {0, "failure", "closed"}, {0, "failure", "open"}, {0, "success", "rejected:open open"},
		}},
		{"one is enough", Config{ConsecutiveFailures: 1}, []row{{0, "success*100", "closed"}, {0, "failure", "open"}}},
		{"however far apart", three, []row{
			{0, "failure", "closed"},
			{year, "failure", "closed"},
			{40 * year, "failure", "open"},
		}},
		{"a success resets", three, []row{
			{0, "failure*2 success failure*2", "closed"}, {0, "success failure*2", "closed"}, {0, "failure", "open"},
		}},
		{"a slow success resets too", Config{ConsecutiveFailures: 3, SlowCall: time.Second}, []row{
			{0, "failure*2 success~2s failure*2", "closed"}, {0, "failure", "open"},
		}},
		{"a success that slides the window resets too", three, []row{
			{0, "failure*2", "closed"},
			{time.Hour, "success", "closed"},
			{time.Hour, "failure*2", "closed"},
			{time.Hour, "failure", "open"},
		}},
		{"ignored and overload do not affect it", three, []row{
			{0, "failure ignored overload failure", "closed"}, {0, "overload*5 ignored*5", "closed"}, {0, "failure", "open"},
		}},
		{"concurrent calls", three, []row{
			{0, "begin:1 begin:2 begin:3 begin:4", "closed"},
			{1, "end:1=failure end:2=failure", "closed"},
			{2, "end:3=success end:4=failure", "closed"},
		}},
		{"off", off, []row{{0, "failure*1000", "closed"}, {0, "overload*1000", "closed"}}},
	})
}

// A success takes no lock. It must end the streak even if another success was delayed while it did the same.
func TestB04_ASuccessResetsWhileAnotherOneDoes(t *testing.T) {
	for _, doubt := range []uint32{0, 1} { // the other success may have done the first of its two stores
		b := mustNew(t, Config{})
		report(t, b, 4, Failure)
		b.phase.Load().win.doubt.Store(doubt)
		report(t, b, 1, Success)
		report(t, b, 1, Failure)
		if s := b.Snapshot(); s.State != Closed || s.Window.ConsecutiveFailures != 1 {
			t.Errorf("doubt is %v: %v after %d failures since the last success, want closed, 1", doubt, s.State,
				s.Window.ConsecutiveFailures)
		}
	}
}

func TestB05_RatioRule(t *testing.T) {
	runScenarios(t, []scenario{
		{"inclusive", ratioOnly(0.5, 4), []row{{0, "success*2 failure", "closed"}, {0, "failure", "open"}}},
		{"just below", ratioOnly(0.5, 4), []row{
			{0, "success*3 failure*2", "closed"},
			{0, "success failure", "closed"},
			{0, "failure", "open"},
		}},
		{"not before MinCalls", ratioOnly(0.5, 20), []row{{0, "failure*19", "closed"}, {0, "failure", "open"}}},
		{"MinCalls count calls of all kinds but ignored", ratioOnly(0.1, 5), []row{
			{0, "success*2 overload failure ignored*10", "closed"}, {0, "failure", "open"},
		}},
		{"overload counts as a failure", ratioOnly(0.5, 4), []row{
			{0, "success*2 overload", "closed"},
			{0, "overload", "open"},
		}},
		{"all of them", ratioOnly(1, 3), []row{{0, "failure*2", "closed"}, {0, "failure", "open"}}},
		{"all of them, but one", ratioOnly(1, 3), []row{{0, "success failure*50", "closed"}}},
		{"57 of 100 trips at 0.57", ratioOnly(0.57, 100), []row{
			{0, "success*43 failure*56", "closed"},
			{0, "failure", "open"},
		}},
		{"7 of 100 trips at 0.07", ratioOnly(0.07, 100), []row{
			{0, "success*93 failure*6", "closed"},
			{0, "failure", "open"},
		}},
		{"56 of 100 does not trip at 0.57", ratioOnly(0.57, 100), []row{{0, "success*44 failure*56", "closed"}}},
		{"off", Config{FailureRatio: -0.5, ConsecutiveFailures: -1, MinCalls: 1}, []row{{0, "failure*100", "closed"}}},
	})
}

// For each percentage, through a breaker: k of 100 trips at k %, and k-1 does not.
func TestB05_EveryPercentage(t *testing.T) {
	for percent := 1; percent <= 100; percent++ {
		cfg := ratioOnly(float64(percent)/100, 100)
		cfg.Window = time.Hour
		b := mustNew(t, cfg)
		report(t, b, 100-percent, Success)
		report(t, b, percent-1, Failure)
		if got := b.State(); got != Closed {
			t.Errorf("%d %%: %v after %d failures in 99 calls", percent, got, percent-1)
			continue
		}
		report(t, b, 1, Failure)
		if got := b.State(); got != Open {
			t.Errorf("%d %%: %v after %d failures in 100 calls", percent, got, percent)
		}

		b = mustNew(t, cfg)
		report(t, b, 101-percent, Success)
		report(t, b, percent-1, Failure)
		if got := b.State(); got != Closed {
			t.Errorf("%d %%: %v after %d failures in 100 calls", percent, got, percent-1)
		}
	}
}

func TestB06_ACallIsSlowIfItTookStrictlyLonger(t *testing.T) {
	const limit = 150 * time.Millisecond
	for _, tt := range []struct {
		took time.Duration
		slow uint64
	}{{0, 0}, {1, 0}, {limit - 1, 0}, {limit, 0}, {limit + 1, 1}, {time.Hour, 1}} {
		for _, o := range []Outcome{Success, Failure, Overload} {
			synctest.Test(t, func(t *testing.T) { // measured by the clock
				b := mustNew(t, Config{SlowCall: limit})
				p := acquire(t, b)
				time.Sleep(tt.took)
				p.Done(t.Context(), o)
				if s := b.Snapshot(); s.SlowCalls != tt.slow || s.Window.Slow != tt.slow || s.Window.Calls() != 1 {
					t.Errorf("%v after %v: %d slow, window %+v, want %d slow of 1", o, tt.took, s.SlowCalls, s.Window, tt.slow)
				}
			})
			synctest.Test(t, func(t *testing.T) { // reported latency; 0 is measured by the clock
				b := mustNew(t, Config{SlowCall: limit})
				acquire(t, b).Report(t.Context(), Report{Outcome: o, Latency: tt.took})
				if s := b.Snapshot(); s.SlowCalls != tt.slow || s.Window.Slow != tt.slow {
					t.Errorf("%v that reports %v: %d slow, window %+v, want %d slow", o, tt.took, s.SlowCalls, s.Window, tt.slow)
				}
			})
		}
	}
}

// A reported Latency replaces the time since Acquire, whether it is longer or shorter.
func TestB06_AReportedLatencyCountsInstead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, Config{SlowCall: time.Second})
		for _, tt := range []struct {
			latency time.Duration
			slow    uint64
		}{{time.Second, 0}, {1, 0}, {0, 1}, {-1, 1}} {
			before := b.Snapshot().SlowCalls
			p := acquire(t, b)
			time.Sleep(time.Minute)
			p.Report(t.Context(), Report{Latency: tt.latency})
			if got := b.Snapshot().SlowCalls - before; got != tt.slow {
				t.Errorf("a minute, reported as %v: %d slow calls, want %d", tt.latency, got, tt.slow)
			}
		}
	})
}

func TestB06_SlowRule(t *testing.T) {
	cfg := Config{SlowCall: time.Second, MinCalls: 4}
	exact := Config{SlowCall: time.Second, MinCalls: 100, SlowRatio: 0.57}
	both := Config{SlowCall: time.Second, MinCalls: 4, FailureRatio: 1, SlowRatio: 0.75, ConsecutiveFailures: -1}
	runScenarios(t, []scenario{
		{"even if all succeeded", cfg, []row{{0, "success*2 success~2s", "closed"}, {0, "success~2s", "open"}}},
		{"not before MinCalls", cfg, []row{{0, "success~2s*3", "closed"}, {0, "success~2s", "open"}}},
		{"exactly as long is not slow", cfg, []row{{0, "success~1s*1000", "closed"}}},
		{"57 of 100", exact, []row{{0, "success*43 success~2s*56", "closed"}, {0, "success~2s", "open"}}},
		{"56 of 100", exact, []row{{0, "success*44 success~2s*56", "closed"}}},
		{"ignored is not slow", cfg, []row{{0, "ignored~2s*1000", "closed"}}},
		{"slow and failed is one call", both, []row{{0, "failure~2s*2 success", "closed"}, {0, "failure~2s", "open"}}},
		{"off", Config{MinCalls: 1}, []row{{0, "success~1000h*1000", "closed"}}},
	})
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, both)
		newTimeline(t, b).run(row{0, "failure~2s overload~2s success~2s", "closed"})
		s := b.Snapshot()
		wantSame(t, "window", s.Window, Counts{Successes: 1, Failures: 1, Overloads: 1, Slow: 3})
		if s.Successes != 1 || s.Failures != 1 || s.Overloads != 1 || s.SlowCalls != 3 || s.Admitted != 3 {
			t.Errorf("totals: %+v, want one of each, 3 slow, 3 admitted", s)
		}
	})
}

// A call that was admitted before the rule was switched on is not slow, also if it reports a latency.
func TestB06_ACallFromBeforeTheRuleIsNotSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := mustGroup(t, Config{})
		b := g.Get(Key{})
		p, reporting := acquire(t, b), acquire(t, b)
		if err := g.Apply(Config{SlowCall: time.Millisecond}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		p.Done(t.Context(), Success)
		if got := b.Snapshot().SlowCalls; got != 0 {
			t.Errorf("%d slow calls, want 0: its start was not taken", got)
		}
		reporting.Report(t.Context(), Report{Latency: time.Hour})
		if got := b.Snapshot().SlowCalls; got != 0 {
			t.Errorf("%d slow calls, want 0: it was admitted before the rule was on", got)
		}
		acquire(t, b).Report(t.Context(), Report{Latency: time.Hour})
		if got := b.Snapshot().SlowCalls; got != 1 {
			t.Errorf("%d slow calls, want 1: it was admitted while the rule was on", got)
		}
	})
}

func TestB10_OneTripTheFirstRuleIsNamed(t *testing.T) {
	// The fourth of four slow failures fires all rules that are on.
	for _, tt := range []struct {
		consecutive int
		ratio       float64
		slow        time.Duration
		custom      bool
		want        Rule
		why         string
		called      int
	}{
		{4, 0.5, time.Second, true, RuleConsecutive, "4 failures in a row", 3},
		{4, -1, 0, true, RuleConsecutive, "4 failures in a row", 3},
		{-1, 0.5, time.Second, true, RuleRatio, "4 of 4 calls failed", 3},
		{-1, -1, time.Second, true, RuleSlow, "4 of 4 calls took longer than 1s", 3},
		{-1, -1, 0, true, RuleCustom, "the custom rule fired", 4},
		{-1, -1, 0, false, 0, "", 4},
	} {
		synctest.Test(t, func(t *testing.T) {
			var rec recorder
			called := 0
			b := mustNew(t, Config{
				ConsecutiveFailures: tt.consecutive, FailureRatio: tt.ratio, SlowCall: tt.slow, MinCalls: 4,
			}, WithListener(rec.Transition), WithTrip(func(c Counts) bool {
				called++
				return tt.custom && c.Failures >= 4
			}))
			for range 4 {
				acquire(t, b).Report(t.Context(), Report{Outcome: Failure, Latency: 2 * time.Second})
			}
			if called != tt.called {
				t.Errorf("%v: the custom rule was called %d times, want %d", tt.want, called, tt.called)
			}
			if tt.want == 0 {
				wantSame(t, "events", rec.brief(), []string(nil))
				return
			}
			wantSame(t, "events", rec.brief(), []string{fmt.Sprintf("1 closed>open %v", tt.want)})
			if got := rec.received()[0].Why; got != tt.why {
				t.Errorf("%v: why is %q, want %q", tt.want, got, tt.why)
			}
			if s := b.Snapshot(); s.Trips.Total() != 1 || s.Generation != 2 {
				t.Errorf("%v: %d trips, generation %d, want 1 and 2", tt.want, s.Trips.Total(), s.Generation)
			}
		})
	}
}

// The custom rule runs without any lock held. Its result counts only in the generation of its counts.
func TestCustomRule(t *testing.T) {
	tests := []struct {
		name string
		trip func(b *Breaker, c Counts) bool
		want State
		gen  uint64
	}{
		{"returns false", func(*Breaker, Counts) bool { return false }, Closed, 1},
		{"returns true", func(_ *Breaker, c Counts) bool { return c.Failures == 1 }, Open, 2},
		{"panics", func(*Breaker, Counts) bool { panic("test") }, Closed, 1},
		{"exits", func(*Breaker, Counts) bool { runtime.Goexit(); return true }, Closed, 1},
		{
			"reads the breaker", func(b *Breaker, _ Counts) bool { return b.Snapshot().Failures == 1 && b.State() == Closed },
			Open, 2,
		},
		{"calls Trip and returns true", func(b *Breaker, _ Counts) bool { b.Trip(t.Context(), "x"); return true }, Open, 2},
		{"calls Reset and returns true", func(b *Breaker, _ Counts) bool { b.Reset(t.Context()); return true }, Closed, 2},
	}
	for _, tt := range tests {
		var b *Breaker
		b = mustNew(t, Config{}, WithTrip(func(c Counts) bool { return tt.trip(b, c) }))
		p := acquire(t, b)
		var wg sync.WaitGroup
		wg.Go(func() { p.Done(t.Context(), Failure) }) // on another goroutine, because one of them exits
		wg.Wait()
		s := b.Snapshot()
		if s.State != tt.want || s.Generation != tt.gen || s.Failures != 1 || s.InFlight != 0 {
			t.Errorf("%s: %v in generation %d, %d failures, %d in flight; want %v in %d, 1 failure, none", tt.name,
				s.State, s.Generation, s.Failures, s.InFlight, tt.want, tt.gen)
		}
	}
}
