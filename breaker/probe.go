package breaker

import (
	"slices"
	"time"
)

// probes issues the slots of a half-open breaker and keeps the leases of probes that have not reported, also those of
// earlier generations. It is guarded by Breaker.mu.
type probes struct {
	leases []lease
	lastID uint64
	// excused is the last lease that was issued when the breaker last closed. The backend has answered since then, so
	// hung probes up to this lease do not delay new ones.
	excused   uint64
	lastStart int64 // when the last probe was admitted
	counts    ProbeCounts
}

// lease is the claim of one probe to a slot (B22). It stays in the list until the probe reports, however late. So a
// second report is recognized: its lease is not in the list.
type lease struct {
	id         uint64
	generation uint64
	expires    int64
	lost       bool // it expired, and was counted as lost
	// pending: the call has not begun, because listeners run first. It cannot be lost.
	pending bool

	// issued is when the lease was issued; previous is when the one before it was. They are for a probe that is withdrawn.
	issued, previous int64
}

// holdsSlot reports whether the lease occupies a slot of the given generation at now.
func (l *lease) holdsSlot(generation uint64, now int64) bool {
	return l.generation == generation && !l.lost && now < l.expires
}

const (
	// freeHungProbes is how many probes for each slot may hang, or be of an earlier generation, before new probes are
	// delayed. Each freeHungProbes more double the delay. See slotFree.
	freeHungProbes = 8
	// longestProbeDelay bounds that delay, unless ProbeTimeout is longer.
	longestProbeDelay = time.Hour
)

// slotFree reports whether a probe may start at now in the generation of ph. If not, at is when that changes without
// a report.
//
// Slots alone would not bound the number of calls that hang without a deadline: each lease that expires admits
// another call, which hangs too. So from freeHungProbes*MaxProbes hung probes on, the time between two probes doubles
// with each freeHungProbes*MaxProbes more, up to an hour. So there are few probes. The time to the next one is at
// most a quarter of the time for which the oldest has been hanging, and an eighth in the long run. The delay is
// bounded, and the number is not, because a breaker that has lost its permits must not get stuck. Only probes since
// the breaker last closed count, and only those since the last successful probe of this generation.
func (p *probes) slotFree(ph *phase, now int64) (free bool, at int64) {
	slots, hung, excused := ph.pol.cfg.MaxProbes, 0, p.excused
	if ph.half != nil {
		excused = max(excused, ph.half.excused)
	}
	for i := range p.leases {
		if l := &p.leases[i]; l.holdsSlot(ph.gen, now) {
			slots--
			if at == 0 || l.expires < at {
				at = l.expires
			}
		} else if l.id > excused {
			hung++
		}
	}
	if slots <= 0 {
		return false, at
	}
	over := hung/ph.pol.cfg.MaxProbes - freeHungProbes // divided, because MaxProbes may be as large as an int
	if over < 0 {
		return true, 0
	}
	wait := int64(max(longestProbeDelay, ph.pol.cfg.ProbeTimeout))
	if shift := over/freeHungProbes + 1; shift < 62 && int64(ph.pol.cfg.ProbeTimeout) <= wait>>shift {
		wait = int64(ph.pol.cfg.ProbeTimeout) << shift
	}
	return now >= p.lastStart+wait, p.lastStart + wait
}

// expire counts the probes that are lost at now.
func (p *probes) expire(now int64) {
	for i := range p.leases {
		if l := &p.leases[i]; !l.lost && now >= l.expires {
			l.lost = true
			if !l.pending {
				p.counts.Lost = satAdd(p.counts.Lost, 1)
			}
		}
	}
}

// countsAt returns the counts at now, without changing anything: some leases may have expired since the last expire.
func (p *probes) countsAt(now int64) ProbeCounts {
	c := p.counts
	for i := range p.leases {
		if l := &p.leases[i]; !l.lost && !l.pending && now >= l.expires {
			c.Lost = satAdd(c.Lost, 1)
		}
	}
	return c
}

// lostInFlight returns how many probes are lost at now and have not reported.
func (p *probes) lostInFlight(now int64) (n uint64) {
	for i := range p.leases {
		if l := &p.leases[i]; l.lost || now >= l.expires {
			n++
		}
	}
	return n
}

// issue issues a slot, which must be free.
func (p *probes) issue(ph *phase, now int64) (id uint64) {
	p.lastID++
	p.leases = append(p.leases, lease{
		id: p.lastID, generation: ph.gen, expires: now + int64(ph.pol.cfg.ProbeTimeout), issued: now, previous: p.lastStart,
	})
	p.lastStart = now
	return p.lastID
}

func (p *probes) index(id uint64) int {
	return slices.IndexFunc(p.leases, func(l lease) bool { return l.id == id })
}

// find returns the lease of a probe that has not reported.
func (p *probes) find(id uint64) *lease { return &p.leases[p.index(id)] }

// remove removes the lease of a probe that reports. ok is false if the probe has reported before.
func (p *probes) remove(id uint64) (l lease, ok bool) {
	i := p.index(id)
	if i < 0 {
		return lease{}, false
	}
	l = p.leases[i]
	p.leases = slices.Delete(p.leases, i, i+1)
	return l, true
}

// withdraw removes the lease of a probe whose call will not be made.
func (p *probes) withdraw(id uint64) {
	if l, ok := p.remove(id); ok && p.lastStart == l.issued { // no probe was admitted since
		p.lastStart = l.previous
	}
}

// restart makes the lease of a probe begin at now, after listeners have run. It reports false if the lease has expired
// meanwhile. If the generation of the probe is over, the call is in flight like others of an earlier generation.
func (p *probes) restart(id uint64, ph *phase, now int64) bool {
	l := p.find(id)
	l.pending = false
	if l.generation != ph.gen {
		return true
	}
	if !l.holdsSlot(ph.gen, now) {
		return false
	}
	l.expires = now + int64(ph.pol.cfg.ProbeTimeout)
	p.lastStart, l.issued = now, now
	return true
}

// claimSlot issues a slot if one is free (B19).
func (d *decision) claimSlot() (lease uint64, ok bool) {
	p := &d.b.ensureLazy().probes
	p.expire(d.now)
	free, at := p.slotFree(d.ph, d.now)
	if !free {
		d.ph.gate.until.Store(at)
		return 0, false
	}
	jitter()
	if seededBug == bugSlot { // another caller may take the slot here
		d.b.yieldLock()
	}
	return p.issue(d.ph, d.now), true
}

// slotsChanged makes the next call of the phase look for a slot under the lock. Caller must hold Breaker.mu.
func (ph *phase) slotsChanged() {
	if ph.half != nil {
		ph.gate.until.Store(0)
	}
}
