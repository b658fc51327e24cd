package speed

import (
	"context"

	"github.com/sony/gobreaker/v2"
	"google.golang.org/grpc"
)

func gobreakerPeer() Peer {
	all := []Work{Success, OnePercent, Open, HalfOpen}
	return Peer{
		Name: "sony/gobreaker", Module: "github.com/sony/gobreaker/v2",
		Window: "sliding, 10 steps",
		Cases: append(append(
			cases("Execute", gobreakerExecute(rolling), append(all, Consecutive)...),
			cases("two-step", gobreakerTwoStep(rolling), append(all, Consecutive)...)...),
			cases("by hand", gobreakerUnary(rolling), Unary, UnaryOpen)...),
		Idle: func(int) (any, error) {
			b := gobreaker.NewCircuitBreaker[struct{}](settings{openFor: openForLong}.gobreaker(rolling))
			_, err := b.Execute(func() (struct{}, error) { return struct{}{}, succeed() })
			return b, err
		},
	}
}

func gobreakerFixedPeer() Peer {
	all := []Work{Success, OnePercent}
	return Peer{
		Name: "sony/gobreaker, fixed", Module: "github.com/sony/gobreaker/v2",
		Window: "fixed, emptied every 10 s",
		Apart:  map[Work]string{Success: NotSliding, OnePercent: NotSliding},
		Cases: append(
			cases("Execute", gobreakerExecute(fixed), all...),
			cases("two-step", gobreakerTwoStep(fixed), all...)...),
	}
}

const (
	rolling = true
	fixed   = false
)

func (s settings) gobreaker(rolls bool) gobreaker.Settings {
	st := gobreaker.Settings{Timeout: s.openFor}
	if s.work == Consecutive { // without Interval the counts are never emptied
		st.ReadyToTrip = func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= consecutiveMax }
		return st
	}
	st.Interval = window
	if rolls {
		st.BucketPeriod = window / 10
	}
	st.ReadyToTrip = func(c gobreaker.Counts) bool {
		return c.Requests >= minCalls && float64(c.TotalFailures) >= ratio*float64(c.Requests)
	}
	return st
}

func gobreakerExecute(rolls bool) func(settings) (*guard, error) {
	return func(s settings) (*guard, error) {
		b := gobreaker.NewCircuitBreaker[struct{}](s.gobreaker(rolls))
		wrap := func(run func() error) func() error {
			inner := func() (struct{}, error) { return struct{}{}, run() } //nolint:unparam // the library requires this type
			return func() error {
				_, err := b.Execute(inner)
				return err
			}
		}
		return &guard{wrap: wrap, counted: func() uint64 { return uint64(b.Counts().Requests) }}, nil
	}
}

func gobreakerTwoStep(rolls bool) func(settings) (*guard, error) {
	return func(s settings) (*guard, error) {
		b := gobreaker.NewTwoStepCircuitBreaker[struct{}](s.gobreaker(rolls))
		wrap := func(run func() error) func() error {
			return func() error {
				done, err := b.Allow()
				if err != nil {
					return err
				}
				err = run()
				done(err)
				return err
			}
		}
		return &guard{wrap: wrap, counted: func() uint64 { return uint64(b.Counts().Requests) }}, nil
	}
}

func gobreakerUnary(rolls bool) func(settings) (*guard, error) {
	return func(s settings) (*guard, error) {
		b := gobreaker.NewCircuitBreaker[struct{}](s.gobreaker(rolls))
		unary := func(
			ctx context.Context, method string, req, reply any,
			cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption,
		) error {
			_, err := b.Execute(func() (struct{}, error) {
				return struct{}{}, invoker(ctx, method, req, reply, cc, opts...)
			})
			return err
		}
		return &guard{wrap: intercept(unary, nil), counted: func() uint64 { return uint64(b.Counts().Requests) }}, nil
	}
}
