package breaker

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// floor does what each breaker that reads the clock and counts a call must do.
var (
	floorStart = time.Now()
	floorState atomic.Pointer[int]
	floorCount atomic.Uint64
)

func floor() time.Duration {
	if floorState.Load() != nil {
		return 0
	}
	d := time.Since(floorStart)
	floorCount.Add(1)
	return d
}

func BenchmarkFloor(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		floor()
	}
}

func BenchmarkFloorParallel(b *testing.B) {
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			floor()
		}
	})
}

func mustNew(tb testing.TB, cfg Config, opts ...Option) *Breaker {
	tb.Helper()
	b, err := New(Key{Service: "pkg.Service", Method: "Method"}, opensAtOnce(cfg), opts...)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func BenchmarkSuccess(b *testing.B) { benchmarkSuccess(b, Config{}) }

func benchmarkSuccess(b *testing.B, cfg Config) {
	b.Helper()
	br := mustNew(b, cfg)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		p, err := br.Acquire(ctx)
		if err != nil {
			b.Fatal(err)
		}
		p.Done(ctx, Success)
	}
	checkSuccesses(b, br)
}

func BenchmarkSuccessParallel(b *testing.B) {
	br := mustNew(b, Config{})
	ctx := context.Background()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			p, err := br.Acquire(ctx)
			if err != nil {
				b.Error(err)
				return
			}
			p.Done(ctx, Success)
		}
	})
	checkSuccesses(b, br)
}

func checkSuccesses(b *testing.B, br *Breaker) {
	b.Helper()
	if s := br.Snapshot(); s.Successes != s.Admitted || s.Admitted < uint64(b.N) {
		b.Fatalf("%d admitted, %d successes in %d calls", s.Admitted, s.Successes, b.N)
	}
}

func BenchmarkSuccessSlowRuleOn(b *testing.B) { benchmarkSuccess(b, Config{SlowCall: time.Minute}) }

// BenchmarkSuccessNoWindow has the consecutive rule only, so that there is no window and a success reads no clock.
func BenchmarkSuccessNoWindow(b *testing.B) { benchmarkSuccess(b, Config{FailureRatio: -1}) }

func BenchmarkOnePercentFailures(b *testing.B) {
	br := mustNew(b, Config{})
	ctx := context.Background()
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		p, err := br.Acquire(ctx)
		if err != nil {
			b.Fatal(err)
		}
		if n++; n%100 == 0 {
			p.Done(ctx, Failure)
		} else {
			p.Done(ctx, Success)
		}
	}
}

func BenchmarkRejection(b *testing.B) {
	br := mustNew(b, Config{OpenFor: time.Hour})
	ctx := context.Background()
	br.Trip(ctx, "benchmark")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := br.Acquire(ctx); err == nil {
			b.Fatal("admitted")
		}
	}
}

func BenchmarkRejectionParallel(b *testing.B) {
	br := mustNew(b, Config{OpenFor: time.Hour})
	ctx := context.Background()
	br.Trip(ctx, "benchmark")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := br.Acquire(ctx); err == nil {
				b.Error("admitted")
				return
			}
		}
	})
}

func BenchmarkGet(b *testing.B) {
	for _, keys := range []int{1, 1000, 9000} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			g, err := NewGroup(Config{})
			if err != nil {
				b.Fatal(err)
			}
			all := make([]Key, keys)
			for i := range all {
				all[i] = Key{Target: "dns:///orders:443", Service: "shop.Orders", Method: fmt.Sprintf("Method%d", i)}
				g.Get(all[i])
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if g.Get(all[i]) == nil {
					b.Fatal("nil")
				}
				if i++; i == keys {
					i = 0
				}
			}
		})
	}
}

// BenchmarkMemory reports the bytes that one closed breaker takes. That includes its slot in the group, but not the
// strings of its key, which belong to the caller.
func BenchmarkMemory(b *testing.B) {
	const keys = 100_000
	names := make([]Key, keys)
	for i := range names {
		names[i] = Key{Method: fmt.Sprintf("Method%d", i)}
	}
	var per float64
	for b.Loop() {
		g, err := NewGroup(Config{}, WithMaxBreakers(keys))
		if err != nil {
			b.Fatal(err)
		}
		before := heap()
		for _, k := range names {
			g.Get(k)
		}
		per = float64(heap()-before) / keys
		runtime.KeepAlive(g)
	}
	b.ReportMetric(per, "bytes/breaker")
	b.ReportMetric(0, "ns/op")
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
