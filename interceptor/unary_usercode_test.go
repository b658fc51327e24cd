package interceptor

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// misdeeds are what a function of the user may do instead of returning.
var misdeeds = []struct {
	name string
	do   func()
	ends bool // it ends the goroutine
}{
	{"panic", func() { panic("user code") }, false},
	{"panic with nil", func() { panic(nil) }, false},
	{"Goexit", runtime.Goexit, true},
}

// apart runs f on a new goroutine, waits for its end, and reports whether f returned.
func apart(f func()) (returned bool) {
	var wg sync.WaitGroup
	wg.Go(func() {
		f()
		returned = true
	})
	wg.Wait()
	return returned
}

func TestG13_ClassifierMisbehaves(t *testing.T) {
	for _, m := range misdeeds {
		for _, evidence := range []bool{false, true} {
			for _, tt := range []struct {
				err  error
				want breaker.Outcome
			}{{nil, breaker.Success}, {down, breaker.Failure}, {status.Error(codes.Canceled, ""), breaker.Ignored}} {
				opts := []Option{WithClassifier(func(context.Context, Result) breaker.Outcome {
					m.do()
					return breaker.Overload
				})}
				if evidence {
					opts = append(opts, WithPeerEvidence())
				}
				g := newGuard(t, breaker.Config{}, opts...)
				var err error
				returned := apart(func() { err = (&calls{guard: g}).call(t.Context(), tt.err) })
				want := one(tt.want) // DefaultClassifier decides
				if m.ends {
					want = one(breaker.Failure) // no classifier returned
				}
				if returned == m.ends || (returned && err != tt.err) { //nolint:errorlint // the same value
					t.Errorf("%s: returned %v with %v, want %v with %v", m.name, returned, err, !m.ends, tt.err)
				}
				wantTally(t, m.name, g, want)
			}
		}
	}
}

// G13: if the result of a classifier is not an Outcome, it is a failure, also for fallbacks and hooks.
func TestG13_ClassifierReturnsNoOutcome(t *testing.T) {
	rec := new(settlements)
	g := newGuard(t, breaker.Config{}, WithHooks(hooksOf(rec)),
		WithClassifier(func(context.Context, Result) breaker.Outcome { return 99 }),
		WithFallback(ForMethods(fullMethod),
			Fallback(func(context.Context, *int, error) (*int, error) { return new(7), nil }), OnFailure()))
	if err := g.Unary(t.Context(), fullMethod, new(int), new(int), nil, takes(0, down)); err != nil {
		t.Errorf("got %v, want an answer of the fallback", err)
	}
	wantTally(t, "outcome 99", g, tally{Failure: 1, Served: 1})
	if len(rec.settled) != 1 || rec.settled[0].Outcome != breaker.Failure {
		t.Errorf("Settled got %+v, want a failure", rec.settled)
	}
}

// rude has hooks, one of which panics or exits the goroutine.
type misbehavingHooks struct {
	on map[string]func()
}

func (r misbehavingHooks) when(occasion string) {
	if f := r.on[occasion]; f != nil {
		f()
	}
}

func (r misbehavingHooks) Rejected(context.Context, *RejectedError)  { r.when("Rejected") }
func (r misbehavingHooks) FellBack(context.Context, FallbackInfo)    { r.when("FellBack") }
func (r misbehavingHooks) Transition(context.Context, breaker.Event) { r.when("Transition") }
func (r misbehavingHooks) Settled(context.Context, Settlement)       { r.when("Settled") }
func (r misbehavingHooks) Probed(context.Context, Settlement)        { r.when("Probed") }

func TestG13_HookMisbehaves(t *testing.T) {
	answer := Fallback(func(context.Context, *int, error) (*int, error) { return new(7), nil })
	for _, m := range misdeeds {
		for _, occasion := range []string{"Rejected", "FellBack", "Transition", "Settled", "Probed"} {
			synctest.Test(t, func(t *testing.T) {
				happened := 0
				first := misbehavingHooks{on: map[string]func(){occasion: func() {
					happened++
					m.do()
				}}}
				rec := new(settlements)
				g := newGuard(t, breaker.Config{ConsecutiveFailures: 1, OpenFor: time.Second, SuccessesToClose: 1},
					WithHooks(hooksOf(first)), WithHooks(hooksOf(rec)), WithFallback(ForMethods(fullMethod), answer))
				call := func(what string, result, want error) {
					var err error
					var reply int
					returned := apart(func() {
						err = g.Unary(t.Context(), fullMethod, new(int), &reply, nil, takes(0, result))
					})
					if !returned && !m.ends {
						t.Errorf("%s, %s in %s: the call did not return", what, m.name, occasion)
					}
					if returned && err != want { //nolint:errorlint // the same value
						t.Errorf("%s, %s in %s: got %v, want %v", what, m.name, occasion, err, want)
					}
				}
				call("failure", down, down) // Settled, Transition
				call("rejection", nil, nil) // Rejected, FellBack: answered by the fallback
				time.Sleep(time.Second)     //
				call("probe", nil, nil)     // Transition, Settled, Probed, Transition
				call("success", nil, nil)   // Settled
				wantState(t, m.name+" in "+occasion, g, breaker.Closed)
				if happened == 0 {
					t.Errorf("%s never happened", occasion)
				}
				want := tally{Failure: 1, Success: 2, Rejected: 1, Served: 1}
				switch {
				case !m.ends:
				case occasion == "Rejected": // the goroutine ended before the fallback ran
					want.Served = 0
				case occasion == "Transition":
					// The goroutine ended while its call was admitted as a probe. The call was not made, so it is not counted.
					want.Success = 1
				}
				wantTally(t, m.name+" in "+occasion, g, want)
				if !m.ends && (len(rec.rejected) != 1 || len(rec.fellBack) != 1 || len(rec.transitions) != 3 ||
					len(rec.settled) != 3 || len(rec.probed) != 1) {
					t.Errorf("%s in %s: the other hooks got %+v", m.name, occasion, rec)
				}
			})
		}
	}
}

// G13: the methods of an error are user code too, and the guard calls them.
func TestG13_ErrorMisbehaves(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
	}{
		{"GRPCStatus", &rudeStatusError{}},
		{"GRPCStatus, wrapped", wrapped(&rudeStatusError{})},
		{"GRPCStatus of a nil pointer", (*fieldStatusError)(nil)},
		{"Is", &rudeIsError{}},
		{"As", &rudeAsError{}},
		{"Unwrap", &rudeUnwrapError{}},
	} {
		for _, opts := range [][]Option{
			nil,
			{WithPeerEvidence()},
			{WithClassifier(DefaultClassifier)},
			{WithHooks(hooksOf(noopCallHooks{}))},
		} {
			g := newGuard(t, breaker.Config{MaxConcurrent: 1}, opts...)
			var err error
			func() {
				defer func() {
					if v := recover(); v != nil {
						t.Errorf("%s: the call panicked: %v", tt.name, v)
					}
				}()
				if err = (&calls{guard: g}).call(t.Context(), tt.err); err != tt.err { //nolint:errorlint // the same value
					t.Errorf("%s: got another error than the invoker's", tt.name)
				}
			}()
			wantTally(t, tt.name, g, one(breaker.Failure))
		}
	}
}

type rudeStatusError struct{}

func (*rudeStatusError) Error() string              { return "rude" }
func (*rudeStatusError) GRPCStatus() *status.Status { panic("no status") }

type fieldStatusError struct{ s *status.Status }

func (*fieldStatusError) Error() string                { return "a nil pointer" }
func (f *fieldStatusError) GRPCStatus() *status.Status { return f.s }

type rudeIsError struct{}

func (*rudeIsError) Error() string { return "rude" }
func (*rudeIsError) Is(error) bool { panic("is not") }

type rudeAsError struct{}

func (*rudeAsError) Error() string { return "rude" }
func (*rudeAsError) As(any) bool   { panic("as what") }

type rudeUnwrapError struct{}

func (*rudeUnwrapError) Error() string { return "rude" }
func (*rudeUnwrapError) Unwrap() error { panic("keep out") }

// B30: user code runs without any lock held, so it may call the breaker, and make guarded calls.
func TestG13_UserCodeMayCallBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g *Guard
		ran := map[string]int{}
		run := func(occasion string) func() {
			return func() {
				if ran[occasion]++; ran[occasion] > 1 {
					return // otherwise it would recurse
				}
				b := g.Group().Get(methodKey)
				b.State()
				b.Snapshot()
				_ = g.Unary(t.Context(), fullMethod, nil, nil, nil, returnsAtOnce)
			}
		}
		on := map[string]func(){}
		for _, occasion := range []string{"Rejected", "FellBack", "Transition", "Settled", "Probed"} {
			on[occasion] = run(occasion)
		}
		g = newGuard(t, breaker.Config{ConsecutiveFailures: 1, OpenFor: time.Second, SuccessesToClose: 1},
			WithHooks(hooksOf(misbehavingHooks{on: on})),
			WithClassifier(func(ctx context.Context, r Result) breaker.Outcome {
				run("classifier")()
				return DefaultClassifier(ctx, r)
			}),
			WithFallback(ForMethods(fullMethod), Fallback(func(context.Context, *int, error) (*int, error) {
				run("fallback")()
				return new(7), nil
			})))
		c := &calls{guard: g}
		reply := new(int)
		_ = c.call(t.Context(), down)
		_ = g.Unary(t.Context(), fullMethod, new(int), reply, nil, c.invoke)
		time.Sleep(time.Second)
		_ = c.call(t.Context(), nil)
		for _, occasion := range []string{
			"Rejected", "FellBack", "Transition", "Settled", "Probed", "classifier",
			"fallback",
		} {
			if ran[occasion] == 0 {
				t.Errorf("%s never happened", occasion)
			}
		}
		wantState(t, "in the end", g, breaker.Closed)
		if got := snapshots(g).InFlight; got != 0 {
			t.Errorf("%d calls in flight, want 0", got)
		}
	})
}
