package otelbridge_test

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
	"github.com/grpcircuit/grpcircuit/otelbridge"
)

// A program passes the Bridge to its guards. The events of a call are then on the span in its context.
func ExampleNew() {
	exporter := tracetest.NewInMemoryExporter()
	provider := trace.NewTracerProvider(trace.WithSyncer(exporter))

	// FailingFor is negative, so the second failure opens the breaker. By default failures must last for a second.
	group, err := breaker.NewGroup(breaker.Config{ConsecutiveFailures: 2, FailingFor: -1})
	if err != nil {
		fmt.Println(err)
		return
	}
	guard, err := interceptor.New(group, interceptor.WithHooks(otelbridge.New()))
	if err != nil {
		fmt.Println(err)
		return
	}

	// Three calls to a backend that is down. A connection made with guard.DialOptions() would do this.
	down := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
		return status.Error(codes.Unavailable, "connection refused")
	}
	ctx, span := provider.Tracer("shop").Start(context.Background(), "checkout")
	for range 3 {
		_ = guard.Unary(ctx, "/shop.Orders/Get", nil, nil, nil, down)
	}
	span.End()

	for _, event := range exporter.GetSpans()[0].Events {
		fmt.Println(event.Name)
		for _, a := range event.Attributes {
			switch a.Key {
			case "circuit_breaker.open_ms", "circuit_breaker.retry_after_ms": // these vary
			default:
				fmt.Printf("  %s: %s\n", a.Key, a.Value)
			}
		}
	}
	// Output:
	// circuit_breaker.state_change
	//   circuit_breaker.name: shop.Orders/Get
	//   circuit_breaker.state: open
	//   circuit_breaker.previous_state: closed
	//   circuit_breaker.rule: consecutive
	//   circuit_breaker.cause: UNAVAILABLE
	//   circuit_breaker.consecutive_failures: 2
	//   rpc.method: shop.Orders/Get
	// circuit_breaker.rejected
	//   circuit_breaker.name: shop.Orders/Get
	//   circuit_breaker.state: open
	//   circuit_breaker.reason: open
	//   circuit_breaker.rule: consecutive
	//   circuit_breaker.cause: UNAVAILABLE
	//   circuit_breaker.consecutive_failures: 2
	//   rpc.method: shop.Orders/Get
}

// The metrics of a group are read when a reader collects.
func ExampleRegisterMetrics() {
	reader := metric.NewManualReader()
	provider := metric.NewMeterProvider(metric.WithReader(reader))

	group, err := breaker.NewGroup(breaker.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	registration, err := otelbridge.RegisterMetrics(group, otelbridge.WithMeterProvider(provider))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = registration.Unregister() }()

	ctx := context.Background()
	group.Get(breaker.Key{Service: "shop.Orders", Method: "Get"}).Trip(ctx, "maintenance")

	var collected metricdata.ResourceMetrics
	if err := reader.Collect(ctx, &collected); err != nil {
		fmt.Println(err)
		return
	}
	for _, m := range collected.ScopeMetrics[0].Metrics {
		if m.Name != "grpc.client.breaker.state" {
			continue
		}
		for _, p := range m.Data.(metricdata.Sum[int64]).DataPoints {
			state, _ := p.Attributes.Value("state")
			service, _ := p.Attributes.Value("grpc.service")
			fmt.Println(service.AsString(), state.AsString(), p.Value)
		}
	}
	// Unordered output:
	// shop.Orders closed 0
	// shop.Orders half_open 0
	// shop.Orders open 1
}
