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

// O2: the events that explain what happened must not be driven out by what happened.
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

// Each span has its own eight, whichever guard's bridge it is and however they take turns.
func TestO2_EachSpanByItself(t *testing.T) {
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

// A span that the tally has forgotten is known again by the count on it.
func TestO2_ForgottenSpan(t *testing.T) {
	tr, b := newTraces(), New()
	span := tr.record(t, func(ctx context.Context) {
		for range 12 {
			b.Rejected(ctx, rejection)
			for range 2 * tallySets * tallyWays {
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

// foreignSpan is a span of another make than the SDK's: what it has cannot be read back.
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

// newForeignSpan has identifiers that count up, as some programs make them.
func newForeignSpan(n int) *foreignSpan {
	var id trace.SpanID
	binary.BigEndian.PutUint64(id[:], uint64(n))
	return &foreignSpan{sc: trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: id})}
}

func TestO2_ForeignSpans(t *testing.T) {
	b := New()
	// Half of what the tally has room for, so that no set is full.
	spans := make([]*foreignSpan, tallySets*tallyWays/2)
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

// One that is forgotten begins anew. It says less than there was, never more.
func TestO2_ForgottenForeignSpan(t *testing.T) {
	b := New()
	s := newForeignSpan(1)
	ctx := trace.ContextWithSpan(t.Context(), s)
	for range 10 {
		b.Rejected(ctx, rejection)
	}
	for n := range 4 * tallySets * tallyWays {
		b.Rejected(trace.ContextWithSpan(t.Context(), newForeignSpan(n+2)), rejection)
	}
	b.Rejected(ctx, rejection)
	if len(s.events) != 9 || s.count != 1 {
		t.Errorf("%d events and count %d, want 9 and 1", len(s.events), s.count)
	}
}

// The one that makes room is the one without a rejection for longest.
func TestO2_OldestMakesRoom(t *testing.T) {
	var tl tally
	// All in one set.
	var spans []*foreignSpan
	for n := 1; len(spans) < tallyWays+1; n++ {
		s := newForeignSpan(n)
		if tl.set(spanID{s.sc.TraceID(), s.sc.SpanID()}) == &tl.sets[0] {
			spans = append(spans, s)
		}
	}
	for range 3 {
		for _, s := range spans[:tallyWays] {
			tl.add(s)
		}
	}
	tl.add(spans[0])         // now the next is the oldest
	tl.add(spans[tallyWays]) // and goes
	want := []int64{0: 5, 1: 1, tallyWays: 2}
	for _, i := range []int{0, tallyWays, 1} {
		if got := tl.add(spans[i]); got != want[i] {
			t.Errorf("span %d: count %d, want %d", i, got, want[i])
		}
	}
}

// Spans without identifiers are not one span.
func TestO2_SpansWithoutIdentifiers(t *testing.T) {
	b := New()
	for range 20 {
		s := new(foreignSpan)
		b.Rejected(trace.ContextWithSpan(t.Context(), s), rejection)
		if len(s.events) != 1 || s.count != 0 {
			t.Fatalf("%d events and count %d, want 1 and 0", len(s.events), s.count)
		}
	}
}

// Moving to log records changes where events go, and not how many there are. A span that is not sampled counts too.
func TestO2_LogRecords(t *testing.T) {
	for name, sampler := range map[string]sdktrace.Sampler{"sampled": sdktrace.AlwaysSample(), "not": sdktrace.NeverSample()} {
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

// busySpan has another call rejected under it just when the bridge reads from it or writes to it.
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

func TestO2_CallsSideBySide(t *testing.T) {
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

// slowSpan lets others run between a count and its being written.
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

// Many spans at once, in more sets than there are and in each more than fit.
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

func TestTallySpreads(t *testing.T) {
	// Identifiers that count up, and such with the count in the first bytes.
	for name, put := range map[string]func(id []byte, n int){
		"low":  func(id []byte, n int) { binary.BigEndian.PutUint64(id, uint64(n)) },
		"high": func(id []byte, n int) { binary.LittleEndian.PutUint64(id, uint64(n)) },
	} {
		var tl tally
		used := make(map[string]bool)
		for n := 1; n <= 8*tallySets; n++ {
			var id spanID
			put(id.span[:], n)
			used[fmt.Sprintf("%p", tl.set(id))] = true
		}
		if len(used) < tallySets/2 {
			t.Errorf("%s: %d identifiers fall into %d of %d sets", name, 8*tallySets, len(used), tallySets)
		}
	}
}
