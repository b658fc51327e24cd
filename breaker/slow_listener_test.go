package breaker

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// elapsed returns the time since the call of p began.
func elapsed(p Permit) time.Duration { return time.Duration(clock() - p.start) }

// The time that a listener takes inside Acquire is not charged to the backend. It counts neither for the slow rule nor
// for the lease of the probe.
func TestB30_ASlowListenerIsNotChargedToTheBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := New(Key{}, Config{SlowCall: 100 * ms, SuccessesToClose: 1, Jitter: -1, ProbeTimeout: time.Second},
			WithListener(func(_ context.Context, e Event) {
				if e.To == HalfOpen {
					time.Sleep(800 * ms)
				}
			}))
		if err != nil {
			t.Fatal(err)
		}
		b.Trip(t.Context(), "test")
		time.Sleep(time.Second)
		p := acquire(t, b)
		if got := elapsed(p); got != 0 {
			t.Errorf("the call began %v before Acquire returned, want 0", got)
		}
		time.Sleep(50 * ms)
		p.Done(t.Context(), Success)
		if s := b.Snapshot(); s.State != Closed || s.SlowCalls != 0 {
			t.Errorf("after a fast probe it is %v, with %d slow calls", s.State, s.SlowCalls)
		}
		// The lease begins when the listener has returned.
		b.Trip(t.Context(), "test")
		time.Sleep(time.Second)
		p = acquire(t, b)
		time.Sleep(time.Second - 1)
		if s := b.Snapshot(); s.Probes.Lost != 0 {
			t.Error("the probe was lost before its lease was over")
		}
		time.Sleep(time.Nanosecond)
		if s := b.Snapshot(); s.Probes.Lost != 1 {
			t.Error("the probe was not lost at the end of its lease")
		}
		p.Done(t.Context(), Ignored)
	})
}

// The same for a call that is not a probe. Shadow admits it while the breaker becomes half-open and a listener holds
// the slot.
func TestB30_ASlowListenerAndAnOrdinaryCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *Breaker
		b, err := New(Key{}, Config{SlowCall: 100 * ms, Jitter: -1}, WithListener(func(ctx context.Context, e Event) {
			if e.To == HalfOpen {
				p, err := b.Acquire(ctx) // no slot: an ordinary call
				if err != nil || p.IsProbe() {
					t.Errorf("probe: %v, error %v; want an ordinary call", p.IsProbe(), err)
				}
				p.Done(ctx, Ignored)
				time.Sleep(time.Second)
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
		b.Trip(t.Context(), "test")
		setOverride(t, b, Shadow, 0)
		time.Sleep(time.Second)
		p := acquire(t, b)
		if got := elapsed(p); got != 0 {
			t.Errorf("the call began %v before Acquire returned, want 0", got)
		}
		p.Done(t.Context(), Success)
	})
}

// If the context ends while a listener runs, the permit is withdrawn and nothing is counted.
func TestB24_AContextThatEndsInAListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := New(Key{}, Config{Jitter: -1, SuccessesToClose: 1}, WithListener(func(_ context.Context, e Event) {
			if e.To == HalfOpen {
				time.Sleep(time.Second)
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
		b.Trip(t.Context(), "test")
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		p, err := b.Acquire(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || p != (Permit{}) {
			t.Errorf("Acquire returned %+v, %v; want the context's error", p, err)
		}
		s := b.Snapshot()
		if s.State != HalfOpen || !s.Ready || s.Admitted != 0 || s.Rejections.Total() != 0 || s.Probes != (ProbeCounts{}) {
			t.Errorf("something was counted: %+v", s)
		}
		report(t, b, 1, Success) // the slot is free
		if b.State() != Closed {
			t.Errorf("the next probe did not close it: %v", b.State())
		}
	})
}

// If a listener takes longer than the lease, another probe has the slot. The call is then decided again.
func TestB22_AListenerThatOutlastsTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := New(Key{}, Config{Jitter: -1, ProbeTimeout: time.Second}, WithListener(func(_ context.Context, e Event) {
			if e.To == HalfOpen {
				time.Sleep(3 * time.Second)
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
		b.Trip(t.Context(), "test")
		time.Sleep(time.Second)
		var first Permit
		var firstErr error
		var done sync.WaitGroup
		done.Go(func() { first, firstErr = b.Acquire(t.Context()) })
		time.Sleep(2500 * ms) // the lease is over, the listener is not
		second := acquire(t, b)
		if !second.IsProbe() {
			t.Error("the second call is not a probe")
		}
		done.Wait()
		if e, ok := errors.AsType[*RejectedError](firstErr); !ok || e.Reason != ReasonHalfOpen {
			t.Errorf("the first call got %+v, %v; want a rejection, because another probe is in flight", first, firstErr)
		}
		if s := b.Snapshot(); s.Admitted != 1 || s.Probes.Lost != 0 || s.Rejections.HalfOpen != 1 {
			t.Errorf("%d admitted, %d lost, %d rejected; want 1, 0, 1", s.Admitted, s.Probes.Lost, s.Rejections.HalfOpen)
		}
		second.Done(t.Context(), Success)
	})
}

// A listener that exits the goroutine inside Acquire does not keep the slot taken.
func TestB30_AListenerThatExitsInAcquireTakesNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := New(Key{}, Config{Jitter: -1}, WithListener(func(_ context.Context, e Event) {
			if e.To == HalfOpen {
				runtime.Goexit()
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
		b.Trip(t.Context(), "test")
		time.Sleep(time.Second)
		var done sync.WaitGroup
		done.Go(func() { _, _ = b.Acquire(t.Context()); t.Error("Acquire returned") })
		done.Wait()
		if s := b.Snapshot(); s.State != HalfOpen || !s.Ready || s.InFlight != 0 {
			t.Errorf("%v, ready: %v, %d in flight", s.State, s.Ready, s.InFlight)
		}
	})
}

// B28: under ForceClosed, the result of a probe that was in flight before the override decides nothing.
func TestB28_ForceClosedAndAProbeInFlight(t *testing.T) {
	const due = time.Second
	for _, tt := range []struct {
		name string
		end  string
		want string // after the override
	}{
		{"it fails", "end:1=failure", "half_open"},
		{"it is an overload", "end:1=overload", "half_open"},
		{"it is slow", "end:1=success~2s", "half_open"},
		{"it is slow and canceled", "end:1=canceled~2s", "half_open"},
		{"it succeeds", "end:1=success", "half_open"},
		{"it is ignored", "end:1=ignored", "half_open"},
		{"it fails after its lease", "end:1=failure", "half_open"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var rec recorder
				cfg := Config{SuccessesToClose: 1, SlowCall: time.Second, Jitter: -1}
				b, err := New(Key{}, cfg, WithListener(rec.Transition))
				if err != nil {
					t.Fatal(err)
				}
				at := due
				if tt.name == "it fails after its lease" {
					at = time.Minute
				}
				newTimeline(t, b).run(
					row{0, "trip", "open"}, row{due, "begin:1 force_closed", "probe closed"}, row{at, tt.end, "closed"},
					row{at, "clear", tt.want},
					row{at, "success", "probe closed"},
				)
				wantSame(t, "events", rec.brief(), []string{
					"1 closed>open manual", "2 open>half_open", "3 half_open>half_open override set",
					"4 half_open>half_open override cleared", "5 half_open>closed",
				})
				wantBalance(t, "in the end", b.Snapshot())
			})
		})
	}
}

// B28: if an override is set while the custom rule runs, the result of the rule has no effect.
func TestB28_ACustomRuleUnderForceClosed(t *testing.T) {
	var b *Breaker
	b = mustNew(t, Config{}, WithTrip(func(Counts) bool {
		setOverride(t, b, ForceClosed, 0)
		return true
	}))
	report(t, b, 1, Failure)
	b.ClearOverride(t.Context())
	if s := b.Snapshot(); s.State != Closed || s.Trips.Total() != 0 {
		t.Errorf("%v after %d trips, want closed", s.State, s.Trips.Total())
	}
}

// A probe that is withdrawn frees its slot also for calls that would be rejected without the lock (gate.until).
func TestB24_AWithdrawnProbeFreesItsSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := New(Key{}, Config{Jitter: -1}, WithListener(func(_ context.Context, e Event) {
			if e.To == HalfOpen {
				time.Sleep(2 * time.Second)
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
		b.Trip(t.Context(), "test")
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var done sync.WaitGroup
		done.Go(func() { _, _ = b.Acquire(ctx) })
		time.Sleep(time.Second)
		if e := mustReject(t, b); e.Reason != ReasonHalfOpen {
			t.Errorf("rejected with %v", e)
		}
		done.Wait()
		if p := acquire(t, b); !p.IsProbe() {
			t.Error("the call after the withdrawal is not a probe")
		}
	})
}

// If hung probes delay the next one, a withdrawn probe does not count as the last one.
func TestB22_B24_AWithdrawnProbeDelaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := false
		b, err := New(Key{}, Config{Jitter: -1}, WithListener(func(_ context.Context, e Event) {
			if e.To == HalfOpen && slow {
				time.Sleep(2 * time.Second)
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
		b.Trip(t.Context(), "test")
		for range 40 {
			for !b.Snapshot().Ready {
				time.Sleep(time.Second)
			}
			acquire(t, b) // never reports
		}
		b.Trip(t.Context(), "test")
		time.Sleep(2 * time.Hour)
		slow = true
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.Acquire(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Acquire returned %v", err)
		}
		if !b.Snapshot().Ready {
			t.Error("the next probe is delayed by one that was withdrawn")
		}
	})
}
