package grpcircuit_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// Every package with tests ends them so: no goroutine is left.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestEveryPackageLooksForGoroutines holds that for packages to come.
func TestEveryPackageLooksForGoroutines(t *testing.T) {
	watched := make(map[string]bool) // by directory
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			_, statErr := os.Stat(filepath.Join(p, "go.mod"))
			if p != "." && (statErr == nil || strings.HasPrefix(d.Name(), ".")) {
				return fs.SkipDir // another module, or none of Go's business
			}
			return nil
		}
		if strings.HasSuffix(p, "_test.go") {
			text, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			dir := filepath.Dir(p)
			watched[dir] = watched[dir] || strings.Contains(string(text), "{ goleak.VerifyTestMain(m) }")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(watched) < 8 {
		t.Errorf("found the packages %v only", watched)
	}
	for dir, ok := range watched {
		if !ok {
			t.Errorf("%s has tests, and no TestMain with goleak", dir)
		}
	}
}

// starters are the functions of the standard library that start a goroutine or a timer, now or later.
var starters = []string{
	"time.After", "time.AfterFunc", "time.NewTicker", "time.NewTimer", "time.Sleep", "time.Tick",
	"context.AfterFunc", "context.WithDeadline", "context.WithDeadlineCause", "context.WithTimeout", "context.WithTimeoutCause",
	"runtime.AddCleanup", "runtime.SetFinalizer",
}

// TestNothingStarts is B36, S7 and S12 for timers, which goleak does not see: what starts none leaves none behind. Nor does a
// public package start a goroutine, with exceptions that run once and take themselves back.
func TestNothingStarts(t *testing.T) {
	var found []string
	for _, a := range arrows {
		found = append(found, startsIn(t, a.from)...)
	}
	want := []string{
		"interceptor/connect.go reconnect: context.WithTimeout",  // while a probe waits for a connection: canceled when it returns
		"interceptor/stream.go open: context.AfterFunc",          // for a stream that is not grpc's own: the end of its context
		"interceptor/stream.go onFinish: time.AfterFunc",         // 50 ms, for RecvMsg after a Header that found nothing
		"interceptor/stream.go onContextDone: time.AfterFunc",    // 50 ms, for a call that is running when the context ends
		"interceptor/stream_probe.go startAging: time.AfterFunc", // of a probe stream (S14): until it, or its half-open stay, ends
	}
	if !slices.Equal(found, want) {
		t.Errorf("goroutines and timers are started by %q, want %q", found, want)
	}
}

// startsIn lists what the package in dir starts, by file and function.
func startsIn(t *testing.T, dir string) (found []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, starts(name, f)...)
	}
	return found
}

func starts(name string, f *ast.File) (found []string) {
	for _, d := range f.Decls {
		where := name
		if fd, ok := d.(*ast.FuncDecl); ok {
			where += " " + fd.Name.Name
		}
		ast.Inspect(d, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				found = append(found, where+": go")
			case *ast.SelectorExpr:
				if pkg, ok := n.X.(*ast.Ident); ok {
					if what := pkg.Name + "." + n.Sel.Name; slices.Contains(starters, what) || n.Sel.Name == "Go" {
						found = append(found, where+": "+what)
					}
				}
			}
			return true
		})
	}
	return found
}
