package prombridge

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"pgregory.net/rapid"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/labels"
)

// pieces are parts of hostile keys: results of escaping, and input that needs it.
var pieces = []string{
	`\`, "x", "f", "\xff", "\xfe", `\xff`, `\\xff`, `\~2`, `\~3`, `\#`, "世", "\uFFFD", "\x00", "a", "",
}

func part(short bool) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		s := strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 4).Draw(t, "pieces"), "")
		if short {
			return s
		}
		n := rapid.SampledFrom([]int{0, 0, 0, labels.MaxBytes / 4, labels.MaxBytes, 1 << 20}).Draw(t, "times")
		return s + strings.Repeat(rapid.SampledFrom(pieces).Draw(t, "filler"), n)
	})
}

func key(short bool) *rapid.Generator[breaker.Key] {
	return rapid.Custom(func(t *rapid.T) breaker.Key {
		p := part(short)
		return breaker.Key{
			Target: p.Draw(t, "target"), Service: p.Draw(t, "service"), Method: p.Draw(t, "method"), Tag: p.Draw(t, "tag"),
		}
	})
}

func breakerOf(t fatal, key breaker.Key) *breaker.Breaker {
	t.Helper()
	b, err := breaker.New(key, breaker.Config{})
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	return b
}

// labelsOf returns the labels that a list has for the keys, as a Key.
func labelsOf(t fatal, keys ...breaker.Key) map[breaker.Key]breaker.Key {
	t.Helper()
	var bs []*breaker.Breaker
	for _, k := range keys {
		bs = append(bs, breakerOf(t, k))
	}
	var template labelTemplate
	labelRange := template.add(new(options).desc("m", "h", labelNames("")...), "", "")
	got := make(map[breaker.Key]breaker.Key)
	for _, e := range newEntries(bs, nil, &template) {
		var k breaker.Key
		for _, l := range e.labels(labelRange) {
			switch l.GetName() {
			case "grpc_target":
				k.Target = l.GetValue()
			case "grpc_service":
				k.Service = l.GetValue()
			case "grpc_method":
				k.Method = l.GetValue()
			case "tag":
				k.Tag = l.GetValue()
			}
		}
		got[e.breaker.Key()] = k
	}
	return got
}

func TestO3_LabelsOfKeys(t *testing.T) {
	for _, tt := range []struct {
		name string
		keys map[breaker.Key]breaker.Key // to their labels
	}{
		{"valid keys are unchanged", map[breaker.Key]breaker.Key{
			getKey:                         getKey,
			listKey:                        listKey,
			{}:                             {},
			{Method: `c\d`}:                {Method: `c\d`},
			{Method: `\\ \~2 \#` + "\x00"}: {Method: `\\ \~2 \#` + "\x00"},
		}},
		{"invalid bytes", map[breaker.Key]breaker.Key{
			{Method: "\xff"}:               {Method: `\xff`},
			{Method: "\xfe"}:               {Method: `\xfe`},
			{Target: `\`, Method: "\xff"}:  {Target: `\`, Method: `\xff`},
			{Service: "\xff", Tag: "gold"}: {Service: `\xff`, Tag: "gold"},
		}},
		{"a valid key looks like an escaped one", map[breaker.Key]breaker.Key{
			{Method: "\xff"}:              {Method: `\xff`},
			{Method: `\xff`}:              {Method: `\\xff`},
			{Method: `\\xff`}:             {Method: `\\\\xff`},
			{Method: "\xfe", Tag: "gold"}: {Method: `\xfe`, Tag: "gold"},
			{Method: `\xfe`, Tag: "gold"}: {Method: `\\xfe`, Tag: "gold"},
		}},
		{"two keys that would have the same labels if backslashes were not escaped", map[breaker.Key]breaker.Key{
			{Method: "\xff" + `\xff`}: {Method: `\xff\\xff`},
			{Method: `\xff` + "\xff"}: {Method: `\\xff\xff`},
		}},
		{"two keys that would have the same labels if valid parts were not escaped", map[breaker.Key]breaker.Key{
			{Service: `\xff`, Method: "\xfe"}: {Service: `\\xff`, Method: `\xfe`},
			{Service: "\xff", Method: "\xfe"}: {Service: `\xff`, Method: `\xfe`},
		}},
	} {
		keys := make([]breaker.Key, 0, len(tt.keys))
		for k := range tt.keys {
			keys = append(keys, k)
		}
		if diff := cmp.Diff(labelsOf(t, keys...), tt.keys); diff != "" {
			t.Errorf("%s (-got +want):\n%s", tt.name, diff)
		}
	}
}

// An attacker who chooses keys cannot make two of them share a series, and cannot make a key that a registry refuses.
func TestO3_KeysThatDifferHaveLabelsThatDiffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := func(k breaker.Key) breaker.Key { return k }
		keys := rapid.SliceOfNDistinct(key(rapid.Bool().Draw(t, "short")), 1, 12, id).Draw(t, "keys")
		// A twin is a key that is equal to the labels of another key.
		for _, k := range slices.Clone(keys) {
			if l := labelsOf(t, k)[k]; !slices.Contains(keys, l) && rapid.Bool().Draw(t, "twin") {
				keys = append(keys, l)
			}
		}
		got := labelsOf(t, keys...)
		owner := make(map[breaker.Key]breaker.Key)
		for _, k := range keys {
			l, ok := got[k]
			if !ok {
				t.Fatalf("%q has no labels", k)
			}
			if other, taken := owner[l]; taken {
				t.Fatalf("%q and %q have the same labels %q", k, other, l)
			}
			owner[l] = k
			parts := []string{l.Target, l.Service, l.Method, l.Tag}
			for i, p := range []string{k.Target, k.Service, k.Method, k.Tag} {
				fits := utf8.ValidString(p) && len(p) <= labels.MaxBytes
				if fits && !strings.Contains(p, `\`) && parts[i] != p {
					t.Fatalf("%q has labels %q, want %q unchanged", k, l, p)
				}
			}
			for _, p := range parts {
				if !utf8.ValidString(p) || len(p) > labels.MaxBytes {
					t.Fatalf("%q has a label of %d bytes, valid: %v", k, len(p), utf8.ValidString(p))
				}
			}
		}
		// The order of the breakers does not matter.
		shuffled := rapid.Permutation(keys).Draw(t, "shuffled")
		if diff := cmp.Diff(labelsOf(t, shuffled...), got); diff != "" {
			t.Fatalf("labels after shuffling (-got +want):\n%s", diff)
		}
	})
}

// Group.All may yield an evicted breaker and its replacement.
func TestO3_OneKeyTwiceIsOneEntry(t *testing.T) {
	bs := []*breaker.Breaker{breakerOf(t, getKey), breakerOf(t, listKey), breakerOf(t, getKey)}
	got := newEntries(bs, nil, new(labelTemplate))
	if len(got) != 2 || got[0].breaker.Key() != getKey || got[1].breaker != bs[1] {
		t.Errorf("%d entries, want one of %v and one of %v", len(got), getKey, listKey)
	}
}

// A scrape of a group with hostile keys of all kinds succeeds and is complete.
func TestO3_HostileKeysDoNotBreakAScrape(t *testing.T) {
	g := newGroup(t, breaker.Config{})
	durations := durationHistogram(g)
	reg := registry(t, NewCollector(g), durations)
	var keys []breaker.Key
	for i, p := range pieces {
		for _, q := range pieces[i:] {
			long := p + q + strings.Repeat("\xff", 300)
			keys = append(keys, breaker.Key{Method: p + q, Tag: q}, breaker.Key{Method: long, Service: p})
		}
	}
	for _, n := range []int{1 << 20, 1<<20 + 1} {
		keys = append(keys, breaker.Key{Method: strings.Repeat("m", n)})
	}
	for _, k := range keys {
		call(t, g.Get(k), breaker.Success)
	}
	got := scrape(t, reg)
	delete(got, groupItself)
	if len(got) != g.Len() {
		t.Errorf("%d breakers in the scrape, want %d", len(got), g.Len())
	}
	total := 0.0
	for k, series := range got {
		if len(series) != 24+4 {
			t.Errorf("%q has %d series, want 28", k, len(series))
		}
		total += series[`calls_total{outcome="success"}`]
	}
	if total != float64(len(keys)) {
		t.Errorf("%v calls in the scrape, want %d", total, len(keys))
	}
	if n := len(text(t, reg)); n > 100<<10*g.Len() {
		t.Errorf("a scrape of %d breakers has %d bytes", g.Len(), n)
	}
}

// The labels are kept until the breakers change.
func TestBreakerCacheReusesLabels(t *testing.T) {
	g := newGroup(t, breaker.Config{}, breaker.WithMaxBreakers(20))
	c := &NewCollector(g).(*collector).cache
	for i := range 20 {
		g.Get(breaker.Key{Method: fmt.Sprint(i)})
	}
	first := c.list()
	if again := c.list(); &again[0] != &first[0] {
		t.Error("the second list was made again, although the breakers are the same")
	}
	g.Get(getKey) // evicts one
	changed := c.list()
	hasGetKey := slices.ContainsFunc(changed, func(e entry) bool { return e.breaker.Key() == getKey })
	if len(changed) != 20 || !hasGetKey {
		t.Errorf("%d breakers listed after an eviction, want 20 including %v", len(changed), getKey)
	}
	kept := 0
	for _, e := range changed {
		for _, f := range first {
			if e.breaker == f.breaker && &e.pairs[0] == &f.pairs[0] {
				kept++
			}
		}
	}
	if kept != 19 {
		t.Errorf("%d breakers have kept their labels, want the 19 that were not evicted", kept)
	}
	if n := testing.AllocsPerRun(10, func() { c.list() }); n > 1 {
		t.Errorf("%v allocations for a list that has not changed, want 1", n)
	}
}

// A registry sorts its input. For a large scrape that takes half of the time, unless the input is sorted.
func TestSeriesAreSorted(t *testing.T) {
	g := newGroup(t, breaker.Config{MinCalls: 1})
	for _, target := range []string{"b", "a"} {
		for _, service := range []string{"b", "", "a"} {
			for _, method := range []string{"b", "c", "a"} {
				call(t, g.Get(breaker.Key{Target: target, Service: service, Method: method}), breaker.Success)
			}
		}
	}
	for _, c := range []prometheus.Collector{NewCollector(g), durationHistogram(g)} {
		ch := make(chan prometheus.Metric)
		go func() {
			defer close(ch)
			c.Collect(ch)
		}()
		last := make(map[*prometheus.Desc][]string)
		for m := range ch {
			var out dto.Metric
			if err := m.Write(&out); err != nil {
				t.Fatal(err)
			}
			var values []string
			for _, l := range out.GetLabel() { // sorted by name, which the pedantic registry of other tests checks
				values = append(values, l.GetValue())
			}
			if slices.Compare(last[m.Desc()], values) > 0 {
				t.Errorf("%v: %q comes after %q", m.Desc(), values, last[m.Desc()])
			}
			last[m.Desc()] = values
		}
	}
}

// The labels are kept between scrapes. A registry that adds labels must not write into them.
func TestO3_LabelsAreNotModified(t *testing.T) {
	g := newGroup(t, breaker.Config{MinCalls: 1}) // without open breakers, whose series change with time
	call(t, g.Get(getKey), breaker.Success)
	g.Get(listKey)
	plain, wrapped := registry(t), registry(t)
	for _, c := range []prometheus.Collector{NewCollector(g), durationHistogram(g)} {
		plain.MustRegister(c)
		prometheus.WrapRegistererWith(prometheus.Labels{"aaa": "x", "zzz": "x"}, wrapped).MustRegister(c)
	}
	want := text(t, plain)
	text(t, wrapped)
	if diff := cmp.Diff(strings.Split(text(t, plain), "\n"), strings.Split(want, "\n")); diff != "" {
		t.Errorf("after a scrape with more labels (-got +want):\n%s", diff)
	}
}

// The labels of a key do not depend on which other keys the group has.
func TestO3_LabelsDoNotDependOnOtherKeys(t *testing.T) {
	g := newGroup(t, breaker.Config{}, breaker.WithMaxBreakers(2))
	reg := registry(t, NewCollector(g))
	hostile, twin := breaker.Key{Method: "\xff"}, breaker.Key{Method: `\xff`}
	g.Get(hostile).Trip(t.Context(), "an open breaker is not evicted")
	for _, step := range []struct {
		add  breaker.Key
		want []breaker.Key // the labels of the open breaker, and of the closed one
	}{
		{getKey, []breaker.Key{{Method: `\xff`}, getKey}},
		{twin, []breaker.Key{{Method: `\xff`}, {Method: `\\xff`}}},
		{getKey, []breaker.Key{{Method: `\xff`}, getKey}},
	} {
		g.Get(step.add)
		got := scrape(t, reg)
		delete(got, groupItself)
		open, closed := got[step.want[0]], got[step.want[1]]
		if len(got) != 2 || open[`state{state="open"}`] != 1 || closed[`state{state="closed"}`] != 1 {
			t.Errorf("%q and %q: got %v, want %q", hostile, step.add, got, step.want)
		}
	}
}
