package prombridge

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// An Option configures NewCollector or NewDurationHistogram. The With functions of this package return Options. Both
// accept the same Options, and ignore those of the other.
type Option interface{ apply(*options) error }

type optionFunc func(*options) error

func (f optionFunc) apply(o *options) error { return f(o) }

type options struct {
	namespace   string
	constLabels prometheus.Labels
	allSeries   bool
	reloads     func() (succeeded, failed uint64, lastSuccess time.Time) // nil: no metrics of reloads
}

// collect applies opts. It returns an error if g or an option is not usable. A nil option panics; caller names the
// function that got it.
func collect(caller string, g *breaker.Group, opts []Option) (*options, error) {
	for i, opt := range opts {
		if f, ok := opt.(optionFunc); opt == nil || (ok && f == nil) {
			panic(fmt.Sprintf("prombridge: %s: option %d is nil", caller, i))
		}
	}
	if g == nil {
		return nil, errors.New("the group is nil")
	}
	o := &options{constLabels: prometheus.Labels{}}
	for _, opt := range opts {
		if err := opt.apply(o); err != nil {
			return nil, err
		}
	}
	return o, nil
}

func (o *options) desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(o.namespace, subsystem, name), help, labels, o.constLabels)
}

// WithConstLabels adds labels to every series. If it is given more than once, all the labels are added, and the last
// value of a name counts. The map is copied. An invalid name, a name that a series already has (grpc_target, tag,
// state, le, …) and a value that is not valid UTF-8 are errors. Default: none.
func WithConstLabels(labels prometheus.Labels) Option {
	labels = maps.Clone(labels)
	return optionFunc(func(o *options) error {
		for _, reserved := range []string{"le", "quantile"} { // client_golang panics on them in a histogram only
			if _, ok := labels[reserved]; ok {
				return fmt.Errorf("WithConstLabels: the label name %q is reserved by Prometheus", reserved)
			}
		}
		maps.Copy(o.constLabels, labels)
		return nil
	})
}

// WithNamespace puts namespace and an underscore before every name: "shop" makes shop_grpc_client_breaker_state. It
// must consist of ASCII letters, digits and underscores, and must not begin with a digit. Anything else is an error,
// the empty string included. If it is given more than once, the last one counts. Dashboards and rules that use the
// names without a namespace do not find the series. Default: none.
func WithNamespace(namespace string) Option {
	return optionFunc(func(o *options) error {
		if !plainName(namespace) {
			return fmt.Errorf("WithNamespace: the namespace is %q, want letters, digits and underscores, no digit first",
				namespace)
		}
		o.namespace = namespace
		return nil
	})
}

// WithAllSeries also exports the series that have a * in the table of the package documentation. Without it, these
// series are left out while the policy in force cannot raise them above 0, or until they are above 0. It applies to
// NewCollector. Default: off.
func WithAllSeries() Option {
	return optionFunc(func(o *options) error {
		o.allSeries = true
		return nil
	})
}

// WithPolicyReloads adds the metrics of a policy file: policy_reloads_total and policy_last_success_timestamp_seconds.
// stats returns three values: how many times a changed file was applied, how many times it had an error or could not be
// read, and when it was last applied (the zero time means never). The counts must not fall. stats is called once for
// each scrape, by several goroutines at once if there are several scrapes. Use the method Reloads of the watcher of
// package breaker/policyfile, or the figures of anything else that applies policies. If stats panics, the scrape has
// none of these metrics.
//
// A nil stats is an error. If the option is given more than once, the last one counts. It applies to NewCollector.
// Default: none.
func WithPolicyReloads(stats func() (succeeded, failed uint64, lastSuccess time.Time)) Option {
	return optionFunc(func(o *options) error {
		if stats == nil {
			return errors.New("WithPolicyReloads: the function is nil")
		}
		o.reloads = stats
		return nil
	})
}

// plainName reports whether s may be the first part of a metric name. Prometheus also allows all other UTF-8, but such
// names must be quoted in every query. A colon is reserved for recording rules.
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
