package breaker

// Enforcement is whether a breaker rejects calls. The zero Enforcement is the group's for a PolicyRule, and
// EnforcementOn otherwise.
type Enforcement uint8

const (
	// EnforcementOn rejects calls as the breaker decides.
	EnforcementOn Enforcement = iota + 1
	// EnforcementShadow admits every call, runs the state machine on the outcomes, and counts what it would have
	// rejected. It is for trying a policy out, also for breakers that do not exist yet. See the Mode Shadow.
	EnforcementShadow
	// EnforcementOff admits every call and counts outcomes. No rule is evaluated and no probe is made. See the Mode
	// ForceClosed.
	EnforcementOff
)

var enforcementNames = [...]string{"", "enforce", "shadow", "off"}

// String returns "enforce", "shadow" or "off", and "" for the zero Enforcement.
func (e Enforcement) String() string { return nameOf(enforcementNames[:], uint8(e), "Enforcement") }

// MarshalText returns what String returns. A value that is not an Enforcement is an error.
func (e Enforcement) MarshalText() ([]byte, error) {
	return marshalName(enforcementNames[:], uint8(e), "enforcement")
}

// UnmarshalText reads what MarshalText writes. Anything else is an error and leaves e as it was.
func (e *Enforcement) UnmarshalText(text []byte) error {
	n, err := unmarshalName(enforcementNames[:], text, "enforcement")
	if err == nil {
		*e = Enforcement(n)
	}
	return err
}

// mode returns the Mode with the same effect as e; zero for EnforcementOn.
func (e Enforcement) mode() Mode {
	switch e {
	case EnforcementShadow:
		return Shadow
	case EnforcementOff:
		return ForceClosed
	case EnforcementOn:
	}
	return 0
}

// mode returns the mode in force: of the override, or of the policy. An override wins. ph is the phase of a decision,
// so the TTL of its override is not over.
func (ph *phase) mode() Mode {
	if ph.override != nil {
		return ph.override.Mode
	}
	return ph.pol.mode
}

// modeAt is mode at now for any phase: the TTL of the override may be over.
func (ph *phase) modeAt(now int64) Mode {
	if ph.override.inForce(now) {
		return ph.override.Mode
	}
	return ph.pol.mode
}

// overrideInForce returns the override in force, for events. Without an override, it returns one that describes
// Config.Enforcement, unless that is EnforcementOn.
func (ph *phase) overrideInForce() Override {
	switch {
	case ph.override != nil:
		return ph.override.Override
	case ph.pol.mode != 0:
		return Override{Mode: ph.pol.mode, Why: "Config.Enforcement is " + ph.pol.cfg.Enforcement.String(), By: "policy"}
	}
	return Override{}
}
