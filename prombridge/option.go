package prombridge

import (
	"errors"
	"fmt"
	"maps"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// Option sets up what NewCollector or NewDurationHistogram make. Options come from the With functions of this package.
type Option interface{ apply(*options) error }

type optionFunc func(*options) error

func (f optionFunc) apply(o *options) error { return f(o) }

type options struct {
	namespace   string
	constLabels prometheus.Labels
}

func collect(g *breaker.Group, opts []Option) (*options, error) {
	if g == nil {
		return nil, errors.New("the group is nil")
	}
	o := &options{constLabels: prometheus.Labels{}}
	for i, opt := range opts {
		if f, ok := opt.(optionFunc); opt == nil || (ok && f == nil) {
			return nil, fmt.Errorf("option %d is nil", i)
		}
		if err := opt.apply(o); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// subsystem is what all names begin with.
const subsystem = "grpc_client_breaker"

func (o *options) desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(o.namespace, subsystem, name), help, labels, o.constLabels)
}

// WithConstLabels adds labels to every series. Given more than once, they add up, and the last value of a name counts. The
// map is copied. A name that is not valid or that a series has already (grpc_target, tag, state, le, …) is an error, and so is
// a value that is not valid UTF-8. Default: none.
func WithConstLabels(labels prometheus.Labels) Option {
	labels = maps.Clone(labels)
	return optionFunc(func(o *options) error {
		for _, reserved := range []string{"le", "quantile"} { // client_golang panics over them, but only in a histogram
			if _, ok := labels[reserved]; ok {
				return fmt.Errorf("WithConstLabels: the name %q belongs to Prometheus", reserved)
			}
		}
		maps.Copy(o.constLabels, labels)
		return nil
	})
}

// WithNamespace puts namespace and an underscore before every name: "shop" makes shop_grpc_client_breaker_state. It
// consists of ASCII letters, digits and underscores and begins with no digit; anything else is an error, the empty string
// included, and the last one given counts. Dashboards and rules that go by the plain names will not find the series.
// Default: none.
func WithNamespace(namespace string) Option {
	return optionFunc(func(o *options) error {
		if !plainName(namespace) {
			return fmt.Errorf("WithNamespace: the namespace is %q, want letters, digits and underscores, no digit first", namespace)
		}
		o.namespace = namespace
		return nil
	})
}

// plainName says whether s may begin the name of a metric. Prometheus has come to allow any UTF-8, which a person must
// quote in every query; and a colon, which is for recording rules.
func plainName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if letter := c|0x20 >= 'a' && c|0x20 <= 'z'; !letter && c != '_' && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

func errorf(format string, args ...any) error { return fmt.Errorf("prombridge: "+format, args...) }
