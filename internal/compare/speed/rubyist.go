package speed

import (
	"github.com/cenk/backoff"
	circuit "github.com/rubyist/circuitbreaker"
)

func rubyistPeer() Peer {
	all := []Work{Success, Consecutive, OnePercent, Open}
	return Peer{
		Name: "rubyist/circuitbreaker", Module: "github.com/rubyist/circuitbreaker",
		Window: "sliding, 10 steps",
		Lacks:  map[Work]string{HalfOpen: "no slots: one probe in each period, as when open"},
		Cases: append(
			cases("Ready, Success", rubyistReady, all...),
			cases("Call", rubyistCall, all...)...),
		Idle: func(int) (any, error) {
			b := settings{openFor: openForLong}.rubyist()
			err := b.Call(succeed, 0)
			return b, err
		},
	}
}

func (s settings) rubyist() *circuit.Breaker {
	rule := circuit.RateTripFunc(ratio, minCalls)
	if s.work == Consecutive {
		rule = circuit.ConsecutiveTripFunc(consecutiveMax)
	}
	return circuit.NewBreakerWithOptions(&circuit.Options{
		BackOff: backoff.NewConstantBackOff(s.openFor), ShouldTrip: rule, WindowTime: window, WindowBuckets: 10,
	})
}

func rubyistReady(s settings) (*guard, error) {
	b := s.rubyist()
	wrap := func(run func() error) func() error {
		return func() error {
			if !b.Ready() {
				return circuit.ErrBreakerOpen
			}
			if err := run(); err != nil {
				b.Fail()
				return err
			}
			b.Success()
			return nil
		}
	}
	return &guard{wrap: wrap, counted: rubyistCount(b)}, nil
}

func rubyistCall(s settings) (*guard, error) {
	b := s.rubyist()
	wrap := func(run func() error) func() error {
		return func() error { return b.Call(run, 0) }
	}
	return &guard{wrap: wrap, counted: rubyistCount(b)}, nil
}

func rubyistCount(b *circuit.Breaker) func() uint64 {
	return func() uint64 { return uint64(b.Successes() + b.Failures()) }
}
