package breaker

import (
	"testing"
	"time"
)

// All calls hang forever, and a probe starts whenever one may.
func TestB22_HungProbesStayFewAndContinue(t *testing.T) {
	b := mustNew(t, Config{})
	b.Trip(t.Context(), "test")
	d := b.begin(t.Context())
	defer b.mu.Unlock()
	start := d.now
	d.toHalfOpen()

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
			d.now = start + int64(at)
			if _, ok := d.claimSlot(); ok {
				inFlight++
				longest = max(longest, at-last)
				if at > freeHungProbes*lease {
					share = max(share, float64(at-last)/float64(at))
				}
				last = at
			} else if until := d.ph.gate.until.Load(); until <= d.now {
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

// A probe that is withdrawn no longer counts as the last one. If another one has started since, that remains the last.
func TestB22_WithdrawnProbeIsNotTheLast(t *testing.T) {
	ph := mustNew(t, Config{MaxProbes: 2}).phase.Load()
	for _, tt := range []struct {
		withdraw int // the first or the second probe
		want     int64
	}{{1, 20}, {2, 10}} {
		var p probes
		ids := map[int]uint64{1: p.issue(ph, 10), 2: p.issue(ph, 20)}
		p.withdraw(ids[tt.withdraw])
		if p.lastStart != tt.want || len(p.leases) != 1 {
			t.Errorf("without probe %d: the last one started at %d, %d leases; want %d, 1", tt.withdraw, p.lastStart,
				len(p.leases), tt.want)
		}
	}
}
