package breaker

import (
	"iter"
	"sync/atomic"
)

// table finds breakers by key. Readers take no lock (B32); writers hold Group.mu. It is an open-addressing hash table
// of atomic pointers. It is not a map under a read lock, for two measured reasons. With a read lock, each call on each
// core writes twice to one cache line. And a map from Key takes over 100 bytes for an entry; the table takes about 20.
//
// An empty slot gets a breaker, and later a tombstone, which another breaker may replace. It never becomes empty again
// in the same table. So a reader that walks from the first slot of a key to the first empty one sees each breaker that
// was in the table all the time. A table that is full is replaced. A reader of the old table may miss breakers that
// were added to the new one; Get then looks again under the lock.
type table struct {
	slots []atomic.Pointer[Breaker] // a power of two of them
	used  int                       // slots that hold a breaker or a tombstone; guarded by Group.mu
}

// tombstone marks the slot of a breaker that was removed.
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

// find returns the breaker of key, or nil.
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

// put adds b, whose key must not be in t, and returns the table that holds it. That is t, or a table without
// tombstones, and larger if needed, if t is three quarters full. live is how many breakers t holds. Caller must hold
// Group.mu, and must publish the table that put returns.
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

// remove replaces b with a tombstone. Caller must hold Group.mu.
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

// rehash returns a table of the same breakers without tombstones, which is at most half full with live breakers.
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
