package breaker

import (
	"context"
	"iter"
	"sync"
	"sync/atomic"
)

// Group keeps one Breaker for each Key. Get makes a breaker, which is closed, when it is first called for a key.
//
// The number of breakers is limited (WithMaxBreakers). When the group is full, a new key evicts a breaker without an
// override and without calls in flight: roughly the least recently used one. For a breaker without a window (see
// Config.Window), it is only known whether a call came since the group last checked it. An open or half-open breaker is
// evicted only if its open period has been over, and no call has used it, for the longer of MaxOpenFor and one minute.
// If no breaker can be evicted, all further keys share one breaker, that of Key{Tag: OverflowTag}.
//
// All does not yield a breaker that was not used during the idle timeout (WithIdleTimeout). Its memory is freed when
// new keys arrive. If a call arrives first, the breaker continues unchanged.
//
// A *Breaker may be kept. If it was evicted or removed, its methods act on the breaker that its key has now. In a full
// group, that may be the breaker that keys share; the same is true for Get. Lookup returns the breaker of a key only if
// the key has one that it does not share.
//
// Most callers use one Group for a process or a client, and give it to a guard. A Group is safe for concurrent use. It
// owns no goroutine and no timer. It must come from NewGroup; the zero Group is not usable.
type Group struct {
	table    atomic.Pointer[table] // Get reads it without the lock
	shared   shared
	max      int
	idle     int64                   // nanoseconds after which All does not yield an unused breaker; 0: never
	overflow atomic.Pointer[Breaker] // nil until needed

	evictions, overflows, unguarded atomic.Uint64

	// mu serializes Apply and the making and removing of breakers. It is locked before any Breaker.mu, never after.
	mu          sync.Mutex
	policies    *policies // guarded by mu
	live        int       // guarded by mu: breakers in table, without the overflow breaker
	evictCursor int       // guarded by mu: the slot at which the next search for a breaker to evict begins
	idleCursor  int       // guarded by mu: the slot at which the next search for idle breakers begins
	nextSearch  int64     // guarded by mu: no search before this instant; see evict
}

// OverflowTag is the tag of the breaker that keys share when the group is full and nothing can be evicted. The other
// parts of its key are empty.
const OverflowTag = "overflow"

var overflowKey = Key{Tag: OverflowTag}

// GroupStats holds the counters of a group. They count over the life of the group.
type GroupStats struct {
	Breakers  int    `json:"breakers"`  // what Len returns; includes idle breakers whose memory is not freed yet
	Evictions uint64 `json:"evictions"` // breakers that were evicted for a new key, because the group was full
	Overflow  uint64 `json:"overflow"`  // how often a key got the overflow breaker because the group was full
	Unguarded uint64 `json:"unguarded"` // calls that were made without a breaker because a key function panicked
}

// NewGroup returns an empty group. Its breakers have cfg, unless a rule of WithPolicy matches their key. An invalid
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

// Get returns the breaker for key, and makes it if needed. It never returns nil. If the group is full, it may be the
// overflow breaker. For a known key, Get takes no lock and allocates nothing.
func (g *Group) Get(key Key) *Breaker {
	hash := key.hash()
	if b := g.table.Load().find(key, hash); b != nil {
		return b
	}
	return g.add(key, hash)
}

// Lookup returns the breaker for key. ok is false if there is none; Lookup does not make one.
func (g *Group) Lookup(key Key) (b *Breaker, ok bool) {
	b = g.table.Load().find(key, key.hash())
	return b, b != nil
}

// All yields each breaker with its key, in no particular order and without a lock on the group. It includes the
// overflow breaker, and leaves out idle breakers (WithIdleTimeout). It may miss breakers that are added or removed
// meanwhile. It yields no breaker twice, but may yield a key twice, if its breaker was removed and another one was
// made.
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

// Len returns the number of breakers. It includes the overflow breaker, and idle breakers whose memory is not freed
// yet.
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

// Stats returns the counters of the group.
func (g *Group) Stats() GroupStats {
	return GroupStats{
		Breakers:  g.Len(),
		Evictions: g.evictions.Load(),
		Overflow:  g.overflows.Load(),
		Unguarded: g.unguarded.Load(),
	}
}

// Listen adds a function that is called on each transition from now on, in the same way as one of WithListener. stop
// removes it. A call of f that has begun may end after stop has returned. Listen panics if f is nil.
func (g *Group) Listen(f func(context.Context, Event)) (stop func()) {
	if f == nil {
		panic("breaker: Group.Listen: the function is nil")
	}
	return g.shared.listeners.add(f)
}

// Apply replaces the Config and all rules of the group, for the breakers that it has and for new ones. If cfg or a rule
// is invalid, Apply returns an error and changes nothing.
//
// States, generations, permits, deadlines and overrides stay as they are. Counts stay too. But if the Window of a
// breaker changes, or if rules begin or cease to use it, its window starts empty; only the failure streak continues.
// The custom rule (WithTrip) stays. A ramp ends if Ramp is 0 now.
func (g *Group) Apply(cfg Config, rules ...PolicyRule) error {
	ps, err := newPolicies(cfg, rules, g.shared.trip != nil)
	if err != nil {
		return err
	}
	for _, b := range g.install(ps) { // without the lock, because a log handler may call the group
		g.shared.logEnforced(b.Snapshot())
	}
	return nil
}

// install puts ps in force. It returns the breakers that begin to reject calls, although their state does not change.
func (g *Group) install(ps *policies) (enforced []*Breaker) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.policies = ps
	for b := range g.table.Load().all() {
		if b.applyPolicy(ps.forKey(b.key)) {
			enforced = append(enforced, b)
		}
	}
	return enforced
}

// applyPolicy replaces the policy of one breaker (B34). It reports whether the breaker begins to reject calls: it is
// not closed, no override is in force, and only the new policy is enforced.
func (b *Breaker) applyPolicy(pol *policy) (enforced bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := b.current()
	ph, now := v.ph, v.now
	if ph.kind == removed || ph.pol == pol {
		return false
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
		lazy.backoff.changePolicy(ph.pol, pol, now)
	}
	if old != nil && pol.bucket != ph.pol.bucket {
		b.retired = satAdd(b.retired, old.drain()) // after publishing, see drainStale
		if old.doubt.Load()&1 == 0 {               // a success may have ended the streak after it was copied
			b.phase.Load().win.clearStreak()
		}
	}
	return ph.override == nil && ph.state != Closed && ph.pol.mode != 0 && pol.mode == 0
}

// add returns the breaker for key. It makes it if there is none by now, and returns the overflow breaker if there is no
// room.
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

// overflowBreaker returns the overflow breaker, and makes it if needed. It does not count towards max and is never
// evicted. Caller must hold g.mu.
func (g *Group) overflowBreaker() *Breaker {
	b := g.overflow.Load()
	if b == nil {
		b = newBreaker(overflowKey, overflowKey.hash(), g.policies.forKey(overflowKey), &g.shared)
		g.table.Store(g.table.Load().put(b, g.len()))
		g.overflow.Store(b)
	}
	return b
}
