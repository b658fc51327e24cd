package prombridge

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// What cannot work says so where somebody looks: when it is registered.
func TestInvalid(t *testing.T) {
	g := newGroup(t, breaker.Config{})
	for _, tt := range []struct {
		name  string
		group *breaker.Group
		opts  []Option
		want  string
	}{
		{"nil group", nil, nil, "the group is nil"},
		{"nil option", g, []Option{WithNamespace("a"), nil}, "option 1 is nil"},
		{"nil func", g, []Option{optionFunc(nil)}, "option 0 is nil"},
		{"empty namespace", g, []Option{WithNamespace("")}, `WithNamespace: the namespace is ""`},
		{"namespace with a digit first", g, []Option{WithNamespace("7up")}, `the namespace is "7up"`},
		{"namespace with a space", g, []Option{WithNamespace("a b")}, `the namespace is "a b"`},
		{"namespace with a colon", g, []Option{WithNamespace("a:b")}, `the namespace is "a:b"`},
		{"namespace in Cyrillic", g, []Option{WithNamespace("а")}, `the namespace is "а"`},
		{"invalid namespace", g, []Option{WithNamespace("a\xff")}, `the namespace is "a\xff"`},
		{"label of a histogram", g, []Option{WithConstLabels(prometheus.Labels{"le": "1"})}, `WithConstLabels: the name "le" belongs to Prometheus`},
		{"label of a summary", g, []Option{WithConstLabels(prometheus.Labels{"quantile": "1"})}, `the name "quantile" belongs`},
		{"label of a key", g, []Option{WithConstLabels(prometheus.Labels{"tag": "x"})}, "duplicate label names"},
		{"label without a name", g, []Option{WithConstLabels(prometheus.Labels{"": "x"})}, `"" is not a valid label name`},
		{"reserved label", g, []Option{WithConstLabels(prometheus.Labels{"__x": "x"})}, `"__x" is not a valid label name`},
		{"invalid value", g, []Option{WithConstLabels(prometheus.Labels{"x": "\xff"})}, "not valid UTF-8"},
	} {
		durations := NewDurationHistogram(tt.group, tt.opts...)
		durations.Settled(t.Context(), settled(0)) // does not panic
		for name, c := range map[string]prometheus.Collector{"NewCollector": NewCollector(tt.group, tt.opts...), "NewDurationHistogram": durations} {
			refused(t, tt.name, c, "prombridge: "+name+": ", tt.want)
		}
	}
	only := []Option{WithConstLabels(prometheus.Labels{"state": "x"})} // a label of the collector, none of the histogram
	refused(t, "label of a metric", NewCollector(g, only...), "prombridge: NewCollector: ", "duplicate label names")
	only = []Option{WithConstLabels(prometheus.Labels{"outcome": "x"})}
	refused(t, "label of the histogram", NewDurationHistogram(g, only...), "prombridge: NewDurationHistogram: ", "duplicate label names")

	zero := new(DurationHistogram)
	zero.Settled(t.Context(), settled(0))
	refused(t, "zero DurationHistogram", zero, "prombridge: DurationHistogram: ", "does not come from NewDurationHistogram")
}

// refused expects c to be refused by a registry, and to yield nothing but an error if it is collected all the same.
func refused(t *testing.T, name string, c prometheus.Collector, want ...string) {
	t.Helper()
	err := prometheus.NewRegistry().Register(c)
	for _, w := range want {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("%s: Register: got %v, want an error with %q", name, err, w)
		}
	}
	_, err = unchecked{c}.Gather()
	for _, w := range want {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("%s: Gather: got %v, want an error with %q", name, err, w)
		}
	}
}

// unchecked collects c though no registry took it: as a collector that describes nothing.
type unchecked struct{ prometheus.Collector }

func (unchecked) Describe(chan<- *prometheus.Desc) {}

func (u unchecked) Gather() (int, error) {
	reg := prometheus.NewRegistry()
	if err := reg.Register(u); err != nil {
		return 0, err
	}
	families, err := reg.Gather()
	return len(families), err
}

func TestOptions(t *testing.T) {
	g := busyGroup(t)
	labels := prometheus.Labels{"zone": "a", "app": "shop"}
	opts := []Option{WithNamespace("first"), WithNamespace("Shop_2"), WithConstLabels(labels), WithConstLabels(prometheus.Labels{"zone": "b"}), WithConstLabels(nil)}
	labels["app"] = "changed afterwards"
	reg := registry(t, NewCollector(g, opts...), NewDurationHistogram(g, opts...))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if len(families) != 21 {
		t.Errorf("%d metrics, want 21", len(families))
	}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "Shop_2_grpc_client_breaker_") {
			t.Errorf("metric %q, want Shop_2_grpc_client_breaker_ before it", f.GetName())
		}
		for _, m := range f.GetMetric() {
			got := map[string]string{}
			for _, l := range m.GetLabel() {
				if l.GetName() == "app" || l.GetName() == "zone" {
					got[l.GetName()] = l.GetValue()
				}
			}
			if diff := cmp.Diff(got, map[string]string{"app": "shop", "zone": "b"}); diff != "" {
				t.Errorf("%s, constant labels (-got +want):\n%s", f.GetName(), diff)
			}
		}
	}
}

func TestTwoGroupsInOneRegistry(t *testing.T) {
	reg := registry(t)
	for _, name := range []string{"a", "b"} {
		g, opt := busyGroup(t), WithConstLabels(prometheus.Labels{"group": name})
		reg.MustRegister(NewCollector(g, opt), NewDurationHistogram(g, opt))
	}
	if _, err := reg.Gather(); err != nil {
		t.Error(err)
	}
	if err := reg.Register(NewCollector(newGroup(t, breaker.Config{}))); err == nil {
		t.Error("a third group without the label was registered")
	}
}
