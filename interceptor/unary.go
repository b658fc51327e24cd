package interceptor

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// Unary guards one unary call. It is a grpc.UnaryClientInterceptor; cc may be nil.
func (g *Guard) Unary(
	ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	b := g.find(ctx, method, nil, req, cc, opts)
	if b == nil || pastDeadline(ctx) { // G3: grpc ends a call that is late, and that says nothing of the backend
		return invoker(ctx, method, req, reply, cc, opts...)
	}
	permit, err := b.Acquire(ctx)
	if err != nil {
		cause := rejection(err)
		if cause == nil {
			return invoker(ctx, method, req, reply, cc, opts...)
		}
		err = g.reject(ctx, cause)
		if g.fallbacks != nil {
			err = g.fallBack(ctx, b, &attempt{method: method, req: req, reply: reply, cc: cc, opts: opts, err: err, rejected: true})
		}
		tellFinished(opts, err)
		return err
	}
	if !g.plain || permit.Doubtful() {
		return g.watched(ctx, b, permit, attempt{method: method, req: req, reply: reply, cc: cc, opts: opts}, invoker)
	}
	settled := false
	defer func() {
		if !settled { // G1: the invoker panicked or exited
			permit.Done(ctx, breaker.Failure)
		}
	}()
	err = invoker(ctx, method, req, reply, cc, opts...)
	settled = true
	if err == nil {
		permit.Done(ctx, breaker.Success)
		return nil
	}
	return g.failed(ctx, b, permit, attempt{method: method, req: req, reply: reply, cc: cc, opts: opts, err: err})
}

// failed is the rest of Unary for a call that ended with an error.
func (g *Guard) failed(ctx context.Context, b *breaker.Breaker, permit breaker.Permit, a attempt) error {
	c := pending{guard: g, breaker: b, permit: permit}
	a.outcome = c.settle(ctx, Result{Call: a.call(), Err: a.err}, a.cc, 0)
	if g.fallbacks == nil {
		return a.err
	}
	return g.fallBack(ctx, b, &a)
}

// watched is the rest of Unary for a call that more than its error is wanted of.
//
// The header and the trailer cost what grpc takes to copy them, and a few allocations. So the guard looks where
// WithPeerEvidence asks for it; and at the trailer while the backend is in doubt, for then it may hold a pushback (G9).
func (g *Guard) watched(ctx context.Context, b *breaker.Breaker, permit breaker.Permit, a attempt, invoker grpc.UnaryInvoker) error {
	c := g.begin(ctx, b, permit)
	opts := a.opts
	var header, trailer *metadata.MD
	if g.evidence || permit.Doubtful() {
		trailer = new(metadata.MD)
		opts = append(slices.Clip(opts), grpc.Trailer(trailer)) // a copy: the caller's slice may be shared (G1)
	}
	if permit.IsProbe() {
		opts = append(opts, &probeOption{of: b})
	}
	if g.evidence {
		header = new(metadata.MD)
		opts = append(opts, grpc.Header(header))
	}
	settled := false
	defer func() {
		if !settled {
			permit.Done(ctx, breaker.Failure)
		}
	}()
	a.err = invoker(ctx, a.method, a.req, a.reply, a.cc, opts...)
	settled = true
	r := Result{Call: a.call(), Err: a.err}
	if trailer != nil {
		r.Trailer = *trailer
	}
	if header != nil {
		r.Peer = PeerSilent
		if *header != nil || len(*trailer) > 0 {
			r.Peer = PeerAnswered
		}
	}
	a.outcome = c.settle(ctx, r, a.cc, 0)
	if a.err == nil || g.fallbacks == nil {
		return a.err
	}
	return g.fallBack(ctx, b, &a)
}
