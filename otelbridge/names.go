package otelbridge

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// This file has every name that goes out. There is no semantic convention for circuit breakers yet; these follow the
// request for one, https://github.com/open-telemetry/semantic-conventions/issues/2355, as far as it goes, in a
// namespace of their own. Event names hold nothing dynamic, as the conventions for events ask.

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
	attrRetryAfterMS  = attribute.Key("circuit_breaker.retry_after_ms")

	attrConsecutiveFailures = attribute.Key("circuit_breaker.consecutive_failures")

	// A probe without its outcome would say nothing, and none of the names above means it.
	attrOutcome = attribute.Key("circuit_breaker.outcome")
	// The only one that goes on a span of somebody else's rather than on an event; see tally.
	attrRejectedCount = attribute.Key("circuit_breaker.rejected_count")

	attrRPCMethod     = semconv.RPCMethodKey
	attrRPCStatusCode = semconv.RPCResponseStatusCodeKey
	attrErrorType     = semconv.ErrorTypeKey
)

// schemaURL says which version of the conventions the rpc names are of.
const schemaURL = semconv.SchemaURL

// A Prometheus exporter makes of these what DESIGN.md lists: it turns dots into underscores, appends the unit, and
// _total to counters. Units in braces are annotations, which it drops. State, override, in_flight and breakers are
// up-down counters, because it would append _ratio to a gauge without a unit.
const (
	metricState            = "grpc.client.breaker.state"
	metricOverride         = "grpc.client.breaker.override"
	metricCalls            = "grpc.client.breaker.calls"
	metricSlowCalls        = "grpc.client.breaker.slow_calls"
	metricLateResults      = "grpc.client.breaker.late_results"
	metricRejections       = "grpc.client.breaker.rejections"
	metricShadowRejections = "grpc.client.breaker.shadow_rejections"
	metricTrips            = "grpc.client.breaker.trips"
	metricRecoveries       = "grpc.client.breaker.recoveries"
	metricProbes           = "grpc.client.breaker.probes"
	metricOpen             = "grpc.client.breaker.open"
	metricStateEntered     = "grpc.client.breaker.state_entered_timestamp"
	metricFailureRatio     = "grpc.client.breaker.failure_ratio"
	metricSlowRatio        = "grpc.client.breaker.slow_ratio"
	metricInFlight         = "grpc.client.breaker.in_flight"
	metricFallbacks        = "grpc.client.breaker.fallbacks"
	metricBreakers         = "grpc.client.breaker.breakers"
	metricEvictions        = "grpc.client.breaker.evictions"
	metricOverflow         = "grpc.client.breaker.overflow"
	metricUnguarded        = "grpc.client.breaker.unguarded"
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

// The results of a fallback; those of a probe are outcomes, or:
const (
	resultServed = "served"
	resultFailed = "failed"
	resultLost   = "lost"
)

// rpcStatusCodes are the codes of gRPC as the conventions write them, by number.
var rpcStatusCodes = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
	"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

// rpcMethod is the value of rpc.method, or "" for a key that is not of one method.
func rpcMethod(key breaker.Key) string {
	if key.Service == "" || key.Method == "" {
		return ""
	}
	return text(key.Service + "/" + key.Method)
}

// maxText is how many bytes of a key a telemetry back end is asked to carry, as prombridge has it: a key of a
// megabyte on every event and every series would choke it.
const maxText = 1024

// text returns s as an exporter can carry it: escaped, and if that is longer than maxText, cut off and told apart by
// a hash, a cryptographic one, because whoever makes up keys must not be able to find two that collide.
func text(s string) string {
	out := escaped(s)
	if len(out) <= maxText {
		return out
	}
	sum := sha256.Sum256([]byte(s))
	tail := `\#` + hex.EncodeToString(sum[:16])
	return strings.ToValidUTF8(out[:maxText-len(tail)], "") + tail
}

// escaped returns s as an exporter can carry it. A key may hold any bytes, and an exporter that speaks protobuf
// throws away a whole batch for one string that is not UTF-8. Invalid bytes become \xff, and so that no two keys
// become one, a backslash becomes two.
func escaped(s string) string {
	if utf8.ValidString(s) && !strings.Contains(s, `\`) {
		return s
	}
	const digits = "0123456789abcdef"
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && size == 1:
			b.WriteString(`\x`)
			b.WriteByte(digits[s[0]>>4])
			b.WriteByte(digits[s[0]&15])
		case r == '\\':
			b.WriteString(`\\`)
		default:
			b.WriteString(s[:size])
		}
		s = s[size:]
	}
	return b.String()
}
