package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/otelbridge"
	"github.com/grpcircuit/grpcircuit/prombridge"
)

// With random policies, overrides and calls, both bridges have the same series with the same values. No counter
// falls. No counter disappears after it was above 0. ready is 1 exactly if the next call is admitted.
func TestO5_BothBridgesAgree(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) { bridgesAgree(t, rand.New(rand.NewPCG(seed, 5))) })
	}
}

func bridgesAgree(t *testing.T, r *rand.Rand) {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	var opts []breaker.GroupOption
	if r.IntN(2) == 0 {
		opts = append(opts, breaker.WithTrip(func(c breaker.Counts) bool { return c.ConsecutiveFailures > 3 }))
	}
	g, err := breaker.NewGroup(randomConfig(r), opts...)
	check(err)
	reg, reader := prometheus.NewPedanticRegistry(), metric.NewManualReader()
	check(reg.Register(prombridge.NewCollector(g)))
	_, err = otelbridge.RegisterMetrics(g,
		otelbridge.WithMeterProvider(metric.NewMeterProvider(metric.WithReader(reader))))
	check(err)
	b := g.Get(breaker.Key{Service: "s"})
	largest := make(map[string]float64)
	var permits []breaker.Permit
	call := func() (admitted bool) {
		p, err := b.Acquire(t.Context())
		if err == nil {
			permits = append(permits, p)
		}
		return err == nil
	}
	settle := func() {
		permits[0].Done(t.Context(), breaker.Outcome(r.IntN(4)))
		permits = permits[1:]
	}
	for range 200 {
		switch r.IntN(12) {
		case 0:
			check(g.Apply(randomConfig(r)))
		case 1:
			check(b.SetOverride(t.Context(), breaker.Override{
				Mode: breaker.Mode(1 + r.IntN(3)), TTL: time.Duration(r.IntN(2)) * 50 * time.Millisecond, Why: "w", By: "b",
			}))
		case 2:
			b.ClearOverride(t.Context())
		case 3:
			b.Trip(t.Context(), "test")
		case 4:
			b.Reset(t.Context())
		default:
			call()
			for len(permits) > r.IntN(6) {
				settle()
			}
		}
		time.Sleep(time.Duration(r.IntN(40)) * time.Millisecond)

		prom, counters := gathered(t, reg)
		if otel := collected(t, reader); !agree(prom, otel) {
			t.Fatalf("the bridges differ:\n%v\n%v", prom, otel)
		}
		for name, value := range largest {
			if prom[name] < value {
				t.Fatalf("%s fell from %v to %v", name, value, prom[name])
			}
		}
		for _, name := range counters {
			largest[name] = prom[name]
		}
		ready := prom["grpc_client_breaker_ready grpc_service=s"] == 1
		if admitted := call(); admitted != ready {
			t.Fatalf("ready is %v, but the next call is admitted: %v", ready, admitted)
		}
	}
}

func randomConfig(r *rand.Rand) breaker.Config {
	ms := time.Duration(r.IntN(2)) * time.Millisecond
	return breaker.Config{
		ConsecutiveFailures: r.IntN(3) - 1, FailingFor: -1, FailureRatio: float64(r.IntN(2) - 1), MinCalls: r.IntN(3),
		SlowCall: ms, OpenFor: ms, Ramp: time.Duration(r.IntN(2)) * time.Second, MaxProbes: r.IntN(3),
		SuccessesToClose: r.IntN(2), MaxConcurrent: r.IntN(3), Enforcement: breaker.Enforcement(r.IntN(4)),
	}
}

// agree reports whether otel has all that prom has, and no other value than 0: it keeps series that it has reported.
func agree(prom, otel map[string]float64) bool {
	for name, value := range prom {
		if got, ok := otel[name]; !ok || got != value {
			return false
		}
	}
	for name, value := range otel {
		if _, ok := prom[name]; !ok && value != 0 {
			return false
		}
	}
	return true
}

// series returns the name of a series with its labels, without those that are empty.
func series(name string, labels []string) string {
	labels = slices.DeleteFunc(labels, func(l string) bool { return strings.HasSuffix(l, "=") })
	slices.Sort(labels)
	return name + " " + strings.Join(labels, ",")
}

func gathered(t *testing.T, g prometheus.Gatherer) (values map[string]float64, counters []string) {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values = make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			name := series(f.GetName(), labels)
			values[name] = m.GetGauge().GetValue()
			if c := m.GetCounter(); c != nil {
				values[name] = c.GetValue()
				counters = append(counters, name)
			}
		}
	}
	return values, counters
}

// collected has the names of a Prometheus exporter.
func collected(t *testing.T, reader metric.Reader) map[string]float64 {
	t.Helper()
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	underscores := strings.NewReplacer(".", "_")
	for _, scope := range rm.ScopeMetrics {
		for _, m := range scope.Metrics {
			name := underscores.Replace(m.Name)
			if m.Unit == "s" {
				name += "_seconds"
			}
			add := func(attrs attribute.Set, monotonic bool, value float64) {
				var labels []string
				for _, a := range attrs.ToSlice() {
					labels = append(labels, underscores.Replace(string(a.Key))+"="+a.Value.String())
				}
				full := name
				if monotonic {
					full += "_total"
				}
				values[series(full, labels)] = value
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					add(p.Attributes, data.IsMonotonic, float64(p.Value))
				}
			case metricdata.Sum[float64]:
				for _, p := range data.DataPoints {
					add(p.Attributes, data.IsMonotonic, p.Value)
				}
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					add(p.Attributes, false, p.Value)
				}
			default:
				panic(fmt.Sprintf("%s is a %T", m.Name, data))
			}
		}
	}
	return values
}
