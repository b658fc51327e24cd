// Package breaker is a circuit breaker: it stops calls to a backend that fails, and lets a few through later to see
// whether it has recovered. It knows nothing of gRPC and imports the standard library only.
//
//	                a rule fires, Trip
//	  ┌────────┐ ─────────────────────────▶ ┌──────┐ ◀── a call before the period is over
//	  │ Closed │                            │ Open │ ───▶ is rejected (ReasonOpen)
//	  └────────┘ ◀──────────┐    ┌───────── └──────┘
//	    ▲    │     Reset    │    │              ▲
//	    └────┘              │    │ the first    │ a probe fails or is slow, Trip:
//	10% to 100% of the      │    │ call after   │ the next period is longer
//	calls, if Ramp is set   │    ▼ the period   │
//	                     ┌──────────┐ ──────────┘
//	                     │ HalfOpen │ ◀── a call while MaxProbes are out
//	                     └──────────┘ ───▶ is rejected (ReasonHalfOpen)
//	         SuccessesToClose probes in a row succeed
//
// A [Group] keeps one [Breaker] for each [Key]; [Breaker.Do] guards a function call, [Breaker.Acquire] and
// [Permit.Done] anything else. [Config] says when a breaker opens and how it recovers; its zero value is a sound
// default. [Listener] hears of transitions, [Breaker.Snapshot] tells all there is to know at one instant, [Override]
// sets the judgement aside.
//
// # What it promises
//
// Every result is judged in the stay that its call was admitted in: one that comes later is late, is counted as that,
// and neither opens nor closes anything. A probe holds its slot for Config.ProbeTimeout at most, whatever becomes of
// its call, so a half-open breaker cannot get stuck. Reading changes nothing. Listeners and custom rules run
// outside every lock.
//
// Nothing here starts a goroutine or a timer; an open breaker goes half-open when a call asks after its period is
// over. Decisions follow the monotonic clock, so setting the wall clock does nothing. While a breaker is closed, a
// call that succeeds takes no lock and allocates nothing; where a rule looks at the window, ten times per Window one
// such call takes the breaker's lock for some tens of nanoseconds, to let it slide. A breaker that many cores call at
// once spreads its counters over some 400 bytes for each of them, through a sync.Pool, which begins anew after a
// garbage collection.
package breaker
