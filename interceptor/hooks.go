package interceptor

import (
	"context"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// Hooks are functions that a Guard calls, for logs, metrics and traces. Packages otelbridge and prombridge make some.
// Each function may be nil, and then costs nothing. A Guard reads them once, in New.
//
//	guard, err := interceptor.New(group, interceptor.WithHooks(&interceptor.Hooks{
//		Transition: func(ctx context.Context, e breaker.Event) { slog.InfoContext(ctx, "circuit breaker", "event", e) },
//	}))
//
// The functions run on the goroutine of the guarded call, with its context, and without any lock held. They must be
// safe for concurrent use. A panic in one of them changes nothing else, and is reported to Panicked.
//
// Hooks must not be copied after they were given to a Guard.
type Hooks struct {
	// Rejected is called for each call that is rejected, before a fallback is tried.
	Rejected func(ctx context.Context, e *RejectedError)
	// Settled is called for each call that was admitted, when its outcome is known, but not if a call below the guard
	// panicked. With this hook each call reads the clock twice more.
	Settled func(ctx context.Context, s Settlement)
	// Probed is called for each probe of a half-open breaker, when its outcome is known. A transition that the probe
	// causes usually comes before. It is also called for a probe that reports after its lease, whose outcome may decide
	// nothing. It costs other calls nothing.
	Probed func(ctx context.Context, s Settlement)
	// FellBack is called after a fallback was tried.
	FellBack func(ctx context.Context, f FallbackInfo)
	// Transition is called for each transition of each breaker of the guard's group, also if another guard caused it. If
	// several guards of one group have the same Hooks, it is called once. breaker.WithListener describes the calls.
	Transition func(ctx context.Context, e breaker.Event)
	// Panicked is called when a function of the user has panicked: a key function, matcher, classifier, fallback handler
	// or hook. The call continues.
	Panicked func(ctx context.Context, p PanicInfo)
	// GuardedTwice is called when a call passes the same breaker twice, because a connection has the same guard twice, or
	// two guards of one group. Then both need the hook: the outer one marks the call, and the inner one finds the mark. Such calls count twice. The first 100 unary calls of a guard, all streams, all probes and
	// all calls in doubt are checked.
	GuardedTwice func(ctx context.Context, g GuardedTwiceInfo)

	mu     sync.Mutex
	groups map[*breaker.Group]*registration // guarded by mu: those that Transition is registered with
}

// registration counts the guards of one group that have the same Hooks.
type registration struct {
	guards int
	stop   func() // removes Transition from the group
}

// Settlement describes how a call that was admitted has ended.
type Settlement struct {
	Key     breaker.Key
	Outcome breaker.Outcome
	Code    codes.Code
	// Duration is the time from admission to the end of the call, without the time of the classifier and of listeners
	// after that. For a probe that is a stream, it ends at the first message.
	Duration time.Duration
	Probe    bool
}

// FallbackInfo describes how a fallback went.
type FallbackInfo struct {
	Key    breaker.Key
	Call   Call
	Cause  error // the rejection or the failure that the fallback should answer for
	Served bool  // false: the caller gets Cause, or an error that wraps it
}

// PanicInfo describes a panic in a function of the user.
type PanicInfo struct {
	Func  string // what panicked: "key function", "matcher", "classifier", "fallback", "error", "hook Rejected", …
	Value any    // of the panic
	Stack []byte // as debug.Stack returns it
	Call  Call   // zero for a hook
}

// GuardedTwiceInfo describes a call that passes the same breaker twice.
type GuardedTwiceInfo struct {
	Key  breaker.Key
	Call Call
}

// hookFuncs are the functions of all Hooks of a guard, by hook. A hook that nobody uses is nil.
type hookFuncs struct {
	rejected     []func(context.Context, *RejectedError)
	settled      []func(context.Context, Settlement)
	probed       []func(context.Context, Settlement)
	fellBack     []func(context.Context, FallbackInfo)
	panicked     []func(context.Context, PanicInfo)
	guardedTwice []func(context.Context, GuardedTwiceInfo)
}

func (f *hookFuncs) add(h *Hooks) {
	f.rejected = appendFunc(f.rejected, h.Rejected, h.Rejected != nil)
	f.settled = appendFunc(f.settled, h.Settled, h.Settled != nil)
	f.probed = appendFunc(f.probed, h.Probed, h.Probed != nil)
	f.fellBack = appendFunc(f.fellBack, h.FellBack, h.FellBack != nil)
	f.panicked = appendFunc(f.panicked, h.Panicked, h.Panicked != nil)
	f.guardedTwice = appendFunc(f.guardedTwice, h.GuardedTwice, h.GuardedTwice != nil)
}

func appendFunc[F any](list []F, f F, ok bool) []F {
	if !ok {
		return list
	}
	return append(list, f)
}

// register calls Transition for the transitions of g, once however often it is called. It returns a function that ends
// one registration, or nil if there is none.
func (h *Hooks) register(g *breaker.Group) (stop func()) {
	if h.Transition == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.groups[g]
	if r == nil {
		if h.groups == nil {
			h.groups = make(map[*breaker.Group]*registration)
		}
		r = &registration{stop: g.Listen(h.transition)}
		h.groups[g] = r
	}
	r.guards++
	return sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if r.guards--; r.guards == 0 {
			r.stop()
			delete(h.groups, g)
		}
	})
}

// transition calls Transition. Package breaker drops panics of listeners, so a panic is reported here.
func (h *Hooks) transition(ctx context.Context, e breaker.Event) {
	defer func() {
		if v := recover(); v != nil && h.Panicked != nil {
			h.Panicked(ctx, PanicInfo{Func: "hook Transition", Value: v, Stack: debug.Stack()})
		}
	}()
	h.Transition(ctx, e)
}

// callHooks calls the functions of one hook. A panic in one of them is reported and otherwise changes nothing (G13).
func callHooks[I any](ctx context.Context, f *hookFuncs, name string, hooks []func(context.Context, I), info I) {
	for _, hook := range hooks {
		callHook(ctx, f, name, hook, info)
	}
}

func callHook[I any](ctx context.Context, f *hookFuncs, name string, hook func(context.Context, I), info I) {
	defer func() {
		if v := recover(); v != nil {
			f.reportPanic(ctx, "hook "+name, v, Call{})
		}
	}()
	hook(ctx, info)
}

// reportPanic calls Panicked with the value of a panic. It is called while the panic is recovered, so that the stack
// shows where it came from. A panic in Panicked itself is dropped.
func (f *hookFuncs) reportPanic(ctx context.Context, what string, v any, call Call) {
	if f.panicked == nil {
		return
	}
	info := PanicInfo{Func: what, Value: v, Stack: debug.Stack(), Call: call}
	for _, hook := range f.panicked {
		recovered(func() { hook(ctx, info) })
	}
}

// recovered runs a function of the user that must not change what happens to a call (G13), and drops a panic.
func recovered(f func()) {
	defer func() { _ = recover() }()
	f()
}

func (g *Guard) notifySettled(ctx context.Context, c *pending, r Result, o breaker.Outcome, took time.Duration) {
	probe := c.permit.IsProbe()
	if g.hooks.settled == nil && (!probe || g.hooks.probed == nil) {
		return
	}
	s := Settlement{Key: c.breaker.Key(), Outcome: o, Code: r.Code, Duration: took, Probe: probe}
	callHooks(ctx, &g.hooks, "Settled", g.hooks.settled, s)
	if probe {
		callHooks(ctx, &g.hooks, "Probed", g.hooks.probed, s)
	}
}
