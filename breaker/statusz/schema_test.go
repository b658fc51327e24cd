package statusz

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/grpcircuit/grpcircuit/breaker"
)

var update = flag.Bool("update", false, "write testdata/schema.txt")

// The names and types of the JSON are a promise (Version). This test fails if one is removed, renamed, or changes its
// type, also by a change in package breaker. If one is added, run it with -update. Otherwise raise Version.
func TestSchema(t *testing.T) {
	g := newGroup(t, breaker.WithPolicy(breaker.PolicyRule{
		Name: "a rule", Match: breaker.Key{Target: "a", Service: "b", Method: "c", Tag: "d"},
		Config: breaker.Config{SlowCall: 1e9, Ramp: 1e9, MaxConcurrent: 9},
	}))
	p := newPage(t, g)
	key := breaker.Key{Target: "a", Service: "b", Method: "c", Tag: "d"}
	permit, err := g.Get(key).Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	permit.Report(t.Context(), breaker.Report{Outcome: breaker.Failure, Cause: "UNAVAILABLE"})
	force(t, g.Get(key), breaker.Shadow)
	g.Get(key).Trip(t.Context(), "a test")
	body := get(t, p, "breaker?format=json&key="+encodeKey(key)).Body.Bytes()
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatal(err)
	}
	fields := make(map[string]bool)
	describe(fields, "", v)
	got := fmt.Sprintf("version %d\n%s\n", Version, strings.Join(slices.Sorted(maps.Keys(fields)), "\n"))
	const file = "testdata/schema.txt"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, string(want)); diff != "" {
		t.Errorf("the JSON has changed (-got +want):\n%s", diff)
	}
	// Programs in Go read it with the same types.
	var rep Report
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&rep); err != nil {
		t.Fatalf("a Report cannot be read: %v", err)
	}
	again, err := json.Marshal(rep)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(again)+"\n", string(body)); diff != "" {
		t.Errorf("the Report that was read is another (-got +want):\n%s", diff)
	}
}

// describe adds the paths of v and their types to fields.
func describe(fields map[string]bool, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			if strings.HasSuffix(path, ".sources") {
				name = "*"
			}
			describe(fields, path+"."+name, value)
		}
	case []any:
		for _, value := range v {
			describe(fields, path+"[]", value)
		}
	default:
		fields[fmt.Sprintf("%s %T", strings.TrimPrefix(path, "."), v)] = true
	}
}
