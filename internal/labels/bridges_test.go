package labels_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/labels"
	"github.com/grpcircuit/grpcircuit/otelbridge"
	"github.com/grpcircuit/grpcircuit/prombridge"
)

// hostileKeys maps keys to their labels. They are all in one group.
var hostileKeys = map[breaker.Key]breaker.Key{
	{Target: "dns:///orders:443", Service: "shop.Orders", Method: "Get"}: {
		Target: "dns:///orders:443", Service: "shop.Orders", Method: "Get",
	},
	{Method: "invalid", Tag: "\xff"}:               {Method: "invalid", Tag: `\xff`},
	{Method: "invalid", Tag: `\xff`}:               {Method: "invalid", Tag: `\\xff`},
	{Method: "invalid", Tag: `\\xff`}:              {Method: "invalid", Tag: `\\\\xff`},
	{Method: "replacement", Tag: "\uFFFD"}:         {Method: "replacement", Tag: "\uFFFD"},
	{Method: "backslash", Tag: `DOMAIN\user`}:      {Method: "backslash", Tag: `DOMAIN\user`},
	{Method: "backslash", Tag: "DOMAIN\\user\xff"}: {Method: "backslash", Tag: `DOMAIN\\user\xff`},
	{Method: "one invalid part\xff", Tag: `a\b`}:   {Method: `one invalid part\xff`, Tag: `a\b`},
	{Method: "long", Tag: strings.Repeat("m", labels.MaxBytes+1)}: {
		Method: "long", Tag: strings.Repeat("m", 990) + `\#74d015c07e6510d2e6766d487fda84b0`,
	},
	{Method: "not too long", Tag: strings.Repeat("m", labels.MaxBytes)}: {
		Method: "not too long", Tag: strings.Repeat("m", labels.MaxBytes),
	},
}

// Both bridges give a key the same labels, whatever bytes it contains and whatever other keys the group has.
func TestBridgesHaveTheSameLabels(t *testing.T) {
	g, err := breaker.NewGroup(breaker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for key := range hostileKeys {
		g.Get(key)
	}
	want := make(map[breaker.Key]bool)
	for _, l := range hostileKeys {
		want[l] = true
	}
	if diff := cmp.Diff(promLabels(t, g), want); diff != "" {
		t.Errorf("prombridge (-got +want):\n%s", diff)
	}
	if diff := cmp.Diff(otelLabels(t, g), want); diff != "" {
		t.Errorf("otelbridge (-got +want):\n%s", diff)
	}
}

// An event has one key only. Its name is escaped in the same way as a label.
func TestEventsHaveTheSameNamesAsLabels(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)).Tracer("test")
	bridge := otelbridge.New()
	for key := range hostileKeys {
		ctx, span := tracer.Start(t.Context(), "caller")
		bridge.Transition(ctx, breaker.Event{Key: key})
		span.End()
		ended := recorder.Ended()
		var got string
		for _, kv := range ended[len(ended)-1].Events()[0].Attributes {
			if kv.Key == "circuit_breaker.name" {
				got = kv.Value.AsString()
			}
		}
		if want := labels.Value(key.String()); got != want {
			t.Errorf("%.40q: got name %q, want %q", key, got, want)
		}
		if !utf8.ValidString(got) || len(got) > labels.MaxBytes {
			t.Errorf("%.40q: the name has %d bytes, valid: %v", key, len(got), utf8.ValidString(got))
		}
	}
}

// promLabels returns the labels of all breakers in a scrape.
func promLabels(t *testing.T, g *breaker.Group) map[breaker.Key]bool {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(prombridge.NewCollector(g))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[breaker.Key]bool)
	for _, f := range families {
		if f.GetName() != "grpc_client_breaker_in_flight" {
			continue
		}
		for _, m := range f.GetMetric() {
			values := make(map[string]string)
			for _, l := range m.GetLabel() {
				values[l.GetName()] = l.GetValue()
			}
			got[breaker.Key{
				Target: values["grpc_target"], Service: values["grpc_service"],
				Method: values["grpc_method"], Tag: values["tag"],
			}] = true
		}
	}
	return got
}

// otelLabels returns the attributes of all breakers in a collection.
func otelLabels(t *testing.T, g *breaker.Group) map[breaker.Key]bool {
	t.Helper()
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	if _, err := otelbridge.RegisterMetrics(g, otelbridge.WithMeterProvider(provider)); err != nil {
		t.Fatal(err)
	}
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	got := make(map[breaker.Key]bool)
	for _, m := range rm.ScopeMetrics[0].Metrics {
		if m.Name != "grpc.client.breaker.in_flight" {
			continue
		}
		for _, p := range m.Data.(metricdata.Sum[int64]).DataPoints {
			value := func(name attribute.Key) string {
				v, _ := p.Attributes.Value(name)
				return v.AsString()
			}
			got[breaker.Key{
				Target: value("grpc.target"), Service: value("grpc.service"),
				Method: value("grpc.method"), Tag: value("tag"),
			}] = true
		}
	}
	return got
}

// Both bridges export the same series of a breaker with the same values, under the same names but for the dots, the
// units and _total. So dashboards work with both.
func TestBridgesHaveTheSameSeries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		custom := breaker.WithTrip(func(breaker.Counts) bool { return false })
		seen := make(map[string]bool)
		for _, cfg := range []breaker.Config{
			{},
			{SlowCall: time.Second},
			{Ramp: time.Second, MaxConcurrent: 5},
			{ConsecutiveFailures: -1},
			{FailureRatio: -1},
			{Enforcement: breaker.EnforcementShadow},
			{Enforcement: breaker.EnforcementOff},
		} {
			for _, opts := range [][]breaker.GroupOption{nil, {custom}} {
				g, err := breaker.NewGroup(cfg, opts...)
				if err != nil {
					t.Fatal(err)
				}
				fill(t, g)
				for _, all := range []bool{false, true} {
					prom, otel := promSeries(t, g, all), otelSeries(t, g, all)
					if diff := cmp.Diff(otel, prom); diff != "" {
						t.Errorf("%+v, all series: %v (-otel +prom):\n%s", cfg, all, diff)
					}
					for series := range prom {
						_, name, _ := strings.Cut(series, " ")
						seen[name] = true
					}
				}
			}
		}
		if len(seen) != 54 {
			t.Errorf("the breakers and the groups have %d series, want all 54", len(seen))
		}
	})
}

// fill makes breakers in all states and modes.
func fill(t *testing.T, g *breaker.Group) {
	t.Helper()
	ctx := t.Context()
	for _, method := range []string{"closed", "half-open", "open", "forced", "shadow", "used"} {
		b := g.Get(breaker.Key{Method: method})
		switch method {
		case "used":
			for range 20 {
				if p, err := b.Acquire(ctx); err == nil {
					p.Done(ctx, breaker.Success)
				}
			}
			b.CountFallback(true)
		case "half-open":
			b.Trip(ctx, "test")
			time.Sleep(time.Minute)
			_, _ = b.Acquire(ctx)
		case "open":
			b.Trip(ctx, "test")
			_, _ = b.Acquire(ctx)
		case "forced", "shadow":
			mode := map[string]breaker.Mode{"forced": breaker.ForceOpen, "shadow": breaker.Shadow}[method]
			if err := b.SetOverride(ctx, breaker.Override{Mode: mode, Why: "test", By: "test"}); err != nil {
				t.Fatal(err)
			}
			_, _ = b.Acquire(ctx)
			b.Trip(ctx, "test")
		}
	}
}

func reloads() (succeeded, failed uint64, lastSuccess time.Time) { return 3, 1, time.Unix(1e9, 5e8) }

// promSeries returns the values in a scrape by method and series, such as `used calls_total{outcome="success"}`.
func promSeries(t *testing.T, g *breaker.Group, all bool) map[string]float64 {
	t.Helper()
	opts := []prombridge.Option{prombridge.WithPolicyReloads(reloads)}
	if all {
		opts = append(opts, prombridge.WithAllSeries())
	}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(prombridge.NewCollector(g, opts...))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := make(map[string]string)
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			got[seriesName(f.GetName(), "grpc_", labels)] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return got
}

// otelSeries returns the values in a collection in the same way, with the names that Prometheus would give to them.
func otelSeries(t *testing.T, g *breaker.Group, all bool) map[string]float64 {
	t.Helper()
	reader := sdkmetric.NewManualReader()
	opts := []otelbridge.Option{
		otelbridge.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))),
		otelbridge.WithPolicyReloads(reloads),
	}
	if all {
		opts = append(opts, otelbridge.WithAllSeries())
	}
	if _, err := otelbridge.RegisterMetrics(g, opts...); err != nil {
		t.Fatal(err)
	}
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	add := func(m metricdata.Metrics, suffix string, set attribute.Set, value float64) {
		name := strings.ReplaceAll(m.Name, ".", "_")
		if m.Unit == "s" {
			name += "_seconds"
		}
		labels := make(map[string]string)
		for _, kv := range set.ToSlice() {
			labels[string(kv.Key)] = kv.Value.AsString()
		}
		got[seriesName(name+suffix, "grpc.", labels)] = value
	}
	for _, m := range rm.ScopeMetrics[0].Metrics {
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			suffix := ""
			if data.IsMonotonic {
				suffix = "_total"
			}
			for _, p := range data.DataPoints {
				add(m, suffix, p.Attributes, float64(p.Value))
			}
		case metricdata.Sum[float64]:
			for _, p := range data.DataPoints {
				add(m, "_total", p.Attributes, p.Value)
			}
		case metricdata.Gauge[float64]:
			for _, p := range data.DataPoints {
				add(m, "", p.Attributes, p.Value)
			}
		}
	}
	return got
}

// seriesName returns the method of a series and its name with the label that is not part of the key.
func seriesName(name, keyPrefix string, labels map[string]string) string {
	var series strings.Builder
	series.WriteString(labels[keyPrefix+"method"] + " " + name)
	for label, value := range labels {
		if !strings.HasPrefix(label, keyPrefix) && label != "tag" {
			series.WriteString("{" + label + "=" + value + "}")
		}
	}
	return series.String()
}
