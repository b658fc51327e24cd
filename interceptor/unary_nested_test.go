package interceptor

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// G7: two guards in a row. A rejection by the inner one shows nothing about the backend, so the outer one ignores it.
func TestG07_NestedGuards(t *testing.T) {
	for c := codes.Canceled; c <= codes.Unauthenticated; c++ {
		for _, opts := range [][]Option{nil, {WithPeerEvidence()}} {
			synctest.Test(t, func(t *testing.T) {
				cfg := breaker.Config{OpenFor: time.Second}
				outer := newGuard(t, cfg, append(opts, WithKey(oneKey))...)
				inner := newGuard(t, cfg, WithKey(oneKey), WithRejectionCode(c))
				s := newScene(t, outer, "", inner.DialOptions()...)
				inner.Group().Get(breaker.Key{}).Trip(t.Context(), "test")
				for range 100 {
					err := s.plain()
					wantCode(t, "rejected by the inner guard", err, c)
				}
				wantTally(t, "the outer guard", outer, tally{Ignored: 100})
				wantTally(t, "the inner guard", inner, tally{Rejected: 100})

				// If the inner guard rejects a probe of the outer guard, the probe frees its slot and decides nothing (B21).
				outer.Group().Get(breaker.Key{}).Trip(t.Context(), "test")
				time.Sleep(time.Second)
				inner.Group().Get(breaker.Key{}).Trip(t.Context(), "test")
				_ = s.plain()
				wantState(t, "the outer guard", outer, breaker.HalfOpen)
				if diff := cmp.Diff(breaker.ProbeCounts{Ignored: 1}, onlyBreaker(t, outer).Snapshot().Probes); diff != "" {
					t.Errorf("probes of the outer guard (-want +got):\n%s", diff)
				}
				time.Sleep(time.Second)
				for range 2 {
					wantCode(t, "probe of both", s.plain(), codes.OK)
				}
				wantState(t, "the outer guard in the end", outer, breaker.Closed)
				wantState(t, "the inner guard in the end", inner, breaker.Closed)
			})
		}
	}
}

// G15: the fallback of the outer guard answers what the inner guard rejects. That is no outcome of the outer guard, so
// it closes no breaker. The handler gets the rejection of the inner guard, also through an interceptor that wraps it.
func TestG15_FallbackOfTheOuterGuard(t *testing.T) {
	for name, wrap := range map[string]func(error) error{
		"as it is": func(err error) error { return err },
		"wrapped":  func(err error) error { return fmt.Errorf("attempt 1: %w", err) },
	} {
		synctest.Test(t, func(t *testing.T) {
			var cause error
			handler := Fallback(func(_ context.Context, _ *testpb.Request, err error) (*testpb.Response, error) {
				cause = err
				return &testpb.Response{Text: "cached"}, nil
			})
			outer := newGuard(t, breaker.Config{OpenFor: time.Second}, WithKey(oneKey), WithFallback(forUnary, handler))
			inner := newGuard(t, breaker.Config{OpenFor: time.Hour}, WithKey(keyfunc.Target), WithRejectionCode(codes.Aborted))
			between := func(
				ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker,
				opts ...grpc.CallOption,
			) error {
				if err := invoker(ctx, method, req, reply, cc, opts...); err != nil {
					return wrap(err)
				}
				return nil
			}
			s := newScene(t, outer, "", append([]grpc.DialOption{grpc.WithChainUnaryInterceptor(between)},
				inner.DialOptions()...)...)
			wantCode(t, name+", closed", s.plain(), codes.OK)
			target := onlyBreaker(t, inner)
			target.Trip(t.Context(), "test")
			outer.Group().Get(breaker.Key{}).Trip(t.Context(), "test")
			time.Sleep(time.Second)
			trailer := metadata.Pairs("from", "an earlier call")
			for range 3 {
				wantCode(t, name+", rejected by the inner guard", s.plain(grpc.Trailer(&trailer)), codes.OK)
			}
			if diff := cmp.Diff(metadata.Pairs(FallbackTrailer, FallbackRejected), trailer); diff != "" {
				t.Errorf("%s: trailer (-want +got):\n%s", name, diff)
			}
			if e := rejected(t, cause); e.Key != target.Key() {
				t.Errorf("%s: the fallback got the rejection of %v, want that of %v", name, e.Key, target.Key())
			}
			wantState(t, name+": the outer guard", outer, breaker.HalfOpen)
			got := onlyBreaker(t, outer).Snapshot()
			if diff := cmp.Diff(breaker.ProbeCounts{Ignored: 3}, got.Probes); diff != "" {
				t.Errorf("%s: probes of the outer guard (-want +got):\n%s", name, diff)
			}
			if diff := cmp.Diff(breaker.FallbackCounts{Served: 3}, got.Fallbacks); diff != "" {
				t.Errorf("%s: fallbacks of the outer guard (-want +got):\n%s", name, diff)
			}
		})
	}
}

// B22: a connection has the same guard twice, or two guards of one group. A probe of the outer guard reaches the same
// breaker in the inner one. The inner guard must not reject it as a second probe, or the breaker would never close
// again.
func TestB22_GuardInstalledTwice(t *testing.T) {
	for name, other := range map[string]func(*Guard) *Guard{
		"the same guard": func(g *Guard) *Guard { return g },
		"the same group": func(g *Guard) *Guard {
			other, _ := New(g.Group(), WithKey(oneKey))
			return other
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(t, breaker.Config{OpenFor: time.Second}, WithKey(oneKey))
			s := newScene(t, g, "", other(g).DialOptions()...)
			wantCode(t, name+", closed", s.plain(), codes.OK)
			onlyBreaker(t, g).Trip(t.Context(), "test")
			time.Sleep(time.Second)
			for range 2 {
				wantCode(t, name+", a probe", s.plain(), codes.OK)
			}
			wantState(t, name, g, breaker.Closed)
		})
	}
}

// G7: A calls B, and B calls C, which is down. If B's breaker for C rejects a call, A's breaker for B must ignore that,
// because B is up.
func TestG07_RemoteHop(t *testing.T) {
	hand := map[string]func(error) error{
		"as it is": func(err error) error { return err },
		"wrapped":  func(err error) error { return fmt.Errorf("calling C: %w", err) },
	}
	for how, passOn := range hand {
		for c := codes.Canceled; c <= codes.Unauthenticated; c++ {
			synctest.Test(t, func(t *testing.T) {
				atB := newGuard(t, breaker.Config{OpenFor: 30 * time.Second}, WithKey(oneKey), WithRejectionCode(c))
				serverC := new(testpb.Server)
				serverC.Set(failing(down))
				toC := testpb.NewTestClient(testpb.Bufconn(t, serverC, atB.DialOptions()...))

				atA := newGuard(t, breaker.Config{ConsecutiveFailures: 6}, WithKey(oneKey))
				a := newScene(t, atA, "")
				a.srv.Set(testpb.Script{OnUnary: func(ctx context.Context, req *testpb.Request) (*testpb.Response, error) {
					resp, err := toC.Unary(ctx, req)
					if err != nil {
						return nil, passOn(err)
					}
					return resp, nil
				}})
				for range 5 {
					wantCode(t, "C is down", a.plain(), codes.Unavailable)
				}
				wantState(t, "B's breaker for C", atB, breaker.Open)
				for range 20 {
					err := a.plain()
					if !IsRejected(err) {
						t.Fatalf("%s, %v: A got %v, want a rejection", how, c, err)
					}
					wantCode(t, how, err, c)
				}
				wantTally(t, "A's breaker for B", atA, tally{Failure: 5, Ignored: 20})
				wantState(t, "A's breaker for B", atA, breaker.Closed)

				serverC.Set(testpb.Script{})
				time.Sleep(30 * time.Second)
				for range 2 {
					wantCode(t, "C is back", a.plain(), codes.OK)
				}
				wantState(t, "B's breaker for C", atB, breaker.Closed)
			})
		}
	}
}

// G7: rejections are also not failures of the breaker that rejects. Under constant load it closes after the server has
// recovered.
func TestG07_OwnRejectionsUnderConstantLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, breaker.Config{OpenFor: time.Second, Backoff: 1}, WithKey(oneKey))
		s := newScene(t, g, "")
		s.srv.Set(failing(down))
		for i := range 200 { // 2 s
			if i == 100 {
				s.srv.Set(testpb.Script{})
			}
			_ = s.plain()
			time.Sleep(10 * time.Millisecond)
		}
		wantState(t, "a second after the server came back", g, breaker.Closed)
		got := tallyOf(onlyBreaker(t, g).Snapshot())
		// Five failures open the breaker. The open period is one second, and by its end the server has recovered.
		if want := (tally{Success: 96, Failure: 5, Rejected: 99}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}
