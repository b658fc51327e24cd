// Package breaker is a circuit breaker. It stops calls to a backend that fails, and later admits a few calls to find
// out whether the backend has recovered. It does not depend on gRPC and imports only the standard library.
//
//	                a rule fires, Trip
//	  ┌────────┐ ─────────────────────────▶ ┌──────┐ ◀── a call before the open period ends
//	  │ Closed │                            │ Open │ ───▶ is rejected (ReasonOpen)
//	  └────────┘ ◀──────────┐    ┌───────── └──────┘
//	    ▲    │     Reset    │    │              ▲
//	    └────┘              │    │ the first    │ a probe fails or is slow, Trip:
//	10% to 100% of the      │    │ call after   │ the next open period is longer
//	calls, if Ramp is set   │    ▼ the period   │
//	                     ┌──────────┐ ──────────┘
//	                     │ HalfOpen │ ◀── a call while MaxProbes probes are in flight
//	                     └──────────┘ ───▶ is rejected (ReasonHalfOpen)
//	         SuccessesToClose probes in a row succeed
//
// A [Group] keeps one [Breaker] for each [Key]. Collectors and the live page show the breakers of a group, and not
// those of [New]. [Breaker.Do] guards a function call. [Breaker.Acquire] and [Permit.Done] guard anything else.
// [Config] sets when a breaker opens and how it recovers; its zero value is a good default. [WithListener] adds a
// function that is called on each transition. [Breaker.Snapshot] returns the state and the counters of one instant. An
// [Override] forces a breaker open or closed, or runs it in shadow mode.
//
// # Terms
//
//   - key: names what a breaker guards, for example a method of a target.
//   - permit: the permission to make one call. [Breaker.Acquire] returns it.
//   - outcome: success, failure, overload or ignored.
//   - settle: to report the outcome of a permit.
//   - rejection: a call that the breaker did not admit.
//   - generation: one period in one state, from one transition to the next. Generations are numbered from 1.
//   - open period: how long the breaker stays open.
//   - window: the time for which an outcome counts, see Config.Window.
//   - failure streak: failures without a success between them.
//   - burst: failures, overloads or slow calls that follow one another within 10 ms and may have one cause.
//   - probe: a call that a half-open breaker admits to find out whether the backend has recovered.
//   - lease: the time for which a probe holds its slot, Config.ProbeTimeout.
//   - failed recovery: a probe that failed, or a breaker that opened again soon after it closed. See Config.Backoff.
//   - override: a mode that somebody set: force open, force closed or shadow.
//   - stripe: one of several sets of counters, so that cores do not write to the same memory.
//
// # Guarantees
//
// A result counts only if the breaker has not changed state since the call began. Otherwise it is recorded as late
// and decides nothing. A probe holds its slot for at most Config.ProbeTimeout, whatever happens to its call, so a
// half-open breaker cannot get stuck. Reading a breaker does not change it. Listeners and custom rules run without any
// lock held.
//
// The package starts no goroutine and no timer. An open breaker becomes half-open when a call arrives after the open
// period. Decisions use the monotonic clock, so changes of the wall clock have no effect.
//
// While a breaker is closed, a successful call takes no lock and allocates nothing. There is one exception: if a rule
// uses the window, one call in each tenth of Config.Window takes the breaker's lock for some tens of nanoseconds, to
// move the window. A breaker that many cores call at once gets striped counters, about 400 bytes for each core. A
// sync.Pool assigns them to cores, so a call right after a garbage collection may allocate.
//
// # For writers of guards
//
// A guard acquires permits for calls and decides whether an error is the backend's fault; package interceptor is one.
// These exist for guards, and other users do not need them: [Permit.InDoubt], [Permit.SignOfLife], [Breaker.Evicted],
// [Breaker.CountFallback] and [Group.CountUnguarded].
package breaker
