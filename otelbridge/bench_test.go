package otelbridge

import (
	"context"
	"fmt"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/grpcircuit/grpcircuit/breaker"
)

func BenchmarkRejected(b *testing.B) {
	provider := sdktrace.NewTracerProvider()
	tracer := provider.Tracer("bench")
	b.Run("no span", func(b *testing.B) {
		br := New()
		b.ReportAllocs()
		for b.Loop() {
			br.Rejected(context.Background(), rejection)
		}
	})
	b.Run("first of a span", func(b *testing.B) {
		br := New()
		b.ReportAllocs()
		for b.Loop() {
			ctx, span := tracer.Start(context.Background(), "caller")
			br.Rejected(ctx, rejection)
			span.End()
		}
	})
	b.Run("further of a span", func(b *testing.B) {
		br := New()
		ctx, span := tracer.Start(context.Background(), "caller")
		defer span.End()
		for range maxRejectedEvents {
			br.Rejected(ctx, rejection)
		}
		b.ReportAllocs()
		for b.Loop() {
			br.Rejected(ctx, rejection)
		}
	})
	b.Run("span only", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, span := tracer.Start(context.Background(), "caller")
			span.End()
		}
	})
}

func BenchmarkCollect(b *testing.B) {
	for _, n := range []int{1, 1000, 10_000} {
		b.Run(fmt.Sprintf("breakers=%d", n), func(b *testing.B) {
			g := newGroup(b, breaker.Config{})
			for i := range n {
				g.Get(breaker.Key{Target: "dns:///orders:443", Service: "shop.Orders", Method: fmt.Sprint("Method", i)})
			}
			m := newMeters()
			register(b, g, m)
			b.ReportAllocs()
			for b.Loop() {
				m.read(b)
			}
		})
	}
}
