package interceptor

import (
	"context"
	"maps"
	"runtime/debug"
	"sync"
	"time"
	"weak"

	"google.golang.org/grpc/codes"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// Hooks are functions that a Guard calls, for logs, metrics and traces. Packages otelbridge and prombridge have
// functions that return Hooks. A nil function is not called and costs nothing. New reads the functions; later changes
// have no effect.
//
//	guard, err := interceptor.New(group, interceptor.WithHooks(&interceptor.Hooks{
//		Transition: func(ctx context.Context, e breaker.Event) { slog.InfoContext(ctx, "circuit breaker", "event", e) },
//	}))
//
// The functions run with the context of the guarded call, on its goroutine, and without any lock held. For a stream
// they may also run on a goroutine of grpc, of a timer or of package context. They must be safe for concurrent use. A
// panic in a hook does not change the call, and is reported to Panicked. A panic in Transition is reported only to
// Panicked of the same Hooks, and a panic in Panicked is dropped.
//
// Hooks must not be copied after they were given to a Guard.
type Hooks struct {
	// Rejected is called for each rejected call, before a fallback runs.
	Rejected func(ctx context.Context, e *RejectedError)
	// Settled is called for each admitted call after its outcome was reported to the breaker. It is not called for a call
	// without a Result: a call that panicked or exited the goroutine, or a stream whose end is not known. With this hook,
	// a call reads the clock two more times.
	Settled func(ctx context.Context, s Settlement)
	// Probed is called for each probe, when Settled would be called. If the probe causes a transition, Transition is
	// usually called first. Probed is also called for a probe that ends after its lease; then its outcome may decide
	// nothing. It costs other calls nothing.
	Probed func(ctx context.Context, s Settlement)
	// FellBack is called after a fallback has run, or if its message types do not fit the call.
	FellBack func(ctx context.Context, f FallbackInfo)
	// Transition is called for each transition of each breaker of the guard's group, also if another guard caused it, and
	// when an override is set or cleared (Event.OverrideChanged). If several guards of one group have the same Hooks, it
	// is called once. breaker.WithListener describes the calls.
	Transition func(ctx context.Context, e breaker.Event)
	// Panicked is called after a function of the user has panicked: a key function, matcher, classifier, fallback handler,
	// hook, or a method of an error. The call continues.
	Panicked func(ctx context.Context, p PanicInfo)
	// GuardedTwice is called when a call passes the same breaker twice. The connection then has the same guard twice, or
	// two guards of one group. Such calls count twice, except probes. The guard checks its first 100 unary calls, all
	// streams, all probes and all calls in doubt. If two guards share a group, both need this hook: the outer guard marks
	// the call, and the inner one finds the mark.
	GuardedTwice func(ctx context.Context, g GuardedTwiceInfo)

	mu sync.Mutex
	// groups holds the groups that Transition is registered with. It is guarded by mu. It keeps no group alive: one Hooks
	// often serves a whole program, and groups may be dropped without Guard.Close.
	groups map[weak.Pointer[breaker.Group]]weak.Pointer[registration]
}

// registration counts the guards of one group that have the same Hooks. The group keeps it alive, as its listener.
type registration struct {
	// What New has read. The fields of Hooks may change later.
	onTransition func(context.Context, breaker.Event)
	onPanic      func(context.Context, PanicInfo) // nil: none

	guards int    // guarded by Hooks.mu
	stop   func() // removes Transition from the group
}

// Settlement describes how an admitted call has ended.
type Settlement struct {
	Key     breaker.Key
	Outcome breaker.Outcome
	Code    codes.Code // see Result.Code
	// Duration is the time from admission to the end of the call. It does not include the wait of WithConnectionReset, nor
	// the time of the classifier and of listeners. For a probe that is a stream, it ends at the first message, or when
	// the stream is Result.Old.
	Duration time.Duration
	Probe    bool
}

// FallbackInfo describes the result of a fallback.
type FallbackInfo struct {
	Key    breaker.Key
	Call   Call
	Cause  error // the rejection or the failure that the fallback should answer for
	Served bool  // if false, the caller gets Cause or an error that wraps it
}

// PanicInfo describes a panic in a function of the user.
type PanicInfo struct {
	Func  string // what panicked: "key function", "matcher", "classifier", "fallback", "error", "hook Rejected", …
	Value any    // the value of the panic
	Stack []byte // the result of debug.Stack
	Call  Call   // zero for a hook
}

// GuardedTwiceInfo describes a call that passes the same breaker twice.
type GuardedTwiceInfo struct {
	Key  breaker.Key
	Call Call
}

// hookFuncs holds the functions of all Hooks of a guard, by hook. The list of a hook without a function is nil.
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

// register makes g call Transition. If register is called several times for one group, each transition still causes one
// call. The returned function ends one registration. It is nil if there is no Transition.
func (h *Hooks) register(g *breaker.Group) (stop func()) {
	if h.Transition == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	key := weak.Make(g)
	r := h.groups[key].Value()
	if r == nil {
		if h.groups == nil {
			h.groups = make(map[weak.Pointer[breaker.Group]]weak.Pointer[registration])
		}
		maps.DeleteFunc(h.groups, func(g weak.Pointer[breaker.Group], _ weak.Pointer[registration]) bool {
			return g.Value() == nil
		})
		r = &registration{onTransition: h.Transition, onPanic: h.Panicked}
		r.stop = g.Listen(r.transition)
		h.groups[key] = weak.Make(r)
	}
	r.guards++
	return sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if r.guards--; r.guards == 0 {
			r.stop()
			delete(h.groups, key)
		}
	})
}

// transition calls Transition. Package breaker drops panics of listeners, so a panic is reported here.
func (r *registration) transition(ctx context.Context, e breaker.Event) {
	defer func() {
		if v := recover(); v != nil && r.onPanic != nil {
			r.onPanic(ctx, PanicInfo{Func: "hook Transition", Value: v, Stack: debug.Stack()})
		}
	}()
	r.onTransition(ctx, e)
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

// reportPanic calls Panicked with the value of a panic. It must be called in the deferred function that recovers the
// panic, so that the stack shows where the panic came from. A panic in Panicked itself is dropped.
func (f *hookFuncs) reportPanic(ctx context.Context, what string, v any, call Call) {
	if f.panicked == nil {
		return
	}
	info := PanicInfo{Func: what, Value: v, Stack: debug.Stack(), Call: call}
	for _, hook := range f.panicked {
		recovered(func() { hook(ctx, info) })
	}
}

// recovered runs f and drops a panic, so that a function of the user cannot change the result of a call (G13).
func recovered(f func()) {
	defer func() { _ = recover() }()
	f()
}

// notifySettled calls the hooks Settled and Probed for a call whose outcome has been reported.
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
