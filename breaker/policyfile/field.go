package policyfile

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/grpcircuit/grpcircuit/breaker"
	"go.yaml.in/yaml/v3"
)

// A kind is the kind of values that a field of breaker.Config may have.
type kind uint8

const (
	count         kind = iota + 1 // a whole number from 1
	countOrOff                    // the same; negative switches off
	ratio                         // in (0, 1]
	ratioOrOff                    // the same; negative switches off
	factor                        // from 1
	duration                      // from 1 ms to 100 years
	durationOrOff                 // the same; negative switches off
	enforcement
)

// kinds has the kind of each field of breaker.Config. A test compares it with Config.Validate.
var kinds = map[string]kind{
	"ConsecutiveFailures": countOrOff,
	"FailingFor":          durationOrOff,
	"FailureRatio":        ratioOrOff,
	"MinCalls":            count,
	"Window":              duration,
	"SlowCall":            durationOrOff,
	"SlowRatio":           ratio,
	"OpenFor":             duration,
	"MaxOpenFor":          duration,
	"Backoff":             factor,
	"Jitter":              ratioOrOff,
	"MaxProbes":           count,
	"SuccessesToClose":    count,
	"ProbeTimeout":        duration,
	"Ramp":                durationOrOff,
	"MaxConcurrent":       countOrOff,
	"Enforcement":         enforcement,
}

// bounds describes the valid values of a kind, for errors.
var bounds = map[kind]string{
	count:         "a whole number from 1",
	countOrOff:    "a whole number from 1, or -1 for off",
	ratio:         "a number above 0 and at most 1",
	ratioOrOff:    "a number above 0 and at most 1, or -1 for off",
	factor:        "a finite number from 1",
	duration:      `a duration from "1ms" to 100 years, such as "1.5s"`,
	durationOrOff: `a duration from "1ms" to 100 years, such as "1.5s", or "-1s" for off`,
	enforcement:   "one of enforce, shadow and off",
}

// canBeOff reports whether a negative value means off.
func (k kind) canBeOff() bool { return k == countOrOff || k == ratioOrOff || k == durationOrOff }

// isDuration reports whether values are durations.
func (k kind) isDuration() bool { return k == duration || k == durationOrOff }

// off returns the value that switches a field off, as it is written in a file.
func (k kind) off() string {
	if k.isDuration() {
		return `"-1s"`
	}
	return "-1"
}

// A field is a field of breaker.Config as it appears in a file.
type field struct {
	name   string // in the file: "openFor"
	goName string // "OpenFor"
	index  int
	kind   kind
}

var (
	fields     = configFields()
	fieldNames = func() (names []string) {
		for _, f := range fields {
			names = append(names, f.name)
		}
		return names
	}()
)

func configFields() []field {
	var fs []field
	for f := range reflect.TypeFor[breaker.Config]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		fs = append(fs, field{name: name, goName: f.Name, index: f.Index[0], kind: kinds[f.Name]})
	}
	return fs
}

func fieldByName(name string) (field, bool) {
	i := slices.Index(fieldNames, name)
	if i < 0 {
		return field{}, false
	}
	return fields[i], true
}

func fieldByGoName(name string) (field, bool) {
	i := slices.IndexFunc(fields, func(f field) bool { return f.goName == name })
	if i < 0 {
		return field{}, false
	}
	return fields[i], true
}

// set decodes n into the field of cfg. It returns what is wrong with n, or "". It does not check bounds;
// Config.Validate does.
func (f field) set(cfg *breaker.Config, n *yaml.Node) string {
	v := reflect.ValueOf(cfg).Elem().Field(f.index)
	switch {
	case f.kind == enforcement:
		return f.setEnforcement(v, n)
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null":
		return f.name + " has no value; write one, or remove the line to inherit it"
	case f.kind.isDuration():
		return f.setDuration(v, n)
	case v.CanFloat():
		var x float64
		if tag := n.ShortTag(); n.Kind != yaml.ScalarNode || (tag != "!!int" && tag != "!!float") || n.Decode(&x) != nil {
			return f.wrong(describe(n))
		}
		if x == 0 {
			return f.zero("0")
		}
		v.SetFloat(x)
		return ""
	}
	var x int
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || n.Decode(&x) != nil {
		return f.wrong(describe(n))
	}
	if x == 0 {
		return f.zero("0")
	}
	v.SetInt(int64(x))
	return ""
}

func (f field) setEnforcement(v reflect.Value, n *yaml.Node) string {
	want := ", want " + bounds[enforcement]
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!bool" {
		return f.name + " is " + n.Value + want + `; tools that read "off" as false need it in quotes`
	}
	var e breaker.Enforcement
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" || n.Value == "" || e.UnmarshalText([]byte(n.Value)) != nil {
		text := f.name + " is " + describe(n) + want
		if near := nearest(n.Value, []string{"enforce", "shadow", "off"}); n.Kind == yaml.ScalarNode && near != "" {
			text += fmt.Sprintf("; did you mean %q?", near)
		}
		return text
	}
	v.SetUint(uint64(e))
	return ""
}

func (f field) setDuration(v reflect.Value, n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode {
		return f.wrong(describe(n))
	}
	switch n.ShortTag() {
	case "!!int", "!!float":
		return f.unitless(n.Value)
	case "!!str":
	default:
		return f.wrong(describe(n))
	}
	d, err := time.ParseDuration(n.Value)
	if _, notNumber := strconv.ParseFloat(n.Value, 64); notNumber == nil && (err != nil || n.Value == "0") {
		return f.unitless(n.Value)
	}
	if err != nil {
		return fmt.Sprintf(`%s is %s, which is not a duration; want numbers with the units h, m, s or ms, `+
			`such as "1.5s" or "1m30s"`, f.name, describe(n))
	}
	if d == 0 {
		return f.zero(describe(n))
	}
	v.SetInt(int64(d))
	return ""
}

// unitless returns the error text for a number without a unit. It suggests what was probably meant.
func (f field) unitless(text string) string {
	x, err := strconv.ParseFloat(strings.ReplaceAll(text, "_", ""), 64)
	meant := fmt.Sprintf(`write "%ss" for seconds or "%[1]sms" for milliseconds`, text)
	switch {
	case err != nil: // hexadecimal, or too large
		meant = "want " + bounds[f.kind]
	case x == 0:
		return f.zero(text)
	case x < 0 && f.kind.canBeOff():
		meant = `write "-1s" for off`
	case x < 0:
		return f.wrong(text)
	case x >= 1e6 && x < math.MaxInt64:
		meant = fmt.Sprintf("write %q, if it is in nanoseconds", time.Duration(x))
	}
	return fmt.Sprintf("%s is %s, a number without a unit; %s", f.name, text, meant)
}

// zero returns the error text for a field that is zero. In Go, a zero field is not set, but a person who writes zero
// into a file often means off.
func (f field) zero(text string) string {
	if f.kind.canBeOff() {
		return fmt.Sprintf("%s is %s; write %s for off, or remove the line to inherit it", f.name, text, f.kind.off())
	}
	return fmt.Sprintf("%s is %s, want %s; remove the line to inherit it", f.name, text, bounds[f.kind])
}

func (f field) wrong(got string) string {
	return fmt.Sprintf("%s is %s, want %s", f.name, got, bounds[f.kind])
}

// outOfBounds returns the text for an error of Config.Validate. openFor is the resulting OpenFor, with inheritance and
// defaults.
func (f field) outOfBounds(e *breaker.ConfigError, openFor time.Duration) string {
	got := fmt.Sprint(e.Value)
	if d, ok := e.Value.(time.Duration); ok && f.goName == "MaxOpenFor" && d > 0 && d < openFor {
		return fmt.Sprintf("maxOpenFor is %v, shorter than openFor, which is %v", d, openFor)
	}
	return f.wrong(got)
}

// describe returns a short description of a value, for an error text.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	case yaml.ScalarNode, yaml.DocumentNode:
	}
	switch text := shorten(n.Value); n.ShortTag() {
	case "!!null":
		return "empty"
	case "!!int", "!!float", "!!bool":
		return text
	default:
		return strconv.Quote(text)
	}
}

// printable shortens text, and quotes it if it contains characters that a terminal would act on.
func printable(text string) string {
	text = shorten(text)
	if strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}

// shorten cuts text to a length that fits into an error.
func shorten(text string) string {
	const longest = 60
	if r := []rune(text); len(r) > longest {
		return string(r[:longest]) + "…"
	}
	return text
}
