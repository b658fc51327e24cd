package breaker

import (
	"log/slog"
	"time"
)

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
	// Mode is in force: that of Override, or that of Config.Enforcement; zero if calls are rejected as the breaker decides.
	Mode Mode `json:"mode"`
	// Override is in force; its zero value means that none is. Its TTL is what is left of it, and 0 if it has none.
	Override Override `json:"override"`

	Window      Counts    `json:"window"`      // of the window, see Config.Window; zero unless Underlying is Closed
	MinCalls    uint64    `json:"minCalls"`    // calls that Window must hold before its ratios mean something; for SlowRatio, SlowCanceled among them
	LastFailure time.Time `json:"lastFailure"` // of the last failure or overload; zero if there was none
	LastCause   string    `json:"lastCause"`   // Report.Cause of the last failure or overload
	// OpenUntil is the end of the open period. It is zero unless Underlying is Open. The first call after it is a probe.
	OpenUntil time.Time `json:"openUntil"`
	// OutageStarted is since when Underlying has not been Closed. It is zero while Underlying is Closed.
	OutageStarted time.Time `json:"outageStarted"`
	// Opened is what opened the breaker last. It is zero if the breaker has never been open.
	Opened Opening `json:"opened"`
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
	Trips            RuleCounts     `json:"trips"`            // openings of a closed breaker; a probe that fails is in Probes
	ShadowTrips      RuleCounts     `json:"shadowTrips"`      // the same in shadow mode; these are not in Trips
	Recoveries       uint64         `json:"recoveries"`       // times closed after having been open
	Probes           ProbeCounts    `json:"probes"`
	NotClosed        time.Duration  `json:"notClosed"` // time that Underlying was not Closed
	Fallbacks        FallbackCounts `json:"fallbacks"`

	Config     Config `json:"config"`     // in force, with defaults
	CustomRule bool   `json:"customRule"` // there is a rule of WithTrip
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
	Manual      uint64 `json:"manual"`
}

// Total is the sum over all rules.
func (c RuleCounts) Total() uint64 {
	return satAdd(c.Consecutive, c.Ratio, c.Slow, c.Custom, c.Manual)
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
	if ph.override == nil && ph.pol.mode == 0 {
		return ph.state
	}
	return ph.shown(clock())
}

// shown is the state that a person sees.
func (ph *phase) shown(now int64) State {
	switch ph.modeAt(now) {
	case ForceOpen:
		return Open
	case ForceClosed:
		return Closed
	case Shadow:
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
	// After the window, or that might hold more successes than there ever were.
	var admitted uint64
	admitted, s.Successes = b.started(ph)
	if lazy := b.lazy.Load(); lazy != nil {
		lazy.fill(&s, ph, now)
	}
	settled := satAdd(s.Successes, s.Failures, s.Overloads, s.Ignored, s.Late)
	s.Admitted = max(admitted, settled)
	s.InFlight = s.Admitted - settled // so the sum holds, whatever runs beside this
	s.Ready = b.ready(ph, now)
	return s
}

// started returns how many calls were admitted, and how many of them succeeded, at the same instant if possible: calls
// go on while it reads. Otherwise admitted is the older number, so that calls that begin and end meanwhile do not count
// as in flight; then InFlight may be too small. Caller must hold b.mu.
func (b *Breaker) started(ph *phase) (admitted, successes uint64) {
	for range 4 {
		admitted, successes = b.admittedTotal(), b.successes(ph)
		if b.admittedTotal() == admitted {
			break
		}
	}
	return admitted, successes
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
		s.OutageStarted = t.outage
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

// ready reports whether a call would be admitted, without admitting one. Caller must hold b.mu.
func (b *Breaker) ready(ph *phase, now int64) bool {
	if mode := ph.modeAt(now); mode != 0 {
		return mode != ForceOpen
	}
	switch {
	case ph.state == Open && now < ph.gate.until.Load():
		return false
	case ph.state != Closed:
		free, _ := b.lazy.Load().probes.slotFree(ph, now)
		return free
	case b.atConcurrencyLimit(ph, now):
		return false
	case ph.ramp != nil:
		_, admit := ph.ramp.step(now, ph.pol)
		return admit
	}
	return true
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
