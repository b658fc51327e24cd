package prombridge

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/needs"
)

// NewCollector returns a collector of the metrics of g and of each of its breakers. Their names begin with
// grpc_client_breaker_. Register one collector for each group. Two groups in one registry need WithConstLabels: the
// same label names with different values. Without it, Register returns a prometheus.AlreadyRegisteredError for the
// second collector, whose text is "duplicate metrics collector registration attempted".
//
// The collector is safe for concurrent use and owns no goroutine. A scrape takes one Snapshot of each breaker. A
// Snapshot delays other calls no longer than the report of a failed call does. No lock is held while metrics are sent
// to the registry. The labels of the breakers are kept between scrapes and take about 1.5 kB for each breaker.
//
// NewCollector returns no error. With a nil g or an invalid option it returns a collector that reports the error when
// it is registered, or when it is collected without having been registered. A nil option panics.
func NewCollector(g *breaker.Group, opts ...Option) prometheus.Collector {
	o, err := collect("NewCollector", g, opts)
	if err != nil {
		return newInvalid("NewCollector", err)
	}
	c := &collector{cache: breakerCache{group: g}, all: o.allSeries}
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
	if o.reloads != nil {
		if err := c.addReloads(o); err != nil {
			return newInvalid("NewCollector", err)
		}
	}
	return c
}

// collector is immutable except for its cache.
type collector struct {
	cache         breakerCache
	descs         []*prometheus.Desc
	breakerSeries []breakerSeries
	all           bool // of WithAllSeries
	groupSeries   []groupSeries
	reloads       *reloadSeries // nil: none
}

// breakerSeries is one series of every breaker. It holds everything that is the same for all breakers.
type breakerSeries struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	needs  needs.Set
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
			desc: desc, kind: f.kind, needs: f.needs | s.needs, when: f.when, read: s.read,
			labels: c.cache.template.add(desc, f.label, s.value),
		})
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
	chosen := make([]sample, 0, len(c.breakerSeries))
	for _, e := range c.cache.list() {
		s = e.breaker.Snapshot()
		chosen = c.choose(&s, chosen[:0])
		send(e, chosen, ch)
	}
	stats := c.cache.group.Stats()
	for _, s := range c.groupSeries {
		ch <- prometheus.MustNewConstMetric(s.desc, s.kind, s.read(stats))
	}
	if c.reloads != nil {
		c.reloads.collect(ch)
	}
}

// sample is a value of a series in one scrape.
type sample struct {
	series *breakerSeries
	value  float64
}

// choose appends the samples of the breaker with snapshot s to samples.
func (c *collector) choose(s *breaker.Snapshot, samples []sample) []sample {
	has := needs.Everything
	if !c.all {
		has = needs.Of(s)
	}
	for i := range c.breakerSeries {
		series := &c.breakerSeries[i]
		if series.when != nil && !series.when(s) {
			continue
		}
		value := series.read(s)
		if series.needs&^has != 0 && (series.kind != counter || value == 0) {
			continue
		}
		samples = append(samples, sample{series, value})
	}
	return samples
}

// send sends the samples of one breaker.
func send(e entry, samples []sample, ch chan<- prometheus.Metric) {
	var size batchSize
	for i := range samples {
		size.add(samples[i].series.kind)
	}
	batch := newMetricBatch(size)
	for i := range samples {
		series := samples[i].series
		ch <- batch.add(series.kind, identity{series.desc, e.labels(series.labels)}, samples[i].value)
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
