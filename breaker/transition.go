package breaker

import (
	"context"
	"math/rand/v2"
	"time"
)

// Each transition has one function: toOpen, toHalfOpen, toClosed. They build the next phase, and startGeneration
// publishes it.

// toOpen starts an open generation. retryAfter is the delay that the backend asked for, or 0.
func (d *decision) toOpen(o Opening, retryAfter time.Duration) {
	o.At = d.t
	ph, lazy := d.ph, d.b.ensureLazy()
	lazy.backoff.opens(ph, o.Rule, d.successes(), d.now)
	if ph.state == Closed {
		lazy.totals.openedAt = d.now
		lazy.totals.outage = o
		trips := &lazy.totals.trips
		if ph.mode() == Shadow {
			trips = &lazy.totals.shadowTrips
		}
		trips[o.Rule] = satAdd(trips[o.Rule], 1)
	}
	lazy.totals.opened = o
	period := ph.pol.openPeriod(lazy.backoff.failed, retryAfter, rand.Float64())
	lazy.backoff.period = period
	next := &phase{
		state: Open,
		gate: &gate{rejected: &RejectedError{
			Key: d.b.key, State: Open, Reason: ReasonOpen, Until: d.t.Add(period), Opened: o, Outage: lazy.totals.outage,
		}},
	}
	next.gate.until.Store(d.now + int64(period))
	d.startGeneration(next, Event{Rule: o.Rule, Why: o.Why, Cause: o.Cause, OpenFor: period, Counts: o.Counts})
}

// toHalfOpen starts a half-open generation.
func (d *decision) toHalfOpen() {
	lazy := d.b.ensureLazy()
	next := &phase{
		state: HalfOpen,
		half:  new(halfOpen),
		gate: &gate{rejected: &RejectedError{
			Key: d.b.key, State: HalfOpen, Reason: ReasonHalfOpen, Opened: lazy.totals.opened, Outage: lazy.totals.outage,
		}},
	}
	lazy.backoff.leavesOpen(d.now)
	d.startGeneration(next, Event{Why: "open period over"})
}

// toClosed starts a closed generation with an empty window (B26).
func (d *decision) toClosed(e Event) {
	ph, now, lazy := d.ph, d.now, d.b.ensureLazy()
	if ph.state != Closed {
		lazy.totals.recoveries = satAdd(lazy.totals.recoveries, 1)
		lazy.totals.notClosed += now - lazy.totals.openedAt
	}
	lazy.backoff.closes(e.Rule == RuleManual, d.successes())
	lazy.backoff.leavesOpen(now)
	lazy.probes.excused = lazy.probes.lastID
	next := &phase{state: Closed, win: newWindow(now, ph.pol.bucket)}
	if e.Rule != RuleManual {
		next.win.doubt.Store(troubledUntil(now, &ph.pol.cfg))
	}
	if e.Rule != RuleManual && ph.pol.cfg.Ramp > 0 {
		next.ramp = &ramp{start: now, credit: rampUnit - 1}
	}
	d.startGeneration(next, e)
}

// startGeneration publishes next as the generation after the current one, and queues its event.
func (d *decision) startGeneration(next *phase, e Event) {
	b, ph := d.b, d.ph
	next.gen = ph.gen + 1
	next.pol = ph.pol
	next.override = ph.override
	next.since = d.now
	next.wall = d.t.UnixNano()
	b.publish(next.withKind())
	d.ph = next
	if ph.win != nil {
		b.retired = satAdd(b.retired, ph.win.drain()) // after publishing, see drainStale
	}
	d.queueEvent(ph.state, e)
}

// setOverride puts o in force, or nothing if o is nil, and queues an event.
func (d *decision) setOverride(o *override) {
	d.ph = d.b.republish(func(next *phase) { next.override = o })
	e := Event{OverrideChanged: true, Why: overrideCleared}
	if o != nil {
		e.Why = overrideSet
	}
	d.queueEvent(d.ph.state, e)
}

// queueEvent queues e, which is about the current phase and the state before it.
func (d *decision) queueEvent(from State, e Event) {
	lazy := d.b.ensureLazy()
	lazy.events.seq++
	if len(d.b.shared.listeners.list()) == 0 {
		return
	}
	e.Key, e.From, e.To = d.b.key, from, d.ph.state
	e.At, e.Seq, e.Generation = d.t, lazy.events.seq, d.ph.gen
	e.FailedRecoveries = lazy.backoff.at(d.now, d.ph.pol)
	e.Override = d.ph.overrideInForce()
	lazy.events.queue = append(lazy.events.queue, delivery{d.ctx, e})
}

// Trip opens the breaker now, from any state, for a period as long as if a rule had opened it. why is for people and
// appears in the event and in rejections.
func (b *Breaker) Trip(ctx context.Context, why string) {
	b.change(ctx, func(d *decision) {
		o := Opening{Rule: RuleManual, Why: why}
		if d.ph.state == Closed {
			o.Counts = d.ph.win.counts(d.now, d.ph.pol.bucket)
		}
		d.toOpen(o, 0)
	}, func(live *Breaker) { live.Trip(ctx, why) })
}

// Reset closes the breaker now, from any state, with an empty window, without a ramp, and with no failed recoveries. An
// override stays in force; ClearOverride ends it.
func (b *Breaker) Reset(ctx context.Context) {
	b.change(ctx, func(d *decision) {
		d.toClosed(Event{Rule: RuleManual, Why: "reset"})
	}, func(live *Breaker) { live.Reset(ctx) })
}

// change runs f as one decision. If the breaker was removed from its group, it instead runs onRemoved, without the
// lock, on the breaker that its key has now.
func (b *Breaker) change(ctx context.Context, f func(d *decision), onRemoved func(live *Breaker)) {
	d := b.begin(ctx)
	if d.ph.kind == removed {
		b.mu.Unlock()
		onRemoved(b.successor())
		return
	}
	f(&d)
	b.unlock()
}
