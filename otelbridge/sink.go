package otelbridge

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/trace"
)

// event is one occurrence that is reported. It is the same for all sinks.
type event struct {
	eventKind
	at    time.Time // zero: now
	attrs []attribute.KeyValue
}

// eventKind is what is known about an event before it is built.
type eventKind struct {
	name     string
	severity log.Severity
}

// eventSink writes events to spans or to logs. Both sinks take the same events, so one option switches between them.
type eventSink interface {
	// enabled reports whether an event of this kind would be recorded. No event is built otherwise (O1).
	enabled(ctx context.Context, k eventKind) bool
	emit(ctx context.Context, e event)
}

// spanSink writes to the span in the call's context.
type spanSink struct{}

func (spanSink) enabled(ctx context.Context, _ eventKind) bool {
	return trace.SpanFromContext(ctx).IsRecording()
}

func (spanSink) emit(ctx context.Context, e event) {
	opts := make([]trace.EventOption, 0, 2)
	opts = append(opts, trace.WithAttributes(e.attrs...))
	if !e.at.IsZero() {
		opts = append(opts, trace.WithTimestamp(e.at))
	}
	trace.SpanFromContext(ctx).AddEvent(e.name, opts...)
}

// logSink writes log records. The logger takes the trace and the span from the context.
type logSink struct{ logger log.Logger }

func (l logSink) enabled(ctx context.Context, k eventKind) bool {
	return l.logger.Enabled(ctx, log.EnabledParameters{Severity: k.severity, EventName: k.name})
}

func (l logSink) emit(ctx context.Context, e event) {
	if e.at.IsZero() {
		e.at = time.Now()
	}
	var r log.Record
	r.SetEventName(e.name)
	r.SetTimestamp(e.at)
	r.SetSeverity(e.severity)
	r.AddAttributes(e.attrs...)
	l.logger.Emit(ctx, r)
}
