package speed

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkOne runs one goroutine. It is meant for -test.cpu 1.
func BenchmarkOne(b *testing.B) {
	each(b, func(b *testing.B, c Case) {
		b.Helper()
		j := newJobFor(b, c)
		b.ReportAllocs()
		b.ResetTimer()
		var unexpected uint64
		if j.Work == OnePercent {
			unexpected = loop(j, 0, b.Loop)
		} else {
			for b.Loop() {
				if j.Call() != j.Want { //nolint:errorlint // the same value: cheaper than errors.Is, and stricter
					unexpected++
				}
			}
		}
		check(b, j, unexpected)
	})
}

// BenchmarkParallel runs as many goroutines as -test.cpu says, all with the same breaker.
func BenchmarkParallel(b *testing.B) {
	each(b, func(b *testing.B, c Case) {
		b.Helper()
		j := newJobFor(b, c)
		b.ReportAllocs()
		b.ResetTimer()
		var unexpected, goroutines atomic.Uint64
		b.RunParallel(func(pb *testing.PB) {
			// Different offsets, so that goroutines do not fail at the same time.
			first := int(goroutines.Add(1)) * 37
			var wrong uint64
			if j.Work == OnePercent {
				wrong = loop(j, first, pb.Next)
			} else {
				for pb.Next() {
					if j.Call() != j.Want { //nolint:errorlint // as above
						wrong++
					}
				}
			}
			unexpected.Add(wrong)
		})
		check(b, j, unexpected.Load())
	})
}

// loop makes calls while next returns true. If the work is OnePercent, one call in a hundred fails. It returns the
// number of calls that did not return what they should.
func loop(j *Job, first int, next func() bool) (unexpected uint64) {
	n := first % 100
	for next() {
		if n++; n == 100 && j.Work == OnePercent {
			n = 0
			if j.Fail() != errDown { //nolint:errorlint // as above
				unexpected++
			}
		} else if j.Call() != j.Want { //nolint:errorlint // as above
			unexpected++
		}
	}
	return unexpected
}

// each runs a benchmark for every case. Their names are work/library/form.
func each(b *testing.B, f func(*testing.B, Case)) {
	b.Helper()
	for _, w := range Works {
		for _, p := range Peers() {
			for _, c := range p.Cases {
				if c.Work == w {
					b.Run(c.BenchmarkName(p), func(b *testing.B) { f(b, c) })
				}
			}
		}
	}
}

func newJobFor(b *testing.B, c Case) *Job {
	b.Helper()
	j, err := c.New()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(j.Close)
	return j
}

func check(b *testing.B, j *Job, unexpected uint64) {
	b.Helper()
	b.StopTimer()
	if err := j.Check(uint64(b.N), unexpected); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkIdle reports the bytes and goroutines for each of many breakers that have had one call each. Bytes are those
// of the heap and of stacks.
func BenchmarkIdle(b *testing.B) {
	const breakers = 10_000
	for _, p := range Peers() {
		if p.Idle == nil {
			continue
		}
		b.Run(p.BenchmarkName(), func(b *testing.B) {
			for b.Loop() {
				keep := make([]any, breakers)
				goroutines := runtime.NumGoroutine()
				before := memory()
				for i := range breakers {
					var err error
					if keep[i], err = p.Idle(i); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(memory()-before)/breakers, "bytes/breaker")
				b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/breakers, "goroutines/breaker")
				runtime.KeepAlive(keep)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func memory() int64 {
	time.Sleep(10 * time.Millisecond) // goroutines of the calls may still be ending
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
