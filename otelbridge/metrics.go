package otelbridge

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// RegisterMetrics makes the figures of g's breakers observable, under the names in the package comment. They are read
// when a reader of the meter provider collects, one Snapshot for each breaker, so that the figures of one breaker
// agree with each other and with Snapshot. Between collections it costs nothing.
//
// Register a group once. Attributes do not tell groups apart: with two groups, or one group twice, on the same
// provider, counters of the same key add up, and of gauges one wins.
//
// Unregister of the Registration ends it. A nil g is an error, and so is what the meter says of an instrument; then
// nothing is registered.
func RegisterMetrics(g *breaker.Group, opts ...Option) (metric.Registration, error) {
	if g == nil {
		return nil, errors.New("otelbridge: RegisterMetrics: the group is nil")
	}
	meter := collect(opts).meters.Meter(ScopeName)
	in, err := newInstruments(meter)
	if err != nil {
		return nil, fmt.Errorf("otelbridge: RegisterMetrics: %w", err)
	}
	r, err := meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		return in.observe(ctx, o, g)
	}, in.all...)
	if err != nil {
		return nil, fmt.Errorf("otelbridge: RegisterMetrics: %w", err)
	}
	return r, nil
}

// instruments are immutable: a callback must be safe for concurrent use.
type instruments struct {
	all []metric.Observable

	state, override, inFlight, breakers                         metric.Int64ObservableUpDownCounter
	calls, slowCalls, lateResults, rejections, shadowRejections metric.Int64ObservableCounter
	trips, recoveries, probes, fallbacks                        metric.Int64ObservableCounter
	evictions, overflow, unguarded                              metric.Int64ObservableCounter
	notClosed                                                   metric.Float64ObservableCounter
	stateEntered, failureRatio, slowRatio                       metric.Float64ObservableGauge
}

func newInstruments(m metric.Meter) (*instruments, error) {
	in := new(instruments)
	var errs []error
	counter := func(name, unit, description string) metric.Int64ObservableCounter {
		i, err := m.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
		in.all, errs = append(in.all, i), append(errs, err)
		return i
	}
	level := func(name, unit, description string) metric.Int64ObservableUpDownCounter {
		i, err := m.Int64ObservableUpDownCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
		in.all, errs = append(in.all, i), append(errs, err)
		return i
	}
	gauge := func(name, unit, description string) metric.Float64ObservableGauge {
		i, err := m.Float64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(description))
		in.all, errs = append(in.all, i), append(errs, err)
		return i
	}
	seconds := func(name, description string) metric.Float64ObservableCounter {
		i, err := m.Float64ObservableCounter(name, metric.WithUnit(unitSeconds), metric.WithDescription(description))
		in.all, errs = append(in.all, i), append(errs, err)
		return i
	}

	in.state = level(metricState, unitBreaker, "State of the circuit breaker: 1 for the one it is in, 0 for the others.")
	in.override = level(metricOverride, unitBreaker, "Override of the circuit breaker: 1 for the one in force, 0 for the others.")
	in.calls = counter(metricCalls, unitCall, "Calls that were let through, by outcome.")
	in.slowCalls = counter(metricSlowCalls, unitCall, "Calls that took longer than the policy allows.")
	in.lateResults = counter(metricLateResults, unitResult, "Results of calls that were let through in an earlier stay in a state, and of probes after their lease.")
	in.rejections = counter(metricRejections, unitCall, "Calls that were not let through, by reason.")
	in.shadowRejections = counter(metricShadowRejections, unitCall, "Calls that would not have been let through but for shadow mode, by reason.")
	in.trips = counter(metricTrips, unitTrip, "Times that the circuit breaker opened, by rule.")
	in.recoveries = counter(metricRecoveries, unitRecovery, "Times that the circuit breaker closed after having been open.")
	in.probes = counter(metricProbes, unitProbe, "Probes of the half-open circuit breaker, by result.")
	in.notClosed = seconds(metricOpen, "Time that the circuit breaker was not closed.")
	in.stateEntered = gauge(metricStateEntered, unitSeconds, "Unix time of the last transition.")
	in.failureRatio = gauge(metricFailureRatio, unitRatio, "Failed calls among those in the window; absent where there are too few, or no rule looks at them.")
	in.slowRatio = gauge(metricSlowRatio, unitRatio, "Slow calls among those in the window; absent where there are too few, or no rule looks at them.")
	in.inFlight = level(metricInFlight, unitCall, "Calls that were let through and have not ended.")
	in.fallbacks = counter(metricFallbacks, unitCall, "Calls that a fallback was to answer, by result.")
	in.breakers = level(metricBreakers, unitBreaker, "Circuit breakers in the group.")
	in.evictions = counter(metricEvictions, unitBreaker, "Circuit breakers that made room for another key.")
	in.overflow = counter(metricOverflow, unitCall, "Calls that got the overflow breaker for want of room.")
	in.unguarded = counter(metricUnguarded, unitCall, "Calls that went unguarded because a key function panicked.")
	return in, errors.Join(errs...)
}

func (in *instruments) observe(ctx context.Context, o metric.Observer, g *breaker.Group) error {
	stats := g.Stats()
	o.ObserveInt64(in.breakers, int64(stats.Breakers))
	o.ObserveInt64(in.evictions, figure(stats.Evictions))
	o.ObserveInt64(in.overflow, figure(stats.Overflow))
	o.ObserveInt64(in.unguarded, figure(stats.Unguarded))
	return in.observeAll(ctx, o, g.All(), stats.Breakers)
}

// observeAll observes some n breakers. One that is evicted and made anew meanwhile may come up as two with one key, and
// what is observed twice adds up.
func (in *instruments) observeAll(ctx context.Context, o metric.Observer, all iter.Seq2[breaker.Key, *breaker.Breaker], n int) error {
	seen := make(map[breaker.Key]struct{}, n)
	for key, b := range all {
		if err := ctx.Err(); err != nil {
			return err // the reader's time is up; it has what there is
		}
		if _, again := seen[key]; again {
			continue
		}
		seen[key] = struct{}{}
		in.observeBreaker(o, b.Snapshot())
	}
	return nil
}

var (
	states = [...]breaker.State{breaker.Closed, breaker.HalfOpen, breaker.Open}
	modes  = [...]breaker.Mode{breaker.ForceOpen, breaker.ForceClosed, breaker.Shadow}
)

func (in *instruments) observeBreaker(o metric.Observer, s breaker.Snapshot) {
	l := labels(s.Key)
	for _, state := range states {
		o.ObserveInt64(in.state, one(s.State == state), with(l, labelState, state.String()))
	}
	for _, mode := range modes {
		o.ObserveInt64(in.override, one(s.Override.Mode == mode), with(l, labelMode, mode.String()))
	}
	for _, f := range [...]struct {
		outcome breaker.Outcome
		n       uint64
	}{
		{breaker.Success, s.Successes},
		{breaker.Failure, s.Failures},
		{breaker.Overload, s.Overloads},
		{breaker.Ignored, s.Ignored},
	} {
		o.ObserveInt64(in.calls, figure(f.n), with(l, labelOutcome, f.outcome.String()))
	}
	for _, f := range [...]struct {
		reason      breaker.Reason
		n, inShadow uint64
	}{
		{breaker.ReasonOpen, s.Rejections.Open, s.ShadowRejections.Open},
		{breaker.ReasonHalfOpen, s.Rejections.HalfOpen, s.ShadowRejections.HalfOpen},
		{breaker.ReasonRamp, s.Rejections.Ramp, s.ShadowRejections.Ramp},
		{breaker.ReasonForced, s.Rejections.Forced, s.ShadowRejections.Forced},
		{breaker.ReasonConcurrency, s.Rejections.Concurrency, s.ShadowRejections.Concurrency},
	} {
		attrs := with(l, labelReason, f.reason.String())
		o.ObserveInt64(in.rejections, figure(f.n), attrs)
		o.ObserveInt64(in.shadowRejections, figure(f.inShadow), attrs)
	}
	for _, f := range [...]struct {
		rule breaker.Rule
		n    uint64
	}{
		{breaker.RuleConsecutive, s.Trips.Consecutive},
		{breaker.RuleRatio, s.Trips.Ratio},
		{breaker.RuleSlow, s.Trips.Slow},
		{breaker.RuleCustom, s.Trips.Custom},
		{breaker.RuleProbe, s.Trips.Probe},
		{breaker.RuleManual, s.Trips.Manual},
	} {
		o.ObserveInt64(in.trips, figure(f.n), with(l, labelRule, f.rule.String()))
	}
	for _, f := range [...]struct {
		result string
		n      uint64
	}{
		{breaker.Success.String(), s.Probes.Success},
		{breaker.Failure.String(), s.Probes.Failure},
		{breaker.Ignored.String(), s.Probes.Ignored},
		{resultLost, s.Probes.Lost},
	} {
		o.ObserveInt64(in.probes, figure(f.n), with(l, labelResult, f.result))
	}
	o.ObserveInt64(in.fallbacks, figure(s.Fallbacks.Served), with(l, labelResult, resultServed))
	o.ObserveInt64(in.fallbacks, figure(s.Fallbacks.Failed), with(l, labelResult, resultFailed))

	attrs := metric.WithAttributeSet(attribute.NewSet(l[:len(l)-1]...))
	o.ObserveInt64(in.slowCalls, figure(s.SlowCalls), attrs)
	o.ObserveInt64(in.lateResults, figure(s.Late), attrs)
	o.ObserveInt64(in.recoveries, figure(s.Recoveries), attrs)
	o.ObserveInt64(in.inFlight, figure(s.InFlight), attrs)
	o.ObserveFloat64(in.notClosed, s.NotClosed.Seconds(), attrs)
	o.ObserveFloat64(in.stateEntered, float64(s.Since.UnixNano())/1e9, attrs)
	calls := s.Window.Calls()
	if calls > 0 && calls >= s.MinCalls {
		o.ObserveFloat64(in.failureRatio, s.Window.FailureRatio(), attrs)
	}
	// The slow rule also counts the calls that their callers canceled (B6): while a backend hangs there may be no
	// others. max, because counters saturate (B11), and a sum would wrap.
	if timed := max(calls, calls+s.Window.SlowCanceled); timed > 0 && timed >= s.MinCalls {
		o.ObserveFloat64(in.slowRatio, s.Window.SlowRatio(), attrs)
	}
}

// labels are the attributes of a breaker, in order of their keys, with room for one more. Sets are made anew for each
// collection, of which they take a fifth of the time: to keep them would take some 10 KB for each breaker.
func labels(key breaker.Key) [5]attribute.KeyValue {
	return [...]attribute.KeyValue{
		labelMethod.String(text(key.Method)),
		labelService.String(text(key.Service)),
		labelTarget.String(text(key.Target)),
		labelTag.String(text(key.Tag)),
		{},
	}
}

// with gets a copy of l, since NewSet sorts in place.
func with(l [5]attribute.KeyValue, key attribute.Key, value string) metric.MeasurementOption {
	l[len(l)-1] = key.String(value)
	return metric.WithAttributeSet(attribute.NewSet(l[:]...))
}

func one(yes bool) int64 {
	if yes {
		return 1
	}
	return 0
}

// figure fits a saturating counter (B11) into what OpenTelemetry has.
func figure(n uint64) int64 { return int64(min(n, math.MaxInt64)) }
