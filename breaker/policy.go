package breaker

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"time"
)

// PolicyRule gives the keys that Match covers a Config of their own. A zero field of Config takes the group's value, and
// a negative one switches off what can be off. An OpenFor without a MaxOpenFor raises an inherited MaxOpenFor that is
// shorter. A preset such as [Aggressive] is complete, so a rule with it inherits nothing.
//
// An empty part of Match matches anything. Method may be a full method name, "/shop.Orders/Get". A Match that no gRPC
// call can match, such as a Method with a slash in it, is an error. Of the rules that match a key the most specific
// applies: the one with more parts, and with equally many parts the one that names the tag, then the method, the
// service, the target. The same Match twice is an error.
type PolicyRule struct {
	Match  Key    `json:"match" yaml:"match"`
	Config Config `json:"config" yaml:"config"`
	// Name is for people: errors and Policies show it, for example the place of the rule in a file. Default: "".
	Name string `json:"name,omitempty" yaml:"name,omitempty"`
}

// policy is a Config made ready to decide with. It is immutable and shared by all breakers that have it.
type policy struct {
	cfg Config // with defaults

	consecutive uint64 // 0: off
	failingFor  int64  // nanoseconds that a failure streak must last; 0: no minimum
	merge       int64  // failures no further apart than this are one failure of a streak; negative: each counts
	spread      bool   // the ratio and slow rules must hold without the largest event in the window
	failure     fraction
	slow        fraction
	slowCall    int64 // nanoseconds; 0: off
	minCalls    uint64
	mode        Mode  // that Enforcement has the effect of; 0: none
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
		slowCall: int64(max(0, c.SlowCall)),
		mode:     c.Enforcement.mode(),
		minCalls: uint64(c.MinCalls),
		bucket:   int64(c.Window) / buckets,

		consecutive: uint64(max(0, c.ConsecutiveFailures)),
		failingFor:  int64(max(0, c.FailingFor)),
		merge:       int64(burstGap),
		spread:      c.FailingFor >= 0,
	}
	if !p.spread {
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
		name := fmt.Sprintf("policy rule %d", i)
		if r.Name != "" {
			name += " (" + r.Name + ")"
		}
		match, err := normalizeMatch(r.Match)
		if err != nil {
			return nil, fmt.Errorf("breaker: %s, match %+v: %w", name, r.Match, err)
		}
		r.Match = match
		if first, dup := seen[match]; dup {
			return nil, fmt.Errorf("breaker: policy rules %d and %d both match %+v", first, i, match)
		}
		seen[match] = i
		pol, err := newPolicy(r.Config.Inherit(cfg), custom)
		if err != nil {
			return nil, fmt.Errorf("breaker: %s, match %+v: %w", name, match, err)
		}
		ps.rules = append(ps.rules, ruledPolicy{rule: r, pol: pol})
	}
	return ps, nil
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
