package breaker

import (
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// ratioOnly returns a Config with the ratio rule only.
func ratioOnly(ratio float64, minCalls int) Config {
	return Config{ConsecutiveFailures: -1, FailureRatio: ratio, MinCalls: minCalls, Jitter: -1}
}

// A known bug of other breakers: with a window of 50 ms, and calls that fail after 70 ms, they never open.
func TestB07_CallsSlowerThanTheWindowCount(t *testing.T) {
	const ms = time.Millisecond
	t.Run("consecutive rule, one call after the other", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			newTimeline(t, mustNew(t, Config{Window: 50 * ms})).run(
				row{0, "begin:1", "closed"},
				row{70 * ms, "end:1=failure begin:2", "closed"},
				row{140 * ms, "end:2=failure begin:3", "closed"},
				row{210 * ms, "end:3=failure begin:4", "closed"},
				row{280 * ms, "end:4=failure begin:5", "closed"},
				row{350 * ms, "end:5=failure", "open"},
			)
		})
	})
	t.Run("ratio rule, concurrent calls", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			cfg := ratioOnly(0.5, 4)
			cfg.Window = 50 * ms
			newTimeline(t, mustNew(t, cfg)).run(
				row{0, "begin:1", "closed"},
				row{10 * ms, "begin:2", "closed"},
				row{20 * ms, "begin:3", "closed"},
				row{30 * ms, "begin:4", "closed"},
				row{70 * ms, "end:1=failure", "closed"},
				row{80 * ms, "end:2=failure", "closed"},
				row{90 * ms, "end:3=failure", "closed"},
				row{100 * ms, "end:4=failure", "open"},
			)
		})
	})
}

// An outcome counts in the bucket in which its call ends, not in that in which it began.
func TestB07_AnOutcomeCountsWhereItsCallEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, ratioOnly(1, 2))
		tl := newTimeline(t, b)
		tl.run(
			row{0, "begin:long", "closed"},
			row{9500 * time.Millisecond, "end:long=failure", "closed"},
			row{19*time.Second - 1, "", "closed"},
		)
		if got := b.Snapshot().Window.Failures; got != 1 {
			t.Errorf("9.5 s after the call ended %d failures are in the window, want 1", got)
		}
		tl.run(row{19*time.Second - 1, "failure", "open"})
	})
}

// An outcome is in the window for nine tenths of the window, and no longer one window after it was recorded.
func TestB07_AnOutcomeLastsForOneWindow(t *testing.T) {
	const window, bucket = 10 * time.Second, time.Second
	for _, recorded := range []time.Duration{
		0, 1, bucket - 1, bucket, bucket + 1, 5*bucket/2 + 7, window - 1, window,
		3*window + 1,
	} {
		// It leaves the window with its bucket: one window after the begin of the bucket.
		lastSeen := recorded.Truncate(bucket) + window - 1
		for _, o := range []Outcome{Success, Failure, Overload} {
			for _, tt := range []struct {
				at   time.Duration
				want uint64
			}{
				{recorded, 1},
				{recorded + window - bucket, 1},
				{lastSeen, 1},
				{lastSeen + 1, 0},
				{recorded + window, 0},
				{recorded + 2*window, 0},
			} {
				synctest.Test(t, func(t *testing.T) {
					b := mustNew(t, Config{})
					tl := newTimeline(t, b)
					tl.until(recorded)
					report(t, b, 1, o)
					tl.until(tt.at)
					s := b.Snapshot()
					if got := s.Window.Calls(); got != tt.want {
						t.Errorf("%v at %v: at %v the window holds %d calls, want %d", o, recorded, tt.at, got, tt.want)
					}
					if got := s.Successes + s.Failures + s.Overloads; got != 1 {
						t.Errorf("%v at %v: at %v the totals hold %d calls, want 1", o, recorded, tt.at, got)
					}
				})
			}
		}
	}
}

// The same for decisions: the second of two failures trips only while the first is in the window.
func TestB07_OldOutcomesDecideNothing(t *testing.T) {
	const window = 10 * time.Second
	for _, tt := range []struct {
		gap  time.Duration
		want string
	}{
		{0, "open"},
		{window - time.Second, "open"},
		{window - 1, "open"}, // recorded at the first instant of its bucket
		{window, "closed"},
		{window + 1, "closed"},
		{time.Hour, "closed"},
	} {
		synctest.Test(t, func(t *testing.T) {
			newTimeline(t, mustNew(t, ratioOnly(1, 2))).run(row{0, "failure", "closed"}, row{tt.gap, "failure", tt.want})
		})
		synctest.Test(t, func(t *testing.T) { // the same for a success
			newTimeline(t, mustNew(t, ratioOnly(0.6, 1))).run(
				row{0, "success", "closed"}, row{tt.gap, "failure", map[string]string{"open": "closed", "closed": "open"}[tt.want]},
			)
		})
	}
}

func TestB07_TheWindowSlidesInTenSteps(t *testing.T) {
	if buckets < 10 {
		t.Errorf("a window slides in %d steps, want 10 or more", buckets)
	}
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, ratioOnly(1, 1000))
		tl := newTimeline(t, b)
		for i := range 10 { // one success and one failure more in each step
			tl.until(time.Duration(i) * time.Second)
			report(t, b, i+1, Success)
			report(t, b, i+1, Failure)
		}
		left := uint64(55)
		for i := range uint64(10) {
			tl.until(time.Duration(10+i) * time.Second)
			left -= i + 1
			if got, want := b.Snapshot().Window, (Counts{
				Successes: left, Failures: left,
				ConsecutiveFailures: 10,
			}); got != want {
				t.Errorf("at %d s: the window holds %+v, want %+v", 10+i, got, want)
			}
		}
	})
}

// A window that is not a multiple of ten nanoseconds does not last longer than it should.
func TestB07_AnOddWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const window = time.Millisecond + 9
		b := mustNew(t, Config{Window: window})
		report(t, b, 1, Failure)
		time.Sleep(window*9/10 - 1)
		if got := b.Snapshot().Window.Failures; got != 1 {
			t.Errorf("after nine tenths: %d failures, want 1", got)
		}
		time.Sleep(window - (window*9/10 - 1))
		if got := b.Snapshot().Window.Failures; got != 0 {
			t.Errorf("after a window: %d failures, want 0", got)
		}
	})
}

// The window holds the same as a list of all outcomes, over steps of all sizes.
func TestB07_B08_TheWindowMatchesAListOfOutcomes(t *testing.T) {
	type entry struct {
		at   int64
		what int
	}
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		const birth = 1_000_000
		width := 1 + rnd.Int64N(1000)
		w := newWindow(birth, width)
		now, retired := int64(birth), uint64(0)
		var all []entry
		for range 200 {
			switch rnd.IntN(4) {
			case 0:
				now += rnd.Int64N(width)
			case 1:
				now += rnd.Int64N(12 * width)
			case 2:
				now += width * rnd.Int64N(25) // whole buckets, also more than a window
			}
			e := entry{now, rnd.IntN(5)}
			if e.what < 4 { // 4: only read
				retired += w.rotate(now, width)
				all = append(all, e)
			}
			switch e.what {
			case 0:
				inc(&w.successes[w.slot.Load()])
			case 1:
				w.currentBucket().failures++
			case 2:
				w.currentBucket().overloads++
			case 3:
				w.currentBucket().slow++
			}

			var want Counts
			var successes uint64
			for _, e := range all {
				inWindow := (now-birth)/width-(e.at-birth)/width < buckets
				switch {
				case e.what == 0:
					successes++
					if inWindow {
						want.Successes++
					}
				case !inWindow:
				case e.what == 1:
					want.Failures++
				case e.what == 2:
					want.Overloads++
				case e.what == 3:
					want.Slow++
				}
			}
			if got := w.counts(now, width); got != want {
				t.Fatalf("seed %d, at %d, width %d: got %+v, want %+v", seed, now, width, got, want)
			}
			if got := w.total() + retired; got != successes {
				t.Fatalf("seed %d: %d successes in the window and retired, want %d", seed, got, successes)
			}
		}
	}
}

// B8: after an idle gap of any length, the window is empty.
func TestB08_AnIdleGapForgetsEverything(t *testing.T) {
	const window = time.Millisecond
	const year = 365 * 24 * time.Hour
	gaps := []time.Duration{window, window + 1, 2 * window, year, 50 * year, 100 * year, 100*year + window/2}
	for shift := range 33 {
		gaps = append(gaps, window<<shift, window/10<<(shift+4), window<<shift-1+window)
	}
	for _, gap := range gaps {
		synctest.Test(t, func(t *testing.T) {
			cfg := ratioOnly(0.5, 6)
			cfg.Window, cfg.SlowCall, cfg.SlowRatio = window, time.Hour, 1
			b := mustNew(t, cfg)
			report(t, b, 3, Success)
			report(t, b, 1, Failure)
			report(t, b, 1, Overload)
			time.Sleep(gap)

			got := b.Snapshot()
			// B4: a streak does not expire
			wantSame(t, "after "+gap.String()+", read", got.Window, Counts{ConsecutiveFailures: 1})
			report(t, b, 1, Failure)
			if s := b.State(); s != Closed {
				t.Errorf("after %v one failure made it %v: older outcomes counted", gap, s)
			}
			got = b.Snapshot()
			wantSame(t, "after "+gap.String()+", decided", got.Window, Counts{Failures: 1, ConsecutiveFailures: 2})
			if got.Successes != 3 || got.Failures != 2 || got.Overloads != 1 {
				t.Errorf("after %v the totals are %d, %d, %d, want 3, 2, 1", gap, got.Successes, got.Failures, got.Overloads)
			}
		})
	}
}

// Many calls right after an idle gap are all counted, also successes, which take no lock.
func TestB08_ABurstAfterAnIdleGapLosesNothingConcurrentSafe(t *testing.T) {
	const callers, calls = 8, 100
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, Config{ConsecutiveFailures: -1, FailureRatio: 1, MinCalls: math.MaxInt})
		report(t, b, 50, Success)
		report(t, b, 50, Failure)
		for round := range uint64(5) {
			time.Sleep([]time.Duration{10 * time.Second, 12500 * time.Millisecond, time.Hour}[round%3])
			var wg sync.WaitGroup
			for i := range callers {
				wg.Go(func() {
					for j := range calls {
						p, err := b.Acquire(t.Context())
						if err != nil {
							t.Error(err)
							return
						}
						p.Done(t.Context(), Outcome((i+j)%2)) // half of them successes, half failures
					}
				})
			}
			wg.Wait()
			s := b.Snapshot()
			if s.Window.Successes != callers*calls/2 || s.Window.Failures != callers*calls/2 {
				t.Errorf("round %d: the window holds %+v, want %d of each", round, s.Window, callers*calls/2)
			}
			if want := 100 + (round+1)*callers*calls; s.Admitted != want || s.InFlight != 0 {
				t.Errorf("round %d: %d admitted and %d in flight, want %d and 0", round, s.Admitted, s.InFlight, want)
			}
		}
	})
}
