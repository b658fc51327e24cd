package breaker

import (
	"math"
	"sort"
	"time"
)

// backoff counts failed recoveries, which lengthen the open period (B17). It is guarded by Breaker.mu.
//
// A recovery fails if a probe fails, or if the breaker opens again soon after it closed, and few calls succeeded in
// between. Without the second part, a backend that answers a probe and then fails would always be probed at the
// shortest period. If more calls succeeded, the recovery was real, and the number returns to 0. Otherwise a backend
// that flaps every few seconds would keep the number high, because half of the probes fail.
type backoff struct {
	failed int // failed recoveries: n of B17

	// calm is the time up to since that has passed without a failed recovery and without being open. failed falls by one
	// for each MaxOpenFor of calm time. since is the start of the time that has not been added to calm yet. It is 0 while
	// the breaker is open.
	calm, since int64

	period   time.Duration // the last open period; 0 if there was none, or Reset was called since
	closedAt uint64        // how many calls had succeeded when the breaker last closed
}

// at returns the number of failed recoveries at now. It changes nothing.
func (f *backoff) at(now int64, pol *policy) int {
	return f.failed - int(min(int64(f.failed), f.calmAt(now)/int64(pol.cfg.MaxOpenFor)))
}

func (f *backoff) calmAt(now int64) int64 {
	if f.since == 0 {
		return f.calm
	}
	return f.calm + now - f.since
}

// advance brings failed and calm up to now. pol is the policy that was in force until now.
func (f *backoff) advance(now int64, pol *policy) {
	n := f.at(now, pol)
	f.calm = f.calmAt(now) % int64(pol.cfg.MaxOpenFor)
	f.failed = n
	if f.since != 0 {
		f.since = now
	}
}

// fail counts a failed recovery. It stops when the period reaches MaxOpenFor. A larger number would not lengthen the
// period, and would take longer to fall after the outage.
func (f *backoff) fail(c Config) {
	if c.Backoff > 1 && backedOff(c, f.failed) < float64(c.MaxOpenFor) {
		f.failed++
	}
	f.calm = 0
}

// opens records that rule opens the breaker at now. ph is the phase before that. succeeded is how many calls have
// succeeded over the life of the breaker.
func (f *backoff) opens(ph *phase, rule Rule, succeeded uint64, now int64) {
	f.advance(now, ph.pol)
	f.since = 0
	switch {
	case rule == RuleProbe:
		f.fail(ph.pol.cfg)
	case rule == RuleManual || ph.state != Closed:
	case ph.ramp != nil: // opening during a ramp is a failed recovery (B27)
		f.fail(ph.pol.cfg)
	case satSub(succeeded, f.closedAt) > uint64(ph.pol.cfg.SuccessesToClose):
		f.failed = 0
	case f.period > 0 && now-ph.since <= int64(max(ph.pol.cfg.Window, f.period)):
		f.fail(ph.pol.cfg)
	}
}

// closes records that the breaker closes. After a Reset (byHand), the next opening is not a failed recovery.
func (f *backoff) closes(byHand bool, succeeded uint64) {
	f.closedAt = succeeded
	if byHand {
		f.failed, f.calm, f.period = 0, 0, 0
	}
}

// leavesOpen records that the breaker stops being open at now.
func (f *backoff) leavesOpen(now int64) {
	if f.since == 0 {
		f.since = now
	}
}

// changePolicy records that pol replaces old at now. It reduces failed to what pol needs to reach its MaxOpenFor.
func (f *backoff) changePolicy(old, pol *policy, now int64) {
	f.advance(now, old)
	f.failed = sort.Search(f.failed, func(n int) bool {
		return pol.cfg.Backoff <= 1 || backedOff(pol.cfg, n) >= float64(pol.cfg.MaxOpenFor)
	})
}

// maxRetryAfter limits the delay that a backend may ask for (B18), unless MaxOpenFor is longer.
const maxRetryAfter = time.Minute

// openPeriod returns min(OpenFor x Backoff^failed, MaxOpenFor), plus jitter (B17). Without the jitter, it is at least
// retryAfter, the delay that the backend asked for, up to the longer of maxRetryAfter and MaxOpenFor. Jitter is added
// to that too, because the backend gave all its clients the same delay (B18). random is in [0, 1).
func (p *policy) openPeriod(failed int, retryAfter time.Duration, random float64) time.Duration {
	c := p.cfg
	d := c.MaxOpenFor
	if f := backedOff(c, failed); f < float64(c.MaxOpenFor) {
		d = max(time.Duration(f), c.OpenFor)
	}
	d = max(d, min(retryAfter, max(maxRetryAfter, c.MaxOpenFor)))
	if c.Jitter > 0 {
		d += time.Duration(random * c.Jitter * float64(d))
	}
	return d
}

// backedOff returns OpenFor x Backoff^failed in nanoseconds. It is a float, which saturates and needs no loop.
func backedOff(c Config, failed int) float64 {
	return float64(c.OpenFor) * math.Pow(c.Backoff, float64(failed))
}
