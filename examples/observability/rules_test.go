package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const rulesDir = "../../monitoring/prometheus"

func TestShorten(t *testing.T) {
	got, err := shorten([]byte(`groups:
    - name: a 5m
      interval: 1m
      rules:
        - alert: B
          expr: |
            a:b:rate5m > 600 and rate(c[5m] offset 1m) > 0
            or max_over_time((d{e="f"})[6h:1m]) > 14.4
          for: 30s
          keep_firing_for: 1d
          annotations:
            summary: for 5m
`), 60)
	if err != nil {
		t.Fatal(err)
	}
	want := `groups:
    - name: a 5m
      interval: 1s
      rules:
        - alert: B
          expr: |
            a:b:rate5m > 600 and rate(c[5s] offset 1s) > 0
            or max_over_time((d{e="f"})[360s:1s]) > 14.4
          for: 500ms
          keep_firing_for: 1440s
          annotations:
            summary: for 5m
`
	if diff := cmp.Diff(string(got), want); diff != "" {
		t.Errorf("shortened rules (-got +want):\n%s", diff)
	}
}

func TestShortenRefusesCompoundDurations(t *testing.T) {
	for _, text := range []string{"for: 1h30m", "expr: rate(a[1m500ms])"} {
		if got, err := shorten([]byte(text), 60); err == nil {
			t.Errorf("%s: got %s, want an error", text, got)
		}
	}
}

// TestCopyRules checks that Prometheus accepts the copies, and that they have the names of the originals.
func TestCopyRules(t *testing.T) {
	dir := t.TempDir()
	if err := copyRules(rulesDir, dir); err != nil {
		t.Fatal(err)
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed; on Debian: apt-get install prometheus")
	}
	for _, name := range ruleFiles {
		out, err := exec.CommandContext(t.Context(), promtool, "check", "rules", filepath.Join(dir, name)).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

func TestCopyRulesNamesTheCommand(t *testing.T) {
	err := copyRules(t.TempDir(), t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "go -C examples/observability run .") {
		t.Errorf("got %v, want an error with the command to use", err)
	}
}
