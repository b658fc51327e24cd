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
)

// Bridge tells OpenTelemetry of transitions, rejections and probes, as the events that the package comment lists. It
// is an interceptor.Observer, for interceptor.WithObserver; it asks to hear of probes, and not of other calls, so one
// that is let through by a closed breaker costs nothing. Without a span that records, or a logger that wants the
// event, the rest costs some tens of nanoseconds and allocates nothing.
//
// A Bridge is safe for concurrent use, serves any number of guards, and should serve all of a program. It owns no
// goroutine and no timer, and keeps no span and no context. It must come from New; the zero Bridge is not usable.
type Bridge struct {
	backend backend
	tracer  trace.Tracer // of the spans of rejections; nil: none
	tally   tally
}

// Not a SettledObserver, which would make every call read the clock (O1).
var _ interceptor.ProbeObserver = (*Bridge)(nil)

// New returns a Bridge. Without options it writes span events.
func New(opts ...Option) *Bridge {
	o := collect(opts)
	b := &Bridge{backend: spanEvents{}}
	if o.logs {
		b.backend = logEvents{o.loggers.Logger(ScopeName, log.WithSchemaURL(schemaURL))}
	}
	if o.rejectedSpans {
		b.tracer = o.tracers.Tracer(ScopeName, trace.WithSchemaURL(schemaURL))
	}
	return b
}

var (
	opened   = kind{eventStateChange, log.SeverityWarn}
	changed  = kind{eventStateChange, log.SeverityInfo}
	rejected = kind{eventRejected, log.SeverityInfo}
	probed   = kind{eventProbe, log.SeverityInfo}
)

// Transition tells of a change of state, however many a span has seen.
func (b *Bridge) Transition(ctx context.Context, e breaker.Event) {
	k := changed
	if e.To == breaker.Open {
		k = opened
	}
	if b.backend.wants(ctx, k) {
		b.backend.emit(ctx, event{kind: k, at: e.At, attrs: transitionAttrs(e)})
	}
}

// Rejected tells of a call that was not let through, unless its span has been told of 8 already, and counts it on the
// span.
func (b *Bridge) Rejected(ctx context.Context, e *interceptor.RejectedError) {
	if b.tracer != nil {
		b.rejectedSpan(ctx, e)
	}
	if !b.backend.wants(ctx, rejected) {
		return
	}
	if b.tally.add(trace.SpanFromContext(ctx)) <= maxRejectedEvents {
		b.backend.emit(ctx, event{kind: rejected, attrs: rejectedAttrs(e)})
	}
}

func (b *Bridge) rejectedSpan(ctx context.Context, e *interceptor.RejectedError) {
	_, span := b.tracer.Start(ctx, eventRejected) // internal, as it is when nobody says otherwise
	defer span.End()
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(append(rejectedAttrs(e), attrErrorType.String(interceptor.ErrorReason))...)
	span.SetStatus(codes.Error, "circuit breaker rejected the call: "+e.Reason.String())
}

// Probed tells how a probe went.
func (b *Bridge) Probed(ctx context.Context, s interceptor.Settlement) {
	if b.backend.wants(ctx, probed) {
		b.backend.emit(ctx, event{kind: probed, attrs: probeAttrs(s)})
	}
}

// FellBack tells nothing: see the package comment.
func (*Bridge) FellBack(context.Context, interceptor.FallbackInfo) {}

// O6: what these leave out is as much on purpose as what they have. Event.Why may hold the words of a person, and the
// cause of an error may hold anything.

func transitionAttrs(e breaker.Event) []attribute.KeyValue {
	attrs := append(make([]attribute.KeyValue, 0, 8),
		attrName.String(text(e.Key.String())), attrState.String(e.To.String()), attrPreviousState.String(e.From.String()))
	if e.Rule != 0 {
		attrs = append(attrs, attrRule.String(e.Rule.String()))
	}
	// The figure that the rule looks at, and no other: it would look like the reason.
	switch e.Rule {
	case breaker.RuleConsecutive:
		attrs = append(attrs, attrConsecutiveFailures.Int64(figure(e.Counts.ConsecutiveFailures)))
	case breaker.RuleRatio:
		attrs = append(attrs, attrFailureRatio.Float64(e.Counts.FailureRatio()))
	case breaker.RuleSlow:
		attrs = append(attrs, attrSlowRatio.Float64(e.Counts.SlowRatio()))
	case breaker.RuleCustom, breaker.RuleProbe, breaker.RuleManual: // they look at something else
	}
	if e.Override != 0 {
		attrs = append(attrs, attrOverride.String(e.Override.String()))
	}
	if e.To == breaker.Open {
		attrs = append(attrs, attrOpenMS.Int64(millis(e.OpenFor)))
	}
	return withMethod(attrs, e.Key)
}

func rejectedAttrs(e *interceptor.RejectedError) []attribute.KeyValue {
	attrs := append(make([]attribute.KeyValue, 0, 6), // one for error.type
		attrName.String(text(e.Key.String())), attrState.String(e.State.String()), attrReason.String(e.Reason.String()))
	if !e.Until.IsZero() {
		attrs = append(attrs, attrRetryAfterMS.Int64(millis(e.RetryAfter())))
	}
	return withMethod(attrs, e.Key)
}

func probeAttrs(s interceptor.Settlement) []attribute.KeyValue {
	attrs := append(make([]attribute.KeyValue, 0, 5),
		attrName.String(text(s.Key.String())), attrState.String(breaker.HalfOpen.String()), attrOutcome.String(s.Outcome.String()))
	if s.Code != 0 { // a stream's first message is a success without a status
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
	return "CODE(" + strconv.FormatUint(uint64(c), 10) + ")" // as grpc's own plugin has it
}

// millis rounds up, so that who waits that long has waited long enough.
func millis(d time.Duration) int64 {
	ms := d.Milliseconds()
	if d > time.Duration(ms)*time.Millisecond {
		ms++
	}
	return ms
}
