package prombridge

import "github.com/grpcircuit/grpcircuit/breaker"

// needs is the set of things without which a series cannot rise above 0. A series that needs something that its breaker
// does not have is left out, because it would only take space in every store. A counter above 0 is never left out.
// Package otelbridge has the same table.
type needs uint16

const (
	slowRule         needs = 1 << iota // Config.SlowCall
	consecutiveRule                    // Config.ConsecutiveFailures
	ratioRule                          // Config.FailureRatio
	customRule                         // breaker.WithTrip
	ramp                               // Config.Ramp
	concurrencyLimit                   // Config.MaxConcurrent
	override                           // an override in force
	shadowRejections                   // shadow mode, or a count above 0 of the same metric
	shadowTrips                        // shadow mode, or a count above 0 of the same metric
	fallbacks                          // a count above 0 of the same metric
	occurrence                         // a count above 0; no breaker has it

	nothing    needs = 0
	everything needs = 1<<16 - 1
)

// provided returns what the breaker with snapshot s has.
func provided(s *breaker.Snapshot) (has needs) {
	add := func(n needs, ok bool) {
		if ok {
			has |= n
		}
	}
	shadow := s.Mode == breaker.Shadow
	add(slowRule, s.Config.SlowCall > 0)
	add(consecutiveRule, s.Config.ConsecutiveFailures > 0)
	add(ratioRule, s.Config.FailureRatio > 0)
	add(customRule, s.CustomRule)
	add(ramp, s.Config.Ramp > 0)
	add(concurrencyLimit, s.Config.MaxConcurrent > 0)
	add(override, s.Override.Mode != 0)
	add(shadowRejections, shadow || s.ShadowRejections.Total() > 0)
	add(shadowTrips, shadow || s.ShadowTrips.Total() > 0)
	add(fallbacks, s.Fallbacks.Served > 0 || s.Fallbacks.Failed > 0)
	return has
}
