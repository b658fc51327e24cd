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

// stripe is a set of the counters of a breaker, added to those in Breaker and cold.
type stripe struct {
	admitted   atomic.Uint64
	rejections [reasons]atomic.Uint64 // by Reason
	_          [8]byte                // to a cache line
}

// windowStripe is a set of the counters of a window, added to its own.
type windowStripe struct {
	successes [buckets]atomic.Uint64
	_         [48]byte // to two cache lines
}

const (
	// sampleEvery is after how many counts in one word a call looks for others, a power of two. meetLooks is for how
	// long: so many readings of the clock take about a microsecond, which is little, once in so many calls.
	sampleEvery = 8192
	sampleReads = 40
	// contendedFrom is how many others it must see then. A goroutine that calls alone sees none.
	contendedFrom = 4
	// maxStripes bounds what a failure and a snapshot have to read with the lock held.
	maxStripes = 32
)

// noteContention is for a call that made a counter n. If that is a multiple of meetEvery it looks, and if others count
// meanwhile the breaker gets lanes.
func (b *Breaker) noteContention(counter *atomic.Uint64, n uint64) {
	if n%sampleEvery == 0 {
		b.sampleContention(counter, n)
	}
}

func (b *Breaker) sampleContention(counter *atomic.Uint64, n uint64) {
	if n == 0 { // at the most there is (B11) the counter shows nobody any more
		return
	}
	for range sampleReads {
		clock()
	}
	if satSub(counter.Load(), n) >= contendedFrom {
		b.enableStripes(runtime.GOMAXPROCS(0))
	}
}

// enableStripes gives the breaker lanes, and its window if it is closed, for so many Ps. Twice as many, as the numbers of two
// Ps may come to the same lane.
func (b *Breaker) enableStripes(ps int) {
	n := min(2*ps, maxStripes)
	lanes, windowLanes := make([]stripe, n), make([]windowStripe, n)
	b.mu.Lock()
	defer b.mu.Unlock()
	ph := b.phase.Load()
	if ph.kind == removed {
		return
	}
	c := b.ensureLazy()
	if c.stripes.Load() == nil {
		c.stripes.Store(&lanes)
	}
	if ph.win == nil || ph.striped {
		return
	}
	ph.win.ensureLazy().stripes = windowLanes
	b.republish(func(*phase) {}) // which sees them
}

// stripeFor chooses a lane for the P that it runs on: the same for most calls there, and mostly another one than on other
// Ps. A sync.Pool is as near as one comes to the number of a P without linkname. It begins anew after a garbage
// collection; that, and a goroutine that is interrupted between the two lines, is all for which a call in a lane may
// allocate or lock.
func stripeFor[T any](lanes []T) *T {
	n := stripeNumbers.Get().(*uint32) //nolint:forcetypeassert // New makes nothing else
	l := &lanes[*n%uint32(len(lanes))]
	stripeNumbers.Put(n)
	return l
}

var (
	stripeNumbers = sync.Pool{New: func() any { n := lastStripe.Add(1); return &n }}
	lastStripe    atomic.Uint32
)

// lastUsedEvery is how often rejections note when the breaker was last used.
const lastUsedEvery = int64(time.Millisecond)

// reject counts a rejection at now. Caller need not hold b.mu.
func (b *Breaker) reject(r Reason, now int64) {
	if now-b.lastUsed.Load() >= lastUsedEvery {
		b.lastUsed.Store(now)
	}
	c := b.lazy.Load() // there is one: a breaker that rejects has not only had fast successes
	if lanes := c.loadStripes(); lanes != nil {
		inc(&stripeFor(lanes).rejections[r])
		return
	}
	b.noteContention(&c.rejections[r], inc(&c.rejections[r]))
}

// admittedTotal is how many permits have been given out, ever.
func (b *Breaker) admittedTotal() uint64 {
	n := b.admitted.Load()
	if c := b.lazy.Load(); c != nil {
		for i := range c.loadStripes() {
			n = satAdd(n, c.loadStripes()[i].admitted.Load())
		}
	}
	return n
}

// rejected is how many calls have been rejected for a reason.
func (c *lazyState) rejected(r Reason) uint64 {
	n := c.rejections[r].Load()
	for i := range c.loadStripes() {
		n = satAdd(n, c.loadStripes()[i].rejections[r].Load())
	}
	return n
}

// loadStripes returns the lanes, if there are any.
func (c *lazyState) loadStripes() []stripe {
	if lanes := c.stripes.Load(); lanes != nil {
		return *lanes
	}
	return nil
}
