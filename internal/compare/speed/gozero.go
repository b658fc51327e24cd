package speed

import (
	"context"
	"path"
	"strconv"

	"github.com/zeromicro/go-zero/core/breaker"
	"github.com/zeromicro/go-zero/core/stat"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func gozeroPeer() Peer {
	// Otherwise it prints CPU usage each minute, in the middle of the benchmark output.
	stat.DisableLog()
	closed := []Work{Success, OnePercent}
	const chance = "rejects at random, and admits one call each second: it cannot be kept open"
	return Peer{
		Name: "go-zero", Module: "github.com/zeromicro/go-zero",
		Window: "sliding, 40 steps",
		Note:   "an adaptive throttle without settings",
		Lacks: map[Work]string{
			Consecutive: "no such rule", Open: chance, HalfOpen: "no such state", UnaryOpen: chance,
		},
		Cases: append(append(
			cases("Allow, Accept", gozeroAllow, closed...),
			cases("Do", gozeroDo, closed...)...),
			cases("as zrpc does", gozeroUnary, Unary)...),
		Idle: func(i int) (any, error) {
			b := breaker.NewBreaker(breaker.WithName(strconv.Itoa(i)))
			err := b.Do(succeed)
			return b, err
		},
	}
}

func gozeroAllow(settings) (*guard, error) {
	b := breaker.NewBreaker()
	wrap := func(run func() error) func() error {
		return func() error {
			p, err := b.Allow()
			if err != nil {
				return err
			}
			if err := run(); err != nil {
				p.Reject(err.Error())
				return err
			}
			p.Accept()
			return nil
		}
	}
	return &guard{wrap: wrap}, nil
}

func gozeroDo(settings) (*guard, error) {
	b := breaker.NewBreaker()
	wrap := func(run func() error) func() error {
		return func() error { return b.Do(run) }
	}
	return &guard{wrap: wrap}, nil
}

// gozeroUnary needs a connection only for the name of its target.
func gozeroUnary(settings) (*guard, error) {
	cc, err := grpc.NewClient("passthrough:///orders", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	unary := func(
		ctx context.Context, method string, req, reply any,
		cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption,
	) error {
		return breaker.DoCtx(ctx, path.Join(cc.Target(), method), func() error {
			return invoker(ctx, method, req, reply, cc, opts...)
		})
	}
	return &guard{wrap: intercept(unary, cc), close: func() { _ = cc.Close() }}, nil
}
