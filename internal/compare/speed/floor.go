package speed

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
)

// The floor is the least that a breaker needs if it knows the time and counts a call. `make bench` uses the same floor.
var (
	floorStart = time.Now()
	floorState atomic.Pointer[int]
	floorCount atomic.Uint64
)

func floor() time.Duration {
	if floorState.Load() != nil {
		return 0
	}
	d := time.Since(floorStart)
	floorCount.Add(1)
	return d
}

// floorPeer is the floor. It guards nothing.
func floorPeer() Peer {
	guarded := func(settings) (*guard, error) {
		before := floorCount.Load()
		wrap := func(run func() error) func() error {
			return func() error {
				if floor() == 0 {
					return errRejected
				}
				return run()
			}
		}
		return &guard{wrap: wrap, counted: func() uint64 { return floorCount.Load() - before }}, nil
	}
	return Peer{
		Name: Floor, Window: "none",
		Note:  "an atomic load, a clock reading and an atomic add",
		Cases: cases("as in make bench", guarded, Success),
	}
}

// nothingPeer is the guarded function alone, which shows the cost of the harness.
func nothingPeer() Peer {
	bare := func(settings) (*guard, error) {
		return &guard{wrap: func(run func() error) func() error { return func() error { return run() } }}, nil
	}
	unary := func(
		ctx context.Context, method string, req, reply any,
		cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption,
	) error {
		return invoker(ctx, method, req, reply, cc, opts...)
	}
	around := func(settings) (*guard, error) { return &guard{wrap: intercept(unary, nil)}, nil }
	return Peer{
		Name: Nothing, Window: "none",
		Note:  "the function alone: the cost of the harness",
		Cases: append(cases("the function alone", bare, Success), cases("the invoker alone", around, Unary)...),
	}
}
