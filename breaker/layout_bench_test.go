package breaker

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// BenchmarkLayout makes the memory accesses of a closed call, and nothing else, in four layouts. docs/decisions.md has
// the results.
func BenchmarkLayout(b *testing.B) {
	var together layoutTogether
	var apart layoutApart
	var striped layoutStriped
	var pooled layoutStriped
	var given atomic.Uint32
	pool := sync.Pool{New: func() any { return &pooled.stripes[given.Add(1)%uint32(len(pooled.stripes))] }}
	for _, layout := range []struct {
		name string
		call func() bool
	}{
		{"together", func() bool { return layoutCall(&together.read, &together.admitted, &together.successes) }},
		{"apart", func() bool { return layoutCall(&apart.read, &apart.admitted, &apart.successes) }},
		{"striped", func() bool {
			s := &striped.stripes[rand.Uint32()%uint32(len(striped.stripes))]
			return layoutCall(&striped.read, &s.admitted, &s.successes)
		}},
		{"pooled", func() bool { // a sync.Pool is the closest to the number of a core without linkname
			s := pool.Get().(*layoutStripe)
			ok := layoutCall(&pooled.read, &s.admitted, &s.successes)
			pool.Put(s)
			return ok
		}},
	} {
		b.Run(layout.name, func(b *testing.B) {
			for b.Loop() {
				if !layout.call() {
					b.Fatal("not closed")
				}
			}
		})
		b.Run(layout.name+"Parallel", func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if !layout.call() {
						b.Error("not closed")
						return
					}
				}
			})
		})
	}
}

type (
	layoutRead struct {
		phase atomic.Uint64
		edge  atomic.Int64 // 0: any instant is behind it
		doubt atomic.Uint32
	}
	layoutTogether struct {
		read                layoutRead
		admitted, successes atomic.Uint64
	}
	layoutApart struct {
		read                layoutRead
		_                   [64]byte
		admitted, successes atomic.Uint64
	}
	layoutStriped struct {
		read    layoutRead
		_       [64]byte
		stripes [8]layoutStripe
	}
	layoutStripe struct {
		admitted, successes atomic.Uint64
		_                   [48]byte
	}
)

// layoutCall makes the memory accesses of Acquire and Done.
func layoutCall(r *layoutRead, admitted, successes *atomic.Uint64) bool {
	if r.phase.Load() != 0 {
		return false
	}
	admitted.Add(1)
	if r.phase.Load() != 0 || clock() < r.edge.Load() {
		return false
	}
	successes.Add(1)
	return r.doubt.Load() == 0 && r.phase.Load() == 0
}
