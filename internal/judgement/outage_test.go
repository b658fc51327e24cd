package judgement

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// warmUp fills the window before an outage. A tenth more or less makes no difference.
const warmUp = 15 * time.Second

// outageRun holds the results of one outage for many clients, each with its own breaker.
type outageRun struct {
	tally
	clients int
	longest time.Duration // from the end of the outage to the last rejection
}

// meanSent returns the average number of calls that a client sent to the dead backend.
func (r *outageRun) meanSent() float64 { return share(r.sent, r.clients) }

// meanLost returns the average number of good calls of a client that were rejected.
func (r *outageRun) meanLost() float64 { return share(r.lost(), r.clients) }

func (r *outageRun) String() string {
	return fmt.Sprintf("%.1f calls sent to the dead backend, %.1f good calls rejected, the last %.1f s after it healed",
		r.meanSent(), r.meanLost(), r.longest.Seconds())
}

func (r *outageRun) add(o outageRun) {
	r.tally.add(o.tally)
	r.clients += o.clients
	r.longest = max(r.longest, o.longest)
}

// runOutage simulates an outage of the given length, with clients that make 10 calls/s each.
func runOutage(t *testing.T, cfg breaker.Config, clients int, length time.Duration) (r outageRun) {
	t.Helper()
	healed := warmUp + length
	for client := range clients {
		bubble(t, cfg, func(ctx context.Context, b *breaker.Breaker) {
			next := jittered(newRand(client), 100*time.Millisecond)
			one := outageRun{clients: 1, tally: simulate(ctx, b, outage(warmUp, healed), next, healed+2*time.Minute)}
			one.longest = max(0, one.lastLost-healed)
			r.add(one)
		})
	}
	return r
}

// After an outage of about a minute the clients recover within seconds. During it they send few calls.
func TestB17_OutageOfAMinuteIsOverInSeconds(t *testing.T) {
	const (
		mostSent = 22 // on average
		mostLost = 60 // on average
		latest   = 13 * time.Second
	)
	clients := size(200, 50)
	run := func(cfg breaker.Config, clients int) (all outageRun) {
		for length := 45 * time.Second; length <= 70*time.Second; length += 5 * time.Second {
			r := runOutage(t, cfg, clients, length)
			if cfg != former {
				t.Logf("outage of %v: %v", length, &r)
			}
			all.add(r)
		}
		return all
	}
	got := run(breaker.Config{}, clients)
	t.Logf("all outages: %v", &got)
	if got.meanSent() > mostSent || got.meanLost() > mostLost || got.longest > latest {
		t.Errorf("%v; want at most %d, %d and %v", &got, mostSent, mostLost, latest)
	}
	control := run(former, 10)
	t.Logf("all outages, former default: %v", &control)
	if control.meanLost() <= mostLost || control.longest <= latest {
		t.Errorf("the control keeps the bounds: %v", &control)
	}
	// Control: without back-off a client sends more calls than the bound.
	eager := run(breaker.Config{Backoff: 1}, 10)
	t.Logf("all outages, no back-off: %v", &eager)
	if eager.meanSent() <= mostSent {
		t.Errorf("without back-off: %v; the test shows nothing", &eager)
	}
}

// An outage of five seconds costs a preset with a long open period more than a minute, and the zero Config some
// seconds.
func TestB17_OutageOfFiveSeconds(t *testing.T) {
	clients := size(500, 50)
	balanced := runOutage(t, breaker.Balanced(), clients, 5*time.Second)
	zero := runOutage(t, breaker.Config{}, clients, 5*time.Second)
	t.Logf("Balanced():  %v", &balanced)
	t.Logf("zero Config: %v", &zero)
	if lost := balanced.meanLost(); lost < 550 || lost > 680 {
		t.Errorf("Balanced() rejects %v good calls, want about 61 s of them", lost)
	}
	if lost := zero.meanLost(); lost > 50 || zero.longest > 5*time.Second {
		t.Errorf("the zero Config rejects %v good calls, the last after %v", lost, zero.longest)
	}
}
