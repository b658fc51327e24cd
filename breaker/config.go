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
// No duration may be longer than 100 years (of 365 days), so that no sum of instants overflows. In JSON a duration is a
// number of nanoseconds.
type Config struct {
	// ConsecutiveFailures opens after so many failures without a success between them, however far apart they lie.
	// 0: 5. Negative: the rule is off.
	ConsecutiveFailures int `json:"consecutiveFailures,omitempty" yaml:"consecutiveFailures,omitempty"`
	// FailureRatio, in (0, 1], opens when (failures + overloads) / calls in the window reaches it and MinCalls are there.
	// 0: 0.5. Negative: the rule is off.
	FailureRatio float64 `json:"failureRatio,omitempty" yaml:"failureRatio,omitempty"`
	// MinCalls is how many calls the window must hold before the ratio and slow rules look at it. 0: 20.
	MinCalls int `json:"minCalls,omitempty" yaml:"minCalls,omitempty"`
	// Window is how long an outcome counts for the ratio and slow rules. It slides in ten steps. Where both are off, and there
	// is no rule of WithTrip, nothing looks at the window, so none is kept: a success then reads no clock (unless
	// MaxConcurrent, Ramp or an override asks for the lock), and all that Snapshot.Window and Event.Counts tell is the number
	// of consecutive failures. 0: 10 s. At least 1 ms.
	Window time.Duration `json:"window,omitempty" yaml:"window,omitempty"`

	// SlowCall is the duration above which a call is slow. 0: the slow rule is off.
	SlowCall time.Duration `json:"slowCall,omitempty" yaml:"slowCall,omitempty"`
	// SlowRatio, in (0, 1], opens when slow calls / calls in the window reaches it and MinCalls are there. 0: 0.5.
	SlowRatio float64 `json:"slowRatio,omitempty" yaml:"slowRatio,omitempty"`

	// OpenFor is the first open period. 0: 5 s.
	OpenFor time.Duration `json:"openFor,omitempty" yaml:"openFor,omitempty"`
	// MaxOpenFor caps the open period before jitter. 0: 60 s, or OpenFor if that is longer. Not below OpenFor.
	MaxOpenFor time.Duration `json:"maxOpenFor,omitempty" yaml:"maxOpenFor,omitempty"`
	// Backoff, at least 1, multiplies the open period for each recovery that failed. 0: 2.
	Backoff float64 `json:"backoff,omitempty" yaml:"backoff,omitempty"`
	// Jitter, in (0, 1], draws each open period from [d, d*(1+Jitter)], so that clients do not come back in step.
	// 0: 0.2. Negative: none.
	Jitter float64 `json:"jitter,omitempty" yaml:"jitter,omitempty"`

	// MaxProbes is how many probes may be out at once while half-open. 0: 1.
	MaxProbes int `json:"maxProbes,omitempty" yaml:"maxProbes,omitempty"`
	// SuccessesToClose is how many probes must succeed in a row to close. 0: 2.
	SuccessesToClose int `json:"successesToClose,omitempty" yaml:"successesToClose,omitempty"`
	// ProbeTimeout is the lease of a probe: one that has not reported by then is lost and its slot free. It cancels
	// nothing, and while the breaker is half-open a success that comes later still counts towards closing, and a failure
	// ends the row of them. Where probes hang and never report, as calls without a deadline may, the first
	// 8 x MaxProbes of them delay nothing; then the time from one to the next doubles with each 8 x MaxProbes more, up to
	// an hour, or to ProbeTimeout if that is longer. 0: 10 s.
	ProbeTimeout time.Duration `json:"probeTimeout,omitempty" yaml:"probeTimeout,omitempty"`
	// Ramp is how long after closing the breaker takes to go from admitting 10% of the calls to all of them. 0: off.
	Ramp time.Duration `json:"ramp,omitempty" yaml:"ramp,omitempty"`

	// MaxConcurrent is how many calls may be in flight at once while the breaker is closed; in other states MaxProbes says. A
	// permit that is never reported counts until it is. Above 0 each admission takes the breaker's lock for some tens of
	// nanoseconds. 0: unlimited.
	MaxConcurrent int `json:"maxConcurrent,omitempty" yaml:"maxConcurrent,omitempty"`
}

const (
	maxDuration = 100 * 365 * 24 * time.Hour
	minWindow   = time.Millisecond
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
		check(v >= 0 && v <= maxDuration, field, v, "0 ("+zero+") or up to 100 years")
	}
	ratio := func(v float64, off bool, field, bound string) {
		ok := (v >= 0 && v <= 1) || (off && v < 0 && !math.IsInf(v, -1)) // NaN passes none of these
		check(ok, field, v, bound)
	}

	// ConsecutiveFailures has no bound: any negative number means off.
	ratio(c.FailureRatio, true, "FailureRatio", "negative (off), 0 (0.5) or in (0, 1]")
	count(c.MinCalls, "MinCalls", "20")
	check(c.Window == 0 || (c.Window >= minWindow && c.Window <= maxDuration),
		"Window", c.Window, "0 (10s) or from 1ms to 100 years")
	duration(c.SlowCall, "SlowCall", "off")
	ratio(c.SlowRatio, false, "SlowRatio", "0 (0.5) or in (0, 1]")
	duration(c.OpenFor, "OpenFor", "5s")
	ratio(c.Jitter, true, "Jitter", "negative (none), 0 (0.2) or in (0, 1]")
	check(c.Backoff == 0 || (c.Backoff >= 1 && !math.IsInf(c.Backoff, 1)), "Backoff", c.Backoff, "0 (2) or a finite number from 1")
	count(c.MaxProbes, "MaxProbes", "1")
	count(c.SuccessesToClose, "SuccessesToClose", "2")
	duration(c.ProbeTimeout, "ProbeTimeout", "10s")
	duration(c.Ramp, "Ramp", "off")
	count(c.MaxConcurrent, "MaxConcurrent", "unlimited")

	d := c.WithDefaults()
	check(c.MaxOpenFor == 0 || (c.MaxOpenFor > 0 && c.MaxOpenFor <= maxDuration && c.MaxOpenFor >= d.OpenFor),
		"MaxOpenFor", c.MaxOpenFor, fmt.Sprintf("0 (60s, or OpenFor if longer) or from OpenFor (%v) to 100 years", d.OpenFor))
	return errors.Join(errs...)
}

// WithDefaults returns c with every zero field replaced by its default. It neither validates nor changes other values.
func (c Config) WithDefaults() Config {
	def(&c.ConsecutiveFailures, 5)
	def(&c.FailureRatio, 0.5)
	def(&c.MinCalls, 20)
	def(&c.Window, 10*time.Second)
	def(&c.SlowRatio, 0.5)
	def(&c.OpenFor, 5*time.Second)
	def(&c.MaxOpenFor, max(60*time.Second, c.OpenFor))
	def(&c.Backoff, 2)
	def(&c.Jitter, 0.2)
	def(&c.MaxProbes, 1)
	def(&c.SuccessesToClose, 2)
	def(&c.ProbeTimeout, 10*time.Second)
	return c
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Conservative gives a callee a full minute of rest and trusts its first good answer: 5 failures in a row open for 60 s,
// 1 probe, 1 success closes, no back-off. What it does not name has its default, the ratio rule among it. The zero Config asks
// again sooner than this and the three below: after 5 s, and only from one failed recovery to the next after up to 60 s.
func Conservative() Config {
	return Config{ConsecutiveFailures: 5, OpenFor: time.Minute, MaxProbes: 1, SuccessesToClose: 1, Backoff: 1}
}

// Balanced is Conservative with 2 successes to close.
func Balanced() Config {
	return Config{ConsecutiveFailures: 5, OpenFor: time.Minute, MaxProbes: 1, SuccessesToClose: 2, Backoff: 1}
}

// Aggressive opens sooner than the other presets, asks again sooner, and with more probes: 3 failures in a row open for 30 s,
// 2 probes at once, 2 successes close, no back-off.
func Aggressive() Config {
	return Config{ConsecutiveFailures: 3, OpenFor: 30 * time.Second, MaxProbes: 2, SuccessesToClose: 2, Backoff: 1}
}

// Lenient is for a callee that fails a lot and whose absence hurts more: 10 failures in a row open for 120 s, 3 probes at
// once, 3 successes close, no back-off.
func Lenient() Config {
	return Config{ConsecutiveFailures: 10, OpenFor: 2 * time.Minute, MaxProbes: 3, SuccessesToClose: 3, Backoff: 1}
}
