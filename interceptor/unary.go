package interceptor

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// Unary guards one unary call. It is a grpc.UnaryClientInterceptor; cc may be nil.
func (g *Guard) Unary(
	ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	opts = slices.Clip(opts) // an interceptor inside that appends must not write into the caller's memory (G1)
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
			err = g.tryFallback(ctx, b, &unaryCall{method: method, req: req, reply: reply, cc: cc, opts: opts, err: err, rejected: true})
		}
		callOnFinish(opts, err)
		return err
	}
	if !g.plain || permit.Doubt() != breaker.NoDoubt {
		return g.unaryWithEvidence(ctx, b, permit, unaryCall{method: method, req: req, reply: reply, cc: cc, opts: opts}, invoker)
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
	a := unaryCall{method: method, req: req, reply: reply, cc: cc, opts: opts, err: err}
	return g.settleFailure(ctx, b, permit, a, invoker)
}

// settleFailure is the rest of Unary for a call that ended with an error. A function of its own, so that a success does not pay
// for what it keeps on the heap.
func (g *Guard) settleFailure(ctx context.Context, b *breaker.Breaker, permit breaker.Permit, a unaryCall, invoker grpc.UnaryInvoker) error {
	c := pending{guard: g, breaker: b, permit: permit}
	return c.settleUnary(ctx, &a, Result{Direct: grpcInvoker.is(invoker)})
}

// settleUnary is the end of a call that took more than the shortest way: it settles the call as r says, and falls back.
func (c *pending) settleUnary(ctx context.Context, a *unaryCall, r Result) error {
	r.Call, r.Err = a.call(), a.err
	a.outcome = c.settle(ctx, r, a.cc, 0, nil)
	if a.err == nil || c.guard.fallbacks == nil {
		return a.err
	}
	return c.guard.tryFallback(ctx, c.breaker, a)
}

// unaryWithEvidence is the rest of Unary for a call of which more than the error must be known.
func (g *Guard) unaryWithEvidence(ctx context.Context, b *breaker.Breaker, permit breaker.Permit, a unaryCall, invoker grpc.UnaryInvoker) error {
	c := g.begin(ctx, b, permit)
	direct := grpcInvoker.is(invoker)
	look := g.evidenceFor(permit.Doubt(), direct)
	opts := look.options(a.opts, permit, b)
	if permit.IsProbe() {
		c.reconnect(ctx, a.cc)
	}
	settled := false
	defer func() {
		if !settled {
			permit.Done(ctx, breaker.Failure)
		}
	}()
	a.err = invoker(ctx, a.method, a.req, a.reply, a.cc, opts...)
	settled = true
	r := Result{Direct: direct}
	look.result(&r)
	return c.settleUnary(ctx, &a, r)
}

// evidence holds what the guard asks grpc for: evidence of whose error a unary call ends with (G5), and the pushback in
// the trailer (G9). A nil evidence asks for nothing.
type evidence struct {
	header, trailer metadata.MD
	peer            peer.Peer
	onlyPeer        bool
	direct          bool
}

// evidenceFor returns what to ask for. Asking makes grpc copy metadata, and allocates, so the result is nil while all calls
// succeed. With an interceptor between the guard and grpc it is nil unless WithPeerEvidence is set: a hedging
// interceptor shares options between concurrent attempts.
func (g *Guard) evidenceFor(d breaker.Doubt, direct bool) *evidence {
	switch {
	case g.evidence, direct && d == breaker.InDoubt:
		return &evidence{direct: direct}
	case direct && d == breaker.Troubled:
		return &evidence{direct: direct, onlyPeer: true}
	}
	return nil
}

// options returns opts followed by the options of l and of a probe. The result has no spare capacity. If options are
// added it is a copy, because the caller's slice may be shared (G1).
func (l *evidence) options(opts []grpc.CallOption, permit breaker.Permit, b *breaker.Breaker) []grpc.CallOption {
	var added [4]grpc.CallOption
	n := 0
	add := func(o grpc.CallOption) { added[n], n = o, n+1 }
	if l != nil {
		add(grpc.Peer(&l.peer))
		if !l.onlyPeer {
			add(grpc.Header(&l.header))
			add(grpc.Trailer(&l.trailer))
		}
	}
	if permit.IsProbe() {
		add(&probeOption{of: b})
	}
	if n == 0 {
		return opts
	}
	all := make([]grpc.CallOption, len(opts)+n)
	copy(all[copy(all, opts):], added[:n])
	return all
}

// result copies the evidence into r.
func (l *evidence) result(r *Result) {
	if l == nil {
		return
	}
	r.Trailer = l.trailer
	switch {
	case len(l.header) > 0, peerAnswered(l.trailer):
		r.Peer = PeerAnswered
	case l.direct && unreachedPeer(&l.peer):
		r.Peer = PeerUnreached
	case l.onlyPeer:
	default:
		r.Peer = PeerSilent
	}
}
