package breaker

import (
	"math"
	"sync/atomic"
)

// satAdd adds counters. B11: they saturate instead of wrapping.
func satAdd(a uint64, more ...uint64) uint64 {
	for _, m := range more {
		if a > math.MaxUint64-m {
			return math.MaxUint64
		}
		a += m
	}
	return a
}

// satSub is a - b, and 0 where that would be negative.
func satSub(a, b uint64) uint64 {
	return a - min(a, b)
}

// inc adds one to a counter that others add to as well (B11), and returns what that comes to, or 0 beyond the most
// there is.
func inc(c *atomic.Uint64) (n uint64) {
	if n = c.Add(1); n == 0 {
		c.Store(math.MaxUint64)
	}
	return n
}
