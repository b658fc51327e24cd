package breaker

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Config says when a breaker opens, for how long, and how it recovers. It is plain, comparable data; the zero Config is
// the default and protects. A zero field stands for the default that its comment names, and "negative" switches a rule
// off where the comment says so; every other value out of bounds is an error from Validate, never clamped.
//
// A duration that is not zero lies between 1 ms and 100 years (of 365 days). Shorter ones are errors because they are
// nearly always a number without its unit: OpenFor: 5 is five nanoseconds. In JSON a duration is a number of
// nanoseconds.
type Config struct {
	// ConsecutiveFailures is the length of the failure streak that opens, if it has also lasted FailingFor. 0: 5.
	// Negative: the rule is off.
	ConsecutiveFailures int `json:"consecutiveFailures,omitempty" yaml:"consecutiveFailures,omitempty"`
	// FailingFor is how long a failure streak must last to open, from its first failure to the one that opens, so
	// that one lost connection does not open the breaker, however many calls were in flight on it. A failure that
	// ends within 10 ms of the last one counted is not counted. A streak does not expire.
	//
	// Unless FailingFor is negative, one burst cannot fire the ratio and slow rules either. A burst is bad calls
	// (failures and overloads, or slow calls), each within 10 ms of the one before, over at most a tenth of the
	// window. The rules must hold without the largest burst too, where half of MinCalls is enough. And bursts must
	// begin in two tenths of the window, over half of FailingFor (or of the window, if that is shorter).
	//
	// 0: 1 s, or none if ConsecutiveFailures is 1. Negative: no minimum, each failure counts, and no protection from
	// bursts.
	FailingFor time.Duration `json:"failingFor,omitempty" yaml:"failingFor,omitempty"`
	// FailureRatio, in (0, 1], opens when (failures + overloads) / calls in the window reaches it and MinCalls are
	// there. 0: 0.5. Negative: the rule is off.
	FailureRatio float64 `json:"failureRatio,omitempty" yaml:"failureRatio,omitempty"`
	// MinCalls is how many calls the window must hold before the ratio and slow rules look at it. 0: 20.
	MinCalls int `json:"minCalls,omitempty" yaml:"minCalls,omitempty"`
	// Window is how long an outcome counts for the ratio and slow rules. It slides in ten steps. Where both are off,
	// and there is no rule of WithTrip, nothing looks at the window, so none is kept: a success then reads no clock
	// (unless MaxConcurrent, Ramp or an override needs the lock), and all that Snapshot.Window and Event.Counts
	// tell is the number of consecutive failures. 0: 10 s. At least 1 ms.
	Window time.Duration `json:"window,omitempty" yaml:"window,omitempty"`

	// SlowCall is the duration above which a call is slow. A call that its caller canceled after longer than that is
	// slow too (Report.Canceled). 0 or negative: the slow rule is off.
	SlowCall time.Duration `json:"slowCall,omitempty" yaml:"slowCall,omitempty"`
	// SlowRatio, in (0, 1], opens when slow calls / calls in the window reaches it and MinCalls are there. 0: 0.5.
	SlowRatio float64 `json:"slowRatio,omitempty" yaml:"slowRatio,omitempty"`

	// OpenFor is the first open period. 0: 1 s.
	OpenFor time.Duration `json:"openFor,omitempty" yaml:"openFor,omitempty"`
	// MaxOpenFor caps the open period before jitter. 0: 10 s, or OpenFor if that is longer. Not below OpenFor.
	MaxOpenFor time.Duration `json:"maxOpenFor,omitempty" yaml:"maxOpenFor,omitempty"`
	// Backoff, at least 1, multiplies the open period for each failed recovery. A recovery fails if a probe fails, or
	// if a rule opens the breaker again within the longer of Window and the last open period after closing, after at
	// most SuccessesToClose successes. After more successes the failed recoveries are forgotten. One is forgotten for
	// each MaxOpenFor that passes without another one and without being open. 0: 2.
	Backoff float64 `json:"backoff,omitempty" yaml:"backoff,omitempty"`
	// Jitter, in (0, 1], draws each open period from [d, d*(1+Jitter)], so that clients do not come back in step.
	// 0: 0.2. Negative: none.
	Jitter float64 `json:"jitter,omitempty" yaml:"jitter,omitempty"`

	// MaxProbes is how many probes may be out at once while half-open. 0: 1.
	MaxProbes int `json:"maxProbes,omitempty" yaml:"maxProbes,omitempty"`
	// SuccessesToClose is how many probes must succeed in a row to close. 0: 2.
	SuccessesToClose int `json:"successesToClose,omitempty" yaml:"successesToClose,omitempty"`
	// ProbeTimeout is the lease of a probe: one that has not reported by then is lost and its slot free. It cancels
	// nothing, and while the breaker is half-open a success that comes later still counts towards closing, and a
	// failure ends the row of them. Where probes hang and never report, as calls without a deadline may, the first 8
	// x MaxProbes of them delay nothing; then the time from one to the next doubles with each 8 x MaxProbes more, up
	// to an hour, or to ProbeTimeout if that is longer. 0: 10 s.
	ProbeTimeout time.Duration `json:"probeTimeout,omitempty" yaml:"probeTimeout,omitempty"`
	// Ramp is how long after closing the breaker takes to go from admitting 10% of the calls to all of them. If it
	// opens in that time, that is a failed recovery, however many calls succeeded; a backend that flaps every few
	// seconds is then served much less. 0 or negative: off.
	Ramp time.Duration `json:"ramp,omitempty" yaml:"ramp,omitempty"`

	// MaxConcurrent is how many calls may be in flight at once while the breaker is closed; in other states MaxProbes
	// says. A permit that is never reported counts until it is. Above 0 each admission takes the breaker's lock for
	// some tens of nanoseconds. 0 or negative: unlimited.
	MaxConcurrent int `json:"maxConcurrent,omitempty" yaml:"maxConcurrent,omitempty"`

	// Enforcement is whether calls are rejected. An Override with a Mode of its own wins. 0: EnforcementOn.
	Enforcement Enforcement `json:"enforcement,omitempty" yaml:"enforcement,omitempty"`
}

const (
	maxDuration = 100 * 365 * 24 * time.Hour
	minDuration = time.Millisecond
)

// ConfigError says which field of a Config is out of bounds. Validate joins one for each such field; errors.As finds
// the first.
type ConfigError struct {
	Field string // the Go name of the field: "FailureRatio"
	Value any    // what it was
	Bound string // what it may be: "negative (off), 0 (0.5) or in (0, 1]"
}

// Error names field, value and bound.
func (e *ConfigError) Error() string {
	return fmt.Sprintf("breaker: Config.%s is %v, want %s", e.Field, e.Value, e.Bound)
}

// Validate returns nil, or an error that joins one *ConfigError for every field out of bounds.
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
	check(c.Backoff == 0 || (c.Backoff >= 1 && !math.IsInf(c.Backoff, 1)), "Backoff", c.Backoff, "0 (2) or a finite number from 1")
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

// validDuration reports whether d is a duration that is meant as one.
func validDuration(d time.Duration) bool { return d >= minDuration && d <= maxDuration }

// missingUnit is the end of an error text for d: what was probably meant, if d is so short that its unit was forgotten.
func missingUnit(d time.Duration) string {
	switch {
	case d <= 0 || d >= 100*time.Microsecond:
		return ""
	case d >= 10*time.Microsecond:
		return fmt.Sprintf("; a number without a unit is nanoseconds, probably %d*time.Millisecond was meant", int64(d))
	}
	return fmt.Sprintf("; a number without a unit is nanoseconds, probably %d*time.Second or %[1]d*time.Millisecond was meant", int64(d))
}

// WithDefaults returns c with every zero field replaced by its default. It neither validates nor changes other values.
func (c Config) WithDefaults() Config {
	def(&c.ConsecutiveFailures, 5)
	if c.ConsecutiveFailures != 1 {
		def(&c.FailingFor, time.Second)
	}
	def(&c.FailureRatio, 0.5)
	def(&c.MinCalls, 20)
	def(&c.Window, 10*time.Second)
	def(&c.SlowRatio, 0.5)
	def(&c.OpenFor, time.Second)
	def(&c.MaxOpenFor, max(10*time.Second, c.OpenFor))
	def(&c.Backoff, 2)
	def(&c.Jitter, 0.2)
	def(&c.MaxProbes, 1)
	def(&c.SuccessesToClose, 2)
	def(&c.ProbeTimeout, 10*time.Second)
	def(&c.Enforcement, EnforcementOn)
	return c
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Conservative stays open for 60 s and closes after one successful probe: 5 failures in a row open, 1 probe at once,
// 1 success closes. FailingFor and back-off are off; fields that it does not set have their defaults, the ratio rule
// included.
//
// Like the other presets it is a policy known from other breakers. The zero Config is the better choice where short
// faults matter: it does not open for one lost connection. After an outage of 5 s, at 10 calls/s, Balanced rejects
// good calls for about a minute more, the zero Config for about 4 s.
func Conservative() Config {
	return Config{ConsecutiveFailures: 5, FailingFor: -1, OpenFor: time.Minute, MaxProbes: 1, SuccessesToClose: 1, Backoff: 1}.complete()
}

// Balanced is [Conservative] with 2 successes to close.
func Balanced() Config {
	return Config{ConsecutiveFailures: 5, FailingFor: -1, OpenFor: time.Minute, MaxProbes: 1, SuccessesToClose: 2, Backoff: 1}.complete()
}

// Aggressive opens and probes sooner than the other presets: 3 failures in a row open for 30 s, 2 probes at once, 2
// successes close. FailingFor and back-off are off. See [Conservative] for when the zero Config is better.
func Aggressive() Config {
	return Config{ConsecutiveFailures: 3, FailingFor: -1, OpenFor: 30 * time.Second, MaxProbes: 2, SuccessesToClose: 2, Backoff: 1}.complete()
}

// Lenient tolerates more failures before it opens, and stays open longest: 10 failures in a row open for 120 s, 3
// probes at once, 3 successes close. FailingFor and back-off are off. See [Conservative] for when the zero Config is
// better.
func Lenient() Config {
	return Config{ConsecutiveFailures: 10, FailingFor: -1, OpenFor: 2 * time.Minute, MaxProbes: 3, SuccessesToClose: 3, Backoff: 1}.complete()
}
