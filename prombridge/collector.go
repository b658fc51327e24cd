// Package prombridge exports the breakers of a group to Prometheus. [NewCollector] returns a collector that reads the
// breakers during a scrape and does no work between scrapes:
//
//	prometheus.MustRegister(prombridge.NewCollector(group))
//
// [NewDurationHistogram] adds a histogram of call durations. Unlike the collector, it costs some time on each call.
//
// A breaker has its series from its creation on, and its counters start at 0. The series end when the breaker leaves
// the group, and when it becomes idle ([breaker.WithIdleTimeout]). If a call uses an idle breaker again, its counters
// continue from their last values. The labels grpc_target, grpc_service, grpc_method and tag hold the breaker's key. A
// label is empty if the key has no such part. Labels and values contain only parts of keys, numbers and fixed words.
//
// A label value is valid UTF-8 and has at most 1024 bytes, but a key may contain any bytes. A part of a key that does
// not fit is escaped: \xff is an invalid byte, \\ is a backslash, and \# is followed by a hash that replaces the end of
// a part that is too long. A part that fits is unchanged unless it looks escaped, such as the text \xff, which becomes
// \\xff. Two different keys never share a series. Package otelbridge escapes keys in the same way.
package prombridge

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// NewCollector returns a collector of the metrics of g and of each of its breakers. Their names begin with
// grpc_client_breaker_. Register one collector for each group. Two groups in one registry need WithConstLabels: the
// same label names with different values.
//
// The collector is safe for concurrent use and owns no goroutine. A scrape takes one Snapshot of each breaker, which
// delays calls no longer than a failed call does. No lock is held while metrics are sent to the registry. The labels of
// the breakers are kept between scrapes and take about 1.5 kB for each breaker.
//
// NewCollector returns no error. With a nil g or an invalid option it returns a collector that reports the error when
// it is registered, or when it is collected without having been registered. A nil option panics.
func NewCollector(g *breaker.Group, opts ...Option) prometheus.Collector {
	o, err := collect("NewCollector", g, opts)
	if err != nil {
		return newInvalid("NewCollector", err)
	}
	c := &collector{cache: breakerCache{group: g}}
	for _, f := range breakerFamilies() {
		if err := c.addFamily(o, f); err != nil {
			return newInvalid("NewCollector", err)
		}
	}
	for _, f := range groupFamilies() {
		desc := o.desc(f.name, f.help)
		c.descs = append(c.descs, desc)
		c.groupSeries = append(c.groupSeries, groupSeries{desc: desc, kind: f.kind, read: f.read})
	}
	return c
}

// collector is immutable except for its cache.
type collector struct {
	cache         breakerCache
	descs         []*prometheus.Desc
	breakerSeries []breakerSeries
	batchSize     batchSize // of breakerSeries
	groupSeries   []groupSeries
}

// breakerSeries is one series of every breaker. It holds everything that is the same for all breakers.
type breakerSeries struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	when   func(*breaker.Snapshot) bool // nil: always
	read   func(*breaker.Snapshot) float64
	labels labelRange
}

type groupSeries struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(breaker.GroupStats) float64
}

// addFamily adds the series of f.
func (c *collector) addFamily(o *options, f family) error {
	desc := o.desc(f.name, f.help, labelNames(f.label)...)
	if err := desc.Err(); err != nil {
		return err
	}
	c.descs = append(c.descs, desc)
	for _, s := range f.series {
		c.breakerSeries = append(c.breakerSeries, breakerSeries{
			desc: desc, kind: f.kind, when: f.when, read: s.read, labels: c.cache.template.add(desc, f.label, s.value),
		})
		c.batchSize.add(f.kind)
	}
	return nil
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	var s breaker.Snapshot // declared here, because inside the loop each breaker would allocate one
	for _, e := range c.cache.list() {
		s = e.breaker.Snapshot()
		c.collectBreaker(e, &s, ch)
	}
	stats := c.cache.group.Stats()
	for _, s := range c.groupSeries {
		ch <- prometheus.MustNewConstMetric(s.desc, s.kind, s.read(stats))
	}
}

// collectBreaker sends the series of one breaker, all of them from one snapshot.
func (c *collector) collectBreaker(e entry, s *breaker.Snapshot, ch chan<- prometheus.Metric) {
	batch := newMetricBatch(c.batchSize)
	for i := range c.breakerSeries {
		series := &c.breakerSeries[i]
		if series.when == nil || series.when(s) {
			ch <- batch.add(series.kind, identity{series.desc, e.labels(series.labels)}, series.read(s))
		}
	}
}

// invalid is a collector that reports an error when it is registered or collected.
type invalid struct{ desc *prometheus.Desc }

func newInvalid(what string, err error) *invalid {
	return &invalid{prometheus.NewInvalidDesc(errorf("%s: %w", what, err))}
}

func (i *invalid) Describe(ch chan<- *prometheus.Desc) { ch <- i.desc }

func (i *invalid) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.NewInvalidMetric(i.desc, i.desc.Err())
}
