package grpcircuit_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/otelbridge"
)

// The tables in documents that repeat the code are compared with it here: defaults, metrics and their labels.

// row is one row of a Markdown table: the cells by the lower-case text of their column's heading.
type row struct {
	line  int
	cells map[string]string
}

// cell returns the cell in the first of the columns that the table has, and whether it has one of them.
func (r row) cell(columns ...string) (string, bool) {
	for _, c := range columns {
		if text, ok := r.cells[c]; ok {
			return text, true
		}
	}
	return "", false
}

// tables returns the rows of each table in a Markdown file.
func tables(text string) (all [][]row) {
	var heading []string
	var rows []row
	flush := func() {
		if rows != nil {
			all = append(all, rows)
		}
		heading, rows = nil, nil
	}
	last := 0
	for n, line := range prose(text) {
		line = strings.TrimSpace(line)
		if n != last+1 {
			flush()
		}
		last = n
		switch {
		case !strings.HasPrefix(line, "|"):
			flush()
		case heading == nil:
			for _, h := range cells(line) {
				heading = append(heading, strings.ToLower(h))
			}
		case strings.Trim(line, "|-: ") == "":
		default:
			r := row{line: n, cells: map[string]string{}}
			for i, c := range cells(line) {
				if i < len(heading) {
					r.cells[heading[i]] = c
				}
			}
			rows = append(rows, r)
		}
	}
	flush()
	return all
}

func cells(line string) []string {
	parts := strings.Split(strings.Trim(line, "|"), "|")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}

// TestTablesOfDefaults compares each table with a column "default" with the code. One table has each field of
// breaker.Config. A table of options may have some of them, and its defaults are those in the options' documentation.
func TestTablesOfDefaults(t *testing.T) {
	options, err := optionDefaults("breaker", "interceptor", "otelbridge", "prombridge")
	if err != nil {
		t.Fatal(err)
	}
	if len(options) < 20 {
		t.Fatalf("found %d options, want 20 or more: the test does not find them", len(options))
	}
	fields := fieldDefaults()
	missing := maps.Clone(fields)
	for _, name := range files(t, ".md") {
		for _, d := range wrongDefaults(name, read(t, name), fields, options, missing) {
			t.Error(d)
		}
	}
	for _, field := range slices.Sorted(maps.Keys(missing)) {
		t.Errorf("no document has a table with the default of Config.%s, which is %s", field, missing[field])
	}
}

// fieldDefaults returns the defaults of breaker.Config as text, by field.
func fieldDefaults() map[string]string {
	fields := map[string]string{}
	defaults := reflect.ValueOf(breaker.Config{}.WithDefaults())
	for i := range defaults.NumField() {
		fields[defaults.Type().Field(i).Name] = fmt.Sprint(defaults.Field(i))
	}
	return fields
}

// defaultText finds the default in the documentation of an option. It is a sentence or a part of one.
var defaultText = regexp.MustCompile(`Default:\s+((?:[^.\n]|\.\d|\.\w|\n)+)\.?`)

// optionDefaults returns what the documentation of each With function in some packages says after "Default:".
func optionDefaults(dirs ...string) (map[string]string, error) {
	options := map[string]string{}
	for _, dir := range dirs {
		names, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return nil, err
			}
			for _, decl := range file.Decls {
				f, ok := decl.(*ast.FuncDecl)
				if !ok || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "With") || strings.HasSuffix(name, "_test.go") {
					continue
				}
				m := defaultText.FindStringSubmatch(f.Doc.Text())
				if m == nil {
					return nil, fmt.Errorf("%s: the documentation of %s has no default", name, f.Name.Name)
				}
				options[dir+"."+f.Name.Name] = strings.Join(strings.Fields(m[1]), " ")
			}
		}
	}
	return options, nil
}

// wrongDefaults reports the rows of a document whose default is not that of the code. It deletes the fields that it
// finds from missing.
func wrongDefaults(name, text string, fields, options, missing map[string]string) (wrong []string) {
	for _, table := range tables(text) {
		for _, r := range table {
			what, ok := r.cell("field", "option", "setting", "name")
			got, hasDefault := r.cell("default")
			if !ok || !hasDefault {
				continue
			}
			what, got = strings.Trim(what, "`"), strings.Trim(got, "`")
			what, _, _ = strings.Cut(what, "(")
			if field := strings.TrimPrefix(strings.TrimPrefix(what, "breaker."), "Config."); fields[field] != "" {
				delete(missing, field)
				if got != fields[field] {
					wrong = append(wrong, fmt.Sprintf("%s:%d: the default of Config.%s is %q, and Config{}.WithDefaults() has %q",
						name, r.line, field, got, fields[field]))
				}
				continue
			}
			want, candidates := "", 0
			for option, text := range options {
				if option == what || strings.HasSuffix(option, "."+what) {
					want, candidates = text, candidates+1
				}
			}
			switch {
			case candidates == 0:
				wrong = append(wrong, fmt.Sprintf("%s:%d: %s has a default, but is no field of breaker.Config and no option",
					name, r.line, what))
			case candidates > 1:
				wrong = append(wrong, fmt.Sprintf("%s:%d: %s is an option of several packages; name the package", name, r.line, what))
			case !sameDefault(got, want):
				wrong = append(wrong, fmt.Sprintf("%s:%d: the default of %s is %q, and its documentation says %q",
					name, r.line, what, got, want))
			}
		}
	}
	return wrong
}

// sameDefault reports whether a cell is the default in the documentation of an option. The documentation may say more.
func sameDefault(cell, doc string) bool {
	plain := func(s string) string {
		s = strings.ToLower(strings.NewReplacer("`", "", "[", "", "]", "", " ", "", "codes.", "").Replace(s))
		return strings.TrimSuffix(s, ".")
	}
	rest, ok := strings.CutPrefix(plain(doc), plain(cell))
	return ok && plain(cell) != "" && (rest == "" || strings.ContainsAny(rest[:1], ",:;("))
}

// TestGroupDefaults checks a default that documents repeat in prose.
func TestGroupDefaults(t *testing.T) {
	g, err := breaker.NewGroup(breaker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10_001 {
		g.Get(breaker.Key{Tag: fmt.Sprint(i)})
	}
	if n, evicted := g.Len(), g.Stats().Evictions; n != 10_000 || evicted != 1 {
		t.Errorf("a group keeps %d breakers and evicted %d, want 10000 and 1", n, evicted)
	}
}

// metricInfo is what a metric has besides its name.
type metricInfo struct {
	Kind   string // counter, gauge or histogram
	Label  string // besides those of the key; empty if there is none
	Values string // of the label, sorted, with commas
}

const metricPrefix = "grpc_client_breaker_"

// goldenMetrics returns the metrics of the scrape in prombridge/testdata, by name without the prefix.
func goldenMetrics(t *testing.T) map[string]metricInfo {
	t.Helper()
	metrics := map[string]metricInfo{}
	values := map[string]map[string]bool{}
	typeLine := regexp.MustCompile(`^# TYPE (\w+) (\w+)$`)
	series := regexp.MustCompile(`^(\w+?)(?:_bucket|_sum|_count)?(?:\{(.*)\})? \S+$`)
	label := regexp.MustCompile(`(\w+)="([^"]*)"`)
	keyLabels := map[string]bool{"grpc_target": true, "grpc_service": true, "grpc_method": true, "tag": true, "le": true}
	for line := range strings.Lines(read(t, "prombridge/testdata/metrics.txt")) {
		line = strings.TrimSpace(line)
		if m := typeLine.FindStringSubmatch(line); m != nil {
			name := strings.TrimPrefix(m[1], metricPrefix)
			metrics[name], values[name] = metricInfo{Kind: m[2]}, map[string]bool{}
			continue
		}
		m := series.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		name := strings.TrimPrefix(m[1], metricPrefix)
		info, ok := metrics[name]
		if !ok {
			t.Fatalf("prombridge/testdata/metrics.txt: %s has no type", line)
		}
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			if !keyLabels[l[1]] {
				info.Label = l[1]
				values[name][l[2]] = true
			}
		}
		info.Values = strings.Join(slices.Sorted(maps.Keys(values[name])), ", ")
		metrics[name] = info
	}
	return metrics
}

// TestTablesOfMetrics compares the tables of metrics in the documents, and the metrics that they name in prose, with
// the scrape in prombridge/testdata. A test of prombridge compares that scrape with the collector.
func TestTablesOfMetrics(t *testing.T) {
	golden := goldenMetrics(t)
	if len(golden) < 20 {
		t.Fatalf("prombridge/testdata/metrics.txt has %d metrics; the test does not find them", len(golden))
	}
	found := 0
	for _, name := range files(t, ".md") {
		if name == "docs/comparison.md" || name == "docs/benchmarks.md" { // generated, and partly about other libraries
			continue
		}
		text := read(t, name)
		wrong, tables := wrongMetrics(name, text, golden)
		found += tables
		for _, w := range append(wrong, unknownMetrics(name, text, golden)...) {
			t.Error(w)
		}
	}
	if found == 0 {
		t.Error("no document has a table of metrics: a column named series or metric")
	}
}

// seriesName matches a metric in a table: `calls_total{outcome}`, with or without the prefix.
var seriesName = regexp.MustCompile("^(?:" + metricPrefix + `)?([a-z_]+)(?:\{([a-z_, ]+)\})?$`)

// wrongMetrics reports metrics in the tables of a document that the code does not have, and metrics that the document
// does not name. A table of metrics has a column "series" or "metric", and may have one "type" or "kind".
func wrongMetrics(name, text string, golden map[string]metricInfo) (wrong []string, found int) {
	missing := maps.Clone(golden)
	for _, table := range tables(text) {
		isTable := false
		for _, r := range table {
			cell, ok := r.cell("series", "metric")
			if !ok {
				continue
			}
			isTable = true
			for _, q := range quoted.FindAllStringSubmatch(cell, -1) {
				m := seriesName.FindStringSubmatch(q[1])
				if m == nil {
					wrong = append(wrong, fmt.Sprintf("%s:%d: %q is no name of a metric", name, r.line, q[1]))
					continue
				}
				want, ok := golden[m[1]]
				if !ok {
					wrong = append(wrong, fmt.Sprintf("%s:%d: the collector has no metric %s", name, r.line, m[1]))
					continue
				}
				delete(missing, m[1])
				if m[2] != want.Label {
					wrong = append(wrong, fmt.Sprintf("%s:%d: the label of %s is %q, and the collector has %q",
						name, r.line, m[1], m[2], want.Label))
				}
				if kind, ok := r.cell("type", "kind"); ok && !strings.Contains(kind, want.Kind) {
					wrong = append(wrong, fmt.Sprintf("%s:%d: the type of %s is %q, and the collector has %q",
						name, r.line, m[1], kind, want.Kind))
				}
			}
		}
		if isTable {
			found++
		}
	}
	if found == 0 {
		return wrong, 0
	}
	for _, line := range prose(text) { // the histogram may be named below the table
		for _, q := range quoted.FindAllStringSubmatch(line, -1) {
			m := seriesName.FindStringSubmatch(q[1])
			if m == nil {
				continue
			}
			if golden[m[1]].Label == m[2] {
				delete(missing, m[1])
			}
		}
	}
	for _, m := range slices.Sorted(maps.Keys(missing)) {
		wrong = append(wrong, fmt.Sprintf("%s has a table of metrics, but does not name %s", name, m))
	}
	return wrong, found
}

// metricWord matches a word that is probably a metric of ours.
var metricWord = regexp.MustCompile(`\b(?:` + metricPrefix + `\w+|[a-z]+(?:_[a-z]+)*_total)\b`)

// unknownMetrics reports the words of a document that look like metrics but are none.
func unknownMetrics(name, text string, golden map[string]metricInfo) (unknown []string) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		for _, word := range metricWord.FindAllString(line, -1) {
			metric := strings.TrimPrefix(word, metricPrefix)
			for _, end := range []string{"", "_bucket", "_sum", "_count"} {
				if _, ok := golden[strings.TrimSuffix(metric, end)]; ok {
					metric = ""
					break
				}
			}
			if metric != "" {
				unknown = append(unknown, fmt.Sprintf("%s:%d: the collector has no metric %s", name, n, word))
			}
		}
	}
	return unknown
}

const otelPrefix = "grpc.client.breaker."

// otelMetric is an instrument, as it is documented or as it is collected.
type otelMetric struct {
	Kind  string // counter, up-down counter or gauge
	Unit  string // s, or empty
	Label string
}

// TestTableOfOTelMetrics compares the table in the documentation of otelbridge with what a reader collects, and both
// with the names and labels in Prometheus.
func TestTableOfOTelMetrics(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "otelbridge/doc.go", nil, parser.ParseComments|parser.PackageClauseOnly)
	if err != nil {
		t.Fatal(err)
	}
	doc := documentedInstruments(file.Doc.Text())
	collected := collectInstruments(t)
	if diff := cmp.Diff(doc, collected); diff != "" {
		t.Errorf("the table of metrics in otelbridge/doc.go is not what a reader collects (-documented +collected):\n%s", diff)
	}
	golden := goldenMetrics(t)
	delete(golden, "call_duration_seconds") // otelbridge has no histogram
	for name, m := range collected {
		inPrometheus, kind := prometheusName(name, m)
		want, ok := golden[inPrometheus]
		delete(golden, inPrometheus)
		switch {
		case !ok:
			t.Errorf("%s is %s in Prometheus, which prombridge does not have", otelPrefix+name, inPrometheus)
		case want.Kind != kind || want.Label != m.Label:
			t.Errorf("%s is a %s with label %q in Prometheus, and prombridge has a %s with label %q",
				otelPrefix+name, kind, m.Label, want.Kind, want.Label)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(golden)) {
		t.Errorf("prombridge has %s, and otelbridge has no instrument for it", name)
	}
}

// prometheusName returns the name and the type that a Prometheus exporter makes of an instrument.
func prometheusName(name string, m otelMetric) (string, string) {
	kind := "gauge"
	if m.Unit == "s" {
		name += "_seconds"
	}
	if m.Kind == "counter" {
		name, kind = name+"_total", "counter"
	}
	return name, kind
}

var instrumentLine = regexp.MustCompile(`^\s+(\w+)(?:\{(\w+)\})?\s+(up-down counter|counter|gauge)\s+(\{\w+\}|s|1)\s`)

// documentedInstruments reads the table of metrics in the documentation of otelbridge.
func documentedInstruments(doc string) map[string]otelMetric {
	all := map[string]otelMetric{}
	for line := range strings.Lines(doc) {
		m := instrumentLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		i := otelMetric{Label: m[2], Kind: m[3]}
		if m[4] == "s" {
			i.Unit = m[4]
		}
		all[m[1]] = i
	}
	return all
}

// collectInstruments returns the instruments that a reader collects of a group whose breaker has all metrics.
func collectInstruments(t *testing.T) map[string]otelMetric {
	t.Helper()
	g, err := breaker.NewGroup(breaker.Config{MinCalls: 1, SlowCall: time.Hour, ConsecutiveFailures: -1, FailingFor: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	failure := errors.New("test")
	if err := g.Get(breaker.Key{Tag: "a"}).Do(t.Context(), func(context.Context) error { return failure }); !errors.Is(err, failure) {
		t.Fatal(err)
	}
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	defer func() {
		if err := provider.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	g.Get(breaker.Key{Tag: "open"}).Trip(t.Context(), "test")
	reloads := otelbridge.WithPolicyReloads(func() (succeeded, failed uint64, lastSuccess time.Time) { return 1, 0, time.Now() })
	_, err = otelbridge.RegisterMetrics(g, otelbridge.WithMeterProvider(provider), otelbridge.WithAllSeries(), reloads)
	if err != nil {
		t.Fatal(err)
	}
	var data metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &data); err != nil {
		t.Fatal(err)
	}
	all := map[string]otelMetric{}
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			i, attrs := instrumentOf(m.Data)
			if m.Unit == "s" {
				i.Unit = m.Unit
			}
			for _, a := range attrs.ToSlice() {
				if key := string(a.Key); key != "tag" && !strings.HasPrefix(key, "grpc.") {
					i.Label = key
				}
			}
			name, ok := strings.CutPrefix(m.Name, otelPrefix)
			if !ok {
				t.Errorf("the instrument %s does not begin with %s", m.Name, otelPrefix)
			}
			all[name] = i
		}
	}
	return all
}

// instrumentOf returns the kind of an instrument and the attributes of its first series.
func instrumentOf(data metricdata.Aggregation) (i otelMetric, attrs attribute.Set) {
	sum := func(monotonic bool) otelMetric {
		if monotonic {
			return otelMetric{Kind: "counter"}
		}
		return otelMetric{Kind: "up-down counter"}
	}
	switch d := data.(type) {
	case metricdata.Sum[int64]:
		return sum(d.IsMonotonic), d.DataPoints[0].Attributes
	case metricdata.Sum[float64]:
		return sum(d.IsMonotonic), d.DataPoints[0].Attributes
	case metricdata.Gauge[int64]:
		return otelMetric{Kind: "gauge"}, d.DataPoints[0].Attributes
	case metricdata.Gauge[float64]:
		return otelMetric{Kind: "gauge"}, d.DataPoints[0].Attributes
	}
	return otelMetric{Kind: fmt.Sprintf("%T", data)}, attribute.Set{}
}

// The checks must find the defects in a wrong document. Otherwise it proves nothing that they find none in the
// repository.
func TestTableChecks(t *testing.T) {
	fields := map[string]string{"OpenFor": "1s", "Backoff": "2", "Jitter": "0.2"}
	options := map[string]string{
		"breaker.WithMaxBreakers": "10 000", "interceptor.WithRejectionCode": "codes.Unavailable, as for gRPC",
		"a.WithNamespace": "none", "b.WithNamespace": "none",
	}
	missing := maps.Clone(fields)
	got := wrongDefaults("a.md", strings.Join([]string{
		"| default | meaning | field |", "|---|:--:|---|",
		"| 1s | the first | `OpenFor` |", "| `3` | a factor | `Config.Backoff` |", "| 1 | none | `Gone` |",
		"",
		"| option | default |", "|---|---|",
		"| `breaker.WithMaxBreakers(n)` | 10 000 |", "| `WithRejectionCode` | `Unavailable` |",
		"| `WithMaxBreakers` | 10 |", "| `WithNamespace` | none |",
	}, "\n"), fields, options, missing)
	if diff := cmp.Diff(got, []string{
		`a.md:4: the default of Config.Backoff is "3", and Config{}.WithDefaults() has "2"`,
		`a.md:5: Gone has a default, but is no field of breaker.Config and no option`,
		`a.md:11: the default of WithMaxBreakers is "10", and its documentation says "10 000"`,
		`a.md:12: WithNamespace is an option of several packages; name the package`,
	}); diff != "" {
		t.Errorf("defaults (-got +want):\n%s", diff)
	}
	if diff := cmp.Diff(missing, map[string]string{"Jitter": "0.2"}); diff != "" {
		t.Errorf("fields that are in no table (-got +want):\n%s", diff)
	}

	golden := map[string]metricInfo{
		"state": {Kind: "gauge", Label: "state"}, "trips_total": {Kind: "counter", Label: "rule"},
		"in_flight": {Kind: "gauge"}, "calls_total": {Kind: "counter", Label: "outcome"}, "durations": {Kind: "histogram"},
	}
	text := strings.Join([]string{
		"| meaning | type | series |", "|---|---|---|",
		"| x | gauge | `state{state}`, `gone` |", "| x | counter | `grpc_client_breaker_in_flight`, `trips_total` |",
		"", "`durations` and gone_total, grpc_client_breaker_durations_bucket",
	}, "\n")
	got, found := wrongMetrics("a.md", text, golden)
	got = append(got, unknownMetrics("a.md", text, golden)...)
	if diff := cmp.Diff(got, []string{
		"a.md:3: the collector has no metric gone",
		`a.md:4: the type of in_flight is "counter", and the collector has "gauge"`,
		`a.md:4: the label of trips_total is "", and the collector has "rule"`,
		"a.md has a table of metrics, but does not name calls_total",
		"a.md:6: the collector has no metric gone_total",
	}); diff != "" || found != 1 {
		t.Errorf("%d tables of metrics, want 1 (-got +want):\n%s", found, diff)
	}

	all := documentedInstruments("\tname            type     unit    left out\n" +
		"\tcalls{outcome}  counter  {call}  never\n" +
		"\topen            counter  s       never\n")
	if diff := cmp.Diff(all, map[string]otelMetric{
		"calls": {Kind: "counter", Label: "outcome"}, "open": {Kind: "counter", Unit: "s"},
	}); diff != "" {
		t.Errorf("instruments (-got +want):\n%s", diff)
	}
}
