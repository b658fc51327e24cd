package interceptor

import (
	"context"
	"errors"
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

// ways are the ways that a call may take through Guard.Unary: each but the first asks grpc for more than the caller did.
var ways = []struct {
	name    string
	opts    []Option
	prepare func(*Guard)
	added   int // call options beyond the caller's, at most
}{
	{name: "closed"},
	{name: "closed, classifier", opts: []Option{WithClassifier(DefaultClassifier)}},
	{name: "closed, evidence", opts: []Option{WithPeerEvidence()}, added: 2},
	{name: "in doubt", prepare: func(g *Guard) {
		p, _ := g.Group().Get(methodKey).Acquire(context.Background())
		p.Done(context.Background(), breaker.Failure)
	}, added: 1},
	{name: "probe", prepare: func(g *Guard) {
		g.Group().Get(methodKey).Trip(context.Background(), "test")
		time.Sleep(time.Hour)
	}, added: 2},
	{name: "unguarded", opts: []Option{WithMatcher(ForMethods("/no.Such/Method"))}},
}

// passage is a test on one of the ways.
type passage struct {
	*testing.T
	*Guard
	added int
}

// through runs f once for each of the ways, in a bubble.
func through(t *testing.T, f func(t passage)) {
	t.Helper()
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := breaker.Config{OpenFor: time.Hour, MaxOpenFor: time.Hour, MaxConcurrent: 1}
				g := newGuard(t, cfg, append([]Option{WithKey(keyfunc.Method)}, way.opts...)...)
				if way.prepare != nil {
					way.prepare(g)
				}
				f(passage{t, g, way.added})
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
	for _, want := range []error{nil, down, errors.New("no status"), &RejectedError{RejectedError: new(breaker.RejectedError)}} {
		through(t, func(t passage) {
			ctx := context.WithValue(t.Context(), ctxKey{}, 1)
			req, reply := new(int), new(string)
			opts := []grpc.CallOption{grpc.WaitForReady(true), Tag(""), grpc.StaticMethod()}
			runs := 0
			err := t.Unary(ctx, fullMethod, req, reply, cc, func(
				gotCtx context.Context, gotMethod string, gotReq, gotReply any, gotCC *grpc.ClientConn, gotOpts ...grpc.CallOption,
			) error {
				runs++
				if gotCtx != ctx || gotMethod != fullMethod || gotReq != any(req) || gotReply != any(reply) || gotCC != cc {
					t.Errorf("the invoker got %v %q %v %v %v, want what the caller gave", gotCtx, gotMethod, gotReq, gotReply, gotCC)
				}
				if n := len(gotOpts) - len(opts); n < 0 || n > t.added || !slices.Equal(gotOpts[:len(opts)], opts) {
					t.Errorf("the invoker got options %v, want the caller's %v and at most %d more", gotOpts, opts, t.added)
				}
				return want
			}, opts...)
			if err != want { //nolint:errorlint // untouched means the very same
				t.Errorf("the caller got %v, want %v", err, want)
			}
			if runs != 1 {
				t.Errorf("the invoker ran %d times, want 1", runs)
			}
		})
	}
}

func TestG01_PanicSettlesAndGoesOn(t *testing.T) {
	through(t, func(t passage) {
		before := snapshots(t.Guard)
		value := &struct{ int }{1}
		func() {
			defer func() {
				if got := recover(); got != any(value) {
					t.Errorf("the panic came out as %v, want %v", got, value)
				}
			}()
			_ = t.Unary(t.Context(), fullMethod, nil, nil, nil, func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
				panic(value)
			})
		}()
		wantOneFailureMore(t, before)
	})
}

func TestG01_GoexitSettlesAndGoesOn(t *testing.T) {
	through(t, func(t passage) {
		before := snapshots(t.Guard)
		var wg sync.WaitGroup
		returned := false
		wg.Go(func() {
			_ = t.Unary(t.Context(), fullMethod, nil, nil, nil, func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
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

// snapshots is the one breaker's Snapshot, or that of none where the call goes unguarded.
func snapshots(g *Guard) (s breaker.Snapshot) {
	for _, b := range g.Group().All() {
		s = b.Snapshot()
	}
	return s
}

func wantOneFailureMore(t passage, before breaker.Snapshot) {
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

// T21: the caller's slice may be shared, and have room behind its end. Others may be using that room.
func TestG01_OptionsAreNeverAppendedInPlaceConcurrentSafe(t *testing.T) {
	through(t, func(t passage) {
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

// B24: a call whose context is done is grpc's business. Here it is even one that a breaker would reject.
func TestB24_ContextThatIsDoneGoesStraightToTheInvoker(t *testing.T) {
	through(t, func(t passage) {
		t.Group().Get(methodKey).Trip(t.Context(), "test")
		before := snapshots(t.Guard)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		c := &calls{guard: t.Guard}
		own := status.Error(codes.Canceled, "context canceled, says grpc")
		if err := c.call(ctx, own); err != own { //nolint:errorlint // untouched
			t.Errorf("got %v, want what the invoker says", err)
		}
		if c.runs != 1 {
			t.Errorf("the invoker ran %d times, want 1", c.runs)
		}
		if after := snapshots(t.Guard); after.Admitted != before.Admitted || after.Rejections.Total() != 0 {
			t.Errorf("%d admitted, %d rejected; want none", after.Admitted-before.Admitted, after.Rejections.Total())
		}
	})
}
