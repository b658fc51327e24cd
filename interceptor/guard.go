package interceptor

import (
	"context"
	"strings"
	"sync/atomic"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"google.golang.org/grpc"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// Guard guards the calls of gRPC clients. Its methods Unary and Stream are client interceptors. One Guard serves any
// number of connections. It is safe for concurrent use and owns no goroutine and no timer. It must come from New; the
// zero Guard is not usable.
type Guard struct {
	group *breaker.Group
	options
	cache      breakerCache
	rejections rejectionCache
	marks      atomic.Int32 // how many more calls are marked to find a second guard
	stops      []func()     // end the registrations of hooks with the group
}

// firstMarks is how many calls a guard marks at first, see Hooks.GuardedTwice.
const firstMarks = 100

// New returns a Guard that takes its breakers from g. If g is nil, the guard has a group of its own, with the default
// Config. A nil option and an option with an invalid argument are errors.
//
// Make one Guard for a group and use it for all connections. Use it once for each connection: a call that passes two
// guards of one group counts twice, also for Config.MaxConcurrent (see Hooks.GuardedTwice).
func New(g *breaker.Group, opts ...Option) (*Guard, error) {
	o, err := collect(opts)
	if err != nil {
		return nil, err
	}
	if g == nil {
		if g, err = breaker.NewGroup(breaker.Config{}); err != nil {
			return nil, err
		}
	}
	guard := &Guard{group: g, options: *o}
	if o.hooks.guardedTwice != nil {
		guard.marks.Store(firstMarks)
	}
	for _, h := range o.transitions {
		guard.stops = append(guard.stops, h.register(g))
	}
	return guard, nil
}

// Close ends the calls of Hooks.Transition for this guard. A group that outlives its guards otherwise keeps their hooks.
// Close changes nothing else: calls through the guard are still guarded, and its other hooks are still called.
func (g *Guard) Close() {
	for _, stop := range g.stops {
		stop()
	}
}

// Group returns the group that the guard takes its breakers from.
func (g *Guard) Group() *breaker.Group { return g.group }

// DialOptions returns Unary and Stream as chained interceptors. A connection needs both: unary calls never pass stream
// interceptors, and streams never pass unary ones. Interceptors run in the order in which a connection gets its options.
func (g *Guard) DialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(g.Unary), grpc.WithChainStreamInterceptor(g.Stream)}
}

// find returns the breaker for a call. It returns nil if the call is not guarded: because of Bypass, the matcher, a
// panic in the key function, or because it is a probe of this breaker already.
func (g *Guard) find(
	ctx context.Context, method string, desc *grpc.StreamDesc, req any, cc *grpc.ClientConn, opts []grpc.CallOption,
) *breaker.Breaker {
	bypass, tag, marked := callOptions(opts)
	if bypass {
		return nil
	}
	// Without a key function and a matcher, no user code runs here. Then neither a Call nor a recover is needed.
	var key breaker.Key
	var b *breaker.Breaker
	switch {
	case g.key != nil || g.matcher != nil:
		if !g.callKeyFunc(ctx, callOf(method, desc, req, cc), &key) {
			return nil
		}
	case tag != nil:
		key = targetMethod(targetOf(cc), method)
	default:
		b = g.cache.find(g.group, targetOf(cc), method)
	}
	if tag != nil {
		key.Tag = tag.tag
	}
	if b == nil {
		b = g.group.Get(key)
	}
	if !marked {
		return b
	}
	if mark := findMark(opts, b); mark != nil {
		if g.hooks.guardedTwice != nil {
			info := GuardedTwiceInfo{Key: b.Key(), Call: callOf(method, desc, req, cc)}
			callHooks(ctx, &g.hooks, "GuardedTwice", g.hooks.guardedTwice, info)
		}
		if mark.probe {
			return nil
		}
	}
	return b
}

// mustMark reports whether a call gets a guardMark: each probe, and calls that are checked for a second guard.
func (g *Guard) mustMark(permit breaker.Permit, inDoubt bool) bool {
	if g.hooks.guardedTwice == nil {
		return permit.IsProbe()
	}
	return inDoubt || (g.marks.Load() > 0 && g.marks.Add(-1) >= 0)
}

// callKeyFunc calls the matcher and the key function. It returns false for a call that the matcher excludes, and for a
// call where either panics, which is counted (G12).
func (g *Guard) callKeyFunc(ctx context.Context, call Call, key *breaker.Key) (ok bool) {
	what := "matcher"
	defer func() {
		if v := recover(); v != nil {
			g.group.CountUnguarded()
			g.hooks.reportPanic(ctx, what, v, call)
			ok = false
		}
	}()
	if g.matcher != nil && !g.matcher.Match(ctx, call.CallMeta) {
		return false
	}
	what = "key function"
	if g.key == nil {
		*key = keyfunc.TargetMethod(ctx, call)
	} else {
		*key = g.key(ctx, call)
	}
	return true
}

func callOf(method string, desc *grpc.StreamDesc, req any, cc *grpc.ClientConn) Call {
	return Call{Target: targetOf(cc), CallMeta: interceptors.NewClientCallMeta(method, desc, req)}
}

// targetOf returns the target of a connection. CanonicalTarget would allocate a string for each call (G11).
func targetOf(cc *grpc.ClientConn) string {
	if cc == nil {
		return ""
	}
	return cc.Target()
}

// splitMethod splits "/pkg.Service/Method" as go-grpc-middleware does.
func splitMethod(full string) (service, method string) {
	service, method, ok := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	if !ok {
		return "unknown", "unknown"
	}
	return service, method
}
