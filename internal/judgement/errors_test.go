package judgement

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// A backend that fails some of its calls, independently of each other, is still useful, so B4 and B5 must not open the
// breaker. Calls are sequential. At these call rates long failure streaks are common, but none lasts for a second.
func TestB04_IndependentErrorsInDenseTrafficDoNotOpen(t *testing.T) {
	const atLeast = 0.995 // of the calls that succeed without a breaker
	seeds, length := size(10, 3), size(10*time.Minute, 30*time.Second)
	served := func(cfg breaker.Config, seed int, gap time.Duration, errors float64) (s tally) {
		bubble(t, cfg, func(ctx context.Context, b *breaker.Breaker) {
			s = simulate(ctx, b, takesOnly(failing(newRand(seed), errors), gap/2), every(gap), length)
		})
		return s
	}
	for _, tt := range []struct {
		gap     time.Duration
		errors  float64
		control bool // whether the former default misses the bound even in a short run
	}{
		{time.Millisecond, 0.1, false},
		{time.Millisecond, 0.2, true},
		{time.Millisecond, 0.3, true},
		{10 * time.Millisecond, 0.1, false},
		{10 * time.Millisecond, 0.2, false},
		{10 * time.Millisecond, 0.3, true},
	} {
		var mean float64
		for seed := range seeds {
			s := served(breaker.Config{}, seed, tt.gap, tt.errors)
			mean += share(s.served, s.good) / float64(seeds)
		}
		old := served(former, 0, tt.gap, tt.errors)
		oldShare := share(old.served, old.good)
		t.Logf("%4d/s, %.0f%% errors: %.3f%% of the good calls served (former default, one seed: %.1f%%)",
			time.Second/tt.gap, 100*tt.errors, 100*mean, 100*oldShare)
		if mean < atLeast {
			t.Errorf("%.2f%% of the good calls served at %d/s and %v errors, want %v%%", 100*mean, time.Second/tt.gap,
				tt.errors, 100*atLeast)
		}
		if tt.control && oldShare >= atLeast {
			t.Errorf("the control serves %.2f%% of the good calls: the test shows nothing", 100*oldShare)
		}
	}
}

// In sparse traffic a failure streak may last for a second by chance. That must be rare. At 40% errors and more a
// breaker rejects good calls, because it can only admit all calls or none. README.md gives their number.
func TestB04_ChanceTripsAreRareInSparseTraffic(t *testing.T) {
	const gap = 100 * time.Millisecond
	seeds, calls := size(10, 2), size(1_000_000, 100_000)
	run := func(cfg breaker.Config, seed int, errors float64, gap time.Duration) (s tally, n int) {
		bubble(t, cfg, func(ctx context.Context, b *breaker.Breaker) {
			rng := newRand(seed)
			s = simulate(ctx, b, failing(rng, errors), poisson(rng, gap), time.Duration(calls)*gap)
			n = trips(b)
		})
		return s, n
	}
	for _, tt := range []struct {
		errors  float64
		trips   float64    // at most, per 10^6 calls; 0: no bound
		rejects [2]float64 // bounds for the share of good calls that are rejected
	}{
		{errors: 0.2, trips: 8, rejects: size([2]float64{0, 0.001}, [2]float64{0, 0.01})},
		{errors: 0.3, trips: 80, rejects: size([2]float64{0, 0.005}, [2]float64{0, 0.02})},
		{errors: 0.4, rejects: size([2]float64{0.13, 0.19}, [2]float64{0.07, 0.26})},
		{errors: 0.5, rejects: size([2]float64{0.76, 0.83}, [2]float64{0.66, 0.90})},
	} {
		var sum tally
		var n int
		for seed := range seeds {
			s, tripped := run(breaker.Config{}, seed, tt.errors, gap)
			sum.add(s)
			n += tripped
		}
		arrived := sum.good + sum.bad
		perMillion, rejected := 1e6*share(n, arrived), share(sum.lost(), sum.good)
		t.Logf("10/s, %.0f%% errors: %.1f trips per 10^6 calls, %.3f%% of the good calls rejected", 100*tt.errors,
			perMillion, 100*rejected)
		if rejected < tt.rejects[0] || rejected > tt.rejects[1] {
			t.Errorf("%.4f of the good calls rejected at %v errors, want from %v to %v", rejected, tt.errors, tt.rejects[0],
				tt.rejects[1])
		}
		if tt.trips == 0 {
			continue
		}
		bound := tt.trips * float64(arrived) / 1e6
		if !*full {
			bound += 3 + 3*math.Sqrt(bound) // so few trips scatter
		}
		if float64(n) > bound {
			t.Errorf("%d trips in %d calls at %v errors, want at most %v", n, arrived, tt.errors, bound)
		}
		if s, old := run(former, 0, tt.errors, gap); float64(old) <= bound/float64(seeds) {
			t.Errorf("the control trips %d times in %d calls: the test shows nothing", old, s.good+s.bad)
		}
	}
	if !*full {
		return
	}
	for _, perSecond := range []int{1, 2, 3, 5, 20, 50} { // for the README
		gap := time.Second / time.Duration(perSecond)
		var sum tally
		for seed := range 3 {
			s, _ := run(breaker.Config{}, seed, 0.3, gap)
			sum.add(s)
		}
		t.Logf("%d/s, 30%% errors: %.2f%% of the good calls rejected", perSecond, 100*share(sum.lost(), sum.good))
	}
}
