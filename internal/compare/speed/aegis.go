package speed

import (
	"context"

	"github.com/go-kratos/aegis/circuitbreaker"
	"github.com/go-kratos/aegis/circuitbreaker/sre"
	kratosbreaker "github.com/go-kratos/kratos/v2/middleware/circuitbreaker"
	"github.com/go-kratos/kratos/v2/transport"
	"google.golang.org/grpc"
)

func aegisPeer() Peer {
	const chance = "rejects at random: it cannot be kept open"
	return Peer{
		Name: "go-kratos/aegis", Module: "github.com/go-kratos/aegis",
		Window: "sliding, 10 steps",
		Note:   "an adaptive throttle",
		Lacks:  map[Work]string{Consecutive: "no such rule", Open: chance, HalfOpen: "no such state"},
		Cases:  cases("Allow, MarkSuccess", aegisAllow, Success, OnePercent),
		Idle: func(int) (any, error) {
			b := newAegis()
			if err := b.Allow(); err != nil {
				return nil, err
			}
			b.MarkSuccess()
			return b, nil
		},
	}
}

// kratosPeer is the way in which users of gRPC get aegis.
func kratosPeer() Peer {
	return Peer{
		Name: "go-kratos/kratos", Module: "github.com/go-kratos/kratos/v2",
		Window: "as in aegis",
		Note:   "its client middleware, without the transport around it",
		Lacks:  map[Work]string{UnaryOpen: "rejects at random: it cannot be kept open"},
		Cases:  cases("middleware", kratosUnary, Unary),
	}
}

func newAegis() circuitbreaker.CircuitBreaker {
	return sre.NewBreaker(sre.WithSuccess(ratio), sre.WithRequest(minCalls), sre.WithWindow(window), sre.WithBucket(10))
}

func aegisAllow(settings) (*guard, error) {
	b := newAegis()
	wrap := func(run func() error) func() error {
		return func() error {
			if err := b.Allow(); err != nil {
				b.MarkFailed()
				return err
			}
			if err := run(); err != nil {
				b.MarkFailed()
				return err
			}
			b.MarkSuccess()
			return nil
		}
	}
	return &guard{wrap: wrap}, nil
}

func kratosUnary(settings) (*guard, error) {
	client := kratosbreaker.Client(kratosbreaker.WithCircuitBreaker(newAegis))
	called := transport.NewClientContext(ctx, operation(fullMethod))
	unary := func(
		_ context.Context, method string, req, reply any,
		cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption,
	) error {
		_, err := client(func(ctx context.Context, req any) (any, error) {
			return reply, invoker(ctx, method, req, reply, cc, opts...)
		})(called, req)
		return err
	}
	return &guard{wrap: intercept(unary, nil)}, nil
}

// operation implements the part of a transport that the middleware needs.
type operation string

func (operation) Kind() transport.Kind            { return transport.KindGRPC }
func (operation) Endpoint() string                { return "" }
func (o operation) Operation() string             { return string(o) }
func (operation) RequestHeader() transport.Header { return nil }
func (operation) ReplyHeader() transport.Header   { return nil }
