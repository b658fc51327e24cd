package behaviour

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/cep21/circuit/v4"
	"github.com/cep21/circuit/v4/closers/hystrix"
	"github.com/cep21/circuit/v4/closers/simplelogic"
	"github.com/cep21/circuit/v4/metrics/rolling"
)

var cep21Circuit = &library{
	name:   "cep21",
	module: "github.com/cep21/circuit/v4",
	form: "Circuit.Run with the closer of closers/hystrix and its opener, or that of closers/simplelogic " +
		"for failure streaks; a time limit (Execution.Timeout) in T21, T22, T23 and H13 only",
	make:   func(w want) *instance { return cep21Of(circuit.NewCircuitFromConfig("only", cep21Config(w)), w) },
	preset: func() *instance { return cep21Of(circuit.NewCircuitFromConfig("only", circuit.Config{}), want{}) },
	registry: func(w want, _ int) *registry {
		m := &circuit.Manager{DefaultCircuitProperties: []circuit.CommandPropertiesConstructor{
			func(string) circuit.Config { return cep21Config(w) },
		}}
		return &registry{
			get: func(key string) *instance {
				c := m.GetCircuit(key)
				if c == nil {
					var err error
					if c, err = m.CreateCircuit(key); err != nil {
						c = m.GetCircuit(key) // another goroutine was first
					}
				}
				return cep21Of(c, w)
			},
			len: func() int { return len(m.AllCircuits()) },
		}
	},
	nonsense: func() error {
		f := hystrix.Factory{
			ConfigureOpener: hystrix.ConfigureOpener{ErrorThresholdPercentage: 150},
			ConfigureCloser: hystrix.ConfigureCloser{SleepWindow: -time.Second},
		}
		_, err := new(circuit.Manager).CreateCircuit("nonsense", f.Configure("nonsense"))
		return err
	},
	lacks: map[feature]lack{
		hasBackoff: cannot("every open period is SleepWindow"),
		hasJitter:  cannot("every open period is SleepWindow"),
		hasAsked:   cannot("every open period is SleepWindow"),
		hasShadow:  cannot("has no shadow mode: held closed, it does not report what it would have rejected"),
		hasRetry:   cannot("neither a rejection nor the circuit gives the remaining time"),
		hasRamp:    cannot("goes from a few probes to all calls at once"),
		hasCause:   cannot("Opened gets the time, but no counts"),
		hasSteps:   callbackOnly[hasSteps],
	},
}

func cep21Config(w want) circuit.Config {
	c := circuit.Config{
		General: circuit.GeneralConfig{
			ClosedToOpenFactory: simplelogic.ConsecutiveErrOpenerFactory(cep21Streak(w)),
			OpenToClosedFactory: hystrix.CloserFactory(cep21Closer(w)),
		},
		Execution: circuit.ExecutionConfig{
			Timeout: -1, MaxConcurrentRequests: math.MaxInt64,
			// A cancelled call is ignored, but one whose deadline has passed is not.
			IsErrInterrupt: func(err error) bool { return errors.Is(err, context.Canceled) },
		},
	}
	if w.ratio > 0 {
		c.General.ClosedToOpenFactory = hystrix.OpenerFactory(cep21Ratio(w))
	}
	if w.trip != nil {
		c.General.ClosedToOpenFactory = func() circuit.ClosedToOpen {
			return cep21Trip{ClosedToOpen: hystrix.OpenerFactory(hystrix.ConfigureOpener{})(), trip: w.trip}
		}
	}
	if limit := max(w.slow, w.hang); limit > 0 {
		// It ends the call's context. A call that took longer counts as a failure, whatever it returned.
		c.Execution.Timeout = limit
	}
	if w.maxCalls > 0 {
		c.Execution.MaxConcurrentRequests = int64(w.maxCalls)
	}
	if w.onChange != nil {
		c.Metrics.Circuit = []circuit.Metrics{cep21Events(w.onChange)}
	}
	stats := rolling.StatFactory{RunConfig: rolling.RunStatsConfig{RollingStatsDuration: w.window}}
	c.Merge(stats.CreateConfig("only"))
	return c
}

func cep21Streak(w want) simplelogic.ConfigConsecutiveErrOpener {
	return simplelogic.ConfigConsecutiveErrOpener{ErrorThreshold: int64(w.failures)}
}

func cep21Ratio(w want) hystrix.ConfigureOpener {
	return hystrix.ConfigureOpener{
		ErrorThresholdPercentage: int64(w.ratio*100 + 0.5), RequestVolumeThreshold: int64(w.minCalls),
		RollingDuration: w.window, NumBuckets: 10,
	}
}

func cep21Closer(w want) hystrix.ConfigureCloser {
	return hystrix.ConfigureCloser{
		SleepWindow: w.openFor, HalfOpenAttempts: int64(w.probes), RequiredConcurrentSuccessful: int64(w.successes),
	}
}

// cep21Trip opens the circuit by a custom rule.
type cep21Trip struct {
	circuit.ClosedToOpen

	trip func() bool
}

func (t cep21Trip) ShouldOpen(context.Context, time.Time) bool { return t.trip() }

// cep21Events receives the only two transitions: probes are admitted in the open state.
type cep21Events func(change)

func (told cep21Events) Opened(context.Context, time.Time) { told(change{from: closed, to: open}) }
func (told cep21Events) Closed(context.Context, time.Time) { told(change{from: open, to: closed}) }

func cep21Rejected(err error) bool {
	e, ok := errors.AsType[circuit.Error](err)
	return ok && (e.CircuitOpen() || e.ConcurrencyLimitReached())
}

func cep21Of(c *circuit.Circuit, w want) *instance {
	do := func(ctx context.Context, fn func(context.Context) error) error {
		err := c.Run(ctx, func(ctx context.Context) error {
			err := fn(ctx)
			if cep21Rejected(err) {
				return circuit.SimpleBadRequest{Err: err} // by an inner circuit: not a failure here
			}
			return err
		})
		if bad, ok := errors.AsType[circuit.SimpleBadRequest](err); ok {
			return bad.Err
		}
		return err
	}
	return &instance{
		has: has{failures: w.failures, openFor: w.openFor, window: w.window, successes: w.successes, between: w.openFor},
		do:  do, start: startByDo(do), rejected: cep21Rejected,
		state: func() state {
			if c.IsOpen() {
				return open
			}
			return closed
		},
		counts: func() (int, int) {
			stats, now := rolling.FindCommandMetrics(c), time.Now()
			return int(stats.Successes.RollingSumAt(now)), int(stats.ErrorsAt(now))
		},
		trip:  func() { c.OpenCircuit(bg) },
		reset: func() { c.CloseCircuit(bg) },
		forceOpen: func() func() {
			force := func(on bool) {
				cfg := c.Config()
				cfg.General.ForceOpen = on
				c.SetConfigThreadSafe(cfg)
			}
			force(true)
			return func() { force(false) }
		},
		apply: func(w want) {
			switch o := c.ClosedToOpen.(type) {
			case *hystrix.Opener:
				o.SetConfigThreadSafe(cep21Ratio(w))
			case *simplelogic.ConsecutiveErrOpener:
				o.SetConfigThreadSafe(cep21Streak(w))
			}
			if closer, ok := c.OpenToClose.(*hystrix.Closer); ok {
				closer.SetConfigThreadSafe(cep21Closer(w))
			}
		},
	}
}
