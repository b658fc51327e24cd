package otelbridge

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	otelcodes "go.opentelemetry.io/otel/codes"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	experimental "google.golang.org/grpc/experimental/opentelemetry"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats/opentelemetry"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

var down = testpb.Script{
	OnUnary: func(context.Context, *testpb.Request) (*testpb.Response, error) {
		return nil, status.Error(codes.Unavailable, "down")
	},
	OnServerStream: func(*testpb.Request, grpc.ServerStreamingServer[testpb.Response]) error {
		return status.Error(codes.Unavailable, "down")
	},
}

// outage makes two calls that fail and open the breaker, two that are rejected, and two probes that close it again.
type outage struct {
	t    *testing.T
	srv  *testpb.Server
	call func(context.Context) error
}

func (o outage) calls(ctx context.Context, n int, want codes.Code) {
	o.t.Helper()
	for range n {
		if err := o.call(ctx); status.Code(err) != want {
			o.t.Errorf("got %v, want %v", err, want)
		}
	}
}

func (o outage) run(ctx context.Context) {
	o.t.Helper()
	o.srv.Set(down)
	o.calls(ctx, 2, codes.Unavailable)
	o.calls(ctx, 2, codes.Unavailable)
	o.srv.Set(testpb.Script{})
	time.Sleep(5 * time.Second)
	o.calls(ctx, 2, codes.OK)
}

// outageEvents lists the events of an outage in which all calls have one span.
var outageEvents = []string{
	"circuit_breaker.state_change open", "circuit_breaker.rejected open", "circuit_breaker.rejected open",
	"circuit_breaker.state_change half_open", "circuit_breaker.probe half_open",
	"circuit_breaker.state_change closed", "circuit_breaker.probe half_open",
}

// bridgeEvents returns the events of a span that the bridge added.
func bridgeEvents(s sdktrace.ReadOnlySpan) []string {
	var names []string
	for _, e := range s.Events() {
		if strings.HasPrefix(e.Name, "circuit_breaker.") {
			names = append(names, fmt.Sprint(e.Name, " ", attrsOf(e.Attributes)["circuit_breaker.state"]))
		}
	}
	return names
}

// newGuard returns a guard whose breakers open on the second failure.
func newGuard(t *testing.T, opts ...interceptor.Option) *interceptor.Guard {
	t.Helper()
	group := newGroup(t, breaker.Config{ConsecutiveFailures: 2, FailingFor: -1, OpenFor: 5 * time.Second, Jitter: -1})
	guard, err := interceptor.New(group, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return guard
}

func unary(t *testing.T, srv *testpb.Server, opts ...grpc.DialOption) outage {
	t.Helper()
	client := testpb.NewTestClient(testpb.Bufconn(t, srv, opts...))
	return outage{t, srv, func(ctx context.Context) error {
		_, err := client.Unary(ctx, &testpb.Request{})
		return err
	}}
}

func serverStream(t *testing.T, srv *testpb.Server, opts ...grpc.DialOption) outage {
	t.Helper()
	client := testpb.NewTestClient(testpb.Bufconn(t, srv, opts...))
	return outage{t, srv, func(ctx context.Context) error {
		stream, err := client.ServerStream(ctx, &testpb.Request{Count: 2})
		for err == nil {
			_, err = stream.Recv()
		}
		if err.Error() == "EOF" {
			return nil
		}
		return err
	}}
}

var shapes = map[string]func(*testing.T, *testpb.Server, ...grpc.DialOption) outage{
	"unary": unary, "stream": serverStream,
}

// otelgrpc makes its span inside all interceptors, wherever its option is.
func TestO2_OtelgrpcEventsOnCallersSpan(t *testing.T) {
	for shape, dial := range shapes {
		for _, first := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				tr := newTraces()
				opts := newGuard(t, interceptor.WithHooks(New())).DialOptions()
				handler := grpc.WithStatsHandler(otelgrpc.NewClientHandler(
					otelgrpc.WithTracerProvider(tr.provider), otelgrpc.WithMeterProvider(metricnoop.NewMeterProvider()),
					otelgrpc.WithPropagators(propagation.TraceContext{})))
				if first {
					opts = append([]grpc.DialOption{handler}, opts...)
				} else {
					opts = append(opts, handler)
				}
				o := dial(t, new(testpb.Server), opts...)
				caller := tr.record(t, o.run)
				if got := bridgeEvents(caller); !slices.Equal(got, outageEvents) {
					t.Errorf("%s: events on the caller's span: got %v, want %v", shape, got, outageEvents)
				}
				if got := rejectedCount(caller); got != int64(2) {
					t.Errorf("%s: rejected_count is %v, want 2", shape, got)
				}
				synctest.Wait()
				rpcs := 0
				for _, s := range tr.Ended() {
					if s.Name() == t.Name() {
						continue
					}
					rpcs++
					if got := bridgeEvents(s); len(got) != 0 {
						t.Errorf("%s: events on the span of an RPC: %v", shape, got)
					}
				}
				if rpcs != 4 {
					t.Errorf("%s: %d spans of RPCs, want 4: a rejected call has none", shape, rpcs)
				}
			})
		}
	}
}

func plugin(tr traces) grpc.DialOption {
	return opentelemetry.DialOption(opentelemetry.Options{TraceOptions: experimental.TraceOptions{
		TracerProvider: tr.provider, TextMapPropagator: propagation.TraceContext{},
	}})
}

// With grpc's plugin before the guard, each call's span has the events of this call, and rejections have a span.
func TestO2_PluginBeforeGuard(t *testing.T) {
	e := outageEvents
	want := [][]string{nil, e[:1], e[1:2], e[2:3], e[3:5], e[5:]}
	for _, shape := range []string{"unary", "stream"} {
		synctest.Test(t, func(t *testing.T) {
			tr := newTraces()
			opts := append([]grpc.DialOption{plugin(tr)}, newGuard(t, interceptor.WithHooks(New())).DialOptions()...)
			o := shapes[shape](t, new(testpb.Server), opts...)
			caller := tr.record(t, o.run)
			synctest.Wait()
			if got := bridgeEvents(caller); len(got) != 0 {
				t.Errorf("%s: events on the caller's span: %v", shape, got)
			}
			var got [][]string
			for _, s := range tr.Started() {
				if !strings.HasPrefix(s.Name(), "Sent.") {
					if e := bridgeEvents(s); len(e) != 0 {
						t.Errorf("%s: events on %s: %v", shape, s.Name(), e)
					}
					continue
				}
				if s.Parent().SpanID() != caller.SpanContext().SpanID() {
					t.Errorf("%s: %s is not a child of the caller's span", shape, s.Name())
				}
				got = append(got, bridgeEvents(s))
				if rejectedEvents(s) > 0 && (s.Status().Code != otelcodes.Error || s.EndTime().IsZero()) {
					t.Errorf("%s: the span of a rejected call has status %v and ends at %v, want an error",
						shape, s.Status(), s.EndTime())
				}
			}
			if !slices.EqualFunc(got, want, slices.Equal) {
				t.Errorf("%s: events of the calls: got %v, want %v", shape, got, want)
			}
		})
	}
}

// With the plugin after the guard, the plugin's span starts later. The events are on the caller's span, and a rejected
// call has a span only with WithRejectedSpans.
func TestO2_PluginAfterGuard(t *testing.T) {
	for shape, dial := range shapes {
		for _, withSpans := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				tr := newTraces()
				own := []Option{WithTracerProvider(tr.provider)}
				if withSpans {
					own = append(own, WithRejectedSpans())
				}
				opts := append(newGuard(t, interceptor.WithHooks(New(own...))).DialOptions(), plugin(tr))
				o := dial(t, new(testpb.Server), opts...)
				caller := tr.record(t, o.run)
				synctest.Wait()
				if got := bridgeEvents(caller); !slices.Equal(got, outageEvents) {
					t.Errorf("%s: events on the caller's span: got %v, want %v", shape, got, outageEvents)
				}
				sent, rejected := 0, 0
				for _, s := range tr.Ended() {
					switch {
					case strings.HasPrefix(s.Name(), "Sent."):
						sent++
					case s.Name() == "circuit_breaker.rejected":
						rejected++
						if s.Parent().SpanID() != caller.SpanContext().SpanID() {
							t.Errorf("%s: the span of a rejection is not a child of the caller's", shape)
						}
					}
				}
				wantRejected := 0
				if withSpans {
					wantRejected = 2
				}
				if sent != 4 || rejected != wantRejected {
					t.Errorf("%s: %d spans of calls and %d of rejections, want 4 and %d",
						shape, sent, rejected, wantRejected)
				}
			})
		}
	}
}

// Log records have the ID of the caller's span.
func TestGuardWritesLogRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr, l := newTraces(), new(logs)
		guard := newGuard(t, interceptor.WithHooks(New(WithLoggerProvider(l.provider()))))
		caller := tr.record(t, unary(t, new(testpb.Server), guard.DialOptions()...).run)
		var got []string
		for _, r := range l.records {
			got = append(got, fmt.Sprint(r.EventName(), " ", recordAttrs(r)["circuit_breaker.state"]))
			if r.SpanID() != caller.SpanContext().SpanID() {
				t.Errorf("%s is of span %v, want the caller's", r.EventName(), r.SpanID())
			}
		}
		if !slices.Equal(got, outageEvents) {
			t.Errorf("records: got %v, want %v", got, outageEvents)
		}
		if len(caller.Events()) != 0 {
			t.Errorf("span events besides the records: %v", events(caller))
		}
	})
}

// O2: a batch of rejected calls under one span, with a guard and a connection.
func TestO2_BatchOfRejections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTraces()
		o := unary(t, new(testpb.Server), newGuard(t, interceptor.WithHooks(New())).DialOptions()...)
		o.srv.Set(down)
		batch := tr.record(t, func(ctx context.Context) { o.calls(ctx, 10_002, codes.Unavailable) })
		if got, want := bridgeEvents(batch)[0], "circuit_breaker.state_change open"; got != want {
			t.Errorf("the first event is %q, want %q", got, want)
		}
		if got := rejectedEvents(batch); got != 8 {
			t.Errorf("%d rejected events, want 8", got)
		}
		if got := rejectedCount(batch); got != int64(10_000) {
			t.Errorf("rejected_count is %v, want 10000", got)
		}
	})
}

// O6: only codes are exported, and in events who set an override and why. The secret is in every place where a call, an
// error or a person can put it. The override has other words.
func TestO6_NoDataOfTheCallIsExported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const secret, why, by = "hunter2", "ticket 4711", "ann"
		tr, l, m := newTraces(), new(logs), newMeters()
		b := New(WithTracerProvider(tr.provider), WithRejectedSpans())
		logging := New(WithLoggerProvider(l.provider()))
		failing := interceptor.Fallback[testpb.Request, testpb.Response](
			func(context.Context, *testpb.Request, error) (*testpb.Response, error) {
				return nil, fmt.Errorf("fallback %s", secret)
			})
		guard := newGuard(t,
			interceptor.WithHooks(b), interceptor.WithHooks(logging), interceptor.WithRejectionDetails(),
			interceptor.WithFallback(interceptor.ForMethods(testpb.Test_Unary_FullMethodName), failing, interceptor.OnFailure()))
		register(t, guard.Group(), m)
		srv := new(testpb.Server)
		srv.Set(testpb.Script{OnUnary: func(ctx context.Context, _ *testpb.Request) (*testpb.Response, error) {
			if err := grpc.SetTrailer(ctx, metadata.Pairs("trailer", secret)); err != nil {
				t.Error(err)
			}
			return nil, status.Error(codes.Unavailable, "message "+secret)
		}})
		client := testpb.NewTestClient(testpb.Bufconn(t, srv, guard.DialOptions()...))
		caller := tr.record(t, func(ctx context.Context) {
			ctx = metadata.AppendToOutgoingContext(ctx, "header", secret)
			for range 4 {
				if _, err := client.Unary(ctx, &testpb.Request{Text: secret, Payload: []byte(secret)}); err == nil {
					t.Error("a call succeeded")
				}
			}
			time.Sleep(5 * time.Second)
			if _, err := client.Unary(ctx, &testpb.Request{Text: secret}); err == nil { // a probe that fails
				t.Error("a call succeeded")
			}
			for _, b := range guard.Group().All() {
				b.Trip(ctx, secret)
				b.Reset(ctx)
				if err := b.SetOverride(ctx, breaker.Override{Mode: breaker.ForceOpen, Why: why, By: by}); err != nil {
					t.Error(err)
				}
			}
			if _, err := client.Unary(ctx, &testpb.Request{Text: secret}); err == nil {
				t.Error("a call succeeded")
			}
		})
		// 3 rejections, 3 transitions, a probe; Trip, Reset and SetOverride.
		if got, want := len(caller.Events()), 3+3+1+3; got != want {
			t.Errorf("%d events, want %d: %v", got, want, bridgeEvents(caller))
		}
		check := func(what, s string) {
			t.Helper()
			if strings.Contains(s, secret) {
				t.Errorf("%s has the secret: %s", what, s)
			}
		}
		for _, s := range tr.Ended() {
			check("span "+s.Name(), fmt.Sprint(s.Name(), s.Status(), attrsOf(s.Attributes()), s.Links()))
			for _, e := range s.Events() {
				check("event "+e.Name, fmt.Sprint(e.Name, attrsOf(e.Attributes)))
			}
		}
		forced := attrsOf(caller.Events()[len(caller.Events())-1].Attributes)
		if forced["circuit_breaker.override_by"] != by || forced["circuit_breaker.override_reason"] != why {
			t.Errorf("the last rejection has %v, want the author and the reason of the override", forced)
		}
		if len(l.records) != len(caller.Events()) {
			t.Errorf("%d records, want %d", len(l.records), len(caller.Events()))
		}
		for _, r := range l.records {
			check("record "+r.EventName(), fmt.Sprint(r.EventName(), r.Body(), r.SeverityText(), recordAttrs(r)))
		}
		for series := range m.collect(t) {
			check("series", series)
			if strings.Contains(series, by) || strings.Contains(series, why) {
				t.Errorf("series %s has the words of an override", series)
			}
		}
	})
}
