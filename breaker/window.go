package breaker

import (
	"math"
	"math/bits"
	"runtime"
	"sync/atomic"
)

// buckets is the number of steps in which a window slides. Ten is what B7 asks for at least; more would make every
// closed breaker larger (8 bytes each) for a resolution that no rule needs.
const buckets = 10

// window counts the outcomes of one closed stay. Successes are counted with atomics and without the lock, everything
// else under the breaker's lock, because everything else is followed by an evaluation of the rules.
//
// Time is cut into buckets of equal width from the window's birth on. At any time the last `buckets` of them are
// alive, so an outcome stays for more than nine tenths of the window and is gone one window after it was recorded
// (B7). Numbers of buckets are never stored modulo anything, hence an idle gap of any length cannot alias (B8).
type window struct {
	// edge is the first instant behind the current bucket; it publishes slot. A writer reads edge, then slot: if it
	// sees the old edge and the new slot it counts in the newer bucket, which is where its add really happens.
	// Without a window it is no instant but the mark of an eviction, see mayGo; a rotation then puts it far off
	// again, and loses nothing.
	edge atomic.Int64
	slot atomic.Uint32

	doubt atomic.Uint32 // whether and how long to look at calls more closely, see doubtShift

	streak atomic.Uint64 // length of the failure streak; survives a sliding window (B4)

	// successes per slot. A writer that was held up between reading slot and adding lands in whatever bucket has that
	// slot by then: a later one, never an earlier, and the rotation swaps counts out, so none is lost or counted
	// twice.
	successes [buckets]atomic.Uint64

	lazy *windowLazy // nil until something other than a fast success happened, or the window got lanes
}

// windowLazy is what most windows never need.
type windowLazy struct {
	// Guarded by Breaker.mu.

	bad    [buckets]badCounts
	span   streakSpan
	bursts [2]burst // by eventKind: the last one

	stripes []windowStripe // set under Breaker.mu before a phase is published that is laned, and never again
}

// badCounts is what speaks against the backend in one bucket.
type badCounts struct {
	failures, overloads, slow uint64
	slowCanceled              uint64 // part of slow: calls that their caller gave up
	// By eventKind: the size of the largest event that began here, and how many of its calls ended in the next bucket.
	largest, spill [2]uint64
	began          [2]int64 // by eventKind: when the first event here began; 0: none did
}

// An burst is calls that speak against the backend and follow one another within some milliseconds, for a tenth of
// the window at most: they may have one cause, such as a lost connection. The rules that look at the window must hold
// without the largest burst in it (B5, B6). An burst belongs to the bucket in which it began.
type burst struct {
	began, last int64
	slot        uint32
	size        uint64
	spilled     uint64 // part of size: in the bucket after slot
}

type burstKind int

const (
	badBurst  burstKind = iota // failures and overloads
	slowBurst                  // slow calls
)

// against is how many calls in the bucket speak against the backend.
func (y *badCounts) badCalls(kind burstKind) uint64 {
	if kind == slowBurst {
		return y.slow
	}
	return satAdd(y.failures, y.overloads)
}

// others is how many calls in the bucket, with so many successes, do not.
func (y *badCounts) otherCalls(kind burstKind, successes uint64) uint64 {
	if kind == slowBurst {
		return satSub(satAdd(successes, y.failures, y.overloads, y.slowCanceled), y.slow)
	}
	return successes
}

// share is the part of the other calls in the bucket that n of those against the backend are of these, rounded down.
func (y *badCounts) otherShare(kind burstKind, successes, n uint64) uint64 {
	hi, lo := bits.Mul64(y.otherCalls(kind, successes), n)
	q, _ := bits.Div64(hi, lo, max(n, y.badCalls(kind))) // at least n, so that the quotient has 64 bits
	return q
}

// streakSpan is when the first failure of a failure streak and the last one that was counted ended. It means nothing
// while window.streak is 0.
type streakSpan struct{ first, last int64 }

// laterWindow puts a window of its own on cache lines of its own, split where the one inside a Breaker is: what all
// calls read before the line, what they write behind it.
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

// addSuccess counts a success in one of the window's sets of counters. It needs no lock (B9).
func (w *window) addSuccess(in *[buckets]atomic.Uint64) (bucket *atomic.Uint64, n uint64) {
	bucket = &in[w.slot.Load()]
	if seededBug == bugWindow { // reads and writes in two steps, and loses what others count between them
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

// clearStreak notes a success. It looks first and writes only if need be: most of the time it need not, and a load leaves
// the cache line shared.
func (w *window) clearStreak() {
	if w.doubt.Load()&1 != 0 || w.streak.Load() != 0 { // both: another success may be between the two stores
		w.doubt.And(^uint32(1))
		w.streak.Store(0)
	}
}

// addFailure counts a failure at now into the failure streak. A failure no later than merge after the last one counted is
// the same failure, seen by another call. A success may end the streak at any time, without the lock; all else about
// the streak happens under it. Caller must hold Breaker.mu.
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

// failingFor is how long the failure streak has lasted at now. Caller must hold Breaker.mu.
func (w *window) failingFor(now int64) int64 {
	if w.streak.Load() == 0 {
		return 0
	}
	return now - w.lazy.span.first
}

// addToBurst notes that a call spoke against the backend at now. Caller must hold Breaker.mu and have rotated.
func (w *window) addToBurst(kind burstKind, now, width int64) {
	rest, slot := w.ensureLazy(), w.slot.Load()
	e := &rest.bursts[kind]
	if now-e.last > min(int64(burstGap), width) || now-e.began >= width {
		*e = burst{began: now, slot: slot}
		if here := w.currentBucket(); here.began[kind] == 0 {
			here.began[kind] = now
		}
	}
	e.last = now
	e.size = satAdd(e.size, 1)
	if e.slot != slot {
		e.spilled = satAdd(e.spilled, 1)
		here := &rest.bad[slot] // for when the bucket in which it began is no longer alive
		if e.spilled > here.largest[kind] {
			here.largest[kind], here.spill[kind] = e.spilled, 0
		}
	}
	if first := &rest.bad[e.slot]; e.size > first.largest[kind] {
		first.largest[kind], first.spill[kind] = e.size, e.spilled
	}
}

// withoutLargest returns part and whole without the largest event, the newest of several, and a proportional number
// of the other calls of the one or two buckets in which it lies. It returns 0 and 0 unless the events began in two
// buckets, over a time of least or more. Caller must hold Breaker.mu and have rotated: then all buckets are alive.
func (w *window) withoutLargest(
	kind burstKind, successes *[buckets]uint64, part, whole uint64, least, now int64,
) (restPart, restWhole uint64) {
	var largest, others uint64
	began, oldest := 0, now
	newest := int(w.slot.Load())
	for age := range buckets {
		i := (newest - age + buckets) % buckets
		y := &w.lazy.bad[i]
		if y.began[kind] != 0 {
			began++
			oldest = y.began[kind] // buckets come newest first
		}
		if y.largest[kind] > largest {
			largest = y.largest[kind]
			others = y.otherShare(kind, successes[i], largest-y.spill[kind])
			if next := (i + 1) % buckets; y.spill[kind] > 0 {
				others = satAdd(others, w.lazy.bad[next].otherShare(kind, successes[next], y.spill[kind]))
			}
		}
	}
	if began < 2 || now-oldest < least {
		return 0, 0
	}
	return satSub(part, largest), satSub(whole, satAdd(largest, others))
}

// bucketsPassed is how many buckets have passed at now since the current one, at most all of them.
func (w *window) bucketsPassed(now, width int64) int {
	edge := w.edge.Load()
	if now < edge {
		return 0
	}
	return int(min((now-edge)/width+1, buckets))
}

// rotate makes the bucket that holds now the current one and returns the successes that fell out of the window.
// Caller must hold Breaker.mu.
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

// drain takes all successes out. Caller must hold Breaker.mu.
func (w *window) drain() (retired uint64) {
	for i := range uint32(buckets) {
		retired = satAdd(retired, w.drainBucket(i))
	}
	return retired
}

// drainBucket takes the successes of one bucket out. Caller must hold Breaker.mu.
func (w *window) drainBucket(slot uint32) (n uint64) {
	n = w.successes[slot].Swap(0)
	for i := range w.stripeList() {
		n = satAdd(n, w.lazy.stripes[i].successes[slot].Swap(0))
	}
	return n
}

// bucketSuccesses sums the successes of one bucket. Caller must hold Breaker.mu.
func (w *window) bucketSuccesses(slot int) (n uint64) {
	n = w.successes[slot].Load()
	for i := range w.stripeList() {
		n = satAdd(n, w.lazy.stripes[i].successes[slot].Load())
	}
	return n
}

// stripeList are those of the window, if it has any. Caller must hold Breaker.mu.
func (w *window) stripeList() []windowStripe {
	if w.lazy == nil {
		return nil
	}
	return w.lazy.stripes
}

// ensureLazy returns the part that most windows never need. Caller must hold Breaker.mu.
func (w *window) ensureLazy() *windowLazy {
	if w.lazy == nil {
		w.lazy = new(windowLazy)
	}
	return w.lazy
}

// currentBucket is the tally of the currentBucket bucket. Caller must hold Breaker.mu and have rotated.
func (w *window) currentBucket() *badCounts { return &w.ensureLazy().bad[w.slot.Load()] }

// counts sums what is alive at now, without rotating: a read changes nothing (B14). Caller must hold Breaker.mu.
func (w *window) counts(now, width int64) Counts {
	c, _ := w.countsByBucket(now, width)
	return c
}

// countsByBucket is counts, with the successes that it found in each bucket: successes go on meanwhile, and whoever looks at
// both must see them at one instant. Caller must hold Breaker.mu.
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

// total sums all successes that have not been retired, alive or not. Caller must hold Breaker.mu.
func (w *window) total() (n uint64) {
	for i := range buckets {
		n = satAdd(n, w.bucketSuccesses(i))
	}
	return n
}
