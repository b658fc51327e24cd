package breaker

import (
	"context"
	"slices"
	"time"
)

// lease is the claim of one probe on a slot (B22). It stays on the list until the probe reports, however late: that
// is how a second report is told from a first.
type lease struct {
	id      uint64
	gen     uint64
	expires int64
	lost    bool // seen expired and counted as lost
	pending   bool // for listeners: its call has not begun, so it cannot be lost

	issued, previous int64 // when it was given out, and the one before it, for a probe that is withdrawn
}

// holds says whether the lease takes up a slot of the stay gen at now.
func (l *lease) holds(gen uint64, now int64) bool {
	return l.gen == gen && !l.lost && now < l.expires
}

// freeHungProbes is how many probes per slot may be out without a slot (lost, or of an earlier stay) before new ones come
// more slowly, and how many more slow them down again; longestProbeDelay is the longest that a new one then waits for. See
// full.
const (
	freeHungProbes = 8
	longestProbeDelay  = time.Hour
)

// full says whether no probe may go out in the half-open stay ph at now, and counts the probes that are lost by then.
//
// Slots alone would bound nothing where calls hang without a deadline: each lease that runs out lets another call in
// to hang. So, from patience*MaxProbes of them on, the time to the next doubles with each patience*MaxProbes more, up
// to an hour: they become few, and yet the next one never takes longer than a quarter of the time that they have been
// hanging for, in the long run an eighth. It ends at an hour, rather than bound the number for good, because a
// breaker that has only lost its permits must not get stuck. What counts is the probes since the breaker last closed,
// and since the backend's last good answer in this stay.
//
// Caller must hold b.mu.
func (b *Breaker) full(ph *phase, now int64) bool {
	c := b.ensureLazy()
	for i := range c.leases {
		if l := &c.leases[i]; !l.lost && now >= l.expires {
			l.lost = true
			if !l.pending {
				c.probes.Lost = satAdd(c.probes.Lost, 1)
			}
		}
	}
	free, at := c.slotFree(ph, now)
	if !free {
		ph.gate.until.Store(at)
	}
	return !free
}

// claim gives out a slot if one is free (B19). Caller must hold b.mu.
func (b *Breaker) claim(ph *phase, now int64) (lease uint64, ok bool) {
	if b.full(ph, now) {
		return 0, false
	}
	jitter()
	if seededBug == bugSlot {
		b.yieldLock()
	}
	return b.lease(ph, now), true
}

// lease gives out a slot, which must be free. Caller must hold b.mu.
func (b *Breaker) lease(ph *phase, now int64) (id uint64) {
	c := b.ensureLazy()
	c.lastLease++
	c.leases = append(c.leases, lease{
		id: c.lastLease, gen: ph.gen, expires: now + int64(ph.pol.cfg.ProbeTimeout), issued: now, previous: c.lastProbe,
	})
	c.lastProbe = now
	return c.lastLease
}

// slotFree says whether a probe may go out in the stay ph at now, and if not, when that will change by itself.
// Caller must hold Breaker.mu.
func (c *lazyState) slotFree(ph *phase, now int64) (free bool, at int64) {
	slots, stale, forgiven := ph.pol.cfg.MaxProbes, 0, c.forgiven
	if ph.half != nil {
		forgiven = max(forgiven, ph.half.forgiven)
	}
	for i := range c.leases {
		if l := &c.leases[i]; l.holds(ph.gen, now) {
			slots--
			if at == 0 || l.expires < at {
				at = l.expires
			}
		} else if l.id > forgiven {
			stale++
		}
	}
	if slots <= 0 {
		return false, at
	}
	over := stale/ph.pol.cfg.MaxProbes - freeHungProbes // in slots' worth: MaxProbes may be as large as an int goes
	if over < 0 {
		return true, 0
	}
	wait := int64(max(longestProbeDelay, ph.pol.cfg.ProbeTimeout))
	if shift := over/freeHungProbes + 1; shift < 62 && int64(ph.pol.cfg.ProbeTimeout) <= wait>>shift {
		wait = int64(ph.pol.cfg.ProbeTimeout) << shift
	}
	return now >= c.lastProbe+wait, c.lastProbe + wait
}

// leaseIndex finds the lease of a probe that has not reported; if there is none, it is below 0. Caller must hold
// Breaker.mu.
func (c *lazyState) leaseIndex(id uint64) int {
	return slices.IndexFunc(c.leases, func(l lease) bool { return l.id == id })
}

// settleProbe books what a probe reports and draws the consequence. Caller must hold b.mu.
func (b *Breaker) settleProbe(ctx context.Context, p Permit, ph *phase, r Report, t time.Time) {
	now := instant(t)
	c := b.ensureLazy()
	i := c.leaseIndex(p.lease)
	if i < 0 {
		return // B25
	}
	l := c.leases[i]
	c.leases = slices.Delete(c.leases, i, i+1)
	b.slotChanged(ph)
	slow := isSlow(ph.pol, p, r, now)
	judged := ph.override.mode() != ForceClosed // B28: under ForceClosed results are counted and nothing follows from them
	if !l.holds(ph.gen, now) {
		if !l.lost && now >= l.expires {
			c.probes.Lost = satAdd(c.probes.Lost, 1)
		}
		c.late = satAdd(c.late, 1)
		switch {
		case l.gen != ph.gen || !judged || (r.Outcome == Ignored && !slow):
		case r.Outcome == Success && !slow:
			b.probeSucceeded(ctx, ph, t) // otherwise a backend that takes longer than a lease would never be let back in
		default:
			ph.half.successes = 0 // B20: in a row
		}
		return
	}
	b.countOutcome(r.Outcome, slow, t)
	switch {
	case r.Outcome == Ignored && !slow:
		c.probes.Ignored = satAdd(c.probes.Ignored, 1) // B21
	case r.Outcome == Success && !slow:
		c.probes.Success = satAdd(c.probes.Success, 1)
		if judged {
			b.probeSucceeded(ctx, ph, t)
		}
	default:
		c.probes.Failure = satAdd(c.probes.Failure, 1)
		if !judged {
			return
		}
		why := "probe failed"
		if slow && r.Outcome != Failure && r.Outcome != Overload {
			why = "probe was slow"
		}
		b.toOpen(ctx, ph, cause{rule: RuleProbe, why: why, asked: r.RetryAfter}, t)
	}
}

// slotChanged makes the next call of the phase ask for a slot under the lock. Caller must hold b.mu.
func (b *Breaker) slotChanged(ph *phase) {
	if ph.half != nil {
		ph.gate.until.Store(0)
	}
}

// probeSucceeded counts a good answer to a probe of the half-open stay ph towards closing. The backend is not one that only
// hangs, so for the rest of the stay probes that do slow down no new ones. Caller must hold b.mu.
func (b *Breaker) probeSucceeded(ctx context.Context, ph *phase, t time.Time) {
	ph.half.forgiven = b.ensureLazy().lastLease
	ph.half.successes++
	if ph.half.successes >= ph.pol.cfg.SuccessesToClose {
		b.toClosed(ctx, ph, Event{Why: "probes succeeded"}, t)
	}
}
