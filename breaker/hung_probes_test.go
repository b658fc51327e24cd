package breaker

import (
	"testing"
	"time"
)

// Every call that is admitted hangs for good, and whenever a probe may go out, one does.
func TestB22_HungProbesStayFewAndContinue(t *testing.T) {
	b := mustNew(t, Config{})
	b.Trip(t.Context(), "test")
	b.mu.Lock()
	defer b.mu.Unlock()
	start := time.Now()
	ph := b.toHalfOpen(t.Context(), b.phase.Load(), start)

	const lease = 10 * time.Second // ProbeTimeout
	out := 0
	var last, longest time.Duration
	var share float64              // the longest wait, of the time since the first probe
	want := map[time.Duration]int{ // how many are out, by time
		0: 1, lease - 1: 1, lease: 2, 7 * lease: 8, // nothing slows down for the first eight
		8 * lease: 8, 9 * lease: 9, 11 * lease: 10, 23 * lease: 16, // the next eight take twice as long
		24 * lease: 16, 27 * lease: 17, 31 * lease: 18, // and those after them twice as long again
		time.Hour: 43, 1000 * lease: 55, 24 * time.Hour: 84,
	}
	for at := time.Duration(0); at <= 24*time.Hour; at += lease {
		for _, at := range []time.Duration{at, at + lease - 1} {
			if now := instant(start) + int64(at); claimsSlot(b, ph, now) {
				out++
				longest = max(longest, at-last)
				if at > freeHungProbes*lease {
					share = max(share, float64(at-last)/float64(at))
				}
				last = at
			} else if until := ph.gate.until.Load(); until <= now {
				t.Fatalf("at %v calls take the lock again, want them rejected without it for a while", at)
			}
			if n, ok := want[at]; ok && out != n {
				t.Errorf("at %v %d probes are out, want %d", at, out, n)
			}
		}
	}
	if share > 1.0/4 {
		t.Errorf("once the next probe took %v of the time since the first, want a quarter at most", share)
	}
	if longest > time.Hour+lease {
		t.Errorf("once the next probe came after %v, want an hour at most", longest)
	}
}

// claimed reports whether a probe may start in ph at now, and starts it.
func claimsSlot(b *Breaker, ph *phase, now int64) bool {
	_, ok := b.claimSlot(ph, now)
	return ok
}
