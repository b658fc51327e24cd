package statusz

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/grpcircuit/grpcircuit/breaker"
)

const many = 10_000

// manyBreakers returns a group of 10 000 breakers, one in a hundred of them open.
func manyBreakers(tb testing.TB) *breaker.Group {
	tb.Helper()
	g := newGroup(tb)
	for i := range many {
		b := g.Get(manyKey(i))
		do(tb, b, 1, nil)
		if i%100 == 0 {
			b.Trip(tb.Context(), "a benchmark")
		}
	}
	return g
}

func manyKey(i int) breaker.Key {
	return breaker.Key{Target: "dns:///orders.prod.svc:443", Service: "shop.Orders", Method: fmt.Sprintf("Method%05d", i)}
}

// getRaw requests a path with a query that may be malformed.
func getRaw(tb testing.TB, p http.Handler, name, rawQuery, accept string) *httptest.ResponseRecorder {
	tb.Helper()
	r := httptest.NewRequestWithContext(tb.Context(), http.MethodGet, "/"+name, http.NoBody)
	r.URL.RawQuery = rawQuery
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w
}

// BenchmarkFirstPage measures the first page of 10 000 breakers, without an earlier snapshot.
func BenchmarkFirstPage(b *testing.B) {
	p := newPage(b, manyBreakers(b))
	for name, target := range map[string]string{
		"html": "", "search": "?q=method0999", "text": "?format=text",
		"json": "?format=json", "json50": "?format=json&limit=50",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.sampler.latest = nil
				b.SetBytes(int64(get(b, p, target).Body.Len()))
			}
		})
	}
}

// BenchmarkTick measures what viewers cost the server in one second, with 10 000 breakers: the snapshots, the HTML, and
// the copies of it. Either all viewers have the same list, or each has a different search.
func BenchmarkTick(b *testing.B) {
	g := manyBreakers(b)
	p := newPage(b, g)
	for _, viewers := range []int{0, 1, 100} {
		for _, search := range []bool{false, true} {
			if search && viewers < 100 {
				continue
			}
			b.Run(fmt.Sprintf("viewers=%d,search=%v", viewers, search), func(b *testing.B) {
				b.ReportAllocs()
				sent := 0
				for b.Loop() {
					f := p.sampler.refresh()
					for i := range viewers {
						q := query{page: 1, limit: pageSize}
						if search {
							q.text = fmt.Sprintf("d%02d", i)
						}
						w := httptest.NewRecorder()
						if err := (stream{w, http.NewResponseController(w)}).event(p.fragment(f, q)); err != nil {
							b.Fatal(err)
						}
						sent += w.Body.Len()
					}
				}
				b.ReportMetric(float64(sent)/float64(b.N), "sent-B/op")
			})
		}
	}
}

// The history of 10 000 breakers that are all called has a bound.
func TestHistoryMemory(t *testing.T) {
	g := manyBreakers(t)
	s := newSampler(g)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	start := time.Now()
	for k := range g.All() {
		s.entries[k] = new(entry)
	}
	for i := range 2 * shown { // as sample does, without the snapshots
		slot, spread, _ := s.clock.advance(start.Add(time.Duration(i) * time.Second))
		for _, e := range s.entries {
			e.record(calls{successes: uint64(7 * i)}, slot, spread)
		}
	}
	used := int64(heap()) - int64(before)
	t.Logf("history of %d breakers: %.1f MB", many, float64(used)/1e6)
	if used > 20e6 {
		t.Errorf("%d bytes, want at most 20 MB", used)
	}
	runtime.KeepAlive(s)
}

// The first page with 10 000 breakers must take far less than a second, because a person waits for it.
func TestFirstPageOfManyBreakers(t *testing.T) {
	g := manyBreakers(t)
	var body string
	best := time.Hour
	for tries := 0; tries < 5 && best > time.Second; tries++ { // the machine may be busy
		p := newPage(t, g)
		began := time.Now()
		body = get(t, p, "").Body.String()
		best = min(best, time.Since(began))
	}
	t.Logf("%d bytes after %v", len(body), best)
	if best > 5*time.Second { // far more than it takes under the race detector; the test in the browser has the real bound
		t.Errorf("took %v", best)
	}
	wantIn(t, body, "<b>100</b> open", "page 1 of 200")
	if !strings.Contains(body, "Method00000") {
		t.Error("the first open breaker is not on the first page")
	}
}
