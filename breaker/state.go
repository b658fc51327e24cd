package breaker

import (
	"fmt"
	"strconv"
)

// State is the state of a breaker. The package comment shows the transitions.
type State uint8

const (
	// Closed admits calls and counts their outcomes. It is the zero State.
	Closed State = iota
	// HalfOpen admits a few calls as probes. Their outcomes decide whether the breaker closes or opens again.
	HalfOpen
	// Open rejects all calls until the open period is over. The first call after that is a probe.
	Open
)

var stateNames = [...]string{Closed: "closed", HalfOpen: "half_open", Open: "open"}

// String returns "closed", "half_open" or "open".
func (s State) String() string { return nameOf(stateNames[:], uint8(s), "State") }

// MarshalText returns what String returns. A value that is not a State is an error.
func (s State) MarshalText() ([]byte, error) { return marshalName(stateNames[:], uint8(s), "state") }

// UnmarshalText accepts what MarshalText returns. Any other text is an error and leaves s unchanged.
func (s *State) UnmarshalText(text []byte) error {
	n, err := unmarshalName(stateNames[:], text, "state")
	if err == nil {
		*s = State(n)
	}
	return err
}

// Outcome is how a call counts.
type Outcome uint8

const (
	// Success: the backend answered, also with an error that is the caller's fault. It ends the failure streak.
	Success Outcome = iota
	// Failure: the backend failed. It counts in the failure streak and in the ratio rule. A probe with this outcome has
	// failed.
	Failure
	// Overload: the backend refused the call because of too much load. It counts as a failure in the ratio rule and for
	// a probe. It neither counts in the failure streak nor ends it.
	Overload
	// Ignored: the call shows nothing about the backend, for example because the caller canceled it. It counts in no rule.
	// A probe with this outcome decides nothing and frees its slot. Report.Canceled is an exception.
	Ignored
)

var outcomeNames = [...]string{Success: "success", Failure: "failure", Overload: "overload", Ignored: "ignored"}

// String returns "success", "failure", "overload" or "ignored".
func (o Outcome) String() string { return nameOf(outcomeNames[:], uint8(o), "Outcome") }

// MarshalText returns what String returns. A value that is not an Outcome is an error.
func (o Outcome) MarshalText() ([]byte, error) {
	return marshalName(outcomeNames[:], uint8(o), "outcome")
}

// UnmarshalText accepts what MarshalText returns. Any other text is an error and leaves o as it was.
func (o *Outcome) UnmarshalText(text []byte) error {
	n, err := unmarshalName(outcomeNames[:], text, "outcome")
	if err == nil {
		*o = Outcome(n)
	}
	return err
}

// Reason is why a call was rejected. The zero Reason means none.
type Reason uint8

const (
	// ReasonOpen: the breaker is open and the open period is not over.
	ReasonOpen Reason = iota + 1
	// ReasonHalfOpen: the breaker is half-open and no probe may start now. Either MaxProbes probes are in flight, or hung
	// probes delay the next one (Config.ProbeTimeout).
	ReasonHalfOpen
	// ReasonRamp: the breaker has closed recently and admits only a part of the calls (Config.Ramp).
	ReasonRamp
	// ReasonForced: an override forces the breaker open.
	ReasonForced
	// ReasonConcurrency: as many calls are in flight as Config.MaxConcurrent allows.
	ReasonConcurrency
)

const reasons = int(ReasonConcurrency) + 1 // the length of an array indexed by Reason

var reasonNames = [...]string{"", "open", "half_open", "ramp", "forced", "concurrency"}

// String returns "open", "half_open", "ramp", "forced" or "concurrency", and "" for the zero Reason.
func (r Reason) String() string { return nameOf(reasonNames[:], uint8(r), "Reason") }

// MarshalText returns what String returns. A value that is not a Reason is an error.
func (r Reason) MarshalText() ([]byte, error) { return marshalName(reasonNames[:], uint8(r), "reason") }

// UnmarshalText accepts what MarshalText returns. Any other text is an error and leaves r as it was.
func (r *Reason) UnmarshalText(text []byte) error {
	n, err := unmarshalName(reasonNames[:], text, "reason")
	if err == nil {
		*r = Reason(n)
	}
	return err
}

// Rule is what opened a breaker. The zero Rule means none: the transition did not open the breaker.
type Rule uint8

const (
	// RuleConsecutive: the failure streak reached Config.ConsecutiveFailures and lasted Config.FailingFor.
	RuleConsecutive Rule = iota + 1
	// RuleRatio: the share of failures and overloads in the window reached Config.FailureRatio.
	RuleRatio
	// RuleSlow: the share of slow calls in the window reached Config.SlowRatio.
	RuleSlow
	// RuleCustom: the function of WithTrip returned true.
	RuleCustom
	// RuleProbe: a probe was a failure or an overload, or it was slow and the slow rule is on.
	RuleProbe
	// RuleManual: Trip was called. An Event names it for Reset too.
	RuleManual
)

const rules = int(RuleManual) + 1 // the length of an array indexed by Rule

var ruleNames = [...]string{"", "consecutive", "ratio", "slow", "custom", "probe", "manual"}

// String returns "consecutive", "ratio", "slow", "custom", "probe" or "manual", and "" for the zero Rule.
func (r Rule) String() string { return nameOf(ruleNames[:], uint8(r), "Rule") }

// MarshalText returns what String returns. A value that is not a Rule is an error.
func (r Rule) MarshalText() ([]byte, error) { return marshalName(ruleNames[:], uint8(r), "rule") }

// UnmarshalText accepts what MarshalText returns. Any other text is an error and leaves r as it was.
func (r *Rule) UnmarshalText(text []byte) error {
	n, err := unmarshalName(ruleNames[:], text, "rule")
	if err == nil {
		*r = Rule(n)
	}
	return err
}

func nameOf(names []string, v uint8, kind string) string {
	if int(v) < len(names) {
		return names[v]
	}
	return kind + "(" + strconv.Itoa(int(v)) + ")"
}

func marshalName(names []string, v uint8, kind string) ([]byte, error) {
	if int(v) < len(names) {
		return []byte(names[v]), nil
	}
	return nil, fmt.Errorf("breaker: %d is no %s", v, kind)
}

func unmarshalName(names []string, text []byte, kind string) (uint8, error) {
	for i, n := range names {
		if string(text) == n {
			return uint8(i), nil
		}
	}
	return 0, fmt.Errorf("breaker: %q is no %s, want one of %q", text, kind, names)
}
