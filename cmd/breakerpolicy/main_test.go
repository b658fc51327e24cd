package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// files writes files into a new directory, which becomes the working directory.
func files(t *testing.T, texts map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, text := range texts {
		if err := os.WriteFile(filepath.Clean(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCheck(t *testing.T) {
	files(t, map[string]string{
		"good.yaml": `
circuitBreaker: {openFor: 2s}
methodConfig:
- name: [{service: shop.Orders, method: Get}]
  circuitBreaker: {failureRatio: -1, maxConcurrent: 10}
- name: [{}]
  circuitBreaker: {openFor: 15s}
`,
		"none.yaml": "{}",
		"bad.yaml":  "circuitBreaker:\n  openFor: 5\n  windwo: 3s\n",
	})
	const explained = `  5 failures in a row open it` // the rest is the text of Config.Explain
	for _, tt := range []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string
	}{
		{
			name: "good", args: []string{"check", "good.yaml"},
			stdout: `good.yaml is valid: a default and 2 rules

Default, for keys that no rule matches
  openFor  2s  default of the file

shop.Orders/Get (good.yaml:4)
  failureRatio   off  rule
  openFor        2s   default of the file
  maxConcurrent  10   rule

every key (good.yaml:6)
  openFor     15s  rule
  maxOpenFor  15s  rule
`,
		},
		{
			name: "bad", args: []string{"check", "bad.yaml"}, code: 1,
			stderr: `bad.yaml:2:12: openFor is 5, a number without a unit; write "5s" for seconds or "5ms" for milliseconds
bad.yaml:3:3: unknown field "windwo" in circuitBreaker; did you mean "window"?
`,
		},
		{
			name: "one of several is missing", args: []string{"check", "missing.yaml", "none.yaml"}, code: 1,
			stdout: "none.yaml is valid: a default and 0 rules\n\nDefault, for keys that no rule matches\n",
			stderr: "stat missing.yaml: no such file or directory\n",
		},
		{name: "no file", args: []string{"check"}, code: 2, stderr: usage},
		{name: "no command", code: 2, stderr: usage},
		{name: "another command", args: []string{"chekc", "good.yaml"}, code: 2, stderr: usage},
		{name: "a flag", args: []string{"check", "-v"}, code: 2, stderr: usage},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr strings.Builder
			if code := run(tt.args, &stdout, &stderr); code != tt.code {
				t.Errorf("exit code is %d, want %d", code, tt.code)
			}
			if tt.stdout != "" && !strings.Contains(stdout.String(), explained) {
				t.Errorf("stdout does not have %q", explained)
			}
			if diff := cmp.Diff(withoutExplanation(stdout.String()), tt.stdout); diff != "" {
				t.Errorf("stdout (-got +want):\n%s", diff)
			}
			if diff := cmp.Diff(stderr.String(), tt.stderr); diff != "" {
				t.Errorf("stderr (-got +want):\n%s", diff)
			}
		})
	}
}

// A file is somebody else's text. It must not control the terminal.
func TestCheckQuotesControlCharacters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.yaml")
	const text = `methodConfig: [{name: [{service: a, tag: "é\n\e[31m"}], circuitBreaker: {minCalls: 3}}]`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr strings.Builder
	if code := run([]string{"check", path}, &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	if want := `"a tag=é\n\x1b[31m" (`; !strings.Contains(stdout.String(), want) || strings.Contains(stdout.String(), "\x1b") {
		t.Errorf("got %q, want %s", stdout.String(), want)
	}
}

// withoutExplanation returns text without the sentences of Config.Explain.
func withoutExplanation(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "  ") || !strings.HasSuffix(line, ".\n") {
			b.WriteString(line)
		}
	}
	return b.String()
}
