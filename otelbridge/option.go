package otelbridge

import (
	"fmt"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// An Option configures New or RegisterMetrics. The With functions of this package return Options. New and
// RegisterMetrics accept the same Options, so a program can pass one list to both. Each ignores the Options of the
// other. A nil Option is an error of RegisterMetrics; New panics.
type Option interface{ apply(*options) }

type optionFunc func(*options)

func (f optionFunc) apply(o *options) { f(o) }

// options holds the settings of all Options. A nil provider means the global one.
type options struct {
	tracers       trace.TracerProvider
	meters        metric.MeterProvider
	loggers       log.LoggerProvider
	logs          bool // events are log records
	rejectedSpans bool
	delta         bool // the readers of the metrics have delta temporality
	allSeries     bool
	withReloads   bool                                                     // reloads was given
	reloads       func() (succeeded, failed uint64, lastSuccess time.Time) // nil: no metrics of reloads, or an error
}

// collect applies opts and fills in the global providers.
func collect(opts []Option) (options, error) {
	var o options
	for i, opt := range opts {
		if f, ok := opt.(optionFunc); opt == nil || (ok && f == nil) {
			return o, fmt.Errorf("option %d is nil", i)
		}
		opt.apply(&o)
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
	return o, nil
}

// WithTracerProvider sets the provider of the spans of WithRejectedSpans. Span events need no provider, because they
// are added to existing spans. It applies to New. A nil p means the default. Default: the global provider, even if it
// is set later.
func WithTracerProvider(p trace.TracerProvider) Option {
	return optionFunc(func(o *options) { o.tracers = p })
}

// WithMeterProvider sets the provider of the instruments. It applies to RegisterMetrics. A nil p means the default.
// Default: the global provider, even if it is set later.
func WithMeterProvider(p metric.MeterProvider) Option {
	return optionFunc(func(o *options) { o.meters = p })
}

// WithDeltaTemporality declares that the readers of the meter provider use delta temporality for counters. A key that
// was missing from a collection, because its breaker was idle or gone, then starts again at zero, so that nothing is
// counted twice. Without this option counters are totals, which readers with cumulative temporality need. It applies to
// RegisterMetrics. Default: cumulative.
//
// All readers of the provider must have the same temporality. With this option the provider must have one reader. The
// bridge cannot distinguish readers: if a key is missing from a collection of one reader only, the next delta of
// another one may be negative.
func WithDeltaTemporality() Option {
	return optionFunc(func(o *options) { o.delta = true })
}

// WithAllSeries also exports the series that have a * in the package documentation. Without it, these series are left
// out while the policy in force cannot raise them above 0, or until they are above 0. It applies to RegisterMetrics.
// Default: off.
func WithAllSeries() Option {
	return optionFunc(func(o *options) { o.allSeries = true })
}

// WithPolicyReloads adds the metrics of a policy file: policy_reloads and policy_last_success_timestamp. stats returns
// three values: how many times a changed file was applied, how many times it had an error or could not be read, and
// when it was last applied (the zero time means never). The counts must not fall. stats is called once for each
// collection, by several goroutines at once if there are several readers. Use the method Reloads of the watcher of
// package breaker/policyfile, or the figures of anything else that applies policies. If stats panics, the collection
// has none of these metrics, and otel.Handle gets an error.
//
// A nil stats is an error of RegisterMetrics. If the option is given more than once, the last one counts. It applies to
// RegisterMetrics. Default: none.
func WithPolicyReloads(stats func() (succeeded, failed uint64, lastSuccess time.Time)) Option {
	return optionFunc(func(o *options) { o.reloads, o.withReloads = stats, true })
}

// WithLoggerProvider sends events as log records to p instead of to spans. A record has the name and the attributes
// of the event, and the trace ID and the span ID of the call's context. A transition to open has severity WARN,
// unless an override or Config.Enforcement decides the calls. Setting the override ForceOpen has WARN too, and so has
// clearing an override of a breaker that is not closed. All other events have INFO. A record that the logger does not
// enable is not built.
//
// The number of records of rejections for one span is limited like the number of events (see the package
// documentation), whether or not the span is sampled. Without a span, every rejection is a record. It applies to New. A
// nil p is the global provider, even if that is set later. Default: span events.
func WithLoggerProvider(p log.LoggerProvider) Option {
	return optionFunc(func(o *options) { o.loggers, o.logs = p, true })
}

// WithRejectedSpans makes a span for every rejected call. Without it, a rejected call has a span only if grpc's plugin
// is before the guard. The span is a child of the span in the call's context, has kind internal and ends immediately.
// Its name is circuit_breaker.rejected, because it is not an RPC. It has an error status, the attributes of
// circuit_breaker.rejected, and error.type CIRCUIT_OPEN. The event on the caller's span remains. Only the sampler
// limits the number of spans. It applies to New. Default: off.
func WithRejectedSpans() Option {
	return optionFunc(func(o *options) { o.rejectedSpans = true })
}
