package prombridge

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
)

// A DurationHistogram measures how long calls take. It exports call_duration_seconds by outcome, with the labels of the
// breaker. It is a collector, and its hooks feed it:
//
//	hooks, durations := prombridge.NewDurationHistogram(group)
//	guard, err := interceptor.New(group, interceptor.WithHooks(hooks))
//	…
//	prometheus.MustRegister(prombridge.NewCollector(group), durations)
//
// Prometheus servers that scrape native histograms get one with buckets of at most 10% width. All others get classic
// buckets from 1 ms to 30 s, which make 17 series for each outcome and 68 for each breaker.
//
// Unlike the collector, it does work in each call. Each call reads the clock two more times and takes about 120 ns
// longer. Only admitted calls count. The duration of a probe that is a stream ends at its first message.
//
// The series of a breaker exist as long as the breaker. A call that ends just after its breaker was evicted is not
// counted. Memory is bounded by the group. A breaker takes some kilobytes for each outcome that occurs, from its first
// call on.
//
// A DurationHistogram is safe for concurrent use and owns no goroutine. A histogram that runs out of buckets starts a
// timer, which resets it one hour after its last reset. The zero value counts nothing; use NewDurationHistogram.
type DurationHistogram struct {
	invalid *invalid // if not nil, all other fields are zero
	cache   breakerCache
	desc    *prometheus.Desc
	ranges  [outcomes]labelRange // in the order of outcomeOrder
	empty   *dto.Histogram       // for an outcome that has not occurred

	// histograms maps *breaker.Breaker to *breakerHistograms. It may hold breakers that have left the group, until the
	// next sweep.
	histograms sync.Map

	mu sync.Mutex

	// Guarded by mu.
	size  int // the number of entries of histograms
	limit int // the size at which the next sweep starts
}

var _ prometheus.Collector = (*DurationHistogram)(nil)

// breakerHistograms holds the histograms of one breaker by outcome. A histogram is allocated when its outcome first
// occurs.
type breakerHistograms [outcomes]atomic.Pointer[histogram]

// histogram is a concrete type, which atomic.Pointer needs.
type histogram struct{ prometheus.Histogram }

const outcomes = int(breaker.Ignored) + 1 // the length of an array indexed by Outcome

// outcomeOrder is sorted by name, like family.series.
var outcomeOrder = [outcomes]breaker.Outcome{breaker.Failure, breaker.Ignored, breaker.Overload, breaker.Success}

// NewDurationHistogram returns a histogram and the hooks that feed it. Give the hooks only to guards of g: a call of a
// guard with another group counts for the breaker of g with the same key, if there is one. A nil g or an invalid option
// is reported in the same way as by NewCollector; the hooks then do nothing. A nil option panics.
func NewDurationHistogram(g *breaker.Group, opts ...Option) (*interceptor.Hooks, *DurationHistogram) {
	h := newDurationHistogram(g, opts)
	return &interceptor.Hooks{Settled: h.settled}, h
}

func newDurationHistogram(g *breaker.Group, opts []Option) *DurationHistogram {
	h := &DurationHistogram{cache: breakerCache{group: g}}
	o, err := collect("NewDurationHistogram", g, opts)
	if err == nil {
		h.desc = o.desc(durationName, durationHelp, labelNames("outcome")...)
		err = h.desc.Err()
	}
	if err != nil {
		return &DurationHistogram{invalid: newInvalid("NewDurationHistogram", err)}
	}
	for i, outcome := range outcomeOrder {
		h.ranges[i] = h.cache.template.add(h.desc, "outcome", outcome.String())
	}
	var m dto.Metric
	_ = newHistogram().Write(&m) // client_golang returns no error here
	h.empty = m.Histogram
	h.empty.CreatedTimestamp = nil // the breaker is younger
	return h
}

// newHistogram returns a histogram without labels. They are added when it is collected. A HistogramVec would add them,
// but it hashes five labels on each call.
func newHistogram() *histogram {
	return &histogram{prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: durationName,
		Help: durationHelp,
		// From an RPC within a rack to an RPC so long that most callers have given up.
		Buckets: []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30},
		// Prometheus recommends the factor. The number of buckets bounds the memory: 160 buckets cover 20 powers of two,
		// for example from 10 µs to 10 s. A wider range lowers the resolution until the reset.
		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  160,
		NativeHistogramMinResetDuration: time.Hour,
		NativeHistogramMaxExemplars:     -1, // exemplars could hold data of the call (O6)
	})}
}

// settled counts a call.
func (h *DurationHistogram) settled(_ context.Context, s interceptor.Settlement) {
	if h.desc == nil {
		return
	}
	b, ok := h.cache.group.Lookup(s.Key)
	if !ok {
		return
	}
	outcome := s.Outcome
	if outcome > breaker.Ignored {
		outcome = breaker.Failure // the breaker counts an unknown outcome as a failure
	}
	p := &h.histogramsOf(b)[outcome]
	hist := p.Load()
	if hist == nil {
		p.CompareAndSwap(nil, newHistogram())
		hist = p.Load()
	}
	hist.Observe(s.Duration.Seconds())
}

// histogramsOf returns the histograms of b. The map is keyed by breaker rather than by key, so that a key that gets a
// new breaker after an eviction starts at zero, as the breaker's counters do (B33).
func (h *DurationHistogram) histogramsOf(b *breaker.Breaker) *breakerHistograms {
	if v, ok := h.histograms.Load(b); ok {
		return v.(*breakerHistograms) //nolint:forcetypeassert // nothing else is stored
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	v, loaded := h.histograms.LoadOrStore(b, new(breakerHistograms))
	if !loaded {
		h.size++
		if h.size > h.limit {
			h.sweep()
		}
	}
	return v.(*breakerHistograms) //nolint:forcetypeassert // nothing else is stored
}

// sweep deletes the histograms of breakers that have left the group. It visits all entries. Unless a scrape comes
// first, the next sweep starts when there are twice as many entries as remain now. So the cost for each new breaker is
// constant on average, and memory is at most about twice what the group needs, however often keys change.
// Caller must hold h.mu.
func (h *DurationHistogram) sweep() {
	h.size = 0
	h.histograms.Range(func(k, _ any) bool {
		b := k.(*breaker.Breaker) //nolint:forcetypeassert // nothing else is stored
		if live, ok := h.cache.group.Lookup(b.Key()); !ok || live != b {
			h.histograms.Delete(b)
			return true
		}
		h.size++
		return true
	})
	h.limit = 2*h.size + 16
}

// Describe implements prometheus.Collector.
func (h *DurationHistogram) Describe(ch chan<- *prometheus.Desc) {
	if bad := h.unusable(); bad != nil {
		bad.Describe(ch)
		return
	}
	ch <- h.desc
}

// Collect implements prometheus.Collector.
func (h *DurationHistogram) Collect(ch chan<- prometheus.Metric) {
	if bad := h.unusable(); bad != nil {
		bad.Collect(ch)
		return
	}
	h.mu.Lock()
	h.sweep()
	h.mu.Unlock()
	for _, e := range h.cache.list() {
		v, _ := h.histograms.Load(e.breaker)
		hists, _ := v.(*breakerHistograms) // nil: no call has ended
		for i, outcome := range outcomeOrder {
			m := &durationMetric{identity: identity{h.desc, e.labels(h.ranges[i])}, empty: h.empty}
			if hists != nil {
				m.histogram = hists[outcome].Load()
			}
			ch <- m
		}
	}
}

// unusable returns a collector that reports the error of h, or nil if h is usable.
func (h *DurationHistogram) unusable() *invalid {
	if h.desc == nil && h.invalid == nil {
		return newInvalid("DurationHistogram", errors.New("the zero value is not usable: call NewDurationHistogram"))
	}
	return h.invalid
}

type durationMetric struct {
	identity
	histogram *histogram     // nil: the outcome has not occurred
	empty     *dto.Histogram // written in that case
}

// Write implements prometheus.Metric.
func (m *durationMetric) Write(out *dto.Metric) error {
	out.Histogram = m.empty
	if m.histogram != nil {
		if err := m.histogram.Write(out); err != nil {
			return err
		}
	}
	out.Label = m.labels
	return nil
}
