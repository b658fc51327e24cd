package otelbridge

import (
	"cmp"
	"math"
	"slices"
	"sync"

	"go.opentelemetry.io/otel/attribute"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// A key may get another breaker, which counts from zero: the first one was evicted or removed. And a breaker that is
// idle has no series until a call comes. The SDK forgets a series that a collection left out: it takes the next total
// of it for new. So a reader with cumulative temporality needs the total of all breakers of the key, and one with
// delta temporality needs, after a gap, what was counted since the gap. The bridge cannot see what its readers use,
// so an option says it.

// maxGone is how many keys without a breaker the ledger keeps totals of: as many as a group has breakers by default.
const maxGone = 10_000

// sums are the figures of a breaker that only grow, in the order of sumSeries.
type sums [len(sumSeries)]uint64

// plus and minus work figure by figure, and stop at the largest figure and at zero.
func (s sums) plus(o sums) sums {
	for i := range s {
		if s[i] > math.MaxUint64-o[i] {
			s[i] = math.MaxUint64
		} else {
			s[i] += o[i]
		}
	}
	return s
}

func (s sums) minus(o sums) sums {
	for i := range s {
		s[i] -= min(s[i], o[i])
	}
	return s
}

// ledger holds what has been reported of each key, so that counters never fall.
type ledger struct {
	delta bool // the readers have delta temporality

	mu sync.Mutex
	// Guarded by mu.
	round uint64 // the number of the collection
	seq   uint64 // the last rank given out
	keys  map[breaker.Key]*account
	gone  []*account // of breakers that were evicted, the oldest first; some may have come back
}

func newLedger(delta bool) *ledger {
	return &ledger{delta: delta, keys: make(map[breaker.Key]*account)}
}

// account holds the totals of one key.
type account struct {
	key   breaker.Key
	b     *breaker.Breaker // nil: it was evicted
	last  sums             // of b, in the last collection that had it
	add   sums             // what earlier breakers of the key have counted
	base  sums             // delta temporality: what b had counted before the gap
	round uint64           // of the last collection that had the key
	out   bool             // a collection has left the key out since then
	rank  rank
}

// rank is the place of a key in the order in which sums are observed. It must not change from one collection to the
// next, or keys would cross the SDK's limit and be counted twice. Keys that have ever been of interest come first,
// and stay there.
type rank struct {
	quiet bool // always closed so far, without an override
	seq   uint64
}

func (r rank) compare(o rank) int {
	if r.quiet != o.quiet {
		if r.quiet {
			return 1
		}
		return -1
	}
	return cmp.Compare(r.seq, o.seq)
}

// begin starts a collection. Caller must hold l.mu.
func (l *ledger) begin() { l.round++ }

// observe returns the account of a key and the sums to report for it. b is its breaker, which has counted so much;
// quiet reports whether b is closed and without an override. Caller must hold l.mu.
func (l *ledger) observe(key breaker.Key, b *breaker.Breaker, counted sums, quiet bool) (*account, sums) {
	a := l.keys[key]
	if a == nil {
		l.seq++
		a = &account{key: key, b: b, rank: rank{quiet: true, seq: l.seq}}
		l.keys[key] = a
	}
	if a.rank.quiet && !quiet {
		l.seq++
		a.rank = rank{seq: l.seq}
	}
	switch {
	case a.out && l.delta:
		a.add, a.base = sums{}, sums{}
		if a.b == b {
			a.base = a.last
		}
	case a.b != b && a.b != nil:
		a.add, a.base = a.add.plus(a.last.minus(a.base)), sums{}
	}
	a.b, a.last, a.round, a.out = b, counted, l.round, false
	return a, a.add.plus(counted.minus(a.base))
}

// end notes which keys the collection has left out. Caller must hold l.mu.
func (l *ledger) end() {
	for _, a := range l.keys {
		if a.round == l.round {
			continue
		}
		a.out = true
		if a.b != nil && a.b.Evicted() { // keep the totals, and not the breaker
			a.add, a.base, a.last = a.add.plus(a.last.minus(a.base)), sums{}, sums{}
			a.b = nil
			l.gone = append(l.gone, a)
		}
	}
	n := 0
	for n < len(l.gone) && (l.gone[n].b != nil || l.delta || len(l.gone)-n > maxGone) {
		if a := l.gone[n]; a.b == nil && l.keys[a.key] == a {
			delete(l.keys, a.key)
		}
		n++
	}
	l.gone = slices.Delete(l.gone, 0, n)
}

// sumSeries lists the figures of a Snapshot that only grow, with the counter and the attribute of each.
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

// sameSet has for each of sumSeries the first one with the same attribute: they share a set.
var sameSet = func() (first [len(sumSeries)]int) {
	for i := range sumSeries {
		for j := range sumSeries {
			if sumSeries[i].label == sumSeries[j].label && sumSeries[i].value == sumSeries[j].value {
				first[i] = j
				break
			}
		}
	}
	return first
}()

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
)

const counters = int(sumNotClosed) // those of Int64

func sumsOf(s *breaker.Snapshot) (all sums) {
	for i := range sumSeries {
		all[i] = sumSeries[i].of(s)
	}
	return all
}
