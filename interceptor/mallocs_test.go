package interceptor

import (
	"runtime"
	"testing"
)

const mallocNoise = 0.75

// extraMallocs returns the number of allocations that a call of with makes in addition to those of a call of without,
// on average.
//
// Calls over real grpc have no fixed number of allocations. Its goroutines work for one call while the next one runs,
// and under the race detector a sync.Pool drops a quarter of its objects at random. Neither the smallest number of
// some calls nor their median is stable then. A mean of 2000 calls is: it varies by some hundredths of an allocation,
// and by up to 0.35 under the race detector. So add mallocNoise to a bound: one allocation more than the bound exceeds
// it.
func extraMallocs(t *testing.T, without, with func()) float64 {
	t.Helper()
	const rounds, calls = 40, 50
	mallocs := func(call func()) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range calls {
			call()
		}
		runtime.ReadMemStats(&after)
		return after.Mallocs - before.Mallocs
	}
	mallocs(without) // what the first calls make is kept
	mallocs(with)
	var fewer, more uint64
	for range rounds { // in turns, so that garbage collections affect both equally
		fewer += mallocs(without)
		more += mallocs(with)
	}
	extra := (float64(more) - float64(fewer)) / (rounds * calls)
	t.Logf("%.2f allocations more", extra)
	return extra
}
