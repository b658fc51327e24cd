package interceptor

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// lateTimer is a context whose deadline may have passed although it is not done yet, because its timer has not run.
type lateTimer struct {
	context.Context
	deadline time.Time
}

func (l lateTimer) Deadline() (time.Time, bool) { return l.deadline, true }

func TestG04_BudgetSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		expired, cancel := context.WithDeadline(t.Context(), now)
		defer cancel()
		live, cancel := context.WithDeadline(t.Context(), now.Add(1))
		defer cancel()
		for _, tt := range []struct {
			name string
			ctx  context.Context
			want bool
		}{
			{"no deadline", t.Context(), false},
			{"canceled", canceled, true},
			{"expired", expired, true},
			{"a nanosecond before", live, false},
			{"at the deadline, not done yet", lateTimer{t.Context(), now}, true},
			{"after the deadline, not done yet", lateTimer{t.Context(), now.Add(-1)}, true},
			{"before the deadline", lateTimer{t.Context(), now.Add(1)}, false},
		} {
			if got := BudgetSpent(tt.ctx); got != tt.want {
				t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
			}
		}
	})
}

// This test uses real time and a real race. If callers reach their deadlines at the same time, the peer's reset arrives
// before the local timer for some of them, and ctx.Err() is still nil. Half of the callers have WithMinBudget.
func TestG04_BudgetIsSpentForAllInParallelConcurrentSafe(t *testing.T) {
	const (
		callers = 16
		rounds  = 10
		budget  = 20 * time.Millisecond
	)
	srv := new(testpb.Server)
	srv.Set(silent)
	backend := testpb.StartBufconn(t, srv)
	for _, tt := range []struct {
		name string
		opts []Option
		want func(n uint64) tally
	}{
		{"default", nil, func(n uint64) tally { return tally{Failure: n} }},
		{"WithMinBudget", []Option{WithMinBudget(time.Second)}, func(n uint64) tally { return tally{Ignored: n} }},
	} {
		var classified, spent, undone atomic.Int32
		classify := WithClassifier(func(ctx context.Context, r Result) breaker.Outcome {
			if r.Code != codes.DeadlineExceeded {
				t.Errorf("%s: a call ended with %v", tt.name, r.Err)
			}
			classified.Add(1)
			if ctx.Err() == nil {
				undone.Add(1)
			}
			if BudgetSpent(ctx) {
				spent.Add(1)
			}
			return DefaultClassifier(ctx, r)
		})
		g := newGuard(t, breaker.Config{ConsecutiveFailures: -1, FailureRatio: -1}, append(tt.opts, classify)...)
		client := testpb.NewTestClient(backend.Dial(t, g.DialOptions()...))
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				// On an overloaded machine a deadline may pass before the call begins. The classifier is then not called
				// (B24), so such a machine makes more calls.
				for i := 0; i < rounds || i < 50*rounds && classified.Load() < callers*rounds/2; i++ {
					ctx, cancel := context.WithTimeout(t.Context(), budget)
					_, _ = client.Unary(ctx, &testpb.Request{})
					cancel()
				}
			})
		}
		wg.Wait()
		n := classified.Load()
		if n < callers*rounds/2 {
			t.Errorf("%s: only %d calls were classified, want %d or more", tt.name, n, callers*rounds/2)
		}
		if got := spent.Load(); got != n {
			t.Errorf("%s: the budget was spent in %d of %d calls, want all", tt.name, got, n)
		}
		t.Logf("%s: in %d of %d calls ctx.Err() was still nil", tt.name, undone.Load(), n)
		wantTally(t, tt.name, g, tt.want(uint64(n)))
	}
}

// A single call for which the backend returns DeadlineExceeded, and whose deadline has passed although ctx is not done.
func TestG04_MinBudget(t *testing.T) {
	deadline := status.Error(codes.DeadlineExceeded, "context deadline exceeded")
	for _, tt := range []struct {
		name   string
		min    time.Duration // 0: no option
		budget time.Duration // 0: no deadline
		takes  time.Duration
		err    error
		want   breaker.Outcome
	}{
		{"off", 0, time.Millisecond, time.Millisecond, deadline, breaker.Failure},
		{"short, spent", 50 * time.Millisecond, 49 * time.Millisecond, 49 * time.Millisecond, deadline, breaker.Ignored},
		{"a nanosecond short, spent", 50 * time.Millisecond, 50*time.Millisecond - 1, time.Second, deadline, breaker.Ignored},
		{"just enough, spent", 50 * time.Millisecond, 50 * time.Millisecond, time.Second, deadline, breaker.Failure},
		// The backend, or a timeout between, ended the call before the caller's deadline. That is a failure of the backend.
		{"short, not spent", 50 * time.Millisecond, 49 * time.Millisecond, 48 * time.Millisecond, deadline, breaker.Failure},
		{"no deadline", 50 * time.Millisecond, 0, time.Hour, deadline, breaker.Failure},
		{"short, spent, another failure", 50 * time.Millisecond, 49 * time.Millisecond, time.Second, down, breaker.Failure},
		{"short, spent, success", 50 * time.Millisecond, 49 * time.Millisecond, time.Second, nil, breaker.Success},
		{
			"short, context error", 50 * time.Millisecond, 49 * time.Millisecond, time.Second, context.DeadlineExceeded,
			breaker.Ignored,
		},
	} {
		for _, evidence := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				var opts []Option
				if tt.min > 0 {
					opts = append(opts, WithMinBudget(tt.min))
				}
				if evidence {
					opts = append(opts, WithPeerEvidence())
				}
				g := newGuard(t, breaker.Config{}, opts...)
				ctx := t.Context()
				if tt.budget > 0 {
					ctx = lateTimer{ctx, time.Now().Add(tt.budget)}
				}
				_ = g.Unary(ctx, fullMethod, nil, nil, nil, takes(tt.takes, tt.err))
				wantTally(t, tt.name, g, one(tt.want))
			})
		}
	}
}

// ShortBudget is set for a custom classifier too. Without the option it is false, even if the deadline had passed when
// the call began and the guard has read the clock then.
func TestG04_ShortBudgetInTheResult(t *testing.T) {
	for _, tt := range []struct {
		opts   []Option
		budget time.Duration
		want   bool
	}{
		{nil, time.Second, false},
		{nil, 1, false},
		{[]Option{WithHooks(hooksOf(noopCallHooks{}))}, time.Second, false},
		{[]Option{WithMinBudget(time.Minute)}, time.Second, true},
		{[]Option{WithMinBudget(time.Minute)}, 1, true},
		{[]Option{WithMinBudget(time.Minute)}, time.Minute, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			var got Result
			classify := WithClassifier(func(_ context.Context, r Result) breaker.Outcome {
				got = r
				return breaker.Ignored
			})
			g := newGuard(t, breaker.Config{}, append(tt.opts, classify)...)
			_ = (&calls{guard: g}).call(lateTimer{t.Context(), time.Now().Add(tt.budget)}, down)
			if got.ShortBudget != tt.want {
				t.Errorf("%d options, budget %v: ShortBudget is %v, want %v", len(tt.opts), tt.budget, got.ShortBudget, tt.want)
			}
		})
	}
}
