package breaker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// seen counts how often each important event happened in the random runs. Runs without a trip would prove nothing about
// trips.
type seen map[string]int

// TestModel runs random operations on a breaker and on the model, and compares everything that is visible after each.
// It continues until everything in modelMustSee has happened, because some of it is rare.
func TestModel(t *testing.T) {
	saw := seen{}
	// Each round has 100 checks, unless -rapid.checks or -short changes that.
	for round := 0; round < 20 || (len(saw.missing(modelMustSee)) > 0 && round < 1000); round++ {
		rapid.Check(t, func(rt *rapid.T) {
			// rapid stops a run with a panic, which must reach rapid's goroutine outside the bubble.
			var stopped any
			synctest.Test(t, func(*testing.T) {
				defer func() { stopped = recover() }()
				runModel(rt, saw)
			})
			// rapid treats two failures from the same line as the same failure. So a run without data needs another line.
			if fmt.Sprintf("%T", stopped) == "rapid.invalidData" {
				panic(stopped)
			}
			if stopped != nil {
				panic(stopped)
			}
		})
		if t.Failed() {
			return
		}
	}
	saw.report(t, modelMustSee)
}

var modelMustSee = []string{
	"closed -> open by consecutive", "closed -> open by ratio", "closed -> open by slow", "closed -> open by custom",
	"closed -> open by manual",
	"open -> open by manual", "half_open -> open by manual", "half_open -> open by probe",
	"open -> half_open by ", "half_open -> closed by ",
	"closed -> closed by manual", "open -> closed by manual", "half_open -> closed by manual",
	"rejected: open", "rejected: half_open", "rejected: ramp", "rejected: forced", "rejected: concurrency",
	"shadow rejected: open", "shadow rejected: half_open", "shadow rejected: ramp", "shadow rejected: concurrency",
	"late in closed", "late in open", "late in half_open", "probe lost", "probe ignored", "second report of a probe",
	"a sign of life", "a sign of life undone", "closed by a probe that stays open",
	"a probe that stays open under force_closed",
	"successful probe after the lease", "closed by a successful probe after the lease",
	"slow canceled call", "slow canceled probe", "a streak that has not lasted", "failure not counted in a streak",
	"a burst that does not open",
	"opened again soon", "failed recoveries reset after successes", "failed recoveries fell while half-open",
	"a probe that decides nothing under force_closed",
	"override over", "override replaced", "event: override set", "event: override cleared",
	"apply with another window", "apply in open", "apply in half_open",
	"another enforcement in closed", "another enforcement in open", "another enforcement in half_open",
	"ramp over", "trip while ramping", "probes delayed", "retry delay of the backend", "fewer failed recoveries at a trip",
	"idle for years",
}

// missing returns those of want that never happened.
func (s seen) missing(want []string) []string {
	return slices.DeleteFunc(slices.Clone(want), func(what string) bool { return s[what] > 0 })
}

// report fails the test if an event of want never happened, and logs the counts.
func (s seen) report(t *testing.T, want []string) {
	t.Helper()
	for _, what := range s.missing(want) {
		t.Errorf("never seen: %s", what)
	}
	if testing.Verbose() {
		for _, what := range slices.Sorted(mapKeys(s)) {
			t.Logf("%7d  %s", s[what], what)
		}
	}
}

func mapKeys(m seen) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func drawConfig(t *rapid.T) Config {
	pick := func(label string, of ...int) int { return rapid.SampledFrom(of).Draw(t, label) }
	seconds := func(label string, of ...int) time.Duration { return time.Duration(pick(label, of...)) * time.Second }
	ratio := func(label string) float64 { return float64(pick(label, 7, 50, 57, 100)) / 100 }
	c := Config{
		ConsecutiveFailures: pick("consecutive", -1, 1, 3, 5),
		FailingFor:          time.Duration(pick("failing for", -1, -1, 0, 30, 2000)) * time.Millisecond,
		FailureRatio:        ratio("failure ratio"),
		MinCalls:            pick("min calls", 1, 4, 10),
		Window:              seconds("window", 1, 10, 60),
		SlowRatio:           ratio("slow ratio"),
		OpenFor:             seconds("open for", 1, 5),
		MaxOpenFor:          seconds("max open for", 5, 60),
		Backoff:             float64(pick("backoff", 1, 2, 3)),
		Jitter:              -1,
		MaxProbes:           pick("max probes", 1, 2, 3),
		SuccessesToClose:    pick("successes to close", 1, 2, 3),
		ProbeTimeout:        seconds("probe timeout", 1, 10),
		Ramp:                seconds("ramp", 0, 0, 20),
		MaxConcurrent:       pick("max concurrent", 0, 0, 4),
		Enforcement:         Enforcement(pick("enforcement", 0, 0, 0, 2, 3)),
	}
	if rapid.Bool().Draw(t, "no ratio rule") {
		c.FailureRatio = -1
	}
	c.SlowCall = seconds("slow call", 0, 1, 2)
	return c
}

// run is one breaker with its model.
type run struct {
	t        *rapid.T
	saw      seen
	b        *Breaker
	g        *Group
	m        *model
	born     time.Time
	inFlight []ticket // not reported yet
	done     []ticket // probes that have reported
	nextID   int
	events   []Event
	checked  int
}

func runModel(t *rapid.T, saw seen) {
	cfg := drawConfig(t)
	r := &run{t: t, saw: saw, born: time.Now()}
	var custom func(Counts) bool
	opts := []GroupOption{WithListener(func(_ context.Context, e Event) { r.events = append(r.events, e) })}
	if rapid.Bool().Draw(t, "custom rule") {
		custom = func(c Counts) bool { return c.Overloads >= 3 }
		opts = append(opts, WithTrip(custom))
	}
	var err error
	if r.g, err = NewGroup(cfg, opts...); err != nil {
		t.Fatal(err)
	}
	r.b = r.g.Get(Key{Method: "m"})
	r.m = newModel(cfg, custom)
	ops := map[string]func(*rapid.T){
		"acquire":  r.acquire,
		"acquire2": r.acquire, // weight
		"burst":    r.burst,
		"settle":   r.settle,
		"settle2":  r.settle,
		"lose":     r.lose,
		"sign":     r.sign,
		"sign2":    r.sign,
		"sustain":  r.probeSign,
		"stripes":  func(*rapid.T) { r.b.enableStripes(2) }, // the model has no stripes
		"again":    r.reportAgain,
		"advance":  r.advance,
		"deadline": r.toDeadline,
		"trip":     func(*rapid.T) { r.b.Trip(context.Background(), "trip"); r.m.tripNow(r.now()) },
		"reset":    func(*rapid.T) { r.b.Reset(context.Background()); r.m.reset(r.now()) },
		"override": r.override,
		"clear": func(*rapid.T) {
			r.b.ClearOverride(context.Background())
			r.m.clearOverride(r.now())
		},
		"apply":  r.apply,
		"calls":  r.calls,
		"calls2": r.calls,
		"hang":   r.hang,
		"late":   r.succeedLate,
		"story":  r.outage,
		"":       r.check,
	}
	t.Repeat(ops)
}

func (r *run) now() time.Duration { return time.Since(r.born) }

func (r *run) acquire(*rapid.T) { r.acquireOne() }

func (r *run) acquireOne() bool {
	before := r.m.state
	p, err := r.b.Acquire(context.Background())
	rejected, _ := errors.AsType[*RejectedError](err)
	shadow := r.m.sum.ShadowRejections
	override := r.m.override
	tk, reason := r.m.acquire(r.nextID, r.now())
	if override != 0 && r.m.override == 0 {
		r.saw["override over"]++
	}
	for _, why := range []Reason{ReasonOpen, ReasonHalfOpen, ReasonRamp, ReasonConcurrency} {
		if *reasonCount(&r.m.sum.ShadowRejections, why) > *reasonCount(&shadow, why) {
			r.saw["shadow rejected: "+why.String()]++
		}
	}
	if reason != 0 {
		r.saw["rejected: "+reason.String()]++
		if reason == ReasonHalfOpen && r.m.state == HalfOpen && len(r.m.leases) > 8*r.m.cfg.MaxProbes {
			r.saw["probes delayed"]++
		}
		if rejected == nil || rejected.Reason != reason {
			r.t.Fatalf("Acquire in %v returned %v, want a rejection for reason %v", before, err, reason)
		}
		return false
	}
	if err != nil {
		r.t.Fatalf("Acquire in %v returned %v, want a permit", before, err)
	}
	if p.IsProbe() != tk.probe {
		r.t.Fatalf("IsProbe is %v, want %v", p.IsProbe(), tk.probe)
	}
	if got, want := doubtOf(p) == inDoubt, r.m.inDoubt(tk.probe); got != want {
		r.t.Fatalf("in doubt is %v, want %v", got, want)
	}
	tk.permit = p
	r.nextID++
	r.inFlight = append(r.inFlight, tk)
	return true
}

func (r *run) report(i int, o Outcome, delay time.Duration) {
	r.reportAll(i, Report{Outcome: o, RetryAfter: delay, Canceled: o == Ignored && i%2 == 0})
}

func (r *run) reportAll(i int, rep Report) {
	o, delay := rep.Outcome, rep.RetryAfter
	tk := r.inFlight[i]
	r.inFlight = slices.Delete(r.inFlight, i, i+1)
	ramping, failed, trips, gen, good := r.m.ramping, r.m.failed, (r.m.sum.Trips.Total() + r.m.sum.ShadowTrips.Total() + r.m.sum.Probes.Failure), r.m.gen, r.m.successes
	before := *r.m
	if rep.Outcome == Failure && tk.undo != nil {
		tk.undo()
	}
	rep.Cause = fmt.Sprint(o, " ", r.now())
	tk.permit.Report(context.Background(), rep)
	late := r.m.settle(tk, rep, r.now())
	r.countRules(tk, rep, &before)
	if late {
		r.saw["late in "+r.m.state.String()]++
		switch {
		case tk.probe && r.m.gen != gen:
			r.saw["closed by a successful probe after the lease"]++
		case tk.probe && r.m.successes != good:
			r.saw["successful probe after the lease"]++
		}
	}
	if tk.probe {
		r.done = append(r.done, tk)
		if o == Ignored {
			r.saw["probe ignored"]++
		}
	}
	if half := before.state == HalfOpen && r.m.state == Closed; half && r.m.failed < failed {
		r.saw["failed recoveries fell while half-open"]++
	}
	if tripped := (r.m.sum.Trips.Total() + r.m.sum.ShadowTrips.Total() + r.m.sum.Probes.Failure) > trips; tripped {
		if ramping {
			r.saw["trip while ramping"]++
		}
		if delay > 0 {
			r.saw["retry delay of the backend"]++
		}
		if r.m.failed < failed {
			r.saw["fewer failed recoveries at a trip"]++
		}
	}
}

// countRules counts which cases of the rules on streaks, bursts and back-off the report of tk was.
func (r *run) countRules(tk ticket, rep Report, before *model) {
	m, now := r.m, r.now()
	count := func(what string, happened bool) {
		if happened {
			r.saw[what]++
		}
	}
	inTime := tk.gen == before.gen
	if tk.probe && rep.Outcome == Ignored {
		count("slow canceled probe", m.sum.Probes.Failure > before.sum.Probes.Failure)
	}
	decides := rep.Outcome == Failure || rep.Outcome == Success
	count("a probe that decides nothing under force_closed", tk.probe && decides && inTime && m.override == ForceClosed &&
		m.gen == before.gen)
	if !inTime || tk.probe || before.state != Closed {
		return
	}
	count("slow canceled call", rep.Outcome == Ignored && m.sum.SlowCalls > before.sum.SlowCalls)
	if m.state == Open {
		count("opened again soon", m.failed > before.failed && !before.ramping)
		count("failed recoveries reset after successes", before.failed > 1 && m.failed == 0)
		return
	}
	enough := m.cfg.ConsecutiveFailures > 0 && m.streak >= uint64(m.cfg.ConsecutiveFailures)
	count("a streak that has not lasted", rep.Outcome == Failure && enough && m.override != ForceClosed)
	count("failure not counted in a streak", rep.Outcome == Failure && m.streak == before.streak)
	count("a sign of life undone", rep.Outcome == Failure && m.streak > before.streak+1)
	c := m.counts(now)
	calls := c.Successes + c.Failures + c.Overloads
	count("a burst that does not open", rep.Outcome == Failure && m.cfg.FailureRatio > 0 && calls >= m.minCalls(now) &&
		m.override != ForceClosed &&
		reached(c.Failures+c.Overloads, calls, m.cfg.FailureRatio))
}

func drawOutcome(t *rapid.T) Outcome {
	return rapid.SampledFrom([]Outcome{Success, Success, Failure, Failure, Overload, Ignored}).Draw(t, "outcome")
}

func (r *run) settle(t *rapid.T) {
	if len(r.inFlight) == 0 {
		t.Skip("no permit is in flight")
	}
	i := rapid.IntRange(0, len(r.inFlight)-1).Draw(t, "ticket")
	delay := time.Duration(rapid.SampledFrom([]int{0, 0, 0, 3, 100}).Draw(t, "retry after")) * time.Second
	r.report(i, drawOutcome(t), delay)
}

// calls makes several calls with one outcome that end at once, so that the breaker trips or recovers.
func (r *run) calls(t *rapid.T) {
	o := drawOutcome(t)
	slow := rapid.Bool().Draw(t, "slow")
	for range rapid.IntRange(1, 12).Draw(t, "calls") {
		if r.acquireOne() {
			if slow {
				time.Sleep(r.m.cfg.SlowCall + 1)
			}
			r.report(len(r.inFlight)-1, o, 0)
		}
	}
}

func (r *run) burst(t *rapid.T) {
	for range rapid.IntRange(1, 12).Draw(t, "calls") {
		r.acquireOne()
	}
}

// hang makes probes that hang, for many leases.
func (r *run) hang(t *rapid.T) {
	if r.m.state == Closed || rapid.IntRange(0, 3).Draw(t, "rarely") != 0 {
		t.Skip("only while there are probes")
	}
	for range 12 * r.m.cfg.MaxProbes {
		r.acquireOne()
		time.Sleep(r.m.cfg.ProbeTimeout)
	}
}

// succeedLate makes a probe succeed after its lease.
func (r *run) succeedLate(t *rapid.T) {
	if r.m.state == Closed {
		t.Skip("only while there are probes")
	}
	r.toDeadline(t)
	if r.acquireOne() {
		time.Sleep(r.m.cfg.ProbeTimeout + time.Duration(rapid.IntRange(0, 1).Draw(t, "after")))
		r.report(len(r.inFlight)-1, Success, 0)
	}
}

// outage is a sequence that random operations seldom produce: an outage with some failed recoveries, a recovery, some
// time, and another outage.
func (r *run) outage(t *rapid.T) {
	fail := func() {
		for range 12 {
			if r.acquireOne() {
				r.report(len(r.inFlight)-1, Failure, 0)
			}
			if r.m.cfg.FailingFor > 0 {
				time.Sleep(r.m.cfg.FailingFor / 8)
			}
		}
	}
	fail()
	for range rapid.IntRange(0, 3).Draw(t, "failed recoveries") {
		r.toDeadline(t)
		time.Sleep(time.Nanosecond)
		fail()
	}
	r.toDeadline(t)
	time.Sleep(time.Nanosecond)
	for range r.m.cfg.SuccessesToClose {
		if r.acquireOne() {
			r.report(len(r.inFlight)-1, Success, 0)
		}
	}
	r.check(t)
	time.Sleep(time.Duration(rapid.SampledFrom([]int{0, 3, 6, 15, 60, 130}).Draw(t,
		"seconds until the next outage")) * time.Second)
	r.check(t)
	fail()
}

// lose drops a permit that will never report.
func (r *run) lose(t *rapid.T) {
	if len(r.inFlight) == 0 {
		t.Skip("no permit is in flight")
	}
	i := rapid.IntRange(0, len(r.inFlight)-1).Draw(t, "ticket")
	r.inFlight = slices.Delete(r.inFlight, i, i+1)
}

// sign gives a sign of life for a call that is not a probe.
func (r *run) sign(t *rapid.T) {
	if len(r.inFlight) == 0 {
		t.Skip("no permit is in flight")
	}
	tk := &r.inFlight[rapid.IntRange(0, len(r.inFlight)-1).Draw(t, "ticket")]
	if tk.probe {
		t.Skip("a probe")
	}
	undo, again := tk.permit.SignOfLife(context.Background())
	sign := r.m.signOfLife(*tk, r.now())
	if (undo == nil) != (sign == nil) || again {
		t.Fatalf("a sign of life ended a streak: %v, want %+v", undo != nil, sign)
	}
	if sign != nil {
		tk.undo, tk.sign = undo, sign
		r.saw["a sign of life"]++
	}
}

// probeSign gives a sign of life for a probe, which may have reported.
func (r *run) probeSign(t *rapid.T) {
	all := slices.DeleteFunc(slices.Concat(r.inFlight, r.done), func(tk ticket) bool { return !tk.probe })
	if len(all) == 0 {
		t.Skip("there are no probes")
	}
	tk := all[rapid.IntRange(0, len(all)-1).Draw(t, "ticket")]
	gen := r.m.gen
	undo, got := tk.permit.SignOfLife(context.Background())
	if want := r.m.probeSignOfLife(tk, r.now()); got != want || undo != nil {
		t.Fatalf("the sign of life of a probe returned %v, %v, want %v", undo != nil, got, want)
	}
	want := got
	if r.m.gen != gen {
		r.saw["closed by a probe that stays open"]++
	}
	if want {
		r.saw["a probe that stays open under force_closed"]++
	}
}

// reportAgain reports a probe a second time.
func (r *run) reportAgain(t *rapid.T) {
	if len(r.done) == 0 {
		t.Skip("no probe has reported")
	}
	tk := rapid.SampledFrom(r.done).Draw(t, "ticket")
	o := drawOutcome(t)
	tk.permit.Done(context.Background(), o)
	r.m.settle(tk, Report{Outcome: o}, r.now())
	r.saw["second report of a probe"]++
}

func (r *run) advance(t *rapid.T) {
	d := rapid.SampledFrom([]time.Duration{
		1, 99 * time.Millisecond, 100 * time.Millisecond, time.Second, time.Second + 1, 2*time.Second + 1,
		5 * time.Second, 10 * time.Second, time.Minute, 3 * 24 * time.Hour, 365 * 24 * time.Hour,
	}).Draw(t, "by")
	if d > 300*24*time.Hour {
		if r.now() > 20*d {
			t.Skip("int64 ends after 292 years")
		}
		r.saw["idle for years"]++
	}
	time.Sleep(d)
}

// toDeadline sleeps until the end of the open period, or one nanosecond before it.
func (r *run) toDeadline(t *rapid.T) {
	if d := r.b.Snapshot().RetryAfter; d > 1 {
		time.Sleep(d - time.Duration(rapid.IntRange(0, 1).Draw(t, "before")))
	}
}

func (r *run) override(t *rapid.T) {
	o := Override{
		Mode: rapid.SampledFrom([]Mode{ForceOpen, ForceClosed, Shadow, Shadow}).Draw(t, "mode"),
		TTL:  time.Duration(rapid.SampledFrom([]int{0, 1, 10}).Draw(t, "ttl")) * time.Second,
		Why:  "test", By: "test",
	}
	if err := r.b.SetOverride(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	r.m.refresh(r.now())
	if r.m.override != 0 {
		r.saw["override replaced"]++
	}
	r.m.setOverride(o.Mode, o.TTL, r.now())
}

func (r *run) apply(t *rapid.T) {
	cfg := drawConfig(t)
	if err := r.g.Apply(cfg); err != nil {
		t.Fatal(err)
	}
	if cfg.Window != r.m.cfg.Window && r.m.state == Closed {
		r.saw["apply with another window"]++
	}
	r.saw["apply in "+r.m.state.String()]++
	if cfg.Enforcement.mode() != r.m.cfg.Enforcement.mode() {
		r.saw["another enforcement in "+r.m.state.String()]++
	}
	r.m.apply(cfg, r.now())
}

// lastOpening returns Snapshot.Opened after events, or Snapshot.Outage.
func lastOpening(events []Event, ofClosed bool) Opening {
	for _, e := range slices.Backward(events) {
		if e.To == Open && !e.OverrideChanged && (e.From == Closed || !ofClosed) {
			return Opening{Rule: e.Rule, Why: e.Why, Counts: e.Counts, Cause: e.Cause, At: e.At}
		}
	}
	return Opening{}
}

// check compares everything that is visible.
func (r *run) check(t *rapid.T) {
	now := r.now()
	if r.m.ramping && now >= r.m.rampStart+r.m.cfg.Ramp {
		r.saw["ramp over"]++
	}
	got := r.b.Snapshot()
	if got.Probes.Lost > 0 {
		r.saw["probe lost"]++
	}
	want := r.m.snapshot(now)
	want.Key, want.Since, want.LastFailure, want.Override = got.Key, got.Since, got.LastFailure,
		Override{Mode: want.Override.Mode}
	want.Opened = lastOpening(r.events, false)
	if until := r.born.Add(r.m.until); want.Underlying == Open && got.OpenUntil.Equal(until) {
		want.OpenUntil = got.OpenUntil
	}
	if want.Underlying != Closed {
		want.Outage = lastOpening(r.events, true)
	}
	got.Override = Override{Mode: got.Override.Mode}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("at %v, snapshot (-model +breaker):\n%s", now, diff)
	}
	if s := r.b.State(); s != want.State {
		t.Fatalf("State is %v, want %v", s, want.State)
	}
	for i, e := range r.events[r.checked:] {
		if e.OverrideChanged {
			r.saw["event: "+e.Why]++
			if e.From != e.To || e.Rule != 0 {
				t.Fatalf("event %+v is about an override", e)
			}
		} else {
			r.saw[fmt.Sprintf("%v -> %v by %v", e.From, e.To, e.Rule)]++
		}
		if want := uint64(r.checked + i + 1); e.Seq != want {
			t.Fatalf("event %+v: Seq is %d, want %d", e, e.Seq, want)
		}
		if r.checked+i > 0 && e.From != r.events[r.checked+i-1].To {
			t.Fatalf("event %+v comes after one to %v", e, r.events[r.checked+i-1].To)
		}
	}
	r.checked = len(r.events)
	if n := len(r.events); uint64(n) != r.m.events {
		t.Fatalf("%d events, want %d", n, r.m.events)
	} else if n > 0 && r.events[n-1].To != want.Underlying {
		t.Fatalf("the last event goes to %v, the breaker is %v", r.events[n-1].To, want.Underlying)
	}
}
