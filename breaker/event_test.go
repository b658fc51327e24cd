package breaker

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// tagged returns a context that can be distinguished from others.
func tagged(t *testing.T, tag string) context.Context {
	t.Helper()
	return context.WithValue(t.Context(), ctxKey{}, tag)
}

// An event names the rule that fired and the counts that it fired on. It carries the context of the call that caused
// it.
func TestB31_EventFields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorder
		key := Key{Target: "t", Service: "s", Method: "m", Tag: "g"}
		b, err := New(key, opensAtOnce(Config{Jitter: -1, SuccessesToClose: 2, SlowCall: time.Second, MinCalls: 10}),
			WithListener(rec.Transition))
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		at := func(s int) time.Time { return begin.Add(time.Duration(s) * time.Second) }
		call := func(tag string, o Outcome, latency time.Duration) {
			t.Helper()
			p, err := b.Acquire(tagged(t, tag+", Acquire"))
			if err != nil {
				t.Fatal(err)
			}
			p.Report(tagged(t, tag), Report{Outcome: o, Latency: latency})
		}
		for range 3 {
			call("quiet", Success, 0)
		}
		for range 4 {
			call("quiet", Failure, 0)
		}
		call("fifth failure", Failure, 2*time.Second)
		time.Sleep(5 * time.Second)
		call("good probe", Success, 0)
		call("bad probe", Overload, 0)
		time.Sleep(10 * time.Second)
		call("good probe", Success, 0)
		call("second good probe", Success, 0)
		for range 4 {
			call("quiet", Success, 0)
		}
		for range 5 {
			call("quiet", Overload, 0)
		}
		call("tenth call", Overload, 0)
		time.Sleep(5 * time.Second)
		b.Reset(tagged(t, "reset"))
		for range 9 {
			call("quiet", Success, 2*time.Second)
		}
		call("tenth slow call", Success, 2*time.Second)
		b.Trip(tagged(t, "trip"), "because")

		want := []Event{
			{
				From: Closed, To: Open, Rule: RuleConsecutive, Why: "5 failures in a row", At: at(0), OpenFor: 5 * time.Second,
				Counts: Counts{Successes: 3, Failures: 5, Slow: 1, ConsecutiveFailures: 5},
			},
			{From: Open, To: HalfOpen, Why: "open period over", At: at(5)},
			{
				From: HalfOpen, To: Open, Rule: RuleProbe, Why: "a probe failed", At: at(5), OpenFor: 10 * time.Second,
				FailedRecoveries: 1,
			},
			{From: Open, To: HalfOpen, Why: "open period over", At: at(15), FailedRecoveries: 1},
			{From: HalfOpen, To: Closed, Why: "probes succeeded", At: at(15), FailedRecoveries: 1},
			{
				From: Closed, To: Open, Rule: RuleRatio, Why: "6 of 10 calls failed", At: at(15), OpenFor: 5 * time.Second,
				Counts: Counts{Successes: 4, Overloads: 6},
			},
			{From: Open, To: Closed, Rule: RuleManual, Why: "reset", At: at(20)},
			{
				From: Closed, To: Open, Rule: RuleSlow, Why: "10 of 10 calls took longer than 1s", At: at(20),
				OpenFor: 5 * time.Second, Counts: Counts{Successes: 10, Slow: 10},
			},
			{From: Open, To: Open, Rule: RuleManual, Why: "because", At: at(20), OpenFor: 5 * time.Second},
		}
		tags := []string{
			"fifth failure", "good probe, Acquire", "bad probe", "good probe, Acquire", "second good probe", "tenth call",
			"reset",
			"tenth slow call", "trip",
		}
		for i := range want {
			want[i].Key, want[i].Seq, want[i].Generation = key, uint64(i+1), uint64(i+2)
		}
		wantSame(t, "events", rec.received(), want)
		var got []string
		for _, ctx := range rec.ctxs {
			tag, _ := ctx.Value(ctxKey{}).(string)
			got = append(got, tag)
		}
		wantSame(t, "contexts", got, tags)
	})
}

// Event.At and RejectedError.Until have a monotonic reading, outside a bubble.
func TestB31_InstantsAreMonotonic(t *testing.T) {
	var rec recorder
	b := mustNew(t, Config{}, WithListener(rec.Transition))
	b.Trip(t.Context(), "test")
	for what, at := range map[string]time.Time{
		"Event.At":            rec.received()[0].At,
		"RejectedError.Until": mustReject(t, b).Until,
	} {
		if !strings.Contains(at.String(), " m=") { // as Event.At and RejectedError.RetryAfter document
			t.Errorf("%s has no monotonic reading: %v", what, at)
		}
	}
}

func TestEventJSON(t *testing.T) {
	e := Event{
		Key: Key{Target: "t", Service: "s", Method: "m", Tag: "g"}, From: HalfOpen, To: Open, Rule: RuleProbe,
		Why: "a probe failed", Cause: "INTERNAL",
		At: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Seq: 7, Generation: 8, OpenFor: 9, FailedRecoveries: 10,
		Override: Override{Mode: Shadow, TTL: 11, Why: "w", By: "b"},
		Counts:   Counts{Successes: 1, Failures: 2, Overloads: 3, Slow: 4, ConsecutiveFailures: 5},
	}
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"key":{"target":"t","service":"s","method":"m","tag":"g"},"from":"half_open","to":"open","rule":"probe",` +
		`"why":"a probe failed","cause":"INTERNAL","at":"2026-01-02T03:04:05.000000006Z","seq":7,"generation":8,` +
		`"openFor":9,` +
		`"counts":{"successes":1,"failures":2,"overloads":3,"slow":4,"slowCanceled":0,"consecutiveFailures":5},` +
		`"failedRecoveries":10,` +
		`"override":{"mode":"shadow","ttl":11,"why":"w","by":"b"}}`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("got (+), want (-):\n%s", diff)
	}
}

func TestCounts(t *testing.T) {
	for _, tt := range []struct {
		c             Counts
		calls         uint64
		failure, slow float64
	}{
		{Counts{}, 0, 0, 0},
		{Counts{Slow: 1, ConsecutiveFailures: 3}, 0, 0, 0},
		{Counts{Successes: 3, Failures: 1}, 4, 0.25, 0},
		{Counts{Successes: 1, Failures: 1, Overloads: 2, Slow: 1}, 4, 0.75, 0.25},
		{Counts{Overloads: 2, Slow: 2}, 2, 1, 1},
		{Counts{Successes: 2, Slow: 2, SlowCanceled: 2}, 2, 0, 0.5},
		{Counts{Slow: 3, SlowCanceled: 3}, 0, 0, 1},
	} {
		if got := tt.c.Calls(); got != tt.calls {
			t.Errorf("%+v: %d calls, want %d", tt.c, got, tt.calls)
		}
		if f, s := tt.c.FailureRatio(), tt.c.SlowRatio(); f != tt.failure || s != tt.slow {
			t.Errorf("%+v: ratios %v and %v, want %v and %v", tt.c, f, s, tt.failure, tt.slow)
		}
	}
}

// B31: an event names the override in force, so that a trip in shadow mode is not mistaken for one that rejects calls.
func TestB31_EventNamesTheOverride(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := new(recorder)
		b := mustNew(t, Config{ConsecutiveFailures: 1}, WithListener(rec.Transition))
		set := func(m Mode) {
			if err := b.SetOverride(t.Context(), Override{Mode: m, Why: "test", By: "test", TTL: time.Hour}); err != nil {
				t.Fatal(err)
			}
		}
		set(Shadow)
		report(t, b, 1, Failure)
		set(ForceClosed)
		b.Reset(t.Context())
		b.ClearOverride(t.Context())
		report(t, b, 1, Failure)
		set(Shadow)
		time.Sleep(2 * time.Hour) // the TTL is over by then
		b.Reset(t.Context())
		var got []Mode
		for _, e := range rec.received() {
			got = append(got, e.Override.Mode)
		}
		wantSame(t, "overrides", got, []Mode{Shadow, Shadow, ForceClosed, ForceClosed, 0, 0, Shadow, 0})
	})
}
