package breaker

import "sync/atomic"

// buckets is the number of steps in which a window slides. Ten is what B7 asks for at least; more would make every
// closed breaker larger (8 bytes each) for a resolution that no rule needs.
const buckets = 10

// window counts the outcomes of one closed stay. Successes are counted with atomics and without the lock, everything else
// under the breaker's lock, because everything else is followed by an evaluation of the rules.
//
// Time is cut into buckets of equal width from the window's birth on. At any time the last `buckets` of them are alive, so
// an outcome stays for more than nine tenths of the window and is gone one window after it was recorded (B7). Numbers of
// buckets are never stored modulo anything, hence an idle gap of any length cannot alias (B8).
type window struct {
	// edge is the first instant behind the current bucket; it publishes slot. A writer reads edge, then slot: if it sees the
	// old edge and the new slot it counts in the newer bucket, which is where its add really happens. Without a window it is
	// no instant but the mark of an eviction, see mayGo; a rotation then puts it far off again, and loses nothing.
	edge atomic.Int64
	slot atomic.Uint32

	doubt atomic.Bool // no success has come since the last failure or overload

	streak atomic.Uint64 // failures since the last success; survives a sliding window (B4)

	// successes per slot. A writer that was held up between reading slot and adding lands in whatever bucket has that slot
	// by then: a later one, never an earlier, and the rotation swaps counts out, so none is lost or counted twice.
	successes [buckets]atomic.Uint64

	rest *windowRest // nil until something other than a fast success happened, or the window got lanes
}

// windowRest is what most windows never need.
type windowRest struct {
	bad   [buckets]tally // guarded by Breaker.mu
	lanes []windowLane   // set under Breaker.mu before a phase is published that is laned, and never again
}

type tally struct{ failures, overloads, slow uint64 }

// laterWindow puts a window of its own on cache lines of its own, split where the one inside a Breaker is: what all calls
// read before the line, what they write behind it.
type laterWindow struct {
	_ [40]byte
	window
	_ [40]byte
}

func newWindow(now, width int64) *window {
	w := new(laterWindow)
	w.init(now, width)
	return &w.window
}

func (w *window) init(now, width int64) { w.edge.Store(now + width) }

// well notes a success. It looks first and writes only if need be: most of the time it need not, and a load leaves the cache
// line shared.
func (w *window) well() {
	if w.doubt.Load() || w.streak.Load() != 0 { // both: another success may be between the two stores
		w.doubt.Store(false)
		w.streak.Store(0)
	}
}

// steps is how many buckets have passed at now since the current one, at most all of them.
func (w *window) steps(now, width int64) int {
	edge := w.edge.Load()
	if now < edge {
		return 0
	}
	return int(min((now-edge)/width+1, buckets))
}

// rotate makes the bucket that holds now the current one and returns the successes that fell out of the window.
// Caller must hold Breaker.mu.
func (w *window) rotate(now, width int64) (retired uint64) {
	n := w.steps(now, width)
	if n == 0 {
		return 0
	}
	slot := w.slot.Load()
	for range n {
		slot = (slot + 1) % buckets
		retired = plus(retired, w.take(slot))
		if w.rest != nil {
			w.rest.bad[slot] = tally{}
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
		retired = plus(retired, w.take(i))
	}
	return retired
}

// take takes the successes of one bucket out. Caller must hold Breaker.mu.
func (w *window) take(slot uint32) (n uint64) {
	n = w.successes[slot].Swap(0)
	for i := range w.lanes() {
		n = plus(n, w.rest.lanes[i].successes[slot].Swap(0))
	}
	return n
}

// read sums the successes of one bucket. Caller must hold Breaker.mu.
func (w *window) read(slot int) (n uint64) {
	n = w.successes[slot].Load()
	for i := range w.lanes() {
		n = plus(n, w.rest.lanes[i].successes[slot].Load())
	}
	return n
}

// lanes are those of the window, if it has any. Caller must hold Breaker.mu.
func (w *window) lanes() []windowLane {
	if w.rest == nil {
		return nil
	}
	return w.rest.lanes
}

// more returns the part that most windows never need. Caller must hold Breaker.mu.
func (w *window) more() *windowRest {
	if w.rest == nil {
		w.rest = new(windowRest)
	}
	return w.rest
}

// current is the tally of the current bucket. Caller must hold Breaker.mu and have rotated.
func (w *window) current() *tally { return &w.more().bad[w.slot.Load()] }

// counts sums what is alive at now, without rotating: a read changes nothing (B14). Caller must hold Breaker.mu.
func (w *window) counts(now, width int64) Counts {
	c := Counts{ConsecutiveFailures: w.streak.Load()}
	if width == noWindow {
		return c
	}
	slot := int(w.slot.Load())
	for age := range buckets - w.steps(now, width) {
		i := (slot - age + buckets) % buckets
		c.Successes = plus(c.Successes, w.read(i))
		if w.rest != nil {
			bad := &w.rest.bad[i]
			c.Failures = plus(c.Failures, bad.failures)
			c.Overloads = plus(c.Overloads, bad.overloads)
			c.Slow = plus(c.Slow, bad.slow)
		}
	}
	return c
}

// held sums all successes that have not been retired, alive or not. Caller must hold Breaker.mu.
func (w *window) held() (n uint64) {
	for i := range buckets {
		n = plus(n, w.read(i))
	}
	return n
}
