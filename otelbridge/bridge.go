package otelbridge

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/trace"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
	"github.com/grpcircuit/grpcircuit/internal/labels"
	"github.com/grpcircuit/grpcircuit/internal/rpccode"
)

// bridge reports transitions, rejections and probes to OpenTelemetry, as the events in the package documentation.
type bridge struct {
	sink       eventSink
	tracer     trace.Tracer // for the spans of rejections; nil: none
	rejections rejectionCounts
}

// New returns hooks for interceptor.WithHooks that report transitions, rejections and probes, as the events in the
// package documentation. Without options they write span events.
//
// Use the same hooks for all guards of a program. They are safe for concurrent use. They cost a call nothing if a
// closed breaker admits it. Otherwise they cost some tens of nanoseconds and allocate nothing, unless a recording span
// or an enabled logger takes the event. They own no goroutine and no timer, and keep no span and no context.
//
// A nil option panics.
func New(opts ...Option) *interceptor.Hooks {
	o, err := collect(opts)
	if err != nil {
		panic("otelbridge: New: " + err.Error())
	}
	b := &bridge{sink: spanSink{}}
	if o.logs {
		b.sink = logSink{o.loggers.Logger(ScopeName, log.WithSchemaURL(schemaURL))}
	}
	if o.rejectedSpans {
		b.tracer = o.tracers.Tracer(ScopeName, trace.WithSchemaURL(schemaURL))
	}
	// There is no Settled, because each call would read the clock (O1). There is no FellBack, because the rejection or
	// failure before it is already recorded (see the package documentation).
	return &interceptor.Hooks{Transition: b.transition, Rejected: b.rejected, Probed: b.probed}
}

var (
	kindOpened      = eventKind{eventStateChange, log.SeverityWarn} // and so calls are rejected
	kindStateChange = eventKind{eventStateChange, log.SeverityInfo}
	kindRejected    = eventKind{eventRejected, log.SeverityInfo}
	kindProbe       = eventKind{eventProbe, log.SeverityInfo}
)

// transition reports a change of the state or of the override. The number of these events on a span is not limited.
func (b *bridge) transition(ctx context.Context, e breaker.Event) {
	k := kindStateChange
	if rejects(e) {
		k = kindOpened
	}
	if b.sink.enabled(ctx, k) {
		b.sink.emit(ctx, event{eventKind: k, at: e.At, attrs: transitionAttrs(e)})
	}
}

// rejects reports whether calls are rejected because of e. While a mode is in force (an override or
// Config.Enforcement), the state decides no call, so opening is no reason to warn. Clearing an override is one if the
// breaker below it is not closed.
func rejects(e breaker.Event) bool {
	switch {
	case e.Override.Mode != 0:
		return e.OverrideChanged && e.Override.Mode == breaker.ForceOpen
	case e.OverrideChanged:
		return e.To != breaker.Closed
	}
	return e.To == breaker.Open
}

// rejected reports a rejected call and counts it on the span. A span gets no event for rejections after the first 8.
func (b *bridge) rejected(ctx context.Context, e *interceptor.RejectedError) {
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
func (b *bridge) rejectedSpan(ctx context.Context, e *interceptor.RejectedError) {
	_, span := b.tracer.Start(ctx, eventRejected) // internal is the default kind of a span
	defer span.End()
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(append(rejectedAttrs(e), attrErrorType.String(interceptor.ErrorReason))...)
	span.SetStatus(codes.Error, "circuit breaker rejected the call: "+e.Reason.String())
}

// probed reports the outcome of a probe.
func (b *bridge) probed(ctx context.Context, s interceptor.Settlement) {
	if b.sink.enabled(ctx, kindProbe) {
		b.sink.emit(ctx, event{eventKind: kindProbe, attrs: probeAttrs(s)})
	}
}

// The functions below use codes and keys, and the words of the person who set an override (O6). They omit Event.Why,
// which may hold the argument of Trip, and the texts of errors, which may hold anything. Report.Cause is a short
// constant by contract.

func transitionAttrs(e breaker.Event) []attribute.KeyValue {
	attrs := append(make([]attribute.KeyValue, 0, 12),
		attrName.String(labels.Value(e.Key.String())),
		attrState.String(e.To.String()), attrPreviousState.String(e.From.String()))
	attrs = withOpening(attrs, e.Rule, e.Cause, e.Counts)
	attrs = withOverride(attrs, e.Override)
	switch {
	case e.OverrideChanged:
		attrs = append(attrs, attrOverrideChanged.Bool(true))
	case e.To == breaker.Open:
		attrs = append(attrs, attrOpenMS.Int64(ceilMillis(e.OpenFor)))
	}
	return withMethod(attrs, e.Key)
}

func rejectedAttrs(e *interceptor.RejectedError) []attribute.KeyValue {
	attrs := append(make([]attribute.KeyValue, 0, 12), // with room for error.type
		attrName.String(labels.Value(e.Key.String())),
		attrState.String(e.State.String()), attrReason.String(e.Reason.String()))
	attrs = withOpening(attrs, e.Opened.Rule, e.Opened.Cause, e.Opened.Counts)
	attrs = withOverride(attrs, e.Override)
	if !e.Until.IsZero() {
		attrs = append(attrs, attrRetryAfterMS.Int64(ceilMillis(e.RetryAfter())))
	}
	return withMethod(attrs, e.Key)
}

// withOpening adds what opened the breaker: the rule, the cause, and the counts that the rule compares (O9). Other
// counts are left out, because a reader would take them for the reason.
func withOpening(attrs []attribute.KeyValue, rule breaker.Rule, cause string, c breaker.Counts) []attribute.KeyValue {
	if rule != 0 {
		attrs = append(attrs, attrRule.String(rule.String()))
	}
	if cause != "" {
		attrs = append(attrs, attrCause.String(labels.Value(cause)))
	}
	switch rule {
	case breaker.RuleConsecutive:
		attrs = append(attrs, attrConsecutiveFailures.Int64(toInt64(c.ConsecutiveFailures)))
	case breaker.RuleRatio:
		attrs = append(attrs, attrFailureRatio.Float64(c.FailureRatio()), attrCalls.Int64(toInt64(c.Calls())))
	case breaker.RuleSlow:
		attrs = append(attrs, attrSlowRatio.Float64(c.SlowRatio()),
			attrCalls.Int64(toInt64(c.Calls())+toInt64(c.SlowCanceled)))
	case breaker.RuleCustom, breaker.RuleProbe, breaker.RuleManual: // they compare none of these
	}
	return attrs
}

// withOverride adds who set the override in force, and why. A person wrote these texts, or package breaker if the mode
// comes from Config.Enforcement.
func withOverride(attrs []attribute.KeyValue, o breaker.Override) []attribute.KeyValue {
	if o.Mode == 0 {
		return attrs
	}
	return append(attrs, attrOverride.String(o.Mode.String()),
		attrOverrideBy.String(labels.Value(o.By)), attrOverrideReason.String(labels.Value(o.Why)))
}

func probeAttrs(s interceptor.Settlement) []attribute.KeyValue {
	attrs := append(make([]attribute.KeyValue, 0, 5),
		attrName.String(labels.Value(s.Key.String())),
		attrState.String(breaker.HalfOpen.String()), attrOutcome.String(s.Outcome.String()))
	if s.Code != 0 { // the first message of a stream is a success without a status
		attrs = append(attrs, attrRPCStatusCode.String(rpccode.Name(uint32(s.Code))))
	}
	return withMethod(attrs, s.Key)
}

func withMethod(attrs []attribute.KeyValue, key breaker.Key) []attribute.KeyValue {
	if m := rpcMethod(key); m != "" {
		attrs = append(attrs, attrRPCMethod.String(m))
	}
	return attrs
}

// ceilMillis returns d in milliseconds. It rounds up, so that waiting for the result is long enough.
func ceilMillis(d time.Duration) int64 {
	ms := d.Milliseconds()
	if d > time.Duration(ms)*time.Millisecond {
		ms++
	}
	return ms
}
