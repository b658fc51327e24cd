package speed

import (
	"context"

	"github.com/slok/goresilience"
	"github.com/slok/goresilience/circuitbreaker"
)

func goresiliencePeer() Peer {
	const consecutive = "no such rule"
	return Peer{
		Name: "slok/goresilience", Module: "github.com/slok/goresilience",
		Window: "sliding, 10 steps",
		Note:   "a goroutine for each breaker slides the window",
		Lacks:  map[Work]string{Consecutive: consecutive, HalfOpen: "admits every call while half-open"},
		Cases:  cases("Run", goresilienceRun, Success, OnePercent, Open),
		Idle: func(int) (any, error) {
			r := settings{openFor: openForLong}.goresilience()
			err := r.Run(ctx, func(context.Context) error { return succeed() })
			return r, err
		},
	}
}

func (s settings) goresilience() goresilience.Runner {
	return circuitbreaker.New(circuitbreaker.Config{
		ErrorPercentThresholdToOpen: 100 * ratio, MinimumRequestToOpen: minCalls, WaitDurationInOpenState: s.openFor,
		MetricsSlidingWindowBucketQuantity: 10, MetricsBucketDuration: window / 10,
	})
}

func goresilienceRun(s settings) (*guard, error) {
	r := s.goresilience()
	wrap := func(run func() error) func() error {
		inner := func(context.Context) error { return run() }
		return func() error { return r.Run(ctx, inner) }
	}
	return &guard{wrap: wrap}, nil
}
