package policyfile

import (
	"errors"
	"fmt"
	goparser "go/parser"
	"go/token"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/grpcircuit/grpcircuit/breaker"
)

// docExample returns the file in the package comment.
func docExample(t *testing.T) string {
	t.Helper()
	f, err := goparser.ParseFile(token.NewFileSet(), "doc.go", nil, goparser.ParseComments|goparser.PackageClauseOnly)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for line := range strings.Lines(f.Doc.Text()) {
		if text, ok := strings.CutPrefix(line, "\t"); ok {
			b.WriteString(text)
		}
	}
	return b.String()
}

// goodFiles returns files that Parse accepts.
func goodFiles(t *testing.T) []string {
	t.Helper()
	return []string{
		docExample(t),
		"{}",
		"circuitBreaker: {}",
		"loadBalancingConfig: [{round_robin: {}}]\nretryThrottling: {maxTokens: 10, tokenRatio: 0.1}\n",
		"methodConfig:\n",
		"methodConfig: [{timeout: 1s}, {name: , timeout: 1s}, " +
			"{name: [{service: a, other: 1}, {service: , method: }], retryPolicy: {maxAttempts: 4}}]",
		"circuitBreaker: {consecutiveFailures: -1, failingFor: -1s, failureRatio: -1, slowCall: -1ns, jitter: -0.5, " +
			"ramp: -1h, maxConcurrent: -7}",
		"{\n\t\"circuitBreaker\": {\n\t\t\"openFor\": \"1.5s\",\n\t\t\"minCalls\": 0x10,\n\t}\n}",
		"\ufeffpresets: {a: {preset: lenient}, b: {openFor: 20s}}\ncircuitBreaker: {preset: b, enforcement: off}\n",
		"methodConfig: [{name: [{tag: a}, {target: a}, {service: a}, {service: a, tag: a}], " +
			"circuitBreaker: {preset: balanced}}]",
	}
}

func TestGoodFiles(t *testing.T) {
	for _, text := range goodFiles(t) {
		if _, err := Parse("p.yaml", []byte(text)); err != nil {
			t.Errorf("%v in:\n%s", err, text)
		}
	}
}

func TestParse(t *testing.T) {
	got, err := Parse("policy.yaml", []byte(docExample(t)))
	if err != nil {
		t.Fatal(err)
	}
	aggressive := breaker.Aggressive()
	aggressive.OpenFor, aggressive.Enforcement = 10*time.Second, breaker.EnforcementOn
	patient := breaker.Config{ConsecutiveFailures: 20, FailingFor: 5 * time.Second}.WithDefaults()
	patient.SlowCall, patient.Ramp, patient.MaxConcurrent, patient.Enforcement = -1, -1, -1, 0
	want := &File{
		Config: breaker.Config{OpenFor: 2 * time.Second, Enforcement: breaker.EnforcementShadow},
		Rules: []breaker.PolicyRule{
			{Match: breaker.Key{Service: "shop.Orders"}, Config: aggressive, Name: "policy.yaml:10"},
			{Match: breaker.Key{Service: "shop.Payments", Method: "Charge"}, Config: aggressive, Name: "policy.yaml:11"},
			{Match: breaker.Key{Target: "dns:///search:443", Tag: "gold"}, Config: patient, Name: "policy.yaml:18"},
		},
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("File (-got +want):\n%s", diff)
	}
}

// A JSON file and a YAML file with the same content are the same policy. JSON has escapes that YAML does not have.
func TestParseJSON(t *testing.T) {
	const text = `{
	"circuitBreaker": {"openFor": "1.5s", "slowRatio": 1, "enforcement": "off"},
	"methodConfig": [
		{"name": [{"service": "shop.Orders", "target": "dns:\/\/\/orders:443", "tag": "\ud83d\ude00\ud83d\n"}],
		 "circuitBreaker": {"maxProbes": 3}}
	]
}`
	got, err := Parse("p.json", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := &File{
		Config: breaker.Config{OpenFor: 1500 * time.Millisecond, SlowRatio: 1, Enforcement: breaker.EnforcementOff},
		Rules: []breaker.PolicyRule{{
			Match:  breaker.Key{Target: "dns:///orders:443", Service: "shop.Orders", Tag: "\U0001f600\ufffd\n"},
			Config: breaker.Config{MaxProbes: 3}, Name: "p.json:4",
		}},
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("File (-got +want):\n%s", diff)
	}
}

// All of JSON is accepted, also what the YAML library refuses: a service config may have it. Places are exact.
func TestParseJSON_AllOfJSON(t *testing.T) {
	const head, tail = `{"loadBalancingConfig": [`, `],
	"circuitBreaker": {"openFor": "2s"}, "methodConfig": []}`
	for name, text := range map[string]string{
		"nothing":                      ``,
		"a long key":                   `{"` + strings.Repeat("k", 2000) + `": {}}`,
		"a colon on the next line":     "{\"a\"\n\t:\n1}",
		"delete":                       "\"\x7f\"",
		"a control character":          "\"\u0080\"",
		"no character":                 "\"\ufffe\"",
		"ends of a line in other text": "\"\u2028\u0085\"",
		"NUL":                          `"\u0000"`,
		"large numbers":                `1e400, -0, 123456789012345678901234567890`,
		"words":                        `{"true": true, "null": null, "<<": {"*a": "&b"}, "": [[], {}]}`,
	} {
		f, err := Parse("p.json", []byte(head+text+tail))
		if want := (breaker.Config{OpenFor: 2 * time.Second}); err != nil || f.Config != want {
			t.Errorf("%s: got %+v, %v, want %+v", name, f, err, want)
		}
	}

	const wrong = `{"x": ["é\ud83d\ude00\/"], "circuitBreaker": {"opnFor": "2s",
 "minCalls":3e1 ,
	"window"	:
"\u0035"}, "circuitBreaker": 1}`
	_, err := Parse("p.json", []byte(wrong))
	const want = `p.json:1:47: unknown field "opnFor" in circuitBreaker; did you mean "openFor"?
p.json:2:13: minCalls is 3e1, want a whole number from 1
p.json:4:1: window is 5, a number without a unit; write "5s" for seconds or "5ms" for milliseconds
p.json:4:12: "circuitBreaker" is already on line 1; remove one of them`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// bomb returns a file of some hundred bytes whose aliases expand to more than a billion values.
func bomb() string {
	var b strings.Builder
	b.WriteString("a: &a [" + strings.Repeat("x, ", 9) + "]\n")
	for c := 'b'; c <= 'j'; c++ {
		fmt.Fprintf(&b, "%c: &%[1]c [%s]\n", c, strings.Repeat("*"+string(c-1)+", ", 9))
	}
	return b.String()
}

// many returns n lines of a circuitBreaker that are errors.
func many(n int) string {
	var b strings.Builder
	b.WriteString("circuitBreaker:\n")
	for i := range n {
		fmt.Fprintf(&b, "  bad%d: 1\n", i)
	}
	return b.String()
}

const allFields = "preset, consecutiveFailures, failingFor, failureRatio, minCalls, window, slowCall, slowRatio, " +
	"openFor, maxOpenFor, backoff, jitter, maxProbes, successesToClose, probeTimeout, ramp, maxConcurrent, enforcement"

func TestBadInput(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string // errors, without "p.yaml:"
	}{
		// Files that are not a mapping, or not YAML.
		{"empty", "", []string{"1:1: the file is empty; write {} for a file that changes nothing"}},
		{"only a comment", "# later\n", []string{"1:1: the file is empty; write {} for a file that changes nothing"}},
		{"null", "---\n~\n", []string{"1:1: the file is empty; write {} for a file that changes nothing"}},
		{
			"a string",
			"hello",
			[]string{
				`1:1: the file is "hello", want a mapping with methodConfig, circuitBreaker or presets`,
			},
		},
		{
			"a list",
			"\n- 1\n",
			[]string{
				"2:1: the file is a list, want a mapping with methodConfig, circuitBreaker or presets",
			},
		},
		{
			"two documents",
			"a: 1\n---\nb: 2\n",
			[]string{
				"2:1: a second document begins here; a policy file has one, so remove the line ---",
			},
		},
		{"invalid UTF-8", "a: é\nb: é\xff\n", []string{"2:5: byte 0xff is not valid UTF-8; save the file as UTF-8"}},
		{"UTF-16", "\xff\xfea\x00:\x00", []string{"1:1: the file is UTF-16; save it as UTF-8"}},
		{"NUL", "a: \x00\n", []string{"1:4: syntax error: control characters are not allowed"}},
		{"tab", "circuitBreaker:\n\topenFor: 1s\n", []string{
			"2:1: syntax error: found character that cannot start any token; the line is indented with a tab, use spaces",
		}},
		{"indented too far", "circuitBreaker:\n  openFor: 5s\n   window: 3s\n", []string{
			"3:10: syntax error: mapping values are not allowed in this context; " +
				"indent the line as its neighbors, or quote a value that has a colon",
		}},
		{"indented too little", "circuitBreaker:\n  openFor: 5s\n window: 3s\n", []string{
			"3:2: syntax error: did not find expected key; indent the line as its neighbors",
		}},
		{"open quote", "a:\n  b: \"x\nc: 1\n", []string{"2:6: syntax error: found unexpected end of stream"}},
		{"open bracket", "a: [1, 2\nb: 1\n", []string{"2:2: syntax error: did not find expected ',' or ']'"}},
		{
			"comma missing in JSON",
			"{\"a\": 1,\n \"b\": 2\n \"c\": 3}",
			[]string{
				"3:2: syntax error: invalid character '\"' after object key:value pair",
			},
		},
		{"half of JSON", "{\"a\": 1,\n", []string{"1:9: syntax error: unexpected end of JSON input"}},
		{"unknown anchor", "circuitBreaker: *x\n", []string{"1:18: syntax error: unknown anchor 'x' referenced"}},

		// Parts of YAML that a policy file may not have.
		{"alias", "x: &x {openFor: 1s}\ncircuitBreaker: *x\n", []string{
			"2:17: *x is an alias, which a policy file may not have; share fields with a preset",
		}},
		{"merge key", "circuitBreaker:\n  <<: {openFor: 1s}\n", []string{
			"2:3: << is a merge key, which a policy file may not have; share fields with a preset",
		}},
		{"nested", strings.Repeat("[", 65) + strings.Repeat("]", 65), []string{"1:65: nested deeper than 64 levels"}},
		{"nested far", strings.Repeat("- ", 300_000), []string{"1:1: syntax error: exceeded max depth of 10000"}},
		{
			"a key that is a list",
			"circuitBreaker: {? [a] : b}\n",
			[]string{
				"1:20: a key of circuitBreaker is a list, want a name",
			},
		},

		// Durations.
		{
			"durations without a unit",
			"circuitBreaker:\n  openFor: 5\n  window: 1500000000\n  slowCall: -1\n  probeTimeout: \"30\"\n" +
				"  failingFor: 1.5\n  maxOpenFor: 0x10\n",
			[]string{
				`2:12: openFor is 5, a number without a unit; write "5s" for seconds or "5ms" for milliseconds`,
				`3:11: window is 1500000000, a number without a unit; write "1.5s", if it is in nanoseconds`,
				`4:13: slowCall is -1, a number without a unit; write "-1s" for off`,
				`5:17: probeTimeout is 30, a number without a unit; write "30s" for seconds or "30ms" for milliseconds`,
				`6:15: failingFor is 1.5, a number without a unit; write "1.5s" for seconds or "1.5ms" for milliseconds`,
				`7:15: maxOpenFor is 0x10, a number without a unit; want a duration from "1ms" to 100 years, such as "1.5s"`,
			},
		},
		{"negative durations", "circuitBreaker:\n  openFor: -5s\n  window: -1\n", []string{
			`2:12: openFor is -5s, want a duration from "1ms" to 100 years, such as "1.5s"`,
			`3:11: window is -1, want a duration from "1ms" to 100 years, such as "1.5s"`,
		}},
		{"zero durations", "circuitBreaker:\n  openFor: 0\n  window: \"0\"\n  slowCall: 0s\n  ramp: 0.0\n", []string{
			`2:12: openFor is 0, want a duration from "1ms" to 100 years, such as "1.5s"; remove the line to inherit it`,
			`3:11: window is 0, want a duration from "1ms" to 100 years, such as "1.5s"; remove the line to inherit it`,
			`4:13: slowCall is "0s"; write "-1s" for off, or remove the line to inherit it`,
			`5:9: ramp is 0.0; write "-1s" for off, or remove the line to inherit it`,
		}},
		{"other units", "circuitBreaker:\n  openFor: 5sec\n  window: 1d\n  ramp: soon\n", []string{
			`2:12: openFor is "5sec", which is not a duration; want numbers with the units h, m, s or ms, such as ` +
				`"1.5s" or "1m30s"`,
			`3:11: window is "1d", which is not a duration; want numbers with the units h, m, s or ms, such as ` +
				`"1.5s" or "1m30s"`,
			`4:9: ramp is "soon", which is not a duration; want numbers with the units h, m, s or ms, such as ` +
				`"1.5s" or "1m30s"`,
		}},
		{"durations out of bounds", "circuitBreaker:\n  openFor: 100ns\n  slowCall: 900000h\n", []string{
			`2:12: openFor is 100ns, want a duration from "1ms" to 100 years, such as "1.5s"`,
			`3:13: slowCall is 900000h0m0s, want a duration from "1ms" to 100 years, such as "1.5s", or "-1s" for off`,
		}},

		// Other values.
		{
			"wrong types",
			"circuitBreaker:\n  consecutiveFailures: five\n  openFor: true\n  maxProbes: 1.5\n  ramp: [1s]\n" +
				"  failureRatio: {}\n  minCalls:\n  maxConcurrent: 99999999999999999999\n",
			[]string{
				`2:24: consecutiveFailures is "five", want a whole number from 1, or -1 for off`,
				`3:12: openFor is true, want a duration from "1ms" to 100 years, such as "1.5s"`,
				`4:14: maxProbes is 1.5, want a whole number from 1`,
				`5:9: ramp is a list, want a duration from "1ms" to 100 years, such as "1.5s", or "-1s" for off`,
				`6:17: failureRatio is a mapping, want a number above 0 and at most 1, or -1 for off`,
				`7:12: minCalls has no value; write one, or remove the line to inherit it`,
				`8:18: maxConcurrent is 99999999999999999999, want a whole number from 1, or -1 for off`,
			},
		},
		{
			"numbers out of bounds",
			"circuitBreaker:\n  minCalls: -3\n  failureRatio: 2\n  slowRatio: -1\n  backoff: 0.5\n" +
				"  jitter: .nan\n  successesToClose: 0\n  maxConcurrent: 0\n",
			[]string{
				`2:13: minCalls is -3, want a whole number from 1`,
				`3:17: failureRatio is 2, want a number above 0 and at most 1, or -1 for off`,
				`4:14: slowRatio is -1, want a number above 0 and at most 1`,
				`5:12: backoff is 0.5, want a finite number from 1`,
				`6:11: jitter is NaN, want a number above 0 and at most 1, or -1 for off`,
				`7:21: successesToClose is 0, want a whole number from 1; remove the line to inherit it`,
				`8:18: maxConcurrent is 0; write -1 for off, or remove the line to inherit it`,
			},
		},
		{"enforcement", "circuitBreaker: {enforcement: shadwo}", []string{
			`1:31: enforcement is "shadwo", want one of enforce, shadow and off; did you mean "shadow"?`,
		}},
		{"off read as false", "circuitBreaker: {enforcement: false}", []string{
			`1:31: enforcement is false, want one of enforce, shadow and off; tools that read "off" as false ` +
				`need it in quotes`,
		}},
		{"maxOpenFor", "circuitBreaker:\n  openFor: 20s\n  maxOpenFor: 5s\n", []string{
			`3:15: maxOpenFor is 5s, shorter than openFor, which is 20s`,
		}},
		{
			"maxOpenFor beside an openFor that cannot be read",
			"circuitBreaker:\n  openFor: 0.5\n  maxOpenFor: 500ms\n",
			[]string{
				`2:12: openFor is 0.5, a number without a unit; write "0.5s" for seconds or "0.5ms" for milliseconds`,
			},
		},
		{
			"maxOpenFor below what is inherited",
			"circuitBreaker: {openFor: 20s}\nmethodConfig:\n- name: [{}]\n" +
				"  circuitBreaker: {maxOpenFor: 5s}\n",
			[]string{
				`4:32: maxOpenFor is 5s, shorter than openFor, which is 20s`,
			},
		},
		{"maxOpenFor below that of the preset", "circuitBreaker:\n  maxOpenFor: 5s\n  preset: balanced\n", []string{
			`2:15: maxOpenFor is 5s, shorter than openFor, which is 1m0s`,
		}},

		// Keys.
		{
			"misspelt fields",
			"circuitBreaker:\n  openFr: 5s\n  open_for: 1s\n  OpenFor: 1s\n  openForSeconds: 5\n" +
				"  presett: x\n",
			[]string{
				`2:3: unknown field "openFr" in circuitBreaker; did you mean "openFor"?`,
				`3:3: unknown field "open_for" in circuitBreaker; did you mean "openFor"?`,
				`4:3: unknown field "OpenFor" in circuitBreaker; did you mean "openFor"?`,
				`5:3: unknown field "openForSeconds" in circuitBreaker; did you mean "openFor"?`,
				`6:3: unknown field "presett" in circuitBreaker; did you mean "preset"?`,
			},
		},
		{"a field of another library", "presets:\n  a:\n    failureThreshold: 3\n", []string{
			`3:5: unknown field "failureThreshold" in preset "a"; the fields are ` + allFields,
		}},
		{"duplicate keys", "circuitBreaker:\n  openFor: 5s\n  openFor: 6s\ncircuitBreaker: {}\n", []string{
			`3:3: "openFor" is already on line 2; remove one of them`,
			`4:1: "circuitBreaker" is already on line 1; remove one of them`,
		}},
		{"misspelt keys", "circuitbreaker: {}\nmethod_config: []\npreset: x\nopenFor: 5s\n", []string{
			`1:1: unknown key "circuitbreaker" in the file; did you mean "circuitBreaker"?`,
			`2:1: unknown key "method_config" in the file; did you mean "methodConfig"?`,
			`3:1: preset has no effect in the file; write it inside circuitBreaker, or write presets to define some`,
			`4:1: openFor has no effect in the file; write it inside circuitBreaker`,
		}},
		{"empty sections", "circuitBreaker:\npresets: 3\nmethodConfig: {}\n", []string{
			`1:1: circuitBreaker is empty; give it fields, or write {} to inherit all of them`,
			`2:10: presets is 3, want a mapping`,
			`3:15: methodConfig is a mapping, want a list`,
		}},

		// Presets.
		{"unknown preset", "circuitBreaker:\n  preset: agressiv\n", []string{
			`2:11: unknown preset "agressiv"; did you mean "aggressive"?`,
		}},
		{"unknown preset beside others", "presets: {gold: {}}\ncircuitBreaker: {preset: silver}\n", []string{
			`2:26: unknown preset "silver"; there are conservative, balanced, aggressive, lenient, gold`,
		}},
		{"no preset", "circuitBreaker: {preset: }", []string{`1:26: preset is empty, want the name of a preset`}},
		{"built-in preset", "presets:\n  lenient: {openFor: 3s}\n", []string{
			`2:3: preset "lenient" is built in and cannot be redefined; choose another name, and write ` +
				`preset: lenient inside it to start from the built-in one`,
		}},
		{"cycle of presets", "presets:\n  a: {preset: b}\n  b: {preset: a}\n", []string{
			`2:15: preset "a" is based on "b", but a preset can only be based on a built-in one: conservative, ` +
				`balanced, aggressive, lenient`,
			`3:15: preset "b" is based on "a", but a preset can only be based on a built-in one: conservative, ` +
				`balanced, aggressive, lenient`,
		}},
		{
			"an error in a preset is reported once",
			"presets:\n  a: {openFor: -3s}\ncircuitBreaker: {preset: a}\n" +
				"methodConfig: [{name: [{}], circuitBreaker: {preset: a}}]\n",
			[]string{
				`2:16: openFor is -3s, want a duration from "1ms" to 100 years, such as "1.5s"`,
			},
		},

		// Names.
		{
			"the same name twice",
			"methodConfig:\n- name: [{service: a}, {service: a}]\n- name: [{service: a}]\n" +
				"  circuitBreaker: {}\n- name: [{}]\n- name: [{service: \"\"}]\n",
			[]string{
				`2:24: the name {service: a} is already on line 2; merge the two entries`,
				`3:10: the name {service: a} is already on line 2; merge the two entries`,
				`6:10: the name {} is already on line 5; merge the two entries`,
			},
		},
		{
			"conflicting rules",
			"methodConfig:\n- name: [{service: a, method: B, tag: c}]\n  circuitBreaker: {openFor: 1s}\n" +
				"- name: [{tag: c, method: B, service: a}]\n  circuitBreaker: {openFor: 2s}\n",
			[]string{
				`4:10: the name {service: a, method: B, tag: c} is already on line 2; merge the two entries`,
			},
		},
		{"method without service", "methodConfig: [{name: [{method: Get}], timeout: 1s}]", []string{
			`1:24: method "Get" without a service; add the service, as in a service config`,
		}},
		{
			"slashes",
			"methodConfig:\n- name: [{service: /shop.Orders/}]\n- name: [{method: /shop.Orders/Get}]\n" +
				"  circuitBreaker: {}\n",
			[]string{
				`2:20: service "/shop.Orders/" contains a slash, so it matches no call; write "shop.Orders"`,
				`3:19: method "/shop.Orders/Get" contains a slash; write service: shop.Orders and method: Get, as in ` +
					`a service config`,
			},
		},
		{
			"nothing but slashes",
			"methodConfig:\n- name: [{service: /}]\n- name: [{method: /}, {method: Get/}]\n  circuitBreaker: {}\n",
			[]string{
				`2:20: service "/" contains a slash, so it matches no call`,
				`3:19: method "/" contains a slash, so it matches no call`,
				`3:32: method "Get/" contains a slash, so it matches no call`,
			},
		},
		{"spaces", "methodConfig:\n- name: [{service: 'shop.Orders '}, {service: a, method: 'G et', tag: ' x '}]\n", []string{
			`2:20: service "shop.Orders " contains a space, so it matches no call; remove it`,
			`2:58: method "G et" contains a space, so it matches no call; remove it`,
		}},
		{"YAML in braces", "{circuitBreaker: {openFor: 2s}", []string{"1:2: syntax error: did not find expected ',' or '}'"}},
		{"JSON", "{\n\"circuitBreaker\": {\"openFor\": \"2s\",}", []string{
			"2:36: syntax error: invalid character '}' looking for beginning of object key string",
		}},
		{"control characters", "presets: {\"\\e\": {}}\nmethodConfig: [{name: [{tag: \"\\e[0m\"}, {tag: \"\\e[0m\"}, " +
			"{method: \"/s/\\e\"}], circuitBreaker: {preset: unknown}}]", []string{
			`2:40: the name {tag: "\x1b[0m"} is already on line 2; merge the two entries`,
			`2:65: method "/s/\x1b" contains a slash; write service: s and method: "\x1b", as in a service config`,
			`2:101: unknown preset "unknown"; there are conservative, balanced, aggressive, lenient, "\x1b"`,
		}},
		{"a version", "%YAML 1.2\n---\ncircuitBreaker: {}\n", []string{
			"1:9: syntax error: found incompatible YAML document; remove the line that begins with %YAML",
		}},
		{"misspelt name", "methodConfig:\n- name: [{servce: x, color: red}]\n  circuitBreaker: {}\n", []string{
			`2:11: unknown key "servce" in a name; did you mean "service"?`,
			`2:22: unknown key "color" in a name; a name has service, method, target, tag`,
		}},
		{
			"empty and wrong names",
			"methodConfig:\n- {name: [{service: }], circuitBreaker: {}}\n- {name: [{tag: 5}]}\n" +
				"- {name: [7]}\n- {name: shop}\n- 5\n",
			[]string{
				`2:21: service has no value, and would match everything; write one, or remove the line`,
				`3:17: tag is 5 without quotes, want a string`,
				`4:11: a name is 7, want a mapping`,
				`5:10: name is "shop", want a list such as [{service: shop.Orders}]`,
				`6:3: an entry of methodConfig is 5, want a mapping`,
			},
		},
		{"no name", "methodConfig:\n- circuitBreaker: {}\n- {name: [], circuitBreaker: {}}\n", []string{
			`2:3: circuitBreaker applies to nothing, because its entry has no name; add name: [{}] for all methods`,
			`3:14: circuitBreaker applies to nothing, because its entry has no name; add name: [{}] for all methods`,
		}},
		{"misplaced fields", "methodConfig:\n- name: [{service: a}]\n  circuit_breaker: {}\n  openFor: 5s\n", []string{
			`3:3: unknown key "circuit_breaker" in an entry of methodConfig; did you mean "circuitBreaker"?`,
			`4:3: openFor has no effect in an entry of methodConfig; write it inside circuitBreaker`,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("p.yaml", []byte(tt.text))
			if err == nil {
				t.Fatal("no error")
			}
			var want strings.Builder
			for i, w := range tt.want {
				if i > 0 {
					want.WriteString("\n")
				}
				want.WriteString("p.yaml:" + w)
			}
			if diff := cmp.Diff(err.Error(), want.String()); diff != "" {
				t.Errorf("error (-got +want):\n%s\n%s", diff, err)
			}
			if e, ok := errors.AsType[*Error](err); !ok || e.File != "p.yaml" || e.Line == 0 {
				t.Errorf("the first error is %+v, want one with a place", e)
			}
		})
	}
}

func TestAtMostTwentyErrors(t *testing.T) {
	for n, want := range map[int]string{
		20: `p.yaml:21:3: unknown field "bad19"`,
		21: `p.yaml:22:3: unknown field "bad20"`,
		22: "p.yaml:22:3: 2 more errors, from here on",
	} {
		_, err := Parse("p.yaml", []byte(many(n)))
		lines := strings.Split(err.Error(), "\n")
		if got := lines[len(lines)-1]; len(lines) != min(n, 21) || !strings.HasPrefix(got, want) {
			t.Errorf("%d errors: %d lines, and the last is %q, want %q", n, len(lines), got, want)
		}
	}
}

// A small file with nested aliases takes little time and memory.
func TestBomb(t *testing.T) {
	start := time.Now()
	_, err := Parse("p.yaml", []byte(bomb()))
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	const want = "p.yaml:2:8: *a is an alias, which a policy file may not have; share fields with a preset\n"
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("error is %v, want first %s", err, want)
	}
}

func TestLoadErrors(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "p.yaml")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(100<<20), f.Close()); err != nil { // sparse
		t.Fatal(err)
	}
	for _, tt := range []struct{ path, want string }{
		{path, path + ": the file has 104857600 bytes, more than 1048576 (1 MiB)"},
		{dir, dir + ": is not a regular file"},
		{path + "x", "stat " + path + "x: no such file or directory"},
	} {
		if _, err := Load(tt.path); err == nil || err.Error() != tt.want {
			t.Errorf("Load: error is %v, want %s", err, tt.want)
		}
	}
	long := append([]byte("{}"), make([]byte, MaxSize)...)
	const want = "p.yaml: the file has 1048578 bytes, more than 1048576 (1 MiB)"
	if _, err := Parse("p.yaml", long); err == nil || err.Error() != want {
		t.Errorf("Parse: error is %v", err)
	}
	if _, err := Load(path + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Load: %v is not os.ErrNotExist", err)
	}
}

// The table of kinds agrees with Config.Validate. A value that a kind excludes is an error, and a value at its bounds
// is not.
func TestKinds(t *testing.T) {
	if len(kinds) != len(fields) {
		t.Errorf("%d kinds for %d fields", len(kinds), len(fields))
	}
	for _, f := range fields {
		check := func(v any, want bool) {
			t.Helper()
			cfg := breaker.Config{MaxOpenFor: time.Hour, FailingFor: time.Hour} // as long as any OpenFor here
			if f.goName == "OpenFor" {
				cfg.MaxOpenFor = 0
			}
			reflect.ValueOf(&cfg).Elem().Field(f.index).Set(reflect.ValueOf(v))
			if err := cfg.Validate(); (err == nil) != want {
				t.Errorf("%s = %v: %v", f.name, v, err)
			}
		}
		var (
			off     = f.kind.canBeOff()
			century = 100 * 365 * 24 * time.Hour
		)
		switch f.kind {
		case count, countOrOff:
			check(1, true)
			check(math.MaxInt32, true)
			check(-1, off)
		case ratio, ratioOrOff:
			check(0.001, true)
			check(1.0, true)
			check(1.001, false)
			check(-1.0, off)
		case factor:
			check(1.0, true)
			check(1e9, true)
			check(0.999, false)
			check(math.Inf(1), false)
		case duration, durationOrOff:
			if f.goName != "MaxOpenFor" {
				check(time.Millisecond, true)
			}
			check(century, true)
			check(time.Millisecond-1, false)
			check(century+1, false)
			check(-time.Second, off)
		case enforcement:
			check(breaker.EnforcementOff, true)
			check(breaker.EnforcementOff+1, false)
		default:
			t.Errorf("%s has no kind: add a row to kinds", f.name)
		}
	}
}

// A preset from complete must inherit only the enforcement, like the presets of package breaker.
func TestComplete(t *testing.T) {
	if len(builtin) != len(builtinNames) {
		t.Errorf("%d presets with %d names", len(builtin), len(builtinNames))
	}
	for _, name := range builtinNames {
		if got := complete(builtin[name]); got != builtin[name] {
			t.Errorf("%s is not complete: %+v", name, builtin[name])
		}
	}
	for _, c := range []breaker.Config{{}, {ConsecutiveFailures: 1}, {Enforcement: breaker.EnforcementOff}} {
		v := reflect.ValueOf(complete(c))
		for f := range v.Fields() {
			if f.Name != "Enforcement" && v.FieldByName(f.Name).IsZero() {
				t.Errorf("%+v: %s is zero", c, f.Name)
			}
		}
		if got, want := complete(c).WithDefaults(), c.WithDefaults(); got.ConsecutiveFailures != want.ConsecutiveFailures ||
			got.Enforcement != want.Enforcement || max(0, got.FailingFor) != want.FailingFor {
			t.Errorf("complete changed %+v to %+v", want, got)
		}
	}
}

func TestNearest(t *testing.T) {
	for word, want := range map[string]string{
		"openFor": "openFor", "opneFor": "openFor", "Open-For": "openFor", "windwo": "window",
		"jiter": "jitter", "ram": "ramp",
		"maxProbe": "maxProbes", "slowCalls": "slowCall", "x": "", "timeout": "", "": "", strings.Repeat("é", 100): "",
	} {
		if got := nearest(word, fieldNames); got != want {
			t.Errorf("nearest(%q) = %q, want %q", word, got, want)
		}
	}
}

// Rules with a preset inherit the enforcement of the file's default.
func TestPresetKeepsEnforcement(t *testing.T) {
	f, err := Parse("p.yaml", []byte(`
circuitBreaker: {enforcement: shadow}
presets: {sharp: {enforcement: enforce}}
methodConfig:
- {name: [{service: a}], circuitBreaker: {preset: aggressive}}
- {name: [{service: b}], circuitBreaker: {preset: sharp}}
`))
	if err != nil {
		t.Fatal(err)
	}
	g, err := breaker.NewGroup(f.Config, breaker.WithPolicy(f.Rules...))
	if err != nil {
		t.Fatal(err)
	}
	for service, want := range map[string]breaker.Enforcement{"a": breaker.EnforcementShadow, "b": breaker.EnforcementOn} {
		if got := g.PolicyFor(breaker.Key{Service: service}).Config.Enforcement; got != want {
			t.Errorf("%s: enforcement is %v, want %v", service, got, want)
		}
	}
}
