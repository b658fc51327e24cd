package breaker

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestB28_ForceOpen(t *testing.T) {
	const due = 5 * time.Second
	runScenarios(t, []scenario{
		{"rejects all", steady(), []row{
			{0, "force_open success*5", "rejected:forced*5 open"},
			{0, "clear success", "closed"},
		}},
		{"probes included", steady(), []row{
			{0, "trip force_open", "open"},
			{due, "success", "rejected:forced open"},
			{due, "clear success", "probe closed"},
		}},
		{"slots of a half-open breaker stay as they are", steady(), []row{
			{0, "trip", "open"},
			{due, "begin:1 force_open success", "probe rejected:forced open"},
			{due, "clear success", "rejected:half_open half_open"},
			{due, "end:1=success", "closed"},
		}},
		{"a probe in flight may still close the breaker", steady(), []row{
			{0, "trip", "open"},
			{due, "begin:1 force_open end:1=success success", "probe rejected:forced open"},
			{due, "clear success", "closed"},
		}},
		{"calls in flight still count", steady(), []row{
			{0, "begin:1 begin:2 begin:3 begin:4 begin:5 force_open", "open"},
			{0, "end:1=failure end:2=failure end:3=failure end:4=failure", "open"},
			{0, "clear", "closed"},
			{0, "force_open end:5=failure clear", "open"},
			{0, "success", "rejected:open open"},
		}},
		{"the open period continues", steady(), []row{
			{0, "trip", "open"},
			{0, "force_open", "open"},
			{due - 1, "clear success", "rejected:open open"},
			{due, "success", "probe closed"},
		}},
	})
}

func TestB28_ForceClosed(t *testing.T) {
	const due = 5 * time.Second
	ramp := steady()
	ramp.Ramp, ramp.MaxConcurrent = time.Hour, 2
	runScenarios(t, []scenario{
		{"admits all while open", steady(), []row{
			{0, "trip force_closed success*5 failure*20", "closed"}, {0, "clear success", "rejected:open open"},
		}},
		{"does not probe", steady(), []row{
			{0, "trip force_closed", "closed"},
			{due, "success*5", "closed"},
			{due, "clear", "open"},
			{due, "success", "probe closed"},
		}},
		{"admits all while half-open", steady(), []row{
			{0, "trip", "open"},
			{due, "begin:1 force_closed success*5 failure*5", "probe closed"},
			{due, "clear success", "rejected:half_open half_open"},
			{due, "end:1=success", "closed"},
		}},
		{"admits all while ramping and beyond MaxConcurrent", ramp, []row{
			{0, "trip", "open"},
			{due, "success", "probe closed"},
			{due, "force_closed begin:1 begin:2 begin:3 success*20", "closed"},
		}},
		{"no rule is evaluated, and outcomes are counted", steady(), []row{
			// 101 of 102
			{0, "force_closed failure*100", "closed"}, {0, "clear", "closed"}, {0, "success", "closed"}, {0, "failure", "open"},
		}},
	})
	synctest.Test(t, func(t *testing.T) {
		called := 0
		b := mustNew(t, Config{SlowCall: time.Second}, WithTrip(func(Counts) bool { called++; return true }))
		newTimeline(t, b).run(row{0, "force_closed failure*30 overload*2 success~1h success ignored*3", "closed"})
		s := b.Snapshot()
		wantSame(t, "window", s.Window, Counts{Successes: 2, Failures: 30, Overloads: 2, Slow: 1})
		if s.Failures != 30 || s.Overloads != 2 || s.Successes != 2 || s.Ignored != 3 || s.SlowCalls != 1 {
			t.Errorf("totals: %+v", s)
		}
		if called != 0 {
			t.Errorf("the custom rule was called %d times", called)
		}
		b.Trip(t.Context(), "test")
		report(t, b, 1, Failure)
		if got := b.Snapshot(); got.Failures != 31 || got.Late != 0 || got.Underlying != Open || got.State != Closed {
			t.Errorf("%d failures, %d late, %v under the override, shown as %v", got.Failures, got.Late, got.Underlying,
				got.State)
		}
	})
}

func TestB28_Shadow(t *testing.T) {
	const due = 5 * time.Second
	ramp := steady()
	ramp.Ramp = time.Hour
	limited := steady()
	limited.MaxConcurrent = 1
	tests := []struct {
		scenario
		want ReasonCounts
	}{
		{scenario{"closed", steady(), []row{
			{0, "shadow success*100 failure*4", "closed"}, {0, "failure", "open"},
		}}, ReasonCounts{}},
		{scenario{"open admits calls that decide nothing", steady(), []row{
			{0, "shadow failure*5", "open"},
			{0, "success*5 failure*3", "open"},
			{due - 1, "success", "open"},
		}}, ReasonCounts{Open: 9}},
		{scenario{"the first call after the period is a probe, and the others are not", steady(), []row{
			{0, "shadow trip", "open"},
			{due, "begin:1 success*5 failure*5", "probe half_open"},
			{due, "end:1=success", "closed"},
		}}, ReasonCounts{HalfOpen: 10}},
		{scenario{"a failed probe opens again", steady(), []row{
			{0, "shadow trip", "open"}, {due, "failure success", "probe open"},
		}}, ReasonCounts{Open: 1}},
		{
			scenario{"ramp", ramp, []row{{0, "shadow trip", "open"}, {due, "success success*11", "probe closed"}}},
			ReasonCounts{Ramp: 9},
		},
		{scenario{"MaxConcurrent", limited, []row{{0, "shadow begin:1 success*3", "closed"}}}, ReasonCounts{Concurrency: 3}},
		{scenario{"the state stays when it is cleared", steady(), []row{
			{0, "shadow failure*5 success", "open"},
			{0, "clear", "open"},
			{0, "clear ignored", "rejected:open open"},
			{due, "success", "probe closed"},
		}}, ReasonCounts{Open: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := mustNew(t, tt.cfg)
				newTimeline(t, b).run(tt.rows...)
				s := b.Snapshot()
				wantSame(t, "shadow rejections", s.ShadowRejections, tt.want)
				if s.Rejections.Total() > 1 || (s.Rejections.Total() == 1) != (s.Override == Override{} && tt.want.Open == 1) {
					t.Errorf("%d calls were rejected under shadow", s.Rejections.Total())
				}
				if calls := s.Successes + s.Failures + s.InFlight; calls != s.Admitted || s.Late != 0 {
					t.Errorf("%d calls of %d are accounted for, %d late", calls, s.Admitted, s.Late)
				}
			})
		})
	}
}

func TestB28_ShadowMakesEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorder
		b := mustNew(t, steady(), WithListener(rec.Transition))
		newTimeline(t, b).run(
			row{0, "shadow failure*5", "open"}, row{5 * time.Second, "failure", "probe open"},
			row{15 * time.Second, "success", "probe closed"},
		)
		wantSame(t, "events", rec.brief(), []string{
			"1 closed>closed override set", "2 closed>open consecutive", "3 open>half_open", "4 half_open>open probe",
			"5 open>half_open", "6 half_open>closed",
		})
	})
}

func TestB28_TTL(t *testing.T) {
	const ttl = 30 * time.Second
	runScenarios(t, []scenario{
		{"one nanosecond before its end", steady(), []row{
			{0, "force_open/30s", "open"},
			{ttl - 1, "success", "rejected:forced open"},
		}},
		{"at its end", steady(), []row{{0, "force_open/30s", "open"}, {ttl, "success", "closed"}}},
		{"at its end, without a call", steady(), []row{
			{0, "force_open/30s", "open"},
			{ttl - 1, "", "open"},
			{ttl, "", "closed"},
		}},
		{"one millisecond long", steady(), []row{
			{0, "force_open/1ms success", "rejected:forced open"},
			{ms, "success", "closed"},
		}},
		{"without a TTL", steady(), []row{
			{0, "force_open", "open"},
			{100 * 365 * 24 * time.Hour, "success", "rejected:forced open"},
		}},
		{"a century", steady(), []row{
			{0, "force_open/876000h", "open"},
			{maxDuration - 1, "success", "rejected:forced open"},
			{maxDuration, "success", "closed"},
		}},
		{"the next override has another TTL", steady(), []row{
			{0, "force_open/30s", "open"},
			{ttl - 1, "force_open/30s", "open"},
			{ttl, "success", "rejected:forced open"},
			{2*ttl - 2, "success", "rejected:forced open"},
			{2*ttl - 1, "success", "closed"},
		}},
		{"replaced by one without a TTL", steady(), []row{
			{0, "force_open/30s force_open", "open"},
			{time.Hour, "success", "rejected:forced open"},
		}},
		{"a result at its end counts as without it", steady(), []row{
			{0, "force_closed/30s failure*9 begin:1", "closed"}, {ttl - 1, "failure", "closed"}, {ttl, "end:1=failure", "open"},
		}},
		{"a Trip before the override", steady(), []row{
			{0, "trip force_closed/30s", "closed"}, {ttl, "", "open"}, {ttl, "success", "probe closed"},
		}},
	})
}

// An override survives Apply, Trip and Reset. The snapshot has it, with the rest of its TTL.
func TestB28_AnOverrideSurvivesAndIsInTheSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := mustGroup(t, steady())
		b := g.Get(Key{Method: "m"})
		o := Override{Mode: ForceOpen, TTL: time.Minute, Why: "deploy 42", By: "ann"}
		if err := b.SetOverride(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Second)
		o.TTL = 45 * time.Second
		check := func(after string, underlying State) {
			t.Helper()
			s := b.Snapshot()
			wantSame(t, "after "+after, s.Override, o)
			if s.State != Open || s.Underlying != underlying || s.Ready {
				t.Errorf("after %s: %v, underlying %v, ready: %v; want open, underlying %v, not ready",
					after, s.State, s.Underlying, s.Ready, underlying)
			}
		}
		check("15s", Closed)
		if err := g.Apply(Config{Window: time.Hour, SlowCall: time.Second, Ramp: time.Hour}); err != nil {
			t.Fatal(err)
		}
		check("Apply", Closed)
		b.Trip(t.Context(), "test")
		check("Trip", Open)
		b.Reset(t.Context())
		check("Reset", Closed)
		_ = mustReject(t, b)
		time.Sleep(45*time.Second - 1)
		o.TTL = 1
		check("59.999999999s", Closed)
		time.Sleep(time.Nanosecond)
		s := b.Snapshot()
		if s.Override != (Override{}) || s.State != Closed || !s.Ready {
			t.Errorf("after its TTL: %+v, %v, ready: %v; want none, closed, ready", s.Override, s.State, s.Ready)
		}

		setOverride(t, b, Shadow, 0)
		if got := b.Snapshot().Override; got.Mode != Shadow || got.TTL != 0 {
			t.Errorf("got %+v, want shadow without a TTL", got)
		}
		b.ClearOverride(t.Context())
		b.ClearOverride(t.Context()) // there is none, so nothing happens
		if got := b.Snapshot().Override; got != (Override{}) {
			t.Errorf("after ClearOverride: %+v", got)
		}
	})
}

// Overrides do not change the state below them: there is no new generation, calls in flight are not late, and the
// events say that it stays.
func TestB28_AnOverrideIsNoTransition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorder
		b := mustNew(t, steady(), WithListener(rec.Transition))
		newTimeline(t, b).run(
			row{0, "begin:1 begin:2 begin:3 force_open end:1=success", "open"},
			row{0, "force_closed end:2=failure", "closed"},
			row{0, "shadow end:3=overload clear clear", "closed"},
		)
		s := b.Snapshot()
		if s.Generation != 1 || s.Late != 0 || s.Trips.Total() != 0 {
			t.Errorf("generation %d, %d late, %d trips; want 1, 0, 0", s.Generation, s.Late, s.Trips.Total())
		}
		wantSame(t, "events", rec.brief(), []string{
			"1 closed>closed override set", "2 closed>closed override set", "3 closed>closed override set",
			"4 closed>closed override cleared",
		})
	})
}

func TestB28_SetOverrideRefuses(t *testing.T) {
	ok := Override{Mode: Shadow, Why: "trial", By: "ann"}
	with := func(change func(*Override)) Override {
		o := ok
		change(&o)
		return o
	}
	for _, tt := range []struct {
		o    Override
		want string
	}{
		{Override{}, "Override.Mode"},
		{with(func(o *Override) { o.Mode = 0 }), "Override.Mode is"},
		{with(func(o *Override) { o.Mode = Shadow + 1 }), "Override.Mode is 4"},
		{with(func(o *Override) { o.TTL = -1 }), "Override.TTL is -1ns"},
		{with(func(o *Override) { o.TTL = maxDuration + 1 }), "Override.TTL is"},
		{with(func(o *Override) { o.Why = "" }), "Override.Why is empty"},
		{with(func(o *Override) { o.By = "" }), "Override.By is empty"},
	} {
		b := mustNew(t, Config{})
		setOverride(t, b, ForceOpen, 0)
		before := b.Snapshot()
		err := b.SetOverride(t.Context(), tt.o)
		if err == nil || !strings.HasPrefix(err.Error(), "breaker: ") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: got %v, want an error with %q", tt.o, err, tt.want)
		}
		if diff := cmp.Diff(before, b.Snapshot()); diff != "" {
			t.Errorf("%+v: the error changed something:\n%s", tt.o, diff)
		}
	}
}

func TestB29_TripAndResetActAtOnceFromAnyState(t *testing.T) {
	const due = 5 * time.Second
	states := []struct {
		name string
		rows []row
	}{
		{"closed", nil},
		{"closed, with failures", []row{{0, "failure*4", "closed"}}},
		{"open", []row{{0, "trip", "open"}}},
		{"open, half of the period over", []row{{0, "trip", "open"}, {due / 2, "", "open"}}},
		{"open and due", []row{{0, "trip", "open"}, {due, "", "open"}}},
		{"half-open", []row{{0, "trip", "open"}, {due, "begin:1", "probe half_open"}}},
		{"open again and again", []row{
			{0, "trip", "open"},
			{due, "failure", "probe open"},
			{2 * due, "failure", "probe open"},
		}},
		{"ramping", []row{{0, "trip", "open"}, {due, "success", "probe closed"}}},
		{"forced open", []row{{0, "force_open", "open"}}},
		{"forced closed", []row{{0, "trip force_closed", "closed"}}},
		{"shadow", []row{{0, "shadow", "closed"}}},
	}
	for _, tt := range states {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var rec recorder
				cfg := steady()
				cfg.Ramp, cfg.Backoff = time.Minute, 1
				b := mustNew(t, cfg, WithListener(rec.Transition))
				tl := newTimeline(t, b)
				tl.run(tt.rows...)

				for i, change := range []string{"trip", "trip", "reset", "reset", "trip", "reset"} {
					before, events := b.Snapshot(), len(rec.received())
					p, admitted := b.Acquire(t.Context())
					tl.step(change)
					after := b.Snapshot()
					want := map[string]State{"trip": Open, "reset": Closed}[change]
					moved := uint64(1)
					if admitted == nil && p.IsProbe() && before.Underlying == Open {
						moved++ // the call made the breaker half-open
					}
					if after.Underlying != want || after.Generation != before.Generation+moved {
						t.Errorf("%d, %s: %v in generation %d, want %v in %d", i, change, after.Underlying, after.Generation, want,
							before.Generation+moved)
					}
					e := rec.received()[len(rec.received())-1]
					if len(rec.received()) != events+int(moved) || e.To != want || e.Rule != RuleManual ||
						e.Generation != after.Generation {
						t.Errorf("%d, %s: %d events, the last %+v", i, change, len(rec.received())-events, e)
					}
					if want == Open && (after.RetryAfter != due || after.Ready && after.Override.Mode == 0) {
						t.Errorf("%d, trip: %v to go, ready: %v; want a whole period", i, after.RetryAfter, after.Ready)
					}
					if want == Closed && (after.Window != Counts{} || after.FailedRecoveries != 0 || b.phase.Load().ramp != nil) {
						t.Errorf("%d, reset: window %+v, %d failed recoveries, ramp: %v; want none", i, after.Window,
							after.FailedRecoveries, b.phase.Load().ramp)
					}
					if admitted == nil { // the call is late now
						p.Done(t.Context(), Failure)
						if got := b.Snapshot(); got.Late != after.Late+1 || got.Window != after.Window {
							t.Errorf("%d, %s: a call that was in flight is not late: %+v", i, change, got)
						}
					}
				}
			})
		})
	}
}

// A recovery is a closing after the breaker was open. A Reset of a closed breaker is not a recovery.
func TestB29_WhatCountsAsTripAndRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, steady())
		newTimeline(t, b).run(
			row{0, "reset*2", "closed"}, row{0, "trip*2", "open"}, row{time.Second, "reset", "closed"},
			row{2 * time.Second, "trip", "open"}, row{7 * time.Second, "begin:1", "probe half_open"},
			row{7500 * time.Millisecond, "reset", "closed"}, row{time.Hour, "reset", "closed"},
		)
		s := b.Snapshot()
		if s.Trips != (RuleCounts{Manual: 2}) || s.Recoveries != 2 || s.NotClosed != 6500*time.Millisecond {
			t.Errorf("trips %+v, %d recoveries, not closed for %v; want 2 manual, 2, 6.5s", s.Trips, s.Recoveries, s.NotClosed)
		}
		if got := fmt.Sprint(s.Generation); got != "10" {
			t.Errorf("generation %s, want 10", got)
		}
	})
}
