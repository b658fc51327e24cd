package behaviour

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/slok/goresilience"
	"github.com/slok/goresilience/bulkhead"
	"github.com/slok/goresilience/circuitbreaker"
	goresilienceerrors "github.com/slok/goresilience/errors"
	"github.com/slok/goresilience/metrics"
	"github.com/slok/goresilience/timeout"
)

var goresilienceRunner = &library{
	name:   "goresilience",
	module: "github.com/slok/goresilience",
	form: "circuitbreaker under a metrics.Recorder that receives states, around timeout in T23 and H13, " +
		"in bulkhead in N05; opens at MinimumRequestToOpen percent of errors: ErrorPercentThresholdToOpen has no effect",
	make: func(w want) *instance {
		cfg := circuitbreaker.Config{
			ErrorPercentThresholdToOpen: 50, MinimumRequestToOpen: max(w.failures, w.minCalls),
			SuccessfulRequiredOnHalfOpen: w.successes,
			WaitDurationInOpenState:      w.openFor, MetricsSlidingWindowBucketQuantity: 10,
			MetricsBucketDuration: w.window / 10,
		}
		if w.ratio > 0 {
			cfg.ErrorPercentThresholdToOpen = int(w.ratio*100 + 0.5)
		}
		return goresilienceOf(cfg, w)
	},
	preset: func() *instance { return goresilienceOf(circuitbreaker.Config{}, want{}) },
	nonsense: func() error {
		circuitbreaker.New(circuitbreaker.Config{ErrorPercentThresholdToOpen: 150, WaitDurationInOpenState: -time.Second})
		return nil
	},
	lacks: with(without(plainLacks, hasLimit, hasHang), map[feature]lack{
		hasSlow:   cannot("its timeout ends a slow call"),
		hasStreak: cannot("has a rule on the error percentage only"),
		hasState:  cannot("does not expose its state, except to a metrics recorder"),
		hasCounts: notFor("its counts go to a metrics recorder and are not read"),
		hasRamp:   cannot("goes from rejecting all calls to admitting all"),
		hasProbes: cannot("half-open admits every call"),
		hasSteps:  callbackOnly[hasSteps],
	}),
}

// goresilienceEvents receives states in the same way as the library's Prometheus recorder.
type goresilienceEvents struct {
	metrics.Recorder

	at   atomic.Value // a state
	told func(change)
}

func (e *goresilienceEvents) WithID(string) metrics.Recorder { return e }

func (e *goresilienceEvents) IncCircuitbreakerState(name string) {
	to := state(name)
	if name == "halfopen" {
		to = halfOpen
	}
	from, _ := e.at.Swap(to).(state)
	if e.told != nil {
		e.told(change{from: from, to: to})
	}
}

func goresilienceOf(cfg circuitbreaker.Config, w want) *instance {
	events := &goresilienceEvents{Recorder: metrics.Dummy, told: w.onChange}
	events.at.Store(closed)
	chain := []goresilience.Middleware{metrics.NewMiddleware("only", events)}
	if w.maxCalls > 0 {
		// Outside of the breaker, which would count its rejections as failures.
		chain = append(chain, bulkhead.NewMiddleware(bulkhead.Config{Workers: w.maxCalls, MaxWaitTime: time.Millisecond}))
	}
	chain = append(chain, circuitbreaker.NewMiddleware(cfg))
	if w.hang > 0 {
		chain = append(chain, timeout.NewMiddleware(timeout.Config{Timeout: w.hang}))
	}
	runner := goresilience.RunnerChain(chain...)
	do := func(ctx context.Context, fn func(context.Context) error) error {
		return aside(fn, func(fn func(context.Context) error) error { return runner.Run(ctx, fn) },
			goresilienceerrors.ErrCircuitOpen, context.Canceled)
	}
	return &instance{
		has: has{failures: max(w.failures, w.minCalls), openFor: w.openFor, window: w.window, successes: w.successes},
		do:  do, start: startByDo(do),
		rejected: func(err error) bool {
			return errors.Is(err, goresilienceerrors.ErrCircuitOpen) ||
				errors.Is(err, goresilienceerrors.ErrTimeoutWaitingForExecution)
		},
		state: func() state { return events.at.Load().(state) },
	}
}
