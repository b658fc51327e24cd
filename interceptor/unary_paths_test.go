package interceptor

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// ways are the paths of a call through Guard.Unary. An invoker that is not grpc's own counts as an interceptor between
// the guard and grpc. So the guard adds options for header, trailer and peer only with WithPeerEvidence (G5).
var paths = []struct {
	name    string
	opts    []Option
	prepare func(*Guard)
	added   []grpc.CallOption // the types of the call options beyond the caller's
}{
	{name: "closed"},
	{name: "closed, classifier", opts: []Option{WithClassifier(DefaultClassifier)}},
	{name: "closed, evidence", opts: []Option{WithPeerEvidence()}, added: evidenceOptions},
	{name: "in doubt", prepare: func(g *Guard) { haveOutcomes(g, breaker.Failure) }},
	{name: "in doubt by a local error", prepare: func(g *Guard) { haveOutcomes(g, breaker.Ignored) }},
	{name: "troubled", prepare: func(g *Guard) { haveOutcomes(g, breaker.Failure, breaker.Success) }},
	{
		name: "in doubt, evidence", opts: []Option{WithPeerEvidence()}, added: evidenceOptions,
		prepare: func(g *Guard) { haveOutcomes(g, breaker.Failure) },
	},
	{name: "probe", prepare: makeProbe, added: []grpc.CallOption{new(guardMark)}},
	{
		name: "probe, evidence", opts: []Option{WithPeerEvidence()}, prepare: makeProbe,
		added: append(slices.Clip(evidenceOptions), new(guardMark)),
	},
	{name: "unguarded", opts: []Option{WithMatcher(ForMethods("/no.Such/Method"))}},
}

var evidenceOptions = []grpc.CallOption{grpc.PeerCallOption{}, grpc.HeaderCallOption{}, grpc.TrailerCallOption{}}

// haveOutcomes makes calls of methodKey end with these outcomes.
func haveOutcomes(g *Guard, outcomes ...breaker.Outcome) {
	for _, o := range outcomes {
		p, _ := g.Group().Get(methodKey).Acquire(context.Background())
		p.Done(context.Background(), o)
	}
}

// makeProbe makes the next call of methodKey a probe. It must run in a bubble.
func makeProbe(g *Guard) {
	b := g.Group().Get(methodKey)
	b.Trip(context.Background(), "test")
	time.Sleep(b.Snapshot().RetryAfter)
}

// typesOf returns the types of opts, sorted.
func typesOf(opts []grpc.CallOption) []string {
	var types []string
	for _, o := range opts {
		types = append(types, fmt.Sprintf("%T", o))
	}
	slices.Sort(types)
	return types
}

// passage is a test on one of the ways.
type pathTest struct {
	*testing.T
	*Guard
	added []grpc.CallOption
}

// through runs f once for each of the ways, in a bubble.
func onEachPath(t *testing.T, f func(t pathTest)) {
	t.Helper()
	for _, way := range paths {
		t.Run(way.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := breaker.Config{OpenFor: time.Hour, MaxOpenFor: time.Hour, MaxConcurrent: 1}
				g := newGuard(t, cfg, append([]Option{WithKey(keyfunc.Method)}, way.opts...)...)
				if way.prepare != nil {
					way.prepare(g)
				}
				f(pathTest{t, g, way.added})
			})
		})
	}
}

type ctxKey struct{}

func TestG01_ArgumentsAndErrorAreUntouched(t *testing.T) {
	cc, err := grpc.NewClient("passthrough:///nowhere", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	for _, want := range []error{
		nil, down, errors.New("no status"),
		&RejectedError{RejectedError: new(breaker.RejectedError)},
	} {
		onEachPath(t, func(t pathTest) {
			ctx := context.WithValue(t.Context(), ctxKey{}, 1)
			req, reply := new(int), new(string)
			opts := []grpc.CallOption{grpc.WaitForReady(true), Tag(""), grpc.StaticMethod()}
			runs := 0
			err := t.Unary(ctx, fullMethod, req, reply, cc, func(
				gotCtx context.Context, gotMethod string, gotReq, gotReply any, gotCC *grpc.ClientConn, gotOpts ...grpc.CallOption,
			) error {
				runs++
				if gotCtx != ctx || gotMethod != fullMethod || gotReq != any(req) || gotReply != any(reply) || gotCC != cc {
					t.Errorf("the invoker got %v %q %v %v %v, want those of the caller", gotCtx, gotMethod, gotReq, gotReply, gotCC)
				}
				if n := len(opts); len(gotOpts) < n || !slices.Equal(gotOpts[:n], opts) {
					t.Errorf("the invoker got options %v, want the caller's %v first", gotOpts, opts)
				} else if got, want := typesOf(gotOpts[n:]), typesOf(t.added); !slices.Equal(got, want) {
					t.Errorf("the invoker got %v beyond the caller's options, want %v", got, want)
				}
				return want
			}, opts...)
			if err != want { //nolint:errorlint // the same value
				t.Errorf("the caller got %v, want %v", err, want)
			}
			if runs != 1 {
				t.Errorf("the invoker ran %d times, want 1", runs)
			}
		})
	}
}

// G5: a slice of options that the guard passes on has no spare capacity. So an interceptor cannot write into memory
// that the caller's next call uses too.
func TestG05_OptionsHaveNoSpareCapacity(t *testing.T) {
	for _, way := range paths {
		if way.name == "unguarded" {
			continue // the call is not guarded
		}
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(t, breaker.Config{}, append([]Option{WithKey(keyfunc.Method)}, way.opts...)...)
			if way.prepare != nil {
				way.prepare(g)
			}
			opts := append(make([]grpc.CallOption, 0, 8), grpc.WaitForReady(true))
			var got []grpc.CallOption
			_ = g.Unary(t.Context(), fullMethod, nil, nil, nil, func(
				_ context.Context, _ string, _, _ any, _ *grpc.ClientConn, opts ...grpc.CallOption,
			) error {
				got = opts
				return nil
			}, opts...)
			if cap(got) != len(got) {
				t.Errorf("%s: the invoker got %d options and room for %d more, want none", way.name, len(got), cap(got)-len(got))
			}
		})
	}
}

func TestG01_PanicSettlesAndGoesOn(t *testing.T) {
	onEachPath(t, func(t pathTest) {
		before := snapshots(t.Guard)
		value := &struct{ int }{1}
		func() {
			defer func() {
				if got := recover(); got != any(value) {
					t.Errorf("the panic has the value %v, want %v", got, value)
				}
			}()
			_ = t.Unary(t.Context(), fullMethod, nil, nil, nil,
				func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
					panic(value)
				})
		}()
		wantOneFailureMore(t, before)
	})
}

func TestG01_GoexitSettlesAndGoesOn(t *testing.T) {
	onEachPath(t, func(t pathTest) {
		before := snapshots(t.Guard)
		var wg sync.WaitGroup
		returned := false
		wg.Go(func() {
			_ = t.Unary(t.Context(), fullMethod, nil, nil, nil,
				func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
					runtime.Goexit()
					return nil
				})
			returned = true
		})
		wg.Wait()
		if returned {
			t.Error("the goroutine went on")
		}
		wantOneFailureMore(t, before)
	})
}

// snapshots returns the Snapshot of the only breaker, or a zero one if there is none.
func snapshots(g *Guard) (s breaker.Snapshot) {
	for _, b := range g.Group().All() {
		s = b.Snapshot()
	}
	return s
}

func wantOneFailureMore(t pathTest, before breaker.Snapshot) {
	t.Helper()
	after := snapshots(t.Guard)
	want := uint64(1)
	if t.Group().Len() == 0 {
		want = 0
	}
	if got := after.Failures - before.Failures; got != want {
		t.Errorf("%d failures, want %d", got, want)
	}
	if after.InFlight != 0 || after.Admitted-before.Admitted != want {
		t.Errorf("%d admitted and %d in flight, want %d and 0", after.Admitted-before.Admitted, after.InFlight, want)
	}
}

// G1: the caller's slice may be shared, and have spare capacity that others use.
func TestG01_OptionsAreNeverAppendedInPlaceConcurrentSafe(t *testing.T) {
	onEachPath(t, func(t pathTest) {
		backing := make([]grpc.CallOption, 8)
		shared := backing[:1]
		shared[0] = grpc.WaitForReady(true)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 20 {
					_ = t.Unary(t.Context(), fullMethod, nil, nil, nil, returnsAtOnce, shared...)
				}
			})
		}
		wg.Wait()
		for i, o := range backing[1:] {
			if o != nil {
				t.Errorf("place %d behind the caller's options now holds %T", i, o)
			}
		}
	})
}

// B24: the guard passes a call whose context is done to grpc. Here the breaker would even reject it.
func TestB24_DoneContextGoesToTheInvoker(t *testing.T) {
	onEachPath(t, func(t pathTest) {
		t.Group().Get(methodKey).Trip(t.Context(), "test")
		before := snapshots(t.Guard)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		c := &calls{guard: t.Guard}
		own := status.Error(codes.Canceled, "context canceled")
		if err := c.call(ctx, own); err != own { //nolint:errorlint // the same value
			t.Errorf("got %v, want the error of the invoker", err)
		}
		if c.runs != 1 {
			t.Errorf("the invoker ran %d times, want 1", c.runs)
		}
		if after := snapshots(t.Guard); after.Admitted != before.Admitted || after.Rejections.Total() != 0 {
			t.Errorf("%d admitted, %d rejected; want none", after.Admitted-before.Admitted, after.Rejections.Total())
		}
	})
}
