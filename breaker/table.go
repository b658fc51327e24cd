package breaker

import (
	"iter"
	"sync/atomic"
)

// table finds breakers by key. Readers take no lock (B32); writers hold Group.mu. It is an open-addressing hash table
// of atomic pointers, rather than a map under a read lock, for two measured reasons: a read lock is two atomic writes
// to one cache line by every call on every core, and a map from Key costs over 100 bytes an entry where this costs
// about 20.
//
// A slot goes from empty to taken to buried and, in the same table, never back to empty: so a reader that walks from
// the key's first slot to the first empty one has seen every breaker that was in the table all along. A table that
// fills up is replaced; who reads the old one while that happens may miss the newest breakers, and then asks under
// the lock.
type table struct {
	slots []atomic.Pointer[Breaker] // a power of two of them
	used  int                       // taken or buried; guarded by Group.mu
}

// tombstone marks the slot of a breaker that was evicted.
var tombstone = new(Breaker)

const smallestTable = 16

func newTable(slots int) *table {
	return &table{slots: make([]atomic.Pointer[Breaker], slots)}
}

// all yields the breakers in t, in no order.
func (t *table) all() iter.Seq[*Breaker] {
	return func(yield func(*Breaker) bool) {
		for i := range t.slots {
			if b := t.slots[i].Load(); b != nil && b != tombstone && !yield(b) {
				return
			}
		}
	}
}

func (t *table) find(key Key, hash uint64) *Breaker {
	mask := uint64(len(t.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		b := t.slots[i].Load()
		if b == nil {
			return nil
		}
		if b.hash == hash && b.key == key && b != tombstone {
			return b
		}
	}
}

// put adds b, whose key must not be there, and returns the table that holds it: t, or a larger or cleaner one if t is
// three quarters full. live is how many breakers t holds. Caller must hold Group.mu, and publish what comes back.
func (t *table) put(b *Breaker, live int) *table {
	if (t.used+1)*4 > len(t.slots)*3 {
		t = t.rehash(live + 1)
	}
	t.insert(b)
	return t
}

func (t *table) insert(b *Breaker) {
	mask := uint64(len(t.slots) - 1)
	i := b.hash & mask
	for ; t.slots[i].Load() != nil; i = (i + 1) & mask {
		if t.slots[i].Load() == tombstone {
			t.slots[i].Store(b)
			return
		}
	}
	t.slots[i].Store(b)
	t.used++
}

// remove takes b out.
func (t *table) remove(b *Breaker) {
	mask := uint64(len(t.slots) - 1)
	for i := b.hash & mask; ; i = (i + 1) & mask {
		switch t.slots[i].Load() {
		case b:
			t.slots[i].Store(tombstone)
			return
		case nil:
			return
		}
	}
}

// rehash returns a table of the same breakers, at most half full with live of them, and without graves.
func (t *table) rehash(live int) *table {
	size := smallestTable
	for size < 2*live {
		size *= 2
	}
	next := newTable(size)
	for b := range t.all() {
		next.insert(b)
	}
	return next
}
