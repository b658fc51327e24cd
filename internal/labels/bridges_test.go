package labels_test

import (
	"strings"
	"testing"
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
