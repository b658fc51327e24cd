package otelbridge

import (
	"context"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/trace"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
	"github.com/grpcircuit/grpcircuit/internal/labels"
)

// A Bridge reports transitions, rejections and probes to OpenTelemetry, as the events in the package documentation. It
// is an interceptor.Observer, for interceptor.WithObserver. It observes probes but no other calls, so a call that a
// closed breaker admits costs nothing. Other calls cost some tens of nanoseconds and allocate nothing, unless a
// recording span or an enabled logger takes the event.
//
// A Bridge is safe for concurrent use and may serve any number of guards. Use one Bridge for all guards of a program.
// It owns no goroutine and no timer, and keeps no span and no context. The zero value is not usable; use New.
type Bridge struct {
	sink       eventSink
	tracer     trace.Tracer // for the spans of rejections; nil: none
	rejections rejectionCounts
}

// A Bridge is not a SettledObserver, because then every call would read the clock (O1).
var _ interceptor.ProbeObserver = (*Bridge)(nil)

// New returns a Bridge. Without options it writes span events.
func New(opts ...Option) *Bridge {
	o := collect(opts)
	b := &Bridge{sink: spanSink{}}
	if o.logs {
		b.sink = logSink{o.loggers.Logger(ScopeName, log.WithSchemaURL(schemaURL))}
	}
	if o.rejectedSpans {
		b.tracer = o.tracers.Tracer(ScopeName, trace.WithSchemaURL(schemaURL))
	}
	return b
}

var (
	kindOpened      = eventKind{eventStateChange, log.SeverityWarn}
	kindStateChange = eventKind{eventStateChange, log.SeverityInfo}
	kindRejected    = eventKind{eventRejected, log.SeverityInfo}
	kindProbe       = eventKind{eventProbe, log.SeverityInfo}
)

// Transition implements interceptor.Observer. It reports a change of state. Their number on a span is not limited.
func (b *Bridge) Transition(ctx context.Context, e breaker.Event) {
	k := kindStateChange
	if e.To == breaker.Open {
		k = kindOpened
	}
	if b.sink.enabled(ctx, k) {
		b.sink.emit(ctx, event{eventKind: k, at: e.At, attrs: transitionAttrs(e)})
	}
}

// Rejected implements interceptor.Observer. It reports a rejected call and counts it on the span. A span gets no event
// for rejections after the first 8.
func (b *Bridge) Rejected(ctx context.Context, e *interceptor.RejectedError) {
	if b.tracer != nil {
		b.rejectedSpan(ctx, e)
	}
	if !b.sink.enabled(ctx, kindRejected) {
		return
	}
	if b.rejections.add(trace.SpanFromContext(ctx)) <= maxRejectedEvents {
		b.sink.emit(ctx, event{eventKind: kindRejected, attrs: rejectedAttrs(e)})
	}
}

// rejectedSpan makes a span for a rejected call.
func (b *Bridge) rejectedSpan(ctx context.Context, e *interceptor.RejectedError) {
	_, span := b.tracer.Start(ctx, eventRejected) // internal is the default kind of a span
	defer span.End()
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(append(rejectedAttrs(e), attrErrorType.String(interceptor.ErrorReason))...)
	span.SetStatus(codes.Error, "circuit breaker rejected the call: "+e.Reason.String())
}

// Probed implements interceptor.ProbeObserver. It reports the outcome of a probe.
func (b *Bridge) Probed(ctx context.Context, s interceptor.Settlement) {
	if b.sink.enabled(ctx, kindProbe) {
		b.sink.emit(ctx, event{eventKind: kindProbe, attrs: probeAttrs(s)})
	}
}

// FellBack implements interceptor.Observer. It does nothing: see the package documentation.
func (*Bridge) FellBack(context.Context, interceptor.FallbackInfo) {}

// The functions below use codes and keys only (O6). They omit Event.Why, which may hold the words of a person, and the
// causes of errors, which may hold anything.

func transitionAttrs(e breaker.Event) []attribute.KeyValue {
	attrs := append(make([]attribute.KeyValue, 0, 8),
		attrName.String(labels.Value(e.Key.String())),
		attrState.String(e.To.String()), attrPreviousState.String(e.From.String()))
	if e.Rule != 0 {
		attrs = append(attrs, attrRule.String(e.Rule.String()))
	}
	// Only the value that the rule compares (O9). Any other value would be taken for the reason.
	switch e.Rule {
	case breaker.RuleConsecutive:
		attrs = append(attrs, attrConsecutiveFailures.Int64(toInt64(e.Counts.ConsecutiveFailures)))
	case breaker.RuleRatio:
		attrs = append(attrs, attrFailureRatio.Float64(e.Counts.FailureRatio()))
	case breaker.RuleSlow:
		attrs = append(attrs, attrSlowRatio.Float64(e.Counts.SlowRatio()))
	case breaker.RuleCustom, breaker.RuleProbe, breaker.RuleManual: // they compare none of these values
	}
	if e.Override != 0 {
		attrs = append(attrs, attrOverride.String(e.Override.String()))
	}
	if e.To == breaker.Open {
		attrs = append(attrs, attrOpenMS.Int64(ceilMillis(e.OpenFor)))
	}
	return withMethod(attrs, e.Key)
}

func rejectedAttrs(e *interceptor.RejectedError) []attribute.KeyValue {
	attrs := append(make([]attribute.KeyValue, 0, 6), // with room for error.type
		attrName.String(labels.Value(e.Key.String())),
		attrState.String(e.State.String()), attrReason.String(e.Reason.String()))
	if !e.Until.IsZero() {
		attrs = append(attrs, attrRetryAfterMS.Int64(ceilMillis(e.RetryAfter())))
	}
	return withMethod(attrs, e.Key)
}

func probeAttrs(s interceptor.Settlement) []attribute.KeyValue {
	attrs := append(make([]attribute.KeyValue, 0, 5),
		attrName.String(labels.Value(s.Key.String())),
		attrState.String(breaker.HalfOpen.String()), attrOutcome.String(s.Outcome.String()))
	if s.Code != 0 { // the first message of a stream is a success without a status
		attrs = append(attrs, attrRPCStatusCode.String(rpcStatusCode(uint32(s.Code))))
	}
	return withMethod(attrs, s.Key)
}

func withMethod(attrs []attribute.KeyValue, key breaker.Key) []attribute.KeyValue {
	if m := rpcMethod(key); m != "" {
		attrs = append(attrs, attrRPCMethod.String(m))
	}
	return attrs
}

func rpcStatusCode(c uint32) string {
	if c < uint32(len(rpcStatusCodes)) {
		return rpcStatusCodes[c]
	}
	return "CODE(" + strconv.FormatUint(uint64(c), 10) + ")" // the same form as in grpc's plugin
}

// ceilMillis returns d in milliseconds. It rounds up, so that waiting for the result is long enough.
func ceilMillis(d time.Duration) int64 {
	ms := d.Milliseconds()
	if d > time.Duration(ms)*time.Millisecond {
		ms++
	}
	return ms
}
