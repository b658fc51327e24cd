package otelbridge

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/trace"
)

// event is what a Bridge has to say, whoever carries it.
type event struct {
	kind
	at    time.Time // zero: now
	attrs []attribute.KeyValue
}

// kind is what is known of an event before it is built.
type kind struct {
	name     string
	severity log.Severity
}

// backend carries events. It is the seam between what is told and how: spans and logs take the same events, so moving
// from one to the other is a matter of one option.
type backend interface {
	// wants says whether an event of this kind would be kept. No event is built unless it says so (O1).
	wants(ctx context.Context, k kind) bool
	emit(ctx context.Context, e event)
}

// spanEvents writes to the span in the call's context.
type spanEvents struct{}

func (spanEvents) wants(ctx context.Context, _ kind) bool {
	return trace.SpanFromContext(ctx).IsRecording()
}

func (spanEvents) emit(ctx context.Context, e event) {
	opts := make([]trace.EventOption, 0, 2)
	opts = append(opts, trace.WithAttributes(e.attrs...))
	if !e.at.IsZero() {
		opts = append(opts, trace.WithTimestamp(e.at))
	}
	trace.SpanFromContext(ctx).AddEvent(e.name, opts...)
}

// logEvents writes log records. The logger takes trace and span from the context.
type logEvents struct{ logger log.Logger }

func (l logEvents) wants(ctx context.Context, k kind) bool {
	return l.logger.Enabled(ctx, log.EnabledParameters{Severity: k.severity, EventName: k.name})
}

func (l logEvents) emit(ctx context.Context, e event) {
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
