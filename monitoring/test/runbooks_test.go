package test

import (
	"regexp"
	"strings"
	"testing"
)

var (
	promqlBlock = regexp.MustCompile("(?ms)^```promql\n(.*?)^```$")
	alertTitle  = regexp.MustCompile(`(?m)^## (GrpcBreaker\w+)$`)
)

// TestQueriesInDocuments checks each query in a block of code that is marked promql.
func TestQueriesInDocuments(t *testing.T) {
	metrics := goldenMetrics(t) // a reader may not have loaded the recording rules
	found := promqlBlock.FindAllStringSubmatch(read(t, root+"docs/runbooks.md"), -1)
	if len(found) < 15 {
		t.Errorf("docs/runbooks.md has %d queries only", len(found))
	}
	for _, m := range found {
		_, wrong := check(metrics, m[1])
		for _, w := range wrong {
			t.Errorf("docs/runbooks.md: %s\n%s", w, m[1])
		}
	}
}

// TestRunbooks checks that each alert has a section, that each section has an alert, and that each has all its parts.
// TestAlerts checks that the runbook_url is the anchor that GitHub generates for the section.
func TestRunbooks(t *testing.T) {
	text := read(t, root+"docs/runbooks.md")
	alerts := make(set)
	for _, a := range loadRules(t, alertsFile) {
		alerts[a.Alert] = true
	}
	for _, m := range alertTitle.FindAllStringSubmatch(text, -1) {
		name := m[1]
		if !alerts[name] {
			t.Errorf("docs/runbooks.md has a section %s, which is no alert, or the second one of it", name)
		}
		delete(alerts, name)
		_, section, _ := strings.Cut(text, "\n## "+name+"\n")
		section, _, _ = strings.Cut(section, "\n## ")
		for _, part := range []string{
			"**What it means.**", "**What to look at.**", "```promql", "**What to do.**", "**When it is harmless.**",
		} {
			if !strings.Contains(section, part) {
				t.Errorf("docs/runbooks.md: %s has no %s", name, part)
			}
		}
	}
	for name := range alerts {
		t.Errorf("docs/runbooks.md has no section %s", name)
	}
	for _, part := range []string{"SetOverride", "ClearOverride", "enforcement:", "/debug/breakers/", "LogTransitions"} {
		if !strings.Contains(text, part) {
			t.Errorf("docs/runbooks.md does not name %s", part)
		}
	}
}
