package behaviour

import (
	"context"
	"errors"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/bulkhead"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/timeout"
)

var failsafeGo = &library{
	name:   "failsafe-go",
	module: "github.com/failsafe-go/failsafe-go",
	form:   "circuitbreaker under an Executor, with the timeout policy in T23 and H13 and bulkhead in N05",
	make:   failsafeMake,
	preset: func() *instance { return failsafeOf(circuitbreaker.NewWithDefaults[any](), want{}) },
	nonsense: func() (err error) {
		// It reports the error by a panic.
		defer func() {
			if recover() != nil {
				err = errRefused
			}
		}()
		circuitbreaker.NewBuilder[any]().WithFailureRateThreshold(1.5, 10, time.Second).Build()
		return nil
	},
	lacks: map[feature]lack{
		hasSlow:    cannot("its timeout policy ends a slow call"),
		hasBackoff: cannot("the delay function does not get the number of failed recoveries"),
		hasForce:   cannot("Open and Close are transitions: the next call or delay undoes them"),
		hasShadow:  cannot("has no shadow mode"),
		hasKeys:    notFor("one breaker, no registry"),
		hasLive:    cannot("settings are fixed when it is built"),
		hasRamp:    cannot("goes from a few probes to all calls at once"),
		hasTrip:    notFor("takes thresholds, but no custom rule"),
		hasSteps:   callbackOnly[hasSteps],
	},
}

func failsafeMake(w want) *instance {
	b := circuitbreaker.NewBuilder[any]().HandleIf(func(_ any, err error) bool {
		return err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, circuitbreaker.ErrOpen)
	})
	switch {
	case w.asked != nil:
		b = b.WithDelayFunc(func(failsafe.ExecutionAttempt[any]) time.Duration { return max(w.openFor, w.asked()) })
	default:
		b = b.WithDelay(w.openFor)
	}
	if w.ratio > 0 {
		b = b.WithFailureRateThreshold(w.ratio, uint(w.minCalls), w.window)
	} else {
		b = b.WithFailureThreshold(uint(w.failures))
	}
	if w.probes > w.successes {
		b = b.WithSuccessThresholdRatio(uint(w.successes), uint(w.probes))
	} else {
		b = b.WithSuccessThreshold(uint(w.successes))
	}
	if w.jitter > 0 {
		b = b.WithJitterFactor(w.jitter)
	}
	if w.onChange != nil {
		b = b.OnStateChanged(func(e circuitbreaker.StateChangedEvent) {
			w.onChange(change{
				from: failsafeState(e.OldState), to: failsafeState(e.NewState), failures: int(e.Metrics().Failures()),
			})
		})
	}
	return failsafeOf(b.Build(), w)
}

func failsafeState(s circuitbreaker.State) state { return state(s.String()) }

func failsafeOf(cb circuitbreaker.CircuitBreaker[any], w want) *instance {
	policies := []failsafe.Policy[any]{cb}
	if w.maxCalls > 0 {
		policies = append(policies, bulkhead.New[any](uint(w.maxCalls)))
	}
	if w.hang > 0 {
		policies = append(policies, timeout.New[any](w.hang))
	}
	executor := failsafe.With(policies...)
	do := func(ctx context.Context, fn func(context.Context) error) error {
		return executor.WithContext(ctx).RunWithExecution(func(e failsafe.Execution[any]) error { return fn(e.Context()) })
	}
	return &instance{
		has: has{failures: w.failures, openFor: w.openFor, window: w.window, successes: w.successes},
		do:  do, start: startByDo(do),
		rejected: func(err error) bool {
			return errors.Is(err, circuitbreaker.ErrOpen) || errors.Is(err, bulkhead.ErrFull)
		},
		state:  func() state { return failsafeState(cb.State()) },
		counts: func() (int, int) { return int(cb.Metrics().Successes()), int(cb.Metrics().Failures()) },
		trip:   cb.Open, reset: cb.Close,
		retryAfter: func(error) time.Duration { return cb.RemainingDelay() },
	}
}
