package prombridge

import (
	"cmp"
	"slices"
	"sync"

	dto "github.com/prometheus/client_model/go"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/labels"
)

// breakerCache lists the breakers of a group with their labels. It reuses the list until the group's breakers change,
// which is seldom between two scrapes.
type breakerCache struct {
	group    *breaker.Group
	template labelTemplate // immutable once the first list is made

	// mu is held while the list is made, and never while metrics are sent to the registry.
	mu sync.Mutex

	// Guarded by mu.
	seen    []*breaker.Breaker // in the order of Group.All
	entries []entry            // made from seen; replaced, never modified
}

// entry is a breaker with the label pairs of all its series.
type entry struct {
	breaker *breaker.Breaker
	pairs   []*dto.LabelPair
}

// labels returns the label pairs of one series. They are used again in the next scrape. A registry that adds labels
// (WrapRegistererWith) appends to them, so the slice has no spare capacity.
func (e *entry) labels(r labelRange) []*dto.LabelPair { return e.pairs[r.from:r.to:r.to] }

// list returns the breakers in the order in which a registry sorts series: by method, service, target and tag, which is
// the order of the label names. A registry sorts whatever it gets, and sorted input takes it one pass. Measured with
// 10 000 breakers, that saves a third of the time of a scrape.
func (c *breakerCache) list() []entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := make([]*breaker.Breaker, 0, len(c.seen)+16)
	for _, b := range c.group.All() {
		now = append(now, b)
	}
	if !slices.Equal(now, c.seen) {
		c.seen, c.entries = now, newEntries(now, c.entries, &c.template)
	}
	return c.entries
}

// newEntries makes the entries of bs. It reuses the labels of keys that old has. No two entries have the same labels,
// because a registry that gets one series twice fails the scrape for all collectors of the process.
func newEntries(bs []*breaker.Breaker, old []entry, template *labelTemplate) []entry {
	bs = slices.Clone(bs)
	slices.SortFunc(bs, func(a, b *breaker.Breaker) int { return compareKeys(a.Key(), b.Key()) })
	// Group.All yields no breaker twice, but it may yield two breakers of one key: one that was evicted during the
	// iteration, and its replacement. Either will do, because the older one's Snapshot is that of the newer one.
	bs = slices.CompactFunc(bs, func(a, b *breaker.Breaker) bool { return a.Key() == b.Key() })
	entries := make([]entry, len(bs))
	for i, b := range bs {
		key := b.Key()
		for len(old) > 0 && compareKeys(old[0].breaker.Key(), key) < 0 { // both are sorted
			old = old[1:]
		}
		if len(old) > 0 && old[0].breaker.Key() == key {
			entries[i] = entry{breaker: b, pairs: old[0].pairs}
		} else {
			entries[i] = entry{breaker: b, pairs: template.pairsOf(labelKey(key))}
		}
	}
	return entries
}

// labelKey returns key with its parts as label values. Different keys have different results, because labels.Value
// gives different strings different values.
func labelKey(key breaker.Key) breaker.Key {
	return breaker.Key{
		Target:  labels.Value(key.Target),
		Service: labels.Value(key.Service),
		Method:  labels.Value(key.Method),
		Tag:     labels.Value(key.Tag),
	}
}

func compareKeys(a, b breaker.Key) int {
	return cmp.Or(
		cmp.Compare(a.Method, b.Method),
		cmp.Compare(a.Service, b.Service),
		cmp.Compare(a.Target, b.Target),
		cmp.Compare(a.Tag, b.Tag),
	)
}
