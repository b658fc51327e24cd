package otelbridge

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"time"

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
	options := collect(opts)
	meter := options.meters.Meter(ScopeName)
	in, err := newInstruments(meter)
	if err != nil {
		return nil, fmt.Errorf("otelbridge: RegisterMetrics: %w", err)
	}
	l := newLedger(options.delta)
	r, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		in.observe(o, g, l)
		return nil
	}, in.all...)
	if err != nil {
		return nil, fmt.Errorf("otelbridge: RegisterMetrics: %w", err)
	}
	return r, nil
}

// instruments are immutable: a callback must be safe for concurrent use.
type instruments struct {
	all []metric.Observable

	state, override, inFlight, breakers   metric.Int64ObservableUpDownCounter
	sums                                  [counters]metric.Int64ObservableCounter // by counterOf
	notClosed                             metric.Float64ObservableCounter
	evictions, overflow, unguarded        metric.Int64ObservableCounter
	stateEntered, failureRatio, slowRatio metric.Float64ObservableGauge
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
	in.sums[sumCalls] = counter(metricCalls, unitCall, "Calls that were let through, by outcome.")
	in.sums[sumSlowCalls] = counter(metricSlowCalls, unitCall, "Calls that took longer than the policy allows.")
	in.sums[sumLateResults] = counter(metricLateResults, unitResult, "Results of calls that were let through in an earlier stay in a state, and of probes after their lease.")
	in.sums[sumRejections] = counter(metricRejections, unitCall, "Calls that were not let through, by reason.")
	in.sums[sumShadow] = counter(metricShadowRejections, unitCall, "Calls that would not have been let through but for shadow mode, by reason.")
	in.sums[sumTrips] = counter(metricTrips, unitTrip, "Times that the circuit breaker opened, by rule.")
	in.sums[sumRecoveries] = counter(metricRecoveries, unitRecovery, "Times that the circuit breaker closed after having been open.")
	in.sums[sumProbes] = counter(metricProbes, unitProbe, "Probes of the half-open circuit breaker, by result.")
	in.notClosed = seconds(metricOpen, "Time that the circuit breaker was not closed.")
	in.stateEntered = gauge(metricStateEntered, unitSeconds, "Unix time of the last transition.")
	in.failureRatio = gauge(metricFailureRatio, unitRatio, "Failed calls among those in the window; absent where there are too few, or no rule looks at them.")
	in.slowRatio = gauge(metricSlowRatio, unitRatio, "Slow calls among those in the window; absent where there are too few, or no rule looks at them.")
	in.inFlight = level(metricInFlight, unitCall, "Calls that were let through and have not ended.")
	in.sums[sumFallbacks] = counter(metricFallbacks, unitCall, "Calls that a fallback was to answer, by result.")
	in.breakers = level(metricBreakers, unitBreaker, "Circuit breakers in the group.")
	in.evictions = counter(metricEvictions, unitBreaker, "Circuit breakers that made room for another key.")
	in.overflow = counter(metricOverflow, unitCall, "Calls that got the overflow breaker for want of room.")
	in.unguarded = counter(metricUnguarded, unitCall, "Calls that went unguarded because a key function panicked.")
	return in, errors.Join(errs...)
}

func (in *instruments) observe(o metric.Observer, g *breaker.Group, l *ledger) {
	stats := g.Stats()
	o.ObserveInt64(in.breakers, int64(stats.Breakers))
	o.ObserveInt64(in.evictions, figure(stats.Evictions))
	o.ObserveInt64(in.overflow, figure(stats.Overflow))
	o.ObserveInt64(in.unguarded, figure(stats.Unguarded))

	l.mu.Lock() // readers may collect at the same time
	defer l.mu.Unlock()
	l.begin()
	in.observeAll(o, g, g.All(), l, stats.Breakers)
	l.end()
}

// observed is a breaker in one collection.
type observed struct {
	breaker.Snapshot

	account *account
	sums    sums
	quiet   bool // closed, and without an override
}

// observeAll observes the breakers of all, which are about n. The SDK keeps a limited number of attribute sets for an
// instrument, the first that it gets, and folds the others into one. So the states of breakers that are not closed
// come first, and the counters in the order of their ranks. The context of the collection is not looked at: the SDK
// drops what it knows of a series that is not observed.
//
// If a key is evicted and made anew meanwhile, all may have it twice, and what is observed twice adds up. Caller must
// hold l.mu.
func (in *instruments) observeAll(
	o metric.Observer, g *breaker.Group, all iter.Seq2[breaker.Key, *breaker.Breaker], l *ledger, n int,
) {
	seen := make(map[breaker.Key]struct{}, n)
	breakers := make([]observed, 0, n)
	for key, b := range all {
		if _, again := seen[key]; again {
			continue
		}
		live, s, ok := snapshot(g, key, b)
		if !ok {
			continue
		}
		seen[key] = struct{}{}
		quiet := s.Underlying == breaker.Closed && s.Override.Mode == 0
		account, sums := l.observe(key, live, sumsOf(&s), quiet)
		breakers = append(breakers, observed{s, account, sums, quiet})
	}
	for _, quiet := range [...]bool{false, true} {
		for i := range breakers {
			if breakers[i].quiet == quiet {
				in.observeState(o, &breakers[i].Snapshot)
			}
		}
	}
	slices.SortFunc(breakers, func(a, b observed) int { return a.account.rank.compare(b.account.rank) })
	for i := range breakers {
		in.observeSums(o, breakers[i].Key, &breakers[i].sums)
	}
}

// snapshot returns a Snapshot of the breaker that key has, and that breaker: b, unless it was evicted meanwhile.
func snapshot(g *breaker.Group, key breaker.Key, b *breaker.Breaker) (*breaker.Breaker, breaker.Snapshot, bool) {
	const tries = 3 // as often as a key may be evicted and made anew while this runs
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

// observeState observes what may rise and fall.
func (in *instruments) observeState(o metric.Observer, s *breaker.Snapshot) {
	attrs := labels(s.Key)
	for _, state := range states {
		o.ObserveInt64(in.state, one(s.State == state), with(attrs, labelState, state.String()))
	}
	for _, mode := range modes {
		o.ObserveInt64(in.override, one(s.Override.Mode == mode), with(attrs, labelMode, mode.String()))
	}
	own := metric.WithAttributeSet(attribute.NewSet(attrs[:len(attrs)-1]...))
	o.ObserveInt64(in.inFlight, figure(s.InFlight), own)
	o.ObserveFloat64(in.stateEntered, float64(s.Since.UnixNano())/1e9, own)
	calls := s.Window.Calls()
	if calls > 0 && calls >= s.MinCalls {
		o.ObserveFloat64(in.failureRatio, s.Window.FailureRatio(), own)
	}
	// The slow rule also counts the calls that their callers canceled (B6): while a backend hangs there may be no
	// others. max, because counters saturate (B11), and a sum would wrap.
	if timed := max(calls, calls+s.Window.SlowCanceled); timed > 0 && timed >= s.MinCalls {
		o.ObserveFloat64(in.slowRatio, s.Window.SlowRatio(), own)
	}
}

// observeSums observes the counters of a key.
func (in *instruments) observeSums(o metric.Observer, key breaker.Key, all *sums) {
	attrs := labels(key)
	var sets [len(sumSeries)]metric.MeasurementOption
	for i := range sumSeries {
		series := &sumSeries[i]
		set := sets[sameSet[i]]
		switch {
		case set != nil:
		case series.label == "":
			set = metric.WithAttributeSet(attribute.NewSet(attrs[:len(attrs)-1]...))
		default:
			set = with(attrs, series.label, series.value)
		}
		sets[i] = set
		if series.by == sumNotClosed {
			o.ObserveFloat64(in.notClosed, time.Duration(figure(all[i])).Seconds(), set)
		} else {
			o.ObserveInt64(in.sums[series.by], figure(all[i]), set)
		}
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
