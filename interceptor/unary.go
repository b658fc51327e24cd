package interceptor

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// Unary guards one unary call. It is a grpc.UnaryClientInterceptor. cc may be nil.
func (g *Guard) Unary(
	ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker,
	opts ...grpc.CallOption,
) error {
	opts = slices.Clip(opts) // an append of an interceptor below must not write into the caller's memory (G1)
	b := g.find(ctx, method, nil, req, cc, opts)
	if b == nil || pastDeadline(ctx) { // grpc ends a call whose deadline has passed; the backend is not involved (G3)
		return invoker(ctx, method, req, reply, cc, opts...)
	}
	permit, err := b.Acquire(ctx)
	if err != nil {
		cause := asRejection(err)
		if cause == nil {
			return invoker(ctx, method, req, reply, cc, opts...)
		}
		err = g.reject(ctx, cause, method, nil, req, cc)
		if g.fallbacks != nil {
			call := unaryCall{method: method, req: req, reply: reply, cc: cc, opts: opts, err: err, rejected: true}
			err = g.tryFallback(ctx, b, &call)
		}
		callOnFinish(opts, err)
		return err
	}
	recently, inDoubt := permit.InDoubt()
	if mark := g.mustMark(permit, inDoubt); mark || recently || !g.plain {
		call := unaryCall{method: method, req: req, reply: reply, cc: cc, opts: opts}
		return g.unaryWithEvidence(ctx, b, permit, mark, call, invoker)
	}
	settled := false
	defer func() {
		if !settled { // the invoker panicked or exited the goroutine (G1)
			permit.Report(ctx, breaker.Report{Outcome: breaker.Failure, Cause: causePanic})
		}
	}()
	err = invoker(ctx, method, req, reply, cc, opts...)
	settled = true
	if err == nil {
		permit.Done(ctx, breaker.Success)
		return nil
	}
	call := unaryCall{method: method, req: req, reply: reply, cc: cc, opts: opts, err: err}
	return g.settleFailure(ctx, b, permit, call, invoker)
}

// settleFailure is the rest of Unary for a call that ended with an error. It is a separate function, so that its
// variables do not cost a successful call an allocation.
func (g *Guard) settleFailure(
	ctx context.Context, b *breaker.Breaker, permit breaker.Permit, call unaryCall, invoker grpc.UnaryInvoker,
) error {
	c := pending{guard: g, breaker: b, permit: permit}
	return c.settleUnary(ctx, &call, Result{Direct: grpcInvoker.is(invoker)})
}

// settleUnary completes r, settles the call, and tries a fallback if the call failed.
func (c *pending) settleUnary(ctx context.Context, call *unaryCall, r Result) error {
	r.Call, r.Err = call.call(), call.err
	call.outcome = c.settle(ctx, r, call.cc, 0, nil)
	if call.err == nil || c.guard.fallbacks == nil {
		return call.err
	}
	return c.guard.tryFallback(ctx, c.breaker, call)
}

// unaryWithEvidence is the rest of Unary for a call for which the guard needs more than the error.
func (g *Guard) unaryWithEvidence(
	ctx context.Context, b *breaker.Breaker, permit breaker.Permit, mark bool, call unaryCall, invoker grpc.UnaryInvoker,
) error {
	c := g.begin(ctx, b, permit, g.timed || permit.IsProbe())
	direct := grpcInvoker.is(invoker)
	evidence := g.evidenceFor(permit, direct)
	opts := evidence.options(call.opts, mark, permit, b)
	if permit.IsProbe() {
		c.reconnect(ctx, call.cc)
	}
	settled := false
	defer func() {
		if !settled {
			c.panicked(ctx, nil)
		}
	}()
	call.err = invoker(ctx, call.method, call.req, call.reply, call.cc, opts...)
	settled = true
	r := Result{Direct: direct}
	evidence.addTo(&r)
	return c.settleUnary(ctx, &call, r)
}

// evidence is what the guard requests from grpc for a unary call. It shows whether the error came from the backend
// (G5), and the trailer may hold a pushback (G9). A nil evidence requests nothing.
type evidence struct {
	header, trailer metadata.MD
	peer            peer.Peer
	onlyPeer        bool // request neither header nor trailer
	direct          bool // no interceptor is between the guard and grpc
}

// evidenceFor returns what to request. A request makes grpc copy metadata and allocate, so evidenceFor returns nil
// while all calls succeed. With an interceptor between the guard and grpc it also returns nil, because a hedging
// interceptor would use the same options for concurrent attempts. WithPeerEvidence overrides both.
func (g *Guard) evidenceFor(permit breaker.Permit, direct bool) *evidence {
	if g.evidence {
		return &evidence{direct: direct}
	}
	if !direct {
		return nil
	}
	recently, inDoubt := permit.InDoubt()
	switch {
	case inDoubt:
		return &evidence{direct: true}
	case recently:
		return &evidence{direct: true, onlyPeer: true}
	}
	return nil
}

// options returns opts followed by the options of e and, if mark is set, a guardMark. The result has no spare capacity.
// If it adds options, it returns a copy, because the caller's slice may be shared (G1).
func (e *evidence) options(
	opts []grpc.CallOption, mark bool, permit breaker.Permit, b *breaker.Breaker,
) []grpc.CallOption {
	var added [4]grpc.CallOption
	n := 0
	add := func(o grpc.CallOption) { added[n], n = o, n+1 }
	if e != nil {
		add(grpc.Peer(&e.peer))
		if !e.onlyPeer {
			add(grpc.Header(&e.header))
			add(grpc.Trailer(&e.trailer))
		}
	}
	if mark {
		add(&guardMark{breaker: b, probe: permit.IsProbe()})
	}
	if n == 0 {
		return opts
	}
	all := make([]grpc.CallOption, len(opts)+n)
	copy(all[copy(all, opts):], added[:n])
	return all
}

// addTo copies the evidence to r.
func (e *evidence) addTo(r *Result) {
	if e == nil {
		return
	}
	r.Trailer = e.trailer
	switch {
	case len(e.header) > 0, peerAnswered(e.trailer):
		r.Peer = PeerAnswered
	case e.direct && unreachedPeer(&e.peer):
		r.Peer = PeerUnreached
	case e.onlyPeer:
	default:
		r.Peer = PeerSilent
	}
}
