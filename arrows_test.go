package grpcircuit_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	self       = "github.com/grpcircuit/grpcircuit"
	middleware = "github.com/grpc-ecosystem/go-grpc-middleware/v2"
	otel       = "go.opentelemetry.io/otel"
)

// arrow is a public package and what it may import besides the standard library: packages of this module, by directory,
// and other modules.
type arrow struct {
	from string
	to   []string
}

// arrows lists every public package. Tests and packages below internal and examples may import more. The bridges import
// interceptor, and do not import each other.
var arrows = []arrow{
	{from: "."},
	{from: "breaker"},
	{from: "breaker/statusz", to: []string{"breaker"}},
	{from: "keyfunc", to: []string{"breaker", middleware}},
	{from: "interceptor", to: []string{
		"breaker", "keyfunc", "internal/rpccode", middleware,
		"google.golang.org/grpc", "google.golang.org/genproto/googleapis/rpc", "google.golang.org/protobuf",
	}},
	// The modules of the OpenTelemetry API. The program chooses the SDK, which is another module.
	{from: "otelbridge", to: []string{
		"breaker", "interceptor", "internal/labels", "internal/needs", "internal/rpccode",
		otel, otel + "/log", otel + "/metric", otel + "/trace",
	}},
	// interceptor is for the optional histogram. client_model is part of the API of client_golang.
	{from: "prombridge", to: []string{
		"breaker", "interceptor", "internal/labels", "internal/needs",
		"github.com/prometheus/client_golang", "github.com/prometheus/client_model",
	}},
	{from: "breaker/policyfile", to: []string{"breaker", "go.yaml.in/yaml/v3", "github.com/fsnotify/fsnotify"}},
	// This is a command, but it is as public as a package.
	{from: "cmd/breakerpolicy", to: []string{"breaker", "breaker/policyfile"}},
}

// listed is the part of a package in the output of go list that the test reads. Imports has no imports of test files.
type listed struct {
	ImportPath string
	Standard   bool
	Module     *struct{ Path string }
	Imports    []string
}

// name returns the name of the package in a row of arrows: its directory in this module, or else its module.
func (l listed) name() string {
	if l.Module == nil {
		return l.ImportPath
	}
	if l.Module.Path != self {
		return l.Module.Path
	}
	if l.ImportPath == self {
		return "."
	}
	return strings.TrimPrefix(l.ImportPath, self+"/")
}

func TestArrows(t *testing.T) {
	watchSources(t)
	pkgs := goList(t)
	rows := arrows
	for _, a := range rows {
		for _, v := range violations(a, pkgs) {
			t.Error(v)
		}
	}
	for _, v := range withoutRow(rows, pkgs) {
		t.Error(v)
	}
	// The row of breaker restricts only its direct imports, so this checks the indirect ones too.
	for _, v := range outsideStd(path.Join(self, "breaker"), pkgs) {
		t.Error(v)
	}
}

// violations returns the imports of package a.from that its row does not allow.
func violations(a arrow, pkgs map[string]listed) []string {
	from, ok := pkgs[path.Join(self, a.from)]
	if !ok {
		return []string{fmt.Sprintf("%s: no such package", a.from)}
	}
	var vs []string
	for _, imp := range from.Imports {
		to, ok := pkgs[imp]
		switch {
		case imp == "unsafe" || imp == "C":
			vs = append(vs, fmt.Sprintf("%s imports %s", a.from, imp))
		case !ok:
			vs = append(vs, fmt.Sprintf("%s imports %s, which go list does not list", a.from, imp))
		case to.Standard || slices.Contains(a.to, to.name()):
		default:
			vs = append(vs, fmt.Sprintf("%s imports %s: no arrow to %s", a.from, imp, to.name()))
		}
	}
	return vs
}

// withoutRow returns the public packages that have no row.
func withoutRow(rows []arrow, pkgs map[string]listed) []string {
	var vs []string
	for _, imp := range slices.Sorted(maps.Keys(pkgs)) {
		p := pkgs[imp]
		if p.Module == nil || p.Module.Path != self {
			continue
		}
		name := p.name()
		top, _, _ := strings.Cut(name, "/")
		if top == "internal" || top == "examples" || slices.ContainsFunc(rows, func(a arrow) bool { return a.from == name }) {
			continue
		}
		vs = append(vs, fmt.Sprintf("%s: a public package without a row in arrows", name))
	}
	return vs
}

// outsideStd returns one import path for each package outside the standard library that root imports, directly or not.
func outsideStd(root string, pkgs map[string]listed) []string {
	var vs []string
	seen := map[string]bool{root: true}
	var walk func(imp, way string)
	walk = func(imp, way string) {
		for _, next := range pkgs[imp].Imports {
			if seen[next] || pkgs[next].Standard {
				continue
			}
			seen[next] = true
			way := way + " -> " + next
			vs = append(vs, way)
			walk(next, way)
		}
	}
	walk(root, root)
	return vs
}

// goList lists the packages of this module and all their dependencies.
func goList(t *testing.T) map[string]listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Standard,Module,Imports", "./...")
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("%v: %v\n%s", cmd, err, exit.Stderr)
		}
		t.Fatalf("%v: %v", cmd, err)
	}
	pkgs := make(map[string]listed)
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatalf("%v: %v", cmd, err)
		}
		pkgs[p.ImportPath] = p
	}
}

// watchSources calls os.Stat on every source file of the module. The go command records the files that a test uses and
// returns the cached result while they do not change. It does not record the files that a child process such as go list
// reads. Without watchSources, a cached result would hide a new import.
func watchSources(t *testing.T) {
	t.Helper()
	for _, p := range files(t, ".go", "go.mod") {
		if _, err := os.Stat(p); err != nil {
			t.Fatal(err)
		}
	}
}

// The checks must fail on a wrong tree. Otherwise TestArrows proves nothing.
func TestArrowChecks(t *testing.T) {
	pkg := func(module, imp string, imports ...string) listed {
		l := listed{ImportPath: imp, Imports: imports}
		if module == "std" {
			l.Standard = true
		} else {
			l.Module = &struct{ Path string }{module}
		}
		return l
	}
	own := func(dir string, imports ...string) listed { return pkg(self, path.Join(self, dir), imports...) }
	var (
		breaker     = path.Join(self, "breaker")
		interceptor = path.Join(self, "interceptor")
		status      = "google.golang.org/grpc/status"
		sdk         = otel + "/sdk/trace"
		world       = []listed{
			pkg("std", "time", "unsafe"),
			pkg("std", "unsafe"),
			pkg("google.golang.org/grpc", status, "time"),
			pkg(otel, otel+"/attribute", "time"),
			pkg(otel+"/sdk", sdk, otel+"/attribute"),
		}
	)
	tests := []struct {
		name  string
		pkgs  []listed
		check func(pkgs map[string]listed) []string
		want  []string
	}{
		{
			name:  "all allowed",
			pkgs:  []listed{own("breaker", "time"), own("interceptor", "time", breaker, status)},
			check: direct("interceptor", "breaker", "google.golang.org/grpc"),
		},
		{
			name:  "missing package",
			check: direct("keyfunc", "breaker"),
			want:  []string{"keyfunc: no such package"},
		},
		{
			name:  "import that is not listed",
			pkgs:  []listed{own("breaker", "example.com/nowhere")},
			check: direct("breaker"),
			want:  []string{"breaker imports example.com/nowhere, which go list does not list"},
		},
		{
			name:  "other module",
			pkgs:  []listed{own("breaker", "time", status)},
			check: direct("breaker"),
			want:  []string{"breaker imports google.golang.org/grpc/status: no arrow to google.golang.org/grpc"},
		},
		{
			name:  "own package, wrong way",
			pkgs:  []listed{own("interceptor"), own("breaker", interceptor)},
			check: direct("breaker"),
			want:  []string{"breaker imports " + interceptor + ": no arrow to interceptor"},
		},
		{
			name:  "package below an allowed one",
			pkgs:  []listed{own("breaker/statusz"), own("keyfunc", breaker+"/statusz")},
			check: direct("keyfunc", "breaker"),
			want:  []string{"keyfunc imports " + breaker + "/statusz: no arrow to breaker/statusz"},
		},
		{
			name:  "module below an allowed one",
			pkgs:  []listed{own("otelbridge", otel+"/attribute", sdk)},
			check: direct("otelbridge", otel),
			want:  []string{"otelbridge imports " + sdk + ": no arrow to " + otel + "/sdk"},
		},
		{
			name:  "unsafe",
			pkgs:  []listed{own("breaker", "unsafe", "C")},
			check: direct("breaker"),
			want:  []string{"breaker imports unsafe", "breaker imports C"},
		},
		{
			name: "public package without a row",
			pkgs: []listed{
				own("."), own("breaker"), own("internal/testpb"), own("examples/quickstart"), own("util"), own("breaker/util"),
			},
			check: func(pkgs map[string]listed) []string {
				return withoutRow([]arrow{{from: "."}, {from: "breaker"}}, pkgs)
			},
			want: []string{
				"breaker/util: a public package without a row in arrows",
				"util: a public package without a row in arrows",
			},
		},
		{
			name:  "closure within the standard library",
			pkgs:  []listed{own("breaker", "time")},
			check: func(pkgs map[string]listed) []string { return outsideStd(breaker, pkgs) },
		},
		{
			name:  "closure that leaves it through an own package",
			pkgs:  []listed{own("breaker", "time", self+"/internal/ring"), own("internal/ring", "time", status)},
			check: func(pkgs map[string]listed) []string { return outsideStd(breaker, pkgs) },
			want: []string{
				breaker + " -> " + self + "/internal/ring",
				breaker + " -> " + self + "/internal/ring -> " + status,
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pkgs := make(map[string]listed)
			for _, p := range slices.Concat(world, tt.pkgs) {
				pkgs[p.ImportPath] = p
			}
			if diff := cmp.Diff(tt.check(pkgs), tt.want); diff != "" {
				t.Errorf("violations (-got +want):\n%s", diff)
			}
		})
	}
}

// direct returns a check of one row.
func direct(from string, to ...string) func(map[string]listed) []string {
	return func(pkgs map[string]listed) []string { return violations(arrow{from: from, to: to}, pkgs) }
}
