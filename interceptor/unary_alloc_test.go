package interceptor

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// noopHooks has hooks for rare events that do nothing.
type noopHooks struct{}

func (noopHooks) Rejected(context.Context, *RejectedError)  {}
func (noopHooks) FellBack(context.Context, FallbackInfo)    {}
func (noopHooks) Transition(context.Context, breaker.Event) {}

// noopCallHooks also has the hooks for each call.
type noopCallHooks struct{ noopHooks }

func (noopCallHooks) Settled(context.Context, Settlement) {}
func (noopCallHooks) Probed(context.Context, Settlement)  {}

func answerNothing(context.Context, *int, error) (*int, error) { return nil, nil }

func TestO01_ClosedCallAllocatesNothing(t *testing.T) {
	cc, err := grpc.NewClient("nowhere:1", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	deadline, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	var header metadata.MD
	for _, tt := range []struct {
		name string
		cfg  breaker.Config
		opts []Option
		ctx  context.Context
		cc   *grpc.ClientConn
		call []grpc.CallOption
	}{
		{name: "default"},
		// With CanonicalTarget, this call would allocate (G11).
		{name: "connection", cc: cc},
		{name: "deadline", ctx: deadline},
		{name: "call options", call: []grpc.CallOption{grpc.Header(&header), grpc.WaitForReady(true), grpc.StaticMethod()}},
		{name: "tag", call: []grpc.CallOption{Tag("gold")}},
		{name: "bypass", call: []grpc.CallOption{Bypass()}},
		{name: "slow rule", cfg: breaker.Config{SlowCall: time.Hour}},
		{name: "bounded", cfg: breaker.Config{MaxConcurrent: 5}},
		{name: "hooks", opts: []Option{WithHooks(hooksOf(noopHooks{}))}},
		{name: "hook Settled", opts: []Option{WithHooks(hooksOf(noopCallHooks{}))}},
		{name: "classifier", opts: []Option{WithClassifier(DefaultClassifier)}},
		{name: "matcher", opts: []Option{WithMatcher(ForMethods(fullMethod))}},
		{name: "key", opts: []Option{WithKey(keyfunc.Tagged(nil, noTag))}},
		{name: "min budget", opts: []Option{WithMinBudget(time.Second)}, ctx: deadline},
		{name: "fallback", opts: []Option{WithFallback(ForMethods(fullMethod), Fallback(answerNothing), OnFailure())}},
	} {
		g := newGuard(t, tt.cfg, tt.opts...)
		ctx := tt.ctx
		if ctx == nil {
			ctx = t.Context()
		}
		runs := 0
		invoker := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
			runs++
			return nil
		}
		req, reply := new(int), new(int)
		got := testing.AllocsPerRun(100, func() {
			if err := g.Unary(ctx, fullMethod, req, reply, tt.cc, invoker, tt.call...); err != nil {
				t.Fatal(err)
			}
		})
		if got != 0 || runs != 101 {
			t.Errorf("%s: %v allocations a call in %d runs, want 0 in 101", tt.name, got, runs)
		}
		if s := snapshots(g); tt.name != "bypass" && s.Successes != 101 {
			t.Errorf("%s: %d successes counted, want 101", tt.name, s.Successes)
		}
	}
}

func TestG08_RejectionAllocatesNothing(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts []Option
	}{
		{name: "default"},
		{name: "details", opts: []Option{WithRejectionDetails()}},
		{name: "hooks", opts: []Option{WithHooks(hooksOf(noopCallHooks{}))}},
		{name: "fallback for another method", opts: []Option{WithFallback(ForMethods("/a/b"), Fallback(answerNothing))}},
	} {
		g := newGuard(t, breaker.Config{OpenFor: time.Hour, MaxOpenFor: time.Hour}, tt.opts...)
		g.Group().Get(methodKey).Trip(t.Context(), "test")
		ctx := t.Context()
		got := testing.AllocsPerRun(100, func() {
			if err := g.Unary(ctx, fullMethod, nil, nil, nil, returnsAtOnce); !IsRejected(err) {
				t.Fatal(err)
			}
		})
		if got != 0 {
			t.Errorf("%s: %v allocations a rejection, want 0", tt.name, got)
		}
		// GRPCStatus makes the status and allocates. Otherwise the measurement above would not detect allocations.
		err := g.Unary(ctx, fullMethod, nil, nil, nil, returnsAtOnce)
		if got := testing.AllocsPerRun(100, func() { status.Code(err) }); got == 0 {
			t.Errorf("%s: the status costs no allocation, so the test checks nothing", tt.name)
		}
	}
}

// G5: the cost of looking at the peer, over real grpc. There is none while all outcomes of the last Window were
// successes.
func TestG05_CostOfDoubt(t *testing.T) {
	backend := testpb.StartBufconn(t, new(testpb.Server))
	plain := testpb.NewTestClient(backend.Dial(t))
	ctx, req := t.Context(), new(testpb.Request)
	call := func(c testpb.TestClient) {
		if _, err := c.Unary(ctx, req); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name   string
		before func(b *breaker.Breaker) // each call
		most   float64
	}{
		{"no doubt", func(*breaker.Breaker) {}, 0},
		{"troubled", func(b *breaker.Breaker) {
			settleOne(b, breaker.Ignored)
			settleOne(b, breaker.Success)
		}, 2},
		{"in doubt", func(b *breaker.Breaker) { settleOne(b, breaker.Ignored) }, 6},
	} {
		g := newGuard(t, breaker.Config{Window: time.Hour}, WithKey(oneKey))
		guarded := testpb.NewTestClient(backend.Dial(t, g.DialOptions()...))
		b := g.Group().Get(breaker.Key{})
		got := extraMallocs(t, func() { call(plain) }, func() {
			tt.before(b)
			call(guarded)
		})
		if got > tt.most+mallocNoise {
			t.Errorf("%s: a guarded call costs %.2f allocations more than an unguarded one, want at most %v", tt.name, got,
				tt.most)
		}
	}
}

// G6: a failure does not cost what status.FromError takes for a wrapped status, which is 8 allocations.
func TestG06_FailureAllocatesLittle(t *testing.T) {
	g := newGuard(t, breaker.Config{ConsecutiveFailures: -1, FailureRatio: -1})
	for _, tt := range []struct {
		name string
		err  error
		want float64
	}{
		// 3 are for the options, which the guard adds while the backend is in doubt.
		{"status", down, 3},
		// The others are for errors.As.
		{"wrapped status", wrapped(down), 3 + 2*3},
	} {
		ctx := t.Context()
		invoker := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return tt.err }
		got := testing.AllocsPerRun(100, func() { _ = g.Unary(ctx, fullMethod, nil, nil, nil, invoker) })
		if got > tt.want {
			t.Errorf("%s: %v allocations a failure, want at most %v", tt.name, got, tt.want)
		}
		t.Logf("%s: %v allocations", tt.name, got)
	}
}

type wrapError struct{ error }

func (w wrapError) Unwrap() error { return w.error }

func wrapped(err error) error { return wrapError{err} }
