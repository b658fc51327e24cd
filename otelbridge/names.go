package otelbridge

import (
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/labels"
)

// This file has every name that appears in OpenTelemetry. There is no semantic convention for circuit breakers yet. If
// https://github.com/open-telemetry/semantic-conventions/issues/2355 proposes a name, it is used here, in a separate
// namespace. Event names contain nothing dynamic, as the conventions for events demand.

// ScopeName is the name of the instrumentation scope of all spans, log records and metrics of this package.
const ScopeName = "github.com/grpcircuit/grpcircuit/otelbridge"

const (
	eventStateChange = "circuit_breaker.state_change"
	eventRejected    = "circuit_breaker.rejected" // the span of WithRejectedSpans has this name too
	eventProbe       = "circuit_breaker.probe"
)

const (
	attrName          = attribute.Key("circuit_breaker.name")
	attrState         = attribute.Key("circuit_breaker.state")
	attrPreviousState = attribute.Key("circuit_breaker.previous_state")
	attrReason        = attribute.Key("circuit_breaker.reason")
	attrRule          = attribute.Key("circuit_breaker.rule")
	attrFailureRatio  = attribute.Key("circuit_breaker.failure_ratio")
	attrSlowRatio     = attribute.Key("circuit_breaker.slow_ratio")
	attrOverride      = attribute.Key("circuit_breaker.override")
	attrOpenMS        = attribute.Key("circuit_breaker.open_ms")
	attrCause         = attribute.Key("circuit_breaker.cause")
	attrCalls         = attribute.Key("circuit_breaker.calls")
	attrRetryAfterMS  = attribute.Key("circuit_breaker.retry_after_ms")

	attrOverrideBy      = attribute.Key("circuit_breaker.override_by")
	attrOverrideReason  = attribute.Key("circuit_breaker.override_reason")
	attrOverrideChanged = attribute.Key("circuit_breaker.override_changed")

	attrConsecutiveFailures = attribute.Key("circuit_breaker.consecutive_failures")

	// The outcome of a probe, which none of the names above fits.
	attrOutcome = attribute.Key("circuit_breaker.outcome")
	// This attribute is on the caller's span and not on an event, see rejectionCounts.
	attrRejectedCount = attribute.Key("circuit_breaker.rejected_count")

	attrRPCMethod     = semconv.RPCMethodKey
	attrRPCStatusCode = semconv.RPCResponseStatusCodeKey
	attrErrorType     = semconv.ErrorTypeKey
)

// schemaURL is the version of the conventions that define the rpc names.
const schemaURL = semconv.SchemaURL

// A Prometheus exporter turns these into the names of prombridge. It turns dots into underscores and appends the unit,
// and _total to counters. Units in braces are annotations, which it drops. State, override, ready, in_flight and
// breakers are up-down counters, because it would append _ratio to a gauge without a unit.
const (
	metricState            = "grpc.client.breaker.state"
	metricOverride         = "grpc.client.breaker.override"
	metricReady            = "grpc.client.breaker.ready"
	metricCalls            = "grpc.client.breaker.calls"
	metricSlowCalls        = "grpc.client.breaker.slow_calls"
	metricLateResults      = "grpc.client.breaker.late_results"
	metricRejections       = "grpc.client.breaker.rejections"
	metricShadowRejections = "grpc.client.breaker.shadow_rejections"
	metricTrips            = "grpc.client.breaker.trips"
	metricShadowTrips      = "grpc.client.breaker.shadow_trips"
	metricRecoveries       = "grpc.client.breaker.recoveries"
	metricProbes           = "grpc.client.breaker.probes"
	metricOpen             = "grpc.client.breaker.open"
	metricStateEntered     = "grpc.client.breaker.state_entered_timestamp"
	metricOpenUntil        = "grpc.client.breaker.open_until_timestamp"
	metricOutageStarted    = "grpc.client.breaker.outage_started_timestamp"
	metricFailureRatio     = "grpc.client.breaker.failure_ratio"
	metricSlowRatio        = "grpc.client.breaker.slow_ratio"
	metricInFlight         = "grpc.client.breaker.in_flight"
	metricFallbacks        = "grpc.client.breaker.fallbacks"
	metricBreakers         = "grpc.client.breaker.breakers"
	metricEvictions        = "grpc.client.breaker.evictions"
	metricOverflow         = "grpc.client.breaker.overflow"
	metricUnguarded        = "grpc.client.breaker.unguarded"
	metricReloads          = "grpc.client.breaker.policy_reloads"
	metricLastReload       = "grpc.client.breaker.policy_last_success_timestamp"
)

const (
	unitSeconds  = "s"
	unitRatio    = "1"
	unitBreaker  = "{breaker}"
	unitCall     = "{call}"
	unitResult   = "{result}"
	unitTrip     = "{trip}"
	unitRecovery = "{recovery}"
	unitProbe    = "{probe}"
	unitReload   = "{reload}"
)

const (
	labelTarget  = attribute.Key("grpc.target")
	labelService = attribute.Key("grpc.service")
	labelMethod  = attribute.Key("grpc.method")
	labelTag     = attribute.Key("tag")

	labelState   = attribute.Key("state")
	labelMode    = attribute.Key("mode")
	labelOutcome = attribute.Key("outcome")
	labelReason  = attribute.Key("reason")
	labelRule    = attribute.Key("rule")
	labelResult  = attribute.Key("result")
)

// The results of a fallback are served and failed. Those of a probe are outcomes or lost, and those of a reload
// outcomes.
const (
	resultServed = "served"
	resultFailed = "failed"
	resultLost   = "lost"
)

// rpcMethod returns the value of rpc.method. It is empty for a key that does not name one method.
func rpcMethod(key breaker.Key) string {
	if key.Service == "" || key.Method == "" {
		return ""
	}
	return labels.Value(key.Service + "/" + key.Method)
}
