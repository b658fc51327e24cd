// Package needs decides which series of a breaker both bridges leave out: series that its policy cannot raise above 0,
// and series of an outage while the mode admits every call.
package needs

import "github.com/grpcircuit/grpcircuit/breaker"

// Set is a set of conditions for a series to rise above 0. A series is left out if its breaker does not meet all of
// them, because it would only take space in every store. A counter above 0 is never left out.
type Set uint16

const (
	SlowRule         Set = 1 << iota // Config.SlowCall
	ConsecutiveRule                  // Config.ConsecutiveFailures
	RatioRule                        // Config.FailureRatio
	CustomRule                       // breaker.WithTrip
	Ramp                             // Config.Ramp
	ConcurrencyLimit                 // Config.MaxConcurrent
	Override                         // an override in force
	ShadowRejections                 // shadow mode, or a count above 0 of the same metric
	ShadowTrips                      // shadow mode, or a count above 0 of the same metric
	Fallbacks                        // a count above 0 of the same metric
	Occurrence                       // a count above 0; Of never returns it

	Nothing    Set = 0
	Everything Set = 1<<16 - 1
)

// OpenUntil reports whether the end of an open period is to be shown. An alert on it must fire only if calls are
// rejected, so it is not shown while the mode admits every call.
func OpenUntil(s *breaker.Snapshot) bool { return s.Underlying == breaker.Open && !admitsAll(s.Mode) }

// Outage is like OpenUntil, for the start of an outage.
func Outage(s *breaker.Snapshot) bool { return s.Underlying != breaker.Closed && !admitsAll(s.Mode) }

func admitsAll(m breaker.Mode) bool { return m == breaker.Shadow || m == breaker.ForceClosed }

// Of returns the conditions that the breaker with snapshot s meets.
func Of(s *breaker.Snapshot) (has Set) {
	add := func(n Set, ok bool) {
		if ok {
			has |= n
		}
	}
	shadow := s.Mode == breaker.Shadow
	add(SlowRule, s.Config.SlowCall > 0)
	add(ConsecutiveRule, s.Config.ConsecutiveFailures > 0)
	add(RatioRule, s.Config.FailureRatio > 0)
	add(CustomRule, s.CustomRule)
	add(Ramp, s.Config.Ramp > 0)
	add(ConcurrencyLimit, s.Config.MaxConcurrent > 0)
	add(Override, s.Override.Mode != 0)
	add(ShadowRejections, shadow || s.ShadowRejections.Total() > 0)
	add(ShadowTrips, shadow || s.ShadowTrips.Total() > 0)
	add(Fallbacks, s.Fallbacks.Served > 0 || s.Fallbacks.Failed > 0)
	return has
}
