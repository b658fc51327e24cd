package interceptor

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/selector"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// G11: two targets. One is up, and the other is down.
func TestG11_OneGuardTwoTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, breaker.Config{})
		up, stopped := new(testpb.Server), new(testpb.Server)
		stopped.Set(failing(down))
		dial := func(srv *testpb.Server, target string) testpb.TestClient {
			return testpb.NewTestClient(testpb.StartBufconn(t, srv).DialTarget(t, target, g.DialOptions()...))
		}
		toUp, toStopped := dial(up, "passthrough:///up"), dial(stopped, "passthrough:///down")
		for range 50 {
			_, err := toUp.Unary(t.Context(), &testpb.Request{})
			wantCode(t, "the target that is up", err, codes.OK)
			_, err = toStopped.Unary(t.Context(), &testpb.Request{})
			wantCode(t, "the target that is down", err, codes.Unavailable)
		}
		got := map[breaker.Key]tally{}
		for k, b := range g.Group().All() {
			got[k] = tallyOf(b.Snapshot())
		}
		want := map[breaker.Key]tally{
			{Target: "passthrough:///up", Service: "grpcircuit.testpb.Test", Method: "Unary"}:   {Success: 50},
			{Target: "passthrough:///down", Service: "grpcircuit.testpb.Test", Method: "Unary"}: {Failure: 5, Rejected: 45},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("breakers (-want +got):\n%s", diff)
		}
		if got := stopped.Total(); got != 5 {
			t.Errorf("%d calls reached the target that is down, want 5", got)
		}
	})
}

// G11: the target is the one that the user gave to grpc.NewClient. TestO01_ClosedCallAllocatesNothing also checks that
// the guard does not call CanonicalTarget, which would allocate.
func TestG11_WhatTheKeyFunctionGets(t *testing.T) {
	cc, err := grpc.NewClient("localhost:1", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	if cc.CanonicalTarget() == cc.Target() {
		t.Fatal("both have the same target, so the test checks nothing")
	}
	req := new(testpb.Request)
	for _, tt := range []struct {
		name   string
		cc     *grpc.ClientConn
		method string
		want   keyfunc.Call
	}{
		{"connection", cc, fullMethod, keyfunc.Call{Target: "localhost:1", CallMeta: interceptors.CallMeta{
			Service: "pkg.Service", Method: "Method", Typ: interceptors.Unary, IsClient: true, ReqOrNil: req,
		}}},
		{"no connection", nil, fullMethod, keyfunc.Call{CallMeta: interceptors.CallMeta{
			Service: "pkg.Service", Method: "Method", Typ: interceptors.Unary, IsClient: true, ReqOrNil: req,
		}}},
		{"no method", nil, "nonsense", keyfunc.Call{CallMeta: interceptors.CallMeta{
			Service: "unknown", Method: "unknown", Typ: interceptors.Unary, IsClient: true, ReqOrNil: req,
		}}},
	} {
		ctx := context.WithValue(t.Context(), ctxKey{}, tt.name)
		ran := 0
		g := newGuard(t, breaker.Config{}, WithKey(func(gotCtx context.Context, got keyfunc.Call) breaker.Key {
			ran++
			if gotCtx != ctx {
				t.Errorf("%s: the key function got another context", tt.name)
			}
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b *testpb.Request) bool { return a == b })); diff != "" {
				t.Errorf("%s: the key function got (-want +got):\n%s", tt.name, diff)
			}
			return breaker.Key{Tag: "from the function"}
		}))
		if err := g.Unary(ctx, tt.method, req, nil, tt.cc, returnsAtOnce); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if got := onlyBreaker(t, g).Key(); ran != 1 || got != (breaker.Key{Tag: "from the function"}) {
			t.Errorf("%s: the key function ran %d times, and the breaker is %v", tt.name, ran, got)
		}
	}
}

// The default key is made without a Call. It is the key that keyfunc.TargetMethod returns, for any method.
func TestG11_DefaultKey(t *testing.T) {
	cc, err := grpc.NewClient("localhost:1", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	for _, conn := range []*grpc.ClientConn{nil, cc} {
		for _, method := range []string{
			fullMethod, "pkg.Service/Method", "", "/", "//", "/a", "a/", "/a/", "//b", "/a/b/c", "///", "nonsense",
			"/a\xff/b\xfe",
		} {
			g := newGuard(t, breaker.Config{})
			if err := g.Unary(t.Context(), method, nil, nil, conn, returnsAtOnce); err != nil {
				t.Fatal(err)
			}
			withFunc := newGuard(t, breaker.Config{}, WithKey(keyfunc.TargetMethod))
			if err := withFunc.Unary(t.Context(), method, nil, nil, conn, returnsAtOnce); err != nil {
				t.Fatal(err)
			}
			all := selector.MatchFunc(func(context.Context, interceptors.CallMeta) bool { return true })
			matched := newGuard(t, breaker.Config{}, WithMatcher(all))
			if err := matched.Unary(t.Context(), method, nil, nil, conn, returnsAtOnce); err != nil {
				t.Fatal(err)
			}
			want := onlyBreaker(t, withFunc).Key()
			if got := onlyBreaker(t, g).Key(); got != want {
				t.Errorf("%q: the default key is %q, want that of TargetMethod, %q", method, got, want)
			}
			if got := onlyBreaker(t, matched).Key(); got != want {
				t.Errorf("%q: with a matcher the key is %q, want %q", method, got, want)
			}
			if target := targetOf(conn); want.Target != target || (target != "") != (conn != nil) {
				t.Errorf("%q: the target is %q, want %q", method, want.Target, target)
			}
		}
	}
}

// G12: a call that the matcher excludes does not reach the breaker, the counts, the hooks and the fallback. So health
// checks pass while the breaker is open.
func TestG12_Matcher(t *testing.T) {
	rec := new(settlements)
	guarded := true
	ran := 0
	g := newGuard(t, breaker.Config{ConsecutiveFailures: 1, OpenFor: time.Hour},
		WithHooks(hooksOf(rec)), WithPeerEvidence(),
		WithFallback(ForMethods(fullMethod), Fallback(answerNothing), OnFailure()),
		WithMatcher(selector.MatchFunc(func(_ context.Context, c interceptors.CallMeta) bool {
			ran++
			if c.Service != "pkg.Service" || c.Method != "Method" || c.Typ != interceptors.Unary {
				t.Errorf("the matcher got %+v", c)
			}
			return guarded
		})))
	c := &calls{guard: g}
	_ = c.call(t.Context(), down)
	before, heardBefore := snapshots(g), len(rec.settled)
	if before.State != breaker.Open {
		t.Fatalf("the breaker is %v, want open", before.State)
	}

	guarded = false
	c.runs = 0
	for _, want := range []error{nil, down} {
		if err := c.call(t.Context(), want); err != want { //nolint:errorlint // the same value
			t.Errorf("got %v, want %v", err, want)
		}
	}
	if c.runs != 2 || ran != 3 {
		t.Errorf("%d runs, the matcher ran %d times; want 2 and 3", c.runs, ran)
	}
	if diff := cmp.Diff(tallyOf(before), tallyOf(snapshots(g))); diff != "" {
		t.Errorf("excluded calls were counted (-before +after):\n%s", diff)
	}
	if len(rec.settled) != heardBefore || len(rec.rejected) != 0 || len(rec.fellBack) != heardBefore {
		t.Errorf("hooks were called for excluded calls: %+v", rec)
	}
	if got := g.Group().Stats().Unguarded; got != 0 {
		t.Errorf("%d calls are counted as unguarded, want 0, because the matcher excluded them", got)
	}

	guarded = true
	if err := c.call(t.Context(), nil); !IsRejected(err) {
		t.Errorf("got %v, want a rejection", err)
	}
}

func TestG12_PanicGoesUnguardedAndIsCounted(t *testing.T) {
	panics := func(v any) keyfunc.Func {
		return func(context.Context, keyfunc.Call) breaker.Key { panic(v) }
	}
	var none map[string]int
	for _, tt := range []struct {
		name string
		opt  Option
	}{
		{"key function", WithKey(panics("no key"))},
		{"key function, nil", WithKey(panics(nil))},
		{"key function, runtime error", WithKey(func(context.Context, keyfunc.Call) breaker.Key {
			none["key"] = 1
			return breaker.Key{}
		})},
		{"matcher", WithMatcher(selector.MatchFunc(func(context.Context, interceptors.CallMeta) bool { panic("no match") }))},
	} {
		g := newGuard(t, breaker.Config{}, tt.opt)
		c := &calls{guard: g}
		for _, want := range []error{nil, down} {
			if err := c.call(t.Context(), want); err != want { //nolint:errorlint // the same value
				t.Errorf("%s: got %v, want %v", tt.name, err, want)
			}
		}
		if got := g.Group().Stats(); c.runs != 2 || got.Unguarded != 2 || got.Breakers != 0 {
			t.Errorf("%s: %d runs and %+v, want 2 runs, 2 unguarded and no breaker", tt.name, c.runs, got)
		}
	}
}

// G12: with Bypass, neither the matcher nor the key function runs.
func TestG12_BypassRunsNoUserCode(t *testing.T) {
	g := newGuard(t, breaker.Config{},
		WithMatcher(selector.MatchFunc(func(context.Context, interceptors.CallMeta) bool {
			t.Error("the matcher ran")
			return true
		})),
		WithKey(func(context.Context, keyfunc.Call) breaker.Key {
			t.Error("the key function ran")
			return breaker.Key{}
		}))
	if err := (&calls{guard: g}).call(t.Context(), down, Bypass()); err != down { //nolint:errorlint // the same value
		t.Errorf("got %v, want %v", err, down)
	}
}
