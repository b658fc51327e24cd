package otelbridge

import (
	"fmt"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// O4: the series of a closed breaker with the default Config, its failure ratio included. TestBridgesHaveTheSameSeries
// of package labels compares them with those of prombridge.
func TestO4_AtMost26SeriesOfAClosedBreaker(t *testing.T) {
	m := newMeters()
	g := newGroup(t, breaker.Config{})
	register(t, g, m)
	succeedOn(t, g, "m", 20)
	got := m.collect(t)
	if series(got, "failure_ratio") != 0 {
		t.Error("the breaker has no failure ratio")
	}
	if n := len(got) - 4; n != 25 { // 4 are of the group
		t.Errorf("%d series, want 25", n)
	}
}

// O4: a counter that was reported once is reported while its breaker exists, even at 0. So the SDK does not forget it,
// and no other series takes its place.
func TestO4_ReportedCountersGoOn(t *testing.T) {
	for _, delta := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			g := newGroup(t, breaker.Config{SlowCall: time.Second, Ramp: time.Second, MaxConcurrent: 9})
			m, opts := newMeters(), []Option(nil)
			if delta {
				m, opts = newDeltaMeters(), []Option{WithDeltaTemporality()}
			}
			register(t, g, m, opts...)
			b := g.Get(breaker.Key{Method: "m"})
			if err := b.SetOverride(t.Context(), breaker.Override{Mode: breaker.Shadow, Why: "test", By: "test"}); err != nil {
				t.Fatal(err)
			}
			succeedOn(t, g, "m", 1)
			before := m.collect(t)
			b.ClearOverride(t.Context())
			if err := g.Apply(breaker.Config{}); err != nil {
				t.Fatal(err)
			}
			after := m.collect(t)
			for _, parts := range [][]string{
				{"slow_calls"},
				{"trips", "slow"},
				{"{", "reason=ramp"},
				{"rejections", "concurrency"},
				{"rejections", "forced"},
				{"shadow_trips", "ratio"},
				{"shadow_rejections", "open"},
				{"calls", "success"},
			} {
				if series(before, parts...) == -1 || series(after, parts...) == -1 {
					t.Errorf("delta is %v: %v is %v, then %v; want it in both collections",
						delta, parts, series(before, parts...), series(after, parts...))
				}
			}
			if got := len(after); got != len(before) {
				t.Errorf("delta is %v: %d series, want the %d of before", delta, got, len(before))
			}
			m = newMeters() // it has not seen the earlier policy
			register(t, g, m)
			if diff := cmp.Diff(m.collect(t), wantSeries(g)); diff != "" {
				t.Errorf("delta is %v: another reader (-got +want):\n%s", delta, diff)
			}
		})
	}
}

// O7: a counter that is left out until its first event loses none, and counts none twice, whatever happens to its
// breaker.
func TestO07_CountersThatAppear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, breaker.Config{})
		cumulative, delta := newMeters(), newDeltaMeters()
		register(t, g, cumulative)
		register(t, g, delta, WithDeltaTemporality())
		key, events, sum := breaker.Key{Method: "m"}, 0.0, 0.0
		collect := func(when string) {
			t.Helper()
			time.Sleep(time.Minute)
			sum += max(0, series(delta.collect(t), "fallbacks", "served"))
			total := series(cumulative.collect(t), "fallbacks", "served")
			if total != -1 && total != events || sum != events {
				t.Errorf("%s: a total of %v, and deltas of %v, want %v", when, total, sum, events)
			}
		}
		for _, idle := range []bool{false, true} {
			g.Get(key)
			collect("no event yet")
			for range 3 {
				g.Get(key).CountFallback(true)
				events++
				succeedOn(t, g, "m", 1)
				collect("an event")
			}
			if idle {
				time.Sleep(2 * time.Hour)
			} else {
				g.Remove(key)
			}
			collect("without a breaker")
			succeedOn(t, g, "m", 1)
			collect("with a breaker again")
		}
	})
}

func TestPolicyReloads(t *testing.T) {
	g, m := newGroup(t, breaker.Config{}), newMeters()
	var succeeded, failed uint64
	var last time.Time
	register(t, g, m, WithPolicyReloads(nil), WithPolicyReloads(
		func() (uint64, uint64, time.Time) { return succeeded, failed, last }))
	groupSeries := map[string]float64{"breakers": 0, "evictions": 0, "overflow": 0, "unguarded": 0}
	want := func(more map[string]float64) map[string]float64 {
		maps.Copy(more, groupSeries)
		return more
	}
	first := want(map[string]float64{"policy_reloads{result=success}": 0, "policy_reloads{result=failure}": 0})
	if diff := cmp.Diff(m.collect(t), first); diff != "" {
		t.Errorf("before the first success (-got +want):\n%s", diff)
	}
	succeeded, failed, last = math.MaxUint64, 3, time.Unix(1e9, 0) // B11
	later := want(map[string]float64{
		"policy_reloads{result=success}": math.MaxInt64, "policy_reloads{result=failure}": 3,
		"policy_last_success_timestamp": 1e9,
	})
	if diff := cmp.Diff(m.collect(t), later); diff != "" {
		t.Errorf("after it (-got +want):\n%s", diff)
	}

	r, err := RegisterMetrics(g, WithMeterProvider(m.provider), WithPolicyReloads(reloads), WithPolicyReloads(nil))
	if got, want := fmt.Sprint(err), "otelbridge: RegisterMetrics: WithPolicyReloads: the function is nil"; got != want {
		t.Errorf("got %v, %s, want %s", r, got, want)
	}
}

// A periodic reader collects on a goroutine of its own, where a panic would end the program.
func TestPolicyReloadsThatPanic(t *testing.T) {
	handled := ""
	before := otel.GetErrorHandler()
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { handled += err.Error() }))
	t.Cleanup(func() { otel.SetErrorHandler(before) })
	g, m := newGroup(t, breaker.Config{}), newMeters()
	register(t, g, m, WithPolicyReloads(func() (uint64, uint64, time.Time) { panic("no watcher") }))
	want := map[string]float64{"breakers": 0, "evictions": 0, "overflow": 0, "unguarded": 0}
	if diff := cmp.Diff(m.collect(t), want); diff != "" {
		t.Errorf("the metrics (-got +want):\n%s", diff)
	}
	if want := "otelbridge: the function of WithPolicyReloads panicked: no watcher"; handled != want {
		t.Errorf("the error handler got %q, want %q", handled, want)
	}
}

// The table in doc.go has the instruments that exist, and marks with * those that WithAllSeries changes.
func TestDocTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		doc, err := os.ReadFile("doc.go")
		if err != nil {
			t.Fatal(err)
		}
		rows := regexp.MustCompile(`(?m)^//\t([a-z_]+)(?:\{([a-z]+)\})? +(gauge|counter|up-down counter) +(\S+) +(.*)$`)
		got, starred := []string{}, map[string]bool{}
		for _, r := range rows.FindAllStringSubmatch(string(doc), -1) {
			got = append(got, fmt.Sprintf("%s{%s} %s %s", r[1], r[2], r[3], r[4]))
			starred[r[1]] = strings.Contains(r[5], "*")
		}
		slices.Sort(got)
		g, m := newGroup(t, breaker.Config{MinCalls: 1}), newMeters()
		register(t, g, m, WithAllSeries(), WithPolicyReloads(reloads))
		succeedOn(t, g, "m", 1)
		g.Get(orders).Trip(t.Context(), "test")
		var want []string
		for _, metric := range m.read(t) {
			kind, attr := "gauge", ""
			if sum, ok := metric.Data.(metricdata.Sum[int64]); ok {
				if kind = "counter"; !sum.IsMonotonic {
					kind = "up-down counter"
				}
				for _, kv := range sum.DataPoints[0].Attributes.ToSlice() {
					if k := string(kv.Key); !strings.HasPrefix(k, "grpc.") && k != "tag" {
						attr = k
					}
				}
			} else if _, ok := metric.Data.(metricdata.Sum[float64]); ok {
				kind = "counter"
			}
			name := strings.TrimPrefix(metric.Name, "grpc.client.breaker.")
			want = append(want, fmt.Sprintf("%s{%s} %s %s", name, attr, kind, metric.Unit))
		}
		slices.Sort(want)
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("table (-got +want):\n%s", diff)
		}
		m = newMeters()
		register(t, g, m)
		fewer := map[string]bool{}
		for name := range wantSomeSeries(g, true) {
			if _, ok := m.collect(t)[name]; !ok {
				fewer[strings.Fields(family(name))[0]] = true
			}
		}
		for name, star := range starred {
			if star != fewer[name] {
				t.Errorf("%s has a * in the table: %v; want %v", name, star, fewer[name])
			}
		}
	})
}
