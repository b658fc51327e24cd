package breaker

import (
	"context"
	"time"
)

// This file is for writers of guards: code that acquires permits for calls, and decides whose error it is if one
// fails.

// Doubt tells how closely a guard should look at the end of a call.
type Doubt uint8

const (
	// NoDoubt: every outcome of the last Config.Window was a success.
	NoDoubt Doubt = iota
	// Troubled: an outcome of the last Config.Window was not a success, but the last one was. It ends up to 5 s after
	// that window. A breaker that has just closed is troubled for as long, unless Reset closed it.
	Troubled
	// InDoubt: the call is a probe, the last outcome was not a success, or Config.ConsecutiveFailures is 1.
	InDoubt
)

// Doubt returns how closely a guard should look at the end of the call. With no doubt it reads one word and no clock.
func (p Permit) Doubt() Doubt {
	if p.lease != 0 {
		return InDoubt
	}
	if p.ph == nil || p.ph.win == nil {
		return NoDoubt
	}
	if p.ph.pol.consecutive == 1 {
		return InDoubt
	}
	if word := p.ph.win.doubt.Load(); word != 0 {
		return p.ph.win.doubtAt(word, clock())
	}
	return NoDoubt
}

// The word window.doubt holds until when the backend is troubled, in steps of 2^doubtShift nanoseconds (2.1 s), and in
// bit 0 whether the last outcome was no success. 31 bits of such steps last for 146 years, 86 of them after the
// program starts. One word, because there is no room for two beside what every call reads.
const doubtShift = 31

// markTroubled notes that an outcome at now was not a success. Caller must hold Breaker.mu.
func (w *window) markTroubled(now int64, cfg *Config) {
	w.doubt.Store(troubledUntil(now, cfg) | 1)
}

// troubledUntil returns the word for a backend that is troubled, but whose last outcome was a success.
func troubledUntil(now int64, cfg *Config) uint32 {
	return uint32(min((now+int64(cfg.Window))>>doubtShift+1, 1<<31-1)) << 1
}

// doubtAt returns what word means at now. A word whose time is over is removed, so that later calls read no clock.
func (w *window) doubtAt(word uint32, now int64) Doubt {
	switch {
	case word&1 != 0:
		return InDoubt
	case now>>doubtShift <= int64(word>>1):
		return Troubled
	}
	w.doubt.CompareAndSwap(word, 0)
	return NoDoubt
}

// A Streak is a failure streak that a sign of life has ended. See Permit.SignOfLife.
type Streak struct {
	gen       uint64
	failures  uint64
	span      streakSpan
	successes uint64 // calls that had succeeded when the streak ended, over all time
}

// SignOfLife ends the failure streak because the peer has answered on a stream that is still running. It counts
// nothing. It returns the streak that it ended, for Report.TakeBack. It returns nil if there was no streak, or if the
// breaker is not closed or has changed its state since the call was admitted. Without a streak it takes no lock.
func (p Permit) SignOfLife() *Streak {
	b := p.b
	if b == nil {
		return nil
	}
	if now := b.phase.Load(); now.win == nil || now.win.streak.Load() == 0 { // not the window of p: Apply may have replaced it
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	ph := b.refresh(clock())
	if ph.late(p.ph.gen) || ph.kind == removed || ph.win == nil {
		return nil
	}
	n := ph.win.streak.Swap(0)
	if n == 0 {
		return nil
	}
	return &Streak{gen: ph.gen, failures: n, span: ph.win.lazy.span, successes: b.successes(ph)}
}

// takeBack continues the streak that a sign of life has ended, unless a call has succeeded since then.
// Caller must hold b.mu.
func (b *Breaker) takeBack(ph *phase, s *Streak) {
	if s == nil || s.gen != ph.gen || s.successes != b.successes(ph) {
		return
	}
	ph.win.resumeStreak(s)
}

// resumeStreak adds the failures of s to the failure streak, which then began when s did. Caller must hold Breaker.mu.
func (w *window) resumeStreak(s *Streak) {
	span := &w.ensureLazy().span
	for {
		n := w.streak.Load()
		if w.streak.CompareAndSwap(n, satAdd(n, s.failures)) {
			if n == 0 {
				span.last = s.span.last
			}
			span.first = s.span.first
			return
		}
	}
}

// Sustain closes the breaker because the stream of a probe has stayed open for long. It does so whatever
// SuccessesToClose is, and also if the probe has reported or its lease is over. After the probe's half-open stay it
// does nothing. It returns true if it did nothing but a later call may close the breaker. That is so under
// ForceClosed, and if connected is false, because then the stream may not be open in truth. ctx goes to the listeners.
func (p Permit) Sustain(ctx context.Context, connected bool) (again bool) {
	b := p.b
	if p.lease == 0 {
		return false
	}
	b.mu.Lock()
	defer b.unlock()
	t := time.Now()
	ph := b.refresh(instant(t))
	switch {
	case ph.gen != p.ph.gen || ph.kind == removed:
		return false
	case !connected || ph.override.mode() == ForceClosed:
		return true
	}
	b.toClosed(ctx, ph, Event{Why: "the stream of a probe stayed open"}, t)
	return false
}
