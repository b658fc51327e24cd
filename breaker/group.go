package breaker

import (
	"context"
	"iter"
	"sync"
	"sync/atomic"
)

// Group keeps one breaker for each key. A breaker is made, closed, when its key is first asked for.
//
// The group is bounded (WithMaxBreakers). When it is full, a breaker without an override and without calls in flight
// makes room: roughly the one that has gone longest without a call. (Of one without a window, see
// Config.Window, all that is known is whether a call came since the group last looked.) One that is open or half-open
// may go when its open period has been over, or its last probe out, for the longer of MaxOpenFor and one minute, and
// no call has asked for it in that time. If none can go, all further keys share one breaker, that of Key{Tag:
// OverflowTag}.
//
// A breaker that no call has asked for during the idle timeout (WithIdleTimeout) is no longer yielded by All. Its
// memory is freed when new keys arrive. If a call asks for it before that, it is as it was.
//
// A *Breaker may be kept: if it was evicted meanwhile, its methods act on the breaker that its key has now. In a
// group that is full, that may be the one that keys share, as it may be for Get: Lookup tells what a key has of its
// own.
//
// A Group is safe for concurrent use. It owns no goroutine and no timer. The zero Group is not usable.
type Group struct {
	table    atomic.Pointer[table] // Get reads it without the lock
	shared   shared
	max      int
	idle     int64                   // nanoseconds after which an unused breaker is no longer yielded; 0: never
	overflow atomic.Pointer[Breaker] // nil until needed

	evictions, overflows, unguarded atomic.Uint64

	// mu serialises making and evicting breakers, and Apply. It is taken before any Breaker.mu, never after.
	mu          sync.Mutex
	policies    *policies // guarded by mu
	live        int       // guarded by mu: breakers in table, the overflow breaker not counted
	evictCursor int       // guarded by mu: the slot where the next search for one to evict begins
	idleCursor  int       // guarded by mu: the slot where the next search for idle ones begins
	nextSearch  int64     // guarded by mu: no search before this instant; see evict
}

// OverflowTag is the Tag, and the only part, of the key of the breaker that keys share when the group is full and
// nothing can be evicted.
const OverflowTag = "overflow"

var overflowKey = Key{Tag: OverflowTag}

// GroupStats are the figures of the group itself.
type GroupStats struct {
	Breakers  int    `json:"breakers"`  // as Len: idle ones whose memory is not yet freed are among them
	Evictions uint64 `json:"evictions"` // breakers that made room for another key
	Overflow  uint64 `json:"overflow"`  // times that Get answered with the overflow breaker for want of room
	Unguarded uint64 `json:"unguarded"` // calls that went unguarded because a key function panicked
}

// NewGroup returns an empty group whose breakers have cfg, where no rule of WithPolicy gives them another. An invalid
// cfg, an invalid option and a nil option are errors.
func NewGroup(cfg Config, opts ...GroupOption) (*Group, error) {
	o := options{maxBreakers: defaultMaxBreakers, idleTimeout: defaultIdleTimeout}
	for i, opt := range opts {
		if isNil(opt) {
			return nil, errorf("option %d is nil", i)
		}
		if err := opt.applyGroup(&o); err != nil {
			return nil, err
		}
	}
	ps, err := newPolicies(cfg, o.rules, o.trip != nil)
	if err != nil {
		return nil, err
	}
	g := &Group{max: o.maxBreakers, idle: int64(max(0, o.idleTimeout)), policies: ps}
	g.shared.group = g
	o.share(&g.shared)
	g.table.Store(newTable(smallestTable))
	return g, nil
}

// Get returns the breaker for key and makes it if need be. It never returns nil. For a key that is known it takes no
// lock and allocates nothing.
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

// All yields every breaker with its key, in no order and without a lock on the group. The overflow breaker is among
// them; breakers that are idle (WithIdleTimeout) are not. Breakers that come or go meanwhile may be missed. No
// breaker comes twice, but a key may whose breaker was evicted and made anew.
func (g *Group) All() iter.Seq2[Key, *Breaker] {
	return func(yield func(Key, *Breaker) bool) {
		now := clock()
		for b := range g.table.Load().all() {
			if !g.isIdle(b, now) && !yield(b.key, b) {
				return
			}
		}
	}
}

// Len returns how many breakers there are. The overflow breaker is among them, and so are idle ones whose memory is
// not yet freed.
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

// Listen calls f on each transition from now on, as a function of WithListener is called. stop ends that; a call of f
// that has begun may end after stop has returned. A nil f panics.
func (g *Group) Listen(f func(context.Context, Event)) (stop func()) {
	if f == nil {
		panic("breaker: Group.Listen: the function is nil")
	}
	return g.shared.listeners.add(f)
}

// Apply gives the group a new Config and new rules, in place of all that it had, for live breakers and for those to
// come. It is all or nothing: an error changes nothing. States, generations, permits, deadlines and overrides stay;
// so do counts, but where a breaker's Window changes, or no rule looked at it before or looks at it now: its window
// starts empty (its count of consecutive failures stays).
func (g *Group) Apply(cfg Config, rules ...PolicyRule) error {
	ps, err := newPolicies(cfg, rules, g.shared.trip != nil)
	if err != nil {
		return err
	}
	g.install(ps)
	return nil
}

// install puts ps in force.
func (g *Group) install(ps *policies) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.policies = ps
	for b := range g.table.Load().all() {
		b.adopt(ps.forKey(b.key))
	}
}

// adopt is B34 for one breaker.
func (b *Breaker) adopt(pol *policy) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := clock()
	ph := b.refresh(now)
	if ph.kind == removed || ph.pol == pol {
		return
	}
	old := ph.win
	b.republish(func(next *phase) {
		next.pol = pol
		if old != nil && pol.bucket != ph.pol.bucket {
			next.win = newWindow(now, pol.bucket)
			if streak := old.streak.Load(); streak > 0 {
				next.win.streak.Store(streak)
				next.win.ensureLazy().span = old.lazy.span
			}
			next.win.doubt.Store(old.doubt.Load())
		}
		if pol.cfg.Ramp <= 0 {
			next.ramp = nil
		}
	})
	ph.slotsChanged() // there may be more slots now
	if lazy := b.lazy.Load(); lazy != nil {
		lazy.backoff.adopt(ph.pol, pol, now)
	}
	if old != nil && pol.bucket != ph.pol.bucket {
		b.retired = satAdd(b.retired, old.drain()) // after publishing: see sweep
		if old.doubt.Load()&1 == 0 {               // a success ended the row after it was copied
			b.phase.Load().win.clearStreak()
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
	g.freeIdle()
	if g.live >= g.max && !g.evict() {
		inc(&g.overflows)
		return g.overflowBreaker()
	}
	b := newBreaker(key, hash, g.policies.forKey(key), &g.shared)
	g.table.Store(t.put(b, g.len()))
	g.live++
	return b
}

// overflowBreaker returns the overflow breaker. It is beyond the bound, and makes room for nobody.
// Caller must hold g.mu.
func (g *Group) overflowBreaker() *Breaker {
	b := g.overflow.Load()
	if b == nil {
		b = newBreaker(overflowKey, overflowKey.hash(), g.policies.forKey(overflowKey), &g.shared)
		g.table.Store(g.table.Load().put(b, g.len()))
		g.overflow.Store(b)
	}
	return b
}
