package breaker

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"time"
)

// PolicyRule gives the keys that Match covers a Config of their own, complete in itself: a zero field is its default,
// not the group's value. An empty part of Match matches anything. Of the rules that match a key the most specific
// wins: the one with more parts, and among as many parts the one that names the tag, then the method, the service,
// the target. The same Match twice is an error.
type PolicyRule struct {
	Match  Key    `json:"match" yaml:"match"`
	Config Config `json:"config" yaml:"config"`
}

// policy is a Config made ready to decide with. It is immutable and shared by all breakers that have it.
type policy struct {
	cfg Config // with defaults

	consecutive uint64 // 0: off
	failingFor  int64  // nanoseconds that a failure streak must last; 0: no minimum
	merge       int64  // failures no further apart than this are one failure of a streak; negative: each counts
	excludeBurst      bool   // the ratio and slow rules must hold without the largest event in the window
	failure     fraction
	slow        fraction
	slowCall    int64 // nanoseconds; 0: off
	minCalls    uint64
	bucket      int64 // width of a window bucket in nanoseconds; noWindow if no rule looks at the window
}

// burstGap is how close together failures may lie and still have one cause, such as a lost connection: the calls in
// flight on it fail in one instant, and are told one after the other.
const burstGap = 10 * time.Millisecond

// noWindow is the width where no rule looks at the window: nothing is kept that needs the clock, only failures in a
// row.
const noWindow = 1 << 62

// newPolicy takes whether there is a rule of WithTrip besides those of c.
func newPolicy(c Config, custom bool) (*policy, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.WithDefaults()
	p := &policy{
		cfg:      c,
		slowCall: int64(c.SlowCall),
		minCalls: uint64(c.MinCalls),
		bucket:   int64(c.Window) / buckets,

		consecutive: uint64(max(0, c.ConsecutiveFailures)),
		failingFor:  int64(max(0, c.FailingFor)),
		merge:       int64(burstGap),
		excludeBurst:      c.FailingFor >= 0,
	}
	if !p.excludeBurst {
		p.merge = -1
	}
	if c.FailureRatio > 0 {
		p.failure = newFraction(c.FailureRatio)
	}
	if c.SlowCall > 0 {
		p.slow = newFraction(c.SlowRatio)
	}
	if c.FailureRatio <= 0 && c.SlowCall == 0 && !custom {
		p.bucket = noWindow
	}
	return p, nil
}

// policies is what a group gives to its breakers: one policy for the keys that no rule covers, and the rules.
type policies struct {
	base  *policy
	rules []ruledPolicy
}

type ruledPolicy struct {
	match Key
	pol   *policy
}

func newPolicies(cfg Config, rules []PolicyRule, custom bool) (*policies, error) {
	base, err := newPolicy(cfg, custom)
	if err != nil {
		return nil, err
	}
	ps := &policies{base: base}
	seen := make(map[Key]int, len(rules))
	for i, r := range rules {
		if first, dup := seen[r.Match]; dup {
			return nil, fmt.Errorf("breaker: policy rules %d and %d both match %+v", first, i, r.Match)
		}
		seen[r.Match] = i
		pol, err := newPolicy(r.Config, custom)
		if err != nil {
			return nil, fmt.Errorf("breaker: policy rule %d, match %+v: %w", i, r.Match, err)
		}
		ps.rules = append(ps.rules, ruledPolicy{r.Match, pol})
	}
	return ps, nil
}

func (ps *policies) forKey(k Key) *policy {
	pol, best := ps.base, -1
	for _, r := range ps.rules {
		if s := r.match.specificity(); s > best && r.match.covers(k) {
			pol, best = r.pol, s
		}
	}
	return pol
}

// fraction is a ratio in (0, 1] in integers. B5: 7 of 100 reaches 0.07, which it does not in floating point, where
// 0.07*100 is 7.000000000000001. The zero fraction is reached by nothing: the rule is off.
type fraction struct{ num, den uint64 }

// newFraction takes the decimal that a person wrote, which is the shortest one that reads back as r, not the binary
// value of r.
func newFraction(r float64) fraction {
	text := strconv.FormatFloat(r, 'f', -1, 64)
	if text == "1" {
		return fraction{1, 1}
	}
	digits := text[len("0."):]
	if len(digits) <= 18 { // 10^18 fits, and so does any product of it that bits.Mul64 makes
		num, err := strconv.ParseUint(digits, 10, 64)
		if err == nil {
			den := uint64(1)
			for range digits {
				den *= 10
			}
			return fraction{num, den}
		}
	}
	// More than 18 decimals: nobody's round number. The binary value, scaled by a power of two, is exact from 2^-10
	// up and errs by less than 2^-62 below.
	const scale = 1 << 62
	return fraction{max(1, uint64(math.Round(r*scale))), scale}
}

// isReachedBy says whether part/whole >= f, exactly.
func (f fraction) isReachedBy(part, whole uint64) bool {
	if f.den == 0 || part == 0 {
		return false
	}
	ph, pl := bits.Mul64(part, f.den)
	wh, wl := bits.Mul64(whole, f.num)
	return ph > wh || (ph == wh && pl >= wl)
}
