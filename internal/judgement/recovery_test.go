package judgement

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// A backend that is down and up for two seconds each gets more than half of its good calls, and less than half of the
// bad ones. This must hold for an hour. Half of the probes find the backend down, so the number of failed recoveries
// could rise once and then stay high; only runs of some minutes would show that.
func TestB17_FlappingBackendServesHalfOfItsCalls(t *testing.T) {
	const (
		leastServed = 0.45
		mostSent    = 0.5
		gap         = 100 * time.Millisecond
	)
	flapping := func(at time.Duration, _ bool) fate { return fateOf(at/(2*time.Second)%2 == 1) }
	run := func(cfg breaker.Config, clients int, length time.Duration) (served, sent float64) {
		var sum tally
		for client := range clients {
			bubble(t, cfg, func(ctx context.Context, b *breaker.Breaker) {
				sum.add(simulate(ctx, b, flapping, poisson(newRand(client), gap), length))
			})
		}
		return share(sum.served, sum.good), share(sum.sent, sum.bad)
	}
	const length = 10 * time.Minute
	served, sent := run(breaker.Config{}, size(100, 40), length)
	t.Logf("%v: %.1f%% of the good calls served, %.1f%% of the bad ones sent", length, 100*served, 100*sent)
	if served < leastServed || sent > mostSent {
		t.Errorf("%.3f of the good calls served, %.3f of the bad ones sent, want at least %v, at most %v", served, sent,
			leastServed, mostSent)
	}
	if *full {
		for _, length := range []time.Duration{90 * time.Second, time.Hour} {
			served, sent := run(breaker.Config{}, 20, length)
			t.Logf("%v: %.1f%% of the good calls served, %.1f%% of the bad ones sent", length, 100*served, 100*sent)
		}
	}
	served, sent = run(former, 50, length)
	t.Logf("former default: %.1f%%, %.1f%%", 100*served, 100*sent)
	if served >= leastServed {
		t.Errorf("the control serves %v of the good calls: the test shows nothing", served)
	}
	if _, sent := run(breaker.Config{ConsecutiveFailures: -1, FailureRatio: -1}, 1, length); sent <= mostSent {
		t.Errorf("a breaker without rules sends %v of the bad calls: the test shows nothing", sent)
	}
}

// Some minutes of success are enough to forget the failed recoveries of an outage, however long it was.
func TestB17_LongOutageIsForgottenInMinutes(t *testing.T) {
	const down = 8 * time.Hour
	nextPeriod := func(calm time.Duration) (period time.Duration, openings, failed int) {
		synctest.Test(t, func(t *testing.T) {
			var opened openingEvents
			b := newBreaker(t, breaker.Config{Jitter: -1}, opened.option())
			next := jittered(newRand(0), 100*time.Millisecond)
			simulate(t.Context(), b, outage(0, down), next, down)
			openings, failed = len(opened.events), b.Snapshot().FailedRecoveries
			simulate(t.Context(), b, outage(0, 0), next, calm)
			simulate(t.Context(), b, outage(0, time.Minute), next, 2*time.Second)
			if len(opened.events) != openings+1 {
				t.Fatalf("opened %d times in 2 s of the second outage, want 1", len(opened.events)-openings)
			}
			period = opened.events[openings].OpenFor
		})
		return period, openings, failed
	}
	period, openings, failed := nextPeriod(10 * time.Minute)
	t.Logf("after 8 h of outage (%d openings) and 10 min of success the first open period is %v", openings, period)
	if period != time.Second {
		t.Errorf("the open period is %v, want OpenFor, 1s", period)
	}
	if openings < 2800 {
		t.Errorf("opened %d times in the outage, want about once in 10 s", openings)
	}
	if failed != 4 { // the smallest number that reaches MaxOpenFor
		t.Errorf("the outage leaves %d failed recoveries, want 4: otherwise there was nothing to forget", failed)
	}
}

// A backend that answers probes and fails all other calls gets fewer and fewer calls. With one call in two seconds or
// less the breaker needs longer than Window to open again, so the open period does not grow.
func TestB17_BackendThatFailsAfterEachClosingIsBackedOff(t *testing.T) {
	onlyProbes := func(_ time.Duration, probe bool) fate { return fateOf(probe) }
	for _, tt := range []struct {
		name string
		gap  time.Duration
		grow bool // whether the open period must grow to MaxOpenFor
	}{
		{"10/s", 100 * time.Millisecond, true},
		{"1/s", time.Second, true},
		{"0.5/s", 2 * time.Second, false},
		{"0.2/s", 5 * time.Second, false},
	} {
		for run := range size(10, 2) {
			synctest.Test(t, func(t *testing.T) {
				var opened openingEvents
				b := newBreaker(t, breaker.Config{Jitter: -1}, opened.option())
				s := simulate(t.Context(), b, onlyProbes, jittered(newRand(run), tt.gap), time.Hour)
				var periods []time.Duration
				longest := 0
				for _, e := range opened.events {
					if len(periods) < 8 {
						periods = append(periods, e.OpenFor)
					}
					if e.OpenFor == 10*time.Second {
						longest++
					}
				}
				if run == 0 {
					t.Logf("%s: first open periods %v, 10s in %d of %d, %.0f%% of the bad calls sent",
						tt.name, periods, longest, len(opened.events), 100*share(s.sent, s.bad))
				}
				if tt.grow && longest < len(opened.events)-6 {
					t.Errorf("%s: open periods begin with %v, and %d of %d are MaxOpenFor, want all but 6",
						tt.name, periods, longest, len(opened.events))
				}
				if len(opened.events) < 100 {
					t.Errorf("%s: opened %d times in an hour, want 100 or more", tt.name, len(opened.events))
				}
			})
		}
	}
}
