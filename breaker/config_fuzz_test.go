package breaker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// FuzzConfig decodes a Config from any bytes.
func FuzzConfig(f *testing.F) {
	for _, cfg := range []Config{
		{},
		Conservative(), Lenient(), Config{}.WithDefaults(),
		{
			ConsecutiveFailures: -1, FailureRatio: 0.57, MinCalls: 7, Window: time.Second, SlowCall: time.Millisecond,
			SlowRatio: 0.3,
			OpenFor:   time.Second, MaxOpenFor: time.Minute, Backoff: 1.5, Jitter: -1, MaxProbes: 3, SuccessesToClose: 4,
			ProbeTimeout: time.Second, Ramp: time.Minute, MaxConcurrent: 5,
		},
	} {
		data, err := json.Marshal(cfg)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, text := range []string{
		``, `null`, `[]`, `{"window":"10s"}`, `{"minCalls":1e3}`, `{"openFor":-1,"maxOpenFor":1,"backoff":0.5}`,
		`{"jitter":1e-324}`,
		`{"failureRatio":1e999}`, `{"WINDOW":1,"window":1000000}`,
		`{"maxProbes":9223372036854775807,"successesToClose":9223372036854775808}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var cfg Config
		if err := json.Unmarshal(data, &cfg); err != nil {
			return
		}
		checkConfig(t, cfg)
	})
}

// FuzzConfigFields fills a Config with any values, also with those that JSON cannot express.
func FuzzConfigFields(f *testing.F) {
	f.Add(0, int64(0), 0.0, 0, int64(0), int64(0), 0.0, int64(0), int64(0), 0.0, 0.0, 0, 0, int64(0), int64(0), 0)
	f.Add(-1, int64(-1), -1.0, 1, int64(minDuration), int64(1), 1.0, int64(1), int64(maxDuration), 1e308, 1.0, math.MaxInt,
		50, int64(1), int64(1), 1)
	f.Add(3, int64(minDuration), math.NaN(), 2, int64(maxDuration), int64(maxDuration), math.Inf(1), int64(maxDuration),
		int64(0), math.Inf(1), -1.0, 2, 1, int64(0), int64(maxDuration), 9)
	f.Add(-9, int64(time.Hour), 0.07, 33, int64(time.Second), int64(0), 1e-300, int64(time.Hour), int64(time.Hour), 1.0,
		5e-324, 20, 60, int64(time.Minute), int64(time.Minute), 0)
	f.Fuzz(func(
		t *testing.T, consecutive int, failingFor int64, failureRatio float64, minCalls int, window, slowCall int64,
		slowRatio float64, openFor, maxOpenFor int64,
		backoff, jitter float64, maxProbes, successes int, probeTimeout, ramp int64, maxConcurrent int,
	) {
		checkConfig(t, Config{
			ConsecutiveFailures: consecutive, FailingFor: time.Duration(failingFor), FailureRatio: failureRatio,
			MinCalls: minCalls, Window: time.Duration(window),
			SlowCall: time.Duration(slowCall), SlowRatio: slowRatio, OpenFor: time.Duration(openFor),
			MaxOpenFor: time.Duration(maxOpenFor),
			Backoff:    backoff, Jitter: jitter, MaxProbes: maxProbes, SuccessesToClose: successes,
			ProbeTimeout: time.Duration(probeTimeout),
			Ramp:         time.Duration(ramp), MaxConcurrent: maxConcurrent,
		})
	})
}

// checkConfig checks B1 and B2 for any cfg. If cfg is valid, it also checks one cycle of a breaker with it.
func checkConfig(t *testing.T, cfg Config) {
	t.Helper()
	err := cfg.Validate()
	rule := PolicyRule{Match: Key{Service: "s"}, Config: cfg}
	g := mustGroup(t, Config{})
	b, newErr := New(Key{}, cfg)
	_, groupErr := NewGroup(cfg)
	_, ruleErr := NewGroup(Config{}, WithPolicy(rule))
	for caller, got := range map[string]error{
		"New": newErr, "NewGroup": groupErr, "NewGroup with a rule": ruleErr, "Apply": g.Apply(cfg),
		"Apply of a rule": g.Apply(Config{}, rule),
	} {
		if (got == nil) != (err == nil) {
			t.Errorf("%s returned %v, and Validate returned %v, for %+v", caller, got, err, cfg)
		}
	}
	if (b == nil) != (newErr != nil) {
		t.Errorf("New returned %v and %v, for %+v", b, newErr, cfg)
	}
	full := cfg.WithDefaults()
	if diff := cmp.Diff(full, full.WithDefaults(), cmpopts.EquateNaNs()); diff != "" {
		t.Errorf("WithDefaults again (-first +second):\n%s", diff)
	}
	if err != nil {
		checkConfigErrors(t, cfg, err)
		return
	}
	if err := full.Validate(); err != nil {
		t.Errorf("with defaults: %v, for %+v", err, cfg)
	}
	data, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var back Config
	if err := json.Unmarshal(data, &back); err != nil || back != cfg {
		t.Errorf("through %s: got %+v, %v, want %+v", data, back, err, cfg)
	}
	synctest.Test(t, func(t *testing.T) { checkFullCycle(t, cfg) })
}

// checkConfigErrors checks that each error in err names a field of cfg and its value.
func checkConfigErrors(t *testing.T, cfg Config, err error) {
	t.Helper()
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) == 0 {
		t.Fatalf("got %v, want a list of errors", err)
	}
	named := make(map[string]bool)
	for _, err := range joined.Unwrap() {
		ce, ok := errors.AsType[*ConfigError](err)
		if !ok {
			t.Fatalf("got %v, want a *ConfigError", err)
		}
		v := reflect.ValueOf(cfg).FieldByName(ce.Field)
		if !v.IsValid() || fmt.Sprint(ce.Value) != fmt.Sprint(v.Interface()) || ce.Bound == "" || named[ce.Field] {
			t.Errorf("got %q, %d errors, for %+v", ce, len(joined.Unwrap()), cfg)
		}
		named[ce.Field] = true
	}
}

// checkFullCycle takes a breaker through one cycle: failures until it opens, the open period, probes until it closes,
// and the ramp. The numbers of steps are limited, because a Config may demand more than can ever happen.
func checkFullCycle(t *testing.T, cfg Config) {
	t.Helper()
	const calls, years = 64, 30 * 365 * 24 * time.Hour
	b, err := New(Key{}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	d := cfg.WithDefaults()
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("%+v: "+format, append([]any{d}, args...)...)
	}
	defer func() {
		s := b.Snapshot()
		if s.Admitted != s.Successes+s.Failures+s.Overloads+s.Ignored+s.Late+s.InFlight || s.InFlight != 0 { // B37
			fail("the totals do not add up: %+v", s)
		}
	}()

	if gap := failureGap(d); gap < years/calls {
		opensAfter := failuresThatOpen(d, gap, calls)
		n := 0
		for ; n < calls && b.State() == Closed; n++ {
			if n > 0 {
				time.Sleep(gap)
			}
			report(t, b, 1, Failure)
		}
		if n != min(opensAfter, calls) || (b.State() == Open) != (opensAfter <= calls) {
			fail("%v after %d failures, want it to open after %d", b.State(), n, opensAfter)
		}
	}
	if b.State() == Closed {
		b.Trip(t.Context(), "test")
	}

	period := b.Snapshot().RetryAfter
	if most := float64(d.OpenFor) * (1 + max(d.Jitter, 0)); period < d.OpenFor || float64(period) > most*(1+1e-9) { // B17
		fail("open for %v", period)
	}
	time.Sleep(period - 1)
	if e := mustReject(t, b); e.Reason != ReasonOpen || e.RetryAfter() != 1 { // B13
		fail("rejected with %+v a nanosecond before the end, %v left", e, e.RetryAfter())
	}
	time.Sleep(time.Nanosecond)
	var probes []Permit
	for range min(d.MaxProbes, calls) {
		p := acquire(t, b)
		if !p.IsProbe() {
			fail("call %d is not a probe", len(probes))
		}
		probes = append(probes, p)
	}
	if d.MaxProbes <= calls {
		if e := mustReject(t, b); e.Reason != ReasonHalfOpen { // B19
			fail("the call after all probes is rejected with %+v", e)
		}
	}
	successes := 0
	for ; successes < calls && b.State() == HalfOpen; successes++ {
		if len(probes) == 0 {
			probes = append(probes, acquire(t, b))
		}
		probes[0].Done(t.Context(), Success)
		probes = probes[1:]
	}
	if successes != min(d.SuccessesToClose, calls) || (b.State() == Closed) != (d.SuccessesToClose <= calls) { // B20
		fail("%v after %d successes", b.State(), successes)
	}
	for _, p := range probes {
		p.Done(t.Context(), Failure) // B15: late, or too few to open
	}
	if b.State() != Closed || d.Ramp > years {
		return
	}
	report(t, b, 1, Success) // B27: a ramp's first call passes
	time.Sleep(d.Ramp)
	report(t, b, 10, Success)
	if s := b.Snapshot(); !s.Ready || s.Window.Failures != 0 { // B26
		fail("after the ramp: %+v", s)
	}
}

// failureGap returns the time between two failures of a cycle: long enough that two of them last for FailingFor.
func failureGap(d Config) time.Duration {
	if d.FailingFor < 0 {
		return 0
	}
	return max(d.FailingFor, burstGap+1)
}

// failuresThatOpen returns how many failures, gap apart, open the breaker (B4, B5). If more than most are needed, it
// returns most + 1.
func failuresThatOpen(d Config, gap time.Duration, most int) int {
	for n := 1; n <= most; n++ {
		lasted := time.Duration(n-1) * gap
		if d.ConsecutiveFailures > 0 && n >= d.ConsecutiveFailures && lasted >= d.FailingFor {
			return n
		}
		inWindow, largest, in, tenth := 0, 0, make(map[time.Duration]int), d.Window/10
		for i := range n {
			if k := time.Duration(i) * gap / tenth; lasted/tenth-k < 10 {
				inWindow++
				in[k]++
				largest = max(largest, in[k])
			}
		}
		if d.FailureRatio <= 0 || inWindow < d.MinCalls {
			continue
		}
		rest := inWindow - largest
		if d.FailingFor < 0 || (rest > 0 && 2*rest >= d.MinCalls && badCallsLast(n, gap, d)) {
			return n
		}
	}
	return most + 1
}

// badCallsLast reports whether the failures in the window at the nth failure have lasted long enough for the ratio
// rule.
func badCallsLast(n int, gap time.Duration, d Config) bool {
	now, tenth := time.Duration(n-1)*gap, d.Window/10
	for i := range n {
		if at := time.Duration(i) * gap; now/tenth-at/tenth < 10 {
			return now-at >= min(d.FailingFor, d.Window)/2
		}
	}
	return false
}

// FuzzOverride decodes an Override from any bytes, and puts it in force if it is valid.
func FuzzOverride(f *testing.F) {
	for _, text := range []string{
		`{"mode":"force_open","ttl":1000000000,"why":"maintenance","by":"ops"}`, `{"mode":"shadow","why":"trial","by":"me"}`,
		`{"mode":"force_closed","ttl":-1,"why":"x","by":"y"}`, `{"mode":"","why":"x","by":"y"}`, `{"mode":"open"}`,
		`{"mode":1}`, `{"ttl":1e30}`, `null`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var o Override
		if err := json.Unmarshal(data, &o); err != nil {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			b := mustNew(t, steady())
			valid := o.Mode != 0 && (o.TTL == 0 || (o.TTL >= time.Millisecond && o.TTL <= maxDuration)) && o.Why != "" &&
				o.By != ""
			if err := b.SetOverride(t.Context(), o); (err == nil) != valid {
				t.Fatalf("SetOverride(%+v): got %v", o, err)
			}
			want := Override{}
			if valid {
				want = o
			}
			wantSame(t, "the override in force", b.Snapshot().Override, want)
			if _, err := b.Acquire(t.Context()); (err != nil) != (want.Mode == ForceOpen) {
				t.Errorf("%+v: Acquire returned %v", o, err)
			}
			if !valid || o.TTL == 0 {
				return
			}
			time.Sleep(o.TTL)
			wantSame(t, "the override after its TTL", b.Snapshot().Override, Override{})
			report(t, b, 1, Success)
		})
	})
}

// FuzzNames decodes a State and a Mode from any bytes. Only their names are accepted (B1).
func FuzzNames(f *testing.F) {
	for _, names := range [][]string{stateNames[:], modeNames[:], {"Open", "open ", "\xff", "half-open"}} {
		for _, name := range names {
			f.Add([]byte(name))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		const before = 77 // neither a State nor a Mode
		s, m := State(before), Mode(before)
		if err := s.UnmarshalText(text); (err == nil) != (s != before) {
			t.Errorf("%q: got %v and %v", text, s, err)
		} else if back, _ := s.MarshalText(); err == nil && !bytes.Equal(back, text) {
			t.Errorf("%q: became %v, which is %q", text, s, back)
		}
		if err := m.UnmarshalText(text); (err == nil) != (m != before) {
			t.Errorf("%q: got %v and %v", text, m, err)
		} else if back, _ := m.MarshalText(); err == nil && !bytes.Equal(back, text) {
			t.Errorf("%q: became %v, which is %q", text, m, back)
		}
	})
}
