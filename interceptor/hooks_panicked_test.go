package interceptor

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/selector"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// panicLog records what Panicked gets.
type panicLog struct {
	mu    sync.Mutex
	infos []PanicInfo // guarded by mu
}

func (l *panicLog) add(_ context.Context, p PanicInfo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.infos = append(l.infos, p)
}

// blowUp is the function that every stack must name.
//
//go:noinline
func blowUp() { panic("blown up") }

// explosiveError is an error whose GRPCStatus misbehaves.
type explosiveError struct{ boom func() }

func (*explosiveError) Error() string { return "explosive" }
func (e *explosiveError) GRPCStatus() *status.Status {
	e.boom()
	return nil
}

// panicPlace is a function of the user that misbehaves, and the expected results of four calls: a success, a failure
// that opens the breaker, a call that is rejected and has a fallback, and a probe that closes the breaker.
type panicPlace struct {
	what  string                          // PanicInfo.Func
	opts  func(boom func()) []Option      // with the function
	err   func(boom func()) error         // of the second call; nil: down
	hooks func(h *Hooks, boom func())     // that misbehave
	times int                             // how often it is called
	calls string                          // how the calls end
	want  tally                           // of the breaker
	after func(t *testing.T, g *Guard)    // nil: nothing more to check
	cause func(t *testing.T, cause error) // what FellBack must have got; nil: anything
}

const (
	usualCalls = "ok/down/served/ok"
	unguarded  = "ok/down/ok/ok"
)

var usualTally = tally{Success: 2, Failure: 1, Rejected: 1, Served: 1}

func wantUnguarded(t *testing.T, g *Guard) {
	t.Helper()
	if got := g.Group().Stats(); got.Unguarded != 4 || got.Breakers != 0 {
		t.Errorf("%d calls unguarded and %d breakers, want 4 and 0", got.Unguarded, got.Breakers)
	}
}

// matching is a matcher that matches everything, after boom.
func matching(boom func()) selector.Matcher {
	return selector.MatchFunc(func(context.Context, interceptors.CallMeta) bool {
		boom()
		return true
	})
}

func wantCodeOfCause(t *testing.T, cause error) {
	t.Helper()
	wantCode(t, "the rejection", cause, codes.Unavailable)
}

var panicPlaces = map[string]panicPlace{
	"key function": {
		what: "key function", times: 4, calls: unguarded, after: wantUnguarded,
		opts: func(boom func()) []Option {
			return []Option{WithKey(func(context.Context, keyfunc.Call) breaker.Key {
				boom()
				return breaker.Key{}
			})}
		},
	},
	"WithMatcher": {
		what: "matcher", times: 4, calls: unguarded, after: wantUnguarded,
		opts: func(boom func()) []Option { return []Option{WithMatcher(matching(boom))} },
	},
	"classifier": {
		what: "classifier", times: 3, calls: usualCalls, want: usualTally,
		opts: func(boom func()) []Option {
			return []Option{WithClassifier(func(context.Context, Result) breaker.Outcome {
				boom()
				return breaker.Overload
			})}
		},
	},
	"fallback handler": {
		what: "fallback", times: 1, calls: "ok/down/rejected/ok",
		want: tally{Success: 2, Failure: 1, Rejected: 1, NotServed: 1},
		opts: func(boom func()) []Option {
			return []Option{WithFallback(ForMethods(fullMethod), Fallback(func(context.Context, *int, error) (*int, error) {
				boom()
				return new(7), nil
			}))}
		},
	},
	"WithFallback": { // the next fallback that matches answers
		what: "matcher", times: 1, calls: usualCalls, want: usualTally,
		opts: func(boom func()) []Option {
			return []Option{WithFallback(matching(boom), Fallback(func(context.Context, *int, error) (*int, error) {
				return new(8), nil
			}))}
		},
	},
	"WithRejectionCode": {
		what: "matcher", times: 1, calls: usualCalls, want: usualTally, cause: wantCodeOfCause,
		opts: func(boom func()) []Option { return []Option{WithRejectionCode(codes.Aborted, matching(boom))} },
	},
	"error": {
		what: "error", times: 1, calls: usualCalls, want: usualTally,
		err: func(boom func()) error { return &explosiveError{boom} },
	},
	"hook Rejected": {
		what: "hook Rejected", times: 1, calls: usualCalls, want: usualTally,
		hooks: func(h *Hooks, boom func()) { h.Rejected = func(context.Context, *RejectedError) { boom() } },
	},
	"hook Settled": {
		what: "hook Settled", times: 3, calls: usualCalls, want: usualTally,
		hooks: func(h *Hooks, boom func()) { h.Settled = func(context.Context, Settlement) { boom() } },
	},
	"hook Probed": {
		what: "hook Probed", times: 1, calls: usualCalls, want: usualTally,
		hooks: func(h *Hooks, boom func()) { h.Probed = func(context.Context, Settlement) { boom() } },
	},
	"hook FellBack": {
		what: "hook FellBack", times: 1, calls: usualCalls, want: usualTally,
		hooks: func(h *Hooks, boom func()) { h.FellBack = func(context.Context, FallbackInfo) { boom() } },
	},
	"hook Transition": {
		what: "hook Transition", times: 3, calls: usualCalls, want: usualTally,
		hooks: func(h *Hooks, boom func()) { h.Transition = func(context.Context, breaker.Event) { boom() } },
	},
}

// fourCalls makes the four calls of a panicPlace and returns how they ended. It must run in a bubble.
func fourCalls(ctx context.Context, g *Guard, req *int, failure error) string {
	var ends []string
	call := func(result error) {
		var reply int
		err := error(nil)
		end := "exited"
		if apart(func() { err = g.Unary(ctx, fullMethod, req, &reply, nil, takes(0, result)) }) {
			switch {
			case err == nil && reply == 7:
				end = "served"
			case err == nil:
				end = "ok"
			case err == failure: //nolint:errorlint // untouched
				end = "down"
			case IsRejected(err):
				end = "rejected"
			}
		}
		ends = append(ends, end)
	}
	call(nil)
	call(failure)
	call(nil)
	time.Sleep(time.Second)
	call(nil)
	return strings.Join(ends, "/")
}

// guard makes the guard with the function that misbehaves. Its hooks report to log, after those of first.
func (p panicPlace) guard(
	t *testing.T, boom func(), first, log func(context.Context, PanicInfo), more ...Option,
) *Guard {
	t.Helper()
	var opts []Option
	if p.opts != nil {
		opts = p.opts(boom)
	}
	h := &Hooks{Panicked: first}
	if p.hooks != nil {
		p.hooks(h, boom)
	}
	opts = append(opts, WithHooks(h))
	if log != nil {
		opts = append(opts, WithHooks(&Hooks{Panicked: log}))
	}
	opts = append(opts, more...)
	opts = append(opts, WithFallback(ForMethods(fullMethod), Fallback(func(context.Context, *int, error) (*int, error) {
		return new(7), nil
	})))
	return newGuard(t, breaker.Config{ConsecutiveFailures: 1, OpenFor: time.Second, SuccessesToClose: 1}, opts...)
}

func (p panicPlace) failure(boom func()) error {
	if p.err == nil {
		return down
	}
	return p.err(boom)
}

// G13: a panic in a function of the user is reported with the name of the function, the value, the stack and the call.
// The calls continue as documented.
func TestG13_PanickedTells(t *testing.T) {
	for name, p := range panicPlaces {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, heard := new(panicLog), new(recorder)
				g := p.guard(t, blowUp, log.add, nil, WithHooks(hooksOf(heard)))
				req := new(int)
				if got := fourCalls(t.Context(), g, req, p.failure(blowUp)); got != p.calls {
					t.Errorf("the calls ended with %s, want %s", got, p.calls)
				}
				if diff := cmp.Diff(p.want, tallyOf(snapshots(g))); diff != "" {
					t.Errorf("counts (-want +got):\n%s", diff)
				}
				if len(log.infos) != p.times {
					t.Errorf("Panicked was called %d times, want %d", len(log.infos), p.times)
				}
				for _, info := range log.infos {
					want := callOf(fullMethod, nil, req, nil)
					if p.hooks != nil {
						want = Call{}
					}
					if info.Func != p.what || info.Value != "blown up" || info.Call != want {
						t.Errorf("got %q, %v and %+v; want %q, blown up and %+v", info.Func, info.Value, info.Call, p.what, want)
					}
					if !strings.Contains(string(info.Stack), "interceptor.blowUp(") {
						t.Errorf("the stack does not name blowUp:\n%s", info.Stack)
					}
				}
				if p.after != nil {
					p.after(t, g)
				}
				if p.cause != nil {
					p.cause(t, heard.fellBack[0].Cause)
				}
			})
		})
	}
}

// G13: a panic in Panicked changes nothing, and the Panicked of other Hooks is still called. For a panic in Transition
// only the Panicked of the same Hooks is called.
func TestG13_PanickedPanics(t *testing.T) {
	for name, p := range panicPlaces {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, runs := new(panicLog), 0
				g := p.guard(t, blowUp, func(context.Context, PanicInfo) {
					runs++
					panic("Panicked")
				}, log.add)
				if got := fourCalls(t.Context(), g, new(int), p.failure(blowUp)); got != p.calls {
					t.Errorf("the calls ended with %s, want %s", got, p.calls)
				}
				if diff := cmp.Diff(p.want, tallyOf(snapshots(g))); diff != "" {
					t.Errorf("counts (-want +got):\n%s", diff)
				}
				if runs != p.times || (len(log.infos) != p.times && name != "hook Transition") {
					t.Errorf("the two Panicked were called %d and %d times, want %d", runs, len(log.infos), p.times)
				}
			})
		})
	}
}

// G13: runtime.Goexit is not a panic and is not reported. It ends the call's goroutine, and no permit is lost.
func TestG13_GoexitIsNotReported(t *testing.T) {
	exit := misdeeds[2].do
	for name, want := range map[string]struct {
		calls string
		tally tally
	}{
		"key function":      {"exited/exited/exited/exited", tally{}},
		"WithMatcher":       {"exited/exited/exited/exited", tally{}},
		"classifier":        {"exited/served/served/exited", tally{Failure: 2, Rejected: 2, Served: 2}}, // not judged
		"fallback handler":  {"ok/down/exited/ok", tally{Success: 2, Failure: 1, Rejected: 1, NotServed: 1}},
		"WithFallback":      {"ok/down/exited/ok", tally{Success: 2, Failure: 1, Rejected: 1}},
		"WithRejectionCode": {"ok/down/exited/ok", tally{Success: 2, Failure: 1, Rejected: 1}},
		"error":             {"ok/exited/served/ok", usualTally},
		"hook Rejected":     {"ok/down/exited/ok", tally{Success: 2, Failure: 1, Rejected: 1}},
		"hook Settled":      {"exited/exited/served/exited", usualTally},
		"hook Probed":       {"ok/down/served/exited", usualTally},
		"hook FellBack":     {"ok/down/exited/ok", usualTally},
		"hook Transition":   {"ok/exited/served/exited", tally{Success: 1, Failure: 1, Rejected: 1, Served: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, p := new(panicLog), panicPlaces[name]
				g := p.guard(t, exit, log.add, log.add)
				if got := fourCalls(t.Context(), g, new(int), p.failure(exit)); got != want.calls {
					t.Errorf("the calls ended with %s, want %s", got, want.calls)
				}
				if diff := cmp.Diff(want.tally, tallyOf(snapshots(g))); diff != "" {
					t.Errorf("counts (-want +got):\n%s", diff)
				}
				if len(log.infos) != 0 || g.Group().Stats().Unguarded != 0 {
					t.Errorf("%d panics and %d unguarded calls, want none", len(log.infos), g.Group().Stats().Unguarded)
				}
			})
		})
	}
}

// G13: GuardedTwice that misbehaves. The call passes the breaker twice and succeeds twice.
func TestG13_GuardedTwiceMisbehaves(t *testing.T) {
	for _, m := range misdeeds {
		for _, again := range []bool{false, true} { // Panicked panics too
			log := new(panicLog)
			boom := func() { blowUp() }
			if m.ends {
				boom = m.do
			}
			g := newGuard(t, breaker.Config{}, WithHooks(&Hooks{
				GuardedTwice: func(context.Context, GuardedTwiceInfo) { boom() },
				Panicked: func(ctx context.Context, p PanicInfo) {
					log.add(ctx, p)
					if again {
						panic("Panicked")
					}
				},
			}))
			var err error
			returned := apart(func() {
				err = g.Unary(t.Context(), fullMethod, nil, nil, nil, func(
					ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, opts ...grpc.CallOption,
				) error {
					return g.Unary(ctx, method, req, reply, cc, returnsAtOnce, opts...)
				})
			})
			if m.ends {
				// The call has been admitted once. It did not return, which is a failure (G1).
				wantTally(t, m.name, g, one(breaker.Failure))
				if returned || len(log.infos) != 0 {
					t.Errorf("%s: returned %v with %d panics, want neither", m.name, returned, len(log.infos))
				}
				continue
			}
			wantTally(t, m.name, g, tally{Success: 2})
			if !returned || err != nil {
				t.Errorf("%s: returned %v, with %v", m.name, returned, err)
			}
			if len(log.infos) != 1 || log.infos[0].Func != "hook GuardedTwice" || log.infos[0].Call != (Call{}) ||
				!strings.Contains(string(log.infos[0].Stack), "interceptor.blowUp(") {
				t.Errorf("%s: Panicked got %+v, want one panic of the hook GuardedTwice", m.name, log.infos)
			}
		}
	}
}

// G13: for a stream, PanicInfo.Call is the stream.
func TestG13_PanickedTellsTheStream(t *testing.T) {
	for _, name := range []string{"key function", "WithMatcher", "classifier", "error"} {
		log, p := new(panicLog), panicPlaces[name]
		g := p.guard(t, blowUp, log.add, nil)
		end := p.failure(blowUp)
		cs, _ := openFake(t.Context(), t, g, serverStreams, &fakeStream{recv: func(any) error { return end }})
		if _, err := drainRaw(cs); err != end { //nolint:errorlint // untouched
			t.Errorf("%s: another error than the stream's", name)
		}
		if len(log.infos) != 1 {
			t.Fatalf("%s: Panicked was called %d times, want 1", name, len(log.infos))
		}
		want := callOf(fullMethod, serverStreams, nil, nil)
		if got := log.infos[0]; got.Func != p.what || got.Call != want || want.Typ != interceptors.ServerStream {
			t.Errorf("%s: got %q and %+v, want %q and %+v", name, got.Func, got.Call, p.what, want)
		}
	}
}
