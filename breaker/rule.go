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
// bursts must have begun over half of FailingFor, or of the window if that is shorter. So one lost connection does not
// open the breaker, even if its calls fail over some time or a few other calls fail (B5, B6).
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

// evaluate walks the rules after a failure, an overload or a slow call (B3), and opens the breaker if one fires. It
// returns a check if none does and there is a custom rule. Caller must hold b.mu, and must have rotated the window and
// added the outcome to it.
func (b *Breaker) evaluate(ctx context.Context, ph *phase, r *Report, t time.Time) *customCheck {
	if ph.mode() == ForceClosed {
		return nil // outcomes are counted and nothing follows from them (B28)
	}
	rule, why, counts := ph.firingRule(r.Outcome, instant(t))
	switch {
	case rule != 0:
		b.fire(ctx, ph, Opening{Rule: rule, Why: why, Counts: counts, Cause: r.Cause, At: t}, r.RetryAfter)
	case b.shared.trip != nil:
		return &customCheck{gen: ph.gen, counts: counts, cause: r.Cause, retryAfter: r.RetryAfter}
	}
	return nil
}

// firingRule walks the rules after an outcome at now. It returns the first that fires, or 0, and the counts of the
// window. Caller must hold Breaker.mu.
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

// fire opens the breaker because a rule fired (B9). Caller must hold b.mu since before the rules were evaluated.
func (b *Breaker) fire(ctx context.Context, ph *phase, o Opening, retryAfter time.Duration) {
	jitter()
	if seededBug == bugTrip { // another outcome may fire a rule here
		b.yieldLock()
	}
	b.toOpen(ctx, ph, o, retryAfter)
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

// runCustomCheck calls the custom rule without the lock, and opens the breaker if the rule fires and the generation is
// still the one that the counts are of.
func (b *Breaker) runCustomCheck(ctx context.Context, check *customCheck) {
	if !b.customRuleFires(ctx, check.counts) {
		return
	}
	b.mu.Lock()
	defer b.unlock()
	t := time.Now()
	ph := b.refresh(instant(t))
	if ph.gen == check.gen && ph.state == Closed && ph.mode() != ForceClosed {
		o := Opening{Rule: RuleCustom, Why: "the custom rule fired", Counts: check.counts, Cause: check.cause, At: t}
		b.toOpen(ctx, ph, o, check.retryAfter)
	}
}

// customRuleFires calls the function of WithTrip. A panic counts as false.
func (b *Breaker) customRuleFires(ctx context.Context, c Counts) (fires bool) {
	defer func() {
		if v := recover(); v != nil {
			b.shared.logPanic(ctx, b.key, "custom rule", v)
			fires = false
		}
	}()
	return b.shared.trip(c)
}
