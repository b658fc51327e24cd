// Package otelbridge reports to OpenTelemetry what circuit breakers do: a Bridge writes events to traces or logs, and
// RegisterMetrics makes a group's figures observable.
//
//	guard, err := interceptor.New(group, interceptor.WithObserver(otelbridge.New()))
//	registration, err := otelbridge.RegisterMetrics(group)
//
// It uses the API of OpenTelemetry only. Which SDK runs below it, where its data goes and how much of it is sampled
// is the program's choice; without an SDK nothing happens, at next to no cost.
//
// # Which span gets the events
//
// Span events go on the span in the context of the call, as the Guard's interceptor gets it. Which one that is
// depends on what makes the spans of calls.
//
// otelgrpc makes them in a stats handler, one for each attempt, inside all interceptors. So the span that a guard
// sees is the caller's: that of the request or job which makes the call. It has the events of all calls made under
// it. A rejected call has no span of its own, for there is no attempt: WithRejectedSpans gives it one. Where the
// caller has no span, nothing is recorded.
//
// grpc's own plugin, google.golang.org/grpc/stats/opentelemetry, makes a span for each call in an interceptor,
// "Sent." and the method, and those of attempts below that. Interceptors run in the order in which the connection
// gets its options:
//
//	conn, err := grpc.NewClient(target, append([]grpc.DialOption{
//		opentelemetry.DialOption(telemetry), // before the guard
//		grpc.WithTransportCredentials(creds),
//	}, guard.DialOptions()...)...)
//
// With the plugin before the guard, the events of a call are on the "Sent." span of this call, and a rejected call
// has one too, which ends with an error; its grpc.client.call.duration counts rejections. With the plugin after the
// guard, the events are on the caller's span, and a rejected call has none, as with otelgrpc.
//
// A transition goes on the span of the call that caused it. If that span has ended by then, as under a stream that
// outlives its caller's span, the event is lost to the trace; metrics and log events still tell.
//
// # Events
//
//	circuit_breaker.state_change  a transition: name, state, previous_state, rule, the figure that the rule looked at,
//	                              override, open_ms
//	circuit_breaker.rejected      a call was not let through: name, state, reason, retry_after_ms
//	circuit_breaker.probe         how a probe of a half-open breaker went: name, state, outcome, rpc.response.status_code
//
// The attributes are circuit_breaker.name and so on, where no other namespace is given; rpc.method is on every event
// whose breaker guards one method.
//
//	name            the key of the breaker: "dns:///orders:443 shop.Orders/Get"
//	state           closed, half_open or open: after the transition, or when the call was made
//	previous_state  before the transition
//	reason          open, half_open, ramp, forced or concurrency
//	rule            what opened the breaker: consecutive, ratio, slow, custom or probe; manual for Trip and Reset
//	failure_ratio   of the calls in the window, if rule is ratio; absent otherwise
//	slow_ratio      of the calls in the window, if rule is slow; absent otherwise
//	consecutive_failures  the length of the failure streak, if rule is consecutive; absent otherwise
//	override        shadow, force_open or force_closed, if one was in force: under shadow no call is rejected although the
//	                state is open; absent otherwise
//	open_ms         the open period that begins
//	retry_after_ms  how long until the breaker may let a call through; absent where nobody knows
//	outcome         success, failure, overload or ignored
//
// Durations are rounded up to whole milliseconds. A probe has its event once it reports, be it after its lease; one
// that never does, or whose call panics, has none. There is no event for a fallback: the rejection before it has one,
// the failure before it is the RPC's own, and the metrics count how fallbacks went. No event has an error message,
// request content, metadata or the words of Trip.
//
// The SDK keeps 128 events for a span and drops the oldest. So that a batch of rejected calls cannot drive out the
// one event that explains it, a span gets the first 8 rejections as events, and circuit_breaker.rejected_count: an
// attribute on the span itself, of all rejections under it so far. A Bridge remembers the counts of the 1024 spans
// that had rejections last, and finds that of an older one on the span, if it is a span of OpenTelemetry's SDK; on a
// span of another make the count begins anew. For this to be one count, give all guards the same Bridge.
//
// The span-event API is on its way out of OpenTelemetry. WithLoggerProvider sends the same events as log records
// instead.
//
// # Metrics
//
// RegisterMetrics has the series of package prombridge under the names that OpenTelemetry gives them: dots in the
// prefix and in attributes, no "_total" and no unit in the name. OpenTelemetry's exporter for Prometheus turns each
// into the very name that prombridge uses; so take one of the two, not both. All have the attributes grpc.target,
// grpc.service, grpc.method and tag, empty where the key has no such part, except for the last four, which are the
// group's own. A breaker that is idle (breaker.WithIdleTimeout) has no series.
//
//	grpc.client.breaker.state                    up-down counter  by state: 1 for the one it is in, 0 for the others
//	grpc.client.breaker.override                 up-down counter  by mode: 1 for the one in force, 0 for the others
//	grpc.client.breaker.calls                    counter          by outcome: success, failure, overload, ignored
//	grpc.client.breaker.slow_calls               counter
//	grpc.client.breaker.late_results             counter          results of an earlier stay in a state, or of lost probes
//	grpc.client.breaker.rejections               counter          by reason
//	grpc.client.breaker.shadow_rejections        counter          by reason: what shadow mode let through
//	grpc.client.breaker.trips                    counter          by rule
//	grpc.client.breaker.recoveries               counter          times closed after having been open
//	grpc.client.breaker.probes                   counter          by result: success, failure, ignored, lost
//	grpc.client.breaker.open                     counter, s       time spent not closed
//	grpc.client.breaker.state_entered_timestamp  gauge, s         Unix time of the last transition
//	grpc.client.breaker.failure_ratio            gauge            of the window; absent below MinCalls, and if no rule looks at it
//	grpc.client.breaker.slow_ratio               gauge            of the window; absent below MinCalls, and if no rule looks at it
//	grpc.client.breaker.in_flight                up-down counter  permits not yet settled
//	grpc.client.breaker.fallbacks                counter          by result: served, failed
//	grpc.client.breaker.breakers                 up-down counter  breakers in the group
//	grpc.client.breaker.evictions                counter          breakers that made room for another key
//	grpc.client.breaker.overflow                 counter          calls that got the overflow breaker for want of room
//	grpc.client.breaker.unguarded                counter          calls let by because a key function panicked
//
// The histogram of call durations is prombridge's alone: with OpenTelemetry, rpc.client.call.duration of otelgrpc or
// grpc.client.attempt.duration of grpc's plugin has it.
//
// Counters are totals of a key. They go on if its breaker was evicted, removed or idle and the key gets a breaker
// again: RegisterMetrics keeps the totals of 10 000 keys that have no breaker. What a breaker counts between the last
// collection and its eviction is lost. For readers with delta temporality use WithDeltaTemporality: the SDK forgets a
// series that a collection left out, and would count its total twice. Register a group once, for as long as the
// provider lives.
//
// The SDK keeps 2000 attribute sets for an instrument, the first that it gets, and folds the rest into one with the
// attribute otel.metric.overflow. The trips of 333 breakers fill that, and the states of 666. Breakers that are not
// closed or have an override are reported first, and counters of those that ever were, so the limit hides healthy
// ones. Above the limit the overflow series may fall when a breaker opens for the first time. A program with more
// breakers raises it:
//
//	metric.NewMeterProvider(metric.WithReader(reader), metric.WithCardinalityLimit(100_000)) // go.opentelemetry.io/otel/sdk/metric
package otelbridge
