package breaker

import (
	"fmt"
	"reflect"
	"strings"
)

// Where the value of a Config field comes from, see Policy.
const (
	SourceDefault = "default"
	SourceGroup   = "group"
	SourceRule    = "rule"
)

// Policy is the Config of a key, and where it comes from. See Group.PolicyFor.
type Policy struct {
	Config Config `json:"config"` // complete: each field has its value or its default
	// Rule is the index of the rule that matched the key, in the order of WithPolicy or Apply; -1 if none did.
	Rule int `json:"rule"`
	// Name is the name of that rule.
	Name string `json:"name,omitempty"`
	// Sources has for each field of Config, by its Go name, where the value comes from: SourceDefault, SourceGroup or
	// SourceRule. If the OpenFor of a rule raised an inherited MaxOpenFor, the source of MaxOpenFor is SourceRule.
	Sources map[string]string `json:"sources"`
}

// PolicyInfo is a rule of a group and how often it was used. See Group.Policies.
type PolicyInfo struct {
	Rule PolicyRule `json:"rule"`
	// Breakers is how many breakers the rule has applied to, since it was given to the group. 0: it may be misspelt.
	Breakers uint64 `json:"breakers"`
}

// PolicyFor returns the Config that a breaker of key has or would have, and where each value comes from.
func (g *Group) PolicyFor(key Key) Policy {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := g.policies.match(key)
	p := Policy{Config: g.policies.base.cfg, Rule: i, Sources: make(map[string]string)}
	var own Config
	base := g.policies.cfg
	if i >= 0 {
		r := &g.policies.rules[i]
		p.Config, p.Name, own = r.pol.cfg, r.rule.Name, r.rule.Config
	}
	ofRule, ofGroup := reflect.ValueOf(own), reflect.ValueOf(base)
	for i := range ofRule.NumField() {
		source := SourceDefault
		switch {
		case !ofRule.Field(i).IsZero():
			source = SourceRule
		case !ofGroup.Field(i).IsZero():
			source = SourceGroup
		}
		p.Sources[ofRule.Type().Field(i).Name] = source
	}
	given := base.MaxOpenFor
	if given == 0 {
		given = Config{}.WithDefaults().MaxOpenFor
	}
	if own.MaxOpenFor == 0 && p.Config.MaxOpenFor != given { // OpenFor raised it
		p.Sources["MaxOpenFor"] = p.Sources["OpenFor"]
	}
	return p
}

// Policies returns the rules of the group in their order, and how many breakers each has applied to.
func (g *Group) Policies() []PolicyInfo {
	g.mu.Lock()
	defer g.mu.Unlock()
	infos := make([]PolicyInfo, len(g.policies.rules))
	for i := range g.policies.rules {
		r := &g.policies.rules[i]
		infos[i] = PolicyInfo{Rule: r.rule, Breakers: r.breakers}
	}
	return infos
}

// Inherit returns c with each zero field replaced by that of base. If OpenFor is c's own and MaxOpenFor is not, an
// inherited MaxOpenFor that is shorter than OpenFor becomes OpenFor.
func (c Config) Inherit(base Config) Config {
	own, from := reflect.ValueOf(&c).Elem(), reflect.ValueOf(base)
	raise := c.MaxOpenFor == 0 && c.OpenFor > 0
	for i := range own.NumField() {
		if own.Field(i).IsZero() {
			own.Field(i).Set(from.Field(i))
		}
	}
	if raise && c.MaxOpenFor != 0 {
		c.MaxOpenFor = max(c.MaxOpenFor, c.OpenFor)
	}
	return c
}

// complete returns c with defaults, and with negative values where a zero field means off. So a rule that has it as its
// Config inherits only Enforcement.
func (c Config) complete() Config {
	c = c.WithDefaults()
	setDefault(&c.FailingFor, -1)
	setDefault(&c.SlowCall, -1)
	setDefault(&c.Ramp, -1)
	setDefault(&c.MaxConcurrent, -1)
	c.Enforcement = 0 // a preset says when to open, not whether to reject
	return c
}

// normalizeMatch splits a full method name into service and method. It returns an error if no key of a gRPC call can
// match.
func normalizeMatch(k Key) (Key, error) {
	if full, ok := strings.CutPrefix(k.Method, "/"); ok {
		service, method, ok := strings.Cut(full, "/")
		if !ok || service == "" || method == "" {
			return k, fmt.Errorf("method %q is not a full method name, want \"/service/method\"", k.Method)
		}
		if k.Service != "" && k.Service != service {
			return k, fmt.Errorf("method %q is not of service %q, so nothing matches", k.Method, k.Service)
		}
		k.Service, k.Method = service, method
	} else if strings.Contains(k.Method, "/") {
		return k, fmt.Errorf("method %q contains a slash, so nothing matches; did you mean %q?", k.Method, "/"+k.Method)
	}
	if strings.Contains(k.Method, "/") {
		return k, fmt.Errorf("method %q contains a slash, so nothing matches", k.Method)
	}
	if strings.Contains(k.Service, "/") {
		return k, fmt.Errorf("service %q contains a slash, so nothing matches", k.Service)
	}
	return k, nil
}
