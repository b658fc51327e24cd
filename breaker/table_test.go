package breaker

import (
	"math/rand/v2"
	"testing"
)

// The table does the same as a map while breakers are added and removed. Hashes collide.
func TestTable(t *testing.T) {
	for seed := range uint64(12) {
		rnd := rand.New(rand.NewPCG(seed, 33))
		tab := newTable(smallestTable)
		live := make(map[Key]*Breaker)
		hashes := 1 + rnd.Uint64N(40)
		hashOf := func(i int) uint64 { return uint64(i) % hashes }
		for range 400 {
			i := rnd.IntN(60)
			k := methodKey(i)
			b := live[k]
			switch {
			case b == nil && rnd.IntN(2) == 0:
				b = &Breaker{key: k, hash: hashOf(i)}
				live[k] = b
				tab = tab.put(b, len(live)-1)
			case b != nil && rnd.IntN(3) == 0:
				tab.remove(b)
				tab.remove(b) // a second time does nothing
				delete(live, k)
			}
			for j := range 60 {
				if got := tab.find(methodKey(j), hashOf(j)); got != live[methodKey(j)] {
					t.Fatalf("seed %d: key %d: found %p, want %p", seed, j, got, live[methodKey(j)])
				}
			}
			used, taken := 0, 0
			for s := range tab.slots {
				if b := tab.slots[s].Load(); b != nil {
					used++
					if b != tombstone {
						taken++
					}
				}
			}
			if used != tab.used || taken != len(live) || used == len(tab.slots) {
				t.Fatalf("seed %d: %d slots used (used is %d), %d breakers, want %d; %d slots in all", seed, used, tab.used, taken,
					len(live), len(tab.slots))
			}
			if n := len(tab.slots); n&(n-1) != 0 || n > max(smallestTable, 8*60) {
				t.Fatalf("seed %d: %d slots for %d breakers", seed, n, len(live))
			}
		}
	}
}

// A table that is three quarters full, tombstones included, is replaced by one that is at most half full.
func TestTableSizes(t *testing.T) {
	for live, want := range map[int]int{0: 16, 8: 16, 9: 32, 16: 32, 17: 64} {
		if got := len(newTable(smallestTable).rehash(live).slots); got != want {
			t.Errorf("for %d breakers: %d slots, want %d", live, got, want)
		}
	}
	for _, tt := range []struct{ tombstones, live, want int }{
		{0, 11, 16}, {0, 12, 32}, // one more makes three quarters, and more than that
		{4, 8, 32}, {5, 7, 16}, // the new table has no tombstones
	} {
		tab := newTable(smallestTable)
		for i := range tt.tombstones + tt.live {
			tab = tab.put(&Breaker{key: methodKey(i), hash: uint64(i)}, i)
		}
		for i := range tt.tombstones {
			tab.remove(tab.find(methodKey(i), uint64(i)))
		}
		tab = tab.put(&Breaker{key: methodKey(99), hash: 99}, tt.live)
		if got := len(tab.slots); got != tt.want {
			t.Errorf("one breaker more than %d and %d tombstones: %d slots, want %d", tt.live, tt.tombstones, got, tt.want)
		}
	}
}

// A breaker with the hash and key of the tombstone, which are zero, is not the tombstone.
func TestTheZeroKeyIsNoTombstone(t *testing.T) {
	tab := newTable(smallestTable)
	b := &Breaker{}
	tab = tab.put(b, 0)
	if tab.find(Key{}, 0) != b {
		t.Error("not found")
	}
	tab.remove(b)
	if got := tab.find(Key{}, 0); got != nil {
		t.Errorf("found %p after remove (the tombstone is %p)", got, tombstone)
	}
}
