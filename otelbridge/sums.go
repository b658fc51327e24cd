package otelbridge

import (
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// A key may get another breaker, which counts from zero: the first was evicted, or removed. And a breaker that is
// idle has no series until a call comes. An observable counter must not fall, and the SDK forgets what it has not
// been told of in a collection: the next figure is then all new to it. So the sums of a key follow these rules.
//
//   - While a key is observed in every collection its sums go on, whatever breaker it has.
//   - A key that was left out of a collection starts again from zero: its sums are what has been counted since then.
//   - It does so after restAfter at the earliest. Until then its sums stay out, though not its state. Several readers may
//     collect at different intervals, and each must have noticed that the series was gone.

// restAfter is how long the sums of a key that was left out stay out at least. It is as long as Prometheus takes to
// call a series stale, and longer than readers commonly wait.
const restAfter = 5 * time.Minute

// sums are the figures of a breaker that only grow, in the order of sumSeries.
type sums [len(sumSeries)]uint64

// plus and minus work figure by figure. Figures saturate in package breaker (B11), so a sum may have to as well.
func (s sums) plus(o sums) sums {
	for i := range s {
		s[i] = max(s[i], s[i]+o[i])
	}
	return s
}

func (s sums) minus(o sums) sums {
	for i := range s {
		s[i] -= min(s[i], o[i])
	}
	return s
}

// ledger keeps the sums of a group's keys from falling.
type ledger struct {
	mu sync.Mutex
	// Guarded by mu.
	round uint64 // of collections
	keys  map[breaker.Key]*account
}

func newLedger() *ledger { return &ledger{keys: make(map[breaker.Key]*account)} }

// account is what the ledger knows of a key.
type account struct {
	b     *breaker.Breaker
	last  sums      // of b, when they were observed last
	add   sums      // what earlier breakers of the key have counted
	base  sums      // what b had counted when the key started again
	round uint64    // of the last collection that had the key
	out   time.Time // when the first collection left it out; zero: none has
}

// observe returns the sums to report for a key whose breaker b has counted now, and whether to report them.
// Caller must hold l.mu.
func (l *ledger) observe(key breaker.Key, b *breaker.Breaker, counted sums, now time.Time) (report sums, ok bool) {
	a := l.keys[key]
	if a == nil {
		a = &account{b: b}
		l.keys[key] = a
	}
	a.round = l.round
	switch {
	case a.out.IsZero():
		if a.b != b {
			a.add, a.base = a.add.plus(a.last.minus(a.base)), sums{}
		}
	case now.Sub(a.out) < restAfter:
		return sums{}, false
	default:
		base := sums{}
		if a.b == b {
			base = a.last
		}
		*a = account{round: l.round, base: base}
	}
	a.b, a.last = b, counted
	return a.add.plus(counted.minus(a.base)), true
}

// begin starts a collection. Caller must hold l.mu.
func (l *ledger) begin() { l.round++ }

// end notes which keys a collection has left out. Those that will not come back with the same breaker are forgotten
// once all readers know. Caller must hold l.mu.
func (l *ledger) end(now time.Time) {
	for key, a := range l.keys {
		switch {
		case a.round == l.round:
		case a.out.IsZero():
			a.out = now
		case now.Sub(a.out) >= restAfter && a.b.Evicted():
			delete(l.keys, key)
		}
	}
}

// sumSeries says which figure of a Snapshot is observed by which counter, with which attribute.
var sumSeries = [...]struct {
	of    func(*breaker.Snapshot) uint64
	by    counterOf
	label attribute.Key // "": no more than the breaker's own
	value string
}{
	{func(s *breaker.Snapshot) uint64 { return s.Successes }, sumCalls, labelOutcome, breaker.Success.String()},
	{func(s *breaker.Snapshot) uint64 { return s.Failures }, sumCalls, labelOutcome, breaker.Failure.String()},
	{func(s *breaker.Snapshot) uint64 { return s.Overloads }, sumCalls, labelOutcome, breaker.Overload.String()},
	{func(s *breaker.Snapshot) uint64 { return s.Ignored }, sumCalls, labelOutcome, breaker.Ignored.String()},

	{func(s *breaker.Snapshot) uint64 { return s.Rejections.Open }, sumRejections, labelReason, breaker.ReasonOpen.String()},
	{func(s *breaker.Snapshot) uint64 { return s.Rejections.HalfOpen }, sumRejections, labelReason, breaker.ReasonHalfOpen.String()},
	{func(s *breaker.Snapshot) uint64 { return s.Rejections.Ramp }, sumRejections, labelReason, breaker.ReasonRamp.String()},
	{func(s *breaker.Snapshot) uint64 { return s.Rejections.Forced }, sumRejections, labelReason, breaker.ReasonForced.String()},
	{func(s *breaker.Snapshot) uint64 { return s.Rejections.Concurrency }, sumRejections, labelReason, breaker.ReasonConcurrency.String()},

	{func(s *breaker.Snapshot) uint64 { return s.ShadowRejections.Open }, sumShadow, labelReason, breaker.ReasonOpen.String()},
	{func(s *breaker.Snapshot) uint64 { return s.ShadowRejections.HalfOpen }, sumShadow, labelReason, breaker.ReasonHalfOpen.String()},
	{func(s *breaker.Snapshot) uint64 { return s.ShadowRejections.Ramp }, sumShadow, labelReason, breaker.ReasonRamp.String()},
	{func(s *breaker.Snapshot) uint64 { return s.ShadowRejections.Forced }, sumShadow, labelReason, breaker.ReasonForced.String()},
	{func(s *breaker.Snapshot) uint64 { return s.ShadowRejections.Concurrency }, sumShadow, labelReason, breaker.ReasonConcurrency.String()},

	{func(s *breaker.Snapshot) uint64 { return s.Trips.Consecutive }, sumTrips, labelRule, breaker.RuleConsecutive.String()},
	{func(s *breaker.Snapshot) uint64 { return s.Trips.Ratio }, sumTrips, labelRule, breaker.RuleRatio.String()},
	{func(s *breaker.Snapshot) uint64 { return s.Trips.Slow }, sumTrips, labelRule, breaker.RuleSlow.String()},
	{func(s *breaker.Snapshot) uint64 { return s.Trips.Custom }, sumTrips, labelRule, breaker.RuleCustom.String()},
	{func(s *breaker.Snapshot) uint64 { return s.Trips.Probe }, sumTrips, labelRule, breaker.RuleProbe.String()},
	{func(s *breaker.Snapshot) uint64 { return s.Trips.Manual }, sumTrips, labelRule, breaker.RuleManual.String()},

	{func(s *breaker.Snapshot) uint64 { return s.Probes.Success }, sumProbes, labelResult, breaker.Success.String()},
	{func(s *breaker.Snapshot) uint64 { return s.Probes.Failure }, sumProbes, labelResult, breaker.Failure.String()},
	{func(s *breaker.Snapshot) uint64 { return s.Probes.Ignored }, sumProbes, labelResult, breaker.Ignored.String()},
	{func(s *breaker.Snapshot) uint64 { return s.Probes.Lost }, sumProbes, labelResult, resultLost},

	{func(s *breaker.Snapshot) uint64 { return s.Fallbacks.Served }, sumFallbacks, labelResult, resultServed},
	{func(s *breaker.Snapshot) uint64 { return s.Fallbacks.Failed }, sumFallbacks, labelResult, resultFailed},

	{func(s *breaker.Snapshot) uint64 { return s.SlowCalls }, sumSlowCalls, "", ""},
	{func(s *breaker.Snapshot) uint64 { return s.Late }, sumLateResults, "", ""},
	{func(s *breaker.Snapshot) uint64 { return s.Recoveries }, sumRecoveries, "", ""},
	{func(s *breaker.Snapshot) uint64 { return uint64(max(0, s.NotClosed)) }, sumNotClosed, "", ""}, // nanoseconds
}

// counterOf names a counter of instruments.
type counterOf uint8

const (
	sumCalls counterOf = iota
	sumRejections
	sumShadow
	sumTrips
	sumProbes
	sumFallbacks
	sumSlowCalls
	sumLateResults
	sumRecoveries
	sumNotClosed // in seconds; the others count

	counters = int(sumNotClosed)
)

func sumsOf(s *breaker.Snapshot) (all sums) {
	for i := range sumSeries {
		all[i] = sumSeries[i].of(s)
	}
	return all
}
