package breaker

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// changes returns the difference between two snapshots of a breaker, except that of times.
func changes(before, after Snapshot) string {
	before.RetryAfter, after.RetryAfter = 0, 0
	before.NotClosed, after.NotClosed = 0, 0
	return cmp.Diff(before, after)
}

func TestB12_ARejectedCallRunsNothingAndCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := mustGroup(t, steady())
		b, other := g.Get(Key{Method: "a"}), g.Get(Key{Method: "b"})
		report(t, b, 2, Success)
		report(t, b, 5, Failure)
		otherBefore := other.Snapshot()
		for i := range uint64(3) {
			want := b.Snapshot()
			want.Rejections.Open = i + 1
			err := b.Do(t.Context(), func(context.Context) error { t.Error("a rejected call ran"); return nil })
			if !errors.Is(err, ErrRejected) {
				t.Fatalf("Do returned %v, want a rejection", err)
			}
			if diff := changes(want, b.Snapshot()); diff != "" {
				t.Errorf("rejection %d: got (+), want (-):\n%s", i, diff)
			}
		}
		if diff := changes(otherBefore, other.Snapshot()); diff != "" {
			t.Errorf("another breaker changed:\n%s", diff)
		}
		if d := mustReject(t, b); d.RetryAfter() != 5*time.Second {
			t.Errorf("after four rejections RetryAfter is %v, want 5s: rejections must not extend the open period",
				d.RetryAfter())
		}
	})
}

// Each reason has its counter, and the error has the reason.
func TestB12_EveryReasonIsCountedOnce(t *testing.T) {
	force := func(t *testing.T, b *Breaker) { t.Helper(); setOverride(t, b, ForceOpen, 0) }
	tests := []struct {
		cfg   Config
		setup func(*testing.T, *Breaker)
		state State
		want  Reason
		count ReasonCounts
	}{
		{
			Config{},
			func(t *testing.T, b *Breaker) { t.Helper(); b.Trip(t.Context(), "") }, Open, ReasonOpen,
			ReasonCounts{Open: 1},
		},
		{Config{Jitter: -1}, func(t *testing.T, b *Breaker) {
			t.Helper()
			b.Trip(t.Context(), "")
			time.Sleep(5 * time.Second)
			acquire(t, b)
		}, HalfOpen, ReasonHalfOpen, ReasonCounts{HalfOpen: 1}},
		{Config{Jitter: -1, SuccessesToClose: 1, Ramp: time.Hour}, func(t *testing.T, b *Breaker) {
			t.Helper()
			b.Trip(t.Context(), "")
			time.Sleep(5 * time.Second)
			report(t, b, 2, Success)
		}, Closed, ReasonRamp, ReasonCounts{Ramp: 1}},
		{Config{}, force, Open, ReasonForced, ReasonCounts{Forced: 1}},
		{
			Config{MaxConcurrent: 1},
			func(t *testing.T, b *Breaker) { t.Helper(); acquire(t, b) }, Closed, ReasonConcurrency,
			ReasonCounts{Concurrency: 1},
		},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			b := mustNew(t, tt.cfg)
			tt.setup(t, b)
			before := b.Snapshot()
			wantRejection(t, mustReject(t, b), tt.state, tt.want)
			want := before
			want.Rejections = tt.count
			if diff := changes(want, b.Snapshot()); diff != "" {
				t.Errorf("%v: got (+), want (-):\n%s", tt.want, diff)
			}
			if before.Ready {
				t.Errorf("%v: Snapshot.Ready was true before the rejection", tt.want)
			}
			if e := mustReject(t, b); e != mustReject(t, b) || e.Key != b.Key() {
				t.Errorf("%v: the error is not shared, or has the key %v", tt.want, e.Key)
			}
		})
	}
}

func TestB13_OpenEndsAtItsDeadline(t *testing.T) {
	const open = 5 * time.Second
	rows := func(at time.Duration, result string) []row {
		return []row{{0, "failure*5", "open"}, {0, "success", "rejected:open open"}, {at, "success", result}}
	}
	runScenarios(t, []scenario{
		{"one nanosecond before", steady(), rows(open-1, "rejected:open open")},
		{"at it", steady(), rows(open, "probe closed")},
		{"one nanosecond after", steady(), rows(open+1, "probe closed")},
		{"a century after", steady(), rows(100*365*24*time.Hour, "probe closed")},
		{"it counts from the trip, whatever calls are rejected", steady(), []row{
			{0, "failure*5", "open"},
			{open - 2, "success*100", "rejected:open*100 open"},
			{open - 1, "success*100", "rejected:open*100 open"},
			{open, "success", "probe closed"},
		}},
		{"nothing changes until a call comes", steady(), []row{
			{0, "failure*5", "open"},
			{time.Hour, "", "open"},
			{time.Hour, "failure", "probe open"},
			{time.Hour + 2*open - 1, "success", "rejected:open open"},
			{time.Hour + 2*open, "success", "probe closed"},
		}},
	})
}

// reads calls all functions that only read.
func reads(t *testing.T, g *Group, b *Breaker) {
	t.Helper()
	_ = b.State()
	_ = b.Snapshot()
	_ = b.Key()
	_ = g.Len()
	_ = g.Stats()
	_, _ = g.Lookup(b.Key())
	_ = g.Get(b.Key())
	for range g.All() {
	}
}

func TestB14_ReadsArePure(t *testing.T) {
	lease := Config{Jitter: -1, Ramp: time.Minute, ProbeTimeout: time.Second}
	tests := []struct {
		name string
		rows []row
		want Snapshot // State, Underlying, Ready and RetryAfter
	}{
		{"closed", []row{{0, "success", "closed"}}, Snapshot{Ready: true}},
		{"closed, the window over", []row{{0, "failure*4", "closed"}, {time.Hour, "", "closed"}}, Snapshot{Ready: true}},
		{
			"open",
			[]row{{0, "trip", "open"}, {5*time.Second - 1, "", "open"}},
			Snapshot{State: Open, Underlying: Open, RetryAfter: 1},
		},
		{
			"open, due",
			[]row{{0, "trip", "open"}, {5 * time.Second, "", "open"}},
			Snapshot{State: Open, Underlying: Open, Ready: true},
		},
		{
			"open, long due",
			[]row{{0, "trip", "open"}, {time.Hour, "", "open"}},
			Snapshot{State: Open, Underlying: Open, Ready: true},
		},
		{
			"half-open",
			[]row{{0, "trip", "open"}, {5 * time.Second, "begin:1", "probe half_open"}},
			Snapshot{State: HalfOpen, Underlying: HalfOpen},
		},
		{
			"half-open, the lease over",
			[]row{{0, "trip", "open"}, {5 * time.Second, "begin:1", "probe half_open"}, {6 * time.Second, "", "half_open"}},
			Snapshot{State: HalfOpen, Underlying: HalfOpen, Ready: true},
		},
		{
			"ramp over",
			[]row{{0, "trip", "open"}, {5 * time.Second, "success*2", "probe*2 closed"}, {time.Hour, "", "closed"}},
			Snapshot{Ready: true},
		},
		{
			"override over",
			[]row{{0, "trip force_closed/1s", "closed"}, {time.Second, "", "open"}},
			Snapshot{State: Open, Underlying: Open, RetryAfter: 4 * time.Second},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := mustGroup(t, lease)
				b := g.Get(Key{})
				newTimeline(t, b).run(tt.rows...)
				first := b.phase.Load()
				before := b.Snapshot()
				for range 3 {
					reads(t, g, b)
				}
				if b.phase.Load() != first {
					t.Error("a read published a new phase")
				}
				if diff := cmp.Diff(before, b.Snapshot()); diff != "" {
					t.Errorf("reads changed what is read:\n%s", diff)
				}
				got := Snapshot{
					State: before.State, Underlying: before.Underlying, Ready: before.Ready,
					RetryAfter: before.RetryAfter,
				}
				wantSame(t, "read", got, tt.want)
			})
		})
	}
}

// lateStates returns timelines that lead to each state in which a late result may arrive. The calls "closed" and
// "probe" were admitted in an earlier closed generation and in an earlier half-open one.
func lateStates() []struct {
	name string
	rows []row
} {
	const s = time.Second
	return []struct {
		name string
		rows []row
	}{
		{"open", []row{{0, "begin:closed trip", "open"}, {5 * s, "begin:probe trip", "probe open"}}},
		{"open and due", []row{
			{0, "begin:closed trip", "open"},
			{5 * s, "begin:probe trip", "probe open"},
			{10 * s, "", "open"},
		}},
		{"half-open", []row{
			{0, "begin:closed trip", "open"}, {5 * s, "begin:probe trip", "probe open"}, {10 * s, "ignored", "probe half_open"},
		}},
		{"half-open and full", []row{
			{0, "begin:closed trip", "open"},
			{5 * s, "begin:probe trip", "probe open"},
			{10 * s, "begin:other", "probe half_open"},
		}},
		{"half-open, one success short of closing", []row{
			{0, "begin:closed trip", "open"}, {5 * s, "begin:probe trip", "probe open"}, {10 * s, "success", "probe half_open"},
		}},
		{"closed again", []row{
			{0, "begin:closed trip", "open"}, {5 * s, "begin:probe trip", "probe open"}, {10 * s, "success*2", "probe*2 closed"},
		}},
		{"closed again, one failure short of opening", []row{
			{0, "begin:closed trip", "open"}, {5 * s, "begin:probe reset failure*4", "probe closed"},
		}},
		{"reset", []row{{0, "begin:closed trip", "open"}, {5 * s, "begin:probe reset", "probe closed"}}},
		{"forced open", []row{{0, "begin:closed trip", "open"}, {5 * s, "begin:probe trip force_open", "probe open"}}},
		{"forced closed", []row{{0, "begin:closed trip", "open"}, {5 * s, "begin:probe trip force_closed", "probe closed"}}},
	}
}

// A known bug of five other libraries: a late success closes a half-open breaker.
func TestB15_LateResultsAreCountedAndNothingElse(t *testing.T) {
	for _, tt := range lateStates() {
		for _, call := range []string{"closed", "probe"} {
			for _, report := range []string{
				"success", "failure", "overload", "ignored", "success~1h", "failure~1h",
				"failure@1h",
			} {
				t.Run(fmt.Sprintf("%s, a call from %s, %s", tt.name, call, report), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						var rec recorder
						b := mustNew(t, Config{Jitter: -1, Backoff: 1, SlowCall: time.Minute, MinCalls: 5}, WithListener(rec.Transition))
						tl := newTimeline(t, b)
						tl.run(tt.rows...)
						events := len(rec.received())
						ph := b.phase.Load()
						want := b.Snapshot()
						want.Late++
						want.InFlight--

						tl.do("end:" + call + "=" + report)

						if diff := cmp.Diff(want, b.Snapshot()); diff != "" {
							t.Errorf("got (+), want (-):\n%s", diff)
						}
						if b.phase.Load() != ph {
							t.Error("a new phase was published")
						}
						if got := len(rec.received()) - events; got != 0 {
							t.Errorf("%d events, want none", got)
						}
					})
				})
			}
		}
	}
}

// The late result of a probe does not change which slots are taken.
func TestB15_ALateProbeMovesNoSlot(t *testing.T) {
	runScenarios(t, []scenario{
		{"the slot of the next generation stays taken", steady(), []row{
			{0, "trip", "open"},
			{5 * time.Second, "begin:old", "probe half_open"},
			{5 * time.Second, "trip", "open"},
			{10 * time.Second, "begin:new", "probe half_open"},
			{10 * time.Second, "end:old=success success", "rejected:half_open half_open"},
			{11 * time.Second, "success", "rejected:half_open half_open"},
			{12 * time.Second, "end:new=success", "closed"},
		}},
		{"a free slot stays free", steady(), []row{
			{0, "trip", "open"},
			{5 * time.Second, "begin:old", "probe half_open"},
			{5 * time.Second, "trip", "open"},
			{10 * time.Second, "ignored", "probe half_open"},
			{10 * time.Second, "end:old=failure success", "probe closed"},
		}},
		{"late results neither extend the open period nor end it", steady(), []row{
			{0, "begin:1 begin:2 begin:3 begin:4 begin:5 begin:6 begin:7", "closed"},
			{0, "end:1=failure end:2=failure end:3=failure end:4=failure end:5=failure", "open"},
			{2 * time.Second, "end:6=failure end:7=success", "open"},
			{5*time.Second - 1, "success", "rejected:open open"},
			{5 * time.Second, "success", "probe closed"},
		}},
	})
}

// A window that slides is not a new generation. A call that takes longer than the window is not late.
func TestB15_RolloverIsNoNewGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, Config{})
		newTimeline(t, b).run(
			row{0, "begin:1 begin:2 begin:3", "closed"},
			row{time.Hour, "end:1=success", "closed"},
			row{2 * time.Hour, "end:2=failure", "closed"},
			row{3 * time.Hour, "end:3=overload", "closed"},
		)
		if s := b.Snapshot(); s.Late != 0 || s.Generation != 1 || s.Successes != 1 || s.Failures != 1 || s.Overloads != 1 {
			t.Errorf("late %d, generation %d, %d successes, %d failures, %d overloads; want 0, 1 and one of each", s.Late,
				s.Generation, s.Successes, s.Failures, s.Overloads)
		}
	})
}

// A new state is never visible with an old deadline.
func TestB16_StateAndDeadlineChangeTogetherConcurrentSafe(t *testing.T) {
	const rounds, readers = 3000, 2
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, Config{OpenFor: time.Minute, Jitter: -1, Backoff: 1})
		done := make(chan struct{})
		finished := make(chan struct{})
		for range readers {
			go func() {
				defer func() { finished <- struct{}{} }()
				for last := uint64(0); ; {
					select {
					case <-done:
						return
					default:
					}
					s := b.Snapshot()
					// Time stands still, so RetryAfter is the whole open period while the breaker is open, and otherwise 0.
					open := s.State == Open
					if (s.RetryAfter == time.Minute) != open || s.RetryAfter != 0 != open || s.Ready == open {
						t.Errorf("%v with %v to go, ready: %v", s.State, s.RetryAfter, s.Ready)
						return
					}
					if even := s.Generation%2 == 0; even != open { // 1 is closed, 2 open, 3 closed, …
						t.Errorf("generation %d is %v", s.Generation, s.State)
						return
					}
					if s.Generation < last {
						t.Errorf("generation %d came after %d", s.Generation, last)
						return
					}
					last = s.Generation
					p, err := b.Acquire(t.Context())
					if e, ok := errors.AsType[*RejectedError](err); ok {
						if e.State != Open || e.Reason != ReasonOpen || e.RetryAfter() != time.Minute {
							t.Errorf("rejected as %v, %v, %v to go", e.State, e.Reason, e.RetryAfter())
							return
						}
						continue
					}
					if p.IsProbe() {
						t.Error("a probe before the deadline")
						return
					}
					p.Done(t.Context(), Ignored)
				}
			}()
		}
		for range rounds {
			b.Trip(t.Context(), "test")
			b.Reset(t.Context())
		}
		close(done)
		for range readers {
			<-finished
		}
		if got, want := b.Snapshot().Generation, uint64(1+2*rounds); got != want {
			t.Errorf("generation %d after %d changes, want %d", got, 2*rounds, want)
		}
	})
}
