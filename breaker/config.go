package breaker

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Config sets when a breaker opens, for how long, and how it recovers. It is plain, comparable data. The zero Config is
// a good default. A zero field means the default that its comment names. A negative field switches a rule off if the
// comment says so. Any other value out of bounds is an error of Validate; values are never clamped.
//
// A duration that is not zero must be from 1 ms to 100 years (of 365 days). A shorter one is an error because it is
// nearly always a number without a unit: OpenFor: 5 means five nanoseconds. In JSON and YAML a duration is a number of
// nanoseconds.
type Config struct {
	// ConsecutiveFailures is how long a failure streak must be to open the breaker, if it has also lasted FailingFor.
	// 0: 5. Negative: the rule is off.
	ConsecutiveFailures int `json:"consecutiveFailures,omitempty" yaml:"consecutiveFailures,omitempty"`
	// FailingFor is how long a failure streak must last to open the breaker, from its first failure to the one that
	// opens. So one lost connection does not open the breaker, even if many calls were in flight on it. A failure that
	// ends within 10 ms of the last one counted is not counted. A streak does not expire.
	//
	// Unless FailingFor is negative, one burst does not fire the ratio and slow rules either. A burst is a run of bad
	// calls, each within 10 ms of the one before. Bad calls are failures and overloads for the ratio rule, and slow calls
	// for the slow rule. A burst lasts for at most a tenth of the window. The two rules fire only under two more
	// conditions. The share must be reached without the largest burst too, where half of MinCalls is enough. And bursts
	// must have begun in at least two tenths of the window, the oldest at least half of FailingFor ago (half of Window, if
	// that is shorter).
	//
	// 0: 1 s, or no minimum if ConsecutiveFailures is 1. Negative: no minimum, each failure counts, and bursts are not
	// left out.
	FailingFor time.Duration `json:"failingFor,omitempty" yaml:"failingFor,omitempty"`
	// FailureRatio, in (0, 1], is the share (failures + overloads) / calls in the window at which the breaker opens, if
	// the window holds MinCalls calls. 0: 0.5. Negative: the rule is off.
	FailureRatio float64 `json:"failureRatio,omitempty" yaml:"failureRatio,omitempty"`
	// MinCalls is how many calls the window must hold for the ratio and slow rules to open the breaker. During a Ramp it
	// is lower, in proportion to the share of calls that the ramp admits. 0: 20.
	MinCalls int `json:"minCalls,omitempty" yaml:"minCalls,omitempty"`
	// Window is how long an outcome counts for the ratio and slow rules. It slides in ten steps. If both rules are off
	// and there is no custom rule (WithTrip), nothing uses the window, and none is kept. Then a success reads no clock
	// (unless MaxConcurrent, Ramp or an override needs the lock), and Snapshot.Window and Event.Counts contain only
	// ConsecutiveFailures. 0: 10 s.
	Window time.Duration `json:"window,omitempty" yaml:"window,omitempty"`

	// SlowCall is the duration above which a call is slow. A call that its caller canceled after longer than that is
	// slow too (Report.Canceled). 0 or negative: the slow rule is off.
	SlowCall time.Duration `json:"slowCall,omitempty" yaml:"slowCall,omitempty"`
	// SlowRatio, in (0, 1], is the share of slow calls in the window at which the breaker opens, if the window holds
	// MinCalls calls. See Counts.SlowRatio. 0: 0.5.
	SlowRatio float64 `json:"slowRatio,omitempty" yaml:"slowRatio,omitempty"`

	// OpenFor is the first open period. 0: 1 s.
	OpenFor time.Duration `json:"openFor,omitempty" yaml:"openFor,omitempty"`
	// MaxOpenFor, at least OpenFor, limits the open period before jitter. A delay that the backend asked for
	// (Report.RetryAfter) may exceed it, up to one minute. 0: 10 s, or OpenFor if that is longer.
	MaxOpenFor time.Duration `json:"maxOpenFor,omitempty" yaml:"maxOpenFor,omitempty"`
	// Backoff, at least 1, multiplies the open period once for each failed recovery. A recovery fails if a probe fails. It
	// also fails if a rule opens the breaker soon after closing: after at most SuccessesToClose successes, and within the
	// longer of Window and the last open period. If more calls succeeded, the next rule that opens the breaker sets the
	// number of failed recoveries to 0. The number falls by one for each MaxOpenFor that the breaker spends closed or
	// half-open without a failed recovery. 0: 2.
	Backoff float64 `json:"backoff,omitempty" yaml:"backoff,omitempty"`
	// Jitter, in (0, 1], lengthens each open period d at random, to at most d*(1+Jitter), so that clients do not all
	// return at once. 0: 0.2. Negative: none.
	Jitter float64 `json:"jitter,omitempty" yaml:"jitter,omitempty"`

	// MaxProbes is how many probes of a half-open breaker may be in flight at once. 0: 1.
	MaxProbes int `json:"maxProbes,omitempty" yaml:"maxProbes,omitempty"`
	// SuccessesToClose is how many probes must succeed in a row to close the breaker. 0: 2.
	SuccessesToClose int `json:"successesToClose,omitempty" yaml:"successesToClose,omitempty"`
	// ProbeTimeout is the lease of a probe. A probe that has not reported when its lease expires is lost, and its slot is
	// free. Its call is not canceled. If it reports later, in the same half-open generation, a success still counts
	// towards closing, and a failure sets the number of successful probes to 0.
	//
	// Probes may hang and never report, if their calls have no deadline. The first 8 x MaxProbes of them cause no
	// delay. After that, the time between probes doubles with each 8 x MaxProbes more, up to an hour, or to
	// ProbeTimeout if that is longer.
	//
	// 0: 10 s.
	ProbeTimeout time.Duration `json:"probeTimeout,omitempty" yaml:"probeTimeout,omitempty"`
	// Ramp is the time after closing in which the share of calls that are admitted rises from 10% to 100%. If a rule
	// opens the breaker in that time, that is a failed recovery, however many calls succeeded. So a backend that flaps
	// every few seconds gets far fewer calls. 0 or negative: off.
	Ramp time.Duration `json:"ramp,omitempty" yaml:"ramp,omitempty"`

	// MaxConcurrent is how many calls may be in flight at once while the breaker is closed. In other states, MaxProbes
	// is the limit. A call whose permit is never reported counts forever, unless it is a probe whose lease has expired.
	// If MaxConcurrent is above 0, each admission takes the breaker's lock for some tens of nanoseconds. 0 or negative: no
	// limit.
	MaxConcurrent int `json:"maxConcurrent,omitempty" yaml:"maxConcurrent,omitempty"`

	// Enforcement is whether calls are rejected. An Override takes precedence. 0: EnforcementOn.
	Enforcement Enforcement `json:"enforcement,omitempty" yaml:"enforcement,omitempty"`
}

const (
	maxDuration = 100 * 365 * 24 * time.Hour
	minDuration = time.Millisecond
)

// ConfigError is the error of one field of a Config that is out of bounds. Validate joins one for each such field, and
// errors.As finds the first.
type ConfigError struct {
	Field string // the Go name of the field: "FailureRatio"
	Value any    // the value of the field
	Bound string // the values that are valid: "negative (off), 0 (0.5) or in (0, 1]"
}

// Error returns the field, its value and the valid values.
func (e *ConfigError) Error() string {
	return fmt.Sprintf("breaker: Config.%s is %v, want %s", e.Field, e.Value, e.Bound)
}

// Validate returns nil, or an error that joins one *ConfigError for each field that is out of bounds.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, field string, value any, bound string) {
		if !ok {
			errs = append(errs, &ConfigError{Field: field, Value: value, Bound: bound})
		}
	}
	count := func(v int, field, zero string) {
		check(v >= 0, field, v, "0 ("+zero+") or more")
	}
	duration := func(v time.Duration, field, zero string) {
		check(v == 0 || validDuration(v), field, v, "0 ("+zero+") or from 1ms to 100 years"+missingUnit(v))
	}
	durationOrOff := func(v time.Duration, field string) {
		check(v <= 0 || validDuration(v), field, v, "negative or 0 (off) or from 1ms to 100 years"+missingUnit(v))
	}
	ratio := func(v float64, off bool, field, bound string) {
		ok := (v >= 0 && v <= 1) || (off && v < 0 && !math.IsInf(v, -1)) // NaN passes none of these
		check(ok, field, v, bound)
	}

	// ConsecutiveFailures has no bound: any negative number means off.
	ratio(c.FailureRatio, true, "FailureRatio", "negative (off), 0 (0.5) or in (0, 1]")
	count(c.MinCalls, "MinCalls", "20")
	check(c.FailingFor <= 0 || validDuration(c.FailingFor), "FailingFor", c.FailingFor,
		"negative (none), 0 (1s, or none if ConsecutiveFailures is 1) or from 1ms to 100 years"+missingUnit(c.FailingFor))
	duration(c.Window, "Window", "10s")
	durationOrOff(c.SlowCall, "SlowCall")
	ratio(c.SlowRatio, false, "SlowRatio", "0 (0.5) or in (0, 1]")
	duration(c.OpenFor, "OpenFor", "1s")
	ratio(c.Jitter, true, "Jitter", "negative (none), 0 (0.2) or in (0, 1]")
	check(c.Backoff == 0 || (c.Backoff >= 1 && !math.IsInf(c.Backoff, 1)), "Backoff", c.Backoff,
		"0 (2) or a finite number from 1")
	count(c.MaxProbes, "MaxProbes", "1")
	count(c.SuccessesToClose, "SuccessesToClose", "2")
	duration(c.ProbeTimeout, "ProbeTimeout", "10s")
	durationOrOff(c.Ramp, "Ramp")
	// MaxConcurrent has no bound: any negative number means unlimited.
	check(c.Enforcement <= EnforcementOff, "Enforcement", c.Enforcement, "0 (enforce) or one of enforce, shadow and off")

	d := c.WithDefaults()
	check(c.MaxOpenFor == 0 || (validDuration(c.MaxOpenFor) && c.MaxOpenFor >= d.OpenFor), "MaxOpenFor", c.MaxOpenFor,
		fmt.Sprintf("0 (10s, or OpenFor if longer) or from OpenFor (%v) to 100 years", d.OpenFor)+missingUnit(c.MaxOpenFor))
	return errors.Join(errs...)
}

// validDuration reports whether d is from 1 ms to 100 years. A shorter one is probably a number without a unit.
func validDuration(d time.Duration) bool { return d >= minDuration && d <= maxDuration }

// missingUnit returns the end of an error text for d. If d is so short that its unit was probably forgotten, the text
// names the durations that may have been meant.
func missingUnit(d time.Duration) string {
	const text = "; a number without a unit is nanoseconds, probably "
	switch {
	case d <= 0 || d >= 100*time.Microsecond:
		return ""
	case d >= 10*time.Microsecond:
		return fmt.Sprintf(text+"%d*time.Millisecond was meant", int64(d))
	}
	return fmt.Sprintf(text+"%d*time.Second or %[1]d*time.Millisecond was meant", int64(d))
}

// WithDefaults returns c with each zero field replaced by its default. Fields for which zero means "off" or "no limit"
// stay zero. WithDefaults does not validate c and does not change other values.
func (c Config) WithDefaults() Config {
	setDefault(&c.ConsecutiveFailures, 5)
	if c.ConsecutiveFailures != 1 {
		setDefault(&c.FailingFor, time.Second)
	}
	setDefault(&c.FailureRatio, 0.5)
	setDefault(&c.MinCalls, 20)
	setDefault(&c.Window, 10*time.Second)
	setDefault(&c.SlowRatio, 0.5)
	setDefault(&c.OpenFor, time.Second)
	setDefault(&c.MaxOpenFor, max(10*time.Second, c.OpenFor))
	setDefault(&c.Backoff, 2)
	setDefault(&c.Jitter, 0.2)
	setDefault(&c.MaxProbes, 1)
	setDefault(&c.SuccessesToClose, 2)
	setDefault(&c.ProbeTimeout, 10*time.Second)
	setDefault(&c.Enforcement, EnforcementOn)
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Conservative returns a Config that opens after 5 failures in a row, for 60 s, and closes after 1 successful probe.
// MaxProbes is 1. FailingFor and back-off are off. All other fields have their default values; the ratio rule is on.
//
// Like the other presets, it is a policy known from other circuit breakers. The zero Config is better if short faults
// matter, because it does not open when one connection is lost. After an outage of 5 s, at 10 calls/s, Balanced rejects
// good calls for about a minute more, and the zero Config for about 4 s.
func Conservative() Config {
	return Config{
		ConsecutiveFailures: 5, FailingFor: -1, OpenFor: time.Minute, MaxProbes: 1, SuccessesToClose: 1, Backoff: 1,
	}.complete()
}

// Balanced returns the Config of [Conservative], but closes after 2 successful probes.
func Balanced() Config {
	return Config{
		ConsecutiveFailures: 5, FailingFor: -1, OpenFor: time.Minute, MaxProbes: 1, SuccessesToClose: 2, Backoff: 1,
	}.complete()
}

// Aggressive returns a Config that opens and probes sooner than the other presets. It opens after 3 failures in a row,
// for 30 s, and closes after 2 successful probes. MaxProbes is 2. FailingFor and back-off are off. See [Conservative]
// for when the zero Config is better.
func Aggressive() Config {
	return Config{
		ConsecutiveFailures: 3, FailingFor: -1, OpenFor: 30 * time.Second, MaxProbes: 2, SuccessesToClose: 2, Backoff: 1,
	}.complete()
}

// Lenient returns a Config that tolerates more failures than the other presets, and stays open longest. It opens after
// 10 failures in a row, for 120 s, and closes after 3 successful probes. MaxProbes is 3. FailingFor and back-off are
// off. See [Conservative] for when the zero Config is better.
func Lenient() Config {
	return Config{
		ConsecutiveFailures: 10, FailingFor: -1, OpenFor: 2 * time.Minute, MaxProbes: 3, SuccessesToClose: 3, Backoff: 1,
	}.complete()
}
