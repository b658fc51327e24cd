package breaker

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestB26_ClosingEmptiesTheWindow(t *testing.T) {
	const due = 5 * time.Second
	cfg := Config{
		ConsecutiveFailures: 5, FailureRatio: 0.5, MinCalls: 10, SlowCall: time.Second, Jitter: -1,
		SuccessesToClose: 1, Window: time.Hour,
	}
	runScenarios(t, []scenario{
		{"failures before the trip do not count in the ratio rule", cfg, []row{
			{0, "success*9 failure*4 success failure*4", "closed"},
			{0, "failure", "open"},
			{due, "success failure*4 success", "probe closed"},
			{due, "failure*4", "closed"}, // 8 of 9
			{due, "failure", "open"},
		}},
		{"or in the consecutive rule", cfg, []row{
			{0, "failure*5", "open"},
			{due, "success failure*4", "probe closed"},
			{due, "failure", "open"},
		}},
		{"or in the slow rule", cfg, []row{
			{0, "success~2s*9", "closed"},
			{0, "success~2s", "open"},
			{due, "success success~2s*9", "probe closed"},
			{due, "success~2s", "open"},
		}},
		{"Reset empties it too", cfg, []row{
			{0, "success*5 failure*4 reset failure*4", "closed"}, {0, "failure", "open"},
		}},
		{"failures while it was open do not count", cfg, []row{
			{0, "failure*5", "open"}, {0, "force_closed failure*20 clear", "open"}, {due, "success failure*4", "probe closed"},
		}},
	})
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, cfg)
		newTimeline(t, b).run(row{0, "success failure*5", "open"}, row{due, "success", "probe closed"})
		wantSame(t, "the window after closing", b.Snapshot().Window, Counts{})
		if s := b.Snapshot(); s.Failures != 5 || s.Successes != 2 {
			t.Errorf("the totals are %d failures and %d successes, want 5 and 2: only the window is emptied", s.Failures,
				s.Successes)
		}
	})
}

// ramping returns a breaker that has just closed, with a ramp of 100 s.
func ramping(t *testing.T, change func(*Config)) *Breaker {
	t.Helper()
	cfg := Config{Jitter: -1, SuccessesToClose: 1, Ramp: 100 * time.Second, ConsecutiveFailures: -1}
	if change != nil {
		change(&cfg)
	}
	b := mustNew(t, cfg)
	b.Trip(t.Context(), "test")
	time.Sleep(5 * time.Second)
	report(t, b, 1, Success)
	if got := b.State(); got != Closed {
		t.Fatalf("%v, want closed", got)
	}
	return b
}

// admittedOf makes n calls that end at once as ignored. It returns which of them were admitted.
func admittedOf(t *testing.T, b *Breaker, n int) (admitted []int) {
	t.Helper()
	for i := range n {
		p, err := b.Acquire(t.Context())
		if err == nil {
			p.Done(t.Context(), Ignored)
			admitted = append(admitted, i)
		} else {
			wantRejection(t, err.(*RejectedError), Closed, ReasonRamp) //nolint:errorlint // it panics if Acquire wraps the error
		}
	}
	return admitted
}

func TestB27_TheAdmittedFractionRises(t *testing.T) {
	for _, tt := range []struct {
		at       time.Duration
		admitted int // of a thousand
	}{
		{0, 100},
		{1, 100},
		{time.Second, 109},
		{25 * time.Second, 325},
		{50 * time.Second, 550},
		{75 * time.Second, 775},
		{90 * time.Second, 910},
		{100*time.Second - 1, 999},
		{100 * time.Second, 1000},
		{time.Hour, 1000},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := ramping(t, nil)
			time.Sleep(tt.at)
			got := len(admittedOf(t, b, 1000))
			if got < tt.admitted-1 || got > tt.admitted+1 || (tt.admitted == 1000 && got != 1000) {
				t.Errorf("at %v: %d of 1000 admitted, want %d", tt.at, got, tt.admitted)
			}
			if s := b.Snapshot(); s.Rejections.Ramp != uint64(1000-got) {
				t.Errorf("at %v: %d rejections are counted, want %d", tt.at, s.Rejections.Ramp, 1000-got)
			}
			over := tt.at >= 100*time.Second
			if (b.phase.Load().kind == admitPlain) != over {
				t.Errorf("at %v: calls are admitted without the lock: %v, want %v", tt.at, !over, over)
			}
		})
	}
}

// Admissions are spread evenly, not at random: from one to the next there are 1/fraction calls, rounded up or down.
func TestB27_AdmissionsAreSpreadEvenly(t *testing.T) {
	for _, tt := range []struct {
		at          time.Duration
		least, most int // calls from one admission to the next
	}{{0, 10, 11}, {50 * time.Second, 1, 2}, {11111 * time.Millisecond, 4, 5}} {
		synctest.Test(t, func(t *testing.T) {
			b := ramping(t, nil)
			time.Sleep(tt.at)
			admitted := admittedOf(t, b, 500)
			if admitted[0] != 0 {
				t.Errorf("at %v: the first call after closing was rejected", tt.at)
			}
			for i := 1; i < len(admitted); i++ {
				if gap := admitted[i] - admitted[i-1]; gap < tt.least || gap > tt.most {
					t.Fatalf("at %v: calls %d and %d were admitted, want %d to %d from one to the next", tt.at, admitted[i-1],
						admitted[i], tt.least, tt.most)
				}
			}
		})
	}
}

// A call is admitted when the sum of the fractions reaches a whole number.
func TestB27_AWholeCreditAdmits(t *testing.T) {
	pol := &policy{cfg: Config{Ramp: time.Minute}}
	r := &ramp{}
	share := uint64(r.fraction(0, pol) * rampUnit)
	for short, want := range []bool{true, false} {
		r.credit = rampUnit - share - uint64(short)
		if left, admit := r.step(0, pol); admit != want || admit && left != 0 {
			t.Errorf("%d below a whole number: admitted: %t with a credit of %d, want %t", short, admit, left, want)
		}
	}
}

// Over the whole ramp, 55 of 100 evenly spaced calls are admitted.
func TestB27_TheWholeRamp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := ramping(t, nil)
		admitted := 0
		for range 10_000 {
			admitted += len(admittedOf(t, b, 1))
			time.Sleep(10 * time.Millisecond)
		}
		if admitted < 5490 || admitted > 5510 {
			t.Errorf("%d of 10000 admitted, want 5500", admitted)
		}
		if got := len(admittedOf(t, b, 100)); got != 100 {
			t.Errorf("after the ramp %d of 100 admitted", got)
		}
	})
}

func TestB27_MinCallsShrinkWithTheFraction(t *testing.T) {
	for _, tt := range []struct {
		at   time.Duration
		want int
	}{
		{0, 2},
		{50 * time.Second, 11},
		{75 * time.Second, 16},
		{99 * time.Second, 20},
		{100*time.Second - 1, 20},
		{100 * time.Second, 20},
		{time.Hour, 20},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := ramping(t, nil)
			time.Sleep(tt.at)
			if got := b.Snapshot().MinCalls; got != uint64(tt.want) {
				t.Errorf("at %v: MinCalls is %d, want %d", tt.at, got, tt.want)
			}
			failures := 0
			for b.State() == Closed && failures < 100 {
				if p, err := b.Acquire(t.Context()); err == nil {
					p.Done(t.Context(), Failure)
					failures++
				}
			}
			if failures != tt.want {
				t.Errorf("at %v: it took %d failures to trip, want %d", tt.at, failures, tt.want)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) { // at least 1
		b := ramping(t, func(c *Config) { c.MinCalls = 1 })
		if got := b.Snapshot().MinCalls; got != 1 {
			t.Errorf("MinCalls is %d, want 1", got)
		}
	})
	synctest.Test(t, func(t *testing.T) { // also for the slow rule
		b := ramping(t, func(c *Config) { c.SlowCall = time.Second })
		for i := range 2 {
			if got := b.State(); got != Closed {
				t.Fatalf("%v after %d slow calls", got, i)
			}
			for {
				if p, err := b.Acquire(t.Context()); err == nil {
					p.Report(t.Context(), Report{Latency: 2 * time.Second})
					break
				}
			}
		}
		if got := b.State(); got != Open {
			t.Errorf("%v after 2 slow calls of 2, want open", got)
		}
	})
}

func TestB27_ATripDuringTheRampIsAFailedRecovery(t *testing.T) {
	for _, tt := range []struct {
		at   time.Duration
		trip string
		want time.Duration // the next open period; the first was 5 s
	}{
		{0, "failure", 10 * time.Second},
		{50 * time.Second, "failure", 10 * time.Second},
		{100*time.Second - 1, "failure", 10 * time.Second},
		{100 * time.Second, "failure", 5 * time.Second},
		{time.Hour, "failure", 5 * time.Second},
		{0, "trip", 5 * time.Second}, // Trip is not a failed recovery
	} {
		synctest.Test(t, func(t *testing.T) {
			b := ramping(t, func(c *Config) { c.ConsecutiveFailures = 1 })
			newTimeline(t, b).run(row{tt.at, tt.trip, "open"})
			if got := b.Snapshot().RetryAfter; got != tt.want {
				t.Errorf("%s at %v: the next period is %v, want %v", tt.trip, tt.at, got, tt.want)
			}
		})
	}
}

func TestB27_WhichClosingsRamp(t *testing.T) {
	const due = 5 * time.Second
	cfg := Config{Jitter: -1, SuccessesToClose: 1, Ramp: 100 * time.Second}
	none := cfg
	none.Ramp = 0
	half := "success ignored*7"
	runScenarios(t, []scenario{
		{"a new breaker has none", cfg, []row{{0, "success*100", "closed"}}},
		{"a breaker that closes has one", cfg, []row{
			{0, "trip", "open"},
			{due, "success", "probe closed"},
			{due, half, "rejected:ramp*7 closed"},
		}},
		{"not if Ramp is 0", none, []row{{0, "trip", "open"}, {due, "success success*100", "probe closed"}}},
		{"Reset starts none", cfg, []row{{0, "trip reset success*100", "closed"}}},
		{"Reset ends one", cfg, []row{
			{0, "trip", "open"},
			{due, "success", "probe closed"},
			{due, "success*2", "rejected:ramp closed"},
			{due, "reset success*100", "closed"},
		}},
		{"it does not apply to probes", cfg, []row{{0, "trip", "open"}, {due, "ignored*50", "probe*50 half_open"}}},
	})
}

// Apply ends a ramp if Ramp is 0. Another Ramp changes its length.
func TestB27_ApplyDuringTheRamp(t *testing.T) {
	for _, tt := range []struct {
		ramp     time.Duration
		admitted int // of 1000 after 50 s
	}{{0, 1000}, {50 * time.Second, 1000}, {100 * time.Second, 550}, {200 * time.Second, 325}} {
		synctest.Test(t, func(t *testing.T) {
			cfg := Config{Jitter: -1, SuccessesToClose: 1, Ramp: 100 * time.Second}
			g := mustGroup(t, cfg)
			b := g.Get(Key{})
			newTimeline(t, b).run(row{0, "trip", "open"}, row{5 * time.Second, "success", "probe closed"})
			cfg.Ramp = tt.ramp
			if err := g.Apply(cfg); err != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Second)
			if got := len(admittedOf(t, b, 1000)); got < tt.admitted-1 || got > tt.admitted {
				t.Errorf("Ramp %v: %d of 1000 admitted after 50s, want %d", tt.ramp, got, tt.admitted)
			}
		})
	}
}

// The longest ramp and the shortest.
func TestB27_ExtremeRamps(t *testing.T) {
	for _, ramp := range []time.Duration{time.Millisecond, time.Millisecond + 3, maxDuration} {
		synctest.Test(t, func(t *testing.T) {
			b := ramping(t, func(c *Config) { c.Ramp = ramp })
			if got := fmt.Sprint(admittedOf(t, b, 11)); got != "[0 10]" {
				t.Errorf("Ramp %v: of 11 calls at once %s were admitted, want the first and the last", ramp, got)
			}
			time.Sleep(ramp - 1)
			if got := len(admittedOf(t, b, 1)); got > 1 {
				t.Errorf("Ramp %v: %d", ramp, got)
			}
			time.Sleep(time.Nanosecond)
			if got := len(admittedOf(t, b, 100)); got != 100 {
				t.Errorf("Ramp %v: at its end %d of 100 admitted", ramp, got)
			}
		})
	}
}
