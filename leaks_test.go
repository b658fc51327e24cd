package grpcircuit_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// Every package with tests has this TestMain, which fails if a goroutine is left.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestEveryPackageLooksForGoroutines fails if a package with tests has no such TestMain.
func TestEveryPackageLooksForGoroutines(t *testing.T) {
	watched := make(map[string]bool) // by directory
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			_, statErr := os.Stat(filepath.Join(p, "go.mod"))
			if p != "." && (statErr == nil || strings.HasPrefix(d.Name(), ".")) {
				return fs.SkipDir // another module, or ignored by Go
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
			t.Errorf("%s has tests, but no TestMain with goleak", dir)
		}
	}
}

// starters are the functions of the standard library that start a goroutine or a timer, now or later.
var starters = []string{
	"time.After", "time.AfterFunc", "time.NewTicker", "time.NewTimer", "time.Sleep", "time.Tick",
	"context.AfterFunc",
	"context.WithDeadline", "context.WithDeadlineCause", "context.WithTimeout", "context.WithTimeoutCause",
	"runtime.AddCleanup", "runtime.SetFinalizer",
}

// TestNothingStarts checks that public packages start no timers and goroutines, except for those that are listed.
// goleak does not see timers, so this is the check that none is left behind (B36, S7, S12). Each exception ends: those
// of statusz when the viewers have left, and the others run once.
func TestNothingStarts(t *testing.T) {
	var found []string
	for _, a := range arrows {
		found = append(found, startsIn(t, a.from)...)
	}
	want := []string{
		// The time between two lines of LogTransitions, while a breaker has changed state lately.
		"breaker/log.go summarizeLater: time.AfterFunc",
		// Writes to an idle viewer, so that proxies do not end its stream; stopped when the viewer leaves.
		"breaker/statusz/live.go stream: time.NewTicker",
		// The sampler and its ticker, while there are viewers, or until Close under WithHistory.
		"breaker/statusz/sampler.go join: s.wg.Go",
		"breaker/statusz/sampler.go run: time.NewTicker",
		// While a probe waits for a connection; cancelled when it returns.
		"interceptor/connect.go reconnect: context.WithTimeout",
		// The end of the context, for a stream that is not grpc's own.
		"interceptor/stream.go open: context.AfterFunc",
		// 50 ms, for RecvMsg after a Header call without a result.
		"interceptor/stream.go onFinish: time.AfterFunc",
		// 50 ms, for a call that is running when the context ends.
		"interceptor/stream.go onContextDone: time.AfterFunc",
		// Until a probe stream, or the generation that admitted it, ends (S14).
		"interceptor/stream_probe.go startAgeTimer: time.AfterFunc",
		// The watcher of a policy file and its timer, until Close.
		"breaker/policyfile/watch.go start: w.stopped.Go", "breaker/policyfile/watch.go start: w.stopped.Go",
		"breaker/policyfile/watch.go run: w.stopped.Go",
		"breaker/policyfile/watch.go run: time.NewTimer",
	}
	if !slices.Equal(found, want) {
		t.Errorf("these functions start goroutines or timers: %q, want %q", found, want)
	}
}

// startsIn lists the goroutines and timers that the package in dir starts, by file and function.
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
				if what := types.ExprString(n); slices.Contains(starters, what) || n.Sel.Name == "Go" {
					found = append(found, where+": "+what)
				}
			}
			return true
		})
	}
	return found
}
