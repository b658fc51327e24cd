package breaker

import (
	"log/slog"
	"time"
)

// Snapshot is the state and the counters of a breaker at one instant. It holds values only and may be kept. Its JSON
// names are stable, its durations are nanoseconds in JSON, and json.Unmarshal reads it back. Admitted and the fields
// below it count over the life of the breaker. In each snapshot
//
//	Admitted = Successes + Failures + Overloads + Ignored + Late + InFlight
//
// The number of calls is Admitted + Rejections.Total(). Calls whose context was done in Acquire are not counted.
type Snapshot struct {
	Key   Key   `json:"key"`
	State State `json:"state"` // Open under ForceOpen, Closed under ForceClosed, otherwise Underlying
	// Underlying is the state of the breaker without its override.
	Underlying State     `json:"underlying"`
	Generation uint64    `json:"generation"` // the current one; the first is 1
	Since      time.Time `json:"since"`      // when the generation began, by the wall clock
	Ready      bool      `json:"ready"`      // reports whether a call would be admitted now
	// RetryAfter is the rest of the open period. It is 0 if Underlying is not Open or the period is over.
	RetryAfter time.Duration `json:"retryAfter"`
	// Mode is in force: that of Override, or that of Config.Enforcement. It is zero if calls are rejected as the breaker
	// decides.
	Mode Mode `json:"mode"`
	// Override is the override in force. It is zero if there is none. Its TTL is the time that is left, or 0 if it lasts
	// until it is cleared.
	Override Override `json:"override"`

	// Window holds the counts of the window, see Config.Window. It is zero unless Underlying is Closed.
	Window Counts `json:"window"`
	// MinCalls is how many calls Window must hold for the ratio and slow rules to fire: Config.MinCalls, reduced during
	// a ramp. For the slow rule, calls are Window.Calls() + Window.SlowCanceled.
	MinCalls    uint64    `json:"minCalls"`
	LastFailure time.Time `json:"lastFailure"` // when the last failure or overload ended; zero if there was none
	LastCause   string    `json:"lastCause"`   // Report.Cause of the last failure or overload
	// OpenUntil is the end of the open period. It is zero unless Underlying is Open. The first call after it is a probe.
	OpenUntil time.Time `json:"openUntil"`
	// Opened is what opened the breaker most recently. It is zero if the breaker has never been open.
	Opened Opening `json:"opened"`
	// Outage is what began the outage: the opening that ended the last closed generation. It is zero while Underlying is
	// Closed.
	Outage Opening `json:"outage"`
	// FailedRecoveries lengthen the open period, see Config.Backoff.
	FailedRecoveries int `json:"failedRecoveries"`

	Admitted  uint64 `json:"admitted"` // permits issued
	Successes uint64 `json:"successes"`
	Failures  uint64 `json:"failures"`
	Overloads uint64 `json:"overloads"`
	Ignored   uint64 `json:"ignored"`
	Late      uint64 `json:"late"`      // results of calls of an earlier generation, or of lost probes
	InFlight  uint64 `json:"inFlight"`  // permits that have not reported
	SlowCalls uint64 `json:"slowCalls"` // also counted by outcome

	Rejections       ReasonCounts   `json:"rejections"`
	ShadowRejections ReasonCounts   `json:"shadowRejections"` // calls that were admitted only because of Shadow
	Trips            RuleCounts     `json:"trips"`            // how often a rule, or Trip, opened the closed breaker
	ShadowTrips      RuleCounts     `json:"shadowTrips"`      // the same under Shadow; these are not in Trips
	Recoveries       uint64         `json:"recoveries"`       // how often the breaker closed after it had been open
	Probes           ProbeCounts    `json:"probes"`
	NotClosed        time.Duration  `json:"notClosed"` // how long Underlying was Open or HalfOpen
	Fallbacks        FallbackCounts `json:"fallbacks"`

	Config     Config `json:"config"`     // in force, with defaults
	CustomRule bool   `json:"customRule"` // there is a rule of WithTrip
}

// ReasonCounts counts rejections by Reason.
type ReasonCounts struct {
	Open        uint64 `json:"open"`
	HalfOpen    uint64 `json:"halfOpen"`
	Ramp        uint64 `json:"ramp"`
	Forced      uint64 `json:"forced"`
	Concurrency uint64 `json:"concurrency"`
}

// Total returns the sum over all reasons. It stays at the maximum and does not wrap.
func (c ReasonCounts) Total() uint64 {
	return satAdd(c.Open, c.HalfOpen, c.Ramp, c.Forced, c.Concurrency)
}

// RuleCounts counts by Rule how often a breaker opened.
type RuleCounts struct {
	Consecutive uint64 `json:"consecutive"`
	Ratio       uint64 `json:"ratio"`
	Slow        uint64 `json:"slow"`
	Custom      uint64 `json:"custom"`
	Manual      uint64 `json:"manual"`
}

// Total returns the sum over all rules. It stays at the maximum and does not wrap.
func (c RuleCounts) Total() uint64 {
	return satAdd(c.Consecutive, c.Ratio, c.Slow, c.Custom, c.Manual)
}

// ProbeCounts counts probes by their result.
type ProbeCounts struct {
	Success uint64 `json:"success"`
	Failure uint64 `json:"failure"` // failures, overloads and slow probes
	Ignored uint64 `json:"ignored"`
	Lost    uint64 `json:"lost"` // did not report within Config.ProbeTimeout
}

// FallbackCounts counts the calls of CountFallback.
type FallbackCounts struct {
	Served uint64 `json:"served"` // the fallback answered
	Failed uint64 `json:"failed"` // the fallback failed too
}

// State returns Open while an override forces the breaker open, Closed while one forces it closed, and otherwise the
// state of the breaker. It changes nothing: after the open period the breaker is Open until a call arrives.
func (b *Breaker) State() State {
	ph := b.phase.Load()
	if ph.kind == removed {
		if live, ok := b.shared.group.Lookup(b.key); ok && live != b {
			return live.State()
		}
	}
	if ph.override == nil && ph.pol.mode == 0 {
		return ph.state
	}
	return ph.shownState(clock())
}

// shownState returns the state that State and Snapshot.State show at now.
func (ph *phase) shownState(now int64) State {
	switch ph.modeAt(now) {
	case ForceOpen:
		return Open
	case ForceClosed:
		return Closed
	case Shadow:
	}
	return ph.state
}

// Snapshot returns the state and the counters of the breaker. It changes nothing. It holds the breaker's lock for about
// as long as a report of a failure does.
func (b *Breaker) Snapshot() Snapshot {
	if b.phase.Load().kind == removed { // or tryEvict is about to undo the eviction; then b is still in the table
		if live, ok := b.shared.group.Lookup(b.key); ok && live != b {
			return live.Snapshot()
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	ph := b.phase.Load()
	t := time.Now()
	now := instant(t)
	s := Snapshot{
		Key:        b.key,
		State:      ph.shownState(now),
		Underlying: ph.state,
		Generation: ph.gen,
		Since:      time.Unix(0, ph.wall),
		MinCalls:   ph.minCalls(now),
		Mode:       ph.modeAt(now),
		Config:     ph.pol.cfg,
		CustomRule: b.shared.trip != nil,
	}
	if ph.override.inForce(now) {
		s.Override = ph.override.Override
		if ph.override.expires != 0 {
			s.Override.TTL = time.Duration(ph.override.expires - now)
		}
	}
	switch ph.state {
	case Closed:
		s.Window = ph.win.counts(now, ph.pol.bucket)
	case Open:
		s.RetryAfter = time.Duration(max(0, ph.gate.until.Load()-now))
		s.OpenUntil = ph.gate.rejected.Until.Round(0)
	case HalfOpen:
	}
	// After the window is read. Otherwise the window might hold more successes than the total.
	var admitted uint64
	v := view{b: b, ph: ph, now: now}
	admitted, s.Successes = v.callCounts()
	if lazy := b.lazy.Load(); lazy != nil {
		lazy.fill(&s, ph, now)
	}
	settled := satAdd(s.Successes, s.Failures, s.Overloads, s.Ignored, s.Late)
	s.Admitted = max(admitted, settled)
	s.InFlight = s.Admitted - settled // so that the sum holds, whatever happens meanwhile
	s.Ready = v.ready()
	return s
}

// fill copies the lazy state to s. Caller must hold Breaker.mu.
func (l *lazyState) fill(s *Snapshot, ph *phase, now int64) {
	t := &l.totals
	s.LastFailure, s.LastCause, s.Opened = t.lastFailure, t.lastCause, t.opened
	s.FailedRecoveries = l.backoff.at(now, ph.pol)
	s.Failures, s.Overloads, s.Ignored, s.Late, s.SlowCalls = t.failures, t.overloads, t.ignored, t.late, t.slow
	s.Rejections = reasonCounts(l.rejected)
	s.ShadowRejections = reasonCounts(func(r Reason) uint64 { return t.shadow[r] })
	s.Trips, s.ShadowTrips = ruleCounts(&t.trips), ruleCounts(&t.shadowTrips)
	s.Recoveries = t.recoveries
	s.Probes = l.probes.countsAt(now)
	s.NotClosed = t.notClosedFor(ph, now)
	if ph.state != Closed {
		s.Outage = t.outage
	}
	s.Fallbacks = FallbackCounts{Failed: l.fallbacks[0].Load(), Served: l.fallbacks[1].Load()}
}

func ruleCounts(of *[rules]uint64) RuleCounts {
	return RuleCounts{
		Consecutive: of[RuleConsecutive],
		Ratio:       of[RuleRatio],
		Slow:        of[RuleSlow],
		Custom:      of[RuleCustom],
		Manual:      of[RuleManual],
	}
}

func reasonCounts(of func(Reason) uint64) ReasonCounts {
	return ReasonCounts{
		Open:        of(ReasonOpen),
		HalfOpen:    of(ReasonHalfOpen),
		Ramp:        of(ReasonRamp),
		Forced:      of(ReasonForced),
		Concurrency: of(ReasonConcurrency),
	}
}

// LogValue returns the key, the state, since when, and what is known of the opening, the time to wait and the override.
func (s Snapshot) LogValue() slog.Value {
	attrs := append(make([]slog.Attr, 0, 10),
		slog.String("key", s.Key.String()), slog.String("state", s.State.String()), slog.Time("since", s.Since),
		slog.Bool("ready", s.Ready), slog.Uint64("admitted", s.Admitted), slog.Uint64("rejected", s.Rejections.Total()))
	if s.Underlying != Closed {
		attrs = append(attrs, slog.Any("opened", s.Opened), slog.Duration("retry_after", s.RetryAfter))
	}
	if s.Override.Mode != 0 {
		attrs = append(attrs, slog.String("underlying", s.Underlying.String()), slog.Any("override", s.Override))
	}
	return slog.GroupValue(attrs...)
}
