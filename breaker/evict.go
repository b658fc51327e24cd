package breaker

import "time"

// A breaker is removed from its group because the group is full (evict), because it is idle (freeIdle), or by Remove.
// All three publish a phase of kind removed. After that, the methods of the breaker act on the breaker that its key has
// then. Permits of the removed breaker report to it without effect.

const (
	// evictionSample is how many breakers are compared to find the least recently used one. With a sample, as in many
	// caches, the cost of a new key does not depend on the size of the group. A list in order of use would have to be
	// updated by each call.
	evictionSample = 32
	// idleSample is how many slots are checked for idle breakers when a new key arrives. So each new key can free up to
	// eight breakers.
	idleSample = 8
	// evictOpenAfter is how long an open or half-open breaker must have been ready for a probe, without being used,
	// before it may be evicted, unless MaxOpenFor is longer.
	evictOpenAfter = int64(time.Minute)
)

// Remove removes the breaker of key from the group at once, whatever its state, and reports whether there was one. Its
// counts and its override are lost. There is no event. Calls in flight settle as late results of the removed breaker.
// The next call with the key gets a new breaker.
func (g *Group) Remove(key Key) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	b := g.table.Load().find(key, key.hash())
	if b == nil {
		return false
	}
	b.remove()
	g.detach(b)
	return true
}

// detach removes b, whose last phase is published, from the table. Caller must hold g.mu.
func (g *Group) detach(b *Breaker) {
	g.table.Load().remove(b)
	if b == g.overflow.Load() {
		g.overflow.Store(nil)
		return
	}
	g.live--
}

// evict evicts one breaker and reports whether it did. If it did not, it has checked all breakers, which takes long in
// a large group. So there is no other search for ten times as long as this one took. New keys get the overflow breaker
// meanwhile. Caller must hold g.mu.
func (g *Group) evict() bool {
	start := clock()
	if start < g.nextSearch {
		return false
	}
	t := g.table.Load()
	for checked := 0; checked < len(t.slots); {
		var victims [evictionSample]victim
		n := 0
		for ; checked < len(t.slots) && n < len(victims); checked++ {
			b := t.next(&g.evictCursor)
			if b == nil || b == g.overflow.Load() {
				continue
			}
			if lastUse, ok := b.evictable(start); ok {
				victims[n] = victim{b, lastUse}
				n++
			}
		}
		for ; n > 0; n-- {
			best := 0
			for i := 1; i < n; i++ {
				if victims[i].lastUse < victims[best].lastUse {
					best = i
				}
			}
			b := victims[best].b
			victims[best] = victims[n-1]
			if b.tryEvict(func(now int64) bool { _, ok := b.evictable(now); return ok }) {
				g.detach(b)
				inc(&g.evictions)
				return true
			}
		}
	}
	g.nextSearch = start + 11*(clock()-start)
	return false
}

// victim is a breaker that evict may choose.
type victim struct {
	b       *Breaker
	lastUse int64
}

// freeIdle checks the next idleSample slots and removes the breakers there that are idle (B40). Caller must hold g.mu.
func (g *Group) freeIdle() {
	if g.idle == 0 {
		return
	}
	now := clock()
	t := g.table.Load()
	for range idleSample {
		b := t.next(&g.idleCursor)
		if b != nil && g.isUnused(b, now) && b.tryEvict(func(now int64) bool { return g.isUnused(b, now) }) {
			g.detach(b)
		}
	}
}

// isIdle reports whether b is idle, so that All leaves it out (B40).
func (g *Group) isIdle(b *Breaker, now int64) bool {
	if g.idle == 0 || !g.isUnused(b, now) {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	v := view{b: b, ph: b.phase.Load(), now: now}
	return !v.ph.override.inForce(now) && v.running() == 0 && g.isUnused(b, now)
}

// isUnused reports whether b was not used during the idle timeout.
func (g *Group) isUnused(b *Breaker, now int64) bool {
	return now-b.lastUse(b.phase.Load(), now) >= g.idle
}

// next returns the breaker in the slot at cursor, or nil, and moves cursor to the next slot.
func (t *table) next(cursor *int) *Breaker {
	b := t.slots[*cursor&(len(t.slots)-1)].Load()
	*cursor = (*cursor + 1) & (len(t.slots) - 1)
	if b == tombstone {
		return nil
	}
	return b
}

// evictable reports whether the state of the breaker allows a full group to evict it (B33), and returns when the
// breaker was last used. It takes no lock and does not check for calls in flight. That check would read twice as much
// memory, for a whole sample of breakers of which one is evicted. tryEvict checks it.
func (b *Breaker) evictable(now int64) (lastUse int64, ok bool) {
	ph := b.phase.Load()
	if ph.kind == removed || ph.override.inForce(now) {
		return 0, false
	}
	lastUse = b.lastUse(ph, now)
	due := lastUse // while half-open, no probe was admitted after this
	switch ph.state {
	case Closed:
		return lastUse, true
	case Open:
		due = max(due, ph.gate.until.Load())
	case HalfOpen:
	}
	return lastUse, now >= due+max(evictOpenAfter, int64(ph.pol.cfg.MaxOpenFor))
}

// lastUse returns when the breaker was last used, as far as that is known. Closed calls that take no lock are known to
// a tenth of the window, by its edge. Without a window, such calls read no clock. Then edge holds how many calls were
// admitted up to the last check. If there are more now, lastUse returns now. If not, it returns when a check last found
// more.
func (b *Breaker) lastUse(ph *phase, now int64) int64 {
	if ph.state != Closed {
		return b.lastUsed.Load()
	}
	if ph.pol.bucket != noWindow {
		return max(b.lastUsed.Load(), ph.win.edge.Load())
	}
	if n := int64(b.admittedTotal()); ph.win.edge.Load() != n {
		b.lastUsed.Store(now) // before edge, because another check may run at the same time
		ph.win.edge.Store(n)
		return now
	}
	return b.lastUsed.Load()
}

// tryEvict removes the breaker if allowed returns true, no call is in flight and no override is in force. It reports
// whether it removed it. It publishes the removal before it counts the calls in flight, see admitFast. If it finds
// one, it undoes the removal.
func (b *Breaker) tryEvict(allowed func(now int64) bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := b.current()
	if v.ph.kind == removed || v.ph.override != nil || !allowed(v.now) {
		return false
	}
	if v.running() > 0 { // saves callers a needless detour through successor; the check after publishing decides
		return false
	}
	b.publishRemoved(v.ph)
	if v.running() > 0 {
		b.phase.Store(v.ph)
		return false
	}
	return true
}

// remove removes the breaker, whatever its state, also if calls are in flight.
func (b *Breaker) remove() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.publishRemoved(b.phase.Load())
}

// publishRemoved publishes the last phase of b, a copy of ph. Caller must hold b.mu.
func (b *Breaker) publishRemoved(ph *phase) {
	last := *ph
	last.kind = removed
	last.gen++ // so that all reports from now on are late
	b.phase.Store(&last)
}

// successor returns the breaker that the key of this removed breaker has now, and makes it if needed. It locks
// Group.mu, and so waits for an eviction that is in progress and may be undone.
func (b *Breaker) successor() *Breaker {
	return b.shared.group.add(b.key, b.hash)
}
