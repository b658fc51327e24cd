package statusz

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// The functions in this file make the words of the page and of the text format. Texts of people or backends go through
// printable.

func stateWord(s breaker.State) string {
	if s == breaker.HalfOpen {
		return "half-open"
	}
	return s.String()
}

func modeWords(m breaker.Mode) string {
	switch m {
	case breaker.ForceOpen:
		return "forced open"
	case breaker.ForceClosed:
		return "forced closed"
	case breaker.Shadow:
		return "shadow"
	}
	return ""
}

func (t *Totals) words() string {
	return fmt.Sprintf("%d breakers: %d open, %d half-open, %d closed; %d not ready, %d with an override",
		t.Breakers, t.Open, t.HalfOpen, t.Closed, t.NotReady, t.Overrides)
}

// sinceWords returns since when the breaker is not closed, or "".
func sinceWords(now time.Time, r *row) string {
	if r.Outage.At.IsZero() {
		return ""
	}
	word := "not closed"
	if r.State == breaker.Closed { // an override shows it as closed
		word = stateWord(r.Underlying) + " underneath"
	}
	return fmt.Sprintf("%s since %s (%s)", word, clockTime(now, r.Outage.At), age(now.Sub(r.Outage.At)))
}

// openedWords returns what began the outage, or "" if the breaker is closed. It does not use Opened: with the first
// failed probe, a second after the outage began, that is only "a probe failed".
func openedWords(r *row) string {
	if r.Outage.Rule == 0 {
		return ""
	}
	return openingWords(r.Outage)
}

// reopenedWords returns what opened the breaker most recently in this outage, or "" if it has opened only once.
func reopenedWords(now time.Time, r *row) string {
	if r.Outage.Rule == 0 || r.Opened.At.Equal(r.Outage.At) {
		return ""
	}
	return "opened again at " + clockTime(now, r.Opened.At) + ": " + whyWords(r.Opened.Why, r.Opened.Cause)
}

func openingWords(o breaker.Opening) string {
	if o.Rule == breaker.RuleManual {
		return "opened by hand: " + whyWords(o.Why, o.Cause)
	}
	return o.Rule.String() + " rule: " + whyWords(o.Why, o.Cause)
}

func whyWords(why, cause string) string {
	why = printable(why, maxText)
	if cause != "" {
		why += ", last " + printable(cause, maxText)
	}
	return why
}

// nextWords returns when the next probe may run, or "" if the breaker is closed. In shadow mode all calls are admitted,
// so it returns what would happen to them otherwise.
func nextWords(r *row) string {
	switch {
	case r.Mode == breaker.Shadow && r.Underlying == breaker.Open && r.RetryAfter > 0:
		return "admits all calls; would reject them for " + rough(r.RetryAfter) + " more"
	case r.Mode == breaker.Shadow && r.Underlying != breaker.Closed:
		return "admits all calls; would admit only probes"
	case r.Mode == breaker.ForceOpen && r.Underlying != breaker.Closed:
		return "no probe while it is forced open"
	case r.Underlying == breaker.Closed || r.Mode == breaker.ForceClosed:
		return ""
	case r.Underlying == breaker.Open && r.RetryAfter > 0:
		return "next probe in " + rough(r.RetryAfter)
	case r.Mode == 0 && !r.Ready:
		return "waits for its probe"
	}
	return "the next call is a probe"
}

// overrideWords returns the override in force, or "".
func overrideWords(r *row) string {
	o := r.Override
	if o.Mode == 0 {
		if r.Mode != 0 {
			return modeWords(r.Mode) + " by policy"
		}
		return ""
	}
	left := "until cleared"
	if o.TTL > 0 {
		left = "for " + rough(o.TTL) + " more"
	}
	return fmt.Sprintf("%s by %s %s: %s", modeWords(o.Mode), printable(o.By, maxText), left, printable(o.Why, maxText))
}

func policyWords(p breaker.Policy) string {
	switch {
	case p.Rule < 0:
		return "policy of the group"
	case p.Name == "":
		return "policy rule " + strconv.Itoa(p.Rule)
	}
	return "policy rule " + strconv.Itoa(p.Rule) + " (" + printable(p.Name, maxText) + ")"
}

// ruleName returns what a rule matches, and its name.
func ruleName(r breaker.PolicyRule) string {
	name := keyName(r.Match)
	if r.Name != "" {
		name += " (" + printable(r.Name, maxText) + ")"
	}
	return name
}

// rateWords returns the rates of r. A list that says "no calls" because nobody has measured would be wrong.
func rateWords(f *frame, r Rates) string {
	switch words := r.words(); {
	case words != "":
		return words
	case f.clock.measured():
		return "no calls"
	}
	return "not measured yet"
}

// words returns the rates in words, or "" if there are no calls.
func (r Rates) words() string {
	if r == (Rates{}) {
		return ""
	}
	var parts []string
	if r.Calls() > 0 {
		parts = append(parts, rate(r.Calls())+" calls/s")
	}
	if r.Failures > 0 {
		parts = append(parts, fmt.Sprintf("%.0f%% failed", 100*r.Failures/r.Calls()))
	}
	if r.Rejections > 0 {
		parts = append(parts, rate(r.Rejections)+" rejected/s")
	}
	return strings.Join(parts, ", ")
}

// rate writes small rates with one decimal.
func rate(perSecond float64) string {
	if perSecond < 10 {
		return strconv.FormatFloat(perSecond, 'f', 1, 64)
	}
	return strconv.FormatFloat(perSecond, 'f', 0, 64)
}

// rough returns d in whole seconds. It rounds up, so that it returns "0s" only when the time is over.
func rough(d time.Duration) string {
	return (max(0, d) + time.Second - 1).Truncate(time.Second).String()
}

// age returns d in whole seconds, rounded down, as clocks show the time.
func age(d time.Duration) string { return max(0, d).Truncate(time.Second).String() }

// clockTime returns the time of day in UTC, and the date if it is another day.
func clockTime(now, t time.Time) string {
	now, t = now.UTC(), t.UTC()
	if now.YearDay() == t.YearDay() && now.Year() == t.Year() {
		return t.Format("15:04:05 UTC")
	}
	return t.Format("2006-01-02 15:04:05 UTC")
}
