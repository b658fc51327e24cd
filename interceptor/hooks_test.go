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
)

// The Settlements of the hook Settled, to the nanosecond.
func TestSettled(t *testing.T) {
	for _, cfg := range []breaker.Config{{}, {SlowCall: time.Hour}, {MaxConcurrent: 9}} {
		for _, opts := range [][]Option{nil, {WithPeerEvidence()}, {WithMinBudget(time.Second)}} {
			synctest.Test(t, func(t *testing.T) {
				rec := new(settlements)
				cfg.ConsecutiveFailures, cfg.OpenFor, cfg.SuccessesToClose = 2, time.Second, 1
				g := newGuard(t, cfg, append(opts, WithHooks(hooksOf(rec)))...)
				call := func(d time.Duration, err error) {
					_ = g.Unary(t.Context(), fullMethod, nil, nil, nil, takes(d, err))
				}
				call(time.Millisecond, nil)
				call(0, nil)
				call(2*time.Second, status.Error(codes.ResourceExhausted, "busy"))
				call(3*time.Millisecond, down)
				call(4*time.Millisecond, status.Error(codes.Canceled, ""))
				call(5*time.Millisecond, status.Error(codes.DataLoss, "")) // opens
				call(time.Hour, nil)                                       // rejected
				time.Sleep(time.Second)
				call(6*time.Millisecond, down) // probe
				time.Sleep(time.Hour)
				call(7*time.Millisecond, nil) // probe
				call(8*time.Millisecond, status.Error(codes.NotFound, ""))

				want := []Settlement{
					{Key: methodKey, Outcome: breaker.Success, Code: codes.OK, Duration: time.Millisecond},
					{Key: methodKey, Outcome: breaker.Success, Code: codes.OK},
					{Key: methodKey, Outcome: breaker.Overload, Code: codes.ResourceExhausted, Duration: 2 * time.Second},
					{Key: methodKey, Outcome: breaker.Failure, Code: codes.Unavailable, Duration: 3 * time.Millisecond},
					{Key: methodKey, Outcome: breaker.Ignored, Code: codes.Canceled, Duration: 4 * time.Millisecond},
					{Key: methodKey, Outcome: breaker.Failure, Code: codes.DataLoss, Duration: 5 * time.Millisecond},
					{Key: methodKey, Outcome: breaker.Failure, Code: codes.Unavailable, Duration: 6 * time.Millisecond, Probe: true},
					{Key: methodKey, Outcome: breaker.Success, Code: codes.OK, Duration: 7 * time.Millisecond, Probe: true},
					{Key: methodKey, Outcome: breaker.Success, Code: codes.NotFound, Duration: 8 * time.Millisecond},
				}
				if diff := cmp.Diff(want, rec.settled); diff != "" {
					t.Errorf("Settled (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(want[6:8], rec.probed); diff != "" {
					t.Errorf("Probed (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// probeWatcher has only the hook Probed.
type probeWatcher struct {
	noopHooks
	probed []Settlement
}

func (p *probeWatcher) Probed(_ context.Context, s Settlement) { p.probed = append(p.probed, s) }

func TestProbedWithoutSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := new(probeWatcher)
		g := newGuard(t, breaker.Config{OpenFor: time.Second}, WithHooks(hooksOf(rec)))
		b := g.Group().Get(methodKey)
		c := &calls{guard: g}
		_ = c.call(t.Context(), nil)
		b.Trip(t.Context(), "test")
		time.Sleep(time.Second)
		_ = g.Unary(t.Context(), fullMethod, nil, nil, nil, takes(time.Millisecond, nil))
		_ = g.Unary(t.Context(), fullMethod, nil, nil, nil, takes(2*time.Millisecond, down))
		want := []Settlement{
			{Key: methodKey, Outcome: breaker.Success, Code: codes.OK, Duration: time.Millisecond, Probe: true},
			{Key: methodKey, Outcome: breaker.Failure, Code: codes.Unavailable, Duration: 2 * time.Millisecond, Probe: true},
		}
		if diff := cmp.Diff(want, rec.probed); diff != "" {
			t.Errorf("Probed (-want +got):\n%s", diff)
		}
		// Without Settled, the guard does not read the clock at the start of each call.
		if !g.plain {
			t.Error("the hook Probed adds work to calls of a closed breaker")
		}
	})
}

// Hooks get the context of the call that caused them. Transition is called once for each Hooks, however many guards of
// the group have them.
func TestTransitionIsCalledOnce(t *testing.T) {
	group, err := breaker.NewGroup(breaker.Config{ConsecutiveFailures: 1, OpenFor: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.WithValue(t.Context(), ctxKey{}, "the call's")
	rec := &contexts{}
	other := new(recorder)
	hooks := hooksOf(rec)
	one, err := New(group, WithHooks(hooks), WithHooks(hooksOf(other)))
	if err != nil {
		t.Fatal(err)
	}
	two, err := New(group, WithHooks(hooks))
	if err != nil {
		t.Fatal(err)
	}
	_ = (&calls{guard: one}).call(ctx, down)
	_ = (&calls{guard: two}).call(ctx, nil)
	_ = (&calls{guard: one}).call(ctx, nil)
	want := []string{"Transition", "Settled", "Rejected", "Rejected"}
	if diff := cmp.Diff(want, rec.with[ctx]); diff != "" || len(rec.with) != 1 {
		t.Errorf("hooks with the context of the call (-want +got), in %d contexts:\n%s", len(rec.with), diff)
	}
	if len(other.transitions) != 1 || len(other.rejected) != 1 {
		t.Errorf("the other hooks got %+v", other)
	}
}

// Hooks are read when New is called, so a program may change them afterwards, for its next guard.
func TestHooksAreReadByNew(t *testing.T) {
	group, err := breaker.NewGroup(breaker.Config{ConsecutiveFailures: 1})
	if err != nil {
		t.Fatal(err)
	}
	called, panicked := 0, 0
	hooks := &Hooks{
		Transition: func(context.Context, breaker.Event) { called++; panic("for the test") },
		Panicked:   func(context.Context, PanicInfo) { panicked++ },
	}
	guard, err := New(group, WithHooks(hooks))
	if err != nil {
		t.Fatal(err)
	}
	hooks.Transition, hooks.Panicked = nil, nil
	_ = (&calls{guard: guard}).call(t.Context(), down)
	if called != 1 || panicked != 1 {
		t.Errorf("Transition was called %d times and Panicked %d times, want 1", called, panicked)
	}
}

// contexts records which hooks were called with which context.
type contexts struct {
	with map[context.Context][]string
}

func (c *contexts) note(ctx context.Context, what string) {
	if c.with == nil {
		c.with = map[context.Context][]string{}
	}
	c.with[ctx] = append(c.with[ctx], what)
}

func (c *contexts) Rejected(ctx context.Context, _ *RejectedError)  { c.note(ctx, "Rejected") }
func (c *contexts) FellBack(ctx context.Context, _ FallbackInfo)    { c.note(ctx, "FellBack") }
func (c *contexts) Transition(ctx context.Context, _ breaker.Event) { c.note(ctx, "Transition") }
func (c *contexts) Settled(ctx context.Context, _ Settlement)       { c.note(ctx, "Settled") }
