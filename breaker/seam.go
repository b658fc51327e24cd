//go:build !mutant

package breaker

import (
	"context"
	"sync/atomic"
	"time"
)

// The functions in this file are where five bugs can be seeded: with the build tag mutant those of seam_mutant.go,
// which have the bugs, stand in their place, and `make mutants` shows that the tests catch each one. All but claim,
// which is on nobody's fast path, are inlined.

// late says whether what was admitted in the stay gen reports in another one (B15).
func (ph *phase) late(gen uint64) bool { return ph.gen != gen }

// succeeded counts a success in one of the window's sets of counters. It needs no lock (B9).
func (w *window) succeeded(in *[buckets]atomic.Uint64) (bucket *atomic.Uint64, n uint64) {
	bucket = &in[w.slot.Load()]
	return bucket, bump(bucket)
}

// publish makes ph the phase of b, whole and at once (B16). Caller must hold b.mu.
func (b *Breaker) publish(ph *phase) { b.phase.Store(ph) }

// claim gives out a slot if one is free (B19). Caller must hold b.mu.
func (b *Breaker) claim(ph *phase, now int64) (lease uint64, ok bool) {
	if b.full(ph, now) {
		return 0, false
	}
	return b.lease(ph, now), true
}

// fire opens because a rule said so (B9). Caller must hold b.mu, and have held it since before it asked the rules.
func (b *Breaker) fire(ctx context.Context, ph *phase, why cause, t time.Time) {
	b.toOpen(ctx, ph, why, t)
}
