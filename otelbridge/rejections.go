package otelbridge

import (
	"encoding/binary"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// maxRejectedEvents is the number of rejections that a span gets as events (O2). It leaves room for transitions, probes
// and the program's own events among the 128 of a span.
const maxRejectedEvents = 8

const (
	rejectionSets    = 1 << rejectionSetBits
	rejectionSetBits = 7
	rejectionWays    = 8
)

// rejectionCounts counts the rejections under each span and writes the count to the span. The count is written on each
// rejection, because the API does not report the end of a span.
//
// It is a set-associative cache, keyed by trace and span ID, so it keeps no span alive. It holds 1024 counts in 32 KiB.
// A new span replaces the one in its set whose last rejection is the oldest. The replaced count remains on the span. It
// is read from there when the span has another rejection. Spans of the SDK can be read, although the API does not
// promise it. For other spans the count starts again at zero.
//
// There are two alternatives. A map from span to count must know when a span ends, which takes a finalizer, or a span
// processor that the user registers. Reading the count from the span each time takes no memory, but it is slower, loses
// counts when two calls are rejected at once, and fails if the span has reached its limit of attributes.
type rejectionCounts struct{ sets [rejectionSets]rejectionSet }

type rejectionSet struct {
	mu sync.Mutex

	// Guarded by mu. The span with the latest rejection is first. Entries with n == 0 are free and are last.
	spans [rejectionWays]spanCount
}

type spanCount struct {
	id spanID
	n  int64
}

type spanID struct {
	trace trace.TraceID
	span  trace.SpanID
}

// add counts one rejection under span and returns the new count. It returns 1 for a span without a valid ID, which it
// cannot identify.
func (c *rejectionCounts) add(span trace.Span) int64 {
	sc := span.SpanContext()
	if !sc.IsValid() {
		return 1
	}
	id := spanID{sc.TraceID(), sc.SpanID()}
	set := c.set(id)
	n, known := set.increment(id)
	if !known {
		// readCount runs without the lock, because it calls code of the span's implementation.
		n = set.insert(id, readCount(span))
	}
	if span.IsRecording() {
		set.writeCount(span, id, n)
	}
	return n
}

// set returns the set of a span. It depends on the span ID only, so the spans of one trace are spread over all sets.
// IDs need not be random: the multiplication also spreads sequential ones.
func (c *rejectionCounts) set(id spanID) *rejectionSet {
	return &c.sets[binary.BigEndian.Uint64(id.span[:])*0x9e3779b97f4a7c15>>(64-rejectionSetBits)]
}

// increment adds one to the count of a known span.
func (s *rejectionSet) increment(id spanID) (n int64, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.find(id)
	if i < 0 {
		return 0, false
	}
	return s.incrementAt(i), true
}

// insert adds a span with count n and increments it.
func (s *rejectionSet) insert(id spanID, n int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.find(id) // another call may have inserted it in the meantime
	if i < 0 {
		i = rejectionWays - 1
		s.spans[i] = spanCount{id, n}
	}
	return s.incrementAt(i)
}

// find returns the index of id, or -1. Caller must hold s.mu.
func (s *rejectionSet) find(id spanID) int {
	for i := range s.spans {
		if s.spans[i].id == id {
			return i
		}
	}
	return -1
}

// incrementAt increments the count at i and moves it to the front. Caller must hold s.mu.
func (s *rejectionSet) incrementAt(i int) int64 {
	c := s.spans[i]
	c.n++
	copy(s.spans[1:i+1], s.spans[:i])
	s.spans[0] = c
	return c.n
}

// writeCount writes the count to the span, without the lock. Two calls may write in the wrong order. So each call reads
// the count again after it has written, and repeats if it was too low. The last write then has the highest count.
func (s *rejectionSet) writeCount(span trace.Span, id spanID, n int64) {
	for {
		span.SetAttributes(attrRejectedCount.Int64(n))
		now := s.load(id)
		if now <= n {
			return
		}
		n = now
	}
}

// load returns the count of a span, or 0 if it is not known.
func (s *rejectionSet) load(id spanID) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.find(id); i >= 0 {
		return s.spans[i].n
	}
	return 0
}

// readCount returns the count that writeCount wrote to the span, or 0 if the span cannot be read.
func readCount(span trace.Span) int64 {
	readable, ok := span.(interface{ Attributes() []attribute.KeyValue })
	if !ok {
		return 0
	}
	for _, a := range readable.Attributes() {
		if a.Key == attrRejectedCount {
			return a.Value.AsInt64()
		}
	}
	return 0
}
