package otelbridge

import (
	"encoding/binary"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// maxRejectedEvents is how many rejections a span gets as events (O2). It leaves room for transitions, probes and the
// program's own events among the 128 of a span.
const maxRejectedEvents = 8

const (
	tallySets = 1 << tallyBits
	tallyBits = 7
	tallyWays = 8
)

// tally counts the rejections under each span, and writes the count on the span, where it is right when the span ends:
// nobody tells when that is.
//
// It knows spans by their identifiers, so it keeps none alive, and has room for so many and no more: 1024 in 32 KiB.
// They fall into sets by their identifier, and a new one takes the place of the one in its set whose last rejection
// is the longest ago. The count that is forgotten so stands on the span, and is read there when the span comes again.
// Spans of the SDK can be read, which the API does not promise; with others a span that comes again begins anew.
//
// A map from span to count would need to know when a span ends: a finalizer, or a span processor that the user would
// have to register. Reading the count from the span each time would do without memory, but costs more, loses counts
// when two calls are rejected at once, and fails where the span has all the attributes that its limit allows.
type tally struct{ sets [tallySets]tallySet }

type tallySet struct {
	mu sync.Mutex
	// Guarded by mu. The one that had a rejection last comes first; those with n == 0 are free and come at the end.
	spans [tallyWays]spanCount
}

type spanCount struct {
	id spanID
	n  int64
}

type spanID struct {
	trace trace.TraceID
	span  trace.SpanID
}

// add counts one rejection under span, and returns how many there were with this one. If span cannot be told from
// others, each is the first.
func (t *tally) add(span trace.Span) int64 {
	sc := span.SpanContext()
	if !sc.IsValid() {
		return 1
	}
	id := spanID{sc.TraceID(), sc.SpanID()}
	set := t.set(id)
	n, known := set.count(id)
	if !known {
		// Outside the lock: the span is somebody else's code.
		n = set.begin(id, countOn(span))
	}
	if span.IsRecording() {
		set.write(span, id, n)
	}
	return n
}

// set picks by the span: the spans of one trace must not fall into one set. Identifiers need not be random; the product
// spreads those that count up too.
func (t *tally) set(id spanID) *tallySet {
	return &t.sets[binary.BigEndian.Uint64(id.span[:])*0x9e3779b97f4a7c15>>(64-tallyBits)]
}

// count adds one for a span that is known.
func (s *tallySet) count(id spanID) (n int64, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.find(id)
	if i < 0 {
		return 0, false
	}
	return s.bump(i), true
}

// begin adds one for a span that was not known, and had n so far.
func (s *tallySet) begin(id spanID, n int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.find(id) // another call may have been here meanwhile
	if i < 0 {
		i = tallyWays - 1
		s.spans[i] = spanCount{id, n}
	}
	return s.bump(i)
}

// find returns where id is, or -1. Caller must hold s.mu.
func (s *tallySet) find(id spanID) int {
	for i := range s.spans {
		if s.spans[i].id == id {
			return i
		}
	}
	return -1
}

// bump counts one at i and moves it to the front. Caller must hold s.mu.
func (s *tallySet) bump(i int) int64 {
	c := s.spans[i]
	c.n++
	copy(s.spans[1:i+1], s.spans[:i])
	s.spans[0] = c
	return c.n
}

// write puts the count on the span, outside the lock. Two calls may do so in the wrong order; so each looks again after
// writing, and whoever wrote last has seen the newest count.
func (s *tallySet) write(span trace.Span, id spanID, n int64) {
	for {
		span.SetAttributes(attrRejectedCount.Int64(n))
		now := s.peek(id)
		if now <= n {
			return
		}
		n = now
	}
}

func (s *tallySet) peek(id spanID) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.find(id); i >= 0 {
		return s.spans[i].n
	}
	return 0
}

// countOn reads what write has written, if the span lets itself be read.
func countOn(span trace.Span) int64 {
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
