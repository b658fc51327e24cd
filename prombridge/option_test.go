package prombridge

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// A collector that cannot work reports the error when it is registered.
func TestInvalid(t *testing.T) {
	g := newGroup(t, breaker.Config{})
	for _, tt := range []struct {
		name  string
		group *breaker.Group
		opts  []Option
		want  string
	}{
		{"nil group", nil, nil, "the group is nil"},
		{"empty namespace", g, []Option{WithNamespace("")}, `WithNamespace: the namespace is ""`},
		{"namespace with a digit first", g, []Option{WithNamespace("7up")}, `the namespace is "7up"`},
		{"namespace with a space", g, []Option{WithNamespace("a b")}, `the namespace is "a b"`},
		{"namespace with a colon", g, []Option{WithNamespace("a:b")}, `the namespace is "a:b"`},
		{"namespace in Cyrillic", g, []Option{WithNamespace("а")}, `the namespace is "а"`},
		{"invalid namespace", g, []Option{WithNamespace("a\xff")}, `the namespace is "a\xff"`},
		{"label of a histogram", g, constLabel("le", "1"), `WithConstLabels: the label name "le" is reserved by Prometheus`},
		{"label of a summary", g, constLabel("quantile", "1"), `the label name "quantile" is reserved`},
		{"label of a key", g, constLabel("tag", "x"), "duplicate label names"},
		{"label without a name", g, constLabel("", "x"), `"" is not a valid label name`},
		{"reserved label", g, constLabel("__x", "x"), `"__x" is not a valid label name`},
		{"nil reloads", g, []Option{WithPolicyReloads(nil)}, "WithPolicyReloads: the function is nil"},
		{"invalid value", g, constLabel("x", "\xff"), "not valid UTF-8"},
	} {
		durations := durationHistogram(tt.group, tt.opts...)
		durations.settled(t.Context(), settled(0)) // does not panic
		wantRefused(t, tt.name, NewCollector(tt.group, tt.opts...), "prombridge: NewCollector: ", tt.want)
		wantRefused(t, tt.name, durations, "prombridge: NewDurationHistogram: ", tt.want)
	}
	const duplicate = "duplicate label names"
	c := NewCollector(g, constLabel("state", "x")...) // state is not a label of the histogram
	wantRefused(t, "label of a metric", c, "prombridge: NewCollector: ", duplicate)
	c = NewCollector(g, WithPolicyReloads(reloads), constLabel("result", "x")[0])
	wantRefused(t, "label of the reloads", c, "prombridge: NewCollector: ", duplicate)
	h := durationHistogram(g, constLabel("outcome", "x")...)
	wantRefused(t, "label of the histogram", h, "prombridge: NewDurationHistogram: ", duplicate)

	zero := new(DurationHistogram)
	zero.settled(t.Context(), settled(0))
	wantRefused(t, "zero DurationHistogram", zero, "prombridge: DurationHistogram: ", "call NewDurationHistogram")
}

func constLabel(name, value string) []Option {
	return []Option{WithConstLabels(prometheus.Labels{name: value})}
}

// wantRefused checks that a registry refuses c, and that collecting it without a registration gives the error.
func wantRefused(t *testing.T, name string, c prometheus.Collector, want ...string) {
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

// unchecked describes no metrics, so a registry accepts it without checks.
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
	opts := []Option{
		WithNamespace("first"), WithNamespace("Shop_2"),
		WithConstLabels(labels), WithConstLabels(prometheus.Labels{"zone": "b"}), WithConstLabels(nil),
	}
	labels["app"] = "changed afterwards"
	opts = append(opts, everySeries()...)
	reg := registry(t, NewCollector(g, opts...), durationHistogram(g, opts...))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if len(families) != 27 {
		t.Errorf("%d metrics, want 27", len(families))
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
		reg.MustRegister(NewCollector(g, opt), durationHistogram(g, opt))
	}
	if _, err := reg.Gather(); err != nil {
		t.Error(err)
	}
	if err := reg.Register(NewCollector(newGroup(t, breaker.Config{}))); err == nil {
		t.Error("a third group without the label was registered")
	}
}

// A nil option panics, and the panic names the function and the option.
func TestNilOption(t *testing.T) {
	g := newGroup(t, breaker.Config{})
	for name, f := range map[string]func(...Option){
		"NewCollector":         func(opts ...Option) { NewCollector(g, opts...) },
		"NewDurationHistogram": func(opts ...Option) { NewDurationHistogram(g, opts...) },
	} {
		for _, opt := range []Option{nil, optionFunc(nil)} {
			func() {
				defer func() {
					if got, want := recover(), "prombridge: "+name+": option 1 is nil"; got != want {
						t.Errorf("the panic is %v, want %s", got, want)
					}
				}()
				f(WithNamespace("a"), opt)
			}()
		}
	}
}
