package speed

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
)

var (
	ctx        = context.Background()
	fullMethod = "/shop.Orders/Get"
)

func grpcircuitPeer() Peer {
	all := []Work{Success, Consecutive, OnePercent, Open, HalfOpen}
	return Peer{
		Name: Ours, Module: "github.com/grpcircuit/grpcircuit",
		Window: "sliding, 10 steps",
		Note:   "the default Config: the rule for failure streaks is on too",
		Cases: append(append(
			cases("Acquire, Done", grpcircuitPermit, all...),
			cases("Do", grpcircuitDo, all...)...),
			cases("Guard.Unary", grpcircuitUnary, Unary, UnaryOpen)...),
		Idle: func(i int) (any, error) {
			b, err := breaker.New(breaker.Key{}, breaker.Config{})
			if err != nil {
				return nil, err
			}
			err = b.Do(ctx, func(context.Context) error { return succeed() })
			return b, err
		},
	}
}

func (s settings) grpcircuit() breaker.Config {
	cfg := breaker.Config{OpenFor: s.openFor, MaxOpenFor: s.openFor, Backoff: 1, ProbeTimeout: time.Hour}
	switch s.work {
	case Consecutive:
		cfg.FailureRatio = -1
	case OnePercent:
		// The rule is on, but must not open the breaker. Failures wait for the breaker's lock, and if a goroutine loses its
		// core while it holds the lock, the failures of all goroutines are reported one after the other.
		cfg.ConsecutiveFailures = 1000
	case Open, HalfOpen, UnaryOpen:
		cfg.FailingFor = -1 // failures of one instant open the breaker
	default:
	}
	return cfg
}

func grpcircuitPermit(s settings) (*guard, error) {
	b, err := breaker.New(breaker.Key{}, s.grpcircuit())
	if err != nil {
		return nil, err
	}
	wrap := func(run func() error) func() error {
		return func() error {
			p, err := b.Acquire(ctx)
			if err != nil {
				return err
			}
			if err := run(); err != nil {
				p.Done(ctx, breaker.Failure)
				return err
			}
			p.Done(ctx, breaker.Success)
			return nil
		}
	}
	return &guard{wrap: wrap, counted: grpcircuitCount(b)}, nil
}

func grpcircuitDo(s settings) (*guard, error) {
	b, err := breaker.New(breaker.Key{}, s.grpcircuit())
	if err != nil {
		return nil, err
	}
	wrap := func(run func() error) func() error {
		inner := func(context.Context) error { return run() }
		return func() error { return b.Do(ctx, inner) }
	}
	return &guard{wrap: wrap, counted: grpcircuitCount(b)}, nil
}

func grpcircuitCount(b *breaker.Breaker) func() uint64 {
	return func() uint64 {
		s := b.Snapshot()
		return s.Successes + s.Failures
	}
}

func grpcircuitUnary(s settings) (*guard, error) {
	group, err := breaker.NewGroup(s.grpcircuit())
	if err != nil {
		return nil, err
	}
	g, err := interceptor.New(group)
	if err != nil {
		return nil, err
	}
	counted := func() (n uint64) {
		for _, b := range group.All() {
			n += b.Snapshot().Successes
		}
		return n
	}
	return &guard{wrap: intercept(g.Unary, nil), counted: counted}, nil
}

// intercept guards an invoker that returns the result of run.
func intercept(unary grpc.UnaryClientInterceptor, cc *grpc.ClientConn) func(run func() error) func() error {
	return func(run func() error) func() error {
		invoker := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return run() }
		return func() error { return unary(ctx, fullMethod, nil, nil, cc, invoker) }
	}
}
