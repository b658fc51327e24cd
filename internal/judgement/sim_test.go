package judgement

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// former is the default Config before failures had to last for a second. It is the control: if it keeps a bound too,
// the test proves nothing.
var former = breaker.Config{ConsecutiveFailures: 5, FailingFor: -1, OpenFor: 5 * time.Second, MaxOpenFor: time.Minute}

// Durations of calls in these simulations.
const (
	goodTakes = 20 * time.Millisecond
	badTakes  = 5 * time.Millisecond
)

// newRand returns the random numbers of the given run.
func newRand(run int) *rand.Rand { return rand.New(rand.NewPCG(*firstSeed+uint64(run), 8)) }

// fate is the result of a call that is sent.
type fate struct {
	good  bool
	takes time.Duration
}

func fateOf(good bool) fate {
	if good {
		return fate{true, goodTakes}
	}
	return fate{false, badTakes}
}

// A backend returns the fate of a call that begins at the given time after the start of the run. It is also called for
// rejected calls, so that its random numbers do not depend on the breaker. probe reports whether the call is a probe.
type backend func(at time.Duration, probe bool) fate

// failing returns a backend that fails a share of the calls, independently of each other.
func failing(rng *rand.Rand, share float64) backend {
	return func(time.Duration, bool) fate { return fateOf(rng.Float64() >= share) }
}

// outage returns a backend that fails all calls in a period.
func outage(from, to time.Duration) backend {
	return func(at time.Duration, _ bool) fate { return fateOf(at < from || at >= to) }
}

// takesOnly returns backend b with calls that take d.
func takesOnly(b backend, d time.Duration) backend {
	return func(at time.Duration, probe bool) fate {
		f := b(at, probe)
		f.takes = d
		return f
	}
}

// A traffic returns the time from one call to the next.
type traffic func() time.Duration

// every makes a call each d.
func every(d time.Duration) traffic { return func() time.Duration { return d } }

// jittered makes a call each d on average, between d/2 and 3d/2 after the previous one.
func jittered(rng *rand.Rand, d time.Duration) traffic {
	return func() time.Duration { return d/2 + time.Duration(rng.Int64N(int64(d)+1)) }
}

// poisson makes independent calls, one each d on average.
func poisson(rng *rand.Rand, d time.Duration) traffic {
	return func() time.Duration { return time.Duration(math.Ceil(rng.ExpFloat64() * float64(d))) }
}

// tally holds the results of a run.
type tally struct {
	good, bad int           // calls that the backend would answer, and calls that it would fail
	served    int           // good calls that were sent
	sent      int           // bad calls that were sent
	lastLost  time.Duration // when a good call was last rejected; 0: never
}

func (s *tally) add(o tally) {
	s.good += o.good
	s.bad += o.bad
	s.served += o.served
	s.sent += o.sent
	s.lastLost = max(s.lastLost, o.lastLost)
}

// lost returns the number of good calls that were rejected.
func (s *tally) lost() int { return s.good - s.served }

func share(part, whole int) float64 { return float64(part) / float64(whole) }

// call is a call in flight.
type call struct {
	permit breaker.Permit
	ends   time.Duration
	good   bool
}

// simulate sends calls to a backend through b for a time. Calls may overlap. It must run in a bubble and uses no other
// goroutine: it sleeps until the next call begins or ends.
func simulate(ctx context.Context, b *breaker.Breaker, to backend, next traffic, length time.Duration) (s tally) {
	var inFlight []call // sorted by end
	var now time.Duration
	sleepUntil := func(at time.Duration) {
		time.Sleep(at - now)
		now = at
	}
	endCalls := func(until time.Duration) {
		for len(inFlight) > 0 && inFlight[0].ends <= until {
			c := inFlight[0]
			inFlight = inFlight[:copy(inFlight, inFlight[1:])]
			sleepUntil(c.ends)
			c.permit.Done(ctx, outcome(c.good))
		}
	}
	for at := next(); at < length; at += next() {
		endCalls(at)
		sleepUntil(at)
		p, err := b.Acquire(ctx)
		f := to(at, p.IsProbe())
		s.count(f.good, err == nil, at)
		if err == nil {
			c := call{p, at + f.takes, f.good}
			i, _ := slices.BinarySearchFunc(inFlight, c.ends, func(c call, ends time.Duration) int {
				if c.ends <= ends {
					return -1
				}
				return 1
			})
			inFlight = slices.Insert(inFlight, i, c)
		}
	}
	endCalls(math.MaxInt64)
	return s
}

func (s *tally) count(good, admitted bool, at time.Duration) {
	switch {
	case good && admitted:
		s.good++
		s.served++
	case good:
		s.good++
		s.lastLost = at
	case admitted:
		s.bad++
		s.sent++
	default:
		s.bad++
	}
}

func outcome(good bool) breaker.Outcome {
	if good {
		return breaker.Success
	}
	return breaker.Failure
}

// trips returns how often a rule opened b while it was closed.
func trips(b *breaker.Breaker) int {
	by := b.Snapshot().Trips
	return int(by.Total())
}

func newBreaker(t *testing.T, cfg breaker.Config, opts ...breaker.Option) *breaker.Breaker {
	t.Helper()
	b, err := breaker.New(breaker.Key{}, cfg, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// bubble runs f with its own breaker in virtual time.
func bubble(t *testing.T, cfg breaker.Config, f func(ctx context.Context, b *breaker.Breaker)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t.Context(), newBreaker(t, cfg)) })
}

// openingEvents is a listener that keeps the transitions to Open.
type openingEvents struct{ events []breaker.Event }

func (o *openingEvents) option() breaker.Option {
	return breaker.WithListener(func(_ context.Context, e breaker.Event) {
		if e.To == breaker.Open {
			o.events = append(o.events, e)
		}
	})
}
