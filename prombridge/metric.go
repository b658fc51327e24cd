package prombridge

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// sheet is the labels of all series of a breaker, one series after the other, each sorted by name, with the parts of the key
// left open. Series of different names share their labels where they are the same.
type sheet struct {
	pairs []*dto.LabelPair
	open  []gap
	spans map[[2]string]span // by label and value
}

// gap is where a part of the key goes.
type gap struct{ at, part int }

// span is where the labels of one series are in a sheet.
type span struct{ from, to int }

// add makes room for the labels of a series of desc, which are keyLabels and then label, unless that is "". All series of a
// sheet have the same labels beside those.
func (s *sheet) add(desc *prometheus.Desc, label, value string) span {
	id := [2]string{label, value}
	if at, ok := s.spans[id]; ok {
		return at
	}
	values := make([]string, keyParts, keyParts+1)
	if label != "" {
		values = append(values, value)
	}
	at := span{from: len(s.pairs)}
	for _, p := range prometheus.MakeLabelPairs(desc, values) {
		if part := slices.Index(keyLabels[:], p.GetName()); part >= 0 {
			s.open = append(s.open, gap{at: len(s.pairs), part: part})
		}
		s.pairs = append(s.pairs, p)
	}
	at.to = len(s.pairs)
	if s.spans == nil {
		s.spans = make(map[[2]string]span)
	}
	s.spans[id] = at
	return at
}

// filled returns the pairs of the sheet with the parts of key in them.
func (s *sheet) filled(key breaker.Key) []*dto.LabelPair {
	room := &struct {
		pairs  [keyParts]dto.LabelPair
		values [keyParts]string
	}{values: [...]string{key.Target, key.Service, key.Method, key.Tag}}
	for i := range room.pairs {
		room.pairs[i].Name, room.pairs[i].Value = &keyLabels[i], &room.values[i]
	}
	pairs := slices.Clone(s.pairs)
	for _, g := range s.open {
		pairs[g.at] = &room.pairs[g.part]
	}
	return pairs
}

// block is room for all series of one breaker in one scrape: two allocations, where MustNewConstMetric takes 20 for each of
// some 40 series. That is why there are metrics of our own here. Measured with 10 000 breakers on two cores, Collect takes
// 45 ms instead of 303 ms and leaves 42 MB behind instead of 279 MB; with what a registry does on top, it is 325 ms instead
// of 605 ms.
//
// Nothing of it is used again: who has scraped may keep what came out.
type block struct {
	counters []counterSeries
	gauges   []gaugeSeries
}

// size is how many series of each kind there are.
type size struct{ counters, gauges int }

func (s *size) add(kind prometheus.ValueType) {
	if kind == counter {
		s.counters++
	} else {
		s.gauges++
	}
}

func newBlock(s size) *block {
	return &block{counters: make([]counterSeries, 0, s.counters), gauges: make([]gaugeSeries, 0, s.gauges)}
}

// series makes one series. It must not be asked for more of them than the block was made for, as they must not move.
func (b *block) series(kind prometheus.ValueType, id identity, value float64) prometheus.Metric {
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

// identity is what tells a series from others.
type identity struct {
	desc   *prometheus.Desc
	labels []*dto.LabelPair
}

// Desc implements prometheus.Metric.
func (i *identity) Desc() *prometheus.Desc { return i.desc }

type counterSeries struct {
	identity
	value   float64
	counter dto.Counter
}

// Write implements prometheus.Metric.
func (m *counterSeries) Write(out *dto.Metric) error {
	out.Label, out.Counter = m.labels, &m.counter
	return nil
}

type gaugeSeries struct {
	identity
	value float64
	gauge dto.Gauge
}

// Write implements prometheus.Metric.
func (m *gaugeSeries) Write(out *dto.Metric) error {
	out.Label, out.Gauge = m.labels, &m.gauge
	return nil
}
