package test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const dashboardFile = root + "monitoring/grafana/dashboard.json"

var update = flag.Bool("update", false, "write the dashboard")

// TestDashboardIsGenerated compares the dashboard with what this package generates.
func TestDashboardIsGenerated(t *testing.T) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(newDashboard()); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(dashboardFile, buf.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(read(t, dashboardFile), buf.String()); diff != "" {
		t.Errorf("the dashboard is not what `go generate` in monitoring/test writes (-file +generated):\n%s", diff)
	}
}

// loadDashboard reads the checked-in dashboard. A field that the generator does not know is an error.
func loadDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(read(t, dashboardFile)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		t.Fatal(err)
	}
	return d
}

// panels returns all panels, also those inside of rows.
func (d *dashboard) panels() (all []*panel) {
	for _, p := range d.Panels {
		all = append(all, p)
		all = append(all, p.Panels...)
	}
	return all
}

var (
	labelValues = regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)
	variable    = regexp.MustCompile(`\$\{?(\w+)\}?`)
	legendLabel = regexp.MustCompile(`\{\{(\w+)\}\}`)
)

func TestDashboardQueries(t *testing.T) {
	d, metrics := loadDashboard(t), withRecorded(t)
	defined := newSet("__rate_interval", "__range")
	for _, v := range d.Templating.List {
		defined[v.Name] = true
		if v.Type != "query" {
			continue
		}
		m := labelValues.FindStringSubmatch(v.Query.Query)
		if m == nil {
			t.Errorf("variable %s: %q is no label_values(series, label)", v.Name, v.Query.Query)
			continue
		}
		out, wrong := check(metrics, plain(m[1]))
		for _, w := range wrong {
			t.Errorf("variable %s: %s", v.Name, w)
		}
		if !out[m[2]] {
			t.Errorf("variable %s: %s has no label %s", v.Name, m[1], m[2])
		}
	}
	found := 0
	for _, p := range d.panels() {
		for _, q := range p.Targets {
			found++
			for _, m := range variable.FindAllStringSubmatch(q.Expr, -1) {
				if !defined[m[1]] {
					t.Errorf("%s: there is no variable %s", p.Title, m[1])
				}
			}
			out, wrong := check(metrics, plain(q.Expr))
			for _, w := range wrong {
				t.Errorf("%s: %s", p.Title, w)
			}
			for _, m := range legendLabel.FindAllStringSubmatch(q.LegendFormat, -1) {
				if !out[m[1]] {
					t.Errorf("%s: the legend uses the label %s, and the result has %v", p.Title, m[1], out)
				}
			}
		}
	}
	if found < 20 {
		t.Errorf("the dashboard has %d queries only", found)
	}
}

// plain replaces those variables of Grafana that are not inside strings in PromQL.
func plain(expr string) string {
	return strings.NewReplacer("$__rate_interval", "5m", "$__range", "1h").Replace(expr)
}

// TestDashboardLayout finds errors that Grafana corrects without a message, and panels that overlap.
func TestDashboardLayout(t *testing.T) {
	d := loadDashboard(t)
	ids := make(map[int]string)
	taken := make(map[[2]int]string)
	known := newSet("row", "stat", "timeseries", "state-timeline", "table", "bargauge")
	for _, p := range d.panels() {
		if ids[p.ID] != "" || p.ID <= 0 {
			t.Errorf("%s has the id %d, as has %q", p.Title, p.ID, ids[p.ID])
		}
		ids[p.ID] = p.Title
		if !known[p.Type] || p.Title == "" {
			t.Errorf("panel %d: type %q, title %q", p.ID, p.Type, p.Title)
		}
		g := p.GridPos
		if g.X < 0 || g.Y < 0 || g.W < 1 || g.H < 1 || g.X+g.W > 24 {
			t.Errorf("%s is outside of the 24 columns: %+v", p.Title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%s overlaps %s", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		refs := make(set)
		for _, q := range p.Targets {
			if refs[q.RefID] || q.RefID == "" {
				t.Errorf("%s: refId %q is empty or not the only one", p.Title, q.RefID)
			}
			refs[q.RefID] = true
		}
		if len(refs) == 0 || p.Datasource == nil || p.Datasource.UID != "${datasource}" || p.Description == "" {
			t.Errorf("%s needs a query, the variable datasource, and a description", p.Title)
		}
	}
	var rows []string
	for _, p := range d.Panels {
		if p.Type == "row" {
			rows = append(rows, p.Title)
		}
	}
	if want := []string{"Overview", "One breaker", "Fleet"}; !slices.Equal(rows, want) {
		t.Errorf("rows %q, want %q", rows, want)
	}
	var names []string
	for _, v := range d.Templating.List {
		names = append(names, v.Name)
	}
	if want := []string{"datasource", "job", "instance", "target", "service", "method"}; !slices.Equal(names, want) {
		t.Errorf("variables %q, want %q", names, want)
	}
}

// TestDashboardSelects checks that each query obeys the variables: no panel shows other breakers than those selected.
func TestDashboardSelects(t *testing.T) {
	d, metrics := loadDashboard(t), withRecorded(t)
	byVariable := map[string]string{
		"grpc_target": "target", "grpc_service": "service", "grpc_method": "method",
		"job": "job", "instance": "instance",
	}
	selector := regexp.MustCompile(`([\w:]*grpc_client_breaker_[\w:]+)(\{[^}]*\})?`)
	for _, p := range d.panels() {
		for _, q := range p.Targets {
			for _, m := range selector.FindAllStringSubmatch(q.Expr, -1) {
				for _, label := range slices.Sorted(maps.Keys(byVariable)) {
					want := fmt.Sprintf(`%s=~"$%s"`, label, byVariable[label])
					if metrics[m[1]].labels[label] && !strings.Contains(m[2], want) {
						t.Errorf("%s: %s lacks %s", p.Title, m[0], want)
					}
				}
			}
		}
	}
}
