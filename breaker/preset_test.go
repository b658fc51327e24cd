package breaker

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPresets(t *testing.T) {
	// Fields that a preset does not set have their defaults.
	tests := []struct {
		name      string
		cfg       Config
		failures  int
		openFor   time.Duration
		probes    int
		successes int
	}{
		{"Conservative", Conservative(), 5, time.Minute, 1, 1},
		{"Balanced", Balanced(), 5, time.Minute, 1, 2},
		{"Aggressive", Aggressive(), 3, 30 * time.Second, 2, 2},
		{"Lenient", Lenient(), 10, 2 * time.Minute, 3, 3},
	}
	for _, tt := range tests {
		want := Config{
			ConsecutiveFailures: tt.failures, FailingFor: -1, OpenFor: tt.openFor, MaxProbes: tt.probes,
			SuccessesToClose: tt.successes,
			Backoff:          1,
		}.complete().WithDefaults()
		wantSame(t, tt.name, tt.cfg.WithDefaults(), want)
		if err := tt.cfg.Validate(); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestConfigJSON(t *testing.T) {
	full := Config{
		ConsecutiveFailures: 1, FailingFor: 12, FailureRatio: 0.25, MinCalls: 2, Window: 3, SlowCall: 4, SlowRatio: 0.75,
		OpenFor:    5,
		MaxOpenFor: 6, Backoff: 1.5, Jitter: 0.125, MaxProbes: 7, SuccessesToClose: 8, ProbeTimeout: 9, Ramp: 10,
		MaxConcurrent: 11,
	}
	text, err := json.Marshal(full)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"consecutiveFailures":1,"failingFor":12,"failureRatio":0.25,"minCalls":2,"window":3,"slowCall":4,` +
		`"slowRatio":0.75,` +
		`"openFor":5,"maxOpenFor":6,"backoff":1.5,"jitter":0.125,"maxProbes":7,"successesToClose":8,"probeTimeout":9,` +
		`"ramp":10,"maxConcurrent":11}`
	if got := string(text); got != want {
		t.Errorf("JSON:\n got %s\nwant %s", got, want)
	}
	for _, c := range []Config{full, {}, Aggressive(), {ConsecutiveFailures: -1, FailureRatio: -1, Jitter: -1}} {
		text, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var back Config
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c, back); diff != "" {
			t.Errorf("round trip of %s: got (+), want (-):\n%s", text, diff)
		}
	}
	if text, _ := json.Marshal(Config{}); string(text) != "{}" {
		t.Errorf("the zero Config is %s, want {}", text)
	}
	if c := (Config{MinCalls: 1}); c == (Config{}) || c != (Config{MinCalls: 1}) {
		t.Error("Configs do not compare")
	}
}

// A field has the same name in JSON and YAML: its Go name with a lower-case first letter.
func TestNamesInFiles(t *testing.T) {
	for _, typ := range []reflect.Type{reflect.TypeFor[Config](), reflect.TypeFor[PolicyRule](), reflect.TypeFor[Key]()} {
		for f := range typ.Fields() {
			want := strings.ToLower(f.Name[:1]) + f.Name[1:]
			for _, format := range []string{"json", "yaml"} {
				if got, _, _ := strings.Cut(f.Tag.Get(format), ","); got != want {
					t.Errorf("%v.%s is %q in %s, want %q", typ, f.Name, got, format, want)
				}
			}
		}
	}
}
