package breaker

import "context"

// This file is for writers of guards. See the package comment.

// doubt is how closely a guard should look at the end of a call.
type doubt uint8

const (
	noDoubt  doubt = iota // every outcome of the last Config.Window was a success
	troubled              // an outcome of the last Config.Window was not a success, but the last one was
	inDoubt               // the last outcome was not a success
)

// InDoubt reports how closely a guard should look at the end of the call, to find out whose fault an error is.
//
// now is true if the call is a probe, if the last outcome was not a success, or if Config.ConsecutiveFailures is 1.
// recently is true if now is, or if an outcome of the last Config.Window was not a success. It may stay true for up to
// 5 s longer. It is also true for that time after the breaker has closed, unless Reset closed it. As long as all calls
// succeed, InDoubt reads one word and no clock.
func (p Permit) InDoubt() (recently, now bool) {
	if p.lease != 0 {
		return true, true
	}
	if p.ph == nil || p.ph.win == nil {
		return false, false
	}
	if p.ph.pol.consecutive == 1 {
		return true, true
	}
	if word := p.ph.win.doubt.Load(); word != 0 {
		d := p.ph.win.doubtAt(word, clock())
		return d >= troubled, d == inDoubt
	}
	return false, false
}

// The word window.doubt holds in bit 0 whether the last outcome was not a success, and above that until when the
// breaker is troubled, in steps of 2^doubtShift nanoseconds (2.1 s). 31 bits of such steps last for 146 years, 86 of
// them after the start of the program. It is one word because the cache lines that each call reads have no room for
// two.
const doubtShift = 31

// markTroubled notes that an outcome at now was not a success. Caller must hold Breaker.mu.
func (w *window) markTroubled(now int64, cfg *Config) {
	w.doubt.Store(troubledUntil(now, cfg) | 1)
}

// troubledUntil returns the word for a breaker that is troubled and whose last outcome was a success.
func troubledUntil(now int64, cfg *Config) uint32 {
	return uint32(min((now+int64(cfg.Window))>>doubtShift+1, 1<<31-1)) << 1
}

// doubtAt returns what word means at now. It removes a word whose time is over, so that later calls read no clock.
func (w *window) doubtAt(word uint32, now int64) doubt {
	switch {
	case word&1 != 0:
		return inDoubt
	case now>>doubtShift <= int64(word>>1):
		return troubled
	}
	w.doubt.CompareAndSwap(word, 0)
	return noDoubt
}

// SignOfLife notes that the backend is alive, before the call has ended: a stream that is still open has received an
// answer, or the stream of a probe has stayed open for long. It counts no outcome.
//
// For a call that is not a probe, it ends the failure streak. If there was one, it returns undo. If the call then fails
// in a way that contradicts the sign of life, call undo before the report. The streak then continues, unless a call has
// succeeded since. A second call of undo changes nothing. undo is nil if there was no streak, or if the breaker is not
// closed or has changed state since the call began. Without a streak, SignOfLife takes no lock.
//
// For a probe, it closes the breaker, whatever Config.SuccessesToClose is, also if the probe has reported or its lease
// has expired. After the half-open generation of the probe it does nothing. Under ForceClosed it does nothing either,
// but a later SignOfLife may close the breaker, so again is true. Listeners receive ctx.
func (p Permit) SignOfLife(ctx context.Context) (undo func(), again bool) {
	if p.b == nil {
		return nil, false
	}
	if p.lease != 0 {
		return nil, p.b.closeForProbe(ctx, p.ph.gen)
	}
	return p.b.endStreak(p.ph.gen), false
}

func (b *Breaker) closeForProbe(ctx context.Context, gen uint64) (again bool) {
	d := b.begin(ctx)
	defer b.unlock()
	switch {
	case d.ph.gen != gen || d.ph.kind == removed:
		return false
	case d.ph.mode() == ForceClosed:
		return true
	}
	d.toClosed(Event{Why: "the stream of a probe stayed open"})
	return false
}

func (b *Breaker) endStreak(gen uint64) (undo func()) {
	// Not the window of the permit: Apply may have replaced it.
	if ph := b.phase.Load(); ph.win == nil || ph.win.streak.Load() == 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	v := b.current()
	if v.ph.late(gen) || v.ph.kind == removed || v.ph.win == nil {
		return nil
	}
	failures := v.ph.win.streak.Swap(0)
	if failures == 0 {
		return nil
	}
	span, successes := v.ph.win.lazy.span, v.successes()
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		v := b.current()
		if failures > 0 && v.ph.gen == gen && v.ph.win != nil && v.successes() == successes {
			v.ph.win.resumeStreak(failures, span)
			failures = 0 // a second call changes nothing; guarded by b.mu
		}
	}
}

// resumeStreak adds failures to the failure streak, which then began when span did. Caller must hold Breaker.mu.
func (w *window) resumeStreak(failures uint64, span streakSpan) {
	now := &w.ensureLazy().span
	for {
		n := w.streak.Load()
		if w.streak.CompareAndSwap(n, satAdd(n, failures)) {
			if n == 0 {
				now.last = span.last
			}
			now.first = span.first
			return
		}
	}
}

// Evicted reports whether the breaker is no longer in its group: another key took its place, it was idle
// (WithIdleTimeout), or it was removed. Its methods then act on the breaker that its key has now, which costs a lookup
// each time. A guard that keeps a *Breaker checks Evicted and gets the breaker again.
func (b *Breaker) Evicted() bool {
	if b.phase.Load().kind != removed {
		return false
	}
	b.mu.Lock() // after this, an eviction that is called off is over
	defer b.mu.Unlock()
	return b.phase.Load().kind == removed
}

// CountFallback counts a call that was rejected or failed and for which a fallback was called. served reports whether
// the fallback answered. It changes only this counter. It is part of the breaker so that collectors find all counters
// in one place.
func (b *Breaker) CountFallback(served bool) {
	b.mu.Lock()
	if b.phase.Load().kind == removed {
		if live, ok := b.shared.group.Lookup(b.key); ok && live != b {
			b.mu.Unlock()
			live.CountFallback(served)
			return
		}
		// No call has come since the removal. A counter is no reason to make a new breaker, so the removed one counts.
	}
	lazy := b.ensureLazy()
	b.mu.Unlock()
	if served {
		inc(&lazy.fallbacks[1])
	} else {
		inc(&lazy.fallbacks[0])
	}
}

// CountUnguarded counts a call that was made without a breaker because its key function panicked. It is part of the
// group so that collectors find all counters in one place.
func (g *Group) CountUnguarded() { inc(&g.unguarded) }
