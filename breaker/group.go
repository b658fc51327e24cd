package breaker

import (
	"iter"
	"sync"
	"sync/atomic"
)

// Group keeps one breaker for each key. A breaker is made, closed, when its key is first asked for.
//
// The group is bounded (WithMaxBreakers). When it is full, a closed breaker without an override and without calls in flight
// makes room, roughly the one unused for longest (of one without a window, see Config.Window, all that is known is whether a
// call came since the group looked last); what opened, half-opened or was forced stays. If none can go, all further
// keys share one breaker, that of Key{Tag: OverflowTag}.
//
// A *Breaker may be kept: if it was evicted meanwhile, its methods act on the breaker that its key has now. In a group that
// is full, that may be the one that keys share, as it may be for Get: Lookup tells what a key has of its own.
//
// A Group is safe for concurrent use. It owns no goroutine and no timer. The zero Group is not usable.
type Group struct {
	table    atomic.Pointer[table] // Get reads it without the lock
	home     home
	max      int
	overflow atomic.Pointer[Breaker] // nil until needed

	evictions, overflows, unguarded atomic.Uint64

	// mu serialises making and evicting breakers, and Apply. It is taken before any Breaker.mu, never after.
	mu       sync.Mutex
	policies *policies // guarded by mu
	live     int       // guarded by mu: breakers in table, the overflow breaker not counted
	hand     int       // guarded by mu: the slot where the next search for one to evict begins
	rested   int64     // guarded by mu: no search before this instant; see evict
}

// OverflowTag is the Tag, and the only part, of the key of the breaker that keys share when the group is full and nothing can
// be evicted.
const OverflowTag = "overflow"

var overflowKey = Key{Tag: OverflowTag}

// GroupStats are the figures of the group itself.
type GroupStats struct {
	Breakers  int    `json:"breakers"`  // as Len
	Evictions uint64 `json:"evictions"` // breakers that made room for another key
	Overflow  uint64 `json:"overflow"`  // times that Get answered with the overflow breaker for want of room
	Unguarded uint64 `json:"unguarded"` // calls that went unguarded because a key function panicked
}

// NewGroup returns an empty group whose breakers have cfg, where no rule of WithPolicy gives them another. An invalid cfg, an
// invalid option and a nil option are errors.
func NewGroup(cfg Config, opts ...Option) (*Group, error) {
	o, err := collect(opts)
	if err != nil {
		return nil, err
	}
	ps, err := newPolicies(cfg, o.rules, o.trip != nil)
	if err != nil {
		return nil, err
	}
	g := &Group{max: o.maxBreakers, policies: ps}
	g.home.group, g.home.trip = g, o.trip
	for _, l := range o.listeners {
		g.home.ears.listen(l)
	}
	g.table.Store(newTable(smallestTable))
	return g, nil
}

// Get returns the breaker for key and makes it if need be. It never returns nil. For a key that is known it takes no lock
// and allocates nothing.
func (g *Group) Get(key Key) *Breaker {
	hash := key.hash()
	if b := g.table.Load().find(key, hash); b != nil {
		return b
	}
	return g.add(key, hash)
}

// Lookup returns the breaker for key, if there is one. It never makes one.
func (g *Group) Lookup(key Key) (*Breaker, bool) {
	b := g.table.Load().find(key, key.hash())
	return b, b != nil
}

// All yields every breaker with its key, the overflow breaker among them, in no order and without a lock. Breakers that
// come or go meanwhile may be missed. No breaker comes twice, but a key may whose breaker was evicted and made anew.
func (g *Group) All() iter.Seq2[Key, *Breaker] {
	return func(yield func(Key, *Breaker) bool) {
		t := g.table.Load()
		for i := range t.slots {
			if b := t.slots[i].Load(); b != nil && b != buried && !yield(b.key, b) {
				return
			}
		}
	}
}

// Len returns how many breakers there are, the overflow breaker among them.
func (g *Group) Len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.len()
}

func (g *Group) len() int {
	if g.overflow.Load() != nil {
		return g.live + 1
	}
	return g.live
}

// Stats returns the figures of the group itself.
func (g *Group) Stats() GroupStats {
	return GroupStats{
		Breakers:  g.Len(),
		Evictions: g.evictions.Load(),
		Overflow:  g.overflows.Load(),
		Unguarded: g.unguarded.Load(),
	}
}

// CountUnguarded counts a call that went past its breaker because its key function panicked. Guards call it; it is here
// so that collectors find all figures in one place.
func (g *Group) CountUnguarded() { bump(&g.unguarded) }

// Listen has l told of every transition from now on, until stop is called; it may still hear one that is being told then. The same Listener (==) is registered once,
// however often it comes, until each of the stops was called. A nil l is told nothing.
func (g *Group) Listen(l Listener) (stop func()) {
	if l == nil {
		return func() {}
	}
	return g.home.ears.listen(l)
}

// Apply gives the group a new Config and new rules, in place of all that it had, for live breakers and for those to
// come. It is all or nothing: an error changes nothing. States, generations, permits, deadlines and overrides stay; so do
// counts, but where a breaker's Window changes, or no rule looked at it before or looks at it now: its window starts empty (its
// count of consecutive failures stays).
func (g *Group) Apply(cfg Config, rules ...PolicyRule) error {
	ps, err := newPolicies(cfg, rules, g.home.trip != nil)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.policies = ps
	for key, b := range g.All() {
		b.adopt(ps.forKey(key))
	}
	return nil
}

// adopt is B34 for one breaker.
func (b *Breaker) adopt(pol *policy) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := clock()
	ph := b.refresh(now)
	if ph.kind == gone || ph.pol == pol {
		return
	}
	old := ph.win
	b.republish(func(next *phase) {
		next.pol = pol
		if old != nil && pol.bucket != ph.pol.bucket {
			next.win = newWindow(now, pol.bucket)
			next.win.streak.Store(old.streak.Load())
			next.win.doubt.Store(old.doubt.Load())
		}
		if pol.cfg.Ramp == 0 {
			next.ramp = nil
		}
		if next.half != nil {
			next.half.fullUntil.Store(0) // there may be more slots now
		}
	})
	if old != nil && pol.bucket != ph.pol.bucket {
		b.retired = plus(b.retired, old.drain()) // after publishing: see sweep
		if !old.doubt.Load() {                   // a success ended the row after it was copied
			b.phase.Load().win.well()
		}
	}
}

// add makes the breaker for key, unless it is there by now or there is no room.
func (g *Group) add(key Key, hash uint64) *Breaker {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.table.Load()
	if b := t.find(key, hash); b != nil {
		return b
	}
	if key == overflowKey {
		return g.overflowBreaker()
	}
	if g.live >= g.max && !g.evict() {
		bump(&g.overflows)
		return g.overflowBreaker()
	}
	b := newBreaker(key, hash, g.policies.forKey(key), &g.home)
	g.table.Store(t.put(b, g.len()))
	g.live++
	return b
}

// overflowBreaker returns the overflow breaker. It is beyond the bound, and is never evicted.
// Caller must hold g.mu.
func (g *Group) overflowBreaker() *Breaker {
	b := g.overflow.Load()
	if b == nil {
		b = newBreaker(overflowKey, overflowKey.hash(), g.policies.forKey(overflowKey), &g.home)
		g.table.Store(g.table.Load().put(b, g.len()))
		g.overflow.Store(b)
	}
	return b
}

// evictionSample is among how many closed breakers without an override the one unused for longest goes. A sample, as many caches take it, keeps
// the cost of a new key the same however large the group is, and needs no list that every call would have to update.
const evictionSample = 32

// evict makes room for one breaker, if any can go. Where none can, it has looked at all of them, which takes long in a large
// group; so the next search waits for ten times as long as this one took, and keys that come meanwhile overflow.
// Caller must hold g.mu.
func (g *Group) evict() bool {
	start := clock()
	if start < g.rested {
		return false
	}
	t := g.table.Load()
	for looked := 0; looked < len(t.slots); {
		var victims [evictionSample]victim
		n := 0
		for ; looked < len(t.slots) && n < len(victims); looked++ {
			b := t.slots[g.hand].Load()
			g.hand = (g.hand + 1) & (len(t.slots) - 1)
			if b == nil || b == buried || b == g.overflow.Load() {
				continue
			}
			if lastUse, ok := b.mayGo(start); ok {
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
			if b.leave() {
				t.bury(b)
				g.live--
				bump(&g.evictions)
				return true
			}
		}
	}
	g.rested = start + 11*(clock()-start)
	return false
}

// victim is a breaker that may be evicted.
type victim struct {
	b       *Breaker
	lastUse int64
}

// mayGo says whether it is worth while to have the breaker leave, and when it was last used, to a tenth of its window. It
// takes no lock and does not look for calls in flight: that would fetch twice as much memory, for each of a sample of which
// one goes.
func (b *Breaker) mayGo(now int64) (lastUse int64, ok bool) {
	ph := b.phase.Load()
	if ph.kind == gone || ph.state != Closed || ph.override.inForce(now) {
		return 0, false
	}
	if ph.pol.bucket != noWindow {
		return ph.win.edge.Load(), true
	}
	// Its calls read no clock, so edge is no instant but a mark: how many calls there had been at the last look. If none has
	// come since then it goes first, and of several the one that has been closed for longest; else it was used just now.
	lastUse = ph.entered - noWindow
	if n := int64(b.entered()); ph.win.edge.Swap(n) != n {
		lastUse = now
	}
	return lastUse, true
}

// leave takes the breaker out of service if it is idle. It publishes first and looks for calls in flight after that:
// see enter.
func (b *Breaker) leave() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	ph := b.refresh(clock())
	if ph.kind == gone || ph.state != Closed || ph.override != nil {
		return false
	}
	if b.inFlight() > 0 { // so that nobody is sent this way in vain; what decides is the look after publishing
		return false
	}
	last := *ph
	last.kind = gone
	last.gen++ // a second Done is late, not a success
	b.phase.Store(&last)
	if b.inFlight() > 0 {
		b.phase.Store(ph)
		return false
	}
	return true
}

// successor returns the breaker that has this evicted one's key now, making it if need be. It takes Group.mu, and so
// waits for an eviction that is under way and may yet be called off.
func (b *Breaker) successor() *Breaker {
	return b.home.group.add(b.key, b.hash)
}
