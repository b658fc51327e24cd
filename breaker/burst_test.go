package breaker

import (
	"testing"
	"time"
)

// borderWindow is a window of 10 s at one instant, for tests of bursts at the border of two tenths.
type borderWindow struct {
	*window

	now int64
}

const tenth = int64(time.Second)

// at moves the window to an instant, in milliseconds.
func (b *borderWindow) at(millis int64) *borderWindow {
	b.now = millis * int64(ms)
	b.rotate(b.now, tenth)
	return b
}

func (b *borderWindow) good(n uint64) { b.successes[b.slot.Load()].Add(n) }

func (b *borderWindow) bad() {
	b.currentBucket().failures++
	b.addToBurst(badBurst, b.now, tenth)
}

// withoutBurst returns the failures and all calls without the largest burst.
func (b *borderWindow) withoutBurst() (part, whole uint64) {
	c, successes := b.countsByBucket(b.now, tenth)
	return b.withoutLargest(badBurst, &successes, c.Failures, c.Calls(), 0, b.now)
}

// B5, B6: a burst across the border of two tenths is left out with its share of the good calls of both. That is two
// thirds of the first tenth, because another failure ended there, and all of the second.
func TestB05_B06_ABurstAcrossABorder(t *testing.T) {
	w := &borderWindow{window: newWindow(0, tenth)}
	w.at(100).good(60)
	w.bad()
	w.at(995).bad()
	w.at(996).bad()
	for i := range int64(6) {
		w.at(1000 + i).bad()
	}
	w.good(12)
	w.at(3000).bad()
	part, whole := w.withoutBurst()
	if part != 2 || whole != 60+12+10-8-40-12 {
		t.Errorf("%d of %d are left, want 2 of %d", part, whole, 60+12+10-8-40-12)
	}
}

// B5, B6: when the tenth in which such a burst began has left the window, the calls in the next tenth are the burst.
func TestB05_B06_ABurstThatBeganBeforeTheWindow(t *testing.T) {
	w := &borderWindow{window: newWindow(0, tenth)}
	w.at(995).bad()
	w.at(996).bad()
	for i := range int64(6) {
		w.at(1000 + i).bad()
	}
	w.good(12)
	for i := range int64(3) {
		w.at(5000 + 20*i).bad()
	}
	w.at(10_500).bad()
	part, whole := w.withoutBurst()
	if part != 4 || whole != 4 {
		t.Errorf("%d of %d are left, want the 4 single failures", part, whole)
	}
}
