package breaker

import (
	"context"
	"errors"
	"time"
)

// Permit is the permission to make one call. It is a small value. Report the outcome exactly once when the call is
// over, with Done or Report. The zero Permit, which comes with an error, reports nothing.
//
// A second report through the permit of a probe changes nothing. Other permits have no identity, because that would
// cost each call an allocation: a second report counts as another call.
type Permit struct {
	b     *Breaker
	ph    *phase // at admission
	start int64  // 0: not taken
	lease uint64 // 0: not a probe
}

// Report describes how a call ended.
type Report struct {
	// Outcome is how the call counts. A value that is not an Outcome counts as Failure.
	Outcome Outcome
	// Cause is a short name for what went wrong, for people: for gRPC the name of the status code, "UNAVAILABLE". It
	// appears in events, snapshots and rejections. Use a constant string, not an error text: the breaker keeps it as it
	// is, and bridges publish it. Default: "", no cause.
	Cause string
	// RetryAfter is the delay that the backend asked for. If this report opens the breaker, the open period is at least
	// that long, up to the longer of one minute and Config.MaxOpenFor. 0 or less: none.
	RetryAfter time.Duration
	// Canceled marks an Ignored call as canceled by its caller. If it was canceled after more than Config.SlowCall, it
	// is slow: the slow rule counts it, and as a probe it has failed. It has no effect with any other outcome.
	Canceled bool
	// Latency is what the slow rule compares with Config.SlowCall. 0 or less: the time since Acquire.
	Latency time.Duration
}

// IsProbe reports whether the call is a probe of a half-open breaker.
func (p Permit) IsProbe() bool { return p.lease != 0 }

// Done reports the outcome of the call. A result counts only if the breaker has not changed state since the call
// began, and a probe's lease has not expired. Otherwise it is recorded as late and decides nothing. There is one
// exception: a late probe counts while the breaker is in the same half-open generation, see Config.ProbeTimeout. ctx is
// the context of the call. Listeners receive it.
func (p Permit) Done(ctx context.Context, o Outcome) {
	if o == Success && p.b != nil && p.b.settleSuccess(p, 0) {
		return
	}
	p.settle(ctx, Report{Outcome: o})
}

// Report reports how the call ended, like Done, with more detail.
func (p Permit) Report(ctx context.Context, r Report) {
	if r.Outcome == Success && p.b != nil && p.b.settleSuccess(p, int64(r.Latency)) {
		return
	}
	p.settle(ctx, r)
}

// settleSuccess counts a success of the current generation without the lock. It reports false, and counts nothing, if
// the phase has changed, the window must move, or the call was slow.
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

// drainStale collects a success from a window whose generation ended while the success was being counted.
//
// The transition drains the window after it publishes the new phase, and a success is counted before the phase is
// loaded again. So either the transition sees the count, or the counter sees the new phase and calls drainStale. Each
// success is collected once.
func (b *Breaker) drainStale(old *phase) {
	b.mu.Lock()
	ph := b.phase.Load()
	if ph.win != old.win {
		b.retired = satAdd(b.retired, old.win.drain())
		if ph.gen == old.gen { // Apply replaced the window and copied the failure streak to the new one
			ph.win.clearStreak()
		}
	}
	b.mu.Unlock()
}

// settle reports under the lock.
func (p Permit) settle(ctx context.Context, r Report) {
	b := p.b
	if b == nil {
		return
	}
	if r.Outcome > Ignored {
		r.Outcome = Failure
	}
	d := b.begin(ctx)
	b.lastUsed.Store(d.now)
	check := d.record(p, &r)
	b.unlock()
	if check != nil {
		check.run(ctx, b)
	}
}

// record counts a result and evaluates the rules. It returns a check if no rule fired and there is a custom rule.
func (d *decision) record(p Permit, r *Report) *customCheck {
	if p.lease != 0 {
		d.settleProbe(p, r)
		return nil
	}
	b, ph, now := d.b, d.ph, d.now
	if ph.late(p.ph.gen) {
		totals := &b.ensureLazy().totals
		totals.late = satAdd(totals.late, 1)
		return nil
	}
	slow := isSlow(ph.pol, p, r, now)
	if ph.state != Closed { // an override admitted the call: it is counted and decides nothing
		d.count(r, slow)
		return nil
	}
	if r.Outcome != Success {
		ph.win.markTroubled(now, &ph.pol.cfg)
	}
	if r.Outcome == Ignored && !slow {
		d.count(r, slow)
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
	bad := ph.win.currentBucket()
	switch r.Outcome {
	case Success: // it is in the window already, so only the slow call is counted
		totals := &b.ensureLazy().totals
		totals.slow = satAdd(totals.slow, 1)
	case Failure:
		ph.win.recordFailure(now, ph.pol)
		d.count(r, slow)
	case Overload:
		bad.overloads = satAdd(bad.overloads, 1)
		ph.win.addToBurst(badBurst, now, width)
		d.count(r, slow)
	case Ignored: // slow, and canceled by its caller
		bad.slowCanceled = satAdd(bad.slowCanceled, 1)
		d.count(r, slow)
	}
	if slow {
		bad.slow = satAdd(bad.slow, 1)
		ph.win.addToBurst(slowBurst, now, width)
	}
	return d.evaluate(r)
}

// settleProbe counts the result of a probe and acts on it.
func (d *decision) settleProbe(p Permit, r *Report) {
	ph, now := d.ph, d.now
	lazy := d.b.ensureLazy()
	counts := &lazy.probes.counts
	l, ok := lazy.probes.remove(p.lease)
	if !ok {
		return // a second report changes nothing (B25)
	}
	ph.slotsChanged()
	slow := isSlow(ph.pol, p, r, now)
	good := r.Outcome == Success && !slow
	noVerdict := r.Outcome == Ignored && !slow
	decides := ph.mode() != ForceClosed // under ForceClosed results are counted and decide nothing (B28)
	if !l.holdsSlot(ph.gen, now) {
		if !l.lost && now >= l.expires {
			counts.Lost = satAdd(counts.Lost, 1)
		}
		lazy.totals.late = satAdd(lazy.totals.late, 1)
		switch {
		case l.generation != ph.gen || !decides || noVerdict:
		case good: // otherwise a backend that takes longer than a lease would never get all calls again
			d.probeSucceeded()
		default:
			ph.half.successes = 0 // only successes in a row close (B20)
		}
		return
	}
	d.count(r, slow)
	switch {
	case noVerdict: // its slot is free again (B21)
		counts.Ignored = satAdd(counts.Ignored, 1)
	case good:
		counts.Success = satAdd(counts.Success, 1)
		if decides {
			d.probeSucceeded()
		}
	default:
		counts.Failure = satAdd(counts.Failure, 1)
		if decides {
			why := "a probe failed"
			if slow && r.Outcome != Failure && r.Outcome != Overload {
				why = "a probe was slow"
			}
			d.toOpen(Opening{Rule: RuleProbe, Why: why, Cause: r.Cause}, r.RetryAfter)
		}
	}
}

// probeSucceeded counts a successful probe of the half-open generation towards closing. The backend does not hang, so
// for the rest of the generation hung probes do not delay new ones.
func (d *decision) probeSucceeded() {
	half := d.ph.half
	half.excused = d.b.ensureLazy().probes.lastID
	half.successes++
	if half.successes >= d.ph.pol.cfg.SuccessesToClose {
		d.toClosed(Event{Why: "probes succeeded"})
	}
}

// count adds a result to the totals.
func (d *decision) count(r *Report, slow bool) {
	if r.Outcome == Success {
		d.b.retired = satAdd(d.b.retired, 1)
	}
	totals := &d.b.ensureLazy().totals
	totals.add(r.Outcome, r.Cause, d.t)
	if slow {
		totals.slow = satAdd(totals.slow, 1)
	}
}

// isSlow reports whether the call took strictly longer than SlowCall (B6). A call that was admitted while the slow rule
// was off is not slow, because its start may not have been taken. An ignored call is slow only if its caller canceled
// it: in other cases the backend had no time to answer.
func isSlow(pol *policy, p Permit, r *Report, now int64) bool {
	if pol.slowCall == 0 || p.ph.pol.slowCall == 0 || (r.Outcome == Ignored && !r.Canceled) {
		return false
	}
	latency := int64(r.Latency)
	if latency <= 0 {
		latency = now - p.start
	}
	return latency > pol.slowCall
}

// Do runs fn if the breaker admits the call, and reports the outcome. A nil error is a success. An error that is
// context.Canceled (errors.Is) or a rejection by another breaker (ErrRejected) is ignored. Any other error is a
// failure, also context.DeadlineExceeded. If fn panics or calls runtime.Goexit, that is a failure, and the panic or
// exit continues. Do returns the error of Acquire or of fn as it is. An ignored call counts as canceled by its caller
// (Report.Canceled) only if ctx was canceled.
func (b *Breaker) Do(ctx context.Context, fn func(context.Context) error) error {
	p, err := b.Acquire(ctx)
	if err != nil {
		return err
	}
	r := Report{Outcome: Failure, Cause: "panic"} // if fn does not return (B23)
	defer func() { p.Report(ctx, r) }()
	err = fn(ctx)
	r.Cause = ""
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
