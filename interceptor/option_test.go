package interceptor

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

func TestBadOptionsAreErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		opt  Option
		want string
	}{
		{"nil", nil, "interceptor: option 1 is nil"},
		{"nil function", optionFunc(nil), "interceptor: option 1 is nil"},
		{"key", WithKey(nil), "interceptor: WithKey: the function is nil"},
		{"classifier", WithClassifier(nil), "interceptor: WithClassifier: the function is nil"},
		{"matcher", WithMatcher(nil), "interceptor: WithMatcher: the matcher is nil"},
		{"hooks", WithHooks(nil), "interceptor: WithHooks: the hooks are nil"},
		{"code OK", WithRejectionCode(codes.OK), "interceptor: WithRejectionCode: the code is 0 (OK), want from 1 to 16"},
		{"code 17", WithRejectionCode(17), "interceptor: WithRejectionCode: the code is 17 (Code(17)), want from 1 to 16"},
		{
			"code out of any range", WithRejectionCode(1<<32 - 1),
			"interceptor: WithRejectionCode: the code is 4294967295 (Code(4294967295)), want from 1 to 16",
		},
		{"no budget", WithMinBudget(0), "interceptor: WithMinBudget: the budget is 0s, want 1ms or more"},
		{"negative budget", WithMinBudget(-time.Second), "interceptor: WithMinBudget: the budget is -1s, want 1ms or more"},
		{"budget without a unit", WithMinBudget(50), "interceptor: WithMinBudget: the budget is 50ns, want 1ms or more; " +
			"a number without a unit is nanoseconds, probably 50*time.Second or 50*time.Millisecond was meant"},
		{
			"budget of almost a millisecond", WithMinBudget(time.Millisecond - 1),
			"interceptor: WithMinBudget: the budget is 999.999µs, want 1ms or more",
		},
		{"no age", WithLongStream(0), "interceptor: WithLongStream: the duration is 0s, want 1ms or more"},
		{"negative age", WithLongStream(-time.Second), "interceptor: WithLongStream: the duration is -1s, want 1ms or more"},
		{"age without a unit", WithLongStream(10), "interceptor: WithLongStream: the duration is 10ns, want 1ms or more; " +
			"a number without a unit is nanoseconds, probably 10*time.Second or 10*time.Millisecond was meant"},
		{
			"age of almost a millisecond", WithLongStream(time.Millisecond - 1),
			"interceptor: WithLongStream: the duration is 999.999µs, want 1ms or more",
		},
	} {
		rec := new(recorder)
		group, err := breaker.NewGroup(breaker.Config{})
		if err != nil {
			t.Fatal(err)
		}
		g, err := New(group, WithHooks(hooksOf(rec)), tt.opt, WithPeerEvidence())
		if err == nil || err.Error() != tt.want || g != nil {
			t.Errorf("%s: got %v and %v, want %q", tt.name, g, err, tt.want)
		}
		// New registered no hooks, also not those of the options before the bad one.
		group.Get(methodKey).Trip(t.Context(), "test")
		if len(rec.transitions) != 0 {
			t.Errorf("%s: hooks are registered with the group although New failed", tt.name)
		}
	}
}

func TestNilGroupMakesANewGroup(t *testing.T) {
	one, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	two, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	if one.Group() == nil || one.Group() == two.Group() {
		t.Error("two guards without a group share one, or have none")
	}
}

// A guard without a group has the default Config: five failures over one second open the breaker.
func TestNilGroupHasTheDefaultConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := New(nil)
		if err != nil {
			t.Fatal(err)
		}
		c := &calls{guard: g}
		for i := range 5 {
			if i > 0 {
				wantState(t, "before the fifth failure", g, breaker.Closed)
				time.Sleep(250 * time.Millisecond)
			}
			_ = c.call(t.Context(), down)
		}
		wantState(t, "after five failures over a second", g, breaker.Open)
	})
}

func TestGroupReturnsTheGivenGroup(t *testing.T) {
	group, err := breaker.NewGroup(breaker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	g, err := New(group)
	if err != nil {
		t.Fatal(err)
	}
	if g.Group() != group {
		t.Error("Group returns another group")
	}
}

// If an option is given twice, the last one counts, except for options that add up.
func TestOptionsGivenTwice(t *testing.T) {
	one, two := new(settlements), new(settlements)
	g := newGuard(t, breaker.Config{ConsecutiveFailures: 1, OpenFor: time.Hour},
		WithRejectionCode(codes.Aborted), WithRejectionCode(codes.OutOfRange), WithHooks(hooksOf(one)),
		WithHooks(hooksOf(two)))
	c := &calls{guard: g}
	_ = c.call(t.Context(), down)
	wantCode(t, "rejection", c.call(t.Context(), nil), codes.OutOfRange)
	for _, o := range []*settlements{one, two} {
		if len(o.settled) != 1 || len(o.rejected) != 1 || len(o.transitions) != 1 {
			t.Errorf("a hook got %+v", o)
		}
	}
}

// DialOptions chains the interceptors, so that an interceptor of the user runs too, and outside the guard.
func TestDialOptionsChain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		note := func(name string) grpc.UnaryClientInterceptor {
			return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker,
				opts ...grpc.CallOption,
			) error {
				order = append(order, name)
				return invoker(ctx, method, req, reply, cc, opts...)
			}
		}
		streams := 0
		g := newGuard(t, breaker.Config{}, WithKey(oneKey),
			WithClassifier(func(ctx context.Context, r Result) breaker.Outcome {
				order = append(order, "guard")
				return DefaultClassifier(ctx, r)
			}))
		opts := append([]grpc.DialOption{
			grpc.WithUnaryInterceptor(note("single")),
			grpc.WithChainUnaryInterceptor(note("before")),
		}, g.DialOptions()...)
		opts = append(opts, grpc.WithChainUnaryInterceptor(note("after")),
			grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string,
				streamer grpc.Streamer, opts ...grpc.CallOption,
			) (grpc.ClientStream, error) {
				streams++
				return streamer(ctx, desc, cc, method, opts...)
			}))
		client := testpb.NewTestClient(testpb.Bufconn(t, new(testpb.Server), opts...))
		if _, err := client.Unary(t.Context(), &testpb.Request{}); err != nil {
			t.Fatal(err)
		}
		if got, want := strings.Join(order, " "), "single before after guard"; got != want {
			t.Errorf("interceptors ran as %q, want %q", got, want)
		}
		s, err := client.ServerStream(t.Context(), &testpb.Request{})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = s.Recv()
		if streams != 1 {
			t.Errorf("the user's stream interceptor ran %d times, want 1", streams)
		}
		wantTally(t, "a unary call and a stream", g, tally{Success: 2})
	})
}
