package behaviour

import (
	"context"
	"errors"
	"time"

	"github.com/sony/gobreaker/v2"
)

const gobreakerModule = "github.com/sony/gobreaker/v2"

// The three forms of gobreaker: a function under a fixed window, a function under a rolling one, and the two-step
// breaker.
var (
	gobreakerFixed = &library{
		name: "gobreaker", module: gobreakerModule, form: "CircuitBreaker.Execute, fixed window (Interval)",
		make:   func(w want) *instance { return gobreakerCallback(w, 0) },
		preset: func() *instance { return gobreakerOf(gobreaker.NewCircuitBreaker[any](gobreaker.Settings{}), want{}) },
		lacks:  with(gobreakerLacks, callbackOnly),
	}
	gobreakerRolling = &library{
		name: "gobreaker rolling", module: gobreakerModule,
		form: "CircuitBreaker.Execute, rolling window (Interval and BucketPeriod of a tenth), in the rows on defaults too",
		make: func(w want) *instance { return gobreakerCallback(w, w.window/10) },
		preset: func() *instance {
			s := gobreaker.Settings{Interval: 10 * time.Second, BucketPeriod: time.Second}
			return gobreakerOf(gobreaker.NewCircuitBreaker[any](s), want{})
		},
		lacks: with(gobreakerLacks, callbackOnly),
	}
	gobreakerTwoStep = &library{
		name: "gobreaker two-step", module: gobreakerModule,
		form:   "TwoStepCircuitBreaker: Allow and the function that it returns",
		make:   func(w want) *instance { return gobreakerSteps(gobreakerSettings(w, 0), w) },
		preset: func() *instance { return gobreakerSteps(gobreaker.Settings{}, want{}) },
		lacks: with(gobreakerLacks, map[feature]lack{
			hasCallback: notFor("no callback form: the caller's code has to handle a panic"),
		}),
	}
)

var gobreakerLacks = with(noContext, map[feature]lack{
	hasSlow:    cannot("has no rule for slow calls"),
	hasHang:    cannot("sees a call only when it ends, and has no time limit for it"),
	hasBackoff: cannot("every open period is Timeout"),
	hasJitter:  cannot("every open period is Timeout, to the nanosecond"),
	hasAsked:   cannot("every open period is Timeout"),
	hasManual:  cannot("cannot be opened or closed manually"),
	hasForce:   cannot("has no override"),
	hasShadow:  cannot("has no shadow mode"),
	hasRetry:   cannot("neither ErrOpenState nor the breaker gives the remaining time"),
	hasKeys:    notFor("one breaker, no registry"),
	hasLive:    cannot("settings are fixed when it is made"),
	hasRamp:    cannot("goes from a few probes to all calls at once"),
	hasLimit:   notFor("no limit on calls in flight"),
	hasCause:   cannot("OnStateChange gets only name, from and to"),
	// According to Settings, a value of zero or less switches a feature off or stands for a default, and counts are
	// unsigned.
	hasNonsense: notFor("every value of its settings has a documented meaning"),
})

func gobreakerSettings(w want, bucket time.Duration) gobreaker.Settings {
	s := gobreaker.Settings{
		MaxRequests: uint32(max(w.probes, w.successes)), Interval: w.window, BucketPeriod: bucket, Timeout: w.openFor,
		IsExcluded: func(err error) bool { return errors.Is(err, context.Canceled) || gobreakerRejected(err) },
	}
	switch {
	case w.trip != nil:
		s.ReadyToTrip = func(gobreaker.Counts) bool { return w.trip() }
	case w.ratio > 0:
		s.ReadyToTrip = func(c gobreaker.Counts) bool {
			calls := c.TotalSuccesses + c.TotalFailures
			return int(calls) >= w.minCalls && float64(c.TotalFailures)/float64(calls) >= w.ratio
		}
	default:
		// A failure streak needs no window, and the default has none.
		s.Interval, s.BucketPeriod = 0, 0
		if bucket > 0 {
			s.Interval, s.BucketPeriod = w.window, bucket
		}
		s.ReadyToTrip = func(c gobreaker.Counts) bool { return int(c.ConsecutiveFailures) >= w.failures }
	}
	if w.onChange != nil {
		s.OnStateChange = func(_ string, from, to gobreaker.State) {
			w.onChange(change{from: state(from.String()), to: state(to.String())})
		}
	}
	return s
}

func gobreakerRejected(err error) bool {
	return errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests)
}

func gobreakerHas(w want) has {
	return has{failures: w.failures, openFor: w.openFor, window: w.window, successes: max(w.probes, w.successes)}
}

func gobreakerCallback(w want, bucket time.Duration) *instance {
	return gobreakerOf(gobreaker.NewCircuitBreaker[any](gobreakerSettings(w, bucket)), w)
}

func gobreakerOf(cb *gobreaker.CircuitBreaker[any], w want) *instance {
	do := func(ctx context.Context, fn func(context.Context) error) error {
		_, err := cb.Execute(func() (any, error) { return nil, fn(ctx) })
		return err
	}
	return &instance{
		has: gobreakerHas(w), do: do, start: startByDo(do), rejected: gobreakerRejected,
		state:  func() state { return state(cb.State().String()) },
		counts: func() (int, int) { return gobreakerCounts(cb.Counts()) },
	}
}

func gobreakerSteps(s gobreaker.Settings, w want) *instance {
	cb := gobreaker.NewTwoStepCircuitBreaker[any](s)
	return &instance{
		has: gobreakerHas(w),
		do: func(ctx context.Context, fn func(context.Context) error) error {
			done, err := cb.Allow()
			if err != nil {
				return err
			}
			err = fn(ctx)
			done(err)
			return err
		},
		start: func(context.Context) (func(outcome), error) {
			done, err := cb.Allow()
			if err != nil {
				return nil, err
			}
			return func(o outcome) { done(o.err()) }, nil
		},
		rejected: gobreakerRejected,
		state:    func() state { return state(cb.State().String()) },
		counts:   func() (int, int) { return gobreakerCounts(cb.Counts()) },
	}
}

func gobreakerCounts(c gobreaker.Counts) (int, int) {
	return int(c.TotalSuccesses), int(c.TotalFailures)
}
