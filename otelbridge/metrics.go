package otelbridge

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/labels"
	"github.com/grpcircuit/grpcircuit/internal/needs"
)

// RegisterMetrics exports the metrics of g, under the names in the package documentation. When a reader of the meter
// provider collects, each breaker is read with one Snapshot. So the values of a breaker agree with each other and with
// Snapshot. Between collections the export costs nothing.
//
// Register a group once. Attributes do not distinguish groups. With two groups, or one group twice, on the same
// provider, counters of the same key add up, and a gauge has the value of one of them.
//
// Call Unregister of the Registration to stop the export. A nil g is an error, and so is an error of the meter. Then
// nothing is registered.
func RegisterMetrics(g *breaker.Group, opts ...Option) (metric.Registration, error) {
	if g == nil {
		return nil, errors.New("otelbridge: RegisterMetrics: the group is nil")
	}
	options, err := collect(opts)
	if err != nil {
		return nil, fmt.Errorf("otelbridge: RegisterMetrics: %w", err)
	}
	meter := options.meters.Meter(ScopeName)
	if options.withReloads && options.reloads == nil {
		return nil, errors.New("otelbridge: RegisterMetrics: WithPolicyReloads: the function is nil")
	}
	in, err := newInstruments(meter, options)
	if err != nil {
		return nil, fmt.Errorf("otelbridge: RegisterMetrics: %w", err)
	}
	totals := newTotals(options.delta)
	r, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		in.observe(o, g, totals)
		return nil
	}, in.all...)
	if err != nil {
		return nil, fmt.Errorf("otelbridge: RegisterMetrics: %w", err)
	}
	return r, nil
}

// instruments is immutable, because a callback must be safe for concurrent use.
type instruments struct {
	all       []metric.Observable
	allSeries bool // of WithAllSeries

	state, override, ready, inFlight, breakers metric.Int64ObservableUpDownCounter
	sums                                       [intCounters]metric.Int64ObservableCounter // by sumCounter
	notClosed                                  metric.Float64ObservableCounter
	evictions, overflow, unguarded             metric.Int64ObservableCounter
	stateEntered, openUntil, outageStarted     metric.Float64ObservableGauge
	failureRatio, slowRatio                    metric.Float64ObservableGauge

	reloadStats func() (succeeded, failed uint64, lastSuccess time.Time) // nil: the two below do not exist
	reloads     metric.Int64ObservableCounter
	lastReload  metric.Float64ObservableGauge
}

func newInstruments(m metric.Meter, o options) (*instruments, error) {
	in := &instruments{allSeries: o.allSeries, reloadStats: o.reloads}
	var errs []error
	counter := func(name, unit, description string) metric.Int64ObservableCounter {
		i, err := m.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
		in.all, errs = append(in.all, i), append(errs, err)
		return i
	}
	upDownCounter := func(name, unit, description string) metric.Int64ObservableUpDownCounter {
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

	in.state = upDownCounter(metricState, unitBreaker,
		"State of the circuit breaker: 1 for the current state, 0 for the others.")
	in.override = upDownCounter(metricOverride, unitBreaker,
		"Mode of the circuit breaker: 1 for the one in force by an override or Config.Enforcement, 0 for the others.")
	in.ready = upDownCounter(metricReady, unitBreaker,
		"1 if the circuit breaker would admit a call now, otherwise 0. It is 1 after the open period: a probe may run.")
	in.sums[sumCalls] = counter(metricCalls, unitCall, "Admitted calls that have ended, by outcome.")
	in.sums[sumSlowCalls] = counter(metricSlowCalls, unitCall, "Calls that took longer than SlowCall.")
	in.sums[sumLateResults] = counter(metricLateResults, unitResult,
		"Results that came after the circuit breaker changed state or the probe's lease ended.")
	in.sums[sumRejections] = counter(metricRejections, unitCall, "Calls that the circuit breaker rejected, by reason.")
	in.sums[sumShadow] = counter(metricShadowRejections, unitCall,
		"Calls that were admitted only because of shadow mode, by reason.")
	in.sums[sumTrips] = counter(metricTrips, unitTrip,
		"Number of times a closed circuit breaker opened, by rule. Not in shadow mode. Failed probes are in probes.")
	in.sums[sumShadowTrips] = counter(metricShadowTrips, unitTrip,
		"Number of times a closed circuit breaker opened in shadow mode, by rule. These are not in trips.")
	in.sums[sumRecoveries] = counter(metricRecoveries, unitRecovery,
		"Number of times the circuit breaker closed after having been open.")
	in.sums[sumProbes] = counter(metricProbes, unitProbe,
		"Probes of the half-open circuit breaker, by result. A failure reopens it.")
	in.notClosed = seconds(metricOpen, "Time the circuit breaker was not closed.")
	in.stateEntered = gauge(metricStateEntered, unitSeconds, "Unix time of the last transition.")
	in.openUntil = gauge(metricOpenUntil, unitSeconds,
		"Unix time of the end of the open period. Absent unless open, and while the mode admits every call.")
	in.outageStarted = gauge(metricOutageStarted, unitSeconds,
		"Unix time since when the circuit breaker is not closed. Absent while closed, or while the mode admits every call.")
	in.failureRatio = gauge(metricFailureRatio, unitRatio,
		"Share of failures and overloads in the window. Absent below MinCalls, if not closed or without a window.")
	in.slowRatio = gauge(metricSlowRatio, unitRatio,
		"Share of slow calls in the window. Absent below MinCalls, if not closed or without the slow rule.")
	in.inFlight = upDownCounter(metricInFlight, unitCall, "Admitted calls that have not ended.")
	in.sums[sumFallbacks] = counter(metricFallbacks, unitCall, "Fallbacks that were tried, by result.")
	in.breakers = upDownCounter(metricBreakers, unitBreaker, "Circuit breakers in the group.")
	in.evictions = counter(metricEvictions, unitBreaker,
		"Circuit breakers that were evicted from a full group for another key.")
	in.overflow = counter(metricOverflow, unitCall,
		"Number of times a key got the overflow breaker because the group was full.")
	in.unguarded = counter(metricUnguarded, unitCall,
		"Calls that no breaker guarded because the key function or the matcher panicked.")
	if in.reloadStats != nil {
		in.reloads = counter(metricReloads, unitReload,
			"Policy files applied (success) and refused (failure). After a failure the old policy stays in force.")
		in.lastReload = gauge(metricLastReload, unitSeconds,
			"Unix time at which a policy file was last applied. Absent before the first time.")
	}
	return in, errors.Join(errs...)
}

func (in *instruments) observe(o metric.Observer, g *breaker.Group, t *totals) {
	stats := g.Stats()
	o.ObserveInt64(in.breakers, int64(stats.Breakers))
	o.ObserveInt64(in.evictions, toInt64(stats.Evictions))
	o.ObserveInt64(in.overflow, toInt64(stats.Overflow))
	o.ObserveInt64(in.unguarded, toInt64(stats.Unguarded))
	in.observeReloads(o)

	t.mu.Lock() // readers may collect at the same time
	defer t.mu.Unlock()
	t.begin()
	in.observeBreakers(o, g, g.All(), t, stats.Breakers)
	t.end()
}

func (in *instruments) observeReloads(o metric.Observer) {
	if in.reloadStats == nil {
		return
	}
	succeeded, failed, last, ok := in.readReloads()
	if !ok {
		return
	}
	result := func(outcome breaker.Outcome) metric.MeasurementOption {
		return metric.WithAttributes(labelResult.String(outcome.String()))
	}
	o.ObserveInt64(in.reloads, toInt64(succeeded), result(breaker.Success))
	o.ObserveInt64(in.reloads, toInt64(failed), result(breaker.Failure))
	if !last.IsZero() {
		o.ObserveFloat64(in.lastReload, unixSeconds(last))
	}
}

// readReloads calls the function of WithPolicyReloads. ok is false if it panicked. The panic would end the program,
// because a reader collects on a goroutine of its own. An error of the callback in its place would keep a periodic
// reader from exporting anything.
func (in *instruments) readReloads() (succeeded, failed uint64, last time.Time, ok bool) {
	defer func() {
		if v := recover(); v != nil {
			otel.Handle(fmt.Errorf("otelbridge: the function of WithPolicyReloads panicked: %v", v))
		}
	}()
	succeeded, failed, last = in.reloadStats()
	return succeeded, failed, last, true
}

// observation is a breaker in one collection.
type observation struct {
	breaker.Snapshot

	rank    rank
	sums    sums
	report  [len(sumSeries)]bool // which of sums
	has     needs.Set
	healthy bool // closed and without an override
}

// observeBreakers observes the breakers of all. n is their approximate number. The SDK keeps the first attribute sets
// of an instrument, up to a limit, and combines the others into one. So the states of breakers that are not healthy
// come first, and the counters are in the order of their ranks (O8). The iteration does not stop when the context of
// the collection ends, because the SDK forgets a series that is not observed.
//
// If a key is evicted and gets a new breaker during the iteration, all may yield it twice. It is observed once, because
// the SDK adds up two observations of a series. Caller must hold t.mu.
func (in *instruments) observeBreakers(
	o metric.Observer, g *breaker.Group, all iter.Seq2[breaker.Key, *breaker.Breaker], t *totals, n int,
) {
	seen := make(map[breaker.Key]struct{}, n)
	observations := make([]observation, 0, n)
	for key, b := range all {
		if _, again := seen[key]; again {
			continue
		}
		live, s, ok := snapshot(g, key, b)
		if !ok {
			continue
		}
		seen[key] = struct{}{}
		healthy := s.Underlying == breaker.Closed && s.Override.Mode == 0
		has := needs.Everything
		if !in.allSeries {
			has = needs.Of(&s)
		}
		k := t.observe(key, live, sumsOf(&s), healthy)
		sums, report := k.toReport(has)
		observations = append(observations, observation{s, k.rank, sums, report, has, healthy})
	}
	for _, healthy := range [...]bool{false, true} {
		for i := range observations {
			if observations[i].healthy == healthy {
				in.observeState(o, &observations[i])
			}
		}
	}
	slices.SortFunc(observations, func(a, b observation) int { return a.rank.compare(b.rank) })
	for i := range observations {
		in.observeSums(o, &observations[i])
	}
}

// snapshot returns the current breaker of key and its Snapshot. That is b, unless b was evicted in the meantime.
func snapshot(g *breaker.Group, key breaker.Key, b *breaker.Breaker) (*breaker.Breaker, breaker.Snapshot, bool) {
	const tries = 3 // a key may be evicted and get a new breaker this many times while this runs
	for range tries {
		if s := b.Snapshot(); !b.Evicted() {
			return b, s, true
		}
		var ok bool
		if b, ok = g.Lookup(key); !ok {
			break
		}
	}
	return nil, breaker.Snapshot{}, false
}

var (
	states = [...]breaker.State{breaker.Closed, breaker.HalfOpen, breaker.Open}
	modes  = [...]breaker.Mode{breaker.ForceOpen, breaker.ForceClosed, breaker.Shadow}
)

// observeState observes the metrics that may rise and fall.
func (in *instruments) observeState(o metric.Observer, s *observation) {
	attrs := keyAttributes(s.Key)
	for _, state := range states {
		o.ObserveInt64(in.state, boolValue(s.State == state), withLabel(attrs, labelState, state.String()))
	}
	for _, mode := range modes {
		o.ObserveInt64(in.override, boolValue(s.Mode == mode), withLabel(attrs, labelMode, mode.String()))
	}
	keyOnly := metric.WithAttributeSet(attribute.NewSet(attrs[:len(attrs)-1]...))
	o.ObserveInt64(in.ready, boolValue(s.Ready), keyOnly)
	o.ObserveInt64(in.inFlight, toInt64(s.InFlight), keyOnly)
	o.ObserveFloat64(in.stateEntered, unixSeconds(s.Since), keyOnly)
	if needs.OpenUntil(&s.Snapshot) {
		o.ObserveFloat64(in.openUntil, unixSeconds(s.OpenUntil), keyOnly)
	}
	if needs.Outage(&s.Snapshot) {
		o.ObserveFloat64(in.outageStarted, unixSeconds(s.Outage.At), keyOnly)
	}
	calls := s.Window.Calls()
	if calls > 0 && calls >= s.MinCalls {
		o.ObserveFloat64(in.failureRatio, s.Window.FailureRatio(), keyOnly)
	}
	// The slow rule also counts slow calls that their callers canceled (B6): while a backend hangs there may be no others.
	// Counters saturate (B11), so the sum may wrap.
	if timed := max(calls, calls+s.Window.SlowCanceled); timed > 0 && timed >= s.MinCalls && s.has&needs.SlowRule != 0 {
		o.ObserveFloat64(in.slowRatio, s.Window.SlowRatio(), keyOnly)
	}
}

// observeSums observes the counters of a key.
func (in *instruments) observeSums(o metric.Observer, s *observation) {
	attrs := keyAttributes(s.Key)
	var sets [len(sumSeries)]metric.MeasurementOption // by the first series with the set
	for i := range sumSeries {
		if !s.report[i] {
			continue
		}
		series := &sumSeries[i]
		set := sets[firstWithSet[i]]
		switch {
		case set != nil:
		case series.label == "":
			set = metric.WithAttributeSet(attribute.NewSet(attrs[:len(attrs)-1]...))
		default:
			set = withLabel(attrs, series.label, series.value)
		}
		sets[firstWithSet[i]] = set
		if series.counter == sumNotClosed {
			o.ObserveFloat64(in.notClosed, time.Duration(toInt64(s.sums[i])).Seconds(), set)
		} else {
			o.ObserveInt64(in.sums[series.counter], toInt64(s.sums[i]), set)
		}
	}
}

// keyAttributes returns the attributes of a key in order of their names, with room for one more. The attribute sets are
// made for each collection, which takes a fifth of its time. Keeping them would take about 10 KB for each breaker.
func keyAttributes(key breaker.Key) [5]attribute.KeyValue {
	return [...]attribute.KeyValue{
		labelMethod.String(labels.Value(key.Method)),
		labelService.String(labels.Value(key.Service)),
		labelTarget.String(labels.Value(key.Target)),
		labelTag.String(labels.Value(key.Tag)),
		{},
	}
}

// withLabel returns attrs and one more attribute. It takes a copy of attrs, because NewSet sorts in place.
func withLabel(attrs [5]attribute.KeyValue, key attribute.Key, value string) metric.MeasurementOption {
	attrs[len(attrs)-1] = key.String(value)
	return metric.WithAttributeSet(attribute.NewSet(attrs[:]...))
}

func unixSeconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

func boolValue(yes bool) int64 {
	if yes {
		return 1
	}
	return 0
}

// toInt64 converts a counter to the type of OpenTelemetry. Values that are too large saturate (B11).
func toInt64(n uint64) int64 { return int64(min(n, math.MaxInt64)) }
