package breaker

import (
	"context"
	"time"
)

// A view is a breaker at one instant, with its lock held. Its methods change nothing. Caller must hold b.mu.
type view struct {
	b   *Breaker
	ph  *phase // in force
	now int64
}

// A decision is one pass through the state machine: an admission, a report, or a command of an operator. The lock is
// held from its begin to its end, and all of it is of one instant. So each transition follows from the phase, the
// window and the leases of that instant (B9). Caller must hold b.mu.
type decision struct {
	view                 // ph is the new phase after a transition
	ctx  context.Context //nolint:containedctx // the events of the decision carry it (B31)
	t    time.Time       // now, for people
}

// begin locks the breaker and begins a decision. The time is taken under the lock, so that decisions are made in the
// order of their instants. The caller must end the decision with unlock, which delivers its events.
func (b *Breaker) begin(ctx context.Context) decision {
	b.mu.Lock()
	t := time.Now()
	return decision{view: b.viewAt(instant(t)), ctx: ctx, t: t}
}

// current returns the view of this instant. Caller must hold b.mu.
func (b *Breaker) current() view { return b.viewAt(clock()) }

// viewAt returns the view of now. It first removes what has ended by then: an override after its TTL, and a ramp that
// admits all calls. Caller must hold b.mu.
func (b *Breaker) viewAt(now int64) view {
	ph := b.phase.Load()
	overrideOver := ph.override != nil && !ph.override.inForce(now)
	rampOver := ph.ramp != nil && now >= ph.ramp.end(ph.pol)
	if ph.kind != removed && (overrideOver || rampOver) {
		ph = b.republish(func(next *phase) {
			if overrideOver {
				next.override = nil
			}
			if rampOver {
				next.ramp = nil
			}
		})
	}
	return view{b: b, ph: ph, now: now}
}

// successes returns how many calls have succeeded over the life of the breaker.
func (v view) successes() uint64 {
	if v.ph.win == nil {
		return v.b.retired
	}
	return satAdd(v.b.retired, v.ph.win.total())
}

// settled returns how many permits have reported.
func (v view) settled() uint64 {
	n := v.successes()
	if lazy := v.b.lazy.Load(); lazy != nil {
		n = satAdd(n, lazy.totals.settled())
	}
	return n
}

// inFlight returns how many permits have not reported, or more. It reads the admitted calls last: calls that begin and
// end meanwhile count, and no call in flight is missed. A second report (B25) could make the difference negative; then
// it is 0.
func (v view) inFlight() uint64 {
	settled := v.settled()
	return satSub(v.b.admittedTotal(), settled)
}

// running returns inFlight without the probes that are lost.
func (v view) running() uint64 {
	var lost uint64
	if lazy := v.b.lazy.Load(); lazy != nil {
		lost = lazy.probes.lostInFlight(v.now)
	}
	return satSub(v.inFlight(), lost)
}

// atConcurrencyLimit reports whether MaxConcurrent calls are in flight.
func (v view) atConcurrencyLimit() bool {
	limit := v.ph.pol.cfg.MaxConcurrent
	return limit > 0 && v.running() >= uint64(limit)
}

// ready reports whether a call would be admitted.
func (v view) ready() bool {
	ph := v.ph
	if mode := ph.modeAt(v.now); mode != 0 {
		return mode != ForceOpen
	}
	switch {
	case ph.state == Open && v.now < ph.gate.until.Load():
		return false
	case ph.state != Closed:
		free, _ := v.b.lazy.Load().probes.slotFree(ph, v.now)
		return free
	case v.atConcurrencyLimit():
		return false
	case ph.ramp != nil:
		_, admit := ph.ramp.step(v.now, ph.pol)
		return admit
	}
	return true
}

// callCounts returns how many calls were admitted and how many of them succeeded. Calls begin and end while it reads.
// If possible, both numbers are of one instant. Otherwise admitted is the older one, so that calls that begin and end
// meanwhile do not count as in flight. Then InFlight may be too small.
func (v view) callCounts() (admitted, successes uint64) {
	for range 4 {
		admitted, successes = v.b.admittedTotal(), v.successes()
		if v.b.admittedTotal() == admitted {
			break
		}
	}
	return admitted, successes
}
