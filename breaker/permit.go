package breaker

import (
	"context"
	"errors"
	"time"
)

// Permit is leave to make one call. It is a small value; report through it exactly once, when the call is over, with
// Done, DoneAfter or DoneWith. The zero Permit, which comes with an error, reports nothing.
//
// A second report through a probe's permit changes nothing. Other permits carry no identity of their own, because that
// would cost every call an allocation: a second report counts as one more call.
type Permit struct {
	b     *Breaker
	ph    *phase // at admission
	start int64  // 0: not taken
	lease uint64 // 0: not a probe
}

// Report is how a call went.
type Report struct {
	// Outcome is the verdict. A value that is no Outcome counts as Failure.
	Outcome Outcome
	// RetryAfter is the time that the backend asked for. If this very report opens the breaker, the open period is at
	// least that, up to one minute or MaxOpenFor, whichever is longer. 0 or less: none.
	RetryAfter time.Duration
	// Canceled marks an Ignored call as canceled by its caller. If that was after more than Config.SlowCall the
	// call is a slow one: the slow rule counts it, and as a probe it has failed. With any other outcome it means
	// nothing.
	Canceled bool
	// Latency is what the slow rule looks at. 0 or less: the time since Acquire.
	Latency time.Duration
	// TakeBack is what SignOfLife returned for this call, if the failure contradicts it: the failure streak continues
	// where it was then, unless a call has succeeded since. With any other Outcome than Failure it means nothing.
	TakeBack *Streak
}

// Elapsed is the time since Acquire, of a probe and wherever the slow rule is on. Where nothing asks for it, it may
// not have been noted, and Elapsed is 0.
func (p Permit) Elapsed() time.Duration {
	if p.start == 0 {
		return 0
	}
	return time.Duration(clock() - p.start)
}

// ProbeTimeout is the Config.ProbeTimeout that the call was let through with.
func (p Permit) ProbeTimeout() time.Duration {
	if p.ph == nil {
		return 0
	}
	return p.ph.pol.cfg.ProbeTimeout
}

// IsProbe says whether the call is a probe of a half-open breaker.
func (p Permit) IsProbe() bool { return p.lease != 0 }

// Done reports the outcome of the call. A result that comes in a later stay than its call was admitted in, or after a
// probe's lease, is late: it is counted as that and decides nothing, but for a probe's in the stay that it was
// admitted in (see Config.ProbeTimeout). ctx is the call's; listeners get it.
func (p Permit) Done(ctx context.Context, o Outcome) {
	if o == Success && p.b != nil && p.b.settleSuccess(p, 0) {
		return
	}
	p.settle(ctx, Report{Outcome: o})
}

// DoneAfter is Done for a backend that asked for time.
func (p Permit) DoneAfter(ctx context.Context, o Outcome, retryAfter time.Duration) {
	p.DoneWith(ctx, Report{Outcome: o, RetryAfter: retryAfter})
}

// DoneWith is Done with all that a Report can say.
func (p Permit) DoneWith(ctx context.Context, r Report) {
	if r.Outcome == Success && p.b != nil && p.b.settleSuccess(p, int64(r.Latency)) {
		return
	}
	p.settle(ctx, r)
}

// settleSuccess counts a success in the stay that it was admitted in, without the lock, and says whether it could: not if the
// phase has changed, the window must slide, or the call was slow.
func (b *Breaker) settleSuccess(p Permit, latency int64) bool {
	ph := p.ph
	kind := ph.kind
	if kind == admitStriped {
		kind = ph.pol.admission()
	}
	if kind > admitTimed || b.phase.Load() != ph {
		return false
	}
	w := ph.win
	if kind != admitUntimed {
		now := clock()
		if now >= w.edge.Load() {
			return false
		}
		if kind == admitTimed {
			if latency <= 0 {
				latency = now - p.start
			}
			if latency > ph.pol.slowCall {
				return false
			}
		}
	}
	if ph.striped {
		w.addSuccess(&stripeFor(w.lazy.stripes).successes)
	} else {
		b.noteContention(w.addSuccess(&w.successes))
	}
	w.clearStreak()
	if b.phase.Load() != ph {
		b.drainStale(ph)
	}
	return true
}

// drainStale collects what a success left in a window whose stay ended while it was counting. The stay's end drained the
// window after publishing the new phase, so either it saw the count, or the counter saw the new phase and came here:
// every success is collected once.
func (b *Breaker) drainStale(then *phase) {
	b.mu.Lock()
	now := b.phase.Load()
	if now.win != then.win {
		b.retired = satAdd(b.retired, then.win.drain())
		if now.gen == then.gen { // another policy, with another Window: the count of consecutive failures went over to it
			now.win.clearStreak()
		}
	}
	b.mu.Unlock()
}

func (p Permit) settle(ctx context.Context, r Report) {
	b := p.b
	if b == nil {
		return
	}
	if r.Outcome > Ignored {
		r.Outcome = Failure
	}
	b.mu.Lock()
	t := time.Now()
	b.lastUsed.Store(instant(t))
	ask := b.record(ctx, p, r, t)
	b.unlock()
	if ask != nil {
		b.runCustomCheck(ctx, ask, r)
	}
}

// customCheck is put to the function of WithTrip, outside the lock.
type customCheck struct {
	gen    uint64
	counts Counts
}

// record books a result. It returns a question if the rules were evaluated and none fired.
// Caller must hold b.mu.
func (b *Breaker) record(ctx context.Context, p Permit, r Report, t time.Time) *customCheck {
	now := instant(t)
	ph := b.refresh(now)
	if p.lease != 0 {
		b.settleProbe(ctx, p, ph, r, t)
		return nil
	}
	if ph.late(p.ph.gen) {
		c := b.ensureLazy()
		c.late = satAdd(c.late, 1) // B15
		return nil
	}
	slow := isSlow(ph.pol, p, r, now)
	if ph.state != Closed {
		// An override let it through. It counts for the totals and decides nothing.
		b.countOutcome(r.Outcome, slow, t)
		return nil
	}
	if r.Outcome != Success {
		ph.win.markTroubled(now, &ph.pol.cfg)
	}
	if r.Outcome == Ignored && !slow {
		b.countOutcome(r.Outcome, slow, t)
		return nil
	}
	width := ph.pol.bucket
	b.retired = satAdd(b.retired, ph.win.rotate(now, width))
	if r.Outcome == Success {
		ph.win.addSuccess(&ph.win.successes)
		ph.win.clearStreak()
		if !slow {
			return nil
		}
	}
	tally := ph.win.currentBucket()
	switch r.Outcome {
	case Success:
		c := b.ensureLazy()
		c.slow = satAdd(c.slow, 1) // not through book: the success is in the window
	case Failure:
		tally.failures = satAdd(tally.failures, 1)
		b.takeBack(ph, r.TakeBack)
		ph.win.addFailure(now, ph.pol.merge)
		ph.win.addToBurst(badBurst, now, width)
		b.countOutcome(r.Outcome, slow, t)
	case Overload:
		tally.overloads = satAdd(tally.overloads, 1)
		ph.win.addToBurst(badBurst, now, width)
		b.countOutcome(r.Outcome, slow, t)
	case Ignored: // slow, and its caller gave up
		tally.slowCanceled = satAdd(tally.slowCanceled, 1)
		b.countOutcome(r.Outcome, slow, t)
	}
	if slow {
		tally.slow = satAdd(tally.slow, 1)
		ph.win.addToBurst(slowBurst, now, width)
	}
	return b.evaluate(ctx, ph, r, t)
}

// countOutcome adds to the totals. Caller must hold b.mu.
func (b *Breaker) countOutcome(o Outcome, slow bool, t time.Time) {
	c := b.ensureLazy()
	switch o {
	case Success:
		b.retired = satAdd(b.retired, 1)
	case Failure:
		c.failures = satAdd(c.failures, 1)
		c.lastFailure = t
	case Overload:
		c.overloads = satAdd(c.overloads, 1)
		c.lastFailure = t
	case Ignored:
		c.ignored = satAdd(c.ignored, 1)
	}
	if slow {
		c.slow = satAdd(c.slow, 1)
	}
}

// isSlow is the first half of B6: strictly longer than SlowCall. A call that was admitted while the rule was off is
// not slow, because when it began may not have been noted. An ignored call is slow only if its caller gave it up: for
// any other the backend had no time to answer.
func isSlow(pol *policy, p Permit, r Report, now int64) bool {
	if pol.slowCall == 0 || p.ph.pol.slowCall == 0 || (r.Outcome == Ignored && !r.Canceled) {
		return false
	}
	latency := int64(r.Latency)
	if latency <= 0 {
		latency = now - p.start
	}
	return latency > pol.slowCall
}

// Do runs fn if the breaker lets it, and reports what it returned: nil is a success; a cancelled context (errors.Is
// context.Canceled) and a rejection by another breaker (errors.Is ErrRejected) are ignored; any other error is a
// failure. If fn panics or calls runtime.Goexit, that is a failure, and goes on unchanged. Do returns what Acquire or
// fn return. A call is reported as Report.Canceled if fn was canceled by way of ctx, and not by a context of its own.
func (b *Breaker) Do(ctx context.Context, fn func(context.Context) error) error {
	p, err := b.Acquire(ctx)
	if err != nil {
		return err
	}
	r := Report{Outcome: Failure} // B23: what stands if fn does not return
	defer func() { p.DoneWith(ctx, r) }()
	err = fn(ctx)
	switch {
	case err == nil:
		r.Outcome = Success
	case errors.Is(err, context.Canceled):
		r.Outcome, r.Canceled = Ignored, errors.Is(ctx.Err(), context.Canceled)
	case errors.Is(err, ErrRejected):
		r.Outcome = Ignored
	}
	return err
}

// CountFallback counts a rejected or failed call that something else answered for (served), or was to and could not. It
// changes nothing but the counter; it is here so that collectors find all figures in one place.
func (b *Breaker) CountFallback(served bool) {
	b.mu.Lock()
	if b.phase.Load().kind == removed {
		if live, ok := b.shared.group.Lookup(b.key); ok && live != b {
			b.mu.Unlock()
			live.CountFallback(served)
			return
		}
		// Nobody has called since it went, and to count is no reason to make the key anew.
	}
	c := b.ensureLazy()
	b.mu.Unlock()
	if served {
		inc(&c.fallbacks[1])
	} else {
		inc(&c.fallbacks[0])
	}
}
