package breaker

import (
	"sync/atomic"
	"time"
)

// phase is what admission and completion need to know of a breaker, published whole through one atomic pointer: there
// is no instant at which a new state shows an old deadline (B16). It is immutable once published, but for the
// counters that win, gate and half point to. Every stay in a state has a generation of its own; an override, the end
// of a ramp and a new policy publish a new phase of the same generation.
type phase struct {
	kind     admission
	state    State
	striped    bool // win has lanes, in which closed calls count
	gen      uint64
	pol      *policy
	win      *window   // of this stay; nil unless closed
	gate     *gate     // nil while closed
	since  int64     // start of the stay on the monotonic clock
	wall     int64     // start of the stay, Unix nanoseconds; for people only
	half     *halfOpen // nil unless half-open
	ramp     *ramp     // nil unless closed and ramping
	override *override // nil: none
}

// gate rejects calls of an open or half-open phase without the lock.
type gate struct {
	// until is the first instant at which a call must take the lock. While the breaker is open it is the end of the
	// open period (B13) and does not change. While it is half-open it is the instant before which no slot comes free
	// by itself, or zero if that is not known; it is written under Breaker.mu, and who settles a probe sets it to
	// zero.
	until    atomic.Int64
	rejected *RejectedError // what the calls get
}

// admission is what Acquire has to do, worked out when the phase is made so that the closed path asks one question.
type admission uint8

const (
	admitUntimed admission = iota // closed, and no rule looks at the window: count and go, here and at the end
	admitPlain                    // closed: count and go
	admitTimed                    // closed with the slow rule on: read the clock, count and go
	admitStriped                    // closed with lanes: one of the above, and count there
	rejectUntil                   // open or half-open: reject before gate.until, then take the lock
	needsLock                     // anything that must be decided under the lock
	removed                          // evicted from its group: ask the group for the breaker that stands for the key now
)

// withKind returns ph, ready to be published.
func (ph *phase) withKind() *phase {
	ph.striped = ph.win != nil && ph.win.stripeList() != nil
	switch {
	case ph.kind == removed:
	case ph.override != nil:
		ph.kind = needsLock
	case ph.state != Closed:
		ph.kind = rejectUntil
	case ph.ramp != nil || ph.pol.cfg.MaxConcurrent > 0:
		ph.kind = needsLock
	case ph.striped:
		ph.kind = admitStriped
	default:
		ph.kind = ph.pol.admission()
	}
	return ph
}

// admission is what the closed path has to do under this policy.
func (p *policy) admission() admission {
	switch {
	case p.slowCall > 0:
		return admitTimed
	case p.bucket == noWindow:
		return admitUntimed
	}
	return admitPlain
}

// stamp is when a call begins, if anything asks for that.
func (p *policy) stamp() int64 {
	if p.slowCall > 0 {
		return clock()
	}
	return 0
}

// late reports whether a call that was admitted in generation gen reports in another one (B15).
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
		early := *ph
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

// republish changes a copy of the current phase and publishes it in the same generation.
// Caller must hold b.mu.
func (b *Breaker) republish(change func(*phase)) *phase {
	next := *b.phase.Load()
	change(&next)
	b.publish(next.withKind())
	return &next
}

// refresh drops what time has ended: an override past its TTL, a ramp that has reached all calls.
// Caller must hold b.mu.
func (b *Breaker) refresh(now int64) *phase {
	ph := b.phase.Load()
	if ph.kind == removed {
		return ph
	}
	overrideOver := ph.override != nil && !ph.override.inForce(now)
	rampOver := ph.ramp != nil && now >= ph.ramp.end(ph.pol)
	if !overrideOver && !rampOver {
		return ph
	}
	return b.republish(func(next *phase) {
		if overrideOver {
			next.override = nil
		}
		if rampOver {
			next.ramp = nil
		}
	})
}

// halfOpen is what a half-open stay counts.
type halfOpen struct {
	successes int    // in a row; guarded by Breaker.mu
	forgiven  uint64 // the last lease at the last good answer; as cold.forgiven, for this stay alone; guarded by Breaker.mu
}

// ramp spreads the calls that are let through after closing. It starts one short of a whole credit, so that the first
// call passes. All of it is guarded by Breaker.mu.
type ramp struct {
	start  int64
	credit uint64 // in 1/rampUnit of a call
}

const (
	rampUnit  = 1 << 32
	rampStart = 0.1
)

func (r *ramp) end(pol *policy) int64 { return r.start + int64(pol.cfg.Ramp) }

// fraction is the part of the calls that is admitted at now, from 0.1 to 1 (B27).
func (r *ramp) fraction(now int64, pol *policy) float64 {
	if now >= r.end(pol) {
		return 1
	}
	return rampStart + (1-rampStart)*float64(now-r.start)/float64(pol.cfg.Ramp)
}

// step is the credit after one more call, and whether that call passes: whenever the sum of fractions reaches another
// whole one. Spread evenly so, and the same each time; a coin would let bursts through.
func (r *ramp) step(now int64, pol *policy) (credit uint64, pass bool) {
	credit = r.credit + uint64(r.fraction(now, pol)*rampUnit)
	if credit >= rampUnit {
		return credit - rampUnit, true
	}
	return credit, false
}

// take is step, and keeps the credit.
func (r *ramp) take(now int64, pol *policy) (pass bool) {
	r.credit, pass = r.step(now, pol)
	return pass
}

// epoch anchors the monotonic clock: instants are nanoseconds since it. It lies 60 years back so that they are always
// above zero, which stands for "none" here and there, even in a testing/synctest bubble, where it is the year 2000.
// And it leaves room above: an int64 holds 292 years, the longest period (100 years and as much jitter) ends after
// 260.
var epoch = time.Now().Add(-60 * 365 * 24 * time.Hour)

func clock() int64 { return int64(time.Since(epoch)) }

// instant is t on that clock.
func instant(t time.Time) int64 { return int64(t.Sub(epoch)) }
