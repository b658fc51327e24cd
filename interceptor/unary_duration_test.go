package interceptor

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// slowUserCode is the time that each function of the user takes in these tests. It is longer than SlowCall.
const slowUserCode = 3 * time.Second

// slowHooks has hooks that are slow.
type slowHooks struct{ settlements }

func (s *slowHooks) Rejected(ctx context.Context, e *RejectedError) {
	time.Sleep(slowUserCode)
	s.settlements.Rejected(ctx, e)
}

func (s *slowHooks) Transition(ctx context.Context, e breaker.Event) {
	time.Sleep(slowUserCode)
	s.settlements.Transition(ctx, e)
}

func (s *slowHooks) Settled(ctx context.Context, st Settlement) {
	time.Sleep(slowUserCode)
	s.settlements.Settled(ctx, st)
}

func (s *slowHooks) Probed(ctx context.Context, st Settlement) {
	time.Sleep(slowUserCode)
	s.settlements.Probed(ctx, st)
}

// slowError is an error whose GRPCStatus method is slow.
type slowError struct{}

func (slowError) Error() string { return "slow" }

func (slowError) GRPCStatus() *status.Status {
	time.Sleep(slowUserCode)
	return status.New(codes.Unavailable, "slow")
}

// B6: neither the slow rule nor the durations that hooks get include the time of user code that the guard runs.
func TestB06_DurationsExcludeUserCode(t *testing.T) {
	slowClassifier := WithClassifier(func(ctx context.Context, r Result) breaker.Outcome {
		time.Sleep(slowUserCode)
		return DefaultClassifier(ctx, r)
	})
	slowKey := WithKey(func(ctx context.Context, c keyfunc.Call) breaker.Key {
		time.Sleep(slowUserCode)
		return keyfunc.TargetMethod(ctx, c)
	})
	for name, opts := range map[string][]Option{
		"nothing":              nil,
		"key function":         {slowKey},
		"classifier":           {slowClassifier},
		"classifier, evidence": {slowClassifier, WithPeerEvidence()},
		"hooks":                {WithHooks(hooksOf(new(slowHooks)))},
		"hooks and classifier": {WithHooks(hooksOf(new(slowHooks))), slowClassifier},
		"all of them, min budget": {
			slowKey, WithHooks(hooksOf(new(slowHooks))), slowClassifier,
			WithMinBudget(time.Millisecond),
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			const slow = 2 * time.Second
			rec := new(settlements)
			g := newGuard(t, breaker.Config{
				ConsecutiveFailures: 3, FailureRatio: -1, SlowCall: slow, SlowRatio: 1, MinCalls: 100,
				OpenFor: time.Second, SuccessesToClose: 1,
			}, append([]Option{WithHooks(hooksOf(rec))}, opts...)...)
			call := func(d time.Duration, err error) {
				_ = g.Unary(t.Context(), fullMethod, nil, nil, nil, takes(d, err))
			}
			slowCalls := func(what string, want uint64) {
				t.Helper()
				if got := onlyBreaker(t, g).Snapshot().SlowCalls; got != want {
					t.Errorf("%s, %s: %d slow calls, want %d", name, what, got, want)
				}
			}
			call(0, nil)
			call(slow, nil)
			call(0, down)
			call(0, slowError{})
			slowCalls("fast calls", 0)
			call(slow+1, nil)
			slowCalls("a slow success", 1)
			call(0, down)
			call(0, slowError{})
			call(slow+1, down) // opens
			slowCalls("a slow failure", 2)
			wantState(t, name+", after three failures", g, breaker.Open)

			time.Sleep(time.Second)
			call(slow, nil) // a probe that is admitted after a slow listener
			wantState(t, name+", after a probe that was not slow", g, breaker.Closed)
			slowCalls("a probe that was not slow", 2)
			onlyBreaker(t, g).Trip(t.Context(), "test")
			time.Sleep(time.Second)
			call(slow+1, nil)
			wantState(t, name+", after a slow probe", g, breaker.Open)
			slowCalls("a slow probe", 3)

			var got []time.Duration
			for _, s := range rec.settled {
				got = append(got, s.Duration)
			}
			want := []time.Duration{0, slow, 0, 0, slow + 1, 0, 0, slow + 1, slow, slow + 1}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: durations of Settled (-want +got):\n%s", name, diff)
			}
			got = nil
			for _, s := range rec.probed {
				got = append(got, s.Duration)
			}
			if diff := cmp.Diff([]time.Duration{slow, slow + 1}, got); diff != "" {
				t.Errorf("%s: durations of probes (-want +got):\n%s", name, diff)
			}
		})
	}
}

// The same for a guard with only the hook Probed, and for one without hooks.
func TestB06_DurationsExcludeUserCodeWithoutHooks(t *testing.T) {
	for _, watch := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			const slow = 2 * time.Second
			rec := new(probeWatcher)
			opts := []Option{WithClassifier(func(ctx context.Context, r Result) breaker.Outcome {
				time.Sleep(slowUserCode)
				return DefaultClassifier(ctx, r)
			})}
			if watch {
				opts = append(opts, WithHooks(hooksOf(rec)))
			}
			cfg := breaker.Config{ConsecutiveFailures: -1, SlowCall: slow, MinCalls: 100, SuccessesToClose: 1}
			g := newGuard(t, cfg, opts...)
			halfOpen(t, g, methodKey)
			for _, err := range []error{nil, nil, down, status.Error(codes.Canceled, "")} { // the first is a probe
				_ = g.Unary(t.Context(), fullMethod, nil, nil, nil, takes(slow, err))
			}
			wantState(t, "after calls that were not slow", g, breaker.Closed)
			wantTally(t, "after calls that were not slow", g, tally{Success: 2, Failure: 1, Ignored: 1})
			if got := onlyBreaker(t, g).Snapshot().SlowCalls; got != 0 {
				t.Errorf("%d slow calls, want 0", got)
			}
			if watch && (len(rec.probed) != 1 || rec.probed[0].Duration != slow) {
				t.Errorf("probes: got %+v, want one of %v", rec.probed, slow)
			}
		})
	}
}

// canceler has a hook Transition that ends the context of the next call.
type canceler struct {
	noopHooks
	cancel context.CancelFunc
}

func (c *canceler) Transition(_ context.Context, e breaker.Event) {
	if e.To == breaker.HalfOpen {
		c.cancel()
	}
}

// B24: the context of a call may end while its Acquire calls listeners with the transition to half-open. The guard
// passes such a call to grpc, which ends it with its own status. It counts nowhere, and the next call is the probe.
func TestB24_ContextEndsWhileListenersRun(t *testing.T) {
	for name, use := range map[string]func(*scene, context.Context) error{
		"unary": func(s *scene, ctx context.Context) error {
			_, err := s.client.Unary(ctx, &testpb.Request{})
			return err
		},
		"stream": func(s *scene, ctx context.Context) error {
			stream, err := s.client.ServerStream(ctx, &testpb.Request{Count: 1})
			if err == nil {
				_, err = drain(stream)
			}
			return err
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			rec := new(canceler)
			g := newGuard(t, breaker.Config{SuccessesToClose: 1}, WithKey(oneKey), WithHooks(hooksOf(rec)))
			s := newScene(t, g, "")
			b := halfOpen(t, g, breaker.Key{})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			rec.cancel = cancel
			wantCode(t, name, use(s, ctx), codes.Canceled)
			wantState(t, name, g, breaker.HalfOpen)
			wantTally(t, name, g, tally{})
			wantProbeCounts(t, name, g, breaker.ProbeCounts{})
			if !b.Snapshot().Ready {
				t.Errorf("%s: the slot of the call is still taken", name)
			}
			if err := use(s, t.Context()); err != nil {
				t.Errorf("%s: the next call: %v", name, err)
			}
			wantState(t, name+", after the next call", g, breaker.Closed)
		})
	}
}
