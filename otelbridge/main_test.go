package otelbridge

import (
	"context"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// traces is a tracer provider of the SDK and the spans that it has recorded.
type traces struct {
	*tracetest.SpanRecorder
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer // the program's
}

func newTraces(opts ...sdktrace.TracerProviderOption) traces {
	r := tracetest.NewSpanRecorder()
	p := sdktrace.NewTracerProvider(append(opts, sdktrace.WithSpanProcessor(r))...)
	return traces{r, p, p.Tracer("program")}
}

// record runs f under a span and returns the span.
func (tr traces) record(t *testing.T, f func(ctx context.Context)) sdktrace.ReadOnlySpan {
	t.Helper()
	ctx, span := tr.tracer.Start(t.Context(), t.Name())
	f(ctx)
	span.End()
	for _, s := range tr.Ended() {
		if s.SpanContext().Equal(span.SpanContext()) {
			return s
		}
	}
	t.Fatal("the span was not recorded")
	return nil
}

// named returns the spans that have ended, by name.
func (tr traces) named() map[string][]sdktrace.ReadOnlySpan {
	m := make(map[string][]sdktrace.ReadOnlySpan)
	for _, s := range tr.Ended() {
		m[s.Name()] = append(m[s.Name()], s)
	}
	return m
}

// attrs is a set of attributes.
type attrs map[attribute.Key]any

func attrsOf(kvs []attribute.KeyValue) attrs {
	m := make(attrs, len(kvs))
	for _, kv := range kvs {
		m[kv.Key] = kv.Value.AsInterface()
	}
	return m
}

// events returns the names of a span's events.
func events(s sdktrace.ReadOnlySpan) []string {
	var names []string
	for _, e := range s.Events() {
		names = append(names, e.Name)
	}
	return names
}

func rejectedEvents(s sdktrace.ReadOnlySpan) int {
	n := 0
	for _, e := range s.Events() {
		if e.Name == "circuit_breaker.rejected" {
			n++
		}
	}
	return n
}

// rejectedCount returns the rejected_count of a span, or nil.
func rejectedCount(s sdktrace.ReadOnlySpan) any {
	return attrsOf(s.Attributes())["circuit_breaker.rejected_count"]
}

// logs is a log processor that keeps all records.
type logs struct {
	minSeverity log.Severity // lower ones are not enabled

	mu      sync.Mutex
	records []sdklog.Record // guarded by mu
}

func (l *logs) provider() *sdklog.LoggerProvider {
	return sdklog.NewLoggerProvider(sdklog.WithProcessor(l))
}

func (l *logs) Enabled(_ context.Context, p sdklog.EnabledParameters) bool {
	return p.Severity >= l.minSeverity
}

func (l *logs) OnEmit(_ context.Context, r *sdklog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, r.Clone())
	return nil
}

func (l *logs) Shutdown(context.Context) error   { return nil }
func (l *logs) ForceFlush(context.Context) error { return nil }

func (l *logs) names() []string {
	var names []string
	for _, r := range l.records {
		names = append(names, r.EventName())
	}
	return names
}

func recordAttrs(r sdklog.Record) attrs {
	var kvs []attribute.KeyValue
	r.WalkAttributes(func(kv attribute.KeyValue) bool {
		kvs = append(kvs, kv)
		return true
	})
	return attrsOf(kvs)
}

var (
	orders    = breaker.Key{Target: "dns:///orders:443", Service: "shop.Orders", Method: "Get"}
	rejection = &interceptor.RejectedError{RejectedError: &breaker.RejectedError{
		Key: orders, State: breaker.HalfOpen, Reason: breaker.ReasonHalfOpen,
	}}
	trip = breaker.Event{
		Key: orders, From: breaker.Closed, To: breaker.Open, Rule: breaker.RuleConsecutive, OpenFor: 5 * time.Second,
		Counts: breaker.Counts{Successes: 15, Failures: 5, ConsecutiveFailures: 5},
	}
	recovery = breaker.Event{Key: orders, From: breaker.HalfOpen, To: breaker.Closed}
	probe    = interceptor.Settlement{Key: orders, Outcome: breaker.Success, Probe: true}
)
