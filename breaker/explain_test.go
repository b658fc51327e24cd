package breaker

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var explainConfigs = map[string]Config{
	"default":       {},
	"no streak":     {ConsecutiveFailures: -1},
	"no ratio":      {FailureRatio: -1},
	"first failure": {ConsecutiveFailures: 1, FailureRatio: -1},
	"long failing":  {FailingFor: 30 * time.Second, Window: time.Minute},
	"no minimum":    {FailingFor: -1},
	"slow rule":     {SlowCall: time.Second, ConsecutiveFailures: -1, FailureRatio: -1},
	"many":          {ConsecutiveFailures: 1000, MinCalls: 500, Window: time.Second},
	"conservative":  Conservative(),
	"lenient":       Lenient(),
}

// A breaker does what Explain says about a dead backend. The test runs in virtual time.
func TestB44_ExplainIsWhatTheBreakerDoes(t *testing.T) {
	for name, cfg := range explainConfigs {
		pol, err := newPolicy(cfg, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, rate := range explainRates {
			const limit = 2 * time.Minute
			calls, after, rule := pol.opensAfter(rate, limit)
			synctest.Test(t, func(t *testing.T) {
				var rec recorder
				b, err := New(Key{}, cfg, WithListener(rec.Transition))
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				n := 0
				for time.Since(start) <= limit && b.State() == Closed {
					acquire(t, b).Done(t.Context(), Failure)
					n++
					if b.State() == Closed {
						time.Sleep(time.Duration(float64(n)/rate*float64(time.Second)) - time.Since(start))
					}
				}
				var fired Rule
				if b.State() == Open {
					fired = rec.events[0].Rule
				}
				if fired != rule || rule != 0 && (n != calls || time.Since(start) != after) {
					t.Errorf("%s at %v/s: the breaker opens by %q after %d calls and %v, Explain says %q, %d, %v",
						name, rate, fired, n, time.Since(start), rule, calls, after)
				}
			})
		}
	}
}

// The rate below which the ratio rule never acts is that of the breaker's own rules, to the digits that are shown.
func TestB44_ExplainLeastRate(t *testing.T) {
	for name, cfg := range map[string]Config{
		"default":            {ConsecutiveFailures: -1},
		"one call":           {ConsecutiveFailures: -1, MinCalls: 1},
		"one call, at once":  {ConsecutiveFailures: -1, MinCalls: 1, FailingFor: -1},
		"few calls, at once": {ConsecutiveFailures: -1, MinCalls: 3, FailingFor: -1},
		"long window":        {ConsecutiveFailures: -1, MinCalls: 50, Window: time.Hour},
		"short window":       {ConsecutiveFailures: -1, MinCalls: 2, Window: 100 * time.Millisecond},
	} {
		pol, err := newPolicy(cfg, false)
		if err != nil {
			t.Fatal(err)
		}
		text, err := cfg.Explain()
		if err != nil {
			t.Fatal(err)
		}
		acts := func(rate float64) bool {
			_, _, rule := pol.opensAfter(rate, 24*time.Hour)
			return rule != 0
		}
		_, after, warned := strings.Cut(text, "below ")
		if !warned {
			if !acts(0.0001) {
				t.Errorf("%s: no warning, but the rule does not act at 0.0001/s", name)
			}
			continue
		}
		number, _, _ := strings.Cut(after, " ")
		least, err := strconv.ParseFloat(number, 64)
		if err != nil {
			t.Fatal(err)
		}
		if acts(least*0.995) || !acts(least*1.01) {
			t.Errorf("%s: the rule acts below %v/s: %v, above: %v", name, least, acts(least*0.995), acts(least*1.01))
		}
	}
}

// What Explain says of an outage is what a breaker does: the open periods, the longest time until a call passes after
// the outage, also if the last probe hangs.
func TestB44_ExplainRecovery(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg   Config
		hangs bool
		want  string // in Explain
		first time.Duration
	}{
		"default":              {Config{}, false, "passes within 12s,", 12 * time.Second},
		"default, hangs":       {Config{}, true, "passes within 12s,", 12 * time.Second},
		"long lease":           {Config{ProbeTimeout: time.Minute}, true, "passes within 1m0s,", time.Minute},
		"no jitter":            {Config{Jitter: -1, ProbeTimeout: time.Second}, false, "passes within 10s,", 10 * time.Second},
		"no back-off":          {Config{Backoff: 1, ProbeTimeout: time.Second}, false, "passes within 1.2s,", 1200 * time.Millisecond},
		"hardly any back-off":  {Config{Backoff: 1.0000001}, false, "1.0000001s, 1.0000002s, 1.0000003s", 12 * time.Second},
		"hardly any back-off.": {Config{Backoff: 1.0000001}, false, "passes within 12s,", 12 * time.Second},
	} {
		text, err := tt.cfg.Explain()
		if err != nil || !strings.Contains(text, tt.want) {
			t.Errorf("%s: got %v and\n%s\nwant %s", name, err, text, tt.want)
		}
		synctest.Test(t, func(t *testing.T) {
			b, err := New(Key{}, tt.cfg)
			if err != nil {
				t.Fatal(err)
			}
			// The backend is dead for five minutes. Callers try each 10 ms.
			var last *Permit // a probe that hangs
			for start := time.Now(); time.Since(start) < 5*time.Minute; time.Sleep(10 * time.Millisecond) {
				p, err := b.Acquire(t.Context())
				switch {
				case err != nil:
				case tt.hangs && time.Since(start) > 4*time.Minute:
					last = &p
				default:
					p.Done(t.Context(), Failure)
				}
				if last != nil {
					break
				}
			}
			recovered := time.Now()
			for b.State() != Closed {
				if p, err := b.Acquire(t.Context()); err == nil {
					p.Done(t.Context(), Success)
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			if got := time.Since(recovered); got > tt.first+10*time.Millisecond {
				t.Errorf("%s: the first call passed after %v, want %v at most", name, got, tt.first)
			}
		})
	}
}

func TestExplain_Percent(t *testing.T) {
	for ratio, want := range map[float64]string{0.57: "57%", 0.9999: "99.99%", 1: "100%", 0.07: "7%", 1.0 / 3: "33.3333333333333%"} {
		text, err := Config{FailureRatio: ratio}.Explain()
		if err != nil || !strings.Contains(text, " and "+want+" of them failed") {
			t.Errorf("%v: got %v, %s, want %s", ratio, err, text, want)
		}
	}
}

func TestExplain(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"default", Config{}, `
5 failures in a row open it if the failures lasted 1s; failures within 10ms of each other count once.
It opens when at least 20 calls ended within 10s and 50% of them failed or were overloads, unless one burst is the reason.
A dead backend at 1/s: opened by the consecutive rule after 5 calls and 4s.
A dead backend at 10/s: opened by the consecutive rule after 11 calls and 1s.
A dead backend at 100/s: opened by the consecutive rule after 101 calls and 1s.
It stays open for 1s, 2s, 4s, 8s, 10s, each up to 20% longer.
After the backend has recovered, the first call passes within 12s, and all calls after 2 successful probes in a row.
The first call passes later if the backend asked for a longer delay, or if more than 8 probes hang.
A dead backend gets at most 1 probe at a time from each client, and about one every 10s in a long outage.
Warning: below 1.9 evenly spread calls/s the ratio rule never acts.
`},
		{"everything", Config{
			ConsecutiveFailures: 1, FailureRatio: -1, SlowCall: time.Minute, SlowRatio: 0.25, MaxOpenFor: 2 * time.Minute, Jitter: -1,
			MaxProbes: 2, SuccessesToClose: 1, Ramp: time.Minute, MaxConcurrent: 7,
		}, `
1 failure opens it.
It opens when at least 20 calls ended within 10s and 25% of them took longer than 1m0s, unless one burst is the reason.
A dead backend at 1/s: opened by the consecutive rule after 1 call and 0s.
A dead backend at 10/s: opened by the consecutive rule after 1 call and 0s.
A dead backend at 100/s: opened by the consecutive rule after 1 call and 0s.
It stays open for 1s, 2s, 4s, 8s, 16s, 32s, …, 2m0s.
After the backend has recovered, the first call passes within 2m0s, and all calls after 1 successful probe in a row.
The first call passes later if the backend asked for a longer delay, or if more than 16 probes hang.
After closing, 10% of the calls pass at first, and all of them after 1m0s.
A dead backend gets at most 2 probes at a time from each client, and up to 2 every 2m0s in a long outage.
At most 7 calls may be in flight while it is closed.
Warning: below 1.9 evenly spread calls/s the slow rule never acts.
Warning: SlowCall (1m0s) is longer than ProbeTimeout (10s): a slow probe is lost before it is slow.
Warning: the longest open period (2m0s) is longer than the 10s for which OTLP exporters retry by default; with this policy they drop data.
Warning: without Jitter, all clients probe at the same time.
`},
		{"no backoff", Config{FailureRatio: -1, Backoff: 1, MaxOpenFor: time.Minute, Enforcement: EnforcementShadow}, `
Enforcement is shadow: no call is rejected. What follows is only counted.
5 failures in a row open it if the failures lasted 1s; failures within 10ms of each other count once.
A dead backend at 1/s: opened by the consecutive rule after 5 calls and 4s.
A dead backend at 10/s: opened by the consecutive rule after 11 calls and 1s.
A dead backend at 100/s: opened by the consecutive rule after 101 calls and 1s.
It stays open for 1s, each up to 20% longer.
After the backend has recovered, the first call passes within 10s, and all calls after 2 successful probes in a row.
The first call passes later if the backend asked for a longer delay, or if more than 8 probes hang.
A dead backend gets at most 1 probe at a time from each client, and about one every 1s in a long outage.
`},
		{"off", Config{Enforcement: EnforcementOff}, `
Enforcement is off: no call is rejected and no rule is evaluated. What follows is the policy without that.
`},
		{"nothing", Config{ConsecutiveFailures: -1, FailureRatio: -1}, `
No rule opens it; only Trip, an override or a rule of WithTrip does.
A dead backend at 1/s: not opened within 10m0s.
A dead backend at 10/s: not opened within 10m0s.
A dead backend at 100/s: not opened within 10m0s.
`},
	} {
		got, err := tt.cfg.Explain()
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if want := strings.TrimPrefix(tt.want, "\n"); !strings.HasPrefix(got, want) || tt.name != "nothing" && tt.name != "off" && got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", tt.name, got, want)
		}
	}
	if text, err := (Config{FailureRatio: 2}).Explain(); err == nil || text != "" {
		t.Errorf("an invalid Config: got %q, %v, want an error", text, err)
	}
}

// Each warning appears where it holds, and not at its edge.
func TestExplain_Warnings(t *testing.T) {
	const (
		noConsecutive = "without ConsecutiveFailures"
		noFailingFor  = "without FailingFor"
		noJitter      = "without Jitter"
		slowProbe     = "is longer than ProbeTimeout"
	)
	all := []string{noConsecutive, noFailingFor, noJitter, slowProbe}
	for _, tt := range []struct {
		cfg  Config
		want []string
	}{
		{Config{}, nil},
		{Config{ConsecutiveFailures: -1}, []string{noConsecutive}},
		{Config{ConsecutiveFailures: -1, FailingFor: -1, MinCalls: 2}, []string{noConsecutive}},
		{Config{ConsecutiveFailures: -1, FailingFor: -1, MinCalls: 1}, nil}, // the ratio rule acts at each failure
		{Config{ConsecutiveFailures: -1, FailureRatio: -1}, nil},
		{Config{FailingFor: -1}, []string{noFailingFor}},
		{Config{FailingFor: -1, ConsecutiveFailures: 1}, nil},
		{Config{Jitter: -1}, []string{noJitter}},
		{Config{SlowCall: 10 * time.Second}, nil},
		{Config{SlowCall: 11 * time.Second}, []string{slowProbe}},
	} {
		text, err := tt.cfg.Explain()
		if err != nil {
			t.Fatal(err)
		}
		for _, warning := range all {
			if got, want := strings.Contains(text, warning), slices.Contains(tt.want, warning); got != want {
				t.Errorf("%+v: %q: %v, want %v in\n%s", tt.cfg, warning, got, want, text)
			}
		}
	}
}
