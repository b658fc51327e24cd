package breaker

import (
	"math"
	"math/bits"
	"runtime"
	"sync/atomic"
)

// buckets is the number of steps in which a window slides. B7 demands tenths. More buckets would make each closed
// breaker larger (8 bytes each), for a resolution that no rule needs.
const buckets = 10

// window counts the outcomes of one closed generation. Successes are counted with atomics and without the lock. All
// other outcomes are counted under the breaker's lock, because the rules are evaluated after them.
//
// Time is divided into buckets of equal width, from the creation of the window on. The last `buckets` of them are in
// the window. So an outcome counts for more than nine tenths of the window, and no longer one window after it was
// recorded (B7). The end of the current bucket is stored as an instant, not as a number modulo buckets, so an idle gap
// of any length is recognized (B8).
type window struct {
	// edge is the end of the current bucket: the first instant that is not in it. It publishes slot. A writer reads edge
	// and then slot. If it sees the old edge and the new slot, it counts in the newer bucket, which is correct, because
	// its add happens then. Without a window (noWindow), edge is not an instant: lastUse keeps the number of admitted
	// calls in it. A rotation may overwrite that number, which only makes the breaker look used.
	edge atomic.Int64
	slot atomic.Uint32

	doubt atomic.Uint32 // how closely guards look at the end of calls, and until when; see doubtShift

	streak atomic.Uint64 // length of the failure streak; it is not limited to the window (B4)

	// successes by slot. A writer may be delayed between reading slot and adding. Then it adds to the bucket that has the
	// slot by then, which is a later one. A rotation swaps counts out, so no success is lost or counted twice.
	successes [buckets]atomic.Uint64

	lazy *windowLazy // nil until something other than a fast success happens, or the window gets stripes
}

// windowLazy is the part of a window that most windows never need.
type windowLazy struct {
	// Guarded by Breaker.mu.

	bad    [buckets]badCounts
	span   streakSpan
	bursts [2]burst // by burstKind: the last one

	stripes []windowStripe // set once, under Breaker.mu, before a striped phase is published
}

// badCounts are the bad calls of one bucket: failures, overloads and slow calls.
type badCounts struct {
	failures, overloads, slow uint64
	slowCanceled              uint64 // part of slow: calls that their caller canceled
	// By burstKind: the size of the largest burst that began here, and how many of its calls ended in the next bucket.
	largest, spill [2]uint64
	began          [2]int64 // by burstKind: when the first burst here began; 0: none did
}

// A burst is a run of bad calls, each within burstGap (a tenth of the window, if that is shorter) of the one before. It
// lasts for at most a tenth of the window.
// Its calls may have one cause, such as a lost connection, so the rules that use the window must hold without the
// largest burst in it (B5, B6). A burst belongs to the bucket in which it began.
type burst struct {
	began, last int64
	slot        uint32
	size        uint64
	spilled     uint64 // part of size: calls in the bucket after slot
}

type burstKind int

const (
	badBurst  burstKind = iota // failures and overloads
	slowBurst                  // slow calls
)

// badCalls returns how many calls in the bucket are bad.
func (c *badCounts) badCalls(kind burstKind) uint64 {
	if kind == slowBurst {
		return c.slow
	}
	return satAdd(c.failures, c.overloads)
}

// otherCalls returns how many calls in the bucket are not bad. successes is the number of successes in the bucket.
func (c *badCounts) otherCalls(kind burstKind, successes uint64) uint64 {
	if kind == slowBurst {
		return satSub(satAdd(successes, c.failures, c.overloads, c.slowCanceled), c.slow)
	}
	return successes
}

// otherShare returns the share of the other calls that belongs to n of the bad calls: otherCalls * n / badCalls,
// rounded down.
func (c *badCounts) otherShare(kind burstKind, successes, n uint64) uint64 {
	hi, lo := bits.Mul64(c.otherCalls(kind, successes), n)
	q, _ := bits.Div64(hi, lo, max(n, c.badCalls(kind))) // at least n, so that the quotient has 64 bits
	return q
}

// streakSpan holds when two failures of a failure streak ended: the first, and the last one that was counted. It means
// nothing while window.streak is 0.
type streakSpan struct{ first, last int64 }

// paddedWindow aligns a window that is not part of a Breaker like the one that is: a cache line ends between the fields
// that all calls read and those that calls write. See TestTheClosedPathSharesNoCacheLine.
type paddedWindow struct {
	_ [40]byte
	window
	_ [40]byte
}

func newWindow(now, width int64) *window {
	w := new(paddedWindow)
	w.init(now, width)
	return &w.window
}

func (w *window) init(now, width int64) {
	if width != noWindow {
		w.edge.Store(now + width)
	}
}

// addSuccess counts a success in the current bucket of in, which is one of the window's sets of counters. It returns
// the counter and its new value. It needs no lock (B9).
func (w *window) addSuccess(in *[buckets]atomic.Uint64) (bucket *atomic.Uint64, n uint64) {
	bucket = &in[w.slot.Load()]
	if seededBug == bugWindow { // reads and writes in two steps, and loses successes that are counted between them
		n = bucket.Load() + 1
		runtime.Gosched()
		bucket.Store(n)
		return bucket, n
	}
	jitter()
	n = inc(bucket)
	jitter()
	return bucket, n
}

// clearStreak ends the failure streak, because a call succeeded. It loads before it stores, so that the cache line
// stays shared.
func (w *window) clearStreak() {
	if w.doubt.Load()&1 != 0 || w.streak.Load() != 0 { // both, because another success may be between the two stores
		w.doubt.And(^uint32(1))
		w.streak.Store(0)
	}
}

// recordFailure counts a failure at now, in the current bucket, the streak and the burst. Caller must hold Breaker.mu
// and must have rotated the window.
func (w *window) recordFailure(now int64, pol *policy) {
	bucket := w.currentBucket()
	bucket.failures = satAdd(bucket.failures, 1)
	w.addFailure(now, pol.merge)
	w.addToBurst(badBurst, now, pol.bucket)
}

// addFailure adds a failure at now to the failure streak. A failure within merge of the last one counted is taken for
// the same one, and is not counted. A success may end the streak at any time, without the lock. All other changes of
// the streak happen under the lock. Caller must hold Breaker.mu.
func (w *window) addFailure(now, merge int64) {
	span := &w.ensureLazy().span
	for {
		n := w.streak.Load()
		switch {
		case n == 0:
			span.first = now
		case n == math.MaxUint64 || now-span.last <= merge:
			return
		}
		if w.streak.CompareAndSwap(n, n+1) {
			span.last = now
			return
		}
	}
}

// failingFor returns how long the failure streak has lasted at now, in nanoseconds. Caller must hold Breaker.mu.
func (w *window) failingFor(now int64) int64 {
	if w.streak.Load() == 0 {
		return 0
	}
	return now - w.lazy.span.first
}

// addToBurst adds a bad call at now to the last burst, or begins another one. Caller must hold Breaker.mu, and must
// have rotated the window.
func (w *window) addToBurst(kind burstKind, now, width int64) {
	lazy, slot := w.ensureLazy(), w.slot.Load()
	b := &lazy.bursts[kind]
	if now-b.last > min(int64(burstGap), width) || now-b.began >= width {
		*b = burst{began: now, slot: slot}
		if here := w.currentBucket(); here.began[kind] == 0 {
			here.began[kind] = now
		}
	}
	b.last = now
	b.size = satAdd(b.size, 1)
	if b.slot != slot {
		b.spilled = satAdd(b.spilled, 1)
		here := &lazy.bad[slot] // for the time when the bucket in which the burst began has left the window
		if b.spilled > here.largest[kind] {
			here.largest[kind], here.spill[kind] = b.spilled, 0
		}
	}
	if first := &lazy.bad[b.slot]; b.size > first.largest[kind] {
		first.largest[kind], first.spill[kind] = b.size, b.spilled
	}
}

// withoutLargest returns part and whole without the largest burst in the window. If several are equally large, it
// leaves out the newest. It also leaves out a proportional number of the other calls of the one or two buckets that the
// burst is in. It returns 0 and 0 unless bursts began in at least two buckets, the oldest at least `least` nanoseconds
// before now. Caller must hold Breaker.mu, and must have rotated the window, so that all buckets are in it.
func (w *window) withoutLargest(
	kind burstKind, successes *[buckets]uint64, part, whole uint64, least, now int64,
) (restPart, restWhole uint64) {
	var largest, others uint64
	began, oldest := 0, now
	newest := int(w.slot.Load())
	for age := range buckets {
		i := (newest - age + buckets) % buckets
		bad := &w.lazy.bad[i]
		if bad.began[kind] != 0 {
			began++
			oldest = bad.began[kind] // the loop goes from the newest bucket to the oldest
		}
		if bad.largest[kind] > largest {
			largest = bad.largest[kind]
			others = bad.otherShare(kind, successes[i], largest-bad.spill[kind])
			if next := (i + 1) % buckets; bad.spill[kind] > 0 {
				others = satAdd(others, w.lazy.bad[next].otherShare(kind, successes[next], bad.spill[kind]))
			}
		}
	}
	if began < 2 || now-oldest < least {
		return 0, 0
	}
	return satSub(part, largest), satSub(whole, satAdd(largest, others))
}

// bucketsPassed returns by how many buckets the window must move at now, at most buckets.
func (w *window) bucketsPassed(now, width int64) int {
	edge := w.edge.Load()
	if now < edge {
		return 0
	}
	return int(min((now-edge)/width+1, buckets))
}

// rotate makes the bucket of now the current one. It returns the number of successes that have left the window. Caller
// must hold Breaker.mu.
func (w *window) rotate(now, width int64) (retired uint64) {
	n := w.bucketsPassed(now, width)
	if n == 0 {
		return 0
	}
	slot := w.slot.Load()
	for range n {
		slot = (slot + 1) % buckets
		retired = satAdd(retired, w.drainBucket(slot))
		if w.lazy != nil {
			w.lazy.bad[slot] = badCounts{}
		}
	}
	w.slot.Store(slot)
	edge := w.edge.Load()
	w.edge.Store(edge + ((now-edge)/width+1)*width)
	return retired
}

// drain removes all successes from the window and returns their number. Caller must hold Breaker.mu.
func (w *window) drain() (retired uint64) {
	for i := range uint32(buckets) {
		retired = satAdd(retired, w.drainBucket(i))
	}
	return retired
}

// drainBucket removes the successes of one bucket and returns their number. Caller must hold Breaker.mu.
func (w *window) drainBucket(slot uint32) (n uint64) {
	n = w.successes[slot].Swap(0)
	for i := range w.stripeList() {
		n = satAdd(n, w.lazy.stripes[i].successes[slot].Swap(0))
	}
	return n
}

// bucketSuccesses returns the number of successes in one bucket. Caller must hold Breaker.mu.
func (w *window) bucketSuccesses(slot int) (n uint64) {
	n = w.successes[slot].Load()
	for i := range w.stripeList() {
		n = satAdd(n, w.lazy.stripes[i].successes[slot].Load())
	}
	return n
}

// stripeList returns the stripes of the window, or nil if it has none. Caller must hold Breaker.mu.
func (w *window) stripeList() []windowStripe {
	if w.lazy == nil {
		return nil
	}
	return w.lazy.stripes
}

// ensureLazy returns the lazy part of the window, and makes it if needed. Caller must hold Breaker.mu.
func (w *window) ensureLazy() *windowLazy {
	if w.lazy == nil {
		w.lazy = new(windowLazy)
	}
	return w.lazy
}

// currentBucket returns the bad calls of the current bucket. Caller must hold Breaker.mu, and must have rotated the
// window.
func (w *window) currentBucket() *badCounts { return &w.ensureLazy().bad[w.slot.Load()] }

// counts returns what the window holds at now. It does not rotate the window, because reading changes nothing (B14).
// Caller must hold Breaker.mu.
func (w *window) counts(now, width int64) Counts {
	c, _ := w.countsByBucket(now, width)
	return c
}

// countsByBucket returns the same as counts, and the successes in each bucket. Other calls may succeed meanwhile, so
// both results must come from one pass. Caller must hold Breaker.mu.
func (w *window) countsByBucket(now, width int64) (c Counts, successes [buckets]uint64) {
	c.ConsecutiveFailures = w.streak.Load()
	if width == noWindow {
		return c, successes
	}
	slot := int(w.slot.Load())
	for age := range buckets - w.bucketsPassed(now, width) {
		i := (slot - age + buckets) % buckets
		successes[i] = w.bucketSuccesses(i)
		c.Successes = satAdd(c.Successes, successes[i])
		if w.lazy != nil {
			bad := &w.lazy.bad[i]
			c.Failures = satAdd(c.Failures, bad.failures)
			c.Overloads = satAdd(c.Overloads, bad.overloads)
			c.Slow = satAdd(c.Slow, bad.slow)
			c.SlowCanceled = satAdd(c.SlowCanceled, bad.slowCanceled)
		}
	}
	return c, successes
}

// total returns all successes that have not been retired, also those that have left the window since the last rotation.
// Caller must hold Breaker.mu.
func (w *window) total() (n uint64) {
	for i := range buckets {
		n = satAdd(n, w.bucketSuccesses(i))
	}
	return n
}
