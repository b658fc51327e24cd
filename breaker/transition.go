package breaker

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// evaluate asks the rules after a failure, an overload or a slow call (B3), in the order of B10.
// Caller must hold b.mu, and have rotated the window, and noted what is evaluated in it.
func (b *Breaker) evaluate(ctx context.Context, ph *phase, r Report, t time.Time) *customCheck {
	if ph.override.mode() == ForceClosed {
		return nil // B28: counts go on, and nothing comes of them
	}
	now := instant(t)
	pol := ph.pol
	counts, successes := ph.win.countsByBucket(now, pol.bucket)
	calls, timed, least := counts.Calls(), counts.timed(), ph.minCalls(now)
	var rule Rule
	var why string
	lasted := ph.win.failingFor(now)
	switch bad := satAdd(counts.Failures, counts.Overloads); {
	case r.Outcome == Failure && pol.consecutive > 0 && counts.ConsecutiveFailures >= pol.consecutive && lasted >= pol.failingFor:
		rule, why = RuleConsecutive, fmt.Sprintf("%d consecutive failures%s", counts.ConsecutiveFailures, over(lasted))
	case ph.shareReached(badBurst, &successes, pol.failure, bad, calls, least, now):
		rule, why = RuleRatio, fmt.Sprintf("%d of %d calls failed", bad, calls)
	case ph.shareReached(slowBurst, &successes, pol.slow, counts.Slow, timed, least, now):
		rule, why = RuleSlow, fmt.Sprintf("%d of %d calls took longer than %v", counts.Slow, timed, pol.cfg.SlowCall)
	case b.shared.trip != nil:
		return &customCheck{ph.gen, counts}
	default:
		return nil
	}
	b.fire(ctx, ph, cause{rule: rule, why: why, counts: counts, asked: r.RetryAfter}, t)
	return nil
}

// shareReached reports whether part of whole reaches f at now, if there are enough calls. Unless FailingFor is
// negative it must do so without the largest event in the window too, where half as many calls are enough, and the
// events must have begun over half of FailingFor, or of the window if that is shorter. One lost connection is no
// reason to open, also if its calls are told over some time or a few other calls fail (B5, B6).
func (ph *phase) shareReached(
	kind burstKind, successes *[buckets]uint64, f fraction, part, whole, least uint64, now int64,
) bool {
	if whole < least || !f.isReachedBy(part, whole) {
		return false
	}
	if !ph.pol.spread {
		return true
	}
	part, whole = ph.win.withoutLargest(kind, successes, part, whole, min(ph.pol.failingFor, int64(ph.pol.cfg.Window))/2, now)
	return whole >= (least+1)/2 && f.isReachedBy(part, whole)
}

// over says how long failures lasted, where a person would notice.
func over(nanoseconds int64) string {
	d := time.Duration(nanoseconds)
	if d < time.Millisecond {
		return ""
	}
	return " over " + (d - d%time.Millisecond).String()
}

// minCalls is Config.MinCalls, shrunk with the fraction of calls that a ramp admits (B27).
func (ph *phase) minCalls(now int64) uint64 {
	if ph.ramp == nil {
		return ph.pol.minCalls
	}
	return max(1, uint64(math.Ceil(ph.ramp.fraction(now, ph.pol)*float64(ph.pol.minCalls))))
}

// runCustomCheck puts the question to the user's rule, outside the lock, and opens if the answer is yes and the stay that
// it was asked about still lasts.
func (b *Breaker) runCustomCheck(ctx context.Context, q *customCheck, r Report) {
	if !b.customRuleFires(q.counts) {
		return
	}
	b.mu.Lock()
	defer b.unlock()
	t := time.Now()
	ph := b.refresh(instant(t))
	if ph.gen == q.gen && ph.state == Closed && ph.override.mode() != ForceClosed {
		b.toOpen(ctx, ph, cause{rule: RuleCustom, why: "custom rule", counts: q.counts, asked: r.RetryAfter}, t)
	}
}

// customRuleFires calls the function of WithTrip. One that panics says no.
func (b *Breaker) customRuleFires(c Counts) (yes bool) {
	defer func() {
		if recover() != nil {
			yes = false
		}
	}()
	return b.shared.trip(c)
}

// cause is why a breaker opens.
type cause struct {
	rule   Rule
	why    string
	counts Counts
	asked  time.Duration
}

// fire opens because a rule fired (B9). Caller must hold b.mu since before the rules were evaluated.
func (b *Breaker) fire(ctx context.Context, ph *phase, why cause, t time.Time) {
	jitter()
	if seededBug == bugTrip {
		b.yieldLock()
	}
	b.toOpen(ctx, ph, why, t)
}

// toOpen starts an open stay. Caller must hold b.mu.
func (b *Breaker) toOpen(ctx context.Context, ph *phase, why cause, t time.Time) {
	now := instant(t)
	c := b.ensureLazy()
	if ph.state == Closed {
		c.openedAt = now
	}
	c.backoff.opens(ph, why.rule, b.successes(ph), now)
	c.trips[why.rule] = satAdd(c.trips[why.rule], 1)
	period := ph.pol.openPeriod(c.backoff.failed, why.asked, rand.Float64())
	c.backoff.period = period
	next := &phase{
		state: Open,
		gate:  &gate{rejected: &RejectedError{Key: b.key, State: Open, Reason: ReasonOpen, Until: t.Add(period)}},
	}
	next.gate.until.Store(now + int64(period))
	b.startGeneration(ctx, ph, next, Event{Rule: why.rule, Why: why.why, OpenFor: period, Counts: why.counts}, t)
}

// toHalfOpen starts a half-open stay. Caller must hold b.mu.
func (b *Breaker) toHalfOpen(ctx context.Context, ph *phase, t time.Time) *phase {
	next := &phase{
		state: HalfOpen,
		half:  new(halfOpen),
		gate:  &gate{rejected: &RejectedError{Key: b.key, State: HalfOpen, Reason: ReasonHalfOpen}},
	}
	b.ensureLazy().backoff.leavesOpen(instant(t))
	b.startGeneration(ctx, ph, next, Event{Why: "open period over"}, t)
	return next
}

// toClosed starts a closed stay with an empty window (B26). Caller must hold b.mu.
func (b *Breaker) toClosed(ctx context.Context, ph *phase, e Event, t time.Time) {
	now := instant(t)
	c := b.ensureLazy()
	if ph.state != Closed {
		c.recoveries = satAdd(c.recoveries, 1)
		c.notClosed += now - c.openedAt
	}
	c.backoff.closes(e.Rule == RuleManual, b.successes(ph))
	c.backoff.leavesOpen(now)
	c.forgiven = c.lastLease
	next := &phase{state: Closed, win: newWindow(now, ph.pol.bucket)}
	if e.Rule != RuleManual {
		next.win.doubt.Store(troubledUntil(now, &ph.pol.cfg))
	}
	if e.Rule != RuleManual && ph.pol.cfg.Ramp > 0 {
		next.ramp = &ramp{start: now, credit: rampUnit - 1}
	}
	b.startGeneration(ctx, ph, next, e, t)
}

// startGeneration publishes next as the stay after ph, and queues the event for it; whoever holds the lock must let go of it
// with unlock. Caller must hold b.mu.
func (b *Breaker) startGeneration(ctx context.Context, ph, next *phase, e Event, t time.Time) {
	next.gen = ph.gen + 1
	next.pol = ph.pol
	next.override = ph.override
	next.since = instant(t)
	next.wall = t.UnixNano()
	b.publish(next.withKind())
	if ph.win != nil {
		b.retired = satAdd(b.retired, ph.win.drain()) // after publishing: see sweep
	}
	c := b.ensureLazy()
	c.seq++
	if len(b.shared.listeners.list()) == 0 {
		return
	}
	e.Key, e.From, e.To = b.key, ph.state, next.state
	e.At, e.Seq, e.Generation, e.Failed = t, c.seq, next.gen, c.backoff.at(next.since, ph.pol)
	e.Override = ph.override.mode()
	c.queue = append(c.queue, delivery{ctx, e})
}

// Trip opens the breaker now, from any state, for a period as long as a trip by a rule would have. why is for people
// and shows in the event.
func (b *Breaker) Trip(ctx context.Context, why string) {
	b.change(func(ph *phase, t time.Time) {
		c := cause{rule: RuleManual, why: why}
		if ph.state == Closed {
			c.counts = ph.win.counts(instant(t), ph.pol.bucket)
		}
		b.toOpen(ctx, ph, c, t)
	}, func(live *Breaker) { live.Trip(ctx, why) })
}

// Reset closes the breaker now, from any state, with an empty window, no ramp and the back-off forgotten. An override
// stays in force; ClearOverride ends it.
func (b *Breaker) Reset(ctx context.Context) {
	b.change(func(ph *phase, t time.Time) {
		b.toClosed(ctx, ph, Event{Rule: RuleManual, Why: "reset"}, t)
	}, func(live *Breaker) { live.Reset(ctx) })
}

// change runs f under the lock on the current phase, or evicted, without it, on the breaker that took over the key.
func (b *Breaker) change(f func(ph *phase, t time.Time), evicted func(live *Breaker)) {
	b.mu.Lock()
	t := time.Now()
	ph := b.refresh(instant(t))
	if ph.kind == removed {
		b.mu.Unlock()
		evicted(b.successor())
		return
	}
	f(ph, t)
	b.unlock()
}
