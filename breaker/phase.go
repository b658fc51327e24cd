package breaker

import (
	"sync/atomic"
	"time"
)

// phase is what admission and settlement need to know of a breaker. It is published through one atomic pointer, so a
// new state is never visible with an old deadline (B16). A phase does not change after it is published, except for the
// counters that win, gate and half point to. Each generation has a phase. An override, the end of a ramp and a new
// policy publish another phase of the same generation.
type phase struct {
	kind     admission
	state    State
	striped  bool // win has stripes, which closed calls count in
	gen      uint64
	pol      *policy
	win      *window   // of this generation; nil unless closed
	gate     *gate     // nil while closed
	since    int64     // start of the generation on the monotonic clock
	wall     int64     // start of the generation in Unix nanoseconds; for people only
	half     *halfOpen // nil unless half-open
	ramp     *ramp     // nil unless closed and ramping
	override *override // nil: none
}

// gate rejects the calls of an open or half-open phase without the lock.
type gate struct {
	// until is the first instant at which a call must take the lock. While the breaker is open, it is the end of the open
	// period (B13) and does not change. While the breaker is half-open, it is the instant before which no slot becomes
	// free without a report, or zero if that is not known; it is written under Breaker.mu, and a report of a probe sets
	// it to zero.
	until    atomic.Int64
	rejected *RejectedError // of the calls that it rejects
}

// admission is what Acquire must do. It is computed when the phase is made, so that Acquire branches once.
type admission uint8

const (
	admitUntimed admission = iota // closed, and no rule uses the window: count
	admitPlain                    // closed: count
	admitTimed                    // closed with the slow rule on: read the clock and count
	admitStriped                  // closed with stripes: one of the above, and count in a stripe
	rejectUntil                   // open or half-open: reject before gate.until, then take the lock
	needsLock                     // decide under the lock
	removed                       // removed from its group: use the breaker that the key has now
)

// withKind sets striped and kind, and returns ph. It must be called before ph is published.
func (ph *phase) withKind() *phase {
	ph.striped = ph.win != nil && ph.win.stripeList() != nil
	switch {
	case ph.kind == removed:
	case ph.override != nil:
		ph.kind = needsLock
	case ph.state != Closed && ph.pol.mode != 0:
		ph.kind = needsLock
	case ph.state != Closed:
		ph.kind = rejectUntil
	case ph.pol.mode != ForceClosed && (ph.ramp != nil || ph.pol.cfg.MaxConcurrent > 0):
		ph.kind = needsLock
	case ph.striped:
		ph.kind = admitStriped
	default:
		ph.kind = ph.pol.admission()
	}
	return ph
}

// admission returns what Acquire must do in a closed phase without stripes under this policy.
func (p *policy) admission() admission {
	switch {
	case p.slowCall > 0:
		return admitTimed
	case p.bucket == noWindow:
		return admitUntimed
	}
	return admitPlain
}

// callStart returns the start of a call, or 0 if nothing needs it.
func (p *policy) callStart() int64 {
	if p.slowCall > 0 {
		return clock()
	}
	return 0
}

// late reports whether gen is not the current generation, so that a result of it is late (B15).
func (ph *phase) late(gen uint64) bool {
	jitter()
	if seededBug == bugLate {
		return false
	}
	return ph.gen != gen
}

// publish makes ph the phase of b in one step, with its state, generation and deadline (B16). Caller must hold b.mu.
func (b *Breaker) publish(ph *phase) {
	jitter()
	if seededBug == bugDeadline && ph.state == Open && ph.gen != b.phase.Load().gen {
		early := *ph // open, with a deadline that has passed
		early.gate = &gate{rejected: ph.gate.rejected}
		early.gate.until.Store(early.since)
		b.phase.Store(&early)
		b.yieldLock()
		if b.phase.Load() != &early {
			return
		}
	}
	b.phase.Store(ph)
	jitter()
}

// republish changes a copy of the current phase and publishes it in the same generation. Caller must hold b.mu.
func (b *Breaker) republish(change func(*phase)) *phase {
	next := *b.phase.Load()
	change(&next)
	b.publish(next.withKind())
	return &next
}

// halfOpen is the state of a half-open generation. All of it is guarded by Breaker.mu.
type halfOpen struct {
	successes int    // of probes, in a row
	excused   uint64 // like probes.excused, but up to the last successful probe of this generation
}

// ramp spreads the calls that are admitted after closing. It begins just below one whole credit, so that the first call
// is admitted. All of it is guarded by Breaker.mu.
type ramp struct {
	start  int64
	credit uint64 // in 1/rampUnit of a call
}

const (
	rampUnit  = 1 << 32
	rampStart = 0.1
)

func (r *ramp) end(pol *policy) int64 { return r.start + int64(pol.cfg.Ramp) }

// fraction returns the part of the calls that is admitted at now, from 0.1 to 1 (B27).
func (r *ramp) fraction(now int64, pol *policy) float64 {
	if now >= r.end(pol) {
		return 1
	}
	return rampStart + (1-rampStart)*float64(now-r.start)/float64(pol.cfg.Ramp)
}

// step returns the credit after one more call, and whether that call is admitted: it is whenever the sum of the
// fractions reaches another whole number. That spreads the calls evenly, and is the same each time. Random decisions
// would admit bursts.
func (r *ramp) step(now int64, pol *policy) (credit uint64, admit bool) {
	credit = r.credit + uint64(r.fraction(now, pol)*rampUnit)
	if credit >= rampUnit {
		return credit - rampUnit, true
	}
	return credit, false
}

// take is step, and stores the credit.
func (r *ramp) take(now int64, pol *policy) (admit bool) {
	r.credit, admit = r.step(now, pol)
	return admit
}

// epoch is the origin of the monotonic clock: instants are nanoseconds since epoch. It is 60 years ago, so that
// instants are above zero even in a testing/synctest bubble, where it is the year 2000; zero stands for "none".
// Instants also stay below the maximum: an int64 holds 292 years, and the longest open period (100 years and as much
// jitter) ends after 260 years.
var epoch = time.Now().Add(-60 * 365 * 24 * time.Hour)

// clock returns the current instant.
func clock() int64 { return int64(time.Since(epoch)) }

// instant returns t on that clock.
func instant(t time.Time) int64 { return int64(t.Sub(epoch)) }
