package policyfile

import (
	"bytes"
	"encoding/json"
	"flag"
	"go/ast"
	goparser "go/parser"
	"go/token"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "write schema.json")

// object is a JSON object. Its keys are written in alphabetical order.
type object = map[string]any

// durationPattern matches what time.ParseDuration reads, without zero.
const durationPattern = `^-?(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$`

// schemaOf returns the schema of a value of a kind. It leaves out what JSON schema cannot express: the bounds of
// durations, and that MaxOpenFor must not be below OpenFor.
func schemaOf(k kind) object {
	number := func(typ, low string, least, most any) object {
		positive := object{"type": typ, low: least}
		if most != nil {
			positive["maximum"] = most
		}
		if !k.canBeOff() {
			return positive
		}
		return object{"anyOf": []any{positive, object{"type": typ, "exclusiveMaximum": 0}}}
	}
	switch k {
	case count, countOrOff:
		return number("integer", "minimum", 1, nil)
	case ratio, ratioOrOff:
		return number("number", "exclusiveMinimum", 0, 1)
	case factor:
		return number("number", "minimum", 1, nil)
	case duration:
		return object{"type": "string", "pattern": strings.Replace(durationPattern, "-?", "", 1)}
	case durationOrOff:
		return object{"type": "string", "pattern": durationPattern}
	case enforcement:
		return object{"enum": []any{"enforce", "shadow", "off"}}
	}
	return object{}
}

// schema returns schema.json.
func schema(t *testing.T) []byte {
	t.Helper()
	docs := fieldDocs(t)
	properties := object{
		"preset": object{"type": "string", "description": "A preset, whose fields the other ones here override: " +
			strings.Join(builtinNames, ", ") + " or one of presets at the top of the file."},
	}
	for _, f := range fields {
		s := schemaOf(f.kind)
		s["description"] = docs[f.goName]
		properties[f.name] = s
	}
	// Without a circuitBreaker, a part of a name may be null, because gRPC treats null like a missing part.
	str := func(description string) object {
		return object{"type": []any{"string", "null"}, "description": description}
	}
	word := func(description string) object {
		s := str(description)
		s["pattern"] = `^[^/\s]*$`
		return s
	}
	ref := object{"$ref": "#/$defs/circuitBreaker"}
	root := object{
		"$schema":     "https://json-schema.org/draft/2020-12/schema",
		"$id":         "https://raw.githubusercontent.com/grpcircuit/grpcircuit/main/breaker/policyfile/schema.json",
		"title":       "Policies of gRPC circuit breakers",
		"description": "A gRPC service config with circuitBreaker. Keys that are not described here are gRPC's.",
		"type":        "object",
		"properties": object{
			"circuitBreaker": ref,
			"presets": object{
				"type":                 "object",
				"description":          "Named sets of fields. Each is complete: what is not given has the library's default.",
				"propertyNames":        object{"not": object{"enum": builtinNames}},
				"additionalProperties": ref,
			},
			"methodConfig": object{
				"type": []any{"array", "null"},
				"items": object{
					"type": "object",
					"properties": object{
						"name":           object{"type": []any{"array", "null"}, "items": object{"$ref": "#/$defs/name"}},
						"circuitBreaker": ref,
					},
					"if": object{"required": []any{"circuitBreaker"}},
					"then": object{"required": []any{"name"}, "properties": object{"name": object{
						"type": "array", "minItems": 1, "items": object{"unevaluatedProperties": false, "$ref": "#/$defs/name"},
					}}},
				},
			},
		},
		"$defs": object{
			"circuitBreaker": object{"type": "object", "additionalProperties": false, "properties": properties},
			"name": object{
				"type":        "object",
				"description": "What is guarded. A part that is left out matches anything; {} matches all.",
				"properties": object{
					"service": word("The full name of the service: shop.Orders."),
					"method":  word("The name of the method, without the service: Get."),
					"target":  str("The target of the ClientConn: dns:///orders:443. gRPC does not know this part."),
					"tag":     str("The tag of the key of the breaker. gRPC does not know this part."),
				},
				"dependentRequired": object{"method": []any{"service"}},
			},
		},
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(root); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// The Go comments describe a zero field. In a file, this is a field that is not given.
var (
	zeroOrNegative = regexp.MustCompile(`\b0 or negative: `)
	zeroMeans      = regexp.MustCompile(`\b0: `)
)

// fieldDocs returns the comments of the fields of breaker.Config, by Go name.
func fieldDocs(t *testing.T) map[string]string {
	t.Helper()
	const mode = goparser.ParseComments | goparser.SkipObjectResolution
	f, err := goparser.ParseFile(token.NewFileSet(), "../config.go", nil, mode)
	if err != nil {
		t.Fatal(err)
	}
	docs := make(map[string]string)
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || spec.Name.Name != "Config" {
			return true
		}
		for _, field := range spec.Type.(*ast.StructType).Fields.List {
			text := strings.Join(strings.Fields(field.Doc.Text()), " ")
			text = zeroOrNegative.ReplaceAllString(text, "Not given or negative: ")
			docs[field.Names[0].Name] = zeroMeans.ReplaceAllString(text, "Not given: ")
		}
		return false
	})
	for _, f := range fields {
		if docs[f.goName] == "" {
			t.Errorf("Config.%s has no comment", f.goName)
		}
	}
	return docs
}

func TestSchema(t *testing.T) {
	want := schema(t)
	if *update {
		if err := os.WriteFile("schema.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(got), string(want)); diff != "" {
		t.Errorf("schema.json is out of date, run go generate ./breaker/policyfile (-got +want):\n%s", diff)
	}
}

// The schema and the parser must agree about files. The schema cannot express all rules, so it accepts some files that
// the parser refuses. It must accept all files that the parser accepts.
func TestSchemaAgreesWithParse(t *testing.T) {
	text, err := os.ReadFile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	valid := func(t *testing.T, text string) error {
		t.Helper()
		var v any
		if err := yaml.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		encoded, err := json.Marshal(v) // numbers as the library wants them
		if err != nil {
			t.Fatal(err)
		}
		v, err = jsonschema.UnmarshalJSON(bytes.NewReader(encoded))
		if err != nil {
			t.Fatal(err)
		}
		return s.Validate(v)
	}
	for _, text := range goodFiles(t) {
		if err := valid(t, text); err != nil {
			t.Errorf("the schema refuses a good file:\n%s\n%v", text, err)
		}
	}
	for _, text := range []string{
		"circuitBreaker: {openFr: 5s}", "circuitBreaker: {openFor: 5}", "circuitBreaker: {openFor: -5s}",
		"circuitBreaker: {openFor: 5sec}",
		"circuitBreaker: {consecutiveFailures: 0}", "circuitBreaker: {minCalls: -1}", "circuitBreaker: {failureRatio: 1.5}",
		"circuitBreaker: {enforcement: on}", "circuitBreaker: {backoff: 0.5}", "circuitBreaker: ", "presets: {lenient: {}}",
		"methodConfig: [{circuitBreaker: {}}]", "methodConfig: [{name: [], circuitBreaker: {}}]",
		"methodConfig: [{name: [{service: a/b}]}]", "methodConfig: [{name: [{service: a, method: /a/Get}]}]",
		"methodConfig: [{name: [{service: 'a '}]}]", "methodConfig: [{name: [{method: Get}]}]", "methodConfig: [{name: [{servce: a}], circuitBreaker: {}}]",
	} {
		if err := valid(t, text); err == nil {
			t.Errorf("the schema accepts a bad file: %s", text)
		}
		if _, err := Parse("p.yaml", []byte(text)); err == nil {
			t.Errorf("Parse accepts a bad file: %s", text)
		}
	}
}
