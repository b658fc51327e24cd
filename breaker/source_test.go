package breaker

import (
	"go/ast"
	"go/parser"
	"go/token"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// source returns the code of the package without its tests.
func source(t *testing.T) (*token.FileSet, map[string]*ast.File) {
	t.Helper()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	fset, files := token.NewFileSet(), make(map[string]*ast.File)
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, e.Name(), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = f
	}
	if len(files) < 10 {
		t.Fatalf("only %d files: %v", len(files), files)
	}
	return fset, files
}

func TestB36_NoGoroutineAndNoTimer(t *testing.T) {
	fset, files := source(t)
	timers := 0
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%v: a goroutine", fset.Position(n.Pos()))
			case *ast.SelectorExpr:
				pkg, _ := n.X.(*ast.Ident)
				if pkg == nil {
					return true
				}
				switch what := pkg.Name + "." + n.Sel.Name; what {
				case "time.After", "time.AfterFunc", "time.NewTimer", "time.NewTicker", "time.Tick", "time.Sleep",
					"context.WithTimeout", "context.WithTimeoutCause", "context.WithDeadline", "context.WithDeadlineCause",
					"context.AfterFunc",
					"runtime.SetFinalizer", "runtime.AddCleanup":
					// LogTransitions has a timer while it holds back lines. No decision depends on it.
					if what == "time.AfterFunc" && fset.Position(n.Pos()).Filename == "log.go" {
						timers++
						return true
					}
					t.Errorf("%v: %s", fset.Position(n.Pos()), what)
				}
			}
			return true
		})
	}
	if timers != 1 {
		t.Errorf("%d timers in log.go, want 1", timers)
	}
}

// No decision uses the wall clock. A test cannot set the wall clock. So this test finds all uses of methods of
// time.Time that read the wall clock or remove the monotonic reading, and of the one field that keeps such a value.
//
// All decisions compare instants: int64s that only clock and instant make. These subtract two times that both have a
// monotonic reading. TestB31_InstantsAreMonotonic checks the times that the package returns.
func TestB36_NoWallClockInDecisions(t *testing.T) {
	_, files := source(t)
	// The allowed places: the wall time of a generation is taken when it begins, and read for the snapshot.
	allowed := map[string][]string{
		"UnixNano":  {"breaker.go newBreaker", "transition.go startGeneration"},
		"wall":      {"breaker.go newBreaker", "snapshot.go Snapshot", "transition.go startGeneration"},
		"time.Unix": {"snapshot.go Snapshot"},
		"Round":     {"snapshot.go Snapshot"}, // OpenUntil, for people
	}
	suspects := []string{
		"Unix", "UnixMilli", "UnixMicro", "UnixNano", "Round", "Truncate", "UTC", "Local", "In", "Clock", "Date", "Hour",
		"Minute",
		"Second", "Nanosecond", "Weekday", "YearDay", "AppendFormat", "Format", "MarshalBinary", "MarshalText", "GobEncode",
		"wall",
	}
	found := make(map[string][]string)
	for name, f := range files {
		for _, d := range f.Decls {
			where := name
			if fd, ok := d.(*ast.FuncDecl); ok {
				where += " " + fd.Name.Name
			}
			note := func(what string) {
				if !slices.Contains(found[what], where) {
					found[what] = append(found[what], where)
				}
			}
			ast.Inspect(d, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.SelectorExpr:
					pkg, _ := n.X.(*ast.Ident)
					switch {
					case pkg != nil && pkg.Name == "time":
						if n.Sel.Name == "Unix" || n.Sel.Name == "UnixMilli" || n.Sel.Name == "Date" {
							note("time." + n.Sel.Name)
						}
					case pkg != nil && pkg.Name == "math": // math.Round and the like
					case slices.Contains(suspects, n.Sel.Name):
						note(n.Sel.Name)
					}
				case *ast.KeyValueExpr:
					if key, ok := n.Key.(*ast.Ident); ok && key.Name == "wall" {
						note("wall")
					}
				}
				return true
			})
		}
	}
	for what, places := range found {
		slices.Sort(places)
		if want := allowed[what]; !slices.Equal(places, want) {
			t.Errorf("%s is used in %v, want in %v only: it uses the wall clock", what, places, want)
		}
	}
	if len(found["wall"]) == 0 || len(found["time.Unix"]) == 0 {
		t.Errorf("the test does not find the allowed uses: %v", found)
	}
}

// All instants are above zero, also in a bubble of testing/synctest, where it is the year 2000: zero stands for "none".
// All are far below the maximum of an int64.
func TestB36_InstantsAreInRange(t *testing.T) {
	const uptime = int64(30 * 365 * 24 * time.Hour)
	check := func(where string) {
		// The longest open period is a century, with as much jitter.
		if now := clock(); now <= 0 || now > math.MaxInt64-int64(2*maxDuration)-uptime {
			t.Errorf("%s: now is %d", where, now)
		}
	}
	check("here")
	synctest.Test(t, func(*testing.T) { check("in a bubble") })
}
