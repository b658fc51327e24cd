package breaker

import (
	"context"
	"runtime"
	"strconv"
	"testing"
	"time"
)

// callManyKeys makes one call with each of many distinct keys. It returns how long each tenth of the calls took.
func callManyKeys(tb testing.TB, g *Group, keys int) (tenths [10]time.Duration) {
	tb.Helper()
	ctx := context.Background()
	for i := range tenths {
		start := time.Now()
		for k := range keys / 10 {
			p, err := g.Get(Key{Method: strconv.Itoa(i*keys/10 + k)}).Acquire(ctx)
			if err != nil {
				tb.Fatal(err)
			}
			p.Done(ctx, Success)
		}
		tenths[i] = time.Since(start)
	}
	return tenths
}

// checkManyKeys makes calls with many distinct keys in a group with the default limit, like a client that puts an ID
// into the method. It checks the memory, the open breakers and the counters of the group.
func checkManyKeys(tb testing.TB, keys int) (tenths [10]time.Duration, ofFull float64) {
	tb.Helper()
	const bound, opened = 10_000, 100
	weigh := func(keys int) (g *Group, tenths [10]time.Duration, weight float64) {
		before := heap()
		g, err := NewGroup(Config{OpenFor: time.Hour})
		if err != nil {
			tb.Fatal(err)
		}
		for i := range opened {
			g.Get(Key{Service: "down", Method: strconv.Itoa(i)}).Trip(tb.Context(), "test")
		}
		tenths = callManyKeys(tb, g, keys)
		return g, tenths, float64(heap() - before)
	}
	full, _, worth := weigh(bound - opened)
	g, tenths, weight := weigh(keys)
	runtime.KeepAlive(full)
	if weight > 1.1*worth {
		tb.Errorf("%d keys take %.0f bytes, %.2f times as much as a full group, want at most 1.1", keys, weight, weight/worth)
	}
	for i := range opened {
		b, ok := g.Lookup(Key{Service: "down", Method: strconv.Itoa(i)})
		if !ok || b.State() != Open {
			tb.Fatalf("the open breaker %d of %d was evicted", i, opened)
		}
	}
	if got, want := g.Stats(), (GroupStats{Breakers: bound, Evictions: uint64(keys - (bound - opened))}); got != want {
		tb.Errorf("stats: %+v, want %+v", got, want)
	}

	// None can be evicted now. New keys get the overflow breaker, and take no memory.
	for _, b := range g.All() {
		b.Trip(tb.Context(), "test")
	}
	before := heap()
	for i := range keys {
		if b := g.Get(Key{Tag: strconv.Itoa(i)}); b.Key().Tag != OverflowTag {
			tb.Fatalf("key %d does not have the overflow breaker, though nothing can be evicted", i)
		}
	}
	if more := int64(heap()) - int64(before); more > int64(worth/100) {
		tb.Errorf("keys that overflow took %d bytes", more)
	}
	if got := g.Stats().Overflow; got != uint64(keys) {
		tb.Errorf("overflow of %d, want %d", got, keys)
	}
	return tenths, weight / worth
}

func TestB33_ManyKeys(t *testing.T) { checkManyKeys(t, 20_000) }

// BenchmarkAMillionKeys reports how long a call with a new key takes just after the group has become full, and at the
// end of a million keys. It also reports the memory, as a multiple of that of a group that is just full.
func BenchmarkAMillionKeys(b *testing.B) {
	const keys = 1_000_000
	var first, last time.Duration
	var weight float64
	for b.Loop() {
		tenths, ofFull := checkManyKeys(b, keys)
		first, last = first+tenths[1], last+tenths[9] // the first tenth fills the group
		weight = ofFull
	}
	per := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / float64(b.N) / (keys / 10) }
	b.ReportMetric(per(first), "ns/early-key")
	b.ReportMetric(per(last), "ns/late-key")
	b.ReportMetric(weight, "of-a-full-group")
	b.ReportMetric(0, "ns/op")
}
