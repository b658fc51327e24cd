package breaker

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestB01_ZeroConfigIsValidAndProtects(t *testing.T) {
	if err := (Config{}).Validate(); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		rows []row
	}{
		{"consecutive", []row{
			{0, "failure", "closed"},
			{200 * ms, "failure", "closed"},
			{400 * ms, "failure", "closed"},
			{600 * ms, "failure", "closed"},
			{999 * ms, "failure", "closed"},
			{1000 * ms, "failure", "open"},
			{1000 * ms, "success", "rejected:open open"},
		}},
		{"ratio", []row{
			{0, "success failure success failure success failure success failure success failure", "closed"},
			{1000 * ms, "failure overload*8", "closed"},
			{1000 * ms, "overload", "open"},
		}},
		{"slow rule is off", []row{{0, "success~1h success~1000h", "closed"}, {0, "success~1000h*100", "closed"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, err := New(Key{}, Config{})
				if err != nil {
					t.Fatal(err)
				}
				newTimeline(t, b).run(tt.rows...)
			})
		})
	}
}

const ms = time.Millisecond

func TestB01_DefaultsAreThoseOfTheComments(t *testing.T) {
	want := Config{
		ConsecutiveFailures: 5, FailingFor: time.Second, FailureRatio: 0.5, MinCalls: 20, Window: 10 * time.Second,
		SlowRatio: 0.5,
		OpenFor:   time.Second, MaxOpenFor: 10 * time.Second, Backoff: 2, Jitter: 0.2,
		MaxProbes: 1, SuccessesToClose: 2, ProbeTimeout: 10 * time.Second, Enforcement: EnforcementOn,
	}
	wantSame(t, "Config{}.WithDefaults()", Config{}.WithDefaults(), want)
	wantSame(t, "WithDefaults twice", want.WithDefaults(), want)

	// MaxOpenFor is OpenFor if that is longer.
	for _, tt := range []struct{ openFor, want time.Duration }{
		{9 * time.Second, 10 * time.Second},
		{10 * time.Second, 10 * time.Second},
		{10*time.Second + 1, 10*time.Second + 1},
		{time.Hour, time.Hour},
	} {
		if got := (Config{OpenFor: tt.openFor}).WithDefaults().MaxOpenFor; got != tt.want {
			t.Errorf("OpenFor %v: MaxOpenFor is %v, want %v", tt.openFor, got, tt.want)
		}
	}

	// FailingFor is 0 only if one failure opens.
	for failures, want := range map[int]time.Duration{-1: time.Second, 0: time.Second, 1: 0, 2: time.Second} {
		if got := (Config{ConsecutiveFailures: failures}).WithDefaults().FailingFor; got != want {
			t.Errorf("ConsecutiveFailures %d: FailingFor is %v, want %v", failures, got, want)
		}
	}

	// A field that is set is not changed, also if it switches a rule off or is invalid.
	set := Config{
		ConsecutiveFailures: -1, FailingFor: -1, FailureRatio: -1, MinCalls: 1, Window: time.Millisecond, SlowCall: 1,
		SlowRatio: 1,
		OpenFor:   1, MaxOpenFor: 1, Backoff: 1, Jitter: -1, MaxProbes: 7, SuccessesToClose: 7, ProbeTimeout: 1, Ramp: 1,
		MaxConcurrent: 1, Enforcement: EnforcementOff,
	}
	wantSame(t, "WithDefaults of a full Config", set.WithDefaults(), set)
	if got := (Config{MinCalls: -3}).WithDefaults().MinCalls; got != -3 {
		t.Errorf("WithDefaults changed MinCalls from -3 to %d; values are never clamped", got)
	}
}

// bound is a test of one value of one field.
type bound struct {
	field string
	cfg   Config
	ok    bool
}

func bounds() []bound {
	const tooLong = maxDuration + 1
	nan, inf := math.NaN(), math.Inf(1)
	below, above := math.Nextafter(0, -1), math.Nextafter(1, 2)
	return []bound{
		{"ConsecutiveFailures", Config{ConsecutiveFailures: math.MinInt}, true},
		{"ConsecutiveFailures", Config{ConsecutiveFailures: -1}, true},
		{"ConsecutiveFailures", Config{ConsecutiveFailures: 1}, true},
		{"ConsecutiveFailures", Config{ConsecutiveFailures: math.MaxInt}, true},

		{"FailingFor", Config{FailingFor: math.MinInt64}, true},
		{"FailingFor", Config{FailingFor: -1}, true},
		{"FailingFor", Config{FailingFor: 1}, false},
		{"FailingFor", Config{FailingFor: time.Millisecond - 1}, false},
		{"FailingFor", Config{FailingFor: time.Millisecond}, true},
		{"FailingFor", Config{FailingFor: maxDuration}, true},
		{"FailingFor", Config{FailingFor: tooLong}, false},

		{"FailureRatio", Config{FailureRatio: -math.MaxFloat64}, true},
		{"FailureRatio", Config{FailureRatio: below}, true},
		{"FailureRatio", Config{FailureRatio: math.SmallestNonzeroFloat64}, true},
		{"FailureRatio", Config{FailureRatio: 1}, true},
		{"FailureRatio", Config{FailureRatio: above}, false},
		{"FailureRatio", Config{FailureRatio: 50}, false},
		{"FailureRatio", Config{FailureRatio: nan}, false},
		{"FailureRatio", Config{FailureRatio: inf}, false},
		{"FailureRatio", Config{FailureRatio: -inf}, false},

		{"MinCalls", Config{MinCalls: math.MinInt}, false},
		{"MinCalls", Config{MinCalls: -1}, false},
		{"MinCalls", Config{MinCalls: 1}, true},
		{"MinCalls", Config{MinCalls: math.MaxInt}, true},

		{"Window", Config{Window: math.MinInt64}, false},
		{"Window", Config{Window: -1}, false},
		{"Window", Config{Window: 1}, false},
		{"Window", Config{Window: time.Millisecond - 1}, false},
		{"Window", Config{Window: time.Millisecond}, true},
		{"Window", Config{Window: maxDuration}, true},
		{"Window", Config{Window: tooLong}, false},
		{"Window", Config{Window: math.MaxInt64}, false},

		{"SlowCall", Config{SlowCall: -1}, true},
		{"SlowCall", Config{SlowCall: time.Millisecond - 1}, false},
		{"SlowCall", Config{SlowCall: time.Millisecond}, true},
		{"SlowCall", Config{SlowCall: maxDuration}, true},
		{"SlowCall", Config{SlowCall: tooLong}, false},

		{"SlowRatio", Config{SlowRatio: -1}, false},
		{"SlowRatio", Config{SlowRatio: below}, false},
		{"SlowRatio", Config{SlowRatio: math.SmallestNonzeroFloat64}, true},
		{"SlowRatio", Config{SlowRatio: 1}, true},
		{"SlowRatio", Config{SlowRatio: above}, false},
		{"SlowRatio", Config{SlowRatio: nan}, false},
		{"SlowRatio", Config{SlowRatio: inf}, false},
		{"SlowRatio", Config{SlowRatio: -inf}, false},

		{"OpenFor", Config{OpenFor: -1}, false},
		{"OpenFor", Config{OpenFor: time.Millisecond - 1}, false},
		{"OpenFor", Config{OpenFor: time.Millisecond}, true},
		{"OpenFor", Config{OpenFor: maxDuration}, true},
		{"OpenFor", Config{OpenFor: tooLong}, false},

		{"MaxOpenFor", Config{MaxOpenFor: -1}, false},
		{"MaxOpenFor", Config{MaxOpenFor: time.Second - 1}, false}, // below the default OpenFor
		{"MaxOpenFor", Config{MaxOpenFor: time.Second}, true},
		{"MaxOpenFor", Config{OpenFor: time.Millisecond, MaxOpenFor: 1}, false},
		{"MaxOpenFor", Config{OpenFor: time.Millisecond, MaxOpenFor: time.Millisecond}, true},
		{"MaxOpenFor", Config{OpenFor: time.Hour, MaxOpenFor: time.Hour - 1}, false},
		{"MaxOpenFor", Config{OpenFor: time.Hour, MaxOpenFor: time.Hour}, true},
		{"MaxOpenFor", Config{MaxOpenFor: maxDuration}, true},
		{"MaxOpenFor", Config{MaxOpenFor: tooLong}, false},

		{"Backoff", Config{Backoff: -inf}, false},
		{"Backoff", Config{Backoff: -1}, false},
		{"Backoff", Config{Backoff: math.SmallestNonzeroFloat64}, false},
		{"Backoff", Config{Backoff: math.Nextafter(1, 0)}, false},
		{"Backoff", Config{Backoff: 1}, true},
		{"Backoff", Config{Backoff: math.MaxFloat64}, true},
		{"Backoff", Config{Backoff: inf}, false},
		{"Backoff", Config{Backoff: nan}, false},

		{"Jitter", Config{Jitter: -1}, true},
		{"Jitter", Config{Jitter: below}, true},
		{"Jitter", Config{Jitter: math.SmallestNonzeroFloat64}, true},
		{"Jitter", Config{Jitter: 1}, true},
		{"Jitter", Config{Jitter: above}, false},
		{"Jitter", Config{Jitter: nan}, false},
		{"Jitter", Config{Jitter: inf}, false},
		{"Jitter", Config{Jitter: -inf}, false},

		{"MaxProbes", Config{MaxProbes: -1}, false},
		{"MaxProbes", Config{MaxProbes: 1}, true},
		{"MaxProbes", Config{MaxProbes: math.MaxInt}, true},

		{"SuccessesToClose", Config{SuccessesToClose: -1}, false},
		{"SuccessesToClose", Config{SuccessesToClose: 1}, true},
		{"SuccessesToClose", Config{SuccessesToClose: math.MaxInt}, true},

		{"ProbeTimeout", Config{ProbeTimeout: -1}, false},
		{"ProbeTimeout", Config{ProbeTimeout: time.Millisecond - 1}, false},
		{"ProbeTimeout", Config{ProbeTimeout: time.Millisecond}, true},
		{"ProbeTimeout", Config{ProbeTimeout: maxDuration}, true},
		{"ProbeTimeout", Config{ProbeTimeout: tooLong}, false},

		{"Ramp", Config{Ramp: -1}, true},
		{"Ramp", Config{Ramp: time.Millisecond - 1}, false},
		{"Ramp", Config{Ramp: time.Millisecond}, true},
		{"Ramp", Config{Ramp: maxDuration}, true},
		{"Ramp", Config{Ramp: tooLong}, false},

		{"MaxConcurrent", Config{MaxConcurrent: -1}, true},
		{"MaxConcurrent", Config{MaxConcurrent: 1}, true},
		{"Enforcement", Config{Enforcement: EnforcementOn}, true},
		{"Enforcement", Config{Enforcement: EnforcementOff}, true},
		{"Enforcement", Config{Enforcement: EnforcementOff + 1}, false},
		{"MaxConcurrent", Config{MaxConcurrent: math.MaxInt}, true},
	}
}

// A known bug of another breaker: a negative interval silently means "never".
func TestB01_EveryFieldHasItsBounds(t *testing.T) {
	tested := make(map[string]bool)
	for _, tt := range bounds() {
		tested[tt.field] = true
		err := tt.cfg.Validate()
		if tt.ok {
			if err != nil {
				t.Errorf("%+v: got %v, want no error", tt.cfg, err)
			}
			continue
		}
		ce, found := errors.AsType[*ConfigError](err)
		if !found {
			t.Errorf("%+v: got %v, want a *ConfigError for %s", tt.cfg, err, tt.field)
			continue
		}
		value := reflect.ValueOf(tt.cfg).FieldByName(tt.field).Interface()
		// as text, because NaN is not equal to itself
		if ce.Field != tt.field || fmt.Sprint(ce.Value) != fmt.Sprint(value) || ce.Bound == "" {
			t.Errorf("%+v: got %s = %v (want %q), want field %s, value %v, a bound", tt.cfg, ce.Field, ce.Value, ce.Bound,
				tt.field, value)
		}
		if strings.Count(err.Error(), "\n") > 0 {
			t.Errorf("%+v: one wrong field makes more than one error:\n%v", tt.cfg, err)
		}
	}
	for f := range reflect.TypeFor[Config]().Fields() {
		if !tested[f.Name] {
			t.Errorf("the table has no row for %s", f.Name)
		}
	}
}

// The errors of B2, by kind. TestB01_EveryFieldHasItsBounds has the bounds of each field.
func TestB02_InvalidValues(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for name, c := range map[string]Config{
		"Backoff NaN": {Backoff: nan}, "Backoff Inf": {Backoff: inf}, "Backoff -Inf": {Backoff: -inf},
		"FailureRatio NaN": {FailureRatio: nan}, "FailureRatio Inf": {FailureRatio: inf},
		"FailureRatio -Inf": {FailureRatio: -inf},
		"SlowRatio NaN":     {SlowRatio: nan}, "SlowRatio Inf": {SlowRatio: inf}, "SlowRatio -Inf": {SlowRatio: -inf},
		"Jitter NaN": {Jitter: nan}, "Jitter Inf": {Jitter: inf}, "Jitter -Inf": {Jitter: -inf},

		"FailureRatio above 1":                 {FailureRatio: math.Nextafter(1, 2)},
		"FailureRatio as a percentage":         {FailureRatio: 50},
		"SlowRatio above 1":                    {SlowRatio: math.Nextafter(1, 2)},
		"SlowRatio below 0":                    {SlowRatio: -0.5},
		"Jitter above 1":                       {Jitter: math.Nextafter(1, 2)},
		"Window that overflows":                {Window: math.MaxInt64},
		"SlowCall that overflows":              {SlowCall: math.MaxInt64},
		"OpenFor that overflows":               {OpenFor: math.MaxInt64},
		"MaxOpenFor that overflows":            {MaxOpenFor: math.MaxInt64},
		"ProbeTimeout that overflows":          {ProbeTimeout: math.MaxInt64},
		"Ramp that overflows":                  {Ramp: math.MaxInt64},
		"MaxOpenFor < OpenFor":                 {OpenFor: 2 * time.Second, MaxOpenFor: 2*time.Second - 1},
		"MaxOpenFor < the default OpenFor":     {MaxOpenFor: time.Second - 1},
		"Backoff < 1":                          {Backoff: math.Nextafter(1, 0)},
		"Backoff below 0":                      {Backoff: -2},
		"a Window below 0, which is not never": {Window: -time.Second},
	} {
		if err := c.Validate(); err == nil {
			t.Errorf("%s: got no error", name)
		}
		if b, err := New(Key{}, c); err == nil || b != nil {
			t.Errorf("%s: New returned %v, %v", name, b, err)
		}
	}
}

func TestB01_TheErrorNamesFieldValueAndBound(t *testing.T) {
	tests := []struct {
		cfg  Config
		want string
	}{
		{Config{FailureRatio: 1.5}, "breaker: Config.FailureRatio is 1.5, want negative (off), 0 (0.5) or in (0, 1]"},
		{Config{FailureRatio: math.NaN()}, "breaker: Config.FailureRatio is NaN, want negative (off), 0 (0.5) or in (0, 1]"},
		{Config{MinCalls: -1}, "breaker: Config.MinCalls is -1, want 0 (20) or more"},
		{Config{Window: time.Microsecond}, "breaker: Config.Window is 1µs, want 0 (10s) or from 1ms to 100 years; a number " +
			"without a unit is nanoseconds, probably 1000*time.Second or 1000*time.Millisecond was meant"},
		{Config{OpenFor: -time.Second}, "breaker: Config.OpenFor is -1s, want 0 (1s) or from 1ms to 100 years"},
		{Config{OpenFor: 5}, "breaker: Config.OpenFor is 5ns, want 0 (1s) or from 1ms to 100 years; a number without a " +
			"unit is nanoseconds, probably 5*time.Second or 5*time.Millisecond was meant"},
		{Config{FailingFor: 10*time.Microsecond - 1}, "breaker: Config.FailingFor is 9.999µs, want negative (none), 0 (1s, " +
			"or none if ConsecutiveFailures is 1) or from 1ms to 100 years; a number without a unit is nanoseconds, probably " +
			"9999*time.Second or 9999*time.Millisecond was meant"},
		{Config{SlowCall: 30_000}, "breaker: Config.SlowCall is 30µs, want negative or 0 (off) or from 1ms to 100 years; a number " +
			"without a unit is nanoseconds, probably 30000*time.Millisecond was meant"},
		{
			Config{OpenFor: 2 * time.Minute, MaxOpenFor: time.Minute},
			"breaker: Config.MaxOpenFor is 1m0s, want 0 (10s, or OpenFor if longer) or from OpenFor (2m0s) to 100 years",
		},
		{Config{Backoff: 0.5}, "breaker: Config.Backoff is 0.5, want 0 (2) or a finite number from 1"},
	}
	for _, tt := range tests {
		if err := tt.cfg.Validate(); err == nil || err.Error() != tt.want {
			t.Errorf("%+v:\n got %v\nwant %s", tt.cfg, err, tt.want)
		}
	}
}

func TestB01_EveryFieldOutOfBoundsIsNamed(t *testing.T) {
	bad := Config{
		FailingFor: 1, FailureRatio: 2, MinCalls: -1, Window: -1, SlowCall: 1, SlowRatio: 2, OpenFor: -1, MaxOpenFor: -1,
		Backoff: 0.5,
		Jitter:  2, MaxProbes: -1, SuccessesToClose: -1, ProbeTimeout: -1, Ramp: 1, Enforcement: 9,
	}
	err := bad.Validate()
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("Validate returned %T, want joined errors", err)
	}
	var fields []string
	for _, e := range joined.Unwrap() {
		ce, ok := errors.AsType[*ConfigError](e)
		if !ok {
			t.Fatalf("%v is no *ConfigError", e)
		}
		fields = append(fields, ce.Field)
	}
	wantSame(t, "fields", fields, []string{
		"FailureRatio", "MinCalls", "FailingFor", "Window", "SlowCall", "SlowRatio", "OpenFor", "Jitter", "Backoff",
		"MaxProbes",
		"SuccessesToClose", "ProbeTimeout", "Ramp", "Enforcement", "MaxOpenFor",
	})
}

// B1: Validate, New, NewGroup and Apply return the same error, and no part of the Config is applied.
func TestB01_ValidateNewNewGroupAndApplyAgree(t *testing.T) {
	for _, tt := range bounds() {
		want := tt.cfg.Validate()
		_, fromNew := New(Key{}, tt.cfg)
		_, fromGroup := NewGroup(tt.cfg)
		_, fromPolicy := NewGroup(Config{}, WithPolicy(PolicyRule{Match: Key{Method: "M"}, Config: tt.cfg}))
		g := mustGroup(t, Config{MinCalls: 7})
		b := g.Get(Key{Method: "M"})
		fromApply := g.Apply(tt.cfg)
		fromRule := g.Apply(Config{MinCalls: 8}, PolicyRule{Match: Key{Method: "M"}, Config: tt.cfg})
		for name, err := range map[string]error{
			"New": fromNew, "NewGroup": fromGroup, "WithPolicy": fromPolicy, "Apply": fromApply, "Apply, rule": fromRule,
		} {
			switch {
			case (err == nil) != (want == nil):
				t.Errorf("%+v: %s returned %v, Validate %v", tt.cfg, name, err, want)
			case err != nil && !strings.Contains(err.Error(), want.Error()):
				t.Errorf("%+v: %s returned %q, want %q", tt.cfg, name, err, want)
			}
		}
		if want == nil {
			continue
		}
		if got := b.Snapshot().MinCalls; got != 7 {
			t.Errorf("%+v: after an Apply that failed MinCalls is %d, want 7 as before", tt.cfg, got)
		}
		if got := g.Get(Key{Method: "new"}).Snapshot().MinCalls; got != 7 {
			t.Errorf("%+v: after an Apply that failed a new breaker has MinCalls %d, want 7 as before", tt.cfg, got)
		}
	}
}

// B2: which durations get a hint that a unit is missing, and which hint.
func TestB02_MissingUnit(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-1: "", 0: "", 1: "1*time.Second or 1*time.Millisecond",
		10*time.Microsecond - 1: "9999*time.Second or 9999*time.Millisecond",
		10 * time.Microsecond:   "10000*time.Millisecond", 100*time.Microsecond - 1: "99999*time.Millisecond",
		100 * time.Microsecond: "",
	} {
		if want != "" {
			want = "; a number without a unit is nanoseconds, probably " + want + " was meant"
		}
		if got := missingUnit(d); got != want {
			t.Errorf("%d: got %q, want %q", int64(d), got, want)
		}
	}
}
