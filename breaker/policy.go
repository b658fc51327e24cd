package breaker

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"time"
)

// PolicyRule sets the Config of the keys that Match matches. The Config is complete: a zero field means the default,
// not the value of the group. An empty part of Match matches anything. If several rules match a key, the one with more
// parts wins. With equally many parts, the one with the tag wins, then the method, the service and the target. Two
// rules with the same Match are an error of NewGroup and Apply.
//
// For example, Key{Method: "Watch"} matches the methods Watch of all services, and Key{Tag: "gold"} matches all keys
// with that tag. A key with both has the Config of the second rule, because the tag wins. To give it another Config,
// add a rule with both parts. [Breaker.Config] returns the Config that a breaker has.
type PolicyRule struct {
	Match  Key    `json:"match" yaml:"match"`
	Config Config `json:"config" yaml:"config"`
}

// policy is a Config in the form that decisions need. It is immutable. All breakers that use it share it.
type policy struct {
	cfg Config // with defaults

	consecutive  uint64 // 0: off
	failingFor   int64  // nanoseconds that a failure streak must last; 0: no minimum
	merge        int64  // a failure within this time of the last one counted is not counted; negative: each counts
	excludeBurst bool   // the ratio and slow rules must also hold without the largest burst in the window
	failure      fraction
	slow         fraction
	slowCall     int64 // nanoseconds; 0: off
	minCalls     uint64
	bucket       int64 // width of a window bucket in nanoseconds; noWindow if no rule uses the window
}

// burstGap is the largest time between two bad calls that may have one cause, such as a lost connection. The calls in
// flight on a connection fail in one instant, but report one after the other.
const burstGap = 10 * time.Millisecond

// noWindow is the bucket width if no rule uses the window. Then only the failure streak and the totals are counted,
// which needs no clock for a success.
const noWindow = 1 << 62

// newPolicy returns the policy for c. custom reports whether there is a custom rule (WithTrip).
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

		consecutive:  uint64(max(0, c.ConsecutiveFailures)),
		failingFor:   int64(max(0, c.FailingFor)),
		merge:        int64(burstGap),
		excludeBurst: c.FailingFor >= 0,
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

// policies are those of a group: one policy for keys that no rule matches, and the rules.
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

// forKey returns the policy of the most specific rule that matches k, or base.
func (ps *policies) forKey(k Key) *policy {
	pol, best := ps.base, -1
	for _, r := range ps.rules {
		if s := r.match.specificity(); s > best && r.match.covers(k) {
			pol, best = r.pol, s
		}
	}
	return pol
}

// fraction is a ratio in (0, 1] in integers, so that 7 of 100 reaches 0.07 (B5). In floating point it does not, because
// 0.07*100 is 7.000000000000001. Nothing reaches the zero fraction, which is that of a rule that is off.
type fraction struct{ num, den uint64 }

// newFraction returns the decimal that a person wrote: the shortest one that reads back as r. It is not always the
// binary value of r.
func newFraction(r float64) fraction {
	text := strconv.FormatFloat(r, 'f', -1, 64)
	if text == "1" {
		return fraction{1, 1}
	}
	digits := text[len("0."):]
	if len(digits) <= 18 { // 10^18 fits in 64 bits
		num, err := strconv.ParseUint(digits, 10, 64)
		if err == nil {
			den := uint64(1)
			for range digits {
				den *= 10
			}
			return fraction{num, den}
		}
	}
	// More than 18 decimals: not a number that a person wrote. The binary value, scaled by a power of two, is exact from
	// 2^-10 on. Below that, the error is less than 2^-62.
	const scale = 1 << 62
	return fraction{max(1, uint64(math.Round(r*scale))), scale}
}

// isReachedBy reports whether part/whole >= f. It is exact, and false if part is 0 or f is the zero fraction.
func (f fraction) isReachedBy(part, whole uint64) bool {
	if f.den == 0 || part == 0 {
		return false
	}
	ph, pl := bits.Mul64(part, f.den)
	wh, wl := bits.Mul64(whole, f.num)
	return ph > wh || (ph == wh && pl >= wl)
}
