package main

import (
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A user copies main.go to another module, so it must be short and must not import what other modules cannot import.
func TestMainIsReadyToCopy(t *testing.T) {
	text, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "\n"); n >= 80 {
		t.Errorf("main.go has %d lines, want fewer than 80", n)
	}
	file, err := parser.ParseFile(token.NewFileSet(), "main.go", text, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	for _, imp := range file.Imports {
		if strings.Contains(imp.Path.Value, "/internal/") {
			t.Errorf("main.go imports %s", imp.Path.Value)
		}
	}
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range sources {
		if name != "main.go" && !strings.HasSuffix(name, "_test.go") {
			t.Errorf("%s is a second file of the program, want only main.go", name)
		}
	}
}

// Without arguments the program ends by itself. It prints an answer, a failure, the rejection, and all transitions.
func TestOutput(t *testing.T) {
	if testing.Short() {
		t.Skip("the program takes four seconds")
	}
	program := filepath.Join(t.TempDir(), "minimal")
	// Without -buildvcs=false, go build fails in a clone that another user owns.
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), program).CombinedOutput()
	if err != nil {
		t.Fatalf("the program failed: %v\n%s", err, out)
	}
	inOrder := regexp.MustCompile(`(?s)url=http://127\.0\.0\.1:\d+/metrics.*` +
		`call status=SERVING rejected=false err=<nil>.*` +
		`rejected=false err="rpc error: code = Unavailable desc = the server is down".*` +
		`WARN circuit breaker open key=.*from=closed to=open rule=consecutive.*` +
		`rejected=true err="circuit breaker open for grpc\.health\.v1\.Health/Check at 127\.0\.0\.1:\d+: .*next probe in.*` +
		`from=open to=half_open.*` +
		`from=half_open to=closed.*` +
		`call status=SERVING rejected=false err=<nil>`)
	if !inOrder.Match(out) {
		t.Errorf("the output does not match %v:\n%s", inOrder, out)
	}
}
