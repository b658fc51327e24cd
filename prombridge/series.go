package prombridge

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// keyLabels are the labels that every series of a breaker has. See sheet.filled for their values.
var keyLabels = [keyParts]string{"grpc_target", "grpc_service", "grpc_method", "tag"}

const keyParts = 4

// labelNames returns keyLabels, and label unless that is "".
func labelNames(label string) []string {
	names := keyLabels[:]
	if label != "" {
		names = append(names, label) // in a new array: keyLabels is full
	}
	return names
}

// family is a metric that each breaker has.
type family struct {
	name, help string
	kind       prometheus.ValueType
	label      string // told apart by it; "" for a single series
	// cells in the order of their label values, so that a registry need not sort them: see roster.
	cells []cell
	when  func(*breaker.Snapshot) bool // nil: always there (O4)
}

// cell is one series of a family. The label values are those that package breaker writes in its JSON too.
type cell struct {
	value string
	read  func(*breaker.Snapshot) float64
}

const (
	counter = prometheus.CounterValue
	gauge   = prometheus.GaugeValue
)

// perBreaker is all that is shown of a breaker, in the order of DESIGN.md.
func perBreaker() []family {
	type snap = *breaker.Snapshot
	return []family{
		{
			name: "state", kind: gauge, label: "state",
			help: "State of the breaker: exactly one of closed, half_open and open is 1. An override that forces it shows here.",
			cells: []cell{
				{breaker.Closed.String(), func(s snap) float64 { return is(s.State == breaker.Closed) }},
				{breaker.HalfOpen.String(), func(s snap) float64 { return is(s.State == breaker.HalfOpen) }},
				{breaker.Open.String(), func(s snap) float64 { return is(s.State == breaker.Open) }},
			},
		},
		{
			name: "override", kind: gauge, label: "mode",
			help: "1 while somebody holds the breaker in this mode by hand, else 0.",
			cells: []cell{
				{breaker.ForceClosed.String(), func(s snap) float64 { return is(s.Override.Mode == breaker.ForceClosed) }},
				{breaker.ForceOpen.String(), func(s snap) float64 { return is(s.Override.Mode == breaker.ForceOpen) }},
				{breaker.Shadow.String(), func(s snap) float64 { return is(s.Override.Mode == breaker.Shadow) }},
			},
		},
		{
			name: "calls_total", kind: counter, label: "outcome",
			help: "Calls that were let through and have ended, by verdict. Ignored ones say nothing about the callee.",
			cells: []cell{
				{breaker.Failure.String(), func(s snap) float64 { return float64(s.Failures) }},
				{breaker.Ignored.String(), func(s snap) float64 { return float64(s.Ignored) }},
				{breaker.Overload.String(), func(s snap) float64 { return float64(s.Overloads) }},
				{breaker.Success.String(), func(s snap) float64 { return float64(s.Successes) }},
			},
		},
		{
			name: "slow_calls_total", kind: counter,
			help:  "Calls that took longer than SlowCall; each is in calls_total too. Always 0 without SlowCall.",
			cells: single(func(s snap) float64 { return float64(s.SlowCalls) }),
		},
		{
			name: "late_results_total", kind: counter,
			help:  "Calls that ended after the breaker had changed state, or as probes after their lease. They are not in calls_total.",
			cells: single(func(s snap) float64 { return float64(s.Late) }),
		},
		{
			name: "rejections_total", kind: counter, label: "reason",
			help:  "Calls that were turned away and not made, by reason.",
			cells: reasons(func(s snap) *breaker.ReasonCounts { return &s.Rejections }),
		},
		{
			name: "shadow_rejections_total", kind: counter, label: "reason",
			help:  "Calls that were let through only because of a shadow override, by the reason to turn them away.",
			cells: reasons(func(s snap) *breaker.ReasonCounts { return &s.ShadowRejections }),
		},
		{
			name: "trips_total", kind: counter, label: "rule",
			help: "Times that the breaker opened, by the rule that opened it.",
			cells: []cell{
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
			help:  "Times that the breaker closed after having been open.",
			cells: single(func(s snap) float64 { return float64(s.Recoveries) }),
		},
		{
			name: "probes_total", kind: counter, label: "result",
			help: "Calls that tried whether the callee is back, by result. Lost ones did not end within ProbeTimeout.",
			cells: []cell{
				{"failure", func(s snap) float64 { return float64(s.Probes.Failure) }},
				{"ignored", func(s snap) float64 { return float64(s.Probes.Ignored) }},
				{"lost", func(s snap) float64 { return float64(s.Probes.Lost) }},
				{"success", func(s snap) float64 { return float64(s.Probes.Success) }},
			},
		},
		{
			name: "open_seconds_total", kind: counter,
			help:  "Time that the breaker was open or half-open, overrides aside. Its rate is the share of time.",
			cells: single(func(s snap) float64 { return s.NotClosed.Seconds() }),
		},
		{
			name: "state_entered_timestamp_seconds", kind: gauge,
			help:  "Unix time of the last change of state, overrides aside; of the breaker's making if there was none.",
			cells: single(func(s snap) float64 { return float64(s.Since.UnixNano()) / 1e9 }),
		},
		{
			name: "failure_ratio", kind: gauge, when: telling,
			help:  "Share of failures and overloads in the window. Absent below MinCalls, unless closed, and if no rule looks at the window.",
			cells: single(func(s snap) float64 { return s.Window.FailureRatio() }),
		},
		{
			name: "slow_ratio", kind: gauge, when: slowTelling,
			help:  "Share of slow calls in the window. Absent below MinCalls, unless closed, and if no rule looks at the window.",
			cells: single(func(s snap) float64 { return s.Window.SlowRatio() }),
		},
		{
			name: "in_flight", kind: gauge,
			help:  "Calls that were let through and have not ended.",
			cells: single(func(s snap) float64 { return float64(s.InFlight) }),
		},
		{
			name: "fallbacks_total", kind: counter, label: "result",
			help: "Fallbacks tried in place of a call: served ones answered, failed ones left the caller with the error.",
			cells: []cell{
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

func perGroup() []groupFamily {
	type stats = breaker.GroupStats
	return []groupFamily{
		{
			name: "breakers", kind: gauge,
			help: "Breakers in the group. Idle ones count until their memory is freed, but have no series.",
			read: func(s stats) float64 { return float64(s.Breakers) },
		},
		{
			name: "evictions_total", kind: counter,
			help: "Breakers that made room for a new key in a full group. Their series end.",
			read: func(s stats) float64 { return float64(s.Evictions) },
		},
		{
			name: "overflow_total", kind: counter,
			help: "Times that a key had to share the overflow breaker because the group was full and no breaker could go.",
			read: func(s stats) float64 { return float64(s.Overflow) },
		},
		{
			name: "unguarded_total", kind: counter,
			help: "Calls that went past every breaker because the key function panicked.",
			read: func(s stats) float64 { return float64(s.Unguarded) },
		},
	}
}

func single(read func(*breaker.Snapshot) float64) []cell { return []cell{{read: read}} }

func reasons(of func(*breaker.Snapshot) *breaker.ReasonCounts) []cell {
	return []cell{
		{breaker.ReasonConcurrency.String(), func(s *breaker.Snapshot) float64 { return float64(of(s).Concurrency) }},
		{breaker.ReasonForced.String(), func(s *breaker.Snapshot) float64 { return float64(of(s).Forced) }},
		{breaker.ReasonHalfOpen.String(), func(s *breaker.Snapshot) float64 { return float64(of(s).HalfOpen) }},
		{breaker.ReasonOpen.String(), func(s *breaker.Snapshot) float64 { return float64(of(s).Open) }},
		{breaker.ReasonRamp.String(), func(s *breaker.Snapshot) float64 { return float64(of(s).Ramp) }},
	}
}

// telling reports whether the failure ratio of the window means something. The ratio rule does not look at it before,
// and the ratio of one call would set off alerts. The window of a breaker that is not closed is empty.
func telling(s *breaker.Snapshot) bool { return enough(s, s.Window.Calls()) }

// slowTelling is telling for the slow ratio. The slow rule also counts the calls that their callers canceled (B6):
// while a backend hangs there may be no others.
func slowTelling(s *breaker.Snapshot) bool {
	calls := s.Window.Calls()
	return enough(s, max(calls, calls+s.Window.SlowCanceled)) // max: counters saturate (B11), and a sum would wrap
}

func enough(s *breaker.Snapshot, calls uint64) bool { return calls > 0 && calls >= s.MinCalls }

func is(on bool) float64 {
	if on {
		return 1
	}
	return 0
}
