package behaviour

import (
	"context"
	"errors"

	"github.com/cenkalti/backoff/v3"
	"github.com/mercari/go-circuitbreaker"
)

var mercariBreaker = &library{
	name:   "mercari",
	module: "github.com/mercari/go-circuitbreaker",
	form: "Do, and Ready with Success or Fail; constant back-off; deadlines count as failures; no reset interval " +
		"for failure streaks",
	make:   mercariMake,
	preset: func() *instance { return mercariOf(circuitbreaker.New(), want{}) },
	nonsense: func() error {
		circuitbreaker.New(
			circuitbreaker.WithTripFunc(circuitbreaker.NewTripFuncFailureRate(10, 1.5)),
			circuitbreaker.WithHalfOpenMaxSuccesses(-1),
		)
		return nil
	},
	lacks: with(without(plainLacks, hasBackoff, hasJitter, hasManual, hasTrip), map[feature]lack{
		hasAsked:  cannot("its back-off does not see what failed"),
		hasForce:  cannot("SetState is a transition: the end of the open period undoes it"),
		hasRetry:  cannot("neither ErrOpen nor the breaker gives the remaining time"),
		hasRamp:   cannot("goes from rejecting all calls to admitting all"),
		hasCause:  cannot("its hook gets only from and to"),
		hasProbes: cannot("half-open admits every call"),
	}),
}

func mercariMake(w want) *instance {
	opts := []circuitbreaker.BreakerOption{
		circuitbreaker.WithHalfOpenMaxSuccesses(int64(w.successes)),
		circuitbreaker.WithFailOnContextDeadline(true),
	}
	if w.backoff > 0 || w.jitter > 0 {
		e := backoff.NewExponentialBackOff()
		e.InitialInterval, e.MaxInterval, e.MaxElapsedTime = w.openFor, max(w.openFor, w.maxOpen), 0
		e.Multiplier, e.RandomizationFactor = max(1, w.backoff), w.jitter
		e.Reset()
		opts = append(opts, circuitbreaker.WithOpenTimeoutBackOff(e))
	} else {
		opts = append(opts, circuitbreaker.WithOpenTimeout(w.openFor))
	}
	interval := w.window
	switch {
	case w.trip != nil:
		opts = append(opts, circuitbreaker.WithTripFunc(func(*circuitbreaker.Counters) bool { return w.trip() }))
	case w.ratio > 0:
		opts = append(opts, circuitbreaker.WithTripFunc(circuitbreaker.NewTripFuncFailureRate(int64(w.minCalls), w.ratio)))
	default:
		interval = -1 // a failure streak needs no window
		opts = append(opts, circuitbreaker.WithTripFunc(circuitbreaker.NewTripFuncConsecutiveFailures(int64(w.failures))))
	}
	opts = append(opts, circuitbreaker.WithCounterResetInterval(interval))
	if w.onChange != nil {
		opts = append(opts, circuitbreaker.WithOnStateChangeHookFn(func(from, to circuitbreaker.State) {
			w.onChange(change{from: state(from), to: state(to)})
		}))
	}
	return mercariOf(circuitbreaker.New(opts...), w)
}

func mercariOf(b *circuitbreaker.CircuitBreaker, w want) *instance {
	rejected := func(err error) bool { return errors.Is(err, circuitbreaker.ErrOpen) }
	return &instance{
		has: has{failures: w.failures, openFor: w.openFor, window: w.window, successes: w.successes},
		do: func(ctx context.Context, fn func(context.Context) error) error {
			_, err := b.Do(ctx, func() (any, error) {
				err := fn(ctx)
				if rejected(err) {
					return nil, circuitbreaker.Ignore(err) // by an inner breaker: not a failure here
				}
				return nil, err
			})
			return err
		},
		start: func(context.Context) (func(outcome), error) {
			if !b.Ready() {
				return nil, circuitbreaker.ErrOpen
			}
			return func(o outcome) {
				switch o {
				case success:
					b.Success()
				case failure:
					b.Fail()
				case ignored: // no report, no count
				}
			}, nil
		},
		rejected: rejected,
		state:    func() state { return state(b.State()) },
		counts: func() (int, int) {
			c := b.Counters()
			return int(c.Successes), int(c.Failures)
		},
		trip:  func() { b.SetState(circuitbreaker.StateOpen) },
		reset: b.Reset,
	}
}
