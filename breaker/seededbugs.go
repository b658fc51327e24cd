package breaker

import "runtime"

// The bugs that can be seeded, where each of them breaks a rule. noBugJitter is no bug: at the same places it lets
// other goroutines run, with the lock held wherever it should be. A test that passes then does not depend on timing.
const (
	bugLate     = "late"     // a result of an earlier generation counts (B15)
	bugSlot     = "slot"     // two callers take the last slot (B19)
	bugDeadline = "deadline" // a new state is visible with an old deadline (B16)
	bugWindow   = "window"   // concurrent successes are lost (B9)
	bugTrip     = "trip"     // one crossing opens twice (B9)
	noBugJitter = "jitter"
)

var seededBugs = [...]string{bugLate, bugSlot, bugDeadline, bugWindow, bugTrip, noBugJitter}

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
