package breaker

import (
	"context"
	"math/rand/v2"
	"time"
)

// Each transition has one function: toOpen, toHalfOpen, toClosed. They build the next phase, and startGeneration
// publishes it.

// toOpen starts an open generation, at o.At. retryAfter is the delay that the backend asked for, or 0. Caller must hold
// b.mu.
func (b *Breaker) toOpen(ctx context.Context, ph *phase, o Opening, retryAfter time.Duration) {
	t := o.At
	now := instant(t)
	lazy := b.ensureLazy()
	if ph.state == Closed {
		lazy.totals.openedAt = now
		lazy.totals.outage = o
	}
	lazy.backoff.opens(ph, o.Rule, b.successes(ph), now)
	if ph.state == Closed {
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
			Key: b.key, State: Open, Reason: ReasonOpen, Until: t.Add(period), Opened: o, Outage: lazy.totals.outage,
		}},
	}
	next.gate.until.Store(now + int64(period))
	e := Event{Rule: o.Rule, Why: o.Why, Cause: o.Cause, OpenFor: period, Counts: o.Counts}
	b.startGeneration(ctx, ph, next, e, t)
}

// toHalfOpen starts a half-open generation. Caller must hold b.mu.
func (b *Breaker) toHalfOpen(ctx context.Context, ph *phase, t time.Time) *phase {
	lazy := b.ensureLazy()
	next := &phase{
		state: HalfOpen,
		half:  new(halfOpen),
		gate: &gate{rejected: &RejectedError{
			Key: b.key, State: HalfOpen, Reason: ReasonHalfOpen, Opened: lazy.totals.opened, Outage: lazy.totals.outage,
		}},
	}
	lazy.backoff.leavesOpen(instant(t))
	b.startGeneration(ctx, ph, next, Event{Why: "open period over"}, t)
	return next
}

// toClosed starts a closed generation with an empty window (B26). Caller must hold b.mu.
func (b *Breaker) toClosed(ctx context.Context, ph *phase, e Event, t time.Time) {
	now := instant(t)
	lazy := b.ensureLazy()
	if ph.state != Closed {
		lazy.totals.recoveries = satAdd(lazy.totals.recoveries, 1)
		lazy.totals.notClosed += now - lazy.totals.openedAt
	}
	lazy.backoff.closes(e.Rule == RuleManual, b.successes(ph))
	lazy.backoff.leavesOpen(now)
	lazy.probes.excused = lazy.probes.lastID
	next := &phase{state: Closed, win: newWindow(now, ph.pol.bucket)}
	if e.Rule != RuleManual {
		next.win.doubt.Store(troubledUntil(now, &ph.pol.cfg))
	}
	if e.Rule != RuleManual && ph.pol.cfg.Ramp > 0 {
		next.ramp = &ramp{start: now, credit: rampUnit - 1}
	}
	b.startGeneration(ctx, ph, next, e, t)
}

// startGeneration publishes next as the generation after ph and queues its event. The caller must release the lock with
// unlock, which delivers the event. Caller must hold b.mu.
func (b *Breaker) startGeneration(ctx context.Context, ph, next *phase, e Event, t time.Time) {
	next.gen = ph.gen + 1
	next.pol = ph.pol
	next.override = ph.override
	next.since = instant(t)
	next.wall = t.UnixNano()
	b.publish(next.withKind())
	if ph.win != nil {
		b.retired = satAdd(b.retired, ph.win.drain()) // after publishing, see drainStale
	}
	lazy := b.ensureLazy()
	lazy.events.seq++
	if len(b.shared.listeners.list()) == 0 {
		return
	}
	e.Key, e.From, e.To = b.key, ph.state, next.state
	e.At, e.Seq, e.Generation = t, lazy.events.seq, next.gen
	e.FailedRecoveries = lazy.backoff.at(next.since, ph.pol)
	e.Override = ph.overrideInForce()
	lazy.events.queue = append(lazy.events.queue, delivery{ctx, e})
}

// Trip opens the breaker now, from any state, for a period as long as if a rule had opened it. why is for people and
// appears in the event and in rejections.
func (b *Breaker) Trip(ctx context.Context, why string) {
	b.change(func(ph *phase, t time.Time) {
		o := Opening{Rule: RuleManual, Why: why, At: t}
		if ph.state == Closed {
			o.Counts = ph.win.counts(instant(t), ph.pol.bucket)
		}
		b.toOpen(ctx, ph, o, 0)
	}, func(live *Breaker) { live.Trip(ctx, why) })
}

// Reset closes the breaker now, from any state, with an empty window, without a ramp, and with no failed recoveries. An
// override stays in force; ClearOverride ends it.
func (b *Breaker) Reset(ctx context.Context) {
	b.change(func(ph *phase, t time.Time) {
		b.toClosed(ctx, ph, Event{Rule: RuleManual, Why: "reset"}, t)
	}, func(live *Breaker) { live.Reset(ctx) })
}

// change runs f under the lock on the current phase. If the breaker was removed from its group, it runs
// onRemoved instead, without the lock, on the breaker that its key has now.
func (b *Breaker) change(f func(ph *phase, t time.Time), onRemoved func(live *Breaker)) {
	b.mu.Lock()
	t := time.Now()
	ph := b.refresh(instant(t))
	if ph.kind == removed {
		b.mu.Unlock()
		onRemoved(b.successor())
		return
	}
	f(ph, t)
	b.unlock()
}
