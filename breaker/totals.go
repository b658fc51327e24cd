package breaker

import "time"

// totals holds counters over the life of a breaker, except those that a fast success changes. It is guarded by
// Breaker.mu.
type totals struct {
	failures, overloads, ignored, late, slow uint64

	shadow [reasons]uint64 // by Reason: calls that would have been rejected without shadow mode
	// By Rule: openings of a closed breaker, and those under Shadow.
	trips, shadowTrips [rules]uint64
	recoveries         uint64

	lastFailure time.Time
	lastCause   string
	opened      Opening // the last one
	outage      Opening // the last one of a closed breaker

	openedAt  int64 // when the breaker left the closed state; meaningless while it is closed
	notClosed int64 // nanoseconds spent not closed, up to the last closing
}

// add counts an outcome that is not a success.
func (t *totals) add(o Outcome, cause string, at time.Time) {
	switch o {
	case Success: // counted in the window or in Breaker.retired
	case Failure:
		t.failures = satAdd(t.failures, 1)
		t.lastFailure, t.lastCause = at, cause
	case Overload:
		t.overloads = satAdd(t.overloads, 1)
		t.lastFailure, t.lastCause = at, cause
	case Ignored:
		t.ignored = satAdd(t.ignored, 1)
	}
}

// settled returns how many permits have reported something other than a success.
func (t *totals) settled() uint64 { return satAdd(t.failures, t.overloads, t.ignored, t.late) }

// notClosedFor returns how long the breaker was not closed, over its life. ph is the current phase.
func (t *totals) notClosedFor(ph *phase, now int64) time.Duration {
	d := t.notClosed
	if ph.state != Closed {
		d += now - t.openedAt
	}
	return time.Duration(d)
}
