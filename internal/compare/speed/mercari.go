package speed

import (
	circuitbreaker "github.com/mercari/go-circuitbreaker"
)

func mercariPeer() Peer {
	all := []Work{Success, Consecutive, OnePercent, Open}
	return Peer{
		Name: "mercari/go-circuitbreaker", Module: "github.com/mercari/go-circuitbreaker",
		Window: "fixed, emptied every 10 s",
		Note:   "a goroutine empties the counts, and a timer ends the open period; a call reads no clock",
		Apart:  map[Work]string{Success: NotSliding, OnePercent: NotSliding, Open: noClock},
		Lacks:  map[Work]string{HalfOpen: "admits every call while half-open"},
		Cases: append(
			cases("Ready, Done", mercariReady, all...),
			cases("Do", mercariDo, all...)...),
		Idle: func(int) (any, error) {
			b := settings{openFor: openForLong}.mercari()
			_, err := b.Do(ctx, func() (any, error) { return nil, succeed() })
			return b, err
		},
	}
}

func (s settings) mercari() *circuitbreaker.CircuitBreaker {
	rule, interval := circuitbreaker.NewTripFuncFailureRate(minCalls, ratio), window
	if s.work == Consecutive {
		rule, interval = circuitbreaker.NewTripFuncConsecutiveFailures(consecutiveMax), -1
	}
	return circuitbreaker.New(
		circuitbreaker.WithTripFunc(rule),
		circuitbreaker.WithCounterResetInterval(interval),
		circuitbreaker.WithOpenTimeout(s.openFor),
	)
}

func mercariReady(s settings) (*guard, error) {
	b := s.mercari()
	wrap := func(run func() error) func() error {
		return func() error {
			if !b.Ready() {
				return circuitbreaker.ErrOpen
			}
			if err := run(); err != nil {
				b.Fail()
				return err
			}
			b.Success()
			return nil
		}
	}
	return &guard{wrap: wrap, counted: mercariCount(b)}, nil
}

func mercariDo(s settings) (*guard, error) {
	b := s.mercari()
	wrap := func(run func() error) func() error {
		inner := func() (any, error) { return nil, run() } //nolint:unparam // the library requires this type
		return func() error {
			_, err := b.Do(ctx, inner)
			return err
		}
	}
	return &guard{wrap: wrap, counted: mercariCount(b)}, nil
}

func mercariCount(b *circuitbreaker.CircuitBreaker) func() uint64 {
	return func() uint64 {
		c := b.Counters()
		return uint64(c.Successes + c.Failures)
	}
}
