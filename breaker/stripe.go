package breaker

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// If many cores call a breaker at once, most of the time of a call is spent on moving the cache lines of its counters
// from one core to another. Such a breaker gets stripes: more sets of the counters, two for each P, so that in most
// cases no two Ps use the same set. Only busy breakers get them, because they take memory.

// stripe is one set of the counters of a breaker. It is added to those in Breaker and lazyState.
type stripe struct {
	admitted   atomic.Uint64
	rejections [reasons]atomic.Uint64 // by Reason
	_          [8]byte                // to a cache line
}

// windowStripe is one set of the counters of a window. It is added to those in window.
type windowStripe struct {
	successes [buckets]atomic.Uint64
	_         [48]byte // to two cache lines
}

const (
	// sampleEvery is how often a call looks for contention: once in so many counts of one counter. It is a power of two.
	// The call then reads the clock sampleReads times, which takes about a microsecond.
	sampleEvery = 8192
	sampleReads = 40
	// contendedFrom is how many calls of others it must see in that time. A goroutine that calls alone sees none.
	contendedFrom = 4
	// maxStripes limits what a failure and a snapshot read with the lock held.
	maxStripes = 32
)

// noteContention is called after a counter was incremented to n. Once in sampleEvery counts it samples the contention.
// If others increment the counter meanwhile, the breaker gets stripes.
func (b *Breaker) noteContention(counter *atomic.Uint64, n uint64) {
	if n%sampleEvery == 0 {
		b.sampleContention(counter, n)
	}
}

func (b *Breaker) sampleContention(counter *atomic.Uint64, n uint64) {
	if n == 0 { // a counter at its maximum (B11) shows no contention
		return
	}
	for range sampleReads {
		clock()
	}
	if satSub(counter.Load(), n) >= contendedFrom {
		b.enableStripes(runtime.GOMAXPROCS(0))
	}
}

// enableStripes makes stripes for ps Ps, for the breaker and, if it is closed, for its window. There are twice as many
// stripes as Ps, because two Ps may share a stripe.
func (b *Breaker) enableStripes(ps int) {
	n := min(2*ps, maxStripes)
	stripes, windowStripes := make([]stripe, n), make([]windowStripe, n)
	b.mu.Lock()
	defer b.mu.Unlock()
	ph := b.phase.Load()
	if ph.kind == removed {
		return
	}
	lazy := b.ensureLazy()
	if lazy.stripes.Load() == nil {
		lazy.stripes.Store(&stripes)
	}
	if ph.win == nil || ph.striped {
		return
	}
	ph.win.ensureLazy().stripes = windowStripes
	b.republish(func(*phase) {}) // the new phase is striped
}

// stripeFor returns the stripe for the P that it runs on. It is the same for most calls on a P, and mostly differs
// between Ps. A sync.Pool is the closest to the number of a P without linkname. The pool is emptied by a garbage
// collection. After that, and if the goroutine is preempted between Get and Put, a call may allocate or lock.
func stripeFor[T any](stripes []T) *T {
	n := stripeNumbers.Get().(*uint32) //nolint:forcetypeassert // New makes nothing else
	s := &stripes[*n%uint32(len(stripes))]
	stripeNumbers.Put(n)
	return s
}

var (
	stripeNumbers = sync.Pool{New: func() any { n := lastStripe.Add(1); return &n }}
	lastStripe    atomic.Uint32
)

// lastUsedEvery is how often rejections set lastUsed.
const lastUsedEvery = int64(time.Millisecond)

// countRejection counts a rejection at now, without the lock.
func (b *Breaker) countRejection(r Reason, now int64) {
	if now-b.lastUsed.Load() >= lastUsedEvery {
		b.lastUsed.Store(now)
	}
	lazy := b.lazy.Load() // not nil: the transition that opened the breaker made it
	if stripes := lazy.loadStripes(); stripes != nil {
		inc(&stripeFor(stripes).rejections[r])
		return
	}
	b.noteContention(&lazy.rejections[r], inc(&lazy.rejections[r]))
}

// admittedTotal returns how many permits were issued over the life of the breaker.
func (b *Breaker) admittedTotal() uint64 {
	n := b.admitted.Load()
	if lazy := b.lazy.Load(); lazy != nil {
		stripes := lazy.loadStripes()
		for i := range stripes {
			n = satAdd(n, stripes[i].admitted.Load())
		}
	}
	return n
}

// rejected returns how many calls were rejected for r.
func (l *lazyState) rejected(r Reason) uint64 {
	n := l.rejections[r].Load()
	stripes := l.loadStripes()
	for i := range stripes {
		n = satAdd(n, stripes[i].rejections[r].Load())
	}
	return n
}

// loadStripes returns the stripes, or nil if there are none.
func (l *lazyState) loadStripes() []stripe {
	if stripes := l.stripes.Load(); stripes != nil {
		return *stripes
	}
	return nil
}
