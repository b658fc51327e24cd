package test

import (
	"bytes"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const (
	rulesFile  = "rules.yaml"
	alertsFile = "alerts.yaml"
	testsFile  = "tests.yaml"
	ruleDir    = root + "monitoring/prometheus/"
	runbooks   = "https://github.com/grpcircuit/grpcircuit/blob/main/docs/runbooks.md#"
)

// rule is a recording rule or an alert.
type rule struct {
	Record      string
	Alert       string
	Expr        string
	For         string
	Labels      map[string]string
	Annotations map[string]string
}

// loadRules returns the rules of a file. A key that Prometheus does not know is an error.
func loadRules(t *testing.T, name string) (rules []rule) {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string
			Rules []rule
		}
	}
	d := yaml.NewDecoder(bytes.NewReader([]byte(read(t, ruleDir+name))))
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for _, g := range file.Groups {
		rules = append(rules, g.Rules...)
	}
	return rules
}

// withRecorded returns the golden metrics and the metrics of the recording rules. It reports mistakes in the rules. A
// rule may use only the rules above it, because Prometheus evaluates them in order.
func withRecorded(t *testing.T) map[string]metric {
	t.Helper()
	metrics := goldenMetrics(t)
	for _, r := range loadRules(t, rulesFile) {
		out, wrong := check(metrics, r.Expr)
		for _, w := range wrong {
			t.Errorf("%s: %s", r.Record, w)
		}
		metrics[r.Record] = metric{labels: out}
	}
	return metrics
}

var (
	ruleName  = regexp.MustCompile(`^(breaker|job_method):grpc_client_breaker_\w+:\w+$`)
	alertName = regexp.MustCompile(`^GrpcBreaker[A-Z]\w+$`)
	// templateLabel matches a label in the template of an annotation.
	templateLabel = regexp.MustCompile(`\$labels\.(\w+)`)
)

func TestRecordingRules(t *testing.T) {
	metrics := withRecorded(t)
	var used strings.Builder
	used.WriteString(read(t, ruleDir+alertsFile) + read(t, dashboardFile))
	rules := loadRules(t, rulesFile)
	for _, r := range rules {
		if !ruleName.MatchString(r.Record) {
			t.Errorf("%q is not level:metric:operations", r.Record)
		}
		used.WriteString(r.Expr)
	}
	levels := map[string]set{
		"breaker":    newSet("job", "instance", "grpc_target", "grpc_service", "grpc_method", "tag"),
		"job_method": newSet("job", "grpc_target", "grpc_service", "grpc_method"),
	}
	for _, r := range rules {
		level, _, _ := strings.Cut(r.Record, ":")
		if !maps.Equal(metrics[r.Record].labels, levels[level]) {
			t.Errorf("%s has the labels %v, want those of its level, %v", r.Record, metrics[r.Record].labels, levels[level])
		}
		if !regexp.MustCompile(regexp.QuoteMeta(r.Record) + `\b`).MatchString(used.String()) {
			t.Errorf("nothing uses %s", r.Record)
		}
	}
}

func TestAlerts(t *testing.T) {
	metrics := withRecorded(t)
	seen := make(set)
	for _, a := range loadRules(t, alertsFile) {
		if !alertName.MatchString(a.Alert) || seen[a.Alert] {
			t.Errorf("%q is no good name, or not the only one", a.Alert)
		}
		seen[a.Alert] = true
		out, wrong := check(metrics, a.Expr)
		for _, w := range wrong {
			t.Errorf("%s: %s", a.Alert, w)
		}
		if s := a.Labels["severity"]; s != "critical" && s != "warning" && s != "info" {
			t.Errorf("%s has severity %q", a.Alert, s)
		}
		want := []string{"description", "runbook_url", "summary"}
		if got := slices.Sorted(maps.Keys(a.Annotations)); !slices.Equal(got, want) {
			t.Errorf("%s has the annotations %v, want %v", a.Alert, got, want)
		}
		for name, text := range a.Annotations {
			for _, m := range templateLabel.FindAllStringSubmatch(text, -1) {
				if !out[m[1]] {
					t.Errorf("%s: the %s uses the label %s, but the alert has only %v", a.Alert, name, m[1], out)
				}
			}
		}
		if got, want := a.Annotations["runbook_url"], runbooks+strings.ToLower(a.Alert); got != want {
			t.Errorf("%s: runbook_url is %s, want %s", a.Alert, got, want)
		}
	}
}
