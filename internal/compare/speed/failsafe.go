package speed

import (
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/failsafegrpc"
)

func failsafePeer() Peer {
	all := []Work{Success, Consecutive, OnePercent, Open, HalfOpen}
	return Peer{
		Name: "failsafe-go", Module: "github.com/failsafe-go/failsafe-go",
		Window: "sliding, 10 steps",
		Cases: append(append(append(
			cases("permits", failsafePermit, all...),
			cases("Run", failsafeRun, all...)...),
			cases("Get", failsafeGet, all...)...),
			cases("failsafegrpc", failsafeUnary, Unary, UnaryOpen)...),
		Idle: func(int) (any, error) {
			b := settings{openFor: openForLong}.failsafe()
			err := failsafe.With[any](b).Run(succeed)
			return b, err
		},
	}
}

func (s settings) failsafe() circuitbreaker.CircuitBreaker[any] {
	b := circuitbreaker.NewBuilder[any]().WithDelay(s.openFor).WithSuccessThreshold(1)
	if s.work == Consecutive {
		return b.WithFailureThreshold(consecutiveMax).Build()
	}
	return b.WithFailureRateThreshold(ratio, minCalls, window).Build()
}

// failsafeCount returns nil for the rule on a failure streak, because the library then keeps only the last few calls.
func failsafeCount(s settings, b circuitbreaker.CircuitBreaker[any]) func() uint64 {
	if s.work == Consecutive {
		return nil
	}
	return func() uint64 { return uint64(b.Metrics().Executions()) }
}

// failsafePermit reports with RecordSuccess and RecordFailure, the cheapest way to use the library.
func failsafePermit(s settings) (*guard, error) {
	b := s.failsafe()
	wrap := func(run func() error) func() error {
		return func() error {
			if !b.TryAcquirePermit() {
				return circuitbreaker.ErrOpen
			}
			err := run()
			if err != nil {
				b.RecordFailure()
			} else {
				b.RecordSuccess()
			}
			return err
		}
	}
	return &guard{wrap: wrap, counted: failsafeCount(s, b)}, nil
}

func failsafeRun(s settings) (*guard, error) {
	b := s.failsafe()
	executor := failsafe.With[any](b)
	wrap := func(run func() error) func() error {
		return func() error { return executor.Run(run) }
	}
	return &guard{wrap: wrap, counted: failsafeCount(s, b)}, nil
}

func failsafeGet(s settings) (*guard, error) {
	b := s.failsafe()
	executor := failsafe.With[any](b)
	wrap := func(run func() error) func() error {
		inner := func() (any, error) { return nil, run() } //nolint:unparam // the library requires this type
		return func() error {
			_, err := executor.Get(inner)
			return err
		}
	}
	return &guard{wrap: wrap, counted: failsafeCount(s, b)}, nil
}

func failsafeUnary(s settings) (*guard, error) {
	b := s.failsafe()
	return &guard{wrap: intercept(failsafegrpc.NewUnaryClientInterceptor[any](b), nil), counted: failsafeCount(s, b)}, nil
}
