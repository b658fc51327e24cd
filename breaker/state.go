package breaker

import (
	"fmt"
	"strconv"
)

// State is where a breaker stands.
type State uint8

const (
	// Closed lets every call pass and counts how it ends. It is the zero State.
	Closed State = iota
	// HalfOpen lets a few calls pass as probes; their results decide whether to close or to open again.
	HalfOpen
	// Open rejects every call until its period is over; the first call after that is a probe.
	Open
)

var stateNames = [...]string{Closed: "closed", HalfOpen: "half_open", Open: "open"}

// String returns "closed", "half_open" or "open".
func (s State) String() string { return nameOf(stateNames[:], uint8(s), "State") }

// MarshalText writes what String returns. A value that is no State is an error.
func (s State) MarshalText() ([]byte, error) { return marshalName(stateNames[:], uint8(s), "state") }

// UnmarshalText reads what MarshalText writes. Anything else is an error and leaves s as it was.
func (s *State) UnmarshalText(text []byte) error {
	n, err := unmarshalName(stateNames[:], text, "state")
	if err == nil {
		*s = State(n)
	}
	return err
}

// Outcome is the verdict on a call that ran.
type Outcome uint8

const (
	// Success: the backend answered, be it with an error of the caller's making.
	Success Outcome = iota
	// Failure counts against the backend in every rule.
	Failure
	// Overload: the backend said that it has too much to do. It counts as a failure in the ratio rule and for a probe,
	// and leaves the count of consecutive failures alone.
	Overload
	// Ignored says nothing about the backend, as when the caller cancelled. A probe that ends so gives its slot back
	// without a verdict.
	Ignored
)

var outcomeNames = [...]string{Success: "success", Failure: "failure", Overload: "overload", Ignored: "ignored"}

// String returns "success", "failure", "overload" or "ignored".
func (o Outcome) String() string { return nameOf(outcomeNames[:], uint8(o), "Outcome") }

// MarshalText writes what String returns. A value that is no Outcome is an error.
func (o Outcome) MarshalText() ([]byte, error) {
	return marshalName(outcomeNames[:], uint8(o), "outcome")
}

// Reason is why a call was rejected. The zero Reason is none.
type Reason uint8

const (
	// ReasonOpen: the breaker is open and its period is not over.
	ReasonOpen Reason = iota + 1
	// ReasonHalfOpen: the breaker is half-open and all its probes are out.
	ReasonHalfOpen
	// ReasonRamp: the breaker has closed lately and admits only a part of the calls (Config.Ramp).
	ReasonRamp
	// ReasonForced: an override holds the breaker open.
	ReasonForced
	// ReasonConcurrency: as many calls are in flight as Config.MaxConcurrent allows.
	ReasonConcurrency
)

const reasons = int(ReasonConcurrency) + 1 // the length of an array indexed by Reason

var reasonNames = [...]string{"", "open", "half_open", "ramp", "forced", "concurrency"}

// String returns "open", "half_open", "ramp", "forced" or "concurrency", and "" for the zero Reason.
func (r Reason) String() string { return nameOf(reasonNames[:], uint8(r), "Reason") }

// MarshalText writes what String returns. A value that is no Reason is an error.
func (r Reason) MarshalText() ([]byte, error) { return marshalName(reasonNames[:], uint8(r), "reason") }

// Rule is what opened a breaker. The zero Rule is none: a transition that is no trip.
type Rule uint8

const (
	// RuleConsecutive: Config.ConsecutiveFailures failures came without a success between them.
	RuleConsecutive Rule = iota + 1
	// RuleRatio: the share of failures in the window reached Config.FailureRatio.
	RuleRatio
	// RuleSlow: the share of slow calls in the window reached Config.SlowRatio.
	RuleSlow
	// RuleCustom: the function given to WithTrip said so.
	RuleCustom
	// RuleProbe: a probe failed, or was slow while the slow rule is on.
	RuleProbe
	// RuleManual: somebody called Trip or Reset.
	RuleManual
)

const rules = int(RuleManual) + 1 // the length of an array indexed by Rule

var ruleNames = [...]string{"", "consecutive", "ratio", "slow", "custom", "probe", "manual"}

// String returns "consecutive", "ratio", "slow", "custom", "probe" or "manual", and "" for the zero Rule.
func (r Rule) String() string { return nameOf(ruleNames[:], uint8(r), "Rule") }

// MarshalText writes what String returns. A value that is no Rule is an error.
func (r Rule) MarshalText() ([]byte, error) { return marshalName(ruleNames[:], uint8(r), "rule") }

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
