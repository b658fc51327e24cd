package otelbridge

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// newDeltaMeters is newMeters with delta temporality.
func newDeltaMeters(opts ...sdkmetric.Option) meters {
	delta := func(sdkmetric.InstrumentKind) metricdata.Temporality { return metricdata.DeltaTemporality }
	r := sdkmetric.NewManualReader(sdkmetric.WithTemporalitySelector(delta))
	return meters{r, sdkmetric.NewMeterProvider(append(opts, sdkmetric.WithReader(r))...)}
}

// callsOf returns the number of successful calls reported for the method, or -1 if there is no such series.
func callsOf(got map[string]float64, method string) float64 {
	return series(got, "calls{", "grpc.method="+method+",", "outcome=success")
}

// series returns the value of a series whose name contains all parts, or -1.
func series(got map[string]float64, parts ...string) float64 {
	for name, v := range got {
		found := true
		for _, p := range parts {
			found = found && strings.Contains(name, p)
		}
		if found {
			return v
		}
	}
	return -1
}

// succeedOn makes n successful calls with the breaker of a method.
func succeedOn(t *testing.T, g *breaker.Group, method string, n int) {
	t.Helper()
	b := g.Get(breaker.Key{Method: method})
	for range n {
		p, err := b.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p.Done(t.Context(), breaker.Success)
	}
}

// O7: if a key gets another breaker between two collections, its counters continue. They never fall, and no delta is
// negative.
func TestO07_AnotherBreakerBetweenCollections(t *testing.T) {
	g := newGroup(t, breaker.Config{}, breaker.WithMaxBreakers(1))
	cumulative, delta := newMeters(), newDeltaMeters()
	register(t, g, cumulative)
	register(t, g, delta, WithDeltaTemporality())
	all := 0.
	for round, n := range []int{5, 3, 1, 7} {
		if round > 0 {
			succeedOn(t, g, "other", 1) // evicts m
		}
		succeedOn(t, g, "m", n) // and is evicted
		all += float64(n)
		if got := callsOf(cumulative.collect(t), "m"); got != all {
			t.Errorf("round %d: %v calls in total, want %v", round, got, all)
		}
		if got := callsOf(delta.collect(t), "m"); got != float64(n) {
			t.Errorf("round %d: a delta of %v calls, want %d", round, got, n)
		}
	}
	g.Remove(breaker.Key{Method: "m"})
	succeedOn(t, g, "m", 2)
	if got := callsOf(cumulative.collect(t), "m"); got != all+2 {
		t.Errorf("after Remove: %v calls in total, want %v", got, all+2)
	}
}

// O7: a key is missing from some collections, because its breaker was idle or gone. Totals then continue, and deltas
// count every call once, whether more or fewer calls follow than before.
func TestO07_KeyThatReturns(t *testing.T) {
	for _, tt := range []struct {
		name  string
		away  func(g *breaker.Group)
		apart time.Duration
	}{
		{"idle", func(*breaker.Group) {}, 61 * time.Minute},
		{"idle for long", func(*breaker.Group) {}, 3 * time.Hour},
		{"removed", func(g *breaker.Group) { g.Remove(breaker.Key{Method: "m"}) }, 20 * time.Second},
		{"removed for long", func(g *breaker.Group) { g.Remove(breaker.Key{Method: "m"}) }, 3 * time.Hour},
	} {
		for _, more := range []int{7, 10, 12} {
			synctest.Test(t, func(t *testing.T) {
				g := newGroup(t, breaker.Config{})
				cumulative, delta := newMeters(), newDeltaMeters()
				register(t, g, cumulative)
				register(t, g, delta, WithDeltaTemporality())
				reported, last := 0., 0.
				collect := func() {
					reported += max(0, callsOf(delta.collect(t), "m"))
					if got := callsOf(cumulative.collect(t), "m"); got >= 0 {
						if got < last {
							t.Errorf("%s: the counter falls from %v to %v", tt.name, last, got)
						}
						last = got
					}
				}
				pass := func(d time.Duration) {
					for range d / (10 * time.Second) {
						time.Sleep(10 * time.Second)
						collect()
					}
				}
				succeedOn(t, g, "m", 10)
				pass(time.Minute)
				tt.away(g)
				pass(tt.apart)
				if got := callsOf(cumulative.collect(t), "m"); got != -1 {
					t.Errorf("%s: the counter is %v while the key is missing, want none", tt.name, got)
				}
				succeedOn(t, g, "m", more)
				pass(time.Minute)
				if want := float64(10 + more); reported != want || last != want {
					t.Errorf("%s: the deltas have %v calls, the counter %v, want %v", tt.name, reported, last, want)
				}
			})
		}
	}
}

// O7: keys are evicted all the time, because the group is full. Each call is reported if its breaker was collected
// after the call.
func TestO07_Churn(t *testing.T) {
	g := newGroup(t, breaker.Config{}, breaker.WithMaxBreakers(2))
	cumulative, delta := newMeters(), newDeltaMeters()
	register(t, g, cumulative)
	register(t, g, delta, WithDeltaTemporality())
	reported := map[string]float64{}
	var last map[string]float64
	for round := range 300 {
		for i := range 2 {
			succeedOn(t, g, fmt.Sprintf("m%d", (round+i*2)%5), 3)
		}
		deltas := delta.collect(t)
		for _, m := range []string{"m0", "m1", "m2", "m3", "m4"} {
			reported[m] += max(0, callsOf(deltas, m))
		}
		now := cumulative.collect(t)
		neverFall(t, last, now)
		last = now
	}
	sum := 0.
	for _, n := range reported {
		sum += n
	}
	if sum != 300*2*3 {
		t.Errorf("the deltas have %v calls, want %d", sum, 300*2*3)
	}
}

// observeAll is a collection that reads nothing of the breakers of g but their keys.
func observeAll(totals *totals, g *breaker.Group) {
	totals.mu.Lock()
	defer totals.mu.Unlock()
	totals.begin()
	for key, b := range g.All() {
		totals.observe(key, b, sums{}, true)
	}
	totals.end()
}

// O7: the memory for totals is bounded, however often keys change.
func TestO07_TotalsAreBounded(t *testing.T) {
	for _, delta := range []bool{false, true} {
		const n = 1000
		g := newGroup(t, breaker.Config{}, breaker.WithMaxBreakers(n))
		totals := newTotals(delta)
		collect := func() { observeAll(totals, g) }
		for round := range maxGone/n + 3 {
			for i := range n {
				succeedOn(t, g, fmt.Sprint(round, i), 1)
			}
			collect()
		}
		most := n + maxGone
		if delta {
			most = n
		}
		if got := len(totals.keys); got > most || len(totals.gone) > maxGone {
			t.Errorf("delta is %v: %d keys and %d without a breaker, want at most %d", delta, got, len(totals.gone), most)
		}
		for _, k := range totals.gone {
			if k.breaker != nil {
				t.Fatal("an evicted breaker is kept")
			}
		}
	}
}

// B11: sums saturate at the largest value.
func TestO07_SumsSaturate(t *testing.T) {
	a, b := sums{0: math.MaxUint64, 1: 5, 2: 3}, sums{0: 1, 1: math.MaxUint64, 2: 4}
	if got := a.plus(b); got[0] != math.MaxUint64 || got[1] != math.MaxUint64 || got[2] != 7 {
		t.Errorf("plus: %v", got[:3])
	}
	if got := a.minus(b); got[0] != math.MaxUint64-1 || got[1] != 0 || got[2] != 0 {
		t.Errorf("minus: %v", got[:3])
	}
}

// O8: with more breakers than fit into the SDK's limit of 2000 attribute sets, only healthy ones are hidden. Breakers
// that are open or have any override are not.
func TestO08_TheLimitHidesHealthyBreakers(t *testing.T) {
	g := newGroup(t, breaker.Config{OpenFor: time.Hour, MaxOpenFor: time.Hour})
	m := newMeters()
	register(t, g, m)
	const n = 3000
	mode := map[string]breaker.Mode{}
	for i := range n {
		method := fmt.Sprintf("m%04d", i)
		b := g.Get(breaker.Key{Method: method})
		if i%10 != 9 { // 300 are not healthy; the calls of 500 fit
			continue
		}
		mode[method] = breaker.Mode(i / 10 % 4) // 0: none
		if mode[method] == 0 || mode[method] == breaker.ForceClosed {
			b.Trip(t.Context(), "test")
		}
		if mode[method] != 0 {
			if err := b.SetOverride(t.Context(), breaker.Override{Mode: mode[method], Why: "test", By: "test"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	got := m.collect(t)
	seen := map[string]int{} // by method
	for name, v := range got {
		_, rest, _ := strings.Cut(name, "grpc.method=")
		method, _, _ := strings.Cut(rest, ",")
		switch {
		case strings.HasPrefix(name, "calls{") && strings.Contains(name, "outcome=success"),
			v == 1 && mode[method] == 0 && strings.HasPrefix(name, "state{") && strings.Contains(name, "state=open"),
			v == 1 && mode[method] != 0 && strings.HasPrefix(name, "override{") &&
				strings.Contains(name, "mode="+mode[method].String()):
			seen[method]++
		}
	}
	hidden := 0
	for method := range mode {
		if seen[method] != 2 {
			hidden++
		}
	}
	if hidden > 0 {
		t.Errorf("%d of %d breakers that are open or have an override are hidden", hidden, len(mode))
	}
	if series(got, "calls{otel.metric.overflow") == -1 {
		t.Error("nothing is hidden: the test needs more breakers than the limit allows")
	}
}

// O8: above the limit, a breaker that opens or closes does not change which other breakers are within the limit, so
// nothing is counted twice.
func TestO08_TheOrderOfCountersIsStable(t *testing.T) {
	g := newGroup(t, breaker.Config{OpenFor: time.Hour, MaxOpenFor: time.Hour})
	cumulative, delta := newMeters(sdkmetric.WithCardinalityLimit(41)), newDeltaMeters(sdkmetric.WithCardinalityLimit(41))
	register(t, g, cumulative)
	register(t, g, delta, WithDeltaTemporality())
	for i := range 20 { // of which ten fit, with four outcomes each
		succeedOn(t, g, fmt.Sprintf("m%02d", i), 100)
	}
	for i := range 5 {
		g.Get(breaker.Key{Method: fmt.Sprintf("m%02d", i*3)}).Trip(t.Context(), "test") // these are first from now on
	}
	total := func(m meters) (sum float64) {
		for name, v := range m.collect(t) {
			if strings.HasPrefix(name, "calls") {
				sum += v
			}
		}
		return sum
	}
	if got := total(delta); got != 2000 {
		t.Fatalf("the first collection has %v calls, want 2000", got)
	}
	for round := range 10 {
		b := g.Get(breaker.Key{Method: fmt.Sprintf("m%02d", round%5*3)})
		b.Reset(t.Context())
		if got := total(delta); got != 0 {
			t.Errorf("round %d: a delta of %v calls, want 0", round, got)
		}
		if got := total(cumulative); got != 2000 {
			t.Errorf("round %d: %v calls in total, want 2000", round, got)
		}
		b.Trip(t.Context(), "test")
		if got := total(delta); got != 0 {
			t.Errorf("round %d: a delta of %v calls, want 0", round, got)
		}
	}
}

// O7: a key that comes and goes counts once among the last 10 000 without a breaker. It does not push others out.
func TestO07_KeyThatComesAndGoes(t *testing.T) {
	g := newGroup(t, breaker.Config{})
	totals := newTotals(false)
	collect := func() { observeAll(totals, g) }
	away := func(method string) {
		succeedOn(t, g, method, 1)
		collect()
		g.Remove(breaker.Key{Method: method})
		collect()
	}
	away("quiet")
	for range maxGone + 10 {
		away("restless")
	}
	for _, method := range []string{"quiet", "restless"} {
		if totals.keys[breaker.Key{Method: method}] == nil {
			t.Errorf("the totals of %s are lost, although only two keys have no breaker", method)
		}
	}
	if len(totals.gone) > 2 {
		t.Errorf("%d entries for two keys", len(totals.gone))
	}
}
