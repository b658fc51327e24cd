package breaker

import "time"

// Snapshot is what a breaker knows, at one instant. It holds values only and may be kept; its JSON names are stable,
// and durations in it are nanoseconds. At any time
//
//	Admitted = Successes + Failures + Overloads + Ignored + Late + InFlight
//
// and the calls that asked are Admitted + Rejections.Total().
type Snapshot struct {
	Key   Key   `json:"key"`
	State State `json:"state"` // as State() has it: Open under ForceOpen, Closed under ForceClosed
	// Underlying is the state that shows again when the override in force ends; without one it is State.
	Underlying State     `json:"underlying"`
	Generation uint64    `json:"generation"` // of the stay in Underlying; 1 is the first
	Since      time.Time `json:"since"`      // when that stay began
	Ready      bool      `json:"ready"`      // whether a call would be let through now
	// RetryAfter is what is left of the open period; 0 unless Underlying is Open, and at its end.
	RetryAfter time.Duration `json:"retryAfter"`
	// Override is in force; its zero value means that none is. Its TTL is what is left of it, and 0 if it has none.
	Override Override `json:"override"`

	Window      Counts    `json:"window"`      // of the window, see Config.Window; zero unless Underlying is Closed
	MinCalls    uint64    `json:"minCalls"`    // calls that Window must hold before its ratios mean something; for SlowRatio, SlowCanceled among them
	LastFailure time.Time `json:"lastFailure"` // of the last failure or overload; zero if there was none
	// FailedRecoveries is what the back-off of the open period counts.
	FailedRecoveries int `json:"failedRecoveries"`

	Admitted  uint64 `json:"admitted"`
	Successes uint64 `json:"successes"`
	Failures  uint64 `json:"failures"`
	Overloads uint64 `json:"overloads"`
	Ignored   uint64 `json:"ignored"`
	Late      uint64 `json:"late"` // results of an earlier stay, or of a lost probe
	InFlight  uint64 `json:"inFlight"`
	SlowCalls uint64 `json:"slowCalls"`

	Rejections       ReasonCounts   `json:"rejections"`
	ShadowRejections ReasonCounts   `json:"shadowRejections"` // what Shadow let through
	Trips            RuleCounts     `json:"trips"`
	Recoveries       uint64         `json:"recoveries"` // times closed after having been open
	Probes           ProbeCounts    `json:"probes"`
	NotClosed        time.Duration  `json:"notClosed"` // time that Underlying was not Closed
	Fallbacks        FallbackCounts `json:"fallbacks"`
}

// ReasonCounts counts calls by Reason.
type ReasonCounts struct {
	Open        uint64 `json:"open"`
	HalfOpen    uint64 `json:"halfOpen"`
	Ramp        uint64 `json:"ramp"`
	Forced      uint64 `json:"forced"`
	Concurrency uint64 `json:"concurrency"`
}

// Total is the sum over all reasons.
func (c ReasonCounts) Total() uint64 {
	return satAdd(c.Open, c.HalfOpen, c.Ramp, c.Forced, c.Concurrency)
}

// RuleCounts counts trips by Rule.
type RuleCounts struct {
	Consecutive uint64 `json:"consecutive"`
	Ratio       uint64 `json:"ratio"`
	Slow        uint64 `json:"slow"`
	Custom      uint64 `json:"custom"`
	Probe       uint64 `json:"probe"`
	Manual      uint64 `json:"manual"`
}

// Total is the sum over all rules.
func (c RuleCounts) Total() uint64 {
	return satAdd(c.Consecutive, c.Ratio, c.Slow, c.Custom, c.Probe, c.Manual)
}

// ProbeCounts counts probes by how they went.
type ProbeCounts struct {
	Success uint64 `json:"success"`
	Failure uint64 `json:"failure"` // slow ones too
	Ignored uint64 `json:"ignored"`
	Lost    uint64 `json:"lost"` // did not report within ProbeTimeout
}

// FallbackCounts counts what CountFallback was told.
type FallbackCounts struct {
	Served uint64 `json:"served"`
	Failed uint64 `json:"failed"`
}

// State returns where the breaker stands: Open while an override forces it open, Closed while one forces it closed, and
// what it is of itself otherwise. It changes nothing: past its deadline an open breaker stays Open until a call asks.
func (b *Breaker) State() State {
	ph := b.phase.Load()
	if ph.kind == removed {
		if live, ok := b.shared.group.Lookup(b.key); ok && live != b {
			return live.State()
		}
	}
	if ph.override == nil {
		return ph.state
	}
	return ph.shown(clock())
}

// shown is the state that a person sees.
func (ph *phase) shown(now int64) State {
	if ph.override.inForce(now) {
		switch ph.override.Mode {
		case ForceOpen:
			return Open
		case ForceClosed:
			return Closed
		case Shadow:
		}
	}
	return ph.state
}

// Snapshot returns what the breaker knows. It changes nothing, and holds the breaker's lock for as long as a failure
// does.
func (b *Breaker) Snapshot() Snapshot {
	if b.phase.Load().kind == removed { // for good, but for the instants of an eviction that is called off
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
		State:      ph.shown(now),
		Underlying: ph.state,
		Generation: ph.gen,
		Since:      time.Unix(0, ph.wall),
		MinCalls:   ph.minCalls(now),
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
	case HalfOpen:
	}
	// After the window, or that might hold more successes than there ever were.
	var admitted uint64
	admitted, s.Successes = b.started(ph)
	if c := b.lazy.Load(); c != nil {
		c.fill(&s, ph, now)
	}
	settled := satAdd(s.Successes, s.Failures, s.Overloads, s.Ignored, s.Late)
	s.Admitted = max(admitted, settled)
	s.InFlight = s.Admitted - settled // so the sum holds, whatever runs beside this
	s.Ready = b.ready(ph, now)
	return s
}

// started reads how many calls were admitted, and how many of them succeeded, at one instant if it can: calls go on
// while it reads. If it cannot, admitted is the older figure, so that calls that come and go meanwhile are not taken
// for being in flight; then InFlight may be too small. Caller must hold b.mu.
func (b *Breaker) started(ph *phase) (admitted, successes uint64) {
	for range 4 {
		admitted, successes = b.admittedTotal(), b.successes(ph)
		if b.admittedTotal() == admitted {
			break
		}
	}
	return admitted, successes
}

// fill writes what the cold part knows. Caller must hold Breaker.mu.
func (c *lazyState) fill(s *Snapshot, ph *phase, now int64) {
	s.LastFailure = c.lastFailure
	s.FailedRecoveries = c.backoff.at(now, ph.pol)
	s.Failures, s.Overloads, s.Ignored, s.Late, s.SlowCalls = c.failures, c.overloads, c.ignored, c.late, c.slow
	s.Rejections = ReasonCounts{
		Open:        c.rejected(ReasonOpen),
		HalfOpen:    c.rejected(ReasonHalfOpen),
		Ramp:        c.rejected(ReasonRamp),
		Forced:      c.rejected(ReasonForced),
		Concurrency: c.rejected(ReasonConcurrency),
	}
	s.ShadowRejections = ReasonCounts{
		Open:        c.shadow[ReasonOpen],
		HalfOpen:    c.shadow[ReasonHalfOpen],
		Ramp:        c.shadow[ReasonRamp],
		Forced:      c.shadow[ReasonForced],
		Concurrency: c.shadow[ReasonConcurrency],
	}
	s.Trips = RuleCounts{
		Consecutive: c.trips[RuleConsecutive],
		Ratio:       c.trips[RuleRatio],
		Slow:        c.trips[RuleSlow],
		Custom:      c.trips[RuleCustom],
		Probe:       c.trips[RuleProbe],
		Manual:      c.trips[RuleManual],
	}
	s.Recoveries = c.recoveries
	s.Probes = c.probes
	for _, l := range c.leases { // lost, and nobody has asked since
		if !l.lost && !l.pending && now >= l.expires {
			s.Probes.Lost = satAdd(s.Probes.Lost, 1)
		}
	}
	s.NotClosed = time.Duration(c.notClosed)
	if ph.state != Closed {
		s.NotClosed += time.Duration(now - c.openedAt)
	}
	s.Fallbacks = FallbackCounts{Failed: c.fallbacks[0].Load(), Served: c.fallbacks[1].Load()}
}

// ready says whether a call would be let through, without letting one. Caller must hold b.mu.
func (b *Breaker) ready(ph *phase, now int64) bool {
	if ph.override.inForce(now) {
		return ph.override.Mode != ForceOpen
	}
	switch {
	case ph.state == Open && now < ph.gate.until.Load():
		return false
	case ph.state != Closed:
		free, _ := b.lazy.Load().slotFree(ph, now)
		return free
	case b.atConcurrencyLimit(ph, now):
		return false
	case ph.ramp != nil:
		_, pass := ph.ramp.step(now, ph.pol)
		return pass
	}
	return true
}
