package breaker

import (
	"encoding"
	"encoding/json"
	"fmt"
	"testing"
)

// textName is implemented by State, Outcome, Reason, Rule and Mode.
type textName interface {
	fmt.Stringer
	encoding.TextMarshaler
}

func TestTextNames(t *testing.T) {
	tests := []struct {
		value textName
		want  string
	}{
		{State(0), "closed"},
		{Closed, "closed"},
		{HalfOpen, "half_open"},
		{Open, "open"},
		{Outcome(0), "success"},
		{Success, "success"},
		{Failure, "failure"},
		{Overload, "overload"},
		{Ignored, "ignored"},
		{Reason(0), ""},
		{ReasonOpen, "open"},
		{ReasonHalfOpen, "half_open"},
		{ReasonRamp, "ramp"},
		{ReasonForced, "forced"},
		{ReasonConcurrency, "concurrency"},
		{Rule(0), ""},
		{RuleConsecutive, "consecutive"},
		{RuleRatio, "ratio"},
		{RuleSlow, "slow"},
		{RuleCustom, "custom"},
		{RuleProbe, "probe"},
		{RuleManual, "manual"},
		{Mode(0), ""},
		{ForceOpen, "force_open"},
		{ForceClosed, "force_closed"},
		{Shadow, "shadow"},
	}
	for _, tt := range tests {
		if got := tt.value.String(); got != tt.want {
			t.Errorf("%T %d: String is %q, want %q", tt.value, tt.value, got, tt.want)
		}
		text, err := tt.value.MarshalText()
		if err != nil || string(text) != tt.want {
			t.Errorf("%T %d: MarshalText is %q, %v; want %q", tt.value, tt.value, text, err, tt.want)
		}
	}
}

func TestTextNamesOfInvalidValues(t *testing.T) {
	tests := []struct {
		value         textName
		text, wantErr string
	}{
		{State(3), "State(3)", "breaker: 3 is no state"},
		{Outcome(4), "Outcome(4)", "breaker: 4 is no outcome"},
		{Reason(6), "Reason(6)", "breaker: 6 is no reason"},
		{Rule(255), "Rule(255)", "breaker: 255 is no rule"},
		{Mode(4), "Mode(4)", "breaker: 4 is no mode"},
	}
	for _, tt := range tests {
		if got := tt.value.String(); got != tt.text {
			t.Errorf("String is %q, want %q", got, tt.text)
		}
		if text, err := tt.value.MarshalText(); err == nil || err.Error() != tt.wantErr {
			t.Errorf("%s: MarshalText is %q, %v; want the error %q", tt.text, text, err, tt.wantErr)
		}
	}
}

func TestUnmarshalText(t *testing.T) {
	for _, want := range []State{Closed, HalfOpen, Open} {
		got := State(9)
		if err := got.UnmarshalText([]byte(want.String())); err != nil || got != want {
			t.Errorf("%q: got %v, %v", want, got, err)
		}
	}
	for _, want := range []Mode{0, ForceOpen, ForceClosed, Shadow} {
		got := Mode(9)
		if err := got.UnmarshalText([]byte(want.String())); err != nil || got != want {
			t.Errorf("%q: got %v, %v", want, got, err)
		}
	}
	s, m := HalfOpen, Shadow
	for _, text := range []string{"", "Closed", "half-open", "closed ", "2", "State(3)"} {
		if err := s.UnmarshalText([]byte(text)); err == nil || s != HalfOpen {
			t.Errorf("state %q: got %v and %v, want an error and no change", text, err, s)
		}
	}
	for _, text := range []string{"open", "FORCE_OPEN", "3"} {
		if err := m.UnmarshalText([]byte(text)); err == nil || m != Shadow {
			t.Errorf("mode %q: got %v and %v, want an error and no change", text, err, m)
		}
	}
	roundTrip[Outcome](t, int(Ignored), "outcome")
	roundTrip[Reason](t, int(ReasonConcurrency), "reason")
	roundTrip[Rule](t, int(RuleManual), "rule")
}

func TestStateInJSON(t *testing.T) {
	text, err := json.Marshal(map[State]State{Open: HalfOpen})
	if err != nil || string(text) != `{"open":"half_open"}` {
		t.Errorf("got %s, %v", text, err)
	}
}

// roundTrip checks that each value of an enumeration can be read back, and that an error changes nothing.
func roundTrip[T interface {
	~uint8
	String() string
}, P interface {
	*T
	UnmarshalText([]byte) error
}](t *testing.T, last int, kind string) {
	t.Helper()
	for v := range last + 1 {
		want := T(v)
		var got T
		if err := P(&got).UnmarshalText([]byte(want.String())); err != nil || got != want {
			t.Errorf("%s %v: read back as %v, %v", kind, want, got, err)
		}
	}
	got := T(last)
	if err := P(&got).UnmarshalText([]byte("no " + kind)); err == nil || int(got) != last {
		t.Errorf("an unknown %s: got %v, %v, want an error and no change", kind, got, err)
	}
}
