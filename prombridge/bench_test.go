package prombridge

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
)

// largeGroup is a group of 10 000 breakers, one in ten of which has failed calls.
func largeGroup(b *testing.B) *breaker.Group {
	b.Helper()
	g, err := breaker.NewGroup(breaker.Config{})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 10_000 {
		br := g.Get(breaker.Key{Target: "dns:///orders.example:443", Service: "shop.v1.Orders", Method: fmt.Sprint("Method", i)})
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

// drain collects c as a registry does, and does nothing with what comes.
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

// BenchmarkGather10000 is the same with what the registry does: it checks, hashes and sorts.
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

// BenchmarkEnroll10000 is what the first scrape takes in addition.
func BenchmarkEnroll10000(b *testing.B) {
	r := &NewCollector(largeGroup(b)).(*collector).roster
	b.ReportAllocs()
	for b.Loop() {
		r.seen, r.entries = nil, nil
		r.list()
	}
}

// BenchmarkReenroll10000 is what a scrape takes in addition if breakers have come or gone since the last one.
func BenchmarkReenroll10000(b *testing.B) {
	r := &NewCollector(largeGroup(b)).(*collector).roster
	b.ReportAllocs()
	for b.Loop() {
		r.seen = nil
		r.list()
	}
}

func BenchmarkCollectDurations10000(b *testing.B) {
	g := largeGroup(b)
	h := NewDurationHistogram(g)
	for key := range g.All() {
		h.Settled(b.Context(), interceptor.Settlement{Key: key, Duration: time.Millisecond})
	}
	b.ReportAllocs()
	for b.Loop() {
		drain(h)
	}
}

func BenchmarkSettled(b *testing.B) {
	g := largeGroup(b)
	h := NewDurationHistogram(g)
	s := interceptor.Settlement{
		Key:      breaker.Key{Target: "dns:///orders.example:443", Service: "shop.v1.Orders", Method: "Method7"},
		Duration: 3 * time.Millisecond,
	}
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		h.Settled(ctx, s)
	}
}

// BenchmarkObserve is what of BenchmarkSettled is client_golang's.
func BenchmarkObserve(b *testing.B) {
	h := newTiming()
	b.ReportAllocs()
	for b.Loop() {
		h.Observe(0.003)
	}
}
