package breaker

import (
	"math"
	"math/big"
	"strconv"
	"strings"
	"testing"
	"time"
)

// exact returns the value of a decimal.
func exact(t *testing.T, decimal string) *big.Rat {
	t.Helper()
	r, ok := new(big.Rat).SetString(decimal)
	if !ok {
		t.Fatalf("%q is not a number", decimal)
	}
	return r
}

// least returns the smallest number of failures in so many calls that reaches ratio.
func least(ratio *big.Rat, calls int64) int64 {
	x := new(big.Rat).Mul(ratio, big.NewRat(calls, 1))
	q, rest := new(big.Int).QuoRem(x.Num(), x.Denom(), new(big.Int))
	if rest.Sign() > 0 {
		return q.Int64() + 1
	}
	return q.Int64()
}

// The smallest number of failures that reaches the ratio trips, and one failure fewer does not. A known bug of other
// breakers: 57 of 100 does not trip at 0.57.
func TestB05_RatiosAreExactInIntegers(t *testing.T) {
	var decimals []string
	for hundredths := 1; hundredths <= 100; hundredths++ {
		decimals = append(decimals, new(big.Rat).SetFrac64(int64(hundredths), 100).FloatString(2))
	}
	for thousandths := 1; thousandths < 1000; thousandths += 7 {
		decimals = append(decimals, new(big.Rat).SetFrac64(int64(thousandths), 1000).FloatString(3))
	}
	decimals = append(decimals, "0.333333", "0.6666666666666666", "0.123456789012345", "0.00001", "0.99999")
	for _, text := range decimals {
		r, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatal(err)
		}
		f, want := newFraction(r), exact(t, text)
		for calls := int64(1); calls <= 600; calls++ {
			k := least(want, calls)
			if !f.isReachedBy(uint64(k), uint64(calls)) {
				t.Errorf("%s: %d of %d does not reach it", text, k, calls)
			}
			if f.isReachedBy(uint64(k-1), uint64(calls)) {
				t.Errorf("%s: %d of %d reaches it", text, k-1, calls)
			}
		}
	}
}

// Counts that are too large for exact floating point.
func TestB05_RatiosOfLargeCounts(t *testing.T) {
	for _, text := range []string{
		"0.5", "0.57", "0.07", "0.333333333333", "0.9999999999999999", "1", "0.0000001",
		"0.001234567890123456",
	} {
		r, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatal(err)
		}
		f, want := newFraction(r), exact(t, text)
		for _, whole := range []uint64{1e9, 1<<53 + 1, 1e18, math.MaxUint64 - 1, math.MaxUint64} {
			x := new(big.Rat).Mul(want, new(big.Rat).SetInt(new(big.Int).SetUint64(whole)))
			at := new(big.Int).Div(new(big.Int).Add(x.Num(), new(big.Int).Sub(x.Denom(), big.NewInt(1))), x.Denom()).Uint64()
			if !f.isReachedBy(at, whole) || f.isReachedBy(at-1, whole) {
				t.Errorf("%s of %d: reached by %d: %v, by one fewer: %v; want true, false", text, whole, at,
					f.isReachedBy(at, whole), f.isReachedBy(at-1, whole))
			}
		}
	}
}

// Ratios with more than 18 decimals have an error of less than 2^-61.
func TestB05_RatiosWithManyDigits(t *testing.T) {
	for _, r := range []float64{
		1.0 / 3 / 1024, math.Pi / 100, 1.0 / (1 << 30), math.Nextafter(0.001, 1), 1e-17, 1e-19, 1e-300,
		math.SmallestNonzeroFloat64,
	} {
		f := newFraction(r)
		if f.num == 0 || f.den == 0 || f.num > f.den {
			t.Errorf("%v: got %d/%d, want one in (0, 1]", r, f.num, f.den)
			continue
		}
		got := new(big.Rat).SetFrac(new(big.Int).SetUint64(f.num), new(big.Int).SetUint64(f.den))
		diff := new(big.Rat).Sub(got, new(big.Rat).SetFloat64(r))
		if diff.Abs(diff).Cmp(big.NewRat(1, 1<<61)) > 0 {
			d, _ := diff.Float64()
			t.Errorf("%v: got %d/%d, which is off by %v", r, f.num, f.den, d)
		}
		if !f.isReachedBy(1, 1) || f.isReachedBy(0, 1) {
			t.Errorf("%v: 1 of 1 reaches it: %v, 0 of 1: %v; want true, false", r, f.isReachedBy(1, 1), f.isReachedBy(0, 1))
		}
	}
}

func TestB05_ARuleThatIsOffIsNeverReached(t *testing.T) {
	for _, n := range []uint64{0, 1, math.MaxUint64} {
		if (fraction{}).isReachedBy(n, n) {
			t.Errorf("%d of %d reaches the fraction of a rule that is off", n, n)
		}
	}
	if newFraction(0.5).isReachedBy(0, 0) {
		t.Error("0 of 0 reaches one half")
	}
}

func TestB17_OpenPeriod(t *testing.T) {
	const s = time.Second
	plain := Config{OpenFor: 5 * s, MaxOpenFor: 60 * s, Backoff: 2, Jitter: -1}
	with := func(change func(*Config)) Config {
		c := plain
		change(&c)
		return c
	}
	almost := math.Nextafter(1, 0)
	const century = maxDuration
	tests := []struct {
		name       string
		cfg        Config
		failed     int
		retryAfter time.Duration
		random     float64
		want       time.Duration
	}{
		{"first", plain, 0, 0, 0.5, 5 * s},
		{"second", plain, 1, 0, 0.5, 10 * s},
		{"third", plain, 2, 0, 0.5, 20 * s},
		{"fourth", plain, 3, 0, 0.5, 40 * s},
		{"capped", plain, 4, 0, 0.5, 60 * s},
		{"a million failed", plain, 1e6, 0, 0.5, 60 * s},
		{"as many as an int takes", plain, math.MaxInt, 0, 0.5, 60 * s},
		{"no back-off", with(func(c *Config) { c.Backoff = 1 }), 1e6, 0, 0.5, 5 * s},
		{"half a step", with(func(c *Config) { c.Backoff = 1.5 }), 2, 0, 0.5, 11250 * time.Millisecond},
		{"the largest back-off", with(func(c *Config) { c.Backoff = math.MaxFloat64 }), 3, 0, 0.5, 60 * s},
		{"cap and first alike", with(func(c *Config) { c.MaxOpenFor = 5 * s }), 7, 0, 0.5, 5 * s},
		{"cap between two steps", with(func(c *Config) { c.MaxOpenFor = 7 * s }), 1, 0, 0.5, 7 * s},
		{"one millisecond", with(func(c *Config) { c.OpenFor = ms }), 0, 0, 0.5, ms},

		{"least jitter", with(func(c *Config) { c.Jitter = 0.2 }), 0, 0, 0, 5 * s},
		{"half of it", with(func(c *Config) { c.Jitter = 0.2 }), 0, 0, 0.5, 5500 * time.Millisecond},
		{"most jitter", with(func(c *Config) { c.Jitter = 0.2 }), 0, 0, almost, 6*s - 1},
		{"beyond the cap", with(func(c *Config) { c.Jitter = 1 }), 1e6, 0, almost, 120*s - 1},
		{"a century", Config{OpenFor: century, Jitter: 1}, 0, 0, 0, century},
		{"a century, a million failed", Config{OpenFor: ms, MaxOpenFor: century, Jitter: -1}, 1e6, 0, 0, century},

		{"a shorter delay", plain, 0, 4 * s, 0.5, 5 * s},
		{"a delay as long as the period", plain, 0, 5 * s, 0.5, 5 * s},
		{"a longer delay", plain, 0, 5*s + 1, 0.5, 5*s + 1},
		{"a delay of the cap", plain, 0, 60 * s, 0.5, 60 * s},
		{"a delay of more than a minute", plain, 0, 60*s + 1, 0.5, 60 * s},
		{"a delay of years", plain, 0, math.MaxInt64, 0.5, 60 * s},
		{
			"a delay of a minute, which is more than MaxOpenFor", with(func(c *Config) { c.MaxOpenFor = 10 * s }), 0, 60 * s,
			0.5, 60 * s,
		},
		{
			"a delay of more than a minute, with a short MaxOpenFor", with(func(c *Config) { c.MaxOpenFor = 10 * s }), 0, 61 * s,
			0.5, 60 * s,
		},
		{
			"a delay of more than a minute, with a long MaxOpenFor", with(func(c *Config) { c.MaxOpenFor = 300 * s }), 0,
			240 * s, 0.5, 240 * s,
		},
		{"a delay above a long MaxOpenFor", with(func(c *Config) { c.MaxOpenFor = 300 * s }), 0, 301 * s, 0.5, 300 * s},
		{"a negative delay", plain, 0, -s, 0.5, 5 * s},
		{"the smallest delay", plain, 0, math.MinInt64, 0.5, 5 * s},
		{"with a delay, jitter is added", with(func(c *Config) { c.Jitter = 1 }), 0, 6 * s, 0.5, 9 * s},
		{"with a delay, least jitter", with(func(c *Config) { c.Jitter = 0.2 }), 0, 30 * s, 0, 30 * s},
		{"a delay of the cap, jitter is added", with(func(c *Config) { c.Jitter = 0.2 }), 0, 60 * s, 0.5, 66 * s},
	}
	for _, tt := range tests {
		pol, err := newPolicy(tt.cfg, false)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if got := pol.openPeriod(tt.failed, tt.retryAfter, tt.random); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// The longest open periods that a Config allows do not overflow.
func TestB17_NoOverflow(t *testing.T) {
	b := mustNew(t, Config{OpenFor: maxDuration, Jitter: 1})
	for range 50 {
		b.Trip(t.Context(), "test")
		s := b.Snapshot()
		if s.RetryAfter < maxDuration-time.Minute || s.Ready {
			t.Fatalf("a century is over after %v, ready: %v", s.RetryAfter, s.Ready)
		}
	}
}

func TestPolicyRules(t *testing.T) {
	config := func(minCalls int) Config { return Config{MinCalls: minCalls} }
	g := mustGroup(t, config(1),
		WithPolicy(PolicyRule{Match: Key{Service: "s"}, Config: config(2)}, PolicyRule{Match: Key{Service: "s", Method: "m"}, Config: config(3)}),
		WithPolicy(PolicyRule{Match: Key{Tag: "gold"}, Config: config(4)}, PolicyRule{Match: Key{Target: "t"}, Config: config(5)}),
	)
	for _, tt := range []struct {
		key  Key
		want uint64
	}{
		{Key{}, 1},
		{Key{Service: "other"}, 1},
		{Key{Service: "s"}, 2},
		{Key{Service: "s", Method: "other"}, 2},
		{Key{Service: "s", Method: "m"}, 3},
		{Key{Target: "t", Service: "s", Method: "m"}, 3},
		{Key{Target: "t", Service: "s"}, 2}, // the service weighs more than the target
		{Key{Service: "s", Tag: "gold"}, 4}, // and the tag more than that
		{Key{Service: "s", Method: "m", Tag: "gold"}, 3},
		{Key{Target: "t"}, 5},
	} {
		if got := g.Get(tt.key).Snapshot().MinCalls; got != tt.want {
			t.Errorf("%v: got the rule %d, want %d", tt.key, got, tt.want)
		}
	}
	// A rule with an empty Match matches any key that no other rule matches.
	g = mustGroup(t, config(1), WithPolicy(PolicyRule{Match: Key{}, Config: config(2)}, PolicyRule{Match: Key{Target: "t"}, Config: config(3)}))
	for key, want := range map[Key]uint64{{}: 2, {Tag: "gold"}: 2, {Target: "t"}: 3} {
		if got := g.Get(key).Snapshot().MinCalls; got != want {
			t.Errorf("%v: got the rule %d, want %d", key, got, want)
		}
	}
	// A zero field of a rule's Config is the value of the group (B42).
	g = mustGroup(t, Config{ConsecutiveFailures: 1}, WithPolicy(PolicyRule{Match: Key{Method: "m"}, Config: Config{}}))
	b := g.Get(Key{Method: "m"})
	report(t, b, 1, Failure)
	if got := b.State(); got != Open {
		t.Errorf("a rule without ConsecutiveFailures: %v after one failure, want open as with the group's Config", got)
	}
}

func TestPolicyRuleErrors(t *testing.T) {
	same := PolicyRule{Match: Key{Method: "m"}}
	_, err := NewGroup(Config{}, WithPolicy(same, PolicyRule{Match: Key{Method: "n"}}), WithPolicy(same))
	if err == nil || !strings.Contains(err.Error(), "rules 0 and 2") {
		t.Errorf("got %v, want an error that names the rules 0 and 2", err)
	}
	named := PolicyRule{Match: Key{Method: "m"}, Name: "x.yaml:7"}
	_, err = NewGroup(Config{}, WithPolicy(same, named))
	if err == nil || !strings.Contains(err.Error(), "rules 0 and 1 (x.yaml:7) both match") {
		t.Errorf("got %v, want an error that names the rules 0 and 1 (x.yaml:7)", err)
	}
	_, err = NewGroup(Config{}, WithPolicy(PolicyRule{Match: Key{Method: "m"}, Config: Config{MinCalls: -1}}))
	if err == nil || !strings.Contains(err.Error(), "policy rule 0") ||
		!strings.Contains(err.Error(), "Config.MinCalls is -1") {
		t.Errorf("got %v, want an error that names the rule and the field", err)
	}
}
