package breaker

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// explainRates are the rates of calls for which Explain says when a dead backend is noticed.
var explainRates = [...]float64{1, 10, 100} // calls per second

const (
	explainLimit = 10 * time.Minute // longer than that is "not within 10m0s"
	// otlpRetryBudget is how long the OTLP exporters of OpenTelemetry-Go try to send a batch by default, retries included
	// (WithTimeout). RetryConfig.MaxElapsedTime, a minute, is longer and does not matter.
	otlpRetryBudget = 10 * time.Second
)

// Explain returns sentences, one a line, on what the Config does: what opens a breaker, how soon a dead backend is
// noticed at 1, 10 and 100 calls per second, how long the breaker stays open, how soon calls pass after the backend has
// recovered, how many probes a dead backend gets, and warnings. The times are those of the breaker's own rules, run on
// simulated failures. An invalid Config is an error.
func (c Config) Explain() (string, error) {
	pol, err := newPolicy(c, false)
	if err != nil {
		return "", err
	}
	e := explanation{policy: pol, cfg: pol.cfg}
	e.enforcement()
	e.opening()
	e.noticing()
	e.staying()
	e.recovering()
	e.limits()
	e.warnings()
	return e.text.String(), nil
}

type explanation struct {
	*policy
	cfg  Config
	text strings.Builder
}

func (e *explanation) say(format string, args ...any) {
	fmt.Fprintf(&e.text, format+"\n", args...)
}

// enforcement writes that no call is rejected, if that is so. The other sentences then describe what the breaker
// would do.
func (e *explanation) enforcement() {
	switch e.cfg.Enforcement {
	case EnforcementShadow:
		e.say("Enforcement is shadow: no call is rejected. What follows is only counted.")
	case EnforcementOff:
		e.say("Enforcement is off: no call is rejected and no rule is evaluated. What follows is the policy without that.")
	case EnforcementOn:
	}
}

// opening says which rules open the breaker.
func (e *explanation) opening() {
	rules := 0
	if e.consecutive > 0 {
		rules++
		text := fmt.Sprintf("%d failures in a row open it", e.consecutive)
		if e.consecutive == 1 {
			text = "1 failure opens it"
		}
		if e.failingFor > 0 {
			text += fmt.Sprintf(" if the failures lasted %v; failures within 10ms of each other count once", time.Duration(e.failingFor))
		}
		e.say("%s.", text)
	}
	bursts := ""
	if e.excludeBurst {
		bursts = ", unless one burst is the reason"
	}
	if e.cfg.FailureRatio > 0 {
		rules++
		e.say("It opens when at least %s ended within %v and %s of them failed or were overloads%s.",
			plural(e.cfg.MinCalls, "call", "calls"), e.cfg.Window, percent(e.cfg.FailureRatio), bursts)
	}
	if e.slowCall > 0 {
		rules++
		e.say("It opens when at least %s ended within %v and %s of them took longer than %v%s.",
			plural(e.cfg.MinCalls, "call", "calls"), e.cfg.Window, percent(e.cfg.SlowRatio), e.cfg.SlowCall, bursts)
	}
	if rules == 0 {
		e.say("No rule opens it; only Trip, an override or a rule of WithTrip does.")
	}
}

// noticing says how soon a dead backend opens the breaker.
func (e *explanation) noticing() {
	for _, rate := range explainRates {
		calls, after, rule := e.opensAfter(rate, explainLimit)
		if rule == 0 {
			e.say("A dead backend at %v/s: not opened within %v.", rate, explainLimit)
			continue
		}
		e.say("A dead backend at %v/s: opened by the %v rule after %s and %v.",
			rate, rule, plural(calls, "call", "calls"), after)
	}
}

// opensAfter returns after how many failures, at a constant rate per second, a rule opens a breaker that is new, and
// which. The rule is 0 if none does within limit. It runs what Breaker.record does for a failure.
func (p *policy) opensAfter(rate float64, limit time.Duration) (calls int, after time.Duration, rule Rule) {
	const start = int64(time.Hour) // any instant above zero
	w := newWindow(start, p.bucket)
	ph := &phase{state: Closed, pol: p, win: w}
	for after <= limit {
		calls++
		now := start + int64(after)
		w.rotate(now, p.bucket)
		w.recordFailure(now, p)
		if rule, _, _ := ph.firingRule(Failure, now); rule != 0 {
			return calls, after, rule
		}
		after = time.Duration(float64(calls) / rate * float64(time.Second))
	}
	return calls, after, 0
}

// staying says how long it stays open.
func (e *explanation) staying() {
	var periods []string
	for n := 0; ; n++ {
		d := e.openPeriod(n, 0, 0)
		periods = append(periods, d.String())
		if d >= e.cfg.MaxOpenFor || e.cfg.Backoff == 1 {
			break
		}
		if n == 5 {
			periods = append(periods, "…", e.cfg.MaxOpenFor.String())
			break
		}
	}
	text := "It stays open for " + strings.Join(periods, ", ")
	if e.cfg.Jitter > 0 {
		text += fmt.Sprintf(", each up to %s longer", percent(e.cfg.Jitter))
	}
	e.say("%s.", text)
}

// recovering says how soon calls pass again.
func (e *explanation) recovering() {
	// The last probe may hang, and then holds its slot until its lease ends.
	first := max(e.longest()+time.Duration(max(0, e.cfg.Jitter)*float64(e.longest())), e.cfg.ProbeTimeout)
	e.say("After the backend has recovered, the first call passes within %v, and all calls after %s.",
		first, plural(e.cfg.SuccessesToClose, "successful probe in a row", "successful probes in a row"))
	e.say("The first call passes later if the backend asked for a longer delay, or if more than %s hang.",
		plural(freeHungProbes*min(e.cfg.MaxProbes, math.MaxInt/freeHungProbes), "probe", "probes"))
	if e.cfg.Ramp > 0 {
		e.say("After closing, 10%% of the calls pass at first, and all of them after %v.", e.cfg.Ramp)
	}
	each := "about one"
	if e.cfg.MaxProbes > 1 { // a failed probe ends the others, and the calls may come too slowly for all
		each = fmt.Sprintf("up to %d", e.cfg.MaxProbes)
	}
	e.say("A dead backend gets at most %s at a time from each client, and %s every %v in a long outage.",
		plural(e.cfg.MaxProbes, "probe", "probes"), each, e.longest())
}

// longest returns the longest open period before jitter. It is shorter than MaxOpenFor if Backoff is 1.
func (e *explanation) longest() time.Duration {
	if e.cfg.Backoff <= 1 {
		return e.cfg.OpenFor
	}
	return e.cfg.MaxOpenFor
}

// limits says what else rejects calls.
func (e *explanation) limits() {
	if e.cfg.MaxConcurrent > 0 {
		e.say("At most %s may be in flight while it is closed.", plural(e.cfg.MaxConcurrent, "call", "calls"))
	}
}

func (e *explanation) warnings() {
	warn := func(format string, args ...any) { e.say("Warning: "+format+".", args...) }
	needed := e.cfg.MinCalls
	if e.excludeBurst {
		needed = max(needed, 2) // in at least two tenths of the window
	}
	neverActs := func(rule string) {
		if needed > 1 { // from the first of them to the last are needed-1 intervals
			warn("below %.3g evenly spread calls/s the %s rule never acts", float64(needed-1)/e.cfg.Window.Seconds(), rule)
		}
	}
	if e.cfg.FailureRatio > 0 {
		neverActs("ratio")
	}
	if e.slowCall > 0 {
		neverActs("slow")
		if e.cfg.SlowCall > e.cfg.ProbeTimeout {
			warn("SlowCall (%v) is longer than ProbeTimeout (%v): a slow probe is lost before it is slow", e.cfg.SlowCall, e.cfg.ProbeTimeout)
		}
	}
	if e.consecutive == 0 && e.cfg.FailureRatio > 0 && needed > 1 {
		warn("without ConsecutiveFailures, a dead backend with few calls is never noticed")
	}
	if !e.excludeBurst && e.consecutive > 1 {
		warn("without FailingFor, one lost connection with %d calls in flight opens it", e.consecutive)
	}
	if longest := e.longest(); longest > otlpRetryBudget {
		warn("the longest open period (%v) is longer than the %v for which OTLP exporters retry by default; with this policy they drop data",
			longest, otlpRetryBudget)
	}
	if e.cfg.Jitter <= 0 {
		warn("without Jitter, all clients probe at the same time")
	}
}

// percent returns a ratio with all the digits that a person wrote: 99.99% is not 100%.
func percent(ratio float64) string { return strconv.FormatFloat(ratio*100, 'g', 15, 64) + "%" }

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
