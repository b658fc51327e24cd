package interceptor

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// newGuard returns a guard with a new group. By default it has no jitter, so that a test knows the open period to the
// nanosecond. It also has no FailingFor, so that the failure that completes a rule opens the breaker at once: these
// tests are about what counts as a failure.
func newGuard(tb testing.TB, cfg breaker.Config, opts ...Option) *Guard {
	tb.Helper()
	if cfg.Jitter == 0 {
		cfg.Jitter = -1
	}
	if cfg.FailingFor == 0 {
		cfg.FailingFor = -1
	}
	group, err := breaker.NewGroup(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	g, err := New(group, opts...)
	if err != nil {
		tb.Fatal(err)
	}
	return g
}

// onlyBreaker returns the breaker of the guard's group. It fails the test if there is not exactly one.
func onlyBreaker(tb testing.TB, g *Guard) *breaker.Breaker {
	tb.Helper()
	if n := g.Group().Len(); n != 1 {
		tb.Fatalf("the group has %d breakers, want 1", n)
	}
	for _, b := range g.Group().All() {
		return b
	}
	panic("unreachable")
}

// tally holds the counts of a Snapshot in a short form for tables. A test that leaves a field out wants it to be 0.
type tally struct {
	Success, Failure, Overload, Ignored, Late, InFlight uint64
	Rejected, Served, NotServed                         uint64
}

func tallyOf(s breaker.Snapshot) tally {
	return tally{
		Success: s.Successes, Failure: s.Failures, Overload: s.Overloads, Ignored: s.Ignored, Late: s.Late,
		InFlight: s.InFlight, Rejected: s.Rejections.Total(), Served: s.Fallbacks.Served, NotServed: s.Fallbacks.Failed,
	}
}

// wantTally compares all that the guard's only breaker has counted with want.
func wantTally(tb testing.TB, what string, g *Guard, want tally) {
	tb.Helper()
	if diff := cmp.Diff(want, tallyOf(onlyBreaker(tb, g).Snapshot())); diff != "" {
		tb.Errorf("%s: counts (-want +got):\n%s", what, diff)
	}
}

// one returns the tally of a single call with outcome o.
func one(o breaker.Outcome) (t tally) {
	switch o {
	case breaker.Success:
		t.Success = 1
	case breaker.Failure:
		t.Failure = 1
	case breaker.Overload:
		t.Overload = 1
	case breaker.Ignored:
		t.Ignored = 1
	}
	return t
}

func wantState(tb testing.TB, what string, g *Guard, want breaker.State) {
	tb.Helper()
	if got := onlyBreaker(tb, g).State(); got != want {
		tb.Errorf("%s: the breaker is %v, want %v", what, got, want)
	}
}

func wantCode(tb testing.TB, what string, err error, want codes.Code) {
	tb.Helper()
	if got := status.Code(err); got != want {
		tb.Errorf("%s: got %v (%v), want %v", what, got, err, want)
	}
}

// failing returns a script whose unary methods fail with err, and whose streams fail before their first message.
func failing(err error) testpb.Script {
	return testpb.Script{
		OnUnary:        func(context.Context, *testpb.Request) (*testpb.Response, error) { return nil, err },
		OnPing:         func(context.Context, *testpb.Request) (*testpb.Response, error) { return nil, err },
		OnClientStream: func(grpc.ClientStreamingServer[testpb.Request, testpb.Response]) error { return err },
		OnServerStream: func(*testpb.Request, grpc.ServerStreamingServer[testpb.Response]) error { return err },
		OnBidi:         func(grpc.BidiStreamingServer[testpb.Request, testpb.Response]) error { return err },
	}
}

// down is the error of a backend that cannot be reached.
var down = status.Error(codes.Unavailable, "down")

// calls makes unary calls without a server.
type calls struct {
	guard *Guard
	err   error // what the invoker returns
	runs  int
}

const fullMethod = "/pkg.Service/Method"

var methodKey = breaker.Key{Service: "pkg.Service", Method: "Method"}

func (c *calls) invoke(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
	c.runs++
	return c.err
}

// call makes one call that ends with err, and returns the error that the caller gets.
func (c *calls) call(ctx context.Context, err error, opts ...grpc.CallOption) error {
	c.err = err
	return c.guard.Unary(ctx, fullMethod, nil, nil, nil, c.invoke, opts...)
}

// hooksOf returns Hooks with those methods that o has.
func hooksOf(o any) *Hooks {
	h := new(Hooks)
	if o, ok := o.(interface {
		Rejected(context.Context, *RejectedError)
	}); ok {
		h.Rejected = o.Rejected
	}
	if o, ok := o.(interface {
		FellBack(context.Context, FallbackInfo)
	}); ok {
		h.FellBack = o.FellBack
	}
	if o, ok := o.(interface {
		Transition(context.Context, breaker.Event)
	}); ok {
		h.Transition = o.Transition
	}
	if o, ok := o.(interface {
		Settled(context.Context, Settlement)
	}); ok {
		h.Settled = o.Settled
	}
	if o, ok := o.(interface {
		Probed(context.Context, Settlement)
	}); ok {
		h.Probed = o.Probed
	}
	if o, ok := o.(interface {
		Panicked(context.Context, PanicInfo)
	}); ok {
		h.Panicked = o.Panicked
	}
	return h
}

// recorder has hooks that record their arguments. It is safe for concurrent use.
type recorder struct {
	mu          sync.Mutex
	rejected    []*RejectedError
	fellBack    []FallbackInfo
	transitions []breaker.Event
}

func (r *recorder) Rejected(_ context.Context, e *RejectedError) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rejected = append(r.rejected, e)
}

func (r *recorder) FellBack(_ context.Context, f FallbackInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fellBack = append(r.fellBack, f)
}

func (r *recorder) Transition(_ context.Context, e breaker.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.transitions = append(r.transitions, e)
}

// settlements is a recorder that also records settlements.
type settlements struct {
	recorder

	settled, probed []Settlement // guarded by mu
}

func (s *settlements) Settled(_ context.Context, st Settlement) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled = append(s.settled, st)
}

func (s *settlements) Probed(_ context.Context, st Settlement) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.probed = append(s.probed, st)
}

// takes returns an invoker that returns err after d. It is for bubbles.
func takes(d time.Duration, err error) grpc.UnaryInvoker {
	return func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
		time.Sleep(d)
		return err
	}
}

// noTag is a tag function that returns no tag.
func noTag(context.Context, Call) string { return "" }
