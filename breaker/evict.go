package breaker

import "time"

// A breaker leaves its group because the group is full and needs its place (evict), because no call has asked for it
// for a long time (freeIdle), or because somebody said so (Remove). All three publish a phase of kind gone, after
// which its methods act on the breaker that its key has then; permits that are out report to it without effect.

const (
	// evictionSample is how many breakers are compared to find the one that was unused for longest. A sample, as many
	// caches take it, keeps the cost of a new key the same however large the group is, and needs no list that every
	// call would update.
	evictionSample = 32
	// idleSample is how many slots are looked at for idle breakers when a new key arrives. Where keys come and go it
	// frees eight for each that comes, as long as there are any.
	idleSample = 8
	// deadFor is how long an open or half-open breaker must have been due for a call before it may be evicted, unless
	// MaxOpenFor is longer.
	evictOpenAfter = int64(time.Minute)
)

// Remove takes the breaker of key out of the group now, whatever its state, and reports whether there was one. Its
// counts and its override go with it, and there is no event. Calls in flight settle as late ones, on the breaker that
// was removed. The next call with the key gets a new breaker.
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

// detach takes b, which has gone, out of the table. Caller must hold g.mu.
func (g *Group) detach(b *Breaker) {
	g.table.Load().remove(b)
	if b == g.overflow.Load() {
		g.overflow.Store(nil)
		return
	}
	g.live--
}

// evict makes room for one breaker and reports whether it could. Where it cannot, it has looked at all breakers,
// which takes long in a large group. So the next search waits for ten times as long as this one took, and keys that
// come meanwhile overflow. Caller must hold g.mu.
func (g *Group) evict() bool {
	start := clock()
	if start < g.nextSearch {
		return false
	}
	t := g.table.Load()
	for looked := 0; looked < len(t.slots); {
		var victims [evictionSample]victim
		n := 0
		for ; looked < len(t.slots) && n < len(victims); looked++ {
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

// victim is a breaker that may be evicted.
type victim struct {
	b       *Breaker
	lastUse int64
}

// freeIdle looks at a few slots and frees the breakers there that are idle (B40). Caller must hold g.mu.
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

// isIdle reports whether All leaves b out (B40).
func (g *Group) isIdle(b *Breaker, now int64) bool {
	if g.idle == 0 || !g.isUnused(b, now) {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.phase.Load().override.inForce(now) && b.running(now) == 0 && g.isUnused(b, now)
}

// unusedFor reports whether no call has asked for b during the idle timeout.
func (g *Group) isUnused(b *Breaker, now int64) bool {
	return now-b.lastUse(b.phase.Load(), now) >= g.idle
}

// next returns the breaker in the slot at hand, or nil, and moves hand on.
func (t *table) next(hand *int) *Breaker {
	b := t.slots[*hand&(len(t.slots)-1)].Load()
	*hand = (*hand + 1) & (len(t.slots) - 1)
	if b == tombstone {
		return nil
	}
	return b
}

// evictable reports whether it is worth while to have the breaker leave a full group (B33), and when it was last
// used. It takes no lock and does not look for calls in flight: that would fetch twice as much memory, for each of a
// sample of which one goes.
func (b *Breaker) evictable(now int64) (lastUse int64, ok bool) {
	ph := b.phase.Load()
	if ph.kind == removed || ph.override.inForce(now) {
		return 0, false
	}
	lastUse = b.lastUse(ph, now)
	due := lastUse // half-open: no probe has gone out after this
	switch ph.state {
	case Closed:
		return lastUse, true
	case Open:
		due = max(due, ph.gate.until.Load())
	case HalfOpen:
	}
	return lastUse, now >= due+max(evictOpenAfter, int64(ph.pol.cfg.MaxOpenFor))
}

// lastUse is when a call last asked for the breaker. Closed calls that take no lock are known to a tenth of the
// window, by its edge. Without a window they read no clock, so edge is no instant but a mark: how many calls there
// had been at the last look. If there are more now, the breaker was used just now; if not, it was used before the
// look that last found more.
func (b *Breaker) lastUse(ph *phase, now int64) int64 {
	if ph.state != Closed {
		return b.lastUsed.Load()
	}
	if ph.pol.bucket != noWindow {
		return max(b.lastUsed.Load(), ph.win.edge.Load())
	}
	if n := int64(b.admittedTotal()); ph.win.edge.Load() != n {
		b.lastUsed.Store(now) // first: another check may see the mark
		ph.win.edge.Store(n)
		return now
	}
	return b.lastUsed.Load()
}

// tryEvict takes the breaker out of service if it is idle, has no override, and may still tryEvict. It publishes first
// and looks for calls in flight after that: see enter.
func (b *Breaker) tryEvict(may func(now int64) bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := clock()
	ph := b.refresh(now)
	if ph.kind == removed || ph.override != nil || !may(now) {
		return false
	}
	if b.running(now) > 0 { // so that no caller takes the detour in vain; what decides is the look after publishing
		return false
	}
	b.publishRemoved(ph)
	if b.running(now) > 0 {
		b.phase.Store(ph)
		return false
	}
	return true
}

// remove takes the breaker out of service, whatever it does.
func (b *Breaker) remove() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.publishRemoved(b.phase.Load())
}

// publishEvicted makes ph the last phase of b. Caller must hold b.mu.
func (b *Breaker) publishRemoved(ph *phase) {
	last := *ph
	last.kind = removed
	last.gen++ // a report that comes now is late
	b.phase.Store(&last)
}

// successor returns the breaker that has this evicted one's key now, making it if need be. It takes Group.mu, and so
// waits for an eviction that is under way and may yet be called off.
func (b *Breaker) successor() *Breaker {
	return b.shared.group.add(b.key, b.hash)
}
