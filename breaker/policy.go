package breaker

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"time"
)

// PolicyRule sets the Config of the keys that Match matches. A zero field of Config takes the group's value, and a
// negative one switches off what can be off. An OpenFor without a MaxOpenFor raises an inherited MaxOpenFor that is
// shorter. A preset such as [Aggressive] is complete, so a rule with it inherits only Enforcement.
//
// An empty part of Match matches anything. Method may be a full method name, "/shop.Orders/Get". A Match that no gRPC
// call can match, such as the Method "shop.Orders/Get" without the first slash, is an error. If several rules match a
// key, only the one with most parts applies; it inherits nothing from the others. With equally many parts, the one with
// the tag wins, then the method, the service and the target. Two rules with the same Match are an error.
//
// For example, Key{Method: "Watch"} matches the methods Watch of all services, and Key{Tag: "gold"} matches all keys
// with that tag. A key with both has the Config of the second rule, because the tag wins. To give it another Config,
// add a rule with both parts. [Breaker.Config] and [Group.PolicyFor] return the Config that a breaker has.
type PolicyRule struct {
	Match  Key    `json:"match" yaml:"match"`
	Config Config `json:"config" yaml:"config"`
	// Name is for people: errors and Policies show it, for example the place of the rule in a file. Default: "".
	Name string `json:"name,omitempty" yaml:"name,omitempty"`
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
	mode         Mode  // the mode with the same effect as Enforcement; 0: none
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
		slowCall: int64(max(0, c.SlowCall)),
		mode:     c.Enforcement.mode(),
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
	if c.FailureRatio <= 0 && c.SlowCall <= 0 && !custom {
		p.bucket = noWindow
	}
	return p, nil
}

// policies are the Config and the rules of a group.
type policies struct {
	cfg   Config  // as it was given
	base  *policy // of cfg, for keys that no rule matches
	rules []ruledPolicy
}

type ruledPolicy struct {
	rule     PolicyRule // as it was given, with a Match that is split into its parts
	pol      *policy
	breakers uint64 // that it has applied to; guarded by Group.mu
}

func newPolicies(cfg Config, rules []PolicyRule, custom bool) (*policies, error) {
	base, err := newPolicy(cfg, custom)
	if err != nil {
		return nil, err
	}
	ps := &policies{cfg: cfg, base: base}
	seen := make(map[Key]int, len(rules))
	for i, r := range rules {
		match, err := normalizeMatch(r.Match)
		if err != nil {
			return nil, fmt.Errorf("breaker: policy rule %s, match %+v: %w", ruleText(i, r), r.Match, err)
		}
		r.Match = match
		if first, dup := seen[match]; dup {
			return nil, fmt.Errorf("breaker: policy rules %s and %s both match %+v",
				ruleText(first, rules[first]), ruleText(i, r), match)
		}
		seen[match] = i
		pol, err := newPolicy(r.Config.Inherit(cfg), custom)
		if err != nil {
			return nil, fmt.Errorf("breaker: policy rule %s, match %+v: %w", ruleText(i, r), match, err)
		}
		ps.rules = append(ps.rules, ruledPolicy{rule: r, pol: pol})
	}
	return ps, nil
}

// ruleText returns the name of a rule for errors.
func ruleText(i int, r PolicyRule) string {
	if r.Name == "" {
		return strconv.Itoa(i)
	}
	return fmt.Sprintf("%d (%s)", i, r.Name)
}

// match returns the index of the rule that applies to k, or -1.
func (ps *policies) match(k Key) int {
	best, specificity := -1, -1
	for i := range ps.rules {
		m := ps.rules[i].rule.Match
		if s := m.specificity(); s > specificity && m.covers(k) {
			best, specificity = i, s
		}
	}
	return best
}

// forKey returns the policy for a breaker of k, and counts the rule. Caller must hold Group.mu.
func (ps *policies) forKey(k Key) *policy {
	i := ps.match(k)
	if i < 0 {
		return ps.base
	}
	ps.rules[i].breakers = satAdd(ps.rules[i].breakers, 1)
	return ps.rules[i].pol
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
