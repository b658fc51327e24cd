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
)

func TestEscape(t *testing.T) {
	long := strings.Repeat("m", maxLabel)
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"a/b", "a/b"},
		{"世界", "世界"},
		{"\xff", `\xff`},
		{"a\xc3\x28\x00b", `a\xc3(` + "\x00b"},
		{"\xed\xa0\x80", `\xed\xa0\x80`}, // half of a surrogate pair
		{"\uFFFD", "\uFFFD"},             // which is what decoding an invalid byte returns
		{`\xff`, `\\xff`},
		{`\`, `\\`},
		{long, long},
		{long + "m", long[:990] + `\#74d015c07e6510d2e6766d487fda84b0`},
		{long[:988] + "世世世世世世世世世世世世世", long[:988] + `\#`},
		{long[:989] + "\xff" + long, long[:989] + `\#`},
	} {
		got := escape(tt.in)
		want := tt.want
		if i := strings.Index(want, `\#`); i >= 0 && i+2 == len(want) && len(got) == len(want)+32 {
			want += got[len(want):] // the hash is not the point here
		}
		if got != want {
			t.Errorf("escape(%.40q…): got %q, want %q", tt.in, got, want)
		}
		if !utf8.ValidString(got) || len(got) > maxLabel {
			t.Errorf("escape(%.40q…): %d bytes, valid: %v; want at most %d valid ones", tt.in, len(got), utf8.ValidString(got), maxLabel)
		}
	}
}

// pieces are what hostile keys are made of: what escaping makes, and what it is made from.
var pieces = []string{`\`, "x", "f", "\xff", "\xfe", `\xff`, `\\xff`, `\~2`, `\~3`, `\#`, "世", "\uFFFD", "\x00", "a", ""}

func part(short bool) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		s := strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 4).Draw(t, "pieces"), "")
		if short {
			return s
		}
		return s + strings.Repeat(rapid.SampledFrom(pieces).Draw(t, "filler"), rapid.SampledFrom([]int{0, 0, 0, maxLabel / 4, maxLabel, 1 << 20}).Draw(t, "times"))
	})
}

func key(short bool) *rapid.Generator[breaker.Key] {
	return rapid.Custom(func(t *rapid.T) breaker.Key {
		p := part(short)
		return breaker.Key{Target: p.Draw(t, "target"), Service: p.Draw(t, "service"), Method: p.Draw(t, "method"), Tag: p.Draw(t, "tag")}
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

// labels enrolls the keys and returns their labels, as a Key. Any sheet has all four.
func labels(t fatal, keys ...breaker.Key) map[breaker.Key]breaker.Key {
	t.Helper()
	var bs []*breaker.Breaker
	for _, k := range keys {
		bs = append(bs, breakerOf(t, k))
	}
	var s sheet
	at := s.add(new(options).desc("m", "h", labelNames("")...), "", "")
	got := make(map[breaker.Key]breaker.Key)
	for _, e := range enroll(bs, nil, &s) {
		var k breaker.Key
		for _, l := range e.labels(at) {
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
		{"valid ones stay as they are", map[breaker.Key]breaker.Key{
			getKey:                         getKey,
			listKey:                        listKey,
			{}:                             {},
			{Method: `\xff`}:               {Method: `\xff`},
			{Method: `\\ \~2 \#` + "\x00"}: {Method: `\\ \~2 \#` + "\x00"},
		}},
		{"invalid bytes", map[breaker.Key]breaker.Key{
			{Method: "\xff"}:               {Method: `\xff`},
			{Method: "\xfe"}:               {Method: `\xfe`},
			{Target: `\`, Method: "\xff"}:  {Target: `\\`, Method: `\xff`},
			{Service: "\xff", Tag: "gold"}: {Service: `\xff`, Tag: "gold"},
		}},
		{"a valid key reads like an escaped one", map[breaker.Key]breaker.Key{
			{Method: "\xff"}:              {Method: `\xff`, Tag: `\~2`},
			{Method: `\xff`}:              {Method: `\xff`},
			{Method: "\xfe", Tag: "gold"}: {Method: `\xfe`, Tag: `gold\~2`},
			{Method: `\xfe`, Tag: "gold"}: {Method: `\xfe`, Tag: "gold"},
		}},
		{"and another like one with a suffix", map[breaker.Key]breaker.Key{
			{Method: "\xff"}:             {Method: `\xff`, Tag: `\~4`},
			{Method: `\xff`}:             {Method: `\xff`},
			{Method: `\xff`, Tag: `\~2`}: {Method: `\xff`, Tag: `\~2`},
			{Method: `\xff`, Tag: `\~3`}: {Method: `\xff`, Tag: `\~3`},
		}},
		{"two escaped ones would read alike if backslashes were left alone", map[breaker.Key]breaker.Key{
			{Method: "\xff" + `\xff`}: {Method: `\xff\\xff`},
			{Method: `\xff` + "\xff"}: {Method: `\\xff\xff`},
		}},
		{"and if the parts that fit were", map[breaker.Key]breaker.Key{
			{Service: `\xff`, Method: "\xfe"}: {Service: `\\xff`, Method: `\xfe`},
			{Service: "\xff", Method: "\xfe"}: {Service: `\xff`, Method: `\xfe`},
		}},
		{"and if a suffix were not told from a tag", map[breaker.Key]breaker.Key{
			{Method: "\xff"}:             {Method: `\xff`, Tag: `\~2`},
			{Method: `\xff`}:             {Method: `\xff`},
			{Method: "\xff", Tag: `\~2`}: {Method: `\xff`, Tag: `\\~2`},
		}},
	} {
		keys := make([]breaker.Key, 0, len(tt.keys))
		for k := range tt.keys {
			keys = append(keys, k)
		}
		if diff := cmp.Diff(labels(t, keys...), tt.keys); diff != "" {
			t.Errorf("%s (-got +want):\n%s", tt.name, diff)
		}
	}
}

// Whoever can choose keys can make no two of them share a series, and none that a registry refuses.
func TestO3_KeysThatDifferHaveLabelsThatDiffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SliceOfNDistinct(key(rapid.Bool().Draw(t, "short")), 1, 12, func(k breaker.Key) breaker.Key { return k }).Draw(t, "keys")
		// Its twin: a key that is what another one is escaped to.
		for _, k := range slices.Clone(keys) {
			if l := labels(t, k)[k]; !slices.Contains(keys, l) && rapid.Bool().Draw(t, "twin") {
				keys = append(keys, l)
			}
		}
		got := labels(t, keys...)
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
			fit := true
			for _, p := range []string{k.Target, k.Service, k.Method, k.Tag} {
				fit = fit && utf8.ValidString(p) && len(p) <= maxLabel
			}
			if fit && l != k {
				t.Fatalf("%q has labels %q, want them as the key is", k, l)
			}
			for _, p := range []string{l.Target, l.Service, l.Method, l.Tag} {
				if !utf8.ValidString(p) || len(p) > maxLabel+len(`\~99`) {
					t.Fatalf("%q has a label of %d bytes, valid: %v", k, len(p), utf8.ValidString(p))
				}
			}
		}
		// In whatever order the breakers come.
		shuffled := rapid.Permutation(keys).Draw(t, "shuffled")
		if diff := cmp.Diff(labels(t, shuffled...), got); diff != "" {
			t.Fatalf("labels after shuffling (-got +want):\n%s", diff)
		}
	})
}

// Group.All may yield an evicted breaker and the one that has its key now.
func TestO3_OneKeyTwiceIsOneEntry(t *testing.T) {
	bs := []*breaker.Breaker{breakerOf(t, getKey), breakerOf(t, listKey), breakerOf(t, getKey)}
	got := enroll(bs, nil, new(sheet))
	if len(got) != 2 || got[0].breaker.Key() != getKey || got[1].breaker != bs[1] {
		t.Errorf("%d entries, want one of %v and one of %v", len(got), getKey, listKey)
	}
}

// From the group to the scrape, with keys of all kinds at once.
func TestO3_HostileKeysDoNotBreakAScrape(t *testing.T) {
	g := newGroup(t, breaker.Config{})
	durations := NewDurationHistogram(g)
	reg := registry(t, NewCollector(g), durations)
	var keys []breaker.Key
	for i, p := range pieces {
		for _, q := range pieces[i:] {
			keys = append(keys, breaker.Key{Method: p + q, Tag: q}, breaker.Key{Method: p + q + strings.Repeat("\xff", 300), Service: p})
		}
	}
	keys = append(keys, breaker.Key{Method: strings.Repeat("m", 1<<20)}, breaker.Key{Method: strings.Repeat("m", 1<<20+1)})
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
		if len(series) != 38+4 {
			t.Errorf("%q has %d series, want 42", k, len(series))
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

// The labels are kept for as long as the breakers are the same, and no longer.
func TestRosterKeepsWhatHasNotChanged(t *testing.T) {
	g := newGroup(t, breaker.Config{}, breaker.WithMaxBreakers(20))
	r := &NewCollector(g).(*collector).roster
	for i := range 20 {
		g.Get(breaker.Key{Method: fmt.Sprint(i)})
	}
	first := r.list()
	if again := r.list(); &again[0] != &first[0] {
		t.Error("the second list was made anew, though the breakers are the same")
	}
	g.Get(getKey) // evicts one
	changed := r.list()
	if len(changed) != 20 || !slices.ContainsFunc(changed, func(e entry) bool { return e.breaker.Key() == getKey }) {
		t.Errorf("%d breakers listed after an eviction, want 20 and %v among them", len(changed), getKey)
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
		t.Errorf("%d breakers have kept their labels, want the 19 that have stayed", kept)
	}
	if n := testing.AllocsPerRun(10, func() { r.list() }); n > 1 {
		t.Errorf("%v allocations for a list that has not changed, want 1", n)
	}
}

// A registry sorts what it gets, which takes half of a large scrape unless it is sorted already.
func TestSeriesComeSorted(t *testing.T) {
	g := newGroup(t, breaker.Config{MinCalls: 1})
	for _, target := range []string{"b", "a"} {
		for _, service := range []string{"b", "", "a"} {
			for _, method := range []string{"b", "c", "a"} {
				call(t, g.Get(breaker.Key{Target: target, Service: service, Method: method}), breaker.Success)
			}
		}
	}
	for _, c := range []prometheus.Collector{NewCollector(g), NewDurationHistogram(g)} {
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
			for _, l := range out.GetLabel() { // sorted by name, or the pedantic registry of other tests complains
				values = append(values, l.GetValue())
			}
			if slices.Compare(last[m.Desc()], values) > 0 {
				t.Errorf("%v: %q comes after %q", m.Desc(), values, last[m.Desc()])
			}
			last[m.Desc()] = values
		}
	}
}

// The labels are kept from one scrape to the next, and a registry that adds some of its own must not write into them.
func TestO3_LabelsAreNotWrittenTo(t *testing.T) {
	g := busyGroup(t)
	g.Get(listKey)
	plain, wrapped := registry(t), registry(t)
	for _, c := range []prometheus.Collector{NewCollector(g), NewDurationHistogram(g)} {
		plain.MustRegister(c)
		prometheus.WrapRegistererWith(prometheus.Labels{"aaa": "x", "zzz": "x"}, wrapped).MustRegister(c)
	}
	want := text(t, plain)
	text(t, wrapped)
	if diff := cmp.Diff(strings.Split(text(t, plain), "\n"), strings.Split(want, "\n")); diff != "" {
		t.Errorf("after a scrape with more labels (-got +want):\n%s", diff)
	}
}

// A key that does not fit has the labels that its twins leave it, from one list to the next.
func TestO3_LabelsFollowTheirTwins(t *testing.T) {
	g := newGroup(t, breaker.Config{}, breaker.WithMaxBreakers(2))
	reg := registry(t, NewCollector(g))
	hostile, twin := breaker.Key{Method: "\xff"}, breaker.Key{Method: `\xff`}
	g.Get(hostile).Trip(t.Context(), "so that it stays")
	for _, step := range []struct {
		add  breaker.Key
		want []breaker.Key // which is which shows by the state
	}{
		{getKey, []breaker.Key{{Method: `\xff`}, getKey}},
		{twin, []breaker.Key{{Method: `\xff`, Tag: `\~2`}, twin}},
		{getKey, []breaker.Key{{Method: `\xff`}, getKey}},
	} {
		g.Get(step.add)
		got := scrape(t, reg)
		delete(got, groupItself)
		if len(got) != 2 || got[step.want[0]][`state{state="open"}`] != 1 || got[step.want[1]][`state{state="closed"}`] != 1 {
			t.Errorf("%q and %q: got %v, want %q", hostile, step.add, got, step.want)
		}
	}
}
