package prombridge

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/needs"
)

// This file has every name that appears in Prometheus. Package otelbridge has the same names with dots.

// subsystem is the prefix of all names.
const subsystem = "grpc_client_breaker"

const (
	durationName = "call_duration_seconds"
	durationHelp = "Duration of admitted calls that have ended, by outcome."

	reloadsName = "policy_reloads_total"
	reloadsHelp = "Policy files applied (success) and refused (failure). After a failure the old policy stays in force."

	lastReloadName = "policy_last_success_timestamp_seconds"
	lastReloadHelp = "Unix time at which a policy file was last applied. Absent before the first time."
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
	// series is sorted by label value, so that a registry need not sort, see breakerCache.list.
	series []seriesDef
	needs  needs.Set                    // of all series
	when   func(*breaker.Snapshot) bool // nil: always. It applies with WithAllSeries too
}

// seriesDef is one series of a family. Its label value is the same word that package breaker writes in its JSON.
type seriesDef struct {
	value string
	read  func(*breaker.Snapshot) float64
	needs needs.Set // besides those of the family
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
				{value: breaker.Closed.String(), read: func(s snap) float64 { return boolValue(s.State == breaker.Closed) }},
				{value: breaker.HalfOpen.String(), read: func(s snap) float64 { return boolValue(s.State == breaker.HalfOpen) }},
				{value: breaker.Open.String(), read: func(s snap) float64 { return boolValue(s.State == breaker.Open) }},
			},
		},
		{
			name: "override", kind: gauge, label: "mode",
			help: "1 while this mode is in force, because of an override or of Config.Enforcement, otherwise 0.",
			series: []seriesDef{
				{value: breaker.ForceClosed.String(), read: modeIs(breaker.ForceClosed)},
				{value: breaker.ForceOpen.String(), read: modeIs(breaker.ForceOpen)},
				{value: breaker.Shadow.String(), read: modeIs(breaker.Shadow)},
			},
		},
		{
			name: "ready", kind: gauge,
			help:   "1 if the breaker would admit a call now, otherwise 0. It is 1 after the open period: a probe may run.",
			series: oneSeries(func(s snap) float64 { return boolValue(s.Ready) }),
		},
		{
			name: "calls_total", kind: counter, label: "outcome",
			help: "Admitted calls that have ended, by outcome. Ignored calls do not count for or against the backend.",
			series: []seriesDef{
				{value: breaker.Failure.String(), read: func(s snap) float64 { return float64(s.Failures) }},
				{value: breaker.Ignored.String(), read: func(s snap) float64 { return float64(s.Ignored) }},
				{value: breaker.Overload.String(), read: func(s snap) float64 { return float64(s.Overloads) }},
				{value: breaker.Success.String(), read: func(s snap) float64 { return float64(s.Successes) }},
			},
		},
		{
			name: "slow_calls_total", kind: counter, needs: needs.SlowRule,
			help:   "Calls that took longer than SlowCall. They are in calls_total too.",
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
			series: reasonSeries(needs.Override, func(s snap) *breaker.ReasonCounts { return &s.Rejections }),
		},
		{
			name: "shadow_rejections_total", kind: counter, label: "reason", needs: needs.ShadowRejections,
			help:   "Calls that were admitted only because of shadow mode, by the reason for which they would be rejected.",
			series: reasonSeries(needs.Occurrence, func(s snap) *breaker.ReasonCounts { return &s.ShadowRejections }),
		},
		{
			name: "trips_total", kind: counter, label: "rule",
			help:   "Number of times a closed breaker opened, by rule. Not in shadow mode. Failed probes are in probes_total.",
			series: ruleSeries(func(s snap) *breaker.RuleCounts { return &s.Trips }),
		},
		{
			name: "shadow_trips_total", kind: counter, label: "rule", needs: needs.ShadowTrips,
			help:   "Number of times a closed breaker opened in shadow mode, by rule. These are not in trips_total.",
			series: ruleSeries(func(s snap) *breaker.RuleCounts { return &s.ShadowTrips }),
		},
		{
			name: "recoveries_total", kind: counter,
			help:   "Number of times the breaker closed after having been open.",
			series: oneSeries(func(s snap) float64 { return float64(s.Recoveries) }),
		},
		{
			name: "probes_total", kind: counter, label: "result",
			help: "Probes of the half-open breaker, by result. A failure reopens it. Lost probes did not end in ProbeTimeout.",
			series: []seriesDef{
				{value: "failure", read: func(s snap) float64 { return float64(s.Probes.Failure) }},
				{value: "ignored", read: func(s snap) float64 { return float64(s.Probes.Ignored) }},
				{value: "lost", read: func(s snap) float64 { return float64(s.Probes.Lost) }},
				{value: "success", read: func(s snap) float64 { return float64(s.Probes.Success) }},
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
			series: oneSeries(func(s snap) float64 { return unixSeconds(s.Since) }),
		},
		{
			name: "open_until_timestamp_seconds", kind: gauge, when: needs.OpenUntil,
			help:   "Unix time of the end of the open period. Absent unless open, and while the mode admits every call.",
			series: oneSeries(func(s snap) float64 { return unixSeconds(s.OpenUntil) }),
		},
		{
			name: "outage_started_timestamp_seconds", kind: gauge, when: needs.Outage,
			help:   "Unix time since when the breaker is not closed. Absent while closed, or while the mode admits every call.",
			series: oneSeries(func(s snap) float64 { return unixSeconds(s.Outage.At) }),
		},
		{
			name: "failure_ratio", kind: gauge, when: hasFailureRatio,
			help:   "Share of failures and overloads in the window. Absent below MinCalls, if not closed or without a window.",
			series: oneSeries(func(s snap) float64 { return s.Window.FailureRatio() }),
		},
		{
			name: "slow_ratio", kind: gauge, when: hasSlowRatio, needs: needs.SlowRule,
			help:   "Share of slow calls in the window. Absent below MinCalls, if not closed or without the slow rule.",
			series: oneSeries(func(s snap) float64 { return s.Window.SlowRatio() }),
		},
		{
			name: "in_flight", kind: gauge,
			help:   "Admitted calls that have not ended.",
			series: oneSeries(func(s snap) float64 { return float64(s.InFlight) }),
		},
		{
			name: "fallbacks_total", kind: counter, label: "result", needs: needs.Fallbacks,
			help: "Fallbacks that were tried, by result. After a failed one the caller gets the error of the call.",
			series: []seriesDef{
				{value: "failed", read: func(s snap) float64 { return float64(s.Fallbacks.Failed) }},
				{value: "served", read: func(s snap) float64 { return float64(s.Fallbacks.Served) }},
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

// reasonSeries returns the series of a metric by reason. forced is what the series of ReasonForced needs.
func reasonSeries(forced needs.Set, of func(*breaker.Snapshot) *breaker.ReasonCounts) []seriesDef {
	def := func(r breaker.Reason, needs needs.Set, read func(*breaker.ReasonCounts) uint64) seriesDef {
		return seriesDef{r.String(), func(s *breaker.Snapshot) float64 { return float64(read(of(s))) }, needs}
	}
	type counts = *breaker.ReasonCounts
	return []seriesDef{
		def(breaker.ReasonConcurrency, needs.ConcurrencyLimit, func(c counts) uint64 { return c.Concurrency }),
		def(breaker.ReasonForced, forced, func(c counts) uint64 { return c.Forced }),
		def(breaker.ReasonHalfOpen, needs.Nothing, func(c counts) uint64 { return c.HalfOpen }),
		def(breaker.ReasonOpen, needs.Nothing, func(c counts) uint64 { return c.Open }),
		def(breaker.ReasonRamp, needs.Ramp, func(c counts) uint64 { return c.Ramp }),
	}
}

// ruleSeries has no series for RuleProbe: a failed probe opens a breaker that is not closed, and is in probes_total.
func ruleSeries(of func(*breaker.Snapshot) *breaker.RuleCounts) []seriesDef {
	def := func(r breaker.Rule, needs needs.Set, read func(*breaker.RuleCounts) uint64) seriesDef {
		return seriesDef{r.String(), func(s *breaker.Snapshot) float64 { return float64(read(of(s))) }, needs}
	}
	type counts = *breaker.RuleCounts
	return []seriesDef{
		def(breaker.RuleConsecutive, needs.ConsecutiveRule, func(c counts) uint64 { return c.Consecutive }),
		def(breaker.RuleCustom, needs.CustomRule, func(c counts) uint64 { return c.Custom }),
		def(breaker.RuleManual, needs.Occurrence, func(c counts) uint64 { return c.Manual }),
		def(breaker.RuleRatio, needs.RatioRule, func(c counts) uint64 { return c.Ratio }),
		def(breaker.RuleSlow, needs.SlowRule, func(c counts) uint64 { return c.Slow }),
	}
}

func modeIs(mode breaker.Mode) func(*breaker.Snapshot) float64 {
	return func(s *breaker.Snapshot) float64 { return boolValue(s.Mode == mode) }
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

func unixSeconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

func boolValue(on bool) float64 {
	if on {
		return 1
	}
	return 0
}
