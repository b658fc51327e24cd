package prombridge_test

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
	"github.com/grpcircuit/grpcircuit/prombridge"
)

func ExampleNewCollector() {
	// FailingFor is negative, so the third failure opens the breaker. By default failures must last for a second.
	group, err := breaker.NewGroup(breaker.Config{ConsecutiveFailures: 3, FailingFor: -1})
	if err != nil {
		fmt.Println(err)
		return
	}
	registry := prometheus.NewRegistry()
	if err := registry.Register(prombridge.NewCollector(group)); err != nil {
		fmt.Println(err)
		return
	}

	// Guards do this: three calls fail, and one more is rejected.
	b := group.Get(breaker.Key{Target: "dns:///orders:443", Service: "shop.Orders", Method: "Get"})
	for range 4 {
		_ = b.Do(context.Background(), func(context.Context) error { return context.DeadlineExceeded })
	}

	families, err := registry.Gather()
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, f := range families {
		switch f.GetName() {
		case "grpc_client_breaker_state", "grpc_client_breaker_trips_total", "grpc_client_breaker_rejections_total":
			for _, m := range f.GetMetric() {
				if v := m.GetGauge().GetValue() + m.GetCounter().GetValue(); v > 0 {
					fmt.Println(f.GetName(), own(m), v)
				}
			}
		}
	}
	// Output:
	// grpc_client_breaker_rejections_total reason=open 1
	// grpc_client_breaker_state state=open 1
	// grpc_client_breaker_trips_total rule=consecutive 1
}

// own returns the label of m that is not a part of the key.
func own(m *dto.Metric) string {
	for _, l := range m.GetLabel() {
		switch l.GetName() {
		case "grpc_target", "grpc_service", "grpc_method", "tag":
		default:
			return l.GetName() + "=" + l.GetValue()
		}
	}
	return ""
}

func ExampleNewDurationHistogram() {
	group, err := breaker.NewGroup(breaker.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	hooks, durations := prombridge.NewDurationHistogram(group)
	guard, err := interceptor.New(group, interceptor.WithHooks(hooks))
	if err != nil {
		fmt.Println(err)
		return
	}
	registry := prometheus.NewRegistry()
	if err := registry.Register(durations); err != nil {
		fmt.Println(err)
		return
	}

	// A connection with guard.DialOptions() would do this for each call.
	key := breaker.Key{Service: "shop.Orders", Method: "Get"}
	guard.Group().Get(key)
	hooks.Settled(context.Background(), interceptor.Settlement{
		Key: key, Outcome: breaker.Success, Duration: 30 * time.Millisecond,
	})

	families, err := registry.Gather()
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			h := m.GetHistogram()
			fmt.Println(f.GetName(), own(m), h.GetSampleCount(), "calls,", h.GetSampleSum(), "seconds")
		}
	}
	// Output:
	// grpc_client_breaker_call_duration_seconds outcome=failure 0 calls, 0 seconds
	// grpc_client_breaker_call_duration_seconds outcome=ignored 0 calls, 0 seconds
	// grpc_client_breaker_call_duration_seconds outcome=overload 0 calls, 0 seconds
	// grpc_client_breaker_call_duration_seconds outcome=success 1 calls, 0.03 seconds
}
