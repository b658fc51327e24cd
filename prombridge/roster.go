package prombridge

import (
	"cmp"
	"slices"
	"strconv"
	"sync"
	"unicode/utf8"

	dto "github.com/prometheus/client_model/go"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// roster lists the breakers of a group with their labels. It keeps the list for as long as the group has the same breakers,
// which is from one scrape to the next as a rule.
type roster struct {
	group *breaker.Group
	sheet sheet // not changed any more

	mu      sync.Mutex         // held while listing, never while anything is handed over
	seen    []*breaker.Breaker // guarded by mu: as Group.All had them
	entries []entry            // guarded by mu: made of seen. Replaced, never changed
}

// entry is a breaker and its sheet.
type entry struct {
	breaker *breaker.Breaker
	pairs   []*dto.LabelPair
}

// labels are handed out again at the next scrape. A registry with labels of its own (WrapRegistererWith) appends those: it
// must find no room behind them.
func (e *entry) labels(s span) []*dto.LabelPair { return e.pairs[s.from:s.to:s.to] }

// list returns the breakers sorted by their labels as a registry sorts series: by method, service, target and tag, in the
// order of the labels' names. A registry sorts what it gets in any case, and is done in one pass if it is sorted already.
// Measured with 10 000 breakers, that takes a third off the whole of a scrape.
func (r *roster) list() []entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := make([]*breaker.Breaker, 0, len(r.seen)+16)
	for _, b := range r.group.All() {
		now = append(now, b)
	}
	if !slices.Equal(now, r.seen) {
		r.seen, r.entries = now, enroll(now, r.entries, &r.sheet)
	}
	return r.entries
}

// enroll makes the entries of bs, with the labels that they have in old if they are there. No two have the same labels: a registry that is given the same series twice fails the
// scrape, and all others in the process with it.
func enroll(bs []*breaker.Breaker, old []entry, s *sheet) []entry {
	bs = slices.Clone(bs)
	slices.SortFunc(bs, func(a, b *breaker.Breaker) int { return compareKeys(a.Key(), b.Key()) })
	// Group.All yields no breaker twice, but it may yield two of one key: one that was evicted while it was under way, and
	// the one that took its place. Either will do, as the older one's Snapshot is the newer one's.
	bs = slices.CompactFunc(bs, func(a, b *breaker.Breaker) bool { return a.Key() == b.Key() })
	entries := make([]entry, len(bs))
	for i, b := range bs {
		key := b.Key()
		for len(old) > 0 && compareKeys(old[0].breaker.Key(), key) < 0 { // both are sorted
			old = old[1:]
		}
		switch {
		case !fits(key): // made anew: its twin may have come or gone
			entries[i] = entry{breaker: b, pairs: s.filled(unique(key, bs))}
		case len(old) > 0 && old[0].breaker.Key() == key:
			entries[i] = entry{breaker: b, pairs: old[0].pairs}
		default:
			entries[i] = entry{breaker: b, pairs: s.filled(key)}
		}
	}
	return entries
}

func compareKeys(a, b breaker.Key) int {
	return cmp.Or(
		cmp.Compare(a.Method, b.Method),
		cmp.Compare(a.Service, b.Service),
		cmp.Compare(a.Target, b.Target),
		cmp.Compare(a.Tag, b.Tag),
	)
}

// fits says whether the parts of key can be labels as they are. That is so for all keys but hostile ones.
func fits(key breaker.Key) bool {
	for _, p := range [...]string{key.Target, key.Service, key.Method, key.Tag} {
		if len(p) > maxLabel || !utf8.ValidString(p) {
			return false
		}
	}
	return true
}

// unique returns labels for a key that does not fit. All its parts are escaped, those that would fit by themselves too: so
// no two such keys have the same labels. A key that fits may have them, for it can be any text; it keeps them, and this one
// gets a suffix that escape does not make. Each number that is taken is taken by another key of bs, and for this key alone,
// so all searches together end after as many steps as there are breakers. The suffix may change when such a twin comes or
// goes; that is the price, and only hostile keys pay it.
//
// bs is sorted.
func unique(key breaker.Key, bs []*breaker.Breaker) breaker.Key {
	label := breaker.Key{Target: escape(key.Target), Service: escape(key.Service), Method: escape(key.Method), Tag: escape(key.Tag)}
	tag := label.Tag
	for n := 2; has(bs, label); n++ {
		label.Tag = tag + `\~` + strconv.Itoa(n)
	}
	return label
}

func has(bs []*breaker.Breaker, key breaker.Key) bool {
	_, found := slices.BinarySearchFunc(bs, key, func(b *breaker.Breaker, key breaker.Key) int { return compareKeys(b.Key(), key) })
	return found
}
