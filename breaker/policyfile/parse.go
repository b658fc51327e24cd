package policyfile

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"unicode"

	"github.com/grpcircuit/grpcircuit/breaker"
	"go.yaml.in/yaml/v3"
)

// Keys of gRPC's service config. They are never reported as misspelt keys of this package.
var (
	grpcKeys = []string{
		"loadBalancingPolicy", "loadBalancingConfig", "retryThrottling", "healthCheckConfig",
	}
	grpcMethodKeys = []string{
		"waitForReady", "timeout", "maxRequestMessageBytes", "maxResponseMessageBytes", "retryPolicy", "hedgingPolicy",
	}
	nameKeys = []string{"service", "method", "target", "tag"}
)

// maxSuggested is the number of presets of a file that errors can suggest. It bounds the work for a file with many
// errors.
const maxSuggested = 100

// parser collects the rules of a file, and its errors.
type parser struct {
	file        string
	errs        []*Error
	presets     map[string]breaker.Config
	presetNames []string                   // of presets, the first maxSuggested
	base        breaker.Config             // the file's default, or the zero Config if the default is invalid
	seen        map[breaker.Key]*yaml.Node // the first node of each name
	rules       []breaker.PolicyRule
}

// A section is a circuitBreaker or a preset.
type section struct {
	what   string // "circuitBreaker" or `preset "gold"`
	at     *yaml.Node
	own    breaker.Config        // the fields given in the section
	preset *yaml.Node            // the value of preset, or nil
	read   bool                  // the section has no unreadable part
	cfg    breaker.Config        // own, completed by the preset
	values map[string]*yaml.Node // by the Go name of the field
}

func (p *parser) fail(n *yaml.Node, format string, args ...any) {
	p.errs = append(p.errs, &Error{File: p.file, Line: n.Line, Column: n.Column, Text: fmt.Sprintf(format, args...)})
}

// run reads the root of a file.
func (p *parser) run(root *yaml.Node) breaker.Config {
	p.presets, p.seen = make(map[string]breaker.Config), make(map[breaker.Key]*yaml.Node)
	var circuitBreaker, presets, methodConfig, at *yaml.Node
	for key, value := range p.mapping(root, "the file") {
		switch key.Value {
		case "circuitBreaker":
			circuitBreaker, at = value, key
		case "presets":
			presets = value
		case "methodConfig":
			methodConfig = value
		default:
			p.foreign(key, "the file", []string{"circuitBreaker", "presets", "methodConfig"}, grpcKeys)
		}
	}
	if presets != nil {
		p.definePresets(presets)
	}
	var cfg breaker.Config
	if circuitBreaker != nil {
		if s := p.section(at, circuitBreaker, "circuitBreaker"); p.check(s, breaker.Config{}) {
			cfg = s.cfg
		}
	}
	p.base = cfg
	if methodConfig != nil && !isNull(methodConfig) { // gRPC treats null like a missing key
		p.methodConfigs(methodConfig)
	}
	return cfg
}

// mapping yields the keys and values of n. It reports an error if n is not a mapping, if a key is not a scalar, or if a
// key occurs twice.
func (p *parser) mapping(n *yaml.Node, what string) iter.Seq2[*yaml.Node, *yaml.Node] {
	return func(yield func(*yaml.Node, *yaml.Node) bool) {
		if n.Kind != yaml.MappingNode {
			p.fail(n, "%s is %s, want a mapping", what, describe(n))
			return
		}
		first := make(map[string]*yaml.Node)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			if key.Kind != yaml.ScalarNode {
				p.fail(key, "a key of %s is %s, want a name", what, describe(key))
				continue
			}
			if before := first[key.Value]; before != nil {
				p.fail(key, "%q is already on line %d; remove one of them", shorten(key.Value), before.Line)
				continue
			}
			first[key.Value] = key
			if !yield(key, value) {
				return
			}
		}
	}
}

// foreign reports a key that is probably a misspelt key of this package. All other keys belong to gRPC and are ignored.
func (p *parser) foreign(key *yaml.Node, where string, ours, grpc []string) {
	if slices.Contains(grpc, key.Value) {
		return
	}
	if _, ok := fieldByName(key.Value); ok || key.Value == "preset" {
		also := ""
		if key.Value == "preset" && slices.Contains(ours, "presets") {
			also = ", or write presets to define some"
		}
		p.fail(key, "%s has no effect in %s; write it inside circuitBreaker%s", key.Value, where, also)
		return
	}
	if near := nearest(key.Value, slices.Concat(ours, grpc)); slices.Contains(ours, near) {
		p.fail(key, "unknown key %q in %s; did you mean %q?", shorten(key.Value), where, near)
	}
}

func (p *parser) definePresets(n *yaml.Node) {
	for key, value := range p.mapping(n, "presets") {
		name := key.Value
		if _, ok := builtin[name]; ok {
			p.fail(key, "preset %q is built in and cannot be redefined; choose another name, and write preset: %[1]s "+
				"inside it to start from the built-in one", name)
			continue
		}
		what := fmt.Sprintf("preset %q", shorten(name))
		// Only built-in presets can be the base of a preset, so there are no cycles and the order does not matter.
		s := p.section(key, value, what)
		s.cfg = complete(s.cfg)
		if !p.check(s, breaker.Config{}) {
			s.cfg = complete(breaker.Config{}) // so that rules with the preset do not repeat the error
		}
		p.presets[name] = s.cfg
		if len(p.presetNames) < maxSuggested {
			p.presetNames = append(p.presetNames, name)
		}
	}
}

// section reads the fields of a circuitBreaker or of a preset. Fields that it cannot read stay zero.
func (p *parser) section(at, n *yaml.Node, what string) section {
	s := section{what: what, at: at, values: make(map[string]*yaml.Node)}
	errs := len(p.errs)
	if isNull(n) {
		p.fail(at, "%s is empty; give it fields, or write {} to inherit all of them", what)
		return s
	}
	for key, value := range p.mapping(n, what) {
		f, known := fieldByName(key.Value)
		switch {
		case known:
			if wrong := f.set(&s.own, value); wrong != "" {
				p.fail(value, "%s", wrong)
			}
			s.values[f.goName] = value
		case key.Value == "preset":
			s.preset = value
		default:
			p.unknownField(key, what)
		}
	}
	s.cfg = s.own
	if s.preset != nil {
		s.cfg = s.own.Inherit(p.preset(s))
	}
	s.read = len(p.errs) == errs
	return s
}

func (p *parser) unknownField(key *yaml.Node, what string) {
	if near := nearest(key.Value, slices.Concat(fieldNames, []string{"preset"})); near != "" {
		p.fail(key, "unknown field %q in %s; did you mean %q?", shorten(key.Value), what, near)
		return
	}
	p.fail(key, "unknown field %q in %s; the fields are preset, %s",
		shorten(key.Value), what, strings.Join(fieldNames, ", "))
}

// preset returns the preset that s names. If there is no such preset, it reports an error and returns a complete
// Config.
func (p *parser) preset(s section) breaker.Config {
	n := s.preset
	if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" {
		p.fail(n, "preset is %s, want the name of a preset", describe(n))
		return complete(breaker.Config{})
	}
	if cfg, ok := builtin[n.Value]; ok {
		return cfg
	}
	if s.what != "circuitBreaker" {
		p.fail(n, "%s is based on %q, but a preset can only be based on a built-in one: %s",
			s.what, shorten(n.Value), strings.Join(builtinNames, ", "))
		return complete(breaker.Config{})
	}
	if cfg, ok := p.presets[n.Value]; ok {
		return cfg
	}
	names := slices.Concat(builtinNames, p.presetNames)
	if near := nearest(n.Value, names); near != "" {
		p.fail(n, "unknown preset %q; did you mean %q?", shorten(n.Value), near)
	} else {
		p.fail(n, "unknown preset %q; there are %s", shorten(n.Value), shortenList(names))
	}
	return complete(breaker.Config{})
}

// shortenList joins names. If there are many, it leaves out the last ones.
func shortenList(names []string) string {
	const most = 12
	var shown []string
	for _, name := range names[:min(most, len(names))] {
		shown = append(shown, printable(name))
	}
	if len(names) > most {
		shown = append(shown, "…")
	}
	return strings.Join(shown, ", ")
}

// check reports whether s could be read and its Config is valid when it inherits from base. It adds an error for each
// field out of bounds.
func (p *parser) check(s section, base breaker.Config) bool {
	cfg := s.cfg.Inherit(base)
	err := cfg.Validate()
	if err == nil {
		return s.read
	}
	errs := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		errs = joined.Unwrap()
	}
	for _, err := range errs {
		at, text := s.at, err.Error()
		if ce, ok := err.(*breaker.ConfigError); ok { //nolint:errorlint // Validate joins them directly
			switch {
			case ce.Field == "MaxOpenFor" && !s.read:
				continue // it was compared with an OpenFor that could perhaps not be read
			case s.values[ce.Field] != nil:
				at = s.values[ce.Field]
			case s.preset != nil:
				at = s.preset
			}
			if f, ok := fieldByGoName(ce.Field); ok {
				text = f.outOfBounds(ce, cfg.WithDefaults().OpenFor)
			}
		}
		p.fail(at, "%s", text)
	}
	return false
}

func (p *parser) methodConfigs(n *yaml.Node) {
	if n.Kind != yaml.SequenceNode {
		p.fail(n, "methodConfig is %s, want a list", describe(n))
		return
	}
	for _, entry := range n.Content {
		p.methodConfig(entry)
	}
}

// methodConfig reads an entry of methodConfig. Entries without a circuitBreaker make no rule, but their names are
// checked for duplicates, because gRPC refuses a service config with duplicates as a whole.
func (p *parser) methodConfig(entry *yaml.Node) {
	var names, circuitBreaker, at *yaml.Node
	for key, value := range p.mapping(entry, "an entry of methodConfig") {
		switch key.Value {
		case "name":
			names = value
		case "circuitBreaker":
			circuitBreaker, at = value, key
		default:
			p.foreign(key, "an entry of methodConfig", []string{"name", "circuitBreaker"}, grpcMethodKeys)
		}
	}
	var s section
	ok := false
	if circuitBreaker != nil {
		s = p.section(at, circuitBreaker, "circuitBreaker")
		ok = p.check(s, p.base)
	}
	switch {
	case names == nil || isNull(names) || (names.Kind == yaml.SequenceNode && len(names.Content) == 0):
		if circuitBreaker != nil {
			p.fail(at, "circuitBreaker applies to nothing, because its entry has no name; add name: [{}] for all methods")
		}
		return
	case names.Kind != yaml.SequenceNode:
		p.fail(names, "name is %s, want a list such as [{service: shop.Orders}]", describe(names))
		return
	}
	for _, n := range names.Content {
		key, valid := p.name(n, circuitBreaker != nil)
		if valid && ok {
			p.rules = append(p.rules, breaker.PolicyRule{
				Match: key, Config: s.cfg, Name: fmt.Sprintf("%s:%d", p.file, n.Line),
			})
		}
	}
}

// name reads a name. guards means that the entry has a circuitBreaker. Only then are unknown keys errors: with a
// misspelt "service", the name would match every call.
func (p *parser) name(n *yaml.Node, guards bool) (key breaker.Key, ok bool) {
	errs := len(p.errs)
	parts := map[string]*string{"service": &key.Service, "method": &key.Method, "target": &key.Target, "tag": &key.Tag}
	at := make(map[string]*yaml.Node)
	for k, value := range p.mapping(n, "a name") {
		part := parts[k.Value]
		switch {
		case part == nil && !guards:
		case part == nil:
			text := "a name has " + strings.Join(nameKeys, ", ")
			if near := nearest(k.Value, nameKeys); near != "" {
				text = fmt.Sprintf("did you mean %q?", near)
			}
			p.fail(k, "unknown key %q in a name; %s", shorten(k.Value), text)
		case isNull(value) && !guards:
		case isNull(value):
			p.fail(value, "%s has no value, and would match everything; write one, or remove the line", k.Value)
		case value.Kind != yaml.ScalarNode || value.ShortTag() != "!!str":
			p.fail(value, "%s is %s, want a string", k.Value, quoteHint(value))
		default:
			*part, at[k.Value] = value.Value, value
		}
	}
	for _, part := range [...]string{"service", "method"} { // a target or a tag may be any text
		if text := *parts[part]; strings.ContainsFunc(text, unicode.IsSpace) {
			p.fail(at[part], "%s %q contains a space, so it matches no call; remove it", part, shorten(text))
		}
	}
	if service, has := at["service"]; has && strings.Contains(key.Service, "/") {
		text := fmt.Sprintf("service %q contains a slash, so it matches no call", shorten(key.Service))
		if name, _, _ := strings.Cut(strings.Trim(key.Service, "/"), "/"); name != "" {
			text += fmt.Sprintf("; write %q", shorten(name))
		}
		p.fail(service, "%s", text)
	}
	if method, has := at["method"]; has && strings.Contains(key.Method, "/") {
		text := fmt.Sprintf("method %q contains a slash, so it matches no call", shorten(key.Method))
		service, name, _ := strings.Cut(strings.TrimPrefix(key.Method, "/"), "/")
		if service != "" && name != "" {
			text = fmt.Sprintf("method %q contains a slash; write service: %s and method: %s, as in a service config",
				shorten(key.Method), printable(service), printable(name))
		}
		p.fail(method, "%s", text)
	} else if has && key.Method != "" && key.Service == "" {
		p.fail(n, "method %q without a service; add the service, as in a service config", shorten(key.Method))
	}
	if len(p.errs) > errs {
		return key, false
	}
	if before := p.seen[key]; before != nil {
		p.fail(n, "the name %s is already on line %d; merge the two entries", nameText(key), before.Line)
		return key, false
	}
	p.seen[key] = n
	return key, true
}

// quoteHint describes a value that must be a string.
func quoteHint(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode {
		return describe(n) + " without quotes"
	}
	return describe(n)
}

// nameText returns a name as it would be written in a file.
func nameText(k breaker.Key) string {
	var parts []string
	for i, part := range [...]string{k.Service, k.Method, k.Target, k.Tag} {
		if part != "" {
			parts = append(parts, nameKeys[i]+": "+printable(part))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
