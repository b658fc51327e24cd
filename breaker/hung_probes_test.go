package breaker

import (
	"testing"
	"time"
)

// All calls hang forever, and a probe starts whenever one may.
func TestB22_HungProbesStayFewAndContinue(t *testing.T) {
	b := mustNew(t, Config{})
	b.Trip(t.Context(), "test")
	b.mu.Lock()
	defer b.mu.Unlock()
	start := time.Now()
	ph := b.toHalfOpen(t.Context(), b.phase.Load(), start)

	const lease = 10 * time.Second // ProbeTimeout
	inFlight := 0
	var last, longest time.Duration
	var share float64              // the longest wait, as a share of the time since the first probe
	want := map[time.Duration]int{ // how many are in flight, by time
		0: 1, lease - 1: 1, lease: 2, 7 * lease: 8, // no delay for the first eight
		8 * lease: 8, 9 * lease: 9, 11 * lease: 10, 23 * lease: 16, // the next eight take twice as long
		24 * lease: 16, 27 * lease: 17, 31 * lease: 18, // and the next eight twice as long again
		time.Hour: 43, 1000 * lease: 55, 24 * time.Hour: 84,
	}
	for at := time.Duration(0); at <= 24*time.Hour; at += lease {
		for _, at := range []time.Duration{at, at + lease - 1} {
			if now := instant(start) + int64(at); claimsSlot(b, ph, now) {
				inFlight++
				longest = max(longest, at-last)
				if at > freeHungProbes*lease {
					share = max(share, float64(at-last)/float64(at))
				}
				last = at
			} else if until := ph.gate.until.Load(); until <= now {
				t.Fatalf("at %v the next call takes the lock, want it rejected without the lock", at)
			}
			if n, ok := want[at]; ok && inFlight != n {
				t.Errorf("at %v %d probes are in flight, want %d", at, inFlight, n)
			}
		}
	}
	if share > 1.0/4 {
		t.Errorf("a wait for a probe was %v of the time since the first, want at most a quarter", share)
	}
	if longest > time.Hour+lease {
		t.Errorf("the longest wait for a probe was %v, want at most an hour", longest)
	}
}

// claimsSlot reports whether a probe may start in ph at now, and starts it.
func claimsSlot(b *Breaker, ph *phase, now int64) bool {
	_, ok := b.claimSlot(ph, now)
	return ok
}
