package breaker

import (
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

func TestExplain(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"default", Config{}, `
5 failures in a row open it if the failures lasted 1s; failures within 10ms of each other count once.
It opens when at least 20 calls ended within 10s and 50% of them failed or were overloads.
A dead backend at 1/s: opened by the consecutive rule after 5 calls and 4s.
A dead backend at 10/s: opened by the consecutive rule after 11 calls and 1s.
A dead backend at 100/s: opened by the consecutive rule after 101 calls and 1s.
It stays open for 1s, 2s, 4s, 8s, 10s, each up to 20% longer.
After the backend has recovered, the first call passes within 12s, and all calls after 2 successful probes in a row.
A dead backend gets at most 1 probe at a time from each client, and about one every 10s in a long outage.
Warning: below 2 calls/s the ratio rule never acts.
`},
		{"everything", Config{
			ConsecutiveFailures: 1, FailureRatio: -1, SlowCall: time.Minute, SlowRatio: 0.25, MaxOpenFor: 2 * time.Minute, Jitter: -1,
			MaxProbes: 2, SuccessesToClose: 1, Ramp: time.Minute, MaxConcurrent: 7,
		}, `
1 failure opens it.
It opens when at least 20 calls ended within 10s and 25% of them took longer than 1m0s.
A dead backend at 1/s: opened by the consecutive rule after 1 calls and 0s.
A dead backend at 10/s: opened by the consecutive rule after 1 calls and 0s.
A dead backend at 100/s: opened by the consecutive rule after 1 calls and 0s.
It stays open for 1s, 2s, 4s, 8s, 16s, 32s, …, 2m0s.
After the backend has recovered, the first call passes within 2m0s, and all calls after 1 successful probe in a row.
After closing, 10% of the calls pass at first, and all of them after 1m0s.
A dead backend gets at most 2 probes at a time from each client, and about one every 2m0s in a long outage.
At most 7 calls may be in flight while it is closed.
Warning: below 2 calls/s the slow rule never acts.
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
After the backend has recovered, the first call passes within 1.2s, and all calls after 2 successful probes in a row.
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
