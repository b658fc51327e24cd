// Package prombridge exports the breakers of a group to Prometheus. [NewCollector] returns a collector that reads the
// breakers during a scrape and does no work between scrapes:
//
//	prometheus.MustRegister(prombridge.NewCollector(group))
//
// [NewDurationHistogram] adds a histogram of call durations. Unlike the collector, it costs some time on each call.
//
// # Series
//
// All names begin with grpc_client_breaker_.
//
//	name                                  type       unit     left out
//	state{state}                          gauge               never: 1 for the state in force, 0 for the others
//	override{mode}                        gauge               never: 1 for the mode in force, 0 for the others
//	ready                                 gauge               never: 1 if a call would be admitted now
//	calls_total{outcome}                  counter    calls    never
//	slow_calls_total                      counter    calls    * without SlowCall
//	late_results_total                    counter    calls    never
//	rejections_total{reason}              counter    calls    * ramp without Ramp, concurrency without MaxConcurrent,
//	                                                          forced without an override
//	shadow_rejections_total{reason}       counter    calls    * unless in shadow mode or one is above 0; ramp and
//	                                                          concurrency as above; forced
//	trips_total{rule}                     counter             * consecutive, ratio, slow and custom if the rule is
//	                                                          off; manual
//	shadow_trips_total{rule}              counter             * unless in shadow mode or one is above 0; as above
//	recoveries_total                      counter             never
//	probes_total{result}                  counter    calls    never
//	open_seconds_total                    counter    seconds  never
//	state_entered_timestamp_seconds       gauge      seconds  never
//	open_until_timestamp_seconds          gauge      seconds  unless open; while the mode admits every call
//	outage_started_timestamp_seconds      gauge      seconds  while closed; while the mode admits every call
//	failure_ratio                         gauge      ratio    below MinCalls; unless closed; without a window
//	slow_ratio                            gauge      ratio    below MinCalls; unless closed; * without SlowCall
//	in_flight                             gauge      calls    never
//	fallbacks_total{result}               counter    calls    * unless one is above 0
//	breakers                              gauge               never; of the group
//	evictions_total                       counter             never; of the group
//	overflow_total                        counter    calls    never; of the group
//	unguarded_total                       counter    calls    never; of the group
//	policy_reloads_total{result}          counter             without [WithPolicyReloads]; of the group
//	policy_last_success_timestamp_seconds gauge      seconds  without [WithPolicyReloads]; before the first success
//	call_duration_seconds{outcome}        histogram  seconds  without [NewDurationHistogram]
//
// A breaker has its series from its creation on, and its counters start at 0, so that increase() sees the first event.
// Series that the policy of the breaker cannot raise above 0 are left out. A closed breaker with the default Config has
// 24 or 25. A counter above 0 is never left out, whatever the policy becomes. [WithAllSeries] exports the series that
// have a * above for every breaker.
//
// Some counters may appear with their first event, and increase() then does not see this event: fallbacks_total,
// rule="manual" of trips_total and shadow_trips_total, and those that an override adds, if no scrape comes between the
// override and the first rejected call or trip. A reload that switches a rule on adds its series at 0. Trips and
// rejections stay while a policy or an override admits every call, because that may end at any time.
//
// The series end when the breaker leaves the group, and when it becomes idle ([breaker.WithIdleTimeout]). If a call
// uses an idle breaker again, its counters continue from their last values.
//
// # Shadow mode
//
// Nothing in trips_total, rejections_total, open_until_timestamp_seconds and outage_started_timestamp_seconds comes
// from shadow mode, so alerts on them fire only for calls that are rejected. The last two are absent under ForceClosed
// and EnforcementOff too. The series state, open_seconds_total, recoveries_total and probes_total follow the state
// machine in shadow mode too. Combine them with override{mode}, which shows the mode of an override, or else the one of
// Config.Enforcement.
//
// # Labels
//
// The labels grpc_target, grpc_service, grpc_method and tag hold the breaker's key. A label is empty if the key has no
// such part. Labels and values contain only parts of keys, numbers and fixed words.
//
//	state    closed, half_open, open
//	mode     force_closed, force_open, shadow
//	outcome  failure, ignored, overload, success
//	reason   concurrency, forced, half_open, open, ramp
//	rule     consecutive, custom, manual, ratio, slow
//	result   failure, ignored, lost, success of a probe; failed, served of a fallback; failure, success of a reload
//
// A label value is valid UTF-8 and has at most 1024 bytes, but a key may contain any bytes. A part of a key that does
// not fit is escaped: \xff is an invalid byte, \\ is a backslash, and \# is followed by a hash that replaces the end of
// a part that is too long. A part that fits is unchanged unless it looks escaped, such as the text \xff, which becomes
// \\xff. Two different keys never share a series. Package otelbridge escapes keys in the same way.
package prombridge
