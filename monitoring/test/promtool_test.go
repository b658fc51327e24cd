package test

import (
	"os"
	"os/exec"
	"testing"

	"go.yaml.in/yaml/v3"
)

// promtool returns the path of promtool. Without it the test is skipped, but not in CI.
func promtool(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err == nil {
		return path
	}
	const hint = "promtool is not installed; on Debian: apt-get install prometheus"
	if os.Getenv("CI") == "true" {
		t.Fatal(hint)
	}
	t.Skip(hint)
	return ""
}

func TestPromtoolChecksRules(t *testing.T) {
	run(t, promtool(t), "check", "rules", rulesFile, alertsFile)
}

func TestPromtoolTestsRules(t *testing.T) {
	run(t, promtool(t), "test", "rules", testsFile)
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = ruleDir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %v\n%s", cmd, err, out)
	}
}

// TestEachAlertIsTested checks that the tests have a case in which an alert fires and one in which it does not.
func TestEachAlertIsTested(t *testing.T) {
	var file struct {
		Tests []struct {
			Alerts []struct {
				Name string `yaml:"alertname"`
				Exp  []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, ruleDir+testsFile)), &file); err != nil {
		t.Fatal(err)
	}
	fires, quiet := make(set), make(set)
	for _, test := range file.Tests {
		for _, a := range test.Alerts {
			if len(a.Exp) > 0 {
				fires[a.Name] = true
			} else {
				quiet[a.Name] = true
			}
		}
	}
	for _, a := range loadRules(t, alertsFile) {
		if !fires[a.Alert] || !quiet[a.Alert] {
			t.Errorf("%s: a case in which it fires: %v; one in which it is quiet: %v", a.Alert, fires[a.Alert], quiet[a.Alert])
		}
	}
}
