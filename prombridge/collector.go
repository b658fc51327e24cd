// Package prombridge shows a group of breakers to Prometheus. [NewCollector] makes a collector that reads the
// breakers when it is scraped, and does nothing in between:
//
//	prometheus.MustRegister(prombridge.NewCollector(group))
//
// [NewDurationHistogram] is for those who want a histogram of call durations as well, and pay for it with each call.
//
// Every breaker has its series from the moment it is made, at 0. They end when it leaves the group, and when it becomes
// idle ([breaker.WithIdleTimeout]); if a call asks for it again, they go on from where they were. They carry the
// breaker's key as grpc_target, grpc_service, grpc_method and tag, empty where the key has no such part. In labels and
// values there is nothing but parts of keys, figures and fixed words.
//
// A label is valid UTF-8 and has 1024 bytes at most; a key may hold anything. One that does not fit is escaped (\xff
// for an invalid byte, \\ for a backslash, \# and a hash for what is beyond the limit), and if another key reads just
// like that, its tag goes on with \~2 or more. So keys that differ never share a series, whoever makes them up.
package prombridge

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// NewCollector returns a collector of the figures of g and of each of its breakers, as series whose names begin with
// grpc_client_breaker_. Register it once for each group. Two groups in one registry need labels of WithConstLabels to
// tell them apart, the same names with different values.
//
// It is safe for concurrent use and owns no goroutine. A scrape takes one Snapshot of each breaker, which holds up
// calls no longer than a failed call does, and it holds no lock while it hands the series over. It keeps the labels
// of the breakers from one scrape to the next, about 1.5 kB each.
//
// There is no error to return: a nil g or an option that cannot be used makes a collector that says so when it is
// registered, and if it is not registered but collected.
func NewCollector(g *breaker.Group, opts ...Option) prometheus.Collector {
	o, err := collect(g, opts)
	if err != nil {
		return newInvalid("NewCollector", err)
	}
	c := &collector{roster: roster{group: g}}
	for _, f := range perBreaker() {
		if err := c.plan(o, f); err != nil {
			return newInvalid("NewCollector", err)
		}
	}
	for _, f := range perGroup() {
		desc := o.desc(f.name, f.help)
		c.descs = append(c.descs, desc)
		c.group = append(c.group, groupLine{desc: desc, kind: f.kind, read: f.read})
	}
	return c
}

// collector is immutable but for its roster.
type collector struct {
	roster roster
	descs  []*prometheus.Desc
	lines  []line
	size   size
	group  []groupLine
}

// line is one series of every breaker, with all of it that is the same for all breakers worked out.
type line struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	when func(*breaker.Snapshot) bool // nil: always
	read func(*breaker.Snapshot) float64
	span span // its labels
}

type groupLine struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(breaker.GroupStats) float64
}

// plan adds the series of f.
func (c *collector) plan(o *options, f family) error {
	desc := o.desc(f.name, f.help, labelNames(f.label)...)
	if err := desc.Err(); err != nil {
		return err
	}
	c.descs = append(c.descs, desc)
	for _, cell := range f.cells {
		c.lines = append(c.lines, line{
			desc: desc, kind: f.kind, when: f.when, read: cell.read, span: c.roster.sheet.add(desc, f.label, cell.value),
		})
		c.size.add(f.kind)
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
	var s breaker.Snapshot // here and not in one, where each breaker would take a new one off the heap
	for _, e := range c.roster.list() {
		s = e.breaker.Snapshot()
		c.one(e, &s, ch)
	}
	stats := c.roster.group.Stats()
	for _, l := range c.group {
		ch <- prometheus.MustNewConstMetric(l.desc, l.kind, l.read(stats))
	}
}

// one hands over the series of one breaker, all of them from one snapshot.
func (c *collector) one(e entry, s *breaker.Snapshot, ch chan<- prometheus.Metric) {
	b := newBlock(c.size)
	for i := range c.lines {
		l := &c.lines[i]
		if l.when == nil || l.when(s) {
			ch <- b.series(l.kind, identity{l.desc, e.labels(l.span)}, l.read(s))
		}
	}
}

// invalid is a collector that cannot work. Registering it fails with err; who collects it all the same gets err too.
type invalid struct{ desc *prometheus.Desc }

func newInvalid(what string, err error) *invalid {
	return &invalid{prometheus.NewInvalidDesc(errorf("%s: %w", what, err))}
}

func (i *invalid) Describe(ch chan<- *prometheus.Desc) { ch <- i.desc }

func (i *invalid) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.NewInvalidMetric(i.desc, i.desc.Err())
}
