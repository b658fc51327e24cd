package otelbridge

import (
	"cmp"
	"math"
	"slices"
	"sync"

	"go.opentelemetry.io/otel/attribute"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/needs"
)

// After the breaker of a key was evicted or removed, the key may get another breaker, which counts from zero. An idle
// breaker has no series until the next call. The SDK forgets a series that is missing from a collection, and treats its
// next total as new. So a reader with cumulative temporality needs the total of all breakers of the key. A reader with
// delta temporality needs, after a gap, the count since the gap. The bridge cannot see the temporality of its readers,
// so an option sets it.

// maxGone is the number of keys without a breaker whose totals are kept. It is the default size of a group.
const maxGone = 10_000

// sums holds the values of a breaker that never fall, in the order of sumSeries.
type sums [len(sumSeries)]uint64

// plus adds value by value, and saturates at the largest value.
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

// minus subtracts value by value, and stops at zero.
func (s sums) minus(o sums) sums {
	for i := range s {
		s[i] -= min(s[i], o[i])
	}
	return s
}

// totals holds the counts that have been reported for each key, so that counters never fall (O7).
type totals struct {
	delta bool // the readers have delta temporality

	mu sync.Mutex

	// Guarded by mu.
	collection uint64 // the number of the current collection
	lastRank   uint64 // the last rank that was assigned
	keys       map[breaker.Key]*keyTotals
	gone       []*keyTotals // keys whose breaker was evicted, the oldest first, each once
}

func newTotals(delta bool) *totals {
	return &totals{delta: delta, keys: make(map[breaker.Key]*keyTotals)}
}

// keyTotals holds the totals of one key.
type keyTotals struct {
	key        breaker.Key
	breaker    *breaker.Breaker // nil: it was evicted
	last       sums             // of breaker, in the last collection that had it
	earlier    sums             // the counts of earlier breakers of the key
	base       sums             // with delta temporality: the counts of breaker before the gap
	collection uint64           // the last collection that had the key
	missed     bool             // a later collection did not have the key
	rank       rank
	reported   [len(sumSeries)]bool // the series that were reported; they are not left out any more
}

// rank is the position of a key in the order in which sums are observed. If positions changed between collections, a
// key could leave the SDK's limit and return, and would be counted twice. Keys that have ever been not healthy come
// first and remain there (O8).
type rank struct {
	healthy bool // always closed so far, without an override
	seq     uint64
}

func (r rank) compare(o rank) int {
	if r.healthy != o.healthy {
		if r.healthy {
			return 1
		}
		return -1
	}
	return cmp.Compare(r.seq, o.seq)
}

// begin starts a collection. Caller must hold t.mu.
func (t *totals) begin() { t.collection++ }

// observe records the counts of b, the breaker of key. It returns the totals of the key, whose last counts are those of
// b. healthy reports whether b is closed and without an override. Caller must hold t.mu.
func (t *totals) observe(key breaker.Key, b *breaker.Breaker, counts sums, healthy bool) *keyTotals {
	k := t.keys[key]
	if k == nil {
		t.lastRank++
		k = &keyTotals{key: key, breaker: b, rank: rank{healthy: true, seq: t.lastRank}}
		t.keys[key] = k
	}
	if k.rank.healthy && !healthy {
		t.lastRank++
		k.rank = rank{seq: t.lastRank}
	}
	switch {
	case k.missed && t.delta:
		k.earlier, k.base = sums{}, sums{}
		if k.breaker == b {
			k.base = k.last
		}
	case k.breaker != b && k.breaker != nil:
		k.addBreaker()
	}
	k.breaker, k.last, k.collection, k.missed = b, counts, t.collection, false
	return k
}

// toReport returns the sums of the key, and which of them to report: those for which has contains all needs, those
// above 0, and those that were reported before. The SDK forgets a series that is left out, and another series could
// take its place below the limit of O8. Caller must hold totals.mu.
func (k *keyTotals) toReport(has needs.Set) (values sums, report [len(sumSeries)]bool) {
	values = k.earlier.plus(k.last.minus(k.base))
	for i := range sumSeries {
		if sumSeries[i].needs&^has == 0 || values[i] > 0 {
			k.reported[i] = true
		}
	}
	return values, k.reported
}

// addBreaker adds the counts of the current breaker to those of earlier breakers.
func (k *keyTotals) addBreaker() {
	k.earlier, k.base = k.earlier.plus(k.last.minus(k.base)), sums{}
}

// end marks the keys that the collection did not have. It drops evicted breakers, and the totals of the oldest keys
// without a breaker. Caller must hold t.mu.
func (t *totals) end() {
	// Without this, a key that comes and goes would fill the list, and others would be forgotten too early.
	t.gone = slices.DeleteFunc(t.gone, func(k *keyTotals) bool { return k.breaker != nil })
	for _, k := range t.keys {
		if k.collection == t.collection {
			continue
		}
		k.missed = true
		if k.breaker != nil && k.breaker.Evicted() { // keep the totals but not the breaker
			k.addBreaker()
			k.breaker, k.last = nil, sums{}
			t.gone = append(t.gone, k)
		}
	}
	keep := maxGone
	if t.delta {
		keep = 0
	}
	n := max(0, len(t.gone)-keep)
	for _, k := range t.gone[:n] {
		delete(t.keys, k.key)
	}
	t.gone = slices.Delete(t.gone, 0, n)
}

type snap = *breaker.Snapshot

// sumSeries lists the values of a Snapshot that never fall, with the counter and the attribute of each.
var sumSeries = [...]struct {
	read    func(snap) uint64
	counter sumCounter
	label   attribute.Key // empty: only the attributes of the key
	value   string
	needs   needs.Set
}{
	{func(s snap) uint64 { return s.Successes }, sumCalls, labelOutcome, breaker.Success.String(), needs.Nothing},
	{func(s snap) uint64 { return s.Failures }, sumCalls, labelOutcome, breaker.Failure.String(), needs.Nothing},
	{func(s snap) uint64 { return s.Overloads }, sumCalls, labelOutcome, breaker.Overload.String(), needs.Nothing},
	{func(s snap) uint64 { return s.Ignored }, sumCalls, labelOutcome, breaker.Ignored.String(), needs.Nothing},

	{
		func(s snap) uint64 { return s.Rejections.Open }, sumRejections, labelReason, breaker.ReasonOpen.String(),
		needs.Nothing,
	},
	{
		func(s snap) uint64 { return s.Rejections.HalfOpen }, sumRejections, labelReason,
		breaker.ReasonHalfOpen.String(), needs.Nothing,
	},
	{func(s snap) uint64 { return s.Rejections.Ramp }, sumRejections, labelReason, breaker.ReasonRamp.String(), needs.Ramp},
	{
		func(s snap) uint64 { return s.Rejections.Forced }, sumRejections, labelReason,
		breaker.ReasonForced.String(), needs.Override,
	},
	{
		func(s snap) uint64 { return s.Rejections.Concurrency }, sumRejections, labelReason,
		breaker.ReasonConcurrency.String(), needs.ConcurrencyLimit,
	},

	{
		func(s snap) uint64 { return s.ShadowRejections.Open }, sumShadow, labelReason,
		breaker.ReasonOpen.String(), needs.ShadowRejections,
	},
	{
		func(s snap) uint64 { return s.ShadowRejections.HalfOpen }, sumShadow, labelReason,
		breaker.ReasonHalfOpen.String(), needs.ShadowRejections,
	},
	{
		func(s snap) uint64 { return s.ShadowRejections.Ramp }, sumShadow, labelReason,
		breaker.ReasonRamp.String(), needs.ShadowRejections | needs.Ramp,
	},
	{
		func(s snap) uint64 { return s.ShadowRejections.Forced }, sumShadow, labelReason,
		breaker.ReasonForced.String(), needs.Occurrence, // a breaker in shadow mode is not forced open
	},
	{
		func(s snap) uint64 { return s.ShadowRejections.Concurrency }, sumShadow, labelReason,
		breaker.ReasonConcurrency.String(), needs.ShadowRejections | needs.ConcurrencyLimit,
	},

	// There is no RuleProbe: a failed probe opens a breaker that is not closed, and is among the probes.
	{
		func(s snap) uint64 { return s.Trips.Consecutive }, sumTrips, labelRule,
		breaker.RuleConsecutive.String(), needs.ConsecutiveRule,
	},
	{func(s snap) uint64 { return s.Trips.Ratio }, sumTrips, labelRule, breaker.RuleRatio.String(), needs.RatioRule},
	{func(s snap) uint64 { return s.Trips.Slow }, sumTrips, labelRule, breaker.RuleSlow.String(), needs.SlowRule},
	{func(s snap) uint64 { return s.Trips.Custom }, sumTrips, labelRule, breaker.RuleCustom.String(), needs.CustomRule},
	{func(s snap) uint64 { return s.Trips.Manual }, sumTrips, labelRule, breaker.RuleManual.String(), needs.Occurrence},

	{
		func(s snap) uint64 { return s.ShadowTrips.Consecutive }, sumShadowTrips, labelRule,
		breaker.RuleConsecutive.String(), needs.ShadowTrips | needs.ConsecutiveRule,
	},
	{
		func(s snap) uint64 { return s.ShadowTrips.Ratio }, sumShadowTrips, labelRule,
		breaker.RuleRatio.String(), needs.ShadowTrips | needs.RatioRule,
	},
	{
		func(s snap) uint64 { return s.ShadowTrips.Slow }, sumShadowTrips, labelRule,
		breaker.RuleSlow.String(), needs.ShadowTrips | needs.SlowRule,
	},
	{
		func(s snap) uint64 { return s.ShadowTrips.Custom }, sumShadowTrips, labelRule,
		breaker.RuleCustom.String(), needs.ShadowTrips | needs.CustomRule,
	},
	{
		func(s snap) uint64 { return s.ShadowTrips.Manual }, sumShadowTrips, labelRule,
		breaker.RuleManual.String(), needs.Occurrence,
	},

	{func(s snap) uint64 { return s.Probes.Success }, sumProbes, labelResult, breaker.Success.String(), needs.Nothing},
	{func(s snap) uint64 { return s.Probes.Failure }, sumProbes, labelResult, breaker.Failure.String(), needs.Nothing},
	{func(s snap) uint64 { return s.Probes.Ignored }, sumProbes, labelResult, breaker.Ignored.String(), needs.Nothing},
	{func(s snap) uint64 { return s.Probes.Lost }, sumProbes, labelResult, resultLost, needs.Nothing},

	{func(s snap) uint64 { return s.Fallbacks.Served }, sumFallbacks, labelResult, resultServed, needs.Fallbacks},
	{func(s snap) uint64 { return s.Fallbacks.Failed }, sumFallbacks, labelResult, resultFailed, needs.Fallbacks},

	{func(s snap) uint64 { return s.SlowCalls }, sumSlowCalls, "", "", needs.SlowRule},
	{func(s snap) uint64 { return s.Late }, sumLateResults, "", "", needs.Nothing},
	{func(s snap) uint64 { return s.Recoveries }, sumRecoveries, "", "", needs.Nothing},
	{func(s snap) uint64 { return uint64(max(0, s.NotClosed)) }, sumNotClosed, "", "", needs.Nothing}, // nanoseconds
}

// firstWithSet holds, for each of sumSeries, the index of the first one with the same attribute. They share a set.
var firstWithSet = func() (first [len(sumSeries)]int) {
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

// sumCounter identifies a counter of instruments.
type sumCounter uint8

const (
	sumCalls sumCounter = iota
	sumRejections
	sumShadow
	sumTrips
	sumShadowTrips
	sumProbes
	sumFallbacks
	sumSlowCalls
	sumLateResults
	sumRecoveries
	sumNotClosed // in seconds; the others are numbers
)

const intCounters = int(sumNotClosed) // the number of Int64 counters

func sumsOf(s *breaker.Snapshot) (values sums) {
	for i := range sumSeries {
		values[i] = sumSeries[i].read(s)
	}
	return values
}
