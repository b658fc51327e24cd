//go:build mutant

package breaker

import (
	"context"
	"os"
	"runtime"
	"slices"
	"time"
)

// seeded names the bug that this process has: late, window, deadline, slot or trip. Empty, it has none.
var seeded = seed(os.Getenv("GRPCIRCUIT_MUTANT"))

func seed(bug string) string {
	if bug != "" && !slices.Contains([]string{"late", "window", "deadline", "slot", "trip"}, bug) {
		panic("GRPCIRCUIT_MUTANT=" + bug + ": no such bug")
	}
	return bug
}

// yield lets others at the breaker in the middle of a decision. Caller must hold b.mu.
func (b *Breaker) yield() {
	b.mu.Unlock()
	runtime.Gosched()
	b.mu.Lock()
}

// late, if seeded, takes every result for one of this stay.
func (ph *phase) late(gen uint64) bool { return ph.gen != gen && seeded != "late" }

// succeeded, if seeded, reads and writes in two steps, and so loses what others count between them.
func (w *window) succeeded() {
	c := &w.successes[w.slot.Load()]
	if seeded != "window" {
		bump(c)
		return
	}
	n := c.Load()
	runtime.Gosched()
	c.Store(n + 1)
}

// publish, if seeded, shows the open state first, with a deadline that has passed, and the right deadline after that.
func (b *Breaker) publish(ph *phase) {
	if seeded == "deadline" && ph.state == Open && ph.gen != b.phase.Load().gen {
		early := *ph
		early.until = early.entered
		b.phase.Store(&early)
		b.yield()
		if b.phase.Load() != &early {
			return
		}
	}
	b.phase.Store(ph)
}

// claim, if seeded, checks first and acts later: two may find the last slot free.
func (b *Breaker) claim(ph *phase, now int64) (lease uint64, ok bool) {
	if b.full(ph, now) {
		return 0, false
	}
	if seeded == "slot" {
		b.yield()
	}
	return b.lease(ph, now), true
}

// fire, if seeded, does not hold the lock from the rule to the trip: two may find that the same stay is to end.
func (b *Breaker) fire(ctx context.Context, ph *phase, why cause, t time.Time) {
	if seeded == "trip" {
		b.yield()
	}
	b.toOpen(ctx, ph, why, t)
}
