//go:build mutant

package breaker

import (
	"context"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"time"
)

// seeded names the bug that this process has. Empty, it has none. With jitter it has none either, but where the bugs
// would be it lets other goroutines run, with the lock held wherever it should be: what passes then does not pass by
// luck of timing.
var seeded = seed(os.Getenv("GRPCIRCUIT_MUTANT"))

const (
	bugLate     = "late"
	bugSlot     = "slot"
	bugDeadline = "deadline"
	bugWindow   = "window"
	bugTrip     = "trip"
	noBugJitter = "jitter"
)

func seed(name string) string {
	if !slices.Contains([]string{"", bugLate, bugSlot, bugDeadline, bugWindow, bugTrip, noBugJitter}, name) {
		panic("GRPCIRCUIT_MUTANT=" + name + ": no such bug")
	}
	return name
}

func jitter() {
	if seeded == noBugJitter {
		runtime.Gosched()
	}
}

// letGo lets others decide in the middle of a decision. Caller must hold b.mu.
func (b *Breaker) letGo() {
	b.mu.Unlock()
	runtime.Gosched()
	b.mu.Lock()
}

// late, with its bug, takes every result for one of the present stay.
func (ph *phase) late(gen uint64) bool {
	jitter()
	return ph.gen != gen && seeded != bugLate
}

// succeeded, with its bug, reads and writes in two steps, and so loses what others count between them.
func (w *window) succeeded(in *[buckets]atomic.Uint64) (bucket *atomic.Uint64, n uint64) {
	bucket = &in[w.slot.Load()]
	if seeded == bugWindow {
		n = bucket.Load() + 1
		runtime.Gosched()
		bucket.Store(n)
		return bucket, n
	}
	jitter()
	n = bump(bucket)
	jitter()
	return bucket, n
}

// publish, with its bug, shows a breaker that opens with a deadline that has passed, and sets the right one after that.
func (b *Breaker) publish(ph *phase) {
	jitter()
	if seeded == bugDeadline && ph.state == Open && ph.gen != b.phase.Load().gen {
		early := *ph
		early.gate = &gate{rejected: ph.gate.rejected}
		early.gate.until.Store(early.entered)
		b.phase.Store(&early)
		b.letGo()
		if b.phase.Load() != &early {
			return
		}
	}
	b.phase.Store(ph)
	jitter()
}

// claim, with its bug, checks first and acts later: two callers may find the last slot free.
func (b *Breaker) claim(ph *phase, now int64) (lease uint64, ok bool) {
	if b.full(ph, now) {
		return 0, false
	}
	jitter()
	if seeded == bugSlot {
		b.letGo()
	}
	return b.lease(ph, now), true
}

// fire, with its bug, lets go of the lock between the rule and the trip: two reports may find that the same stay has
// to end.
func (b *Breaker) fire(ctx context.Context, ph *phase, why cause, t time.Time) {
	jitter()
	if seeded == bugTrip {
		b.letGo()
	}
	b.toOpen(ctx, ph, why, t)
}
