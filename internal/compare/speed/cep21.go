package speed

import (
	"context"
	"math"

	"github.com/cep21/circuit/v4"
	"github.com/cep21/circuit/v4/closers/hystrix"
	"github.com/cep21/circuit/v4/closers/simplelogic"
)

func cep21Peer() Peer {
	return Peer{
		Name: "cep21/circuit", Module: "github.com/cep21/circuit/v4",
		Window: "sliding, 10 steps",
		Note:   "its time limit for a call, on by default, is switched off",
		Lacks:  map[Work]string{HalfOpen: "no slots: a number of probes in each period, as when open"},
		Cases:  cases("Run", cep21Run, Success, Consecutive, OnePercent, Open),
		Idle: func(int) (any, error) {
			c := settings{openFor: openForLong}.cep21()
			err := c.Run(ctx, func(context.Context) error { return succeed() })
			return c, err
		},
	}
}

func (s settings) cep21() *circuit.Circuit { return circuit.NewCircuitFromConfig("", s.cep21Config()) }

func (s settings) cep21Config() circuit.Config {
	cfg := circuit.Config{
		General: circuit.GeneralConfig{
			OpenToClosedFactory: hystrix.CloserFactory(hystrix.ConfigureCloser{SleepWindow: s.openFor}),
			ClosedToOpenFactory: hystrix.OpenerFactory(hystrix.ConfigureOpener{
				ErrorThresholdPercentage: 100 * ratio, RequestVolumeThreshold: minCalls, RollingDuration: window, NumBuckets: 10,
			}),
		},
		Execution: circuit.ExecutionConfig{Timeout: -1, MaxConcurrentRequests: math.MaxInt64},
	}
	if s.work == Consecutive {
		cfg.General.ClosedToOpenFactory = simplelogic.ConsecutiveErrOpenerFactory(
			simplelogic.ConfigConsecutiveErrOpener{ErrorThreshold: consecutiveMax})
	}
	return cfg
}

func cep21Run(s settings) (*guard, error) {
	c := s.cep21()
	wrap := func(run func() error) func() error {
		inner := func(context.Context) error { return run() }
		return func() error { return c.Run(ctx, inner) }
	}
	return &guard{wrap: wrap}, nil
}
