package breaker

import (
	"testing"
	"testing/synctest"
	"time"
)

// newDefaultTimeline returns a timeline of a breaker that New makes, with cfg and without jitter. Unlike mustNew, it
// keeps all other defaults.
func newDefaultTimeline(t *testing.T, cfg Config) *timeline {
	t.Helper()
	cfg.Jitter = -1
	b, err := New(Key{}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return newTimeline(t, b)
}

// A failure streak must have ConsecutiveFailures failures and last FailingFor.
func TestB04_FailuresMustLast(t *testing.T) {
	consecutive := Config{FailureRatio: -1}
	for _, tt := range []struct {
		name string
		cfg  Config
		rows []row
	}{
		{"one lost connection", consecutive, []row{{0, "failure*5", "closed"}, {0, "failure*95", "closed"}}},
		{
			"four in one instant and one an hour later", consecutive,
			[]row{{0, "failure*4", "closed"}, {time.Hour, "failure", "closed"}},
		},
		{"five an hour apart", consecutive, []row{
			{0, "failure", "closed"},
			{time.Hour, "failure", "closed"},
			{2 * time.Hour, "failure", "closed"},
			{3 * time.Hour, "failure", "closed"},
			{4 * time.Hour, "failure", "open"},
		}},
		{"five over nearly a second", consecutive, []row{
			{0, "failure", "closed"},
			{250 * ms, "failure", "closed"},
			{500 * ms, "failure", "closed"},
			{750 * ms, "failure", "closed"},
			{1000*ms - 1, "failure", "closed"},
		}},
		{"five over a second", consecutive, []row{
			{0, "failure", "closed"},
			{250 * ms, "failure", "closed"},
			{500 * ms, "failure", "closed"},
			{750 * ms, "failure", "closed"},
			{1000 * ms, "failure", "open"},
		}},
		{"enough failures soon, and the first one after a second opens", consecutive, []row{
			{0, "failure", "closed"},
			{20 * ms, "failure", "closed"},
			{40 * ms, "failure", "closed"},
			{60 * ms, "failure", "closed"},
			{80 * ms, "failure", "closed"},
			{999 * ms, "failure", "closed"},
			{1001 * ms, "failure", "open"},
		}},
		{"the failure that opens need not count itself", consecutive, []row{
			{0, "failure", "closed"},
			{20 * ms, "failure", "closed"},
			{40 * ms, "failure", "closed"},
			{60 * ms, "failure", "closed"},
			{995 * ms, "failure", "closed"},
			{1000 * ms, "failure", "open"},
		}},
		{"10 ms after the last one counted is the same failure", consecutive, []row{
			{0, "failure", "closed"},
			{10 * ms, "failure", "closed"},
			{20 * ms, "failure", "closed"},
			{30 * ms, "failure", "closed"},
			{40 * ms, "failure", "closed"},
			{1100 * ms, "failure", "closed"},
			{1200 * ms, "failure", "open"}, // 0, 20, 40, 1100, 1200
		}},
		{"10 ms and a nanosecond is another failure", consecutive, []row{
			{0, "failure", "closed"},
			{10*ms + 1, "failure", "closed"},
			{20*ms + 2, "failure", "closed"},
			{30*ms + 3, "failure", "closed"},
			{1100 * ms, "failure", "open"},
		}},
		{"a success ends the streak and its duration", consecutive, []row{
			{0, "failure", "closed"},
			{900 * ms, "failure*1 success failure", "closed"},
			{1200 * ms, "failure", "closed"},
			{1400 * ms, "failure", "closed"},
			{1600 * ms, "failure", "closed"},
			{1800 * ms, "failure", "closed"},
			{1900 * ms, "failure", "open"},
		}},
		{"overloads and ignored calls neither count nor end it", consecutive, []row{
			{0, "failure", "closed"},
			{300 * ms, "failure overload", "closed"},
			{600 * ms, "failure ignored", "closed"},
			{900 * ms, "failure", "closed"},
			{1100 * ms, "overload*3 ignored*3", "closed"},
			{1200 * ms, "failure", "open"},
		}},
		{"an overload does not open, however long the streak is", consecutive, []row{
			{0, "failure", "closed"},
			{300 * ms, "failure", "closed"},
			{600 * ms, "failure", "closed"},
			{800 * ms, "failure", "closed"},
			{900 * ms, "failure", "closed"},
			{5000 * ms, "overload", "closed"},
			{5000 * ms, "failure", "open"},
		}},
		{"a longer FailingFor", Config{FailureRatio: -1, FailingFor: 3 * time.Second, ConsecutiveFailures: 2}, []row{
			{0, "failure", "closed"}, {3000*ms - 1, "failure", "closed"}, {3000 * ms, "failure", "open"},
		}},
		{
			"negative: the Nth opens at once",
			Config{FailureRatio: -1, FailingFor: -1},
			[]row{{0, "failure*4", "closed"}, {0, "failure", "open"}},
		},
		{
			"ConsecutiveFailures 1: the first opens",
			Config{FailureRatio: -1, ConsecutiveFailures: 1},
			[]row{{0, "failure", "open"}},
		},
		{
			"ConsecutiveFailures 1 with FailingFor",
			Config{FailureRatio: -1, ConsecutiveFailures: 1, FailingFor: time.Second},
			[]row{
				{0, "failure", "closed"}, {1000 * ms, "failure", "open"},
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newDefaultTimeline(t, tt.cfg).run(tt.rows...) })
		})
	}
}

// The streak and its duration survive a new policy and another window.
func TestB04_B34_TheStreakSurvivesApply(t *testing.T) {
	for _, window := range []time.Duration{0, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			g, err := NewGroup(Config{FailureRatio: -1, SlowCall: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			tl := newTimeline(t, g.Get(Key{}))
			tl.run(row{0, "failure", "closed"}, row{300 * ms, "failure", "closed"}, row{600 * ms, "failure", "closed"})
			if err := g.Apply(Config{
				FailureRatio: -1, SlowCall: time.Hour, Window: window,
				ConsecutiveFailures: 4,
			}); err != nil {
				t.Fatal(err)
			}
			tl.run(row{1000*ms - 1, "failure", "closed"}, row{1000 * ms, "failure", "open"})
		})
	}
}

// Event.Why contains how long the streak lasted.
func TestB31_TheReasonOfAStreakHasItsDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorder
		b, err := New(Key{}, Config{}, WithListener(rec.Transition))
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			report(t, b, 1, Failure)
			time.Sleep(300*ms + 123456)
		}
		if got, want := rec.received()[0].Why, "5 failures in a row over 1.2s"; got != want {
			t.Errorf("why is %q, want %q", got, want)
		}
	})
}

// The ratio and slow rules must also hold without the largest burst. For that, half of MinCalls (20) is enough. And
// bursts must begin in two tenths of the window.
func TestB05_B06_OneBurstDoesNotOpen(t *testing.T) {
	const s = time.Second
	ratio := Config{ConsecutiveFailures: -1}
	slow := Config{ConsecutiveFailures: -1, FailureRatio: -1, SlowCall: s}
	for _, tt := range []struct {
		name string
		cfg  Config
		rows []row
	}{
		{"a lost connection after an idle minute", ratio, []row{{60 * s, "failure*100", "closed"}}},
		{"more in the same tenth", ratio, []row{{60 * s, "failure*100", "closed"}, {61*s - 1, "failure*100", "closed"}}},
		{
			"a lost connection, and another call that fails", ratio,
			[]row{{60 * s, "failure*20", "closed"}, {61 * s, "success*14", "closed"}, {62 * s, "failure", "closed"}},
		},
		{"a lost connection among calls of which a fifth fails", ratio, []row{
			{60 * s, "success*8 failure*2", "closed"},
			{62 * s, "success*8 failure*2", "closed"},
			{64 * s, "failure*100", "closed"},
			{65 * s, "success*4 failure*2", "closed"},
			{66 * s, "success*8 failure*4", "closed"},
		}},
		{
			"a lost connection, and too few calls that fail", ratio,
			[]row{{60 * s, "failure*100", "closed"}, {61 * s, "failure*9", "closed"}},
		},
		{
			"a lost connection, and enough calls that fail", ratio,
			[]row{{60 * s, "failure*100", "closed"}, {61 * s, "failure*9", "closed"}, {61 * s, "failure", "open"}},
		},
		{"half of 21 calls is 11", Config{ConsecutiveFailures: -1, MinCalls: 21}, []row{
			{60 * s, "failure*100", "closed"}, {61 * s, "failure*10", "closed"}, {61 * s, "failure", "open"},
		}},
		{"twice half of MinCalls", ratio, []row{
			{60 * s, "failure*10", "closed"},
			{61 * s, "failure*9", "closed"},
			{61 * s, "failure", "open"},
		}},
		{"overloads", ratio, []row{
			{60 * s, "overload*10", "closed"},
			{61 * s, "failure*9", "closed"},
			{61 * s, "overload", "open"},
		}},
		{"half of the rest", ratio, []row{
			{60 * s, "failure*100", "closed"},
			{61 * s, "success*10 failure*9", "closed"},
			{61 * s, "failure", "open"},
		}},
		{"good calls in the tenth of the burst are left out with it", ratio, []row{
			{60 * s, "success*50 failure*100", "closed"}, {61 * s, "success*6 failure*5", "closed"}, {61 * s, "failure", "open"},
		}},
		{"only a proportional number of them is left out: 40 of 50", ratio, []row{
			{60 * s, "success*50 failure*100", "closed"}, {60*s + 500*ms, "failure*25", "closed"}, // 100 of 125 are the burst
			{61 * s, "success*26 failure*10", "closed"}, {61 * s, "failure", "open"}, // 36 failures and 36 others
		}},
		{"of two bursts of one size the newer one is left out", Config{ConsecutiveFailures: -1, MinCalls: 24}, []row{
			{60 * s, "success*12 failure*10", "closed"},
			{61 * s, "success*2 failure*10", "closed"},
			{61 * s, "failure", "closed"},
		}},
		{"one burst on both sides of the border", ratio, []row{
			{61*s - 5*ms, "failure*50", "closed"},
			{61*s + 5*ms, "failure*50", "closed"},
		}},
		{"two bursts, one on each side of the border, over half a second", ratio, []row{
			{61*s - 5*ms, "failure*50", "closed"},
			{61*s + 5*ms + 1, "failure*20", "closed"},
			{61*s + 495*ms - 1, "failure", "closed"},
			{61*s + 495*ms, "failure", "open"},
		}},
		{"calls that follow one another within 10 ms are one burst", ratio, []row{
			{60 * s, "failure*20", "closed"},
			{60*s + 10*ms, "failure*20", "closed"},
			{60*s + 20*ms, "failure*20", "closed"},
			{61 * s, "success*30 failure*20", "closed"},
		}},
		{"calls further apart are not", ratio, []row{
			{60 * s, "failure*20", "closed"},
			{60*s + 10*ms + 1, "failure*20", "closed"},
			{60*s + 20*ms + 2, "failure*20", "closed"},
			{61 * s, "success*30", "closed"},
			{61 * s, "failure", "open"},
		}},
		{"a burst ends after a tenth of the window", Config{ConsecutiveFailures: -1, Window: 100 * ms}, []row{
			{0, "failure*5", "closed"},
			{5 * ms, "failure*5", "closed"},
			{10*ms - 1, "failure*10", "closed"},
			{10 * ms, "failure*9", "closed"},
			{50 * ms, "failure", "open"}, // 20 and 9 and 1
		}},
		{"bad calls must last for half of FailingFor", Config{ConsecutiveFailures: -1, FailingFor: 6 * s}, []row{
			{60 * s, "failure*10", "closed"},
			{62 * s, "failure*10", "closed"},
			{63*s - 1, "failure", "closed"},
			{63 * s, "failure", "open"},
		}},
		{"or for half of the window", Config{ConsecutiveFailures: -1, FailingFor: 30 * s}, []row{
			{60 * s, "failure*10", "closed"},
			{62 * s, "failure*10", "closed"},
			{65*s - 1, "failure", "closed"},
			{65 * s, "failure", "open"},
		}},
		{"from the first burst that is still in the window", Config{ConsecutiveFailures: -1, FailingFor: 6 * s}, []row{
			{60 * s, "failure", "closed"},
			{70 * s, "failure*10", "closed"},
			{72 * s, "failure*10", "closed"},
			{73 * s, "failure", "open"},
		}},
		{"the first half has left the window, and the second is still one burst", ratio, []row{
			{61*s - 5*ms, "failure*50", "closed"},
			{61*s + 5*ms, "failure*50", "closed"},
			{70*s + 500*ms, "success*15 failure*11", "closed"},
		}},
		{"the largest burst has left the window", ratio, []row{
			{60 * s, "failure*100", "closed"},
			{69 * s, "failure*9", "closed"},
			{70 * s, "failure*10", "closed"},
			{71 * s, "failure", "open"},
		}},
		{"a tenth that is shorter than 10 ms", Config{ConsecutiveFailures: -1, Window: 10 * ms, MinCalls: 4}, []row{
			// 4, 1 and 1
			{0, "failure*2", "closed"},
			{1*ms - 1, "failure*2", "closed"},
			{1 * ms, "failure", "closed"},
			{5 * ms, "failure", "open"},
		}},
		{
			"negative FailingFor",
			Config{ConsecutiveFailures: -1, FailingFor: -1},
			[]row{{60 * s, "failure*19", "closed"}, {60 * s, "failure", "open"}},
		},

		{"slow calls in one tenth", slow, []row{
			{60 * s, "success~2s*100", "closed"},
			{61 * s, "success~2s*9", "closed"},
			{61 * s, "success~2s", "open"},
		}},
		{"slow canceled calls", slow, []row{
			{60 * s, "canceled~2s*100", "closed"},
			{61 * s, "canceled~2s*9", "closed"},
			{61 * s, "canceled~2s", "open"},
		}},
		{"slow calls on both sides of the border", slow, []row{
			{61*s - 5*ms, "success~2s*50", "closed"},
			{61*s + 5*ms, "canceled~2s*50", "closed"},
		}},
		{"failures that are not slow do not count in the slow rule", slow, []row{
			{60 * s, "success~2s*100", "closed"},
			{61 * s, "failure*10", "closed"},
			{61 * s, "failure~2s*9", "closed"},
			{61 * s, "failure~2s", "open"},
		}},
		{"fast calls of all kinds in the tenth of the burst are left out with it", slow, []row{
			{60 * s, "success*20 failure*20 success~2s*100", "closed"},
			{61 * s, "success*6 success~2s*5", "closed"},
			{61 * s, "success~2s", "open"},
		}},
		{
			"slow successes do not count as failures in the ratio rule",
			Config{ConsecutiveFailures: -1, SlowCall: s, SlowRatio: 1},
			[]row{
				{60 * s, "failure*100", "closed"},
				{61 * s, "success~2s*10", "closed"},
				{61 * s, "failure*9", "closed"},
				{61 * s, "failure", "open"},
			},
		},
		{
			"slow calls, negative FailingFor",
			Config{ConsecutiveFailures: -1, FailingFor: -1, FailureRatio: -1, SlowCall: s},
			[]row{
				{60 * s, "success~2s*19", "closed"}, {60 * s, "success~2s", "open"},
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newDefaultTimeline(t, tt.cfg).run(tt.rows...) })
		})
	}
}

// A failure during a success counts before or after it. So the streak is 1 or 0. If it is 1, it began with that
// failure.
func TestB04_ASuccessDuringAFailureConcurrentSafe(t *testing.T) {
	b := mustNew(t, Config{ConsecutiveFailures: -1, FailureRatio: -1, FailingFor: time.Millisecond})
	for i := range 2000 {
		start := clock()
		good, bad := acquire(t, b), acquire(t, b)
		runTogether(2, func(i int) {
			if i == 0 {
				good.Done(t.Context(), Success)
				return
			}
			bad.Done(t.Context(), Failure)
		})
		b.mu.Lock()
		w := b.phase.Load().win
		streak, first := w.streak.Load(), w.lazy.span.first
		b.mu.Unlock()
		if streak > 1 || (streak == 1 && first < start) {
			t.Fatalf("round %d: the streak is %d, and began %v before the round", i, streak, time.Duration(start-first))
		}
		report(t, b, 1, Success)
		report(t, b, i%3, Failure) // so that the next round begins with or without a streak
	}
}

// If bad calls are so dense that one burst follows another, the ratio rule leaves out the bad and good calls of a
// tenth, also if the largest burst is in two tenths. So the breaker opens at the ratio of the Config.
func TestB05_TheRatioIsExactInDenseTraffic(t *testing.T) {
	for _, perSecond := range []int{2, 10, 50, 250, 1000} {
		below := 40 // of 100; in sparse traffic, a window may hold 10 bad calls of 20 although 49 of 100 are bad on average
		if perSecond >= 50 {
			below = 49
		}
		for _, tt := range []struct {
			bad, of int
			opens   bool
		}{{1, 2, true}, {below, 100, false}} {
			synctest.Test(t, func(t *testing.T) {
				b, err := New(Key{}, Config{ConsecutiveFailures: -1})
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(137 * ms) // so that bursts do not begin with tenths
				for i := range 60 * perSecond {
					o := Success
					if (i+1)*tt.bad/tt.of > i*tt.bad/tt.of { // evenly spread
						o = Overload
					}
					if p, err := b.Acquire(t.Context()); err == nil {
						p.Done(t.Context(), o)
					}
					time.Sleep(time.Second / time.Duration(perSecond))
				}
				if got := b.Snapshot().Trips.Ratio > 0; got != tt.opens {
					t.Errorf("%d/s, %d of %d calls are bad: opened %v, want %v", perSecond, tt.bad, tt.of, got, tt.opens)
				}
			})
		}
	}
}

// The text of a failure streak contains its duration if that is at least a millisecond.
func TestB31_HowLongFailuresLasted(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "", ms - 1: "", ms: " over 1ms", 1500*time.Microsecond + 1: " over 1ms", time.Hour: " over 1h0m0s",
	} {
		if got, want := streakText(3, d), "3 failures in a row"+want; got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
	if got, want := streakText(1, 0), "1 failure"; got != want {
		t.Errorf("one: got %q, want %q", got, want)
	}
}
