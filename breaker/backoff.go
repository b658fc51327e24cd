package breaker

import (
	"math"
	"sort"
	"time"
)

// backoff counts failed recoveries, which lengthen the open period (B17). All of it is guarded by Breaker.mu.
//
// A recovery fails if a probe fails, or if the breaker opens again soon after it closed and hardly a call succeeded
// in between. Without the second part a backend that answers a probe and then fails would be probed at the shortest
// period for ever. If more calls succeeded, the recovery held and the count starts anew. Otherwise a backend that
// flaps every few seconds would keep n high, because half of the probes find it down.
type backoff struct {
	failed int // n of B17

	// calm is the time that has passed, up to since, without a failed recovery and without being open. n falls by one
	// for each MaxOpenFor of it. since is the start of the time that still has to be added, and zero while the
	// breaker is open.
	calm, since int64

	period   time.Duration // the last open period; 0 if there was none, or it was ended by hand
	closedAt uint64        // calls that had succeeded when the breaker last closed
}

// at returns n at now. It changes nothing.
func (f *backoff) at(now int64, pol *policy) int {
	return f.failed - int(min(int64(f.failed), f.calmAt(now)/int64(pol.cfg.MaxOpenFor)))
}

func (f *backoff) calmAt(now int64) int64 {
	if f.since == 0 {
		return f.calm
	}
	return f.calm + now - f.since
}

// settle makes n what it is at now, under the policy that was in force up to now.
func (f *backoff) advance(now int64, pol *policy) {
	n := f.at(now, pol)
	f.calm = f.calmAt(now) % int64(pol.cfg.MaxOpenFor)
	f.failed = n
	if f.since != 0 {
		f.since = now
	}
}

// fail counts a failed recovery. It stops where the period reaches MaxOpenFor: to count further would only mean that
// more has to be forgotten after the outage.
func (f *backoff) fail(c Config) {
	if c.Backoff > 1 && backedOff(c, f.failed) < float64(c.MaxOpenFor) {
		f.failed++
	}
	f.calm = 0
}

// opens records that the breaker opens at now, because of rule. succeeded is how many calls have succeeded, ever.
func (f *backoff) opens(ph *phase, rule Rule, succeeded uint64, now int64) {
	f.advance(now, ph.pol)
	f.since = 0
	switch {
	case rule == RuleProbe:
		f.fail(ph.pol.cfg)
	case rule == RuleManual || ph.state != Closed:
	case ph.ramp != nil: // B27
		f.fail(ph.pol.cfg)
	case satSub(succeeded, f.closedAt) > uint64(ph.pol.cfg.SuccessesToClose):
		f.failed = 0
	case f.period > 0 && now-ph.since <= int64(max(ph.pol.cfg.Window, f.period)):
		f.fail(ph.pol.cfg)
	}
}

// closes records that the breaker closes. After a Reset there is nothing that could have failed to recover.
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

// adopt records that pol takes the place of old at now.
func (f *backoff) changePolicy(old, pol *policy, now int64) {
	f.advance(now, old)
	f.failed = sort.Search(f.failed, func(n int) bool {
		return pol.cfg.Backoff <= 1 || backedOff(pol.cfg, n) >= float64(pol.cfg.MaxOpenFor)
	})
}

// longestAsked is how much time a server gets at most if it asks for some (B18), unless MaxOpenFor is longer.
const maxRetryAfter = time.Minute

// openPeriod is min(OpenFor x Backoff^failed, MaxOpenFor), then jitter upward (B17). It is at least what the server
// asked for, up to longestAsked or MaxOpenFor, with jitter on top, because the server asked all its clients (B18).
// random is in [0, 1).
func (p *policy) openPeriod(failed int, asked time.Duration, random float64) time.Duration {
	c := p.cfg
	d := c.MaxOpenFor
	if f := backedOff(c, failed); f < float64(c.MaxOpenFor) {
		d = max(time.Duration(f), c.OpenFor)
	}
	d = max(d, min(asked, max(maxRetryAfter, c.MaxOpenFor)))
	if c.Jitter > 0 {
		d += time.Duration(random * c.Jitter * float64(d))
	}
	return d
}

// backedOff is OpenFor x Backoff^failed in nanoseconds: a float, because that saturates and needs no loop.
func backedOff(c Config, failed int) float64 {
	return float64(c.OpenFor) * math.Pow(c.Backoff, float64(failed))
}
