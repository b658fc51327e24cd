package breaker

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// B42: a zero field of a rule takes the group's value, and a negative one is off.
func TestB42_RulesInheritFromTheGroup(t *testing.T) {
	group := Config{ConsecutiveFailures: 7, SlowCall: time.Second, Ramp: time.Minute, MaxConcurrent: 9, OpenFor: 2 * time.Second, MaxOpenFor: 4 * time.Second}
	for _, tt := range []struct {
		name string
		rule Config
		want func(*Config)
	}{
		{"nothing of its own", Config{}, func(*Config) {}},
		{"one field", Config{MinCalls: 5}, func(c *Config) { c.MinCalls = 5 }},
		{"off", Config{ConsecutiveFailures: -1, SlowCall: -1, Ramp: -1, MaxConcurrent: -1, FailureRatio: -1, Jitter: -1}, func(c *Config) {
			c.ConsecutiveFailures, c.SlowCall, c.Ramp, c.MaxConcurrent, c.FailureRatio, c.Jitter = -1, -1, -1, -1, -1, -1
		}},
		{"OpenFor raises MaxOpenFor", Config{OpenFor: time.Minute}, func(c *Config) { c.OpenFor, c.MaxOpenFor = time.Minute, time.Minute }},
		{"OpenFor below MaxOpenFor", Config{OpenFor: time.Second}, func(c *Config) { c.OpenFor = time.Second }},
		{"the first failure opens", Config{ConsecutiveFailures: 1}, func(c *Config) { c.ConsecutiveFailures, c.FailingFor = 1, 0 }},
	} {
		g, err := NewGroup(group, WithPolicy(PolicyRule{Match: Key{Method: "m"}, Config: tt.rule}))
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		want := group.WithDefaults()
		tt.want(&want)
		wantSame(t, tt.name, g.Get(Key{Method: "m"}).Config(), want)
		wantSame(t, tt.name+", PolicyFor", g.PolicyFor(Key{Method: "m"}).Config, want)
	}
	// Fields that a negative value switches off have no effect.
	b := mustNew(t, Config{SlowCall: -1, Ramp: -1, MaxConcurrent: -1})
	p := acquire(t, b)
	acquire(t, b).Report(t.Context(), Report{Latency: time.Hour})
	p.Done(t.Context(), Success)
	if s := b.Snapshot(); s.SlowCalls != 0 || s.Rejections.Total() != 0 {
		t.Errorf("%d slow calls, %d rejections, want none", s.SlowCalls, s.Rejections.Total())
	}
}

// B42: a preset is complete, so a rule with it inherits only Enforcement. Fields that the rule sets itself override the
// preset.
func TestB42_PresetsAreComplete(t *testing.T) {
	group := Config{
		ConsecutiveFailures: 77, FailingFor: 77 * time.Second, FailureRatio: 0.77, MinCalls: 77, Window: 77 * time.Second,
		SlowCall: 77 * time.Second, SlowRatio: 0.77, OpenFor: 77 * time.Second, MaxOpenFor: 777 * time.Second, Backoff: 7.7, Jitter: 0.77,
		MaxProbes: 77, SuccessesToClose: 77, ProbeTimeout: 77 * time.Second, Ramp: 77 * time.Second, MaxConcurrent: 77,
		Enforcement: EnforcementOff,
	}
	for name, preset := range map[string]Config{
		"Conservative": Conservative(), "Balanced": Balanced(), "Aggressive": Aggressive(), "Lenient": Lenient(),
	} {
		want := preset
		want.Enforcement = EnforcementOff
		if got := preset.Inherit(group); got != want {
			t.Errorf("%s inherits more than Enforcement: got %+v, want %+v", name, got, want)
		}
		if v := reflect.ValueOf(preset); slices.ContainsFunc(slices.Collect(v.Type().Fields()), func(f reflect.StructField) bool {
			return f.Name != "Enforcement" && v.FieldByIndex(f.Index).IsZero()
		}) {
			t.Errorf("%s has a zero field: %+v", name, preset)
		}
	}
	got := Config{OpenFor: time.Hour}.Inherit(Aggressive())
	want := Aggressive()
	want.OpenFor, want.MaxOpenFor = time.Hour, time.Hour
	wantSame(t, "a field beside a preset", got, want)
	if err := got.Validate(); err != nil {
		t.Error(err)
	}
}

// PolicyFor returns where each value comes from.
func TestB42_PolicyFor(t *testing.T) {
	g := mustGroup(t, Config{MinCalls: 5, MaxOpenFor: 20 * time.Second, FailingFor: -1, Jitter: -1},
		WithPolicy(PolicyRule{Match: Key{Service: "s"}, Config: Config{OpenFor: time.Minute, Window: time.Second}, Name: "file:12"}))
	none := g.PolicyFor(Key{Service: "other"})
	if none.Rule != -1 || none.Name != "" || none.Sources["MinCalls"] != SourceGroup || none.Sources["Window"] != SourceDefault {
		t.Errorf("no rule: %+v", none)
	}
	p := g.PolicyFor(Key{Service: "s", Method: "m"})
	if p.Rule != 0 || p.Name != "file:12" {
		t.Errorf("rule %d, name %q, want 0, file:12", p.Rule, p.Name)
	}
	for field, want := range map[string]string{
		"OpenFor": SourceRule, "MaxOpenFor": SourceRule, "Window": SourceRule, "MinCalls": SourceGroup, "SlowCall": SourceDefault,
	} {
		if got := p.Sources[field]; got != want {
			t.Errorf("%s comes from %q, want %q", field, got, want)
		}
	}
	if got, want := len(p.Sources), reflect.TypeFor[Config]().NumField(); got != want {
		t.Errorf("%d sources, want one for each of %d fields", got, want)
	}
	if g.Len() != 0 {
		t.Error("PolicyFor made a breaker")
	}
}

// A MaxOpenFor that OpenFor raised comes from where OpenFor is, also if the default was raised.
func TestB42_SourceOfARaisedMaxOpenFor(t *testing.T) {
	for _, tt := range []struct {
		group, rule Config
		max         time.Duration
		want        string
	}{
		{Config{}, Config{}, 10 * time.Second, SourceDefault},
		{Config{}, Config{OpenFor: 10 * time.Second}, 10 * time.Second, SourceDefault},
		{Config{}, Config{OpenFor: time.Minute}, time.Minute, SourceRule},
		{Config{OpenFor: time.Minute}, Config{}, time.Minute, SourceGroup},
		{Config{OpenFor: time.Minute}, Config{OpenFor: time.Second}, 10 * time.Second, SourceDefault},
		{Config{OpenFor: time.Minute}, Config{OpenFor: 2 * time.Minute}, 2 * time.Minute, SourceRule},
		{Config{MaxOpenFor: time.Minute}, Config{OpenFor: 2 * time.Minute}, 2 * time.Minute, SourceRule},
		{Config{MaxOpenFor: time.Minute}, Config{OpenFor: time.Second}, time.Minute, SourceGroup},
		{Config{OpenFor: time.Minute}, Config{MaxOpenFor: time.Hour}, time.Hour, SourceRule},
	} {
		g, err := NewGroup(tt.group, WithPolicy(PolicyRule{Match: Key{Service: "s"}, Config: tt.rule}))
		if err != nil {
			t.Fatal(err)
		}
		p := g.PolicyFor(Key{Service: "s"})
		if p.Config.MaxOpenFor != tt.max || p.Sources["MaxOpenFor"] != tt.want {
			t.Errorf("group %+v, rule %+v: MaxOpenFor is %v from the %s, want %v from the %s",
				tt.group, tt.rule, p.Config.MaxOpenFor, p.Sources["MaxOpenFor"], tt.max, tt.want)
		}
	}
	g, err := NewGroup(Config{OpenFor: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if got := g.PolicyFor(Key{}).Sources["MaxOpenFor"]; got != SourceGroup {
		t.Errorf("without a rule: MaxOpenFor comes from the %s", got)
	}
}

// Policies returns the rules, and how many breakers each has applied to. This is 0 for a rule that matches nothing.
func TestB42_Policies(t *testing.T) {
	g := mustGroup(t, Config{}, WithPolicy(
		PolicyRule{Match: Key{Method: "/shop.Orders/Get"}, Config: Config{MinCalls: 5}},
		PolicyRule{Match: Key{Service: "shop.Odrers"}, Config: Config{MinCalls: 6}, Name: "misspelt"},
	))
	for _, m := range []string{"Get", "Put"} {
		g.Get(Key{Target: "t", Service: "shop.Orders", Method: m})
	}
	want := []PolicyInfo{
		{Rule: PolicyRule{Match: Key{Service: "shop.Orders", Method: "Get"}, Config: Config{MinCalls: 5}}, Breakers: 1},
		{Rule: PolicyRule{Match: Key{Service: "shop.Odrers"}, Config: Config{MinCalls: 6}, Name: "misspelt"}},
	}
	wantSame(t, "policies", g.Policies(), want)
	if err := g.Apply(Config{}, want[1].Rule); err != nil {
		t.Fatal(err)
	}
	wantSame(t, "after Apply", g.Policies(), want[1:])
	if err := g.Apply(Config{}, want[0].Rule); err != nil {
		t.Fatal(err)
	}
	if got := g.Policies()[0].Breakers; got != 1 {
		t.Errorf("after Apply of a rule for a breaker that exists: %d breakers, want 1", got)
	}
}

// A Match with a full method name, and matches that nothing can match.
func TestB42_Match(t *testing.T) {
	for _, tt := range []struct {
		match Key
		want  string
	}{
		{Key{Method: "/shop.Orders"}, `method "/shop.Orders" is not a full method name, want "/service/method"`},
		{Key{Method: "//Get"}, `method "//Get" is not a full method name`},
		{Key{Method: "/shop.Orders/"}, `method "/shop.Orders/" is not a full method name`},
		{Key{Service: "shop.Users", Method: "/shop.Orders/Get"}, `method "/shop.Orders/Get" is not of service "shop.Users", so nothing matches`},
		{Key{Method: "shop.Orders/Get"}, `method "shop.Orders/Get" contains a slash, so nothing matches; did you mean "/shop.Orders/Get"?`},
		{Key{Method: "/shop.Orders/Get/More"}, `method "Get/More" contains a slash`},
		{Key{Service: "shop/Orders"}, `service "shop/Orders" contains a slash`},
	} {
		_, err := NewGroup(Config{}, WithPolicy(PolicyRule{Match: tt.match, Name: "x.yaml:3"}))
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "policy rule 0 (x.yaml:3)") {
			t.Errorf("%+v: got %v, want an error with %s and the rule", tt.match, err, tt.want)
		}
	}
	// Two spellings of the same match are an error, like the same match twice.
	_, err := NewGroup(Config{}, WithPolicy(PolicyRule{Match: Key{Method: "/s/m"}}, PolicyRule{Match: Key{Service: "s", Method: "m"}}))
	if err == nil || !strings.Contains(err.Error(), "policy rules 0 and 1 both match") {
		t.Errorf("got %v, want an error that names both rules", err)
	}
}
