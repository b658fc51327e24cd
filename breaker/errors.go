package breaker

import (
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// ErrRejected matches every rejection with errors.Is, whatever its reason.
var ErrRejected = errors.New("breaker: call rejected")

// RejectedError is the error of a call that the breaker did not admit. All calls that a breaker rejects for the same
// reason in one generation share one RejectedError, so that a rejection allocates nothing. Do not change it.
type RejectedError struct {
	Key    Key    // of the breaker that rejected the call
	State  State  // of the breaker; Open while an override forces it open
	Reason Reason // why the call was rejected
	// Until is the end of the open period for ReasonOpen, and the end of the override for ReasonForced if it has a TTL.
	// Otherwise it is zero.
	Until time.Time
	// Opened is what opened the breaker most recently, for ReasonOpen and ReasonHalfOpen. Otherwise it is zero. After a
	// failed probe it names only that probe (RuleProbe).
	Opened Opening
	// Outage is what began the outage: the opening that ended the last closed generation. It is set with Opened, and equal
	// to it until a probe fails or Trip opens the breaker again.
	Outage Opening
	// Override forces the breaker open, for ReasonForced. Otherwise it is zero. Its TTL is the one that it was set with.
	Override Override

	limit string // for ReasonRamp and ReasonConcurrency: the limit in words
}

// Opening is what opened a breaker.
type Opening struct {
	Rule   Rule      `json:"rule"`
	Why    string    `json:"why"`    // in words: "5 failures in a row over 1.2s", or the argument of Trip
	Counts Counts    `json:"counts"` // of the window that the rule fired on; zero for RuleProbe
	Cause  string    `json:"cause"`  // Report.Cause of the call that opened it; "" if there is none
	At     time.Time `json:"at"`
}

// String returns why the breaker opened, with the cause: "5 failures in a row over 1.2s, last UNAVAILABLE". If Why is
// empty, which only Trip allows, it says so.
func (o Opening) String() string {
	why := printable(o.Why)
	if why == "" {
		why = "no reason given"
	}
	if o.Cause == "" {
		return why
	}
	return why + ", last " + printable(o.Cause)
}

// Error describes the rejection for a person. It names the key and the reason. If they are known, it also names what
// opened the breaker, when the next probe may run, and who forced the breaker open and why.
func (e *RejectedError) Error() string {
	name := e.Key.phrase()
	switch e.Reason {
	case ReasonOpen:
		next := "the next call is a probe"
		if d := e.RetryAfter(); d > 0 {
			next = "next probe in " + rough(d)
		}
		return "circuit breaker open for " + name + ": " + e.why() + "; " + next
	case ReasonHalfOpen:
		return "circuit breaker half-open for " + name + ": " +
			"no further probe is admitted yet; it opened because of: " + e.why()
	case ReasonForced:
		end := "until it is cleared"
		if !e.Until.IsZero() {
			end = "for another " + rough(e.RetryAfter())
		}
		by, why := printable(e.Override.By), printable(e.Override.Why)
		return "circuit breaker forced open for " + name + " by " + by + ": " + why + "; " + end
	case ReasonRamp:
		return "circuit breaker ramping up for " + name + ": " + e.limit
	case ReasonConcurrency:
		return "circuit breaker at its concurrency limit for " + name + ": " + e.limit
	}
	return "circuit breaker rejected a call for " + name + ": " + e.Reason.String()
}

// why describes what began the outage, and then what opened the breaker last if that is not the same.
func (e *RejectedError) why() string {
	if e.Outage == e.Opened || e.Outage.Rule == 0 {
		return e.Opened.String()
	}
	return e.Outage.String() + "; " + e.Opened.String()
}

// Is makes errors.Is(err, ErrRejected) true.
func (e *RejectedError) Is(target error) bool { return target == ErrRejected }

// RetryAfter returns the time until Until. No call is admitted before that, unless somebody changes the state or the
// override. It returns 0 if Until has passed or is not known. It uses the monotonic clock.
func (e *RejectedError) RetryAfter() time.Duration {
	if e.Until.IsZero() {
		return 0
	}
	return max(0, time.Until(e.Until))
}

// LogValue returns the text of Error, key, state and reason and, if they are known, opened, override and retry_after.
func (e *RejectedError) LogValue() slog.Value {
	attrs := append(make([]slog.Attr, 0, 8), slog.String("text", e.Error()),
		slog.String("key", e.Key.String()), slog.String("state", e.State.String()), slog.String("reason", e.Reason.String()))
	if e.Opened.Rule != 0 {
		attrs = append(attrs, slog.Any("opened", e.Opened))
	}
	if e.Outage != e.Opened && e.Outage.Rule != 0 {
		attrs = append(attrs, slog.Any("outage", e.Outage))
	}
	if e.Override.Mode != 0 {
		attrs = append(attrs, slog.Any("override", e.Override))
	}
	if d := e.RetryAfter(); d > 0 {
		attrs = append(attrs, slog.Duration("retry_after", d))
	}
	return slog.GroupValue(attrs...)
}

// LogValue returns rule, why, at and, if it is not empty, cause.
func (o Opening) LogValue() slog.Value {
	attrs := append(make([]slog.Attr, 0, 4), slog.String("rule", o.Rule.String()), slog.String("why", o.Why))
	if o.Cause != "" {
		attrs = append(attrs, slog.String("cause", o.Cause))
	}
	return slog.GroupValue(append(attrs, slog.Time("at", o.At))...)
}

// printable returns s, quoted if it holds something that a terminal or a log would not show as it is.
func printable(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) >= 0 {
		return strconv.Quote(s)
	}
	return s
}

// rough returns d with the precision that a person needs. It rounds up, so that it returns "0s" only when the time is
// over.
func rough(d time.Duration) string {
	unit := time.Millisecond
	if d >= time.Second {
		unit = 100 * time.Millisecond
	}
	if d >= time.Minute {
		unit = time.Second
	}
	if rest := d % unit; rest > 0 {
		d += unit - rest
	}
	return d.String()
}
