package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Gremlins distinguishes exit statuses of go test that the current go command does not distinguish.
func TestShimTellsWhatDoesNotCompile(t *testing.T) {
	t.Chdir(t.TempDir())
	path, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(realGoEnv, path)
	write(t, "go.mod", "module example.com/m\n\ngo 1.26\n")
	write(t, "m_test.go", "package m\n\nimport \"testing\"\n\n"+
		"func TestM(t *testing.T) {\n\tif N != 1 {\n\t\tt.Error(N)\n\t}\n}\n")
	for _, tt := range []struct {
		source string
		want   int
	}{
		{"package m\n\nconst N = 2\n", 1},
		{"package m\n\nconst N = \"\"\n", 2},
	} {
		write(t, "m.go", tt.source)
		if got := asGo([]string{"test", "-failfast", "./..."}); got != tt.want {
			t.Errorf("%q: status %d, want %d", tt.source, got, tt.want)
		}
	}

	write(t, "m.go", "package m\n\nconst N = 3 - 2\n\nfunc unused() {}\n")
	if got := asGo([]string{"test", "-cover", "-coverprofile", "profile", "./..."}); got != 0 {
		t.Fatalf("status %d", got)
	}
	profile, err := os.ReadFile("profile")
	if err != nil || !strings.Contains(string(profile), "example.com/m/m.go:1.1,1000000.1 1 1\n") {
		t.Errorf("the profile does not have every line of m.go: %v\n%s", err, profile)
	}
}

func TestHangs(t *testing.T) {
	for out, want := range map[string]bool{
		"panic: test timed out after 1s\nrunning tests:\n":                          true,
		"--- FAIL: TestM (0.00s)\n    m_test.go:7: 2\nFAIL\n":                       false,
		"--- FAIL: TestM (0.00s)\npanic: test timed out after 1s\nrunning tests:\n": false,
	} {
		if status, hangs := testStatus(out); status != 1 || hangs != want {
			t.Errorf("%q: got %d, %t, want 1, %t", out, status, hangs, want)
		}
	}
}

func TestNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.go")
	write(t, path, "package a\n\nconst c = 2 * 3\n\n"+
		"func f(x int) bool {\n\tfor {\n\t\tx--\n\t\tif x <= 1 && true {\n\t\t\tbreak\n\t\t}\n\t}\n\treturn x == 0\n}\n")
	s, err := readSource(path)
	if err != nil {
		t.Fatal(err)
	}
	for want, m := range map[string]mutation{
		"`a.go`: `const c = 2 «*» 3` arithmetic base":             {"ARITHMETIC_BASE", lived, 3, 13},
		"`a.go f`: `x«--»` increment decrement":                   {"INCREMENT_DECREMENT", lived, 7, 4},
		"`a.go f`: `if x «<=» 1 && true {` conditionals boundary": {"CONDITIONALS_BOUNDARY", lived, 8, 8},
		"`a.go f`: `if x <= 1 «&&» true {` invert logical":        {"INVERT_LOGICAL", lived, 8, 13},
		"`a.go f`: `«break»` invert loopctrl":                     {"INVERT_LOOPCTRL", lived, 9, 4},
		"`a.go f`: `return x «==» 0` conditionals negation":       {"CONDITIONALS_NEGATION", lived, 12, 11},
	} {
		if got := s.name(m); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

const doc = `# T

<!-- figures -->
old
<!-- end of figures -->

- no list yet

### breaker

- a lives
  Because it
  may.
- b is noticed
  Sometimes.
- c is gone
  Who knows.
- d has no judgement

### keyfunc

- e of another package
  Fine.
`

func TestJudge(t *testing.T) {
	judged := judgements(doc)
	want := map[string]map[string]string{
		"breaker": {
			"a lives": "Because itmay.", "b is noticed": "Sometimes.", "c is gone": "Who knows.", "d has no judgement": "",
		},
		"keyfunc": {"e of another package": "Fine."},
	}
	if diff := cmp.Diff(want, judged); diff != "" {
		t.Errorf("judgements (-want +got):\n%s", diff)
	}
	got := judge([]mutant{
		{"a lives", lived},
		{"b is noticed", killed},
		{"d has no judgement", timedOut},
		{"e of another package", lived},
		{"f", notCovered},
		{"g", notViable},
		{"h", killed},
	}, judged["breaker"], "breaker")
	if diff := cmp.Diff([]string{
		"breaker: TIMED OUT, and not judged:\n- d has no judgement",
		"breaker: LIVED, and not judged:\n- e of another package",
		"breaker: NOT COVERED, and not judged:\n- f",
		"breaker: judged, but there is no such mutant:\n- c is gone",
	}, got); diff != "" {
		t.Errorf("complaints (-want +got):\n%s", diff)
	}
}

func TestFigures(t *testing.T) {
	f := newFigures("v1")
	f.add(target{"a", []string{"x", "y"}}, count([]mutant{
		{"", killed}, {"", killed}, {"", killed}, {"", lived}, {"", timedOut}, {"", notViable}, {"", notCovered},
	}))
	text, err := f.into(doc)
	if err != nil {
		t.Fatal(err)
	}
	want := "\n| `a`, `x*.go`, `y*.go` | 7 | 3 | 1 | 1 | 1 | 1 | 75.00% | 80.00% |\n" +
		"<!-- end of figures -->\n\n- no list yet"
	if !strings.Contains(text, want) || strings.Contains(text, "old") {
		t.Errorf("got\n%s", text)
	}
	again, err := f.into(text)
	if err != nil || again != text {
		t.Errorf("written again it is something else: %v\n%s", err, again)
	}
	if _, err := f.into("# T\n"); err == nil {
		t.Error("no error for a document without a place for the figures")
	}
}
