package breaker

import "runtime"

// These bugs can be seeded. Each of them breaks a rule. noBugJitter is not a bug: at the same places it lets other
// goroutines run, and keeps the lock where it must be held. A test that passes then does not depend on timing.
const (
	bugLate     = "late"     // a result of an earlier generation counts (B15)
	bugSlot     = "slot"     // two callers take the last slot (B19)
	bugDeadline = "deadline" // a new state is visible with an old deadline (B16)
	bugWindow   = "window"   // concurrent successes are lost (B9)
	bugTrip     = "trip"     // crossing a threshold once opens the breaker twice (B9)
	noBugJitter = "jitter"
)

// jitter lets other goroutines run under noBugJitter.
func jitter() {
	if seededBug == noBugJitter {
		runtime.Gosched()
	}
}

// yieldLock releases the lock in the middle of a decision, which only a seeded bug does. Caller must hold b.mu.
func (b *Breaker) yieldLock() {
	b.mu.Unlock()
	runtime.Gosched()
	b.mu.Lock()
}
