package interceptor

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// twiceLog records what GuardedTwice gets.
type twiceLog struct {
	mu    sync.Mutex
	infos []GuardedTwiceInfo // guarded by mu
}

func (l *twiceLog) hooks() Option {
	return WithHooks(&Hooks{GuardedTwice: func(_ context.Context, i GuardedTwiceInfo) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.infos = append(l.infos, i)
	}})
}

// reported returns how many calls were reported since the last call of reported.
func (l *twiceLog) reported() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.infos)
	l.infos = nil
	return n
}

// oneStream makes a stream that ends at once.
func (s *scene) oneStream() {
	s.Helper()
	cs, err := s.client.ServerStream(s.Context(), &testpb.Request{Count: 1})
	if err != nil {
		s.Error(err)
		return
	}
	endsWith(s, cs, codes.OK)
}

func tagged(tag string) Option {
	return WithKey(func(context.Context, keyfunc.Call) breaker.Key { return breaker.Key{Tag: tag} })
}

// The first unary call and the first stream of a connection report that they pass one breaker twice. Two different
// breakers, of another group or another key, are not reported.
func TestGuardedTwice(t *testing.T) {
	for _, tt := range []struct {
		name  string
		inner func(outer *Guard, log *twiceLog) (*Guard, error)
		twice bool
	}{
		{"the same guard", func(g *Guard, _ *twiceLog) (*Guard, error) { return g, nil }, true},
		{"the same group and key", func(g *Guard, log *twiceLog) (*Guard, error) {
			return New(g.Group(), tagged("a"), log.hooks())
		}, true},
		{"the same group, another key", func(g *Guard, log *twiceLog) (*Guard, error) {
			return New(g.Group(), tagged("b"), log.hooks())
		}, false},
		{"another group, the same key", func(_ *Guard, log *twiceLog) (*Guard, error) {
			return New(nil, tagged("a"), log.hooks())
		}, false},
	} {
		for _, first := range []string{"unary", "stream"} {
			t.Run(tt.name+", "+first, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					log := new(twiceLog)
					outer := newGuard(t, breaker.Config{}, tagged("a"), log.hooks())
					inner, err := tt.inner(outer, log)
					if err != nil {
						t.Fatal(err)
					}
					s := newDirectScene(t, outer, "", inner.DialOptions()...)
					method, desc := testpb.Test_Unary_FullMethodName, (*grpc.StreamDesc)(nil)
					var req any
					if first == "unary" {
						wantCode(t, "the call", s.plain(), codes.OK)
					} else {
						method, desc = testpb.Test_ServerStream_FullMethodName, serverStreams
						s.oneStream()
					}
					var want []GuardedTwiceInfo
					if tt.twice {
						if len(log.infos) == 1 { // the request is the call's own
							req = log.infos[0].Call.ReqOrNil
						}
						want = []GuardedTwiceInfo{{Key: breaker.Key{Tag: "a"}, Call: callOf(method, desc, req, s.cc)}}
					}
					sameCall := cmp.Comparer(func(x, y Call) bool { return x == y })
					if diff := cmp.Diff(want, log.infos, sameCall); diff != "" {
						t.Errorf("GuardedTwice (-want +got):\n%s", diff)
					}
					if desc == nil && tt.twice && req == nil {
						t.Error("the call has no request")
					}
				})
			})
		}
	}
}

// markSpy counts the marks that calls have behind the guard.
type markSpy struct{ unary, stream, probes int }

func (m *markSpy) look(opts []grpc.CallOption, n *int) {
	for _, o := range opts {
		if mark, ok := o.(*guardMark); ok {
			*n++
			if mark.probe {
				m.probes++
			}
		}
	}
}

func (m *markSpy) dial() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(func(
			ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker,
			opts ...grpc.CallOption,
		) error {
			m.look(opts, &m.unary)
			return invoker(ctx, method, req, reply, cc, opts...)
		}),
		grpc.WithChainStreamInterceptor(func(
			ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer,
			opts ...grpc.CallOption,
		) (grpc.ClientStream, error) {
			m.look(opts, &m.stream)
			return streamer(ctx, desc, cc, method, opts...)
		}),
	}
}

// marked returns what was counted since the last call.
func (m *markSpy) marked() markSpy {
	was := *m
	*m = markSpy{}
	return was
}

// The first 100 unary calls are marked. After that, only calls in doubt and probes are marked. Streams are always
// marked, and do not count among the 100. Without the hook only probes are marked.
func TestGuardedTwiceMarks(t *testing.T) {
	for _, hook := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			opts := []Option{WithKey(oneKey)}
			n := 0 // 1 where the hook makes a difference
			if hook {
				n = 1
				opts = append(opts, new(twiceLog).hooks())
			}
			g := newGuard(t, breaker.Config{OpenFor: time.Second, SuccessesToClose: 2}, opts...)
			marks := new(markSpy)
			s := newDirectScene(t, g, "", marks.dial()...)
			check := func(what string, want markSpy) {
				t.Helper()
				if got := marks.marked(); got != want {
					t.Errorf("with the hook %v, %s: got %+v, want %+v", hook, what, got, want)
				}
			}
			for range 3 {
				s.oneStream()
			}
			check("3 streams", markSpy{stream: 3 * n})
			for range firstMarks {
				_ = s.plain()
			}
			check("100 calls", markSpy{unary: 100 * n})
			for range 50 {
				_ = s.plain()
			}
			check("50 calls more", markSpy{})
			s.oneStream()
			check("a stream more", markSpy{stream: n})
			s.srv.Set(failing(down))
			_ = s.plain()
			check("the call that fails", markSpy{})
			s.srv.Set(testpb.Script{})
			_ = s.plain()
			check("the call in doubt", markSpy{unary: n})
			_ = s.plain()
			check("the call after it", markSpy{})
			halfOpen(t, g, breaker.Key{})
			_ = s.plain()
			check("a probe", markSpy{unary: 1, probes: 1})
			s.oneStream()
			check("the stream of a probe", markSpy{stream: 1, probes: 1})
			wantState(t, "after the probes", g, breaker.Closed)
			for range 50 {
				_ = s.plain()
			}
			check("after the breaker has closed", markSpy{})
		})
	}
}

// B22: a probe passes the inner guard, so that the breaker can close. This also works if a guard of another group is
// between the two, which adds another mark.
func TestGuardedTwiceProbesPass(t *testing.T) {
	for _, between := range []bool{false, true} {
		for _, kind := range []string{"unary", "stream"} {
			synctest.Test(t, func(t *testing.T) {
				log := new(twiceLog)
				cfg := breaker.Config{OpenFor: time.Second, MaxProbes: 1, SuccessesToClose: 2}
				g := newGuard(t, cfg, WithKey(oneKey), log.hooks())
				var dial []grpc.DialOption
				if between {
					other := newGuard(t, cfg, WithKey(oneKey), log.hooks())
					dial = append(dial, other.DialOptions()...)
				}
				s := newDirectScene(t, g, "", append(dial, g.DialOptions()...)...)
				halfOpen(t, g, breaker.Key{})
				for range 2 {
					if kind == "unary" {
						wantCode(t, "a probe", s.plain(), codes.OK)
					} else {
						s.oneStream()
					}
				}
				synctest.Wait()
				wantState(t, kind+" probes", g, breaker.Closed)
				wantTally(t, kind+" probes", g, tally{Success: 2})
				if got := log.reported(); got != 2 {
					t.Errorf("%s, with a guard between: %v: GuardedTwice was called %d times, want 2", kind, between, got)
				}
			})
		}
	}
}

// Without the hook, no call on the closed path allocates, whatever other hooks there are. With the hook, no call
// allocates after the first ones.
func TestGuardedTwiceAllocatesNothing(t *testing.T) {
	for _, hook := range []bool{false, true} {
		var log []string
		h := logHooks("", &log)
		h.Settled = func(context.Context, Settlement) {}
		if !hook {
			h.GuardedTwice = nil
		}
		g := newGuard(t, breaker.Config{}, WithHooks(h))
		ctx := t.Context()
		if hook {
			for range firstMarks {
				_ = g.Unary(ctx, fullMethod, nil, nil, nil, returnsAtOnce)
			}
		}
		got := testing.AllocsPerRun(100, func() { _ = g.Unary(ctx, fullMethod, nil, nil, nil, returnsAtOnce) })
		if got != 0 || len(log) != 0 {
			t.Errorf("with the hook %v: %v allocations a call and %v, want none", hook, got, log)
		}
	}
}

// Calls of many goroutines share the first 100 marks: there are exactly 100.
func TestGuardedTwiceConcurrentSafe(t *testing.T) {
	const rounds, workers, callsEach = 100, 8, 30
	for range rounds {
		g := newGuard(t, breaker.Config{}, new(twiceLog).hooks())
		var marked atomic.Int32
		invoker := func(_ context.Context, _ string, _, _ any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
			marked.Add(int32(len(opts)))
			return nil
		}
		var ready, wg sync.WaitGroup
		ready.Add(workers)
		for range workers {
			wg.Go(func() {
				ready.Done()
				ready.Wait()
				for range callsEach {
					_ = g.Unary(t.Context(), fullMethod, nil, nil, nil, invoker)
				}
			})
		}
		wg.Wait()
		if got := marked.Load(); got != firstMarks {
			t.Fatalf("%d calls were marked, want %d", got, firstMarks)
		}
		if got := g.marks.Load(); got > 0 {
			t.Fatalf("%d marks are left, want none", got)
		}
	}
}
