package interceptor

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// Unary guards one unary call. It is a grpc.UnaryClientInterceptor; cc may be nil.
func (g *Guard) Unary(
	ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	call := callOf(method, nil, req, cc)
	p := g.ask(ctx, call, opts)
	switch {
	case !p.guarded:
		return invoker(ctx, method, req, reply, cc, opts...)
	case p.rejected != nil:
		err := g.reject(ctx, p.rejected)
		if g.fallbacks == nil {
			return err
		}
		return g.fallBack(ctx, p.breaker, attempt{call: call, method: method, req: req, reply: reply, opts: opts, err: err, rejected: true})
	}
	c := g.begin(ctx, p)
	// Evidence costs what grpc takes to copy header and trailer, and a few allocations: where it was asked for, and while
	// the callee is in doubt, for then the trailer may hold a pushback (G9).
	if g.evidence || p.permit.Doubtful() {
		return g.unaryWithEvidence(ctx, c, attempt{call: call, method: method, req: req, reply: reply, opts: opts}, cc, invoker)
	}
	settled := false
	defer func() {
		if !settled { // G1: the invoker panicked or exited
			c.permit.Done(ctx, breaker.Failure)
		}
	}()
	err := invoker(ctx, method, req, reply, cc, opts...)
	settled = true
	if err == nil && g.plainSuccess {
		c.permit.Done(ctx, breaker.Success)
		return nil
	}
	outcome := c.settle(ctx, Result{Call: call, Err: err}, 0)
	if err != nil && g.fallbacks != nil {
		return g.fallBack(ctx, p.breaker, attempt{call: call, method: method, req: req, reply: reply, opts: opts, err: err, outcome: outcome})
	}
	return err
}

// unaryWithEvidence is the rest of Unary for a call whose header and trailer are looked at.
func (g *Guard) unaryWithEvidence(ctx context.Context, c pending, a attempt, cc *grpc.ClientConn, invoker grpc.UnaryInvoker) error {
	var header, trailer metadata.MD
	opts := make([]grpc.CallOption, 0, len(a.opts)+2) // a copy: the caller's slice may be shared (G1)
	opts = append(opts, a.opts...)
	opts = append(opts, grpc.Trailer(&trailer))
	if g.evidence {
		opts = append(opts, grpc.Header(&header))
	}
	settled := false
	defer func() {
		if !settled {
			c.permit.Done(ctx, breaker.Failure)
		}
	}()
	err := invoker(ctx, a.method, a.req, a.reply, cc, opts...)
	settled = true
	r := Result{Call: a.call, Err: err, Trailer: trailer}
	if g.evidence {
		r.Peer = PeerSilent
		if header != nil || len(trailer) > 0 {
			r.Peer = PeerAnswered
		}
	}
	outcome := c.settle(ctx, r, 0)
	if err != nil && g.fallbacks != nil {
		a.err, a.outcome = err, outcome
		return g.fallBack(ctx, c.breaker, a)
	}
	return err
}
