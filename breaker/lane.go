package breaker

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// A breaker that many cores call at once spends most of a call on taking the cache lines of its counters from another
// core. So such a breaker gets lanes: further sets of the counters, of which each P mostly has one to itself, as many
// as there are Ps and more. All others count in the counters that every breaker has: memory is paid where the traffic
// is.

// lane is a set of the counters of a breaker, added to those in Breaker and cold.
type lane struct {
	admitted   atomic.Uint64
	rejections [reasons]atomic.Uint64 // by Reason
	_          [8]byte                // to a cache line
}

// windowLane is a set of the counters of a window, added to its own.
type windowLane struct {
	successes [buckets]atomic.Uint64
	_         [48]byte // to two cache lines
}

const (
	// meetEvery is after how many counts in one word a call looks for others, a power of two. meetLooks is for how
	// long: so many readings of the clock take about a microsecond, which is little, once in so many calls.
	meetEvery = 8192
	meetLooks = 40
	// meetMin is how many others it must see then. A goroutine that calls alone sees none.
	meetMin = 4
	// maxLanes bounds what a failure and a snapshot have to read with the lock held.
	maxLanes = 32
)

// meet is for a call that made a counter n. If that is a multiple of meetEvery it looks, and if others count
// meanwhile the breaker gets lanes.
func (b *Breaker) meet(counter *atomic.Uint64, n uint64) {
	if n%meetEvery == 0 {
		b.look(counter, n)
	}
}

func (b *Breaker) look(counter *atomic.Uint64, n uint64) {
	if n == 0 { // at the most there is (B11) the counter shows nobody any more
		return
	}
	for range meetLooks {
		clock()
	}
	if minus(counter.Load(), n) >= meetMin {
		b.widen(runtime.GOMAXPROCS(0))
	}
}

// widen gives the breaker lanes, and its window if it is closed, for so many Ps. Twice as many, as the numbers of two
// Ps may come to the same lane.
func (b *Breaker) widen(ps int) {
	n := min(2*ps, maxLanes)
	lanes, windowLanes := make([]lane, n), make([]windowLane, n)
	b.mu.Lock()
	defer b.mu.Unlock()
	ph := b.phase.Load()
	if ph.kind == gone {
		return
	}
	c := b.coldly()
	if c.lanes.Load() == nil {
		c.lanes.Store(&lanes)
	}
	if ph.win == nil || ph.laned {
		return
	}
	ph.win.more().lanes = windowLanes
	b.republish(func(*phase) {}) // which sees them
}

// pick chooses a lane for the P that it runs on: the same for most calls there, and mostly another one than on other
// Ps. A sync.Pool is as near as one comes to the number of a P without linkname. It begins anew after a garbage
// collection; that, and a goroutine that is interrupted between the two lines, is all for which a call in a lane may
// allocate or lock.
func pick[T any](lanes []T) *T {
	n := laneNumbers.Get().(*uint32) //nolint:forcetypeassert // New makes nothing else
	l := &lanes[*n%uint32(len(lanes))]
	laneNumbers.Put(n)
	return l
}

var (
	laneNumbers = sync.Pool{New: func() any { n := lastLane.Add(1); return &n }}
	lastLane    atomic.Uint32
)

// usedEvery is how often rejections note when the breaker was last used.
const usedEvery = int64(time.Millisecond)

// reject counts a rejection at now. Caller need not hold b.mu.
func (b *Breaker) reject(r Reason, now int64) {
	if now-b.used.Load() >= usedEvery {
		b.used.Store(now)
	}
	c := b.cold.Load() // there is one: a breaker that rejects has not only had fast successes
	if lanes := c.laned(); lanes != nil {
		inc(&pick(lanes).rejections[r])
		return
	}
	b.meet(&c.rejections[r], inc(&c.rejections[r]))
}

// entered is how many permits have been given out, ever.
func (b *Breaker) entered() uint64 {
	n := b.admitted.Load()
	if c := b.cold.Load(); c != nil {
		for i := range c.laned() {
			n = plus(n, c.laned()[i].admitted.Load())
		}
	}
	return n
}

// rejected is how many calls have been rejected for a reason.
func (c *cold) rejected(r Reason) uint64 {
	n := c.rejections[r].Load()
	for i := range c.laned() {
		n = plus(n, c.laned()[i].rejections[r].Load())
	}
	return n
}

// laned returns the lanes, if there are any.
func (c *cold) laned() []lane {
	if lanes := c.lanes.Load(); lanes != nil {
		return *lanes
	}
	return nil
}
