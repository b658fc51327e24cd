package prombridge

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// keyLabels are the labels that every series of a breaker has. labelTemplate.pairsOf sets their values.
var keyLabels = [keyParts]string{"grpc_target", "grpc_service", "grpc_method", "tag"}

const keyParts = 4

// labelNames returns keyLabels, and label unless it is empty.
func labelNames(label string) []string {
	names := keyLabels[:]
	if label != "" {
		names = append(names, label) // in a new array, because keyLabels has no spare capacity
	}
	return names
}

// family is a metric that each breaker has.
type family struct {
	name, help string
	kind       prometheus.ValueType
	label      string // distinguishes the series; empty if there is only one
	// series is in the order of the label values, so that a registry need not sort: see breakerCache.list.
	series []seriesDef
	when   func(*breaker.Snapshot) bool // nil: the series always exist (O4)
}

// seriesDef is one series of a family. Its label value is the same word that package breaker writes in its JSON.
type seriesDef struct {
	value string
	read  func(*breaker.Snapshot) float64
}

const (
	counter = prometheus.CounterValue
	gauge   = prometheus.GaugeValue
)

// breakerFamilies returns the metrics of a breaker, in the order of testdata/design.md.
func breakerFamilies() []family {
	type snap = *breaker.Snapshot
	return []family{
		{
			name: "state", kind: gauge, label: "state",
			help: "State of the breaker: exactly one of closed, half_open and open is 1. An override that forces it shows here.",
			series: []seriesDef{
				{breaker.Closed.String(), func(s snap) float64 { return boolValue(s.State == breaker.Closed) }},
				{breaker.HalfOpen.String(), func(s snap) float64 { return boolValue(s.State == breaker.HalfOpen) }},
				{breaker.Open.String(), func(s snap) float64 { return boolValue(s.State == breaker.Open) }},
			},
		},
		{
			name: "override", kind: gauge, label: "mode",
			help: "1 while an override with this mode is in force, otherwise 0.",
			series: []seriesDef{
				{breaker.ForceClosed.String(), func(s snap) float64 { return boolValue(s.Override.Mode == breaker.ForceClosed) }},
				{breaker.ForceOpen.String(), func(s snap) float64 { return boolValue(s.Override.Mode == breaker.ForceOpen) }},
				{breaker.Shadow.String(), func(s snap) float64 { return boolValue(s.Override.Mode == breaker.Shadow) }},
			},
		},
		{
			name: "calls_total", kind: counter, label: "outcome",
			help: "Admitted calls that have ended, by outcome. Ignored calls do not count for or against the backend.",
			series: []seriesDef{
				{breaker.Failure.String(), func(s snap) float64 { return float64(s.Failures) }},
				{breaker.Ignored.String(), func(s snap) float64 { return float64(s.Ignored) }},
				{breaker.Overload.String(), func(s snap) float64 { return float64(s.Overloads) }},
				{breaker.Success.String(), func(s snap) float64 { return float64(s.Successes) }},
			},
		},
		{
			name: "slow_calls_total", kind: counter,
			help:   "Calls that took longer than SlowCall. They are in calls_total too. Always 0 if SlowCall is not set.",
			series: oneSeries(func(s snap) float64 { return float64(s.SlowCalls) }),
		},
		{
			name: "late_results_total", kind: counter,
			help:   "Results that came after the breaker changed state or the probe's lease ended. They are not in calls_total.",
			series: oneSeries(func(s snap) float64 { return float64(s.Late) }),
		},
		{
			name: "rejections_total", kind: counter, label: "reason",
			help:   "Calls that the breaker rejected, by reason.",
			series: reasonSeries(func(s snap) *breaker.ReasonCounts { return &s.Rejections }),
		},
		{
			name: "shadow_rejections_total", kind: counter, label: "reason",
			help:   "Calls that were admitted only because of a shadow override, by the reason for the rejection.",
			series: reasonSeries(func(s snap) *breaker.ReasonCounts { return &s.ShadowRejections }),
		},
		{
			name: "trips_total", kind: counter, label: "rule",
			help: "Number of times the breaker opened, by the rule that opened it.",
			series: []seriesDef{
				{breaker.RuleConsecutive.String(), func(s snap) float64 { return float64(s.Trips.Consecutive) }},
				{breaker.RuleCustom.String(), func(s snap) float64 { return float64(s.Trips.Custom) }},
				{breaker.RuleManual.String(), func(s snap) float64 { return float64(s.Trips.Manual) }},
				{breaker.RuleProbe.String(), func(s snap) float64 { return float64(s.Trips.Probe) }},
				{breaker.RuleRatio.String(), func(s snap) float64 { return float64(s.Trips.Ratio) }},
				{breaker.RuleSlow.String(), func(s snap) float64 { return float64(s.Trips.Slow) }},
			},
		},
		{
			name: "recoveries_total", kind: counter,
			help:   "Number of times the breaker closed after having been open.",
			series: oneSeries(func(s snap) float64 { return float64(s.Recoveries) }),
		},
		{
			name: "probes_total", kind: counter, label: "result",
			help: "Probes of the half-open breaker, by result. Lost probes did not end within ProbeTimeout.",
			series: []seriesDef{
				{"failure", func(s snap) float64 { return float64(s.Probes.Failure) }},
				{"ignored", func(s snap) float64 { return float64(s.Probes.Ignored) }},
				{"lost", func(s snap) float64 { return float64(s.Probes.Lost) }},
				{"success", func(s snap) float64 { return float64(s.Probes.Success) }},
			},
		},
		{
			name: "open_seconds_total", kind: counter,
			help:   "Time the breaker was open or half-open, without regard to overrides. Its rate is the share of time.",
			series: oneSeries(func(s snap) float64 { return s.NotClosed.Seconds() }),
		},
		{
			name: "state_entered_timestamp_seconds", kind: gauge,
			help:   "Unix time of the last change of state, without regard to overrides. Initially the breaker's creation.",
			series: oneSeries(func(s snap) float64 { return float64(s.Since.UnixNano()) / 1e9 }),
		},
		{
			name: "failure_ratio", kind: gauge, when: hasFailureRatio,
			help:   "Share of failures and overloads in the window. Absent below MinCalls, if not closed or if no rule uses it.",
			series: oneSeries(func(s snap) float64 { return s.Window.FailureRatio() }),
		},
		{
			name: "slow_ratio", kind: gauge, when: hasSlowRatio,
			help:   "Share of slow calls in the window. Absent below MinCalls, if not closed or if no rule uses it.",
			series: oneSeries(func(s snap) float64 { return s.Window.SlowRatio() }),
		},
		{
			name: "in_flight", kind: gauge,
			help:   "Admitted calls that have not ended.",
			series: oneSeries(func(s snap) float64 { return float64(s.InFlight) }),
		},
		{
			name: "fallbacks_total", kind: counter, label: "result",
			help: "Fallbacks that were tried, by result. After a failed one the caller gets the error of the call.",
			series: []seriesDef{
				{"failed", func(s snap) float64 { return float64(s.Fallbacks.Failed) }},
				{"served", func(s snap) float64 { return float64(s.Fallbacks.Served) }},
			},
		},
	}
}

// groupFamily is a metric of the group itself.
type groupFamily struct {
	name, help string
	kind       prometheus.ValueType
	read       func(breaker.GroupStats) float64
}

// groupFamilies returns the metrics of the group.
func groupFamilies() []groupFamily {
	type stats = breaker.GroupStats
	return []groupFamily{
		{
			name: "breakers", kind: gauge,
			help: "Breakers in the group. Idle breakers are included until their memory is freed, but have no series.",
			read: func(s stats) float64 { return float64(s.Breakers) },
		},
		{
			name: "evictions_total", kind: counter,
			help: "Breakers that were evicted from a full group for a new key. Their series end.",
			read: func(s stats) float64 { return float64(s.Evictions) },
		},
		{
			name: "overflow_total", kind: counter,
			help: "Number of times a key got the overflow breaker because the group was full and no breaker could be evicted.",
			read: func(s stats) float64 { return float64(s.Overflow) },
		},
		{
			name: "unguarded_total", kind: counter,
			help: "Calls that no breaker guarded because the key function or the matcher panicked.",
			read: func(s stats) float64 { return float64(s.Unguarded) },
		},
	}
}

func oneSeries(read func(*breaker.Snapshot) float64) []seriesDef { return []seriesDef{{read: read}} }

func reasonSeries(of func(*breaker.Snapshot) *breaker.ReasonCounts) []seriesDef {
	return []seriesDef{
		{breaker.ReasonConcurrency.String(), func(s *breaker.Snapshot) float64 { return float64(of(s).Concurrency) }},
		{breaker.ReasonForced.String(), func(s *breaker.Snapshot) float64 { return float64(of(s).Forced) }},
		{breaker.ReasonHalfOpen.String(), func(s *breaker.Snapshot) float64 { return float64(of(s).HalfOpen) }},
		{breaker.ReasonOpen.String(), func(s *breaker.Snapshot) float64 { return float64(of(s).Open) }},
		{breaker.ReasonRamp.String(), func(s *breaker.Snapshot) float64 { return float64(of(s).Ramp) }},
	}
}

// hasFailureRatio reports whether the failure ratio of the window is meaningful. The ratio rule ignores it below
// MinCalls, and the ratio of a single call would trigger alerts. The window of a breaker that is not closed is empty.
func hasFailureRatio(s *breaker.Snapshot) bool { return reachesMinCalls(s, s.Window.Calls()) }

// hasSlowRatio reports whether the slow ratio of the window is meaningful. The slow rule also counts slow calls that
// their callers canceled (B6): while a backend hangs there may be no others.
func hasSlowRatio(s *breaker.Snapshot) bool {
	calls := s.Window.Calls()
	return reachesMinCalls(s, max(calls, calls+s.Window.SlowCanceled)) // counters saturate (B11), so the sum may wrap
}

func reachesMinCalls(s *breaker.Snapshot, calls uint64) bool { return calls > 0 && calls >= s.MinCalls }

func boolValue(on bool) float64 {
	if on {
		return 1
	}
	return 0
}
