package interceptor

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// testGroup makes a group whose breakers open at the first failure.
func testGroup(tb testing.TB) *breaker.Group {
	tb.Helper()
	group, err := breaker.NewGroup(breaker.Config{ConsecutiveFailures: 1, OpenFor: time.Hour, MaxOpenFor: time.Hour})
	if err != nil {
		tb.Fatal(err)
	}
	return group
}

// guardOf makes a guard of group.
func guardOf(tb testing.TB, group *breaker.Group, opts ...Option) *Guard {
	tb.Helper()
	g, err := New(group, opts...)
	if err != nil {
		tb.Fatal(err)
	}
	return g
}

// Hooks without functions, and hooks for which calls need not be timed, keep the fast path and cost no allocation.
func TestHooksNilFunctionsCostNothing(t *testing.T) {
	for name, h := range map[string]*Hooks{
		"none": {},
		"Rejected, Probed, FellBack, Transition, Panicked": {
			Rejected:   func(context.Context, *RejectedError) {},
			Probed:     func(context.Context, Settlement) {},
			FellBack:   func(context.Context, FallbackInfo) {},
			Transition: func(context.Context, breaker.Event) {},
			Panicked:   func(context.Context, PanicInfo) {},
		},
	} {
		g := newGuard(t, breaker.Config{}, WithHooks(h))
		if !g.plain || g.timed {
			t.Errorf("%s: plain is %v and timed is %v, want true and false", name, g.plain, g.timed)
		}
		ctx := t.Context()
		got := testing.AllocsPerRun(100, func() { _ = g.Unary(ctx, fullMethod, nil, nil, nil, returnsAtOnce) })
		if got != 0 {
			t.Errorf("%s: %v allocations a call, want 0", name, got)
		}
	}
}

// Nil functions are not called, whatever happens.
func TestHooksNilFunctionsAreNotCalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(panicLog) // a call of a nil function would panic
		p := panicPlace{opts: func(func()) []Option { return []Option{WithHooks(new(Hooks))} }}
		g := p.guard(t, nil, log.add, nil)
		if got := fourCalls(t.Context(), g, new(int), down); got != usualCalls {
			t.Errorf("the calls ended with %s, want %s", got, usualCalls)
		}
		wantTally(t, "four calls", g, usualTally)
		if len(log.infos) != 0 || len(g.stops) != 0 {
			t.Errorf("%d panics and %d registrations, want none", len(log.infos), len(g.stops))
		}
	})
}

// logHooks returns Hooks whose functions append name and the name of the hook to log.
func logHooks(name string, log *[]string) *Hooks {
	note := func(what string) { *log = append(*log, what+" "+name) }
	return &Hooks{
		Rejected:     func(context.Context, *RejectedError) { note("Rejected") },
		Settled:      func(context.Context, Settlement) { note("Settled") },
		Probed:       func(context.Context, Settlement) { note("Probed") },
		FellBack:     func(context.Context, FallbackInfo) { note("FellBack") },
		Transition:   func(context.Context, breaker.Event) { note("Transition") },
		Panicked:     func(context.Context, PanicInfo) { note("Panicked") },
		GuardedTwice: func(context.Context, GuardedTwiceInfo) { note("GuardedTwice") },
	}
}

// The hooks of several WithHooks are all called, in the order of the options.
func TestHooksOfSeveralOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log []string
		p := panicPlaces["fallback handler"]
		g := p.guard(t, blowUp, nil, nil,
			WithHooks(logHooks("1", &log)), WithHooks(logHooks("2", &log)), WithHooks(logHooks("3", &log)))
		fourCalls(t.Context(), g, new(int), down)
		passTwice(t, g)
		var want []string
		// A success, a failure, a rejection, a probe, and a call that is guarded twice.
		for what := range strings.SplitSeq("Settled/Transition/Settled/Rejected/Panicked/FellBack/Transition/Transition/"+
			"Settled/Probed/GuardedTwice/Settled/Settled", "/") {
			for i := 1; i <= 3; i++ {
				want = append(want, fmt.Sprint(what, " ", i))
			}
		}
		if diff := cmp.Diff(want, log); diff != "" {
			t.Errorf("hooks that were called (-want +got):\n%s", diff)
		}
	})
}

// passTwice makes a call that passes g twice.
func passTwice(t *testing.T, g *Guard) {
	t.Helper()
	err := g.Unary(t.Context(), fullMethod, nil, nil, nil, func(
		ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, opts ...grpc.CallOption,
	) error {
		return g.Unary(ctx, method, req, reply, cc, returnsAtOnce, opts...)
	})
	if err != nil {
		t.Error(err)
	}
}

// Two guards of a group that have the same Hooks call Transition once for each transition. This continues after one of
// them was closed, even several times, and ends after both were closed.
func TestGuardClose(t *testing.T) {
	group, ctx := testGroup(t), t.Context()
	heard := 0
	h := &Hooks{Transition: func(context.Context, breaker.Event) { heard++ }}
	one, two := guardOf(t, group, WithHooks(h)), guardOf(t, group, WithHooks(h))
	step := func(what string, want int) {
		t.Helper()
		before := heard
		group.Get(methodKey).Trip(ctx, "test")
		if got := heard - before; got != want {
			t.Errorf("%s: Transition was called %d times, want %d", what, got, want)
		}
	}
	step("two guards", 1)
	one.Close()
	step("one is closed", 1)
	one.Close()
	one.Close()
	step("and closed again", 1)
	two.Close()
	step("both are closed", 0)
	two.Close()
	guardOf(t, group, WithHooks(h))
	step("a new guard", 1)
}

// Each group has its own registration. The same Hooks twice in one guard count as one.
func TestGuardCloseOfTwoGroups(t *testing.T) {
	first, second, ctx := testGroup(t), testGroup(t), t.Context()
	var log []string
	h := logHooks("", &log)
	g := guardOf(t, first, WithHooks(h), WithHooks(h))
	other := guardOf(t, second, WithHooks(h))
	first.Get(methodKey).Trip(ctx, "test")
	second.Get(methodKey).Trip(ctx, "test")
	if got := len(log); got != 2 {
		t.Errorf("Transition was called %d times for two transitions", got)
	}
	g.Close()
	first.Get(methodKey).Trip(ctx, "test")
	if got := len(log); got != 2 {
		t.Errorf("Transition was called %d times more after Close", got-2)
	}
	second.Get(methodKey).Trip(ctx, "test")
	if got := len(log); got != 3 {
		t.Errorf("Transition was called %d times for the other group, want 1", got-2)
	}
	other.Close()
	if len(h.groups) != 0 {
		t.Errorf("the hooks still have %d groups, want 0", len(h.groups))
	}
}

// After Close, calls are still guarded and the other hooks are still called.
func TestGuardCloseChangesNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log []string
		p := panicPlace{opts: func(func()) []Option { return []Option{WithHooks(logHooks("", &log))} }}
		g := p.guard(t, nil, nil, nil)
		g.Close()
		if got := fourCalls(t.Context(), g, new(int), down); got != usualCalls {
			t.Errorf("the calls ended with %s, want %s", got, usualCalls)
		}
		wantTally(t, "four calls", g, usualTally)
		want := []string{"Settled ", "Settled ", "Rejected ", "FellBack ", "Settled ", "Probed "}
		if diff := cmp.Diff(want, log); diff != "" {
			t.Errorf("hooks that were called (-want +got):\n%s", diff)
		}
	})
}

// An error of New registers nothing.
func TestNewWithErrorRegistersNothing(t *testing.T) {
	h := &Hooks{Transition: func(context.Context, breaker.Event) {}}
	if _, err := New(testGroup(t), WithHooks(h), WithRejectionCode(codes.OK)); err == nil {
		t.Fatal("no error")
	}
	if len(h.groups) != 0 {
		t.Errorf("the hooks have %d groups, want 0", len(h.groups))
	}
}

// Guards with the same Hooks are made and closed while breakers trip. While at least one is not closed, each transition
// is reported once. After the last one is closed, none is reported.
func TestHooksConcurrentSafe(t *testing.T) {
	const trippers, trips, makers = 4, 200, 4
	group, ctx := testGroup(t), t.Context()
	var heard atomic.Int64
	h := &Hooks{Transition: func(context.Context, breaker.Event) { heard.Add(1) }}
	stays := guardOf(t, group, WithHooks(h))
	var running sync.WaitGroup
	done := make(chan struct{})
	var made sync.WaitGroup
	for range makers {
		made.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				g, err := New(group, WithHooks(h))
				if err != nil {
					t.Error(err)
					return
				}
				_ = (&calls{guard: g}).call(ctx, nil)
				var closers sync.WaitGroup
				closers.Go(g.Close)
				closers.Go(g.Close)
				closers.Wait()
			}
		})
	}
	for i := range trippers {
		running.Go(func() {
			b := group.Get(breaker.Key{Tag: fmt.Sprint(i)})
			for range trips {
				b.Trip(ctx, "test")
			}
		})
	}
	running.Wait()
	close(done)
	made.Wait()
	if got := heard.Load(); got != trippers*trips {
		t.Errorf("Transition was called %d times for %d transitions", got, trippers*trips)
	}
	stays.Close()
	group.Get(breaker.Key{}).Trip(ctx, "test")
	if got := heard.Load(); got != trippers*trips || len(h.groups) != 0 {
		t.Errorf("after the last Close: %d calls of Transition and %d groups, want none", got-trippers*trips, len(h.groups))
	}
}

// Hooks that several groups share keep none of them alive, also without Guard.Close.
func TestHooksKeepNoGroup(t *testing.T) {
	calls := 0
	h := &Hooks{Transition: func(context.Context, breaker.Event) { calls++ }}
	dropped := func() weak.Pointer[breaker.Group] {
		g, err := New(nil, WithHooks(h))
		if err != nil {
			t.Fatal(err)
		}
		g.Group().Get(breaker.Key{}).Trip(t.Context(), "test")
		return weak.Make(g.Group())
	}
	first := dropped()
	for range 100 {
		if runtime.GC(); first.Value() == nil {
			break
		}
	}
	if first.Value() != nil {
		t.Error("the hooks keep a group that is not used any more")
	}
	group, err := breaker.NewGroup(breaker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // guards that are dropped, and not their group
		if _, err := New(group, WithHooks(h)); err != nil {
			t.Fatal(err)
		}
		runtime.GC()
	}
	calls = 0
	group.Get(breaker.Key{}).Trip(t.Context(), "test")
	if calls != 1 {
		t.Errorf("a transition calls Transition %d times, want once", calls)
	}
	if got := len(h.groups); got != 1 {
		t.Errorf("the hooks remember %d groups, want 1", got)
	}
}
