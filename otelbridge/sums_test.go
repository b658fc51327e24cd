package otelbridge

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// temporalities are a cumulative and a delta reader of one provider.
func temporalities() (cumulative, delta meters) {
	c := sdkmetric.NewManualReader()
	d := sdkmetric.NewManualReader(sdkmetric.WithTemporalitySelector(func(sdkmetric.InstrumentKind) metricdata.Temporality {
		return metricdata.DeltaTemporality
	}))
	p := sdkmetric.NewMeterProvider(sdkmetric.WithReader(c), sdkmetric.WithReader(d))
	return meters{c, p}, meters{d, p}
}

// callsOf returns how many successful calls are reported for the method, and -1 if none are.
func callsOf(got map[string]float64, method string) float64 {
	return series(got, "calls{", "grpc.method="+method, "outcome=success")
}

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

// succeedOn makes n calls that succeed with the breaker of a method.
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

// A key that gets another breaker between two collections goes on: its sums never fall, and no delta is negative.
func TestO07_SumsGoOnAfterAnEviction(t *testing.T) {
	g := newGroup(t, breaker.Config{}, breaker.WithMaxBreakers(1))
	cumulative, delta := temporalities()
	register(t, g, cumulative)
	all := 0.
	for round, n := range []int{5, 3, 1, 7} {
		if round > 0 {
			succeedOn(t, g, "other", 1) // evicts m
		}
		succeedOn(t, g, "m", n) // and is evicted
		all += float64(n)
		if got := callsOf(cumulative.collect(t), "m"); got != all {
			t.Errorf("round %d: %v calls in all, want %v", round, got, all)
		}
		if got := callsOf(delta.collect(t), "m"); got != float64(n) {
			t.Errorf("round %d: %v calls more, want %d", round, got, n)
		}
	}
	g.Remove(breaker.Key{Method: "m"})
	succeedOn(t, g, "m", 2)
	if got := callsOf(cumulative.collect(t), "m"); got != all+2 {
		t.Errorf("after Remove: %v calls in all, want %v", got, all+2)
	}
}

// What the calls of a key that comes and goes add up to, in whatever order two readers with different intervals
// collect: a series never falls while it is there, deltas are never negative, and no call is told of twice.
func TestO07_KeyThatComesAndGoes(t *testing.T) {
	for _, tt := range []struct {
		name string
		away func(g *breaker.Group)
		apart time.Duration
	}{
		{"idle, and back soon", func(*breaker.Group) {}, 61 * time.Minute},
		{"idle for long", func(*breaker.Group) {}, 3 * time.Hour},
		{"removed, and back soon", func(g *breaker.Group) { g.Remove(breaker.Key{Method: "m"}) }, 70 * time.Second},
		{"removed for long", func(g *breaker.Group) { g.Remove(breaker.Key{Method: "m"}) }, 3 * time.Hour},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newGroup(t, breaker.Config{})
			cumulative, delta := temporalities()
			register(t, g, cumulative)
			var told float64     // by deltas
			previous := -1.      // of the cumulative series
			sums, resets := 0., 0 // as who reads the cumulative series adds up
			succeedOn(t, g, "m", 10)
			look := func(m meters) {
				got := callsOf(m.collect(t), "m")
				if m.reader == delta.reader {
					if got < 0 && got != -1 {
						t.Errorf("%s: a delta of %v", tt.name, got)
					}
					told += max(0, got)
					return
				}
				switch {
				case got == -1:
				case previous == -1 || got < previous:
					if previous != -1 {
						t.Errorf("%s: the series falls from %v to %v without a gap", tt.name, previous, got)
					}
					sums += got
					resets++
				default:
					sums += got - previous
				}
				previous = got
			}
			pass := func(d time.Duration) {
				for i := time.Duration(0); i < d; i += 10 * time.Second {
					time.Sleep(10 * time.Second)
					look(cumulative)
					if i%time.Minute == 0 { // less often
						look(delta)
					}
				}
			}
			pass(time.Minute)
			tt.away(g)
			pass(tt.apart)
			succeedOn(t, g, "m", 7)
			if got := series(cumulative.collect(t), "state{", "grpc.method=m", "state=closed"); got != 1 {
				t.Errorf("%s: back, and the state is %v, want reported at once", tt.name, got)
			}
			pass(10 * time.Minute)
			look(delta)
			if told != 17 || sums != 17 {
				t.Errorf("%s: 17 calls came, deltas tell of %v, cumulative sums of %v", tt.name, told, sums)
			}
			if resets != 2 {
				t.Errorf("%s: the cumulative series begins %d times, want twice", tt.name, resets)
			}
		})
	}
}

// What is gone for good is forgotten, so that keys that come and go take no memory.
func TestO07_SumsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, breaker.Config{}, breaker.WithMaxBreakers(10))
		l := newLedger()
		collect := func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.begin()
			for key, b := range g.All() {
				l.observe(key, b, sums{}, time.Now())
			}
			l.end(time.Now())
		}
		for i := range 1000 {
			succeedOn(t, g, fmt.Sprint(i), 1)
			collect()
		}
		time.Sleep(restAfter)
		collect()
		if got := len(l.keys); got > 10 {
			t.Errorf("the ledger knows %d keys, want at most those of the 10 breakers", got)
		}
	})
}

// A collection that ends early, because its context does, says nothing of the keys that it did not come to.
func TestO07_CollectionThatEndedEarly(t *testing.T) {
	g := newGroup(t, breaker.Config{})
	cumulative, _ := temporalities()
	register(t, g, cumulative)
	succeedOn(t, g, "m", 3)
	if got := callsOf(cumulative.collect(t), "m"); got != 3 {
		t.Fatalf("%v calls, want 3", got)
	}
	in, err := newInstruments(cumulative.provider.Meter("another"))
	if err != nil {
		t.Fatal(err)
	}
	l := newLedger()
	l.begin()
	l.observe(breaker.Key{Method: "m"}, g.Get(breaker.Key{Method: "m"}), sums{}, time.Now())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := in.observe(ctx, noop.Observer{}, g, l); err == nil {
		t.Fatal("a collection whose context is done succeeds")
	}
	if !l.keys[breaker.Key{Method: "m"}].out.IsZero() {
		t.Error("the key counts as left out")
	}
}

// Saturated figures stay where they are.
func TestO07_SumsSaturate(t *testing.T) {
	const most = 1<<64 - 1
	a, b := sums{0: most, 1: 5, 2: 3}, sums{0: 1, 1: most, 2: 4}
	if got := a.plus(b); got[0] != most || got[1] != 5 || got[2] != 7 {
		t.Errorf("plus: %v", got[:3])
	}
	if got := a.minus(b); got[0] != most-1 || got[1] != 0 || got[2] != 0 {
		t.Errorf("minus: %v", got[:3])
	}
}

// With more breakers than the SDK's limit of 2000 attribute sets has room for, it is closed ones that are hidden.
func TestO08_TheLimitHidesClosedBreakers(t *testing.T) {
	g := newGroup(t, breaker.Config{OpenFor: time.Hour, MaxOpenFor: time.Hour})
	m := newMeters()
	register(t, g, m)
	const n = 3000
	open := map[string]bool{}
	for i := range n {
		method := fmt.Sprintf("m%04d", i)
		b := g.Get(breaker.Key{Method: method})
		if i%10 == 9 { // 300: the trips of 333 fit
			b.Trip(t.Context(), "test")
			open[method] = true
		}
	}
	got := m.collect(t)
	hidden := 0
	for method := range open {
		if series(got, "state{", "grpc.method="+method+",", "state=open") != 1 ||
			series(got, "trips{", "grpc.method="+method+",", "rule=manual") != 1 {
			hidden++
		}
	}
	if hidden > 0 {
		t.Errorf("%d of %d open breakers are hidden", hidden, len(open))
	}
	if series(got, "trips{otel.metric.overflow") == -1 {
		t.Error("nothing is hidden: the test wants more breakers than the limit has room for")
	}
}
