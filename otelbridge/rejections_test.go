package otelbridge

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"weak"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// O2: rejections must not displace the transitions that explain them.
func TestO2_TransitionsSurviveRejections(t *testing.T) {
	b := New()
	span := newTraces().record(t, func(ctx context.Context) {
		b.Transition(ctx, trip)
		for range 10_000 {
			b.Rejected(ctx, rejection)
		}
		b.Transition(ctx, recovery)
	})
	want := append([]string{"circuit_breaker.state_change"}, slices.Repeat([]string{"circuit_breaker.rejected"}, 8)...)
	want = append(want, "circuit_breaker.state_change")
	if got := events(span); !slices.Equal(got, want) {
		t.Errorf("events: got %v, want %v", got, want)
	}
	if span.DroppedEvents() != 0 {
		t.Errorf("%d events dropped, want none", span.DroppedEvents())
	}
	if got := rejectedCount(span); got != int64(10_000) {
		t.Errorf("rejected_count is %v, want 10000", got)
	}
	if n := len(span.Attributes()); n != 1 {
		t.Errorf("%d attributes, want the count only", n)
	}
}

func TestO2_TransitionsAlways(t *testing.T) {
	b := New()
	span := newTraces().record(t, func(ctx context.Context) {
		for range 100 {
			b.Transition(ctx, trip)
		}
	})
	if n := len(span.Events()); n != 100 {
		t.Errorf("%d events, want 100", n)
	}
}

// Each span has a limit of eight, even if rejections under several spans alternate.
func TestO2_LimitForEachSpan(t *testing.T) {
	for _, n := range []int{0, 1, 8, 9, 30} {
		tr, b := newTraces(), New()
		spans := make([]sdktrace.ReadOnlySpan, 3)
		spans[0] = tr.record(t, func(ctx context.Context) {
			spans[1] = tr.record(t, func(other context.Context) {
				child, span := tr.tracer.Start(ctx, "child") // of the same trace
				for range n {
					b.Rejected(ctx, rejection)
					b.Rejected(other, rejection)
					b.Rejected(child, rejection)
				}
				span.End()
				spans[2] = tr.named()["child"][0]
			})
		})
		var wantCount any
		if n > 0 {
			wantCount = int64(n)
		}
		for i, s := range spans {
			if got, want := rejectedEvents(s), min(n, 8); got != want {
				t.Errorf("%d rejections, span %d: %d events, want %d", n, i, got, want)
			}
			if got := rejectedCount(s); got != wantCount {
				t.Errorf("%d rejections, span %d: rejected_count is %v, want %v", n, i, got, wantCount)
			}
		}
	}
}

// The count of a span that was replaced in rejectionCounts is read from the span.
func TestO2_ForgottenSpan(t *testing.T) {
	tr, b := newTraces(), New()
	span := tr.record(t, func(ctx context.Context) {
		for range 12 {
			b.Rejected(ctx, rejection)
			for range 2 * rejectionSets * rejectionWays {
				short, s := tr.tracer.Start(t.Context(), "short")
				b.Rejected(short, rejection)
				s.End()
			}
			tr.Reset()
		}
	})
	if got := rejectedEvents(span); got != 8 {
		t.Errorf("%d events, want 8", got)
	}
	if got := rejectedCount(span); got != int64(12) {
		t.Errorf("rejected_count is %v, want 12", got)
	}
}

// foreignSpan is a span of another implementation than the SDK. Its attributes cannot be read.
type foreignSpan struct {
	noop.Span
	sc     trace.SpanContext
	events []string
	count  int64
}

func (s *foreignSpan) SpanContext() trace.SpanContext { return s.sc }
func (s *foreignSpan) IsRecording() bool              { return true }

func (s *foreignSpan) AddEvent(name string, _ ...trace.EventOption) {
	s.events = append(s.events, name)
}

func (s *foreignSpan) SetAttributes(kvs ...attribute.KeyValue) {
	for _, kv := range kvs {
		if kv.Key == "circuit_breaker.rejected_count" {
			s.count = kv.Value.AsInt64()
		}
	}
}

// newForeignSpan returns a span with a sequential ID, as some programs make them.
func newForeignSpan(n int) *foreignSpan {
	var id trace.SpanID
	binary.BigEndian.PutUint64(id[:], uint64(n))
	return &foreignSpan{sc: trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: id})}
}

func TestO2_ForeignSpans(t *testing.T) {
	b := New()
	// Half of the capacity of rejectionCounts, so that no set is full.
	spans := make([]*foreignSpan, rejectionSets*rejectionWays/2)
	for i := range spans {
		spans[i] = newForeignSpan(i + 1)
	}
	for range 12 {
		for _, s := range spans {
			b.Rejected(trace.ContextWithSpan(t.Context(), s), rejection)
		}
	}
	for i, s := range spans {
		if len(s.events) != 8 || s.count != 12 {
			t.Fatalf("span %d of %d: %d events and count %d, want 8 and 12", i, len(spans), len(s.events), s.count)
		}
	}
}

// The count of a forgotten foreign span starts again at zero. It may be too low, but never too high.
func TestO2_ForgottenForeignSpan(t *testing.T) {
	b := New()
	s := newForeignSpan(1)
	ctx := trace.ContextWithSpan(t.Context(), s)
	for range 10 {
		b.Rejected(ctx, rejection)
	}
	for n := range 4 * rejectionSets * rejectionWays {
		b.Rejected(trace.ContextWithSpan(t.Context(), newForeignSpan(n+2)), rejection)
	}
	b.Rejected(ctx, rejection)
	if len(s.events) != 9 || s.count != 1 {
		t.Errorf("%d events and count %d, want 9 and 1", len(s.events), s.count)
	}
}

// A new span replaces the one whose last rejection is the oldest.
func TestO2_OldestIsReplaced(t *testing.T) {
	var counts rejectionCounts
	// All are in one set.
	var spans []*foreignSpan
	for n := 1; len(spans) < rejectionWays+1; n++ {
		s := newForeignSpan(n)
		if counts.set(spanID{s.sc.TraceID(), s.sc.SpanID()}) == &counts.sets[0] {
			spans = append(spans, s)
		}
	}
	for range 3 {
		for _, s := range spans[:rejectionWays] {
			counts.add(s)
		}
	}
	counts.add(spans[0])             // now the next span is the oldest
	counts.add(spans[rejectionWays]) // and is replaced
	want := []int64{0: 5, 1: 1, rejectionWays: 2}
	for _, i := range []int{0, rejectionWays, 1} {
		if got := counts.add(spans[i]); got != want[i] {
			t.Errorf("span %d: count %d, want %d", i, got, want[i])
		}
	}
}

// Spans without IDs are not counted as one span.
func TestO2_SpansWithoutIDs(t *testing.T) {
	b := New()
	for range 20 {
		s := new(foreignSpan)
		b.Rejected(trace.ContextWithSpan(t.Context(), s), rejection)
		if len(s.events) != 1 || s.count != 0 {
			t.Fatalf("%d events and count %d, want 1 and 0", len(s.events), s.count)
		}
	}
}

// Log records have the same limit as span events. It applies to spans that are not sampled too.
func TestO2_LogRecords(t *testing.T) {
	for name, sampler := range map[string]sdktrace.Sampler{
		"sampled": sdktrace.AlwaysSample(), "not": sdktrace.NeverSample(),
	} {
		tr, l := newTraces(sdktrace.WithSampler(sampler)), new(logs)
		b := New(WithLoggerProvider(l.provider()))
		ctx, span := tr.tracer.Start(t.Context(), "caller")
		b.Transition(ctx, trip)
		for range 20 {
			b.Rejected(ctx, rejection)
		}
		span.End()
		want := append([]string{"circuit_breaker.state_change"}, slices.Repeat([]string{"circuit_breaker.rejected"}, 8)...)
		if got := l.names(); !slices.Equal(got, want) {
			t.Errorf("%s: records: got %v, want %v", name, got, want)
		}
		for _, s := range tr.Ended() {
			if got := rejectedCount(s); got != int64(20) {
				t.Errorf("%s: rejected_count is %v, want 20", name, got)
			}
		}
	}
}

func TestO2_LogRecordsWithoutSpan(t *testing.T) {
	l := new(logs)
	b := New(WithLoggerProvider(l.provider()))
	for range 20 {
		b.Rejected(t.Context(), rejection)
	}
	if n := len(l.records); n != 20 {
		t.Errorf("%d records, want 20", n)
	}
}

// busySpan calls a function when the bridge reads or writes it, in which another call is rejected.
type busySpan struct {
	*foreignSpan
	reading, writing func()
}

func (s *busySpan) Attributes() []attribute.KeyValue {
	s.reading()
	return nil
}

func (s *busySpan) SetAttributes(kvs ...attribute.KeyValue) {
	s.writing()
	s.foreignSpan.SetAttributes(kvs...)
}

func TestO2_RejectionDuringReadOrWrite(t *testing.T) {
	for _, at := range []string{"reading", "writing"} {
		b, other := New(), false
		s := &busySpan{foreignSpan: newForeignSpan(1)}
		ctx := trace.ContextWithSpan(t.Context(), s)
		reject := func(when string) func() {
			return func() {
				if when == at && !other {
					other = true
					b.Rejected(ctx, rejection)
				}
			}
		}
		s.reading, s.writing = reject("reading"), reject("writing")
		b.Rejected(ctx, rejection)
		if len(s.events) != 2 || s.count != 2 {
			t.Errorf("%s: %d events and count %d, want 2 and 2", at, len(s.events), s.count)
		}
		b.Rejected(ctx, rejection)
		if s.count != 3 {
			t.Errorf("%s: then count %d, want 3", at, s.count)
		}
	}
}

// slowSpan yields to other goroutines between counting and writing the count.
type slowSpan struct{ trace.Span }

func (s slowSpan) SetAttributes(kvs ...attribute.KeyValue) {
	runtime.Gosched()
	s.Span.SetAttributes(kvs...)
}

func TestO2_CountConcurrentSafe(t *testing.T) {
	const callers, calls = 8, 500
	for _, wrap := range []func(trace.Span) trace.Span{
		func(s trace.Span) trace.Span { return s },
		func(s trace.Span) trace.Span { return slowSpan{s} },
	} {
		b := New()
		span := newTraces().record(t, func(ctx context.Context) {
			ctx = trace.ContextWithSpan(ctx, wrap(trace.SpanFromContext(ctx)))
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for range calls {
						b.Rejected(ctx, rejection)
					}
				})
			}
			wg.Wait()
		})
		if got := rejectedEvents(span); got != 8 {
			t.Errorf("%d events, want 8", got)
		}
		if got := rejectedCount(span); got != int64(callers*calls) {
			t.Errorf("rejected_count is %v, want %d", got, callers*calls)
		}
	}
}

// More spans at once than fit into the sets.
func TestO2_ManySpansConcurrentSafe(t *testing.T) {
	const callers, rounds, turns = 8, 100, 12
	tr, b := newTraces(), New()
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range rounds {
				ctx, span := tr.tracer.Start(t.Context(), "caller")
				for range turns {
					b.Rejected(ctx, rejection)
				}
				span.End()
			}
		})
	}
	wg.Wait()
	for _, s := range tr.Ended() {
		if rejectedEvents(s) != 8 || rejectedCount(s) != int64(turns) {
			t.Fatalf("%d events and count %v, want 8 and %d", rejectedEvents(s), rejectedCount(s), turns)
		}
	}
}

func TestO2_KeepsNoSpan(t *testing.T) {
	b := New()
	p := func() weak.Pointer[foreignSpan] {
		span := newForeignSpan(1)
		ctx := trace.ContextWithSpan(t.Context(), span)
		b.Rejected(ctx, rejection)
		b.Transition(ctx, trip)
		return weak.Make(span)
	}()
	for range 3 {
		runtime.GC()
	}
	if p.Value() != nil {
		t.Error("the bridge keeps a span")
	}
	runtime.KeepAlive(b)
}

func TestRejectionSetsAreSpread(t *testing.T) {
	// The IDs are sequential, with the number in the last or in the first bytes.
	for name, put := range map[string]func(id []byte, n int){
		"low":  func(id []byte, n int) { binary.BigEndian.PutUint64(id, uint64(n)) },
		"high": func(id []byte, n int) { binary.LittleEndian.PutUint64(id, uint64(n)) },
	} {
		var counts rejectionCounts
		used := make(map[string]bool)
		for n := 1; n <= 8*rejectionSets; n++ {
			var id spanID
			put(id.span[:], n)
			used[fmt.Sprintf("%p", counts.set(id))] = true
		}
		if len(used) < rejectionSets/2 {
			t.Errorf("%s: %d IDs are in %d of %d sets", name, 8*rejectionSets, len(used), rejectionSets)
		}
	}
}
