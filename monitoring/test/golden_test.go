package test

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// The repository, seen from this directory.
const root = "../../"

// targetLabels are those that Prometheus adds to each series.
var targetLabels = []string{"instance", "job"}

// keyLabels are the labels of each series of a breaker.
var keyLabels = []string{"grpc_target", "grpc_service", "grpc_method", "tag"}

// A metric is what queries may use of a metric: its labels, and the values of those labels that have fixed words.
type metric struct {
	labels set
	values map[string]set // by label; no entry: any value
}

type set map[string]bool

func newSet(words ...string) set {
	s := make(set, len(words))
	for _, w := range words {
		s[w] = true
	}
	return s
}

func (s set) String() string { return "{" + strings.Join(slices.Sorted(maps.Keys(s)), ", ") + "}" }

// fixedLabels are those whose values are fixed words, so that a matcher for another word matches nothing.
var fixedLabels = newSet("mode", "outcome", "reason", "result", "rule", "state")

// goldenMetrics reads the metrics of the collector and the histogram from the golden files of prombridge, by name.
func goldenMetrics(t *testing.T) map[string]metric {
	t.Helper()
	metrics := make(map[string]metric)
	for _, name := range []string{"all_series.txt", "metrics.txt"} {
		for line := range strings.Lines(read(t, root+"prombridge/testdata/"+name)) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			series, err := parser.ParseMetric(line[:strings.LastIndexByte(line, ' ')])
			if err != nil {
				t.Fatalf("%s: %v: %s", name, err, line)
			}
			addSeries(metrics, series)
		}
	}
	if len(metrics) < 25 {
		t.Fatalf("the golden files have %d metrics only", len(metrics))
	}
	return metrics
}

// addSeries adds one series of the golden files.
func addSeries(metrics map[string]metric, series labels.Labels) {
	name := series.Get(labels.MetricName)
	m, ok := metrics[name]
	if !ok {
		m = metric{labels: newSet(targetLabels...), values: make(map[string]set)}
		metrics[name] = m
	}
	if slices.ContainsFunc(keyLabels, series.Has) { // the parser has dropped those that are empty
		for _, name := range keyLabels {
			m.labels[name] = true
		}
	}
	series.Range(func(l labels.Label) {
		if l.Name == labels.MetricName {
			return
		}
		m.labels[l.Name] = true
		if fixedLabels[l.Name] {
			if m.values[l.Name] == nil {
				m.values[l.Name] = make(set)
			}
			m.values[l.Name][l.Value] = true
		}
	})
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
