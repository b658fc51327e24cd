// Package otelbridge exports the events and metrics of circuit breakers to OpenTelemetry. New returns hooks that write
// events to traces or logs. RegisterMetrics exports the metrics of a group.
//
//	guard, err := interceptor.New(group, interceptor.WithHooks(otelbridge.New()))
//	registration, err := otelbridge.RegisterMetrics(group)
//
// The package uses only the API of OpenTelemetry. The program chooses the SDK, the exporters and the sampling. Without
// an SDK nothing is recorded, and the cost is close to zero.
//
// # Which span gets the events
//
// Span events are added to the span in the context that the Guard's interceptor receives. Which span that is depends on
// the instrumentation that makes the spans of calls.
//
// otelgrpc makes a span for each attempt, in a stats handler inside all interceptors. So the span that a guard sees is
// the caller's: the span of the request or job that makes the call. It gets the events of all calls made under it. A
// rejected call has no span, because there is no attempt; WithRejectedSpans makes one. If the caller has no span,
// nothing is recorded.
//
// The plugin of grpc, google.golang.org/grpc/stats/opentelemetry, makes a span for each call in an interceptor. Its
// name is "Sent." and the method. The spans of attempts are its children. Interceptors run in the order of the
// connection's options:
//
//	conn, err := grpc.NewClient(target, append([]grpc.DialOption{
//		opentelemetry.DialOption(telemetry), // before the guard
//		grpc.WithTransportCredentials(creds),
//	}, guard.DialOptions()...)...)
//
// If the plugin is before the guard, the events of a call are on its "Sent." span. A rejected call has such a span too,
// which ends with an error, and the plugin's grpc.client.call.duration counts rejections. If the plugin is after the
// guard, the events are on the caller's span, and a rejected call has no span, as with otelgrpc.
//
// A transition is an event on the span of the call that caused it. If that span has already ended, the event is lost to
// the trace. This happens with a stream that outlives its caller's span. Metrics and log events still show the
// transition.
//
// # Events
//
//	circuit_breaker.state_change  a transition: name, state, previous_state, rule, cause, the counts that the rule
//	                              compares, override, override_by, override_reason, open_ms; or a change of the
//	                              override, with override_changed
//	circuit_breaker.rejected      a rejected call: name, state, reason, override, override_by, override_reason,
//	                              retry_after_ms, and what opened the breaker: rule, cause, the counts that the rule
//	                              compares
//	circuit_breaker.probe         the end of a probe of a half-open breaker: name, state, outcome,
//	                              rpc.response.status_code
//
// The full attribute names are circuit_breaker.name and so on, unless another namespace is given. An event has
// rpc.method too if its breaker guards one method.
//
//	name            the key of the breaker: "dns:///orders:443 shop.Orders/Get"
//	state           closed, half_open or open: after the transition, or when the call was made
//	previous_state  the state before the transition
//	reason          open, half_open, ramp, forced or concurrency
//	rule            what opened the breaker: consecutive, ratio, slow, custom or probe; manual for Trip and Reset
//	cause           of the call that opened the breaker: the name of its status code, or "panic"; absent if there is none
//	failure_ratio   of the calls in the window, if rule is ratio; otherwise absent
//	slow_ratio      of the calls in the window, if rule is slow; otherwise absent
//	calls           in the window, if rule is ratio or slow; otherwise absent
//	consecutive_failures  the length of the failure streak, if rule is consecutive; otherwise absent
//	override        shadow, force_open or force_closed, if one is in force; otherwise absent. In shadow mode no call is
//	                rejected, although the state is open. A rejection has it only if the override rejects the call.
//	override_by     who set the override; "policy" if the mode comes from Config.Enforcement
//	override_reason the reason that this person gave
//	override_changed  true if an override was set, or cleared if the event has no override; the state stays as it is
//	open_ms         the length of the open period that begins
//	retry_after_ms  the time until the breaker may admit a call; absent if it is not known
//	outcome         success, failure, overload or ignored
//
// Durations are rounded up to whole milliseconds. The names of keys are escaped in the same way as the labels of
// metrics (see Metrics). A probe has an event when its outcome is reported, even after its lease. A probe that never
// reports one, or whose call panics, has no event. Fallbacks have no event. The rejection or the failed RPC before the
// fallback is already recorded, and the metrics count the results of fallbacks. No event contains an error message,
// request content, metadata or the reason passed to Trip. The author and the reason of an override are in events, so
// that the person on call sees who forced a breaker and why. So do not put anything secret in an Override.
//
// The SDK keeps 128 events for each span and drops the oldest. Many rejected calls could displace the transition that
// explains them. So only the first 8 rejections of a span are events. The attribute circuit_breaker.rejected_count on
// the span itself is the number of all its rejections so far. The hooks keep the counts of the 1024 spans that had
// rejections most recently. For other spans, they read the count from the span if it is a span of the SDK. Otherwise
// the count starts again at zero. Give all guards the same hooks, so that they share one count for each span.
//
// OpenTelemetry is phasing out the span-event API. WithLoggerProvider sends the same events as log records instead.
//
// # Metrics
//
// RegisterMetrics exports the same series as package prombridge, under OpenTelemetry names: dots in the prefix and in
// attributes, and neither "_total" nor a unit in the name. The Prometheus exporter of OpenTelemetry turns each of them
// into the name that prombridge uses, so use one of the two packages and not both. All series of a breaker have the
// attributes grpc.target, grpc.service, grpc.method and tag, which are empty if the key has no such part. All names
// begin with grpc.client.breaker.
//
//	name                           type             unit        left out
//	state{state}                   up-down counter  {breaker}   never: 1 for the state in force, 0 for the others
//	override{mode}                 up-down counter  {breaker}   never: 1 for the mode in force, 0 for the others
//	ready                          up-down counter  {breaker}   never: 1 if a call would be admitted now
//	calls{outcome}                 counter          {call}      never
//	slow_calls                     counter          {call}      * without SlowCall
//	late_results                   counter          {result}    never
//	rejections{reason}             counter          {call}      * ramp without Ramp, concurrency without MaxConcurrent,
//	                                                            forced without an override
//	shadow_rejections{reason}      counter          {call}      * unless in shadow mode or one is above 0; ramp and
//	                                                            concurrency as above; forced
//	trips{rule}                    counter          {trip}      * consecutive, ratio, slow and custom if the rule is
//	                                                            off; manual
//	shadow_trips{rule}             counter          {trip}      * unless in shadow mode or one is above 0; as above
//	recoveries                     counter          {recovery}  never
//	probes{result}                 counter          {probe}     never
//	open                           counter          s           never
//	state_entered_timestamp        gauge            s           never
//	open_until_timestamp           gauge            s           unless open; while the mode admits every call
//	outage_started_timestamp       gauge            s           while closed; while the mode admits every call
//	failure_ratio                  gauge            1           below MinCalls; unless closed; without a window
//	slow_ratio                     gauge            1           below MinCalls; unless closed; * without SlowCall
//	in_flight                      up-down counter  {call}      never
//	fallbacks{result}              counter          {call}      * unless one is above 0
//	breakers                       up-down counter  {breaker}   never; of the group
//	evictions                      counter          {breaker}   never; of the group
//	overflow                       counter          {call}      never; of the group
//	unguarded                      counter          {call}      never; of the group
//	policy_reloads{result}         counter          {reload}    without WithPolicyReloads; of the group
//	policy_last_success_timestamp  gauge            s           without WithPolicyReloads; before the first success
//
// A breaker has its series from its creation on, and its counters start at 0. Series that the policy of the breaker
// cannot raise above 0 are left out. A closed breaker with the default Config has 24 or 25. A counter that was above 0,
// or that was reported once, is not left out any more. Some counters may appear with their first event: fallbacks,
// trips{manual}, shadow_trips{manual}, and those that an override adds, if no collection comes between the override and
// the first rejected call or trip. WithAllSeries exports the series that have a * above for every breaker. A breaker
// that is idle (breaker.WithIdleTimeout) has no series.
//
// Nothing in trips, rejections, open_until_timestamp and outage_started_timestamp comes from shadow mode, so alerts on
// them fire only for calls that are rejected. The last two are absent under ForceClosed and EnforcementOff too. The
// series state, open, recoveries and probes follow the state machine in shadow mode too. Combine them with override,
// which shows the mode of an override, or else the one of Config.Enforcement.
//
// There is no histogram of call durations. With OpenTelemetry, rpc.client.call.duration of otelgrpc or
// grpc.client.attempt.duration of grpc's plugin provides it.
//
// An attribute is valid UTF-8 and has at most 1024 bytes, but a key may contain any bytes. A part of a key that does
// not fit is escaped: \xff is an invalid byte, \\ is a backslash, and \# is followed by a hash that replaces the end of
// a part that is too long. A part that fits is unchanged unless it looks escaped, such as the text \xff, which becomes
// \\xff. Two different keys never share a series. Package prombridge escapes keys in the same way.
//
// Counters are totals for a key. They continue if the breaker of a key was evicted, removed or idle and the key gets a
// breaker again: RegisterMetrics keeps the totals of 10 000 keys without a breaker. Counts between the last collection
// and an eviction are lost. Readers with delta temporality need WithDeltaTemporality. The SDK forgets a series that was
// missing from a collection, and would count its total twice. Register a group once, for the lifetime of the provider.
//
// The SDK keeps the first 2000 attribute sets of an instrument and combines all others into one with the attribute
// otel.metric.overflow. The calls of 500 breakers reach that limit, and the states of 666. Breakers that are not closed
// or have an override are reported first, and so are the counters of breakers that ever were. The limit therefore hides
// healthy breakers. Above the limit the overflow series may fall when a breaker opens for the first time, or when one
// of its series is reported for the first time. A program with more breakers raises the limit:
//
//	metric.NewMeterProvider( // of go.opentelemetry.io/otel/sdk/metric
//		metric.WithReader(reader),
//		metric.WithCardinalityLimit(100_000),
//	)
package otelbridge
