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

// A Guard guards the calls of gRPC clients. Its methods Unary and Stream are client interceptors. One Guard serves any
// number of connections. It is safe for concurrent use. It owns no goroutine and no timer; a guarded stream may have
// one, see the package documentation. A Guard must come from New; the zero Guard is not usable.
type Guard struct {
	group *breaker.Group
	options
	cache      breakerCache
	rejections rejectionCache
	marks      atomic.Int32 // how many more calls to mark, so that a second guard detects them
	stops      []func()     // each ends a registration of hooks with the group
}

// firstMarks is the number of first calls that a guard marks, see Hooks.GuardedTwice.
const firstMarks = 100

// New returns a Guard that takes its breakers from g. If g is nil, New makes a group with the default Config. A nil
// option and an option with an invalid argument are errors.
//
// Make one Guard for a group and use it for all connections, once for each. A call that passes two guards of one group
// counts twice, also for Config.MaxConcurrent (see Hooks.GuardedTwice).
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

// Close removes Hooks.Transition of this guard from the group. Without Close, a group that outlives its guards keeps
// their hooks. If another guard of the group has the same Hooks, Transition is still called. Close changes nothing
// else: the guard still guards calls and still calls its other hooks. It may be called more than once.
func (g *Guard) Close() {
	for _, stop := range g.stops {
		stop()
	}
}

// Group returns the group that the guard takes its breakers from.
func (g *Guard) Group() *breaker.Group { return g.group }

// DialOptions returns options that add Unary and Stream to the interceptors of a connection. A connection needs both,
// because unary calls do not pass stream interceptors, and streams do not pass unary interceptors. Interceptors run in
// the order in which a connection gets its options.
func (g *Guard) DialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(g.Unary), grpc.WithChainStreamInterceptor(g.Stream)}
}

// find returns the breaker for a call. It returns nil if the call is not guarded: because of Bypass, because of the
// matcher, because the matcher or the key function panicked, or because the call is already a probe of this breaker.
func (g *Guard) find(
	ctx context.Context, method string, desc *grpc.StreamDesc, req any, cc *grpc.ClientConn, opts []grpc.CallOption,
) *breaker.Breaker {
	bypass, tag, marked := callOptions(opts)
	if bypass {
		return nil
	}
	// Without a key function and a matcher, no user code runs, so neither a Call nor a recover is needed.
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

// mustMark reports whether a unary call gets a guardMark. Probes get one, and so do calls that are checked for a second
// guard.
func (g *Guard) mustMark(permit breaker.Permit, inDoubt bool) bool {
	if g.hooks.guardedTwice == nil {
		return permit.IsProbe()
	}
	return inDoubt || (g.marks.Load() > 0 && g.marks.Add(-1) >= 0)
}

// callKeyFunc calls the matcher and the key function. It returns false if the matcher excludes the call or if one of
// them panics. A panic also counts the call as unguarded (G12).
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
