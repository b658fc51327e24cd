package prombridge

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// labelTemplate holds the label pairs of all series of a breaker, one series after the other, each sorted by label
// name. The parts of the key are placeholders. Metrics with the same labels share a range.
type labelTemplate struct {
	pairs        []*dto.LabelPair
	placeholders []placeholder
	ranges       map[[2]string]labelRange // by label name and value
}

// placeholder is the index of a pair whose value is a part of the key.
type placeholder struct{ index, part int }

// labelRange is the range of one series' labels in a labelTemplate.
type labelRange struct{ from, to int }

// add adds the labels of a series of desc: keyLabels, and then label unless it is empty. All series of a template have
// the same constant labels.
func (t *labelTemplate) add(desc *prometheus.Desc, label, value string) labelRange {
	id := [2]string{label, value}
	if r, ok := t.ranges[id]; ok {
		return r
	}
	values := make([]string, keyParts, keyParts+1)
	if label != "" {
		values = append(values, value)
	}
	r := labelRange{from: len(t.pairs)}
	for _, p := range prometheus.MakeLabelPairs(desc, values) {
		if part := slices.Index(keyLabels[:], p.GetName()); part >= 0 {
			t.placeholders = append(t.placeholders, placeholder{index: len(t.pairs), part: part})
		}
		t.pairs = append(t.pairs, p)
	}
	r.to = len(t.pairs)
	if t.ranges == nil {
		t.ranges = make(map[[2]string]labelRange)
	}
	t.ranges[id] = r
	return r
}

// pairsOf returns the pairs of the template with the parts of key in the placeholders.
func (t *labelTemplate) pairsOf(key breaker.Key) []*dto.LabelPair {
	buf := &struct {
		pairs  [keyParts]dto.LabelPair
		values [keyParts]string
	}{values: [...]string{key.Target, key.Service, key.Method, key.Tag}}
	for i := range buf.pairs {
		buf.pairs[i].Name, buf.pairs[i].Value = &keyLabels[i], &buf.values[i]
	}
	pairs := slices.Clone(t.pairs)
	for _, p := range t.placeholders {
		pairs[p.index] = &buf.pairs[p.part]
	}
	return pairs
}

// metricBatch allocates the metrics of one breaker for one scrape. It takes two allocations, where MustNewConstMetric
// takes 20 for each of about 25 series. For this reason the package has metric types instead of using those of
// client_golang. Measured with 10 000 breakers of 38 series on two cores, Collect takes 45 ms instead of 303 ms and
// allocates 42 MB instead of 279 MB. With the work of the registry it is 325 ms instead of 605 ms.
//
// A batch is not used again, because the registry may keep the metrics.
type metricBatch struct {
	counters []counterMetric
	gauges   []gaugeMetric
}

// batchSize is the number of metrics of each kind.
type batchSize struct{ counters, gauges int }

func (s *batchSize) add(kind prometheus.ValueType) {
	if kind == counter {
		s.counters++
	} else {
		s.gauges++
	}
}

func newMetricBatch(s batchSize) *metricBatch {
	return &metricBatch{counters: make([]counterMetric, 0, s.counters), gauges: make([]gaugeMetric, 0, s.gauges)}
}

// add returns a new metric. It panics if the batch has more metrics than its size allows: growing a slice would move
// metrics that were already returned.
func (b *metricBatch) add(kind prometheus.ValueType, id identity, value float64) prometheus.Metric {
	if kind == counter {
		b.counters = b.counters[:len(b.counters)+1]
		m := &b.counters[len(b.counters)-1]
		m.identity, m.value = id, value
		m.counter.Value = &m.value
		return m
	}
	b.gauges = b.gauges[:len(b.gauges)+1]
	m := &b.gauges[len(b.gauges)-1]
	m.identity, m.value = id, value
	m.gauge.Value = &m.value
	return m
}

// identity is the name and the labels of a series.
type identity struct {
	desc   *prometheus.Desc
	labels []*dto.LabelPair
}

// Desc implements prometheus.Metric.
func (i *identity) Desc() *prometheus.Desc { return i.desc }

type counterMetric struct {
	identity
	value   float64
	counter dto.Counter
}

// Write implements prometheus.Metric.
func (m *counterMetric) Write(out *dto.Metric) error {
	out.Label, out.Counter = m.labels, &m.counter
	return nil
}

type gaugeMetric struct {
	identity
	value float64
	gauge dto.Gauge
}

// Write implements prometheus.Metric.
func (m *gaugeMetric) Write(out *dto.Metric) error {
	out.Label, out.Gauge = m.labels, &m.gauge
	return nil
}
