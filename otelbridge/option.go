package otelbridge

import (
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// Option sets up a Bridge or the metrics. Options come from the With functions of this package. New and
// RegisterMetrics take the same ones, so that a program can hand one list to both; each ignores those that are not
// for it, and a nil Option.
type Option interface{ apply(*options) }

type optionFunc func(*options)

func (f optionFunc) apply(o *options) { f(o) }

// options has a nil provider where the global one is meant.
type options struct {
	tracers       trace.TracerProvider
	meters        metric.MeterProvider
	loggers       log.LoggerProvider
	logs          bool // events go to loggers
	rejectedSpans bool
	delta         bool // of the readers of the metrics
}

func collect(opts []Option) options {
	var o options
	for _, opt := range opts {
		if opt != nil {
			opt.apply(&o)
		}
	}
	if o.tracers == nil {
		o.tracers = otel.GetTracerProvider()
	}
	if o.meters == nil {
		o.meters = otel.GetMeterProvider()
	}
	if o.loggers == nil {
		o.loggers = otel.GetLoggerProvider()
	}
	return o
}

// WithTracerProvider sets who makes the spans of WithRejectedSpans. Span events need no provider: they go on spans
// that are there. It is for New. Default, and what nil stands for: the global provider, also if it is set later.
func WithTracerProvider(p trace.TracerProvider) Option {
	return optionFunc(func(o *options) { o.tracers = p })
}

// WithMeterProvider sets who makes the instruments. It is for RegisterMetrics. Default, and what nil stands for: the
// global provider, also if it is set later.
func WithMeterProvider(p metric.MeterProvider) Option {
	return optionFunc(func(o *options) { o.meters = p })
}

// WithDeltaTemporality says that the readers of the meter provider ask for delta temporality of counters. A key that
// was left out of a collection, because its breaker was idle or gone, then starts again from zero, so that nothing is
// counted twice. Without it counters are totals, as readers with cumulative temporality need them. All readers of the
// provider must have the same temporality. It is for RegisterMetrics. Default: cumulative.
func WithDeltaTemporality() Option {
	return optionFunc(func(o *options) { o.delta = true })
}

// WithLoggerProvider sends events as log records to p, and none to spans: the same names and attributes, as the event
// name and the attributes of a record, with the trace and the span of the call's context. A transition to open has
// severity WARN, everything else INFO, and nothing is built for what the logger says it does not want.
//
// A span gets no more records of rejections than it would get events (see the package comment), be it sampled or not;
// without a span every rejection is a record. It is for New. A nil p is the global provider, also if it is set later.
// Default: span events.
func WithLoggerProvider(p log.LoggerProvider) Option {
	return optionFunc(func(o *options) { o.loggers, o.logs = p, true })
}

// WithRejectedSpans makes a span for every rejected call, which has none otherwise unless grpc's own plugin stands
// before the guard: a child of the span in the call's context, internal, of no length, with an error status, the
// attributes of circuit_breaker.rejected and error.type CIRCUIT_OPEN. Its name is circuit_breaker.rejected, as it is
// no RPC. The event on the caller's span remains. There is no bound but that of the sampler. It is for New. Default:
// off.
func WithRejectedSpans() Option {
	return optionFunc(func(o *options) { o.rejectedSpans = true })
}
