package breaker

import (
	"context"
	"fmt"
	"math"
	"time"
)

// tripRules are the built-in rules in the order in which they are evaluated. The first that fires names the trip (B10).
// The custom rule of WithTrip comes after them, because it runs without the lock.
var tripRules = [...]tripRule{
	{RuleConsecutive, evaluation.consecutive},
	{RuleRatio, evaluation.failureRatio},
	{RuleSlow, evaluation.slowRatio},
}

// tripRule is one rule that may open a closed breaker. fires takes its argument by value: a pointer would escape to the
// heap, for each failure.
type tripRule struct {
	id    Rule
	fires func(evaluation) (why string, fired bool)
}

// evaluation is the input of the rules after one outcome.
type evaluation struct {
	ph        *phase
	outcome   Outcome
	counts    Counts
	successes [buckets]uint64 // by bucket, of the same instant as counts
	minCalls  uint64
	now       int64
}

// consecutive is the rule of Config.ConsecutiveFailures and FailingFor (B4).
func (e evaluation) consecutive() (why string, fired bool) {
	pol := e.ph.pol
	if e.outcome != Failure || pol.consecutive == 0 || e.counts.ConsecutiveFailures < pol.consecutive {
		return "", false
	}
	lasted := e.ph.win.failingFor(e.now)
	if lasted < pol.failingFor {
		return "", false
	}
	return streakText(e.counts.ConsecutiveFailures, time.Duration(lasted)), true
}

// streakText describes a failure streak. It names the time from a millisecond on.
func streakText(failures uint64, lasted time.Duration) string {
	if failures == 1 {
		return "1 failure"
	}
	text := fmt.Sprintf("%d failures in a row", failures)
	if lasted >= time.Millisecond {
		text += " over " + (lasted - lasted%time.Millisecond).String()
	}
	return text
}

// failureRatio is the rule of Config.FailureRatio (B5).
func (e evaluation) failureRatio() (why string, fired bool) {
	bad, calls := satAdd(e.counts.Failures, e.counts.Overloads), e.counts.Calls()
	if !e.shareReached(badBurst, e.ph.pol.failure, bad, calls) {
		return "", false
	}
	return fmt.Sprintf("%d of %d calls failed", bad, calls), true
}

// slowRatio is the rule of Config.SlowCall and SlowRatio (B6).
func (e evaluation) slowRatio() (why string, fired bool) {
	slow, calls := e.counts.Slow, e.counts.timed()
	if !e.shareReached(slowBurst, e.ph.pol.slow, slow, calls) {
		return "", false
	}
	return fmt.Sprintf("%d of %d calls took longer than %v", slow, calls, e.ph.pol.cfg.SlowCall), true
}

// shareReached reports whether part of whole reaches f, if there are enough calls. Unless FailingFor is negative, the
// share must be reached without the largest burst in the window too, where half as many calls are enough, and the
// oldest burst must have begun at least half of FailingFor ago, or of the window if that is shorter. So one lost
// connection does not open the breaker, even if its calls fail over some time or a few other calls fail (B5, B6).
func (e evaluation) shareReached(kind burstKind, f fraction, part, whole uint64) bool {
	if whole < e.minCalls || !f.isReachedBy(part, whole) {
		return false
	}
	pol := e.ph.pol
	if !pol.excludeBurst {
		return true
	}
	least := min(pol.failingFor, int64(pol.cfg.Window)) / 2
	part, whole = e.ph.win.withoutLargest(kind, &e.successes, part, whole, least, e.now)
	return whole >= (e.minCalls+1)/2 && f.isReachedBy(part, whole)
}

// evaluate evaluates the rules after a failure, an overload or a slow call (B3), and opens the breaker if one fires.
// It returns a check if none does and there is a custom rule. The window must be rotated and hold the outcome.
func (d *decision) evaluate(r *Report) *customCheck {
	if d.ph.mode() == ForceClosed {
		return nil // outcomes are counted and nothing follows from them (B28)
	}
	rule, why, counts := d.ph.firingRule(r.Outcome, d.now)
	switch {
	case rule != 0:
		d.fire(Opening{Rule: rule, Why: why, Counts: counts, Cause: r.Cause}, r.RetryAfter)
	case d.b.shared.trip != nil:
		return &customCheck{gen: d.ph.gen, counts: counts, cause: r.Cause, retryAfter: r.RetryAfter}
	}
	return nil
}

// firingRule evaluates the rules after an outcome at now. It returns the first that fires, or 0, and the counts of
// the window. Caller must hold Breaker.mu.
func (ph *phase) firingRule(o Outcome, now int64) (rule Rule, why string, counts Counts) {
	e := evaluation{ph: ph, outcome: o, minCalls: ph.minCalls(now), now: now}
	e.counts, e.successes = ph.win.countsByBucket(now, ph.pol.bucket)
	for _, r := range tripRules {
		if why, fired := r.fires(e); fired {
			return r.id, why, e.counts
		}
	}
	return 0, "", e.counts
}

// fire opens the breaker because a rule fired, in the same decision that evaluated the rules (B9).
func (d *decision) fire(o Opening, retryAfter time.Duration) {
	jitter()
	if seededBug == bugTrip { // another outcome may fire a rule here
		d.b.yieldLock()
	}
	d.toOpen(o, retryAfter)
}

// minCalls is Config.MinCalls, reduced by the fraction of calls that a ramp admits (B27).
func (ph *phase) minCalls(now int64) uint64 {
	if ph.ramp == nil {
		return ph.pol.minCalls
	}
	return max(1, uint64(math.Ceil(ph.ramp.fraction(now, ph.pol)*float64(ph.pol.minCalls))))
}

// customCheck is what the custom rule is called with, after the lock was released.
type customCheck struct {
	gen        uint64
	counts     Counts
	cause      string
	retryAfter time.Duration
}

// run calls the custom rule of b without the lock, and opens b if the rule fires and the generation is still the one
// that the counts are of.
func (c *customCheck) run(ctx context.Context, b *Breaker) {
	if !b.shared.customRuleFires(ctx, b.key, c.counts) {
		return
	}
	d := b.begin(ctx)
	defer b.unlock()
	if d.ph.gen == c.gen && d.ph.state == Closed && d.ph.mode() != ForceClosed {
		d.toOpen(Opening{Rule: RuleCustom, Why: "the custom rule fired", Counts: c.counts, Cause: c.cause}, c.retryAfter)
	}
}

// customRuleFires calls the function of WithTrip. A panic counts as false.
func (s *shared) customRuleFires(ctx context.Context, key Key, c Counts) (fires bool) {
	defer func() {
		if v := recover(); v != nil {
			s.logPanic(ctx, key, "custom rule", v)
			fires = false
		}
	}()
	return s.trip(c)
}
