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

// DurationHistogram counts how long calls took: call_duration_seconds, by outcome, with the labels of the breaker. It is
// both an observer of calls, for interceptor.WithObserver, and a collector:
//
//	durations := prombridge.NewDurationHistogram(group)
//	guard, err := interceptor.New(group, interceptor.WithObserver(durations))
//	…
//	prometheus.MustRegister(prombridge.NewCollector(group), durations)
//
// It is a native histogram, with buckets of at most 10% width, for a Prometheus that scrapes those, and a classic one from
// 1 ms to 30 s for all others: one that takes those gets 17 series for each outcome, 68 for each breaker.
//
// Unlike the collector it works while calls run: each call pays for two more readings of the clock and about 120 ns. Only
// calls that were let through count. The duration of a probe that is a stream ends at its first message.
//
// The series of a breaker come and go with it. A call that ends when its breaker has just been evicted is not counted.
// Memory is bounded by the group: a breaker takes it from its first call on, some kilobytes for each outcome that occurs.
//
// A DurationHistogram is safe for concurrent use and owns no goroutine. (A histogram that runs out of buckets has a timer,
// which resets it an hour after its last reset.) It must come from NewDurationHistogram; the zero value counts nothing.
type DurationHistogram struct {
	invalid *invalid // not nil: all the rest is zero
	roster  roster
	desc    *prometheus.Desc
	spans   [outcomes]span // in the order of outcomeOrder
	empty   *dto.Histogram // of an outcome that has not occurred

	timings sync.Map // *breaker.Breaker to *timings; may hold breakers that are gone, until the next sweep

	mu    sync.Mutex
	held  int // guarded by mu: how many timings there are
	limit int // guarded by mu: how many there may be before the next sweep
}

var _ interface {
	interceptor.SettledObserver
	prometheus.Collector
} = (*DurationHistogram)(nil)

const (
	durationName = "call_duration_seconds"
	durationHelp = "How long calls took that were let through and have ended, by verdict."
)

// timings are the histograms of one breaker.
type timings [outcomes]atomic.Pointer[timing]

type timing struct{ prometheus.Histogram }

const outcomes = int(breaker.Ignored) + 1 // the length of an array indexed by Outcome

// outcomeOrder is by name: see family.cells.
var outcomeOrder = [outcomes]breaker.Outcome{breaker.Failure, breaker.Ignored, breaker.Overload, breaker.Success}

// NewDurationHistogram returns a histogram for guards of g. The guards must be given the same g: calls of others are not
// counted. A nil g or an option that cannot be used is reported as NewCollector reports it.
func NewDurationHistogram(g *breaker.Group, opts ...Option) *DurationHistogram {
	h := &DurationHistogram{roster: roster{group: g}}
	o, err := collect(g, opts)
	if err == nil {
		h.desc = o.desc(durationName, durationHelp, labelNames("outcome")...)
		err = h.desc.Err()
	}
	if err != nil {
		return &DurationHistogram{invalid: newInvalid("NewDurationHistogram", err)}
	}
	for i, outcome := range outcomeOrder {
		h.spans[i] = h.roster.sheet.add(h.desc, "outcome", outcome.String())
	}
	var m dto.Metric
	_ = newTiming().Write(&m) // a histogram of client_golang returns no error
	h.empty = m.Histogram
	h.empty.CreatedTimestamp = nil // it would lie before the breaker's
	return h
}

// newTiming makes a histogram without labels; they are put on when it is collected. A HistogramVec would do that, at the
// price of hashing five labels for each call, and of labels that are fixed when the first call ends.
func newTiming() *timing {
	return &timing{prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: durationName,
		Help: durationHelp,
		// What an RPC takes, from one in the same rack to one that nobody waits for any more.
		Buckets: []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30},
		// The factor that Prometheus recommends, and a bound for memory: 160 buckets reach over 20 powers of two, as from 10 µs
		// to 10 s. What lies wider than that costs resolution until the reset.
		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  160,
		NativeHistogramMinResetDuration: time.Hour,
		NativeHistogramMaxExemplars:     -1, // O6
	})}
}

// Settled implements interceptor.SettledObserver: it counts the call.
func (h *DurationHistogram) Settled(_ context.Context, s interceptor.Settlement) {
	if h.desc == nil {
		return
	}
	b, ok := h.roster.group.Lookup(s.Key)
	if !ok {
		return
	}
	outcome := s.Outcome
	if outcome > breaker.Ignored {
		outcome = breaker.Failure // as the breaker has it
	}
	t := &h.of(b)[outcome]
	hist := t.Load()
	if hist == nil {
		t.CompareAndSwap(nil, newTiming())
		hist = t.Load()
	}
	hist.Observe(s.Duration.Seconds())
}

// Rejected implements interceptor.Observer. It does nothing: a call that was not made took no time.
func (h *DurationHistogram) Rejected(context.Context, *interceptor.RejectedError) {}

// FellBack implements interceptor.Observer. It does nothing.
func (h *DurationHistogram) FellBack(context.Context, interceptor.FallbackInfo) {}

// Transition implements interceptor.Observer. It does nothing.
func (h *DurationHistogram) Transition(context.Context, breaker.Event) {}

// of returns the histograms of b. They hang on the breaker and not on its key, so that one that comes back after an
// eviction begins anew (B33), as its counters do.
func (h *DurationHistogram) of(b *breaker.Breaker) *timings {
	if t, ok := h.timings.Load(b); ok {
		return t.(*timings) //nolint:forcetypeassert // nothing else is stored
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	t, known := h.timings.LoadOrStore(b, new(timings))
	if !known {
		h.held++
		if h.held > h.limit {
			h.sweep()
		}
	}
	return t.(*timings) //nolint:forcetypeassert // nothing else is stored
}

// sweep forgets the breakers that are not in the group any more. It looks at all of them, so the next one, if no scrape
// comes before, waits until there are twice as many as are left: however fast keys come and go, a call pays for a constant
// share of it, and memory is at most twice what the group warrants.
// Caller must hold h.mu.
func (h *DurationHistogram) sweep() {
	h.held = 0
	h.timings.Range(func(k, _ any) bool {
		b := k.(*breaker.Breaker) //nolint:forcetypeassert // nothing else is stored
		if live, ok := h.roster.group.Lookup(b.Key()); !ok || live != b {
			h.timings.Delete(b)
			return true
		}
		h.held++
		return true
	})
	h.limit = 2*h.held + 16
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
	for _, e := range h.roster.list() {
		known, _ := h.timings.Load(e.breaker)
		t, _ := known.(*timings) // nil: no call has ended
		for i, outcome := range outcomeOrder {
			m := &durationSeries{identity: identity{h.desc, e.labels(h.spans[i])}, empty: h.empty}
			if t != nil {
				m.timing = t[outcome].Load()
			}
			ch <- m
		}
	}
}

func (h *DurationHistogram) unusable() *invalid {
	if h.desc == nil && h.invalid == nil {
		return newInvalid("DurationHistogram", errors.New("it does not come from NewDurationHistogram"))
	}
	return h.invalid
}

type durationSeries struct {
	identity
	timing *timing // nil: empty
	empty  *dto.Histogram
}

// Write implements prometheus.Metric.
func (m *durationSeries) Write(out *dto.Metric) error {
	out.Histogram = m.empty
	if m.timing != nil {
		if err := m.timing.Write(out); err != nil {
			return err
		}
	}
	out.Label = m.labels
	return nil
}
