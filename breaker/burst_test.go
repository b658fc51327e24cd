package breaker

import (
	"testing"
	"time"
)

// borderWindow is a window of ten tenths of a second, as the rules see it.
type borderWindow struct {
	*window

	now int64
}

const tenth = int64(time.Second)

// at goes to an instant, in milliseconds.
func (b *borderWindow) at(millis int64) *borderWindow {
	b.now = millis * int64(ms)
	b.rotate(b.now, tenth)
	return b
}

func (b *borderWindow) good(n uint64) { b.successes[b.slot.Load()].Add(n) }

func (b *borderWindow) bad() {
	tally := b.currentBucket()
	tally.failures++
	b.addToBurst(badBurst, b.now, tenth)
}

// rest is what is left of the failures and of all calls without the largest event.
func (b *borderWindow) withoutBurst() (part, whole uint64) {
	c, successes := b.countsByBucket(b.now, tenth)
	return b.withoutLargest(badBurst, &successes, c.Failures, c.Calls(), 0, b.now)
}

// B5, B6: an event that crosses the border of two tenths is left out with its share of the good calls of both. Of the
// first tenth these are two thirds, since another failure ended there; of the second all.
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

// B5, B6: when the tenth in which such an event began is no longer alive, what is left of it is the event.
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
