package prombridge

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
)

// largeGroup returns a group of 10 000 breakers. One in ten has failed calls.
func largeGroup(b *testing.B) *breaker.Group {
	b.Helper()
	g, err := breaker.NewGroup(breaker.Config{})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 10_000 {
		method := fmt.Sprint("Method", i)
		br := g.Get(breaker.Key{Target: "dns:///orders.example:443", Service: "shop.v1.Orders", Method: method})
		outcome := breaker.Success
		if i%10 == 0 {
			outcome = breaker.Failure
		}
		for range 6 {
			if p, err := br.Acquire(b.Context()); err == nil {
				p.Done(b.Context(), outcome)
			}
		}
	}
	return g
}

// drain collects c as a registry does. It discards the metrics and returns their number.
func drain(c prometheus.Collector) (n int) {
	ch := make(chan prometheus.Metric, 1000)
	go func() {
		defer close(ch)
		c.Collect(ch)
	}()
	for range ch {
		n++
	}
	return n
}

func BenchmarkCollect10000(b *testing.B) {
	c := NewCollector(largeGroup(b))
	b.ReportAllocs()
	for b.Loop() {
		drain(c)
	}
}

// BenchmarkGather10000 includes the work of the registry, which checks, hashes and sorts.
func BenchmarkGather10000(b *testing.B) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(NewCollector(largeGroup(b)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := reg.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFirstList10000 measures the additional work of the first scrape.
func BenchmarkFirstList10000(b *testing.B) {
	c := &NewCollector(largeGroup(b)).(*collector).cache
	b.ReportAllocs()
	for b.Loop() {
		c.seen, c.entries = nil, nil
		c.list()
	}
}

// BenchmarkChangedList10000 measures the additional work of a scrape after breakers were added or removed.
func BenchmarkChangedList10000(b *testing.B) {
	c := &NewCollector(largeGroup(b)).(*collector).cache
	b.ReportAllocs()
	for b.Loop() {
		c.seen = nil
		c.list()
	}
}

func BenchmarkCollectDurations10000(b *testing.B) {
	g := largeGroup(b)
	h := durationHistogram(g)
	for key := range g.All() {
		h.settled(b.Context(), interceptor.Settlement{Key: key, Duration: time.Millisecond})
	}
	b.ReportAllocs()
	for b.Loop() {
		drain(h)
	}
}

func BenchmarkSettled(b *testing.B) {
	g := largeGroup(b)
	h := durationHistogram(g)
	s := interceptor.Settlement{
		Key:      breaker.Key{Target: "dns:///orders.example:443", Service: "shop.v1.Orders", Method: "Method7"},
		Duration: 3 * time.Millisecond,
	}
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		h.settled(ctx, s)
	}
}

// BenchmarkObserve measures the part of BenchmarkSettled that is spent in client_golang.
func BenchmarkObserve(b *testing.B) {
	h := newHistogram()
	b.ReportAllocs()
	for b.Loop() {
		h.Observe(0.003)
	}
}

// latencies counts durations by nanosecond. The last element counts all longer ones.
type latencies [1 << 14]int

func (l *latencies) add(d time.Duration) { l[min(int(d), len(l)-1)]++ }

// quantile returns the duration that a share q of all durations does not exceed.
func (l *latencies) quantile(q float64) float64 {
	n := 0
	for _, c := range l {
		n += c
	}
	seen := 0
	for d, c := range l {
		if seen += c; float64(seen) >= q*float64(n) {
			return float64(d)
		}
	}
	return float64(len(l))
}

// BenchmarkCallsBesideScrapes compares the 99th percentile of the time that the breaker adds to a call, without scrapes
// and while the group of 10 000 breakers is scraped without a pause. Each round measures both. The calls use all
// breakers, so that they contend with the scrape.
func BenchmarkCallsBesideScrapes(b *testing.B) {
	g := largeGroup(b)
	c := NewCollector(g)
	drain(c) // the first scrape builds the labels
	breakers := slices.Collect(maps.Values(maps.Collect(g.All())))
	breakers = slices.DeleteFunc(breakers, func(br *breaker.Breaker) bool { return br.State() != breaker.Closed })
	ctx := b.Context()
	measure := func(scraping bool) (p99 float64) {
		stop := make(chan struct{})
		var scraper sync.WaitGroup
		if scraping {
			scraper.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						drain(c)
					}
				}
			})
		}
		var l latencies
		for i := range 1_000_000 {
			br := breakers[i%len(breakers)]
			start := time.Now()
			p, err := br.Acquire(ctx)
			if err != nil {
				b.Fatal(err)
			}
			p.Done(ctx, breaker.Success)
			l.add(time.Since(start))
		}
		close(stop)
		scraper.Wait()
		return l.quantile(0.99)
	}
	var quiet, beside, ratio []float64
	for b.Loop() {
		q, s := measure(false), measure(true)
		quiet, beside, ratio = append(quiet, q), append(beside, s), append(ratio, s/q)
	}
	median := func(x []float64) float64 {
		slices.Sort(x)
		return x[len(x)/2]
	}
	b.ReportMetric(median(quiet), "p99-ns-quiet")
	b.ReportMetric(median(beside), "p99-ns-beside")
	b.ReportMetric(median(ratio), "beside/quiet")
	b.ReportMetric(0, "ns/op")
}
