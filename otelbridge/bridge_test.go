package otelbridge

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/log"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
	"github.com/grpcircuit/grpcircuit/internal/labels"
)

var at = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)

// eventTests has every call of a Bridge and the event that it should make.
var eventTests = []struct {
	what     string
	call     func(ctx context.Context, b *interceptor.Hooks)
	name     string // empty: no event
	severity log.Severity
	at       time.Time // zero: now
	attrs    attrs
}{
	{
		what: "trip by a rule",
		call: func(ctx context.Context, b *interceptor.Hooks) {
			b.Transition(ctx, breaker.Event{
				Key: orders, From: breaker.Closed, To: breaker.Open, Rule: breaker.RuleRatio, Why: "word", Cause: "INTERNAL",
				At: at, OpenFor: 5 * time.Second,
				Counts: breaker.Counts{Successes: 12, Failures: 4, Overloads: 4},
			})
		},
		name: "circuit_breaker.state_change", severity: log.SeverityWarn, at: at,
		attrs: attrs{
			"circuit_breaker.name": "dns:///orders:443 shop.Orders/Get", "rpc.method": "shop.Orders/Get",
			"circuit_breaker.state": "open", "circuit_breaker.previous_state": "closed", "circuit_breaker.rule": "ratio",
			"circuit_breaker.failure_ratio": 0.4, "circuit_breaker.calls": int64(20), "circuit_breaker.cause": "INTERNAL",
			"circuit_breaker.open_ms": int64(5000),
		},
	},
	{
		what: "trip by a slow backend that never fails",
		call: func(ctx context.Context, b *interceptor.Hooks) {
			b.Transition(ctx, breaker.Event{
				From: breaker.Closed, To: breaker.Open, Rule: breaker.RuleSlow, At: at, OpenFor: 5*time.Second + 1,
				Counts: breaker.Counts{Successes: 12, Slow: 12},
			})
		},
		name: "circuit_breaker.state_change", severity: log.SeverityWarn, at: at,
		attrs: attrs{
			"circuit_breaker.name":  "default",
			"circuit_breaker.state": "open", "circuit_breaker.previous_state": "closed", "circuit_breaker.rule": "slow",
			"circuit_breaker.slow_ratio": 1., "circuit_breaker.calls": int64(12), "circuit_breaker.open_ms": int64(5001),
		},
	},
	{
		what: "trip by a failure streak, in shadow mode, when most calls succeed",
		call: func(ctx context.Context, b *interceptor.Hooks) {
			b.Transition(ctx, breaker.Event{
				From: breaker.Closed, To: breaker.Open, Rule: breaker.RuleConsecutive, At: at,
				OpenFor: time.Second, Override: breaker.Override{Mode: breaker.Shadow, By: "ann", Why: "a trial"},
				Counts: breaker.Counts{Successes: 95, Failures: 5, ConsecutiveFailures: 5},
			})
		},
		name: "circuit_breaker.state_change", severity: log.SeverityInfo, at: at,
		attrs: attrs{
			"circuit_breaker.name":  "default",
			"circuit_breaker.state": "open", "circuit_breaker.previous_state": "closed", "circuit_breaker.rule": "consecutive",
			"circuit_breaker.consecutive_failures": int64(5), "circuit_breaker.override": "shadow",
			"circuit_breaker.override_by": "ann", "circuit_breaker.override_reason": "a trial",
			"circuit_breaker.open_ms": int64(1000),
		},
	},
	{
		what: "trip by hand while an override keeps the breaker closed",
		call: func(ctx context.Context, b *interceptor.Hooks) {
			b.Transition(ctx, breaker.Event{
				From: breaker.Closed, To: breaker.Open, Rule: breaker.RuleManual, Why: "word", At: at, OpenFor: time.Second,
				Override: breaker.Override{Mode: breaker.ForceClosed, By: "bob\xff", Why: strings.Repeat("w", 1025)},
			})
		},
		name: "circuit_breaker.state_change", severity: log.SeverityInfo, at: at,
		attrs: attrs{
			"circuit_breaker.name":  "default",
			"circuit_breaker.state": "open", "circuit_breaker.previous_state": "closed", "circuit_breaker.rule": "manual",
			"circuit_breaker.override": "force_closed", "circuit_breaker.override_by": `bob\xff`,
			"circuit_breaker.override_reason": labels.Value(strings.Repeat("w", 1025)),
			"circuit_breaker.open_ms":         int64(1000),
		},
	},
	{
		what: "override that forces a breaker open",
		call: func(ctx context.Context, b *interceptor.Hooks) {
			b.Transition(ctx, breaker.Event{
				From: breaker.Closed, To: breaker.Closed, OverrideChanged: true, Why: "word", At: at,
				Override: breaker.Override{Mode: breaker.ForceOpen, By: "ann", Why: "a deploy"},
			})
		},
		name: "circuit_breaker.state_change", severity: log.SeverityWarn, at: at,
		attrs: attrs{
			"circuit_breaker.name":  "default",
			"circuit_breaker.state": "closed", "circuit_breaker.previous_state": "closed",
			"circuit_breaker.override": "force_open", "circuit_breaker.override_by": "ann",
			"circuit_breaker.override_reason": "a deploy", "circuit_breaker.override_changed": true,
		},
	},
	{
		what: "override of an open breaker that is cleared",
		call: func(ctx context.Context, b *interceptor.Hooks) {
			b.Transition(ctx, breaker.Event{
				From: breaker.Open, To: breaker.Open, OverrideChanged: true, Why: "word", At: at,
			})
		},
		name: "circuit_breaker.state_change", severity: log.SeverityWarn, at: at,
		attrs: attrs{
			"circuit_breaker.name":  "default",
			"circuit_breaker.state": "open", "circuit_breaker.previous_state": "open",
			"circuit_breaker.override_changed": true,
		},
	},
	{
		what: "override of a closed breaker that is cleared",
		call: func(ctx context.Context, b *interceptor.Hooks) {
			b.Transition(ctx, breaker.Event{
				From: breaker.Closed, To: breaker.Closed, OverrideChanged: true, Why: "word", At: at,
			})
		},
		name: "circuit_breaker.state_change", severity: log.SeverityInfo, at: at,
		attrs: attrs{
			"circuit_breaker.name":  "default",
			"circuit_breaker.state": "closed", "circuit_breaker.previous_state": "closed",
			"circuit_breaker.override_changed": true,
		},
	},
	{
		what: "trip by a custom rule",
		call: func(ctx context.Context, b *interceptor.Hooks) {
			b.Transition(ctx, breaker.Event{
				From: breaker.Closed, To: breaker.Open, Rule: breaker.RuleCustom, At: at, OpenFor: time.Second,
				Counts: breaker.Counts{Successes: 3, Failures: 1},
			})
		},
		name: "circuit_breaker.state_change", severity: log.SeverityWarn, at: at,
		attrs: attrs{
			"circuit_breaker.name":  "default",
			"circuit_breaker.state": "open", "circuit_breaker.previous_state": "closed", "circuit_breaker.rule": "custom",
			"circuit_breaker.open_ms": int64(1000),
		},
	},
	{
		what: "failed probe",
		call: func(ctx context.Context, b *interceptor.Hooks) {
			b.Transition(ctx, breaker.Event{
				Key: orders, From: breaker.HalfOpen, To: breaker.Open, Rule: breaker.RuleProbe, At: at, OpenFor: 10 * time.Second,
			})
		},
		name: "circuit_breaker.state_change", severity: log.SeverityWarn, at: at,
		attrs: attrs{
			"circuit_breaker.name": "dns:///orders:443 shop.Orders/Get", "rpc.method": "shop.Orders/Get",
			"circuit_breaker.state": "open", "circuit_breaker.previous_state": "half_open", "circuit_breaker.rule": "probe",
			"circuit_breaker.open_ms": int64(10000),
		},
	},
	{
		what: "end of the open period",
		call: func(ctx context.Context, b *interceptor.Hooks) {
			b.Transition(ctx, breaker.Event{
				Key: breaker.Key{Service: "shop.Orders"}, From: breaker.Open, To: breaker.HalfOpen, At: at,
			})
		},
		name: "circuit_breaker.state_change", severity: log.SeverityInfo, at: at,
		attrs: attrs{
			"circuit_breaker.name":  "shop.Orders",
			"circuit_breaker.state": "half_open", "circuit_breaker.previous_state": "open",
		},
	},
	{
		what: "reset of a closed breaker",
		call: func(ctx context.Context, b *interceptor.Hooks) {
			b.Transition(ctx, breaker.Event{
				Key: breaker.Key{Method: "Get"}, Rule: breaker.RuleManual, Why: "word", At: at,
			})
		},
		name: "circuit_breaker.state_change", severity: log.SeverityInfo, at: at,
		attrs: attrs{
			"circuit_breaker.name":  "/Get",
			"circuit_breaker.state": "closed", "circuit_breaker.previous_state": "closed", "circuit_breaker.rule": "manual",
		},
	},
	{
		what: "rejection while open",
		call: func(ctx context.Context, b *interceptor.Hooks) {
			b.Rejected(ctx, &interceptor.RejectedError{RejectedError: &breaker.RejectedError{
				Key: orders, State: breaker.Open, Reason: breaker.ReasonOpen, Until: time.Now().Add(1200*time.Millisecond + 1),
			}})
		},
		name: "circuit_breaker.rejected", severity: log.SeverityInfo,
		attrs: attrs{
			"circuit_breaker.name": "dns:///orders:443 shop.Orders/Get", "rpc.method": "shop.Orders/Get",
			"circuit_breaker.state": "open", "circuit_breaker.reason": "open", "circuit_breaker.retry_after_ms": int64(1201),
		},
	},
	{
		what: "rejection at the end of the open period",
		call: func(ctx context.Context, b *interceptor.Hooks) {
			b.Rejected(ctx, &interceptor.RejectedError{RejectedError: &breaker.RejectedError{
				Key: orders, State: breaker.Open, Reason: breaker.ReasonOpen, Until: time.Now(),
			}})
		},
		name: "circuit_breaker.rejected", severity: log.SeverityInfo,
		attrs: attrs{
			"circuit_breaker.name": "dns:///orders:443 shop.Orders/Get", "rpc.method": "shop.Orders/Get",
			"circuit_breaker.state": "open", "circuit_breaker.reason": "open", "circuit_breaker.retry_after_ms": int64(0),
		},
	},
	{
		what: "rejection with what opened the breaker",
		call: func(ctx context.Context, b *interceptor.Hooks) {
			b.Rejected(ctx, &interceptor.RejectedError{RejectedError: &breaker.RejectedError{
				Key: orders, State: breaker.HalfOpen, Reason: breaker.ReasonHalfOpen, Opened: breaker.Opening{
					Rule: breaker.RuleConsecutive, Why: "word", Cause: "bad\xff",
					Counts: breaker.Counts{ConsecutiveFailures: 5, Failures: 9},
				},
			}})
		},
		name: "circuit_breaker.rejected", severity: log.SeverityInfo,
		attrs: attrs{
			"circuit_breaker.name": "dns:///orders:443 shop.Orders/Get", "rpc.method": "shop.Orders/Get",
			"circuit_breaker.state": "half_open", "circuit_breaker.reason": "half_open", "circuit_breaker.rule": "consecutive",
			"circuit_breaker.cause": `bad\xff`, "circuit_breaker.consecutive_failures": int64(5),
		},
	},
	{
		what: "rejection by a person",
		call: func(ctx context.Context, b *interceptor.Hooks) {
			b.Rejected(ctx, &interceptor.RejectedError{RejectedError: &breaker.RejectedError{
				Key: orders, State: breaker.Open, Reason: breaker.ReasonForced,
				Override: breaker.Override{Mode: breaker.ForceOpen, By: "ann", Why: "ticket 4711"},
			}})
		},
		name: "circuit_breaker.rejected", severity: log.SeverityInfo,
		attrs: attrs{
			"circuit_breaker.name": "dns:///orders:443 shop.Orders/Get", "rpc.method": "shop.Orders/Get",
			"circuit_breaker.state": "open", "circuit_breaker.reason": "forced", "circuit_breaker.override": "force_open",
			"circuit_breaker.override_by": "ann", "circuit_breaker.override_reason": "ticket 4711",
		},
	},
	{
		what: "rejection without a known end",
		call: func(ctx context.Context, b *interceptor.Hooks) {
			b.Rejected(ctx, &interceptor.RejectedError{RejectedError: &breaker.RejectedError{
				Key: breaker.Key{Service: "a\xffb", Method: `c\d`}, State: breaker.Closed, Reason: breaker.ReasonConcurrency,
			}})
		},
		name: "circuit_breaker.rejected", severity: log.SeverityInfo,
		attrs: attrs{
			"circuit_breaker.name": `a\xffb/c\\d`, "rpc.method": `a\xffb/c\\d`,
			"circuit_breaker.state": "closed", "circuit_breaker.reason": "concurrency",
		},
	},
	{
		what: "probe that succeeds",
		call: func(ctx context.Context, b *interceptor.Hooks) {
			b.Probed(ctx, interceptor.Settlement{Key: orders, Outcome: breaker.Success, Probe: true})
		},
		name: "circuit_breaker.probe", severity: log.SeverityInfo,
		attrs: attrs{
			"circuit_breaker.name": "dns:///orders:443 shop.Orders/Get", "rpc.method": "shop.Orders/Get",
			"circuit_breaker.state": "half_open", "circuit_breaker.outcome": "success",
		},
	},
	{
		what: "probe that fails",
		call: func(ctx context.Context, b *interceptor.Hooks) {
			b.Probed(ctx, interceptor.Settlement{
				Key: breaker.Key{Tag: "t"}, Outcome: breaker.Failure, Code: codes.DeadlineExceeded, Probe: true,
			})
		},
		name: "circuit_breaker.probe", severity: log.SeverityInfo,
		attrs: attrs{
			"circuit_breaker.name":  "tag=t",
			"circuit_breaker.state": "half_open", "circuit_breaker.outcome": "failure",
			"rpc.response.status_code": "DEADLINE_EXCEEDED",
		},
	},
}

// O9: each event has the attributes that it should have, and no value that the rule did not compare.
func TestO9_SpanEvents(t *testing.T) {
	for _, tt := range eventTests {
		t.Run(tt.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := newTraces()
				span := tr.record(t, func(ctx context.Context) { tt.call(ctx, New()) })
				if tt.name == "" {
					if n := len(span.Events()); n != 0 {
						t.Errorf("%d events, want none", n)
					}
					return
				}
				if n := len(span.Events()); n != 1 {
					t.Fatalf("%d events, want 1", n)
				}
				if tt.at.IsZero() {
					tt.at = time.Now()
				}
				e := span.Events()[0]
				if e.Name != tt.name || !e.Time.Equal(tt.at) {
					t.Errorf("event %q at %v, want %q at %v", e.Name, e.Time, tt.name, tt.at)
				}
				if diff := cmp.Diff(attrsOf(e.Attributes), tt.attrs); diff != "" {
					t.Errorf("attributes (-got +want):\n%s", diff)
				}
			})
		})
	}
}

// With a logger provider the same events are log records, and there are no span events.
func TestLogRecords(t *testing.T) {
	for _, tt := range eventTests {
		t.Run(tt.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr, l := newTraces(), new(logs)
				b := New(WithLoggerProvider(l.provider()))
				span := tr.record(t, func(ctx context.Context) { tt.call(ctx, b) })
				if n := len(span.Events()); n != 0 {
					t.Errorf("%d span events, want none beside the log records", n)
				}
				if tt.name == "" {
					if n := len(l.records); n != 0 {
						t.Errorf("%d records, want none", n)
					}
					return
				}
				if n := len(l.records); n != 1 {
					t.Fatalf("%d records, want 1", n)
				}
				if tt.at.IsZero() {
					tt.at = time.Now()
				}
				r := l.records[0]
				if r.EventName() != tt.name || !r.Timestamp().Equal(tt.at) || r.Severity() != tt.severity {
					t.Errorf("event %q at %v, %v, want %q at %v, %v",
						r.EventName(), r.Timestamp(), r.Severity(), tt.name, tt.at, tt.severity)
				}
				if diff := cmp.Diff(recordAttrs(r), tt.attrs); diff != "" {
					t.Errorf("attributes (-got +want):\n%s", diff)
				}
				if sc := span.SpanContext(); r.TraceID() != sc.TraceID() || r.SpanID() != sc.SpanID() {
					t.Errorf("the record is of span %v %v, want %v %v", r.TraceID(), r.SpanID(), sc.TraceID(), sc.SpanID())
				}
				if s := r.InstrumentationScope(); s.Name != ScopeName || s.SchemaURL != semconv.SchemaURL {
					t.Errorf("scope %q, schema %q, want %q, %q", s.Name, s.SchemaURL, ScopeName, semconv.SchemaURL)
				}
			})
		})
	}
}

func TestLogRecordsOfMinimumSeverity(t *testing.T) {
	l := &logs{minSeverity: log.SeverityWarn}
	b := New(WithLoggerProvider(l.provider()))
	for _, tt := range eventTests {
		tt.call(t.Context(), b)
	}
	for _, r := range l.records {
		got := recordAttrs(r)
		opened := got["circuit_breaker.state"] == "open" && got["circuit_breaker.override"] == nil
		forced := got["circuit_breaker.override_changed"] != nil && got["circuit_breaker.override"] == "force_open"
		if r.EventName() != "circuit_breaker.state_change" || !opened && !forced {
			t.Errorf("%s %v, want only open breakers without an override, and ForceOpen", r.EventName(), got)
		}
	}
	if got, want := len(l.records), 6; got != want {
		t.Errorf("%d records, want %d", got, want)
	}
}

// unrecorded returns contexts in which no event is recorded.
func unrecorded(t *testing.T) map[string]context.Context {
	t.Helper()
	sampled, unsampled := newTraces(), newTraces(sdktrace.WithSampler(sdktrace.NeverSample()))
	dropped, span := unsampled.tracer.Start(t.Context(), "not sampled")
	span.End()
	ended, span := sampled.tracer.Start(t.Context(), "ended")
	span.End()
	return map[string]context.Context{
		"no span":     t.Context(),
		"not sampled": dropped,
		"ended":       ended,
		"remote": trace.ContextWithRemoteSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, TraceFlags: trace.FlagsSampled,
		})),
	}
}

func TestO1_NoEventIsBuiltUnlessRecorded(t *testing.T) {
	bridges := map[string]*interceptor.Hooks{
		"spans": New(),
		"logs":  New(WithLoggerProvider((&logs{minSeverity: log.SeverityFatal}).provider())),
	}
	for name, ctx := range unrecorded(t) {
		for sink, b := range bridges {
			for what, call := range map[string]func(){
				"Transition": func() { b.Transition(ctx, trip) },
				"Rejected":   func() { b.Rejected(ctx, rejection) },
				"Probed":     func() { b.Probed(ctx, probe) },
			} {
				if n := testing.AllocsPerRun(100, call); n != 0 {
					t.Errorf("%s, %s: %s allocates %v times, want 0", sink, name, what, n)
				}
			}
		}
	}
}

func TestO1_ClosedPathAllocatesNothing(t *testing.T) {
	ctx, span := newTraces().tracer.Start(t.Context(), "caller")
	defer span.End()
	invoker := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil }
	allocs := func(opts ...interceptor.Option) float64 {
		guard, err := interceptor.New(nil, opts...)
		if err != nil {
			t.Fatal(err)
		}
		return testing.AllocsPerRun(1000, func() {
			if err := guard.Unary(ctx, "/shop.Orders/Get", nil, nil, nil, invoker); err != nil {
				t.Fatal(err)
			}
		})
	}
	if n := allocs(interceptor.WithHooks(New(WithRejectedSpans()))); n != 0 {
		t.Errorf("a call through a closed breaker allocates %v times, want 0", n)
	}
	if n := len(span.(sdktrace.ReadOnlySpan).Events()); n != 0 {
		t.Errorf("%d events, want none", n)
	}
}

func TestO1_HooksForProbesOnly(t *testing.T) {
	h := New()
	if h.Settled != nil {
		t.Error("there is a hook Settled, so each call would read the clock")
	}
	if h.Probed == nil || h.Rejected == nil || h.Transition == nil {
		t.Error("a hook is missing")
	}
}

// A nil option panics in New and is an error of RegisterMetrics. Both name the option.
func TestNilOption(t *testing.T) {
	for _, opt := range []Option{nil, optionFunc(nil)} {
		func() {
			defer func() {
				if got, want := recover(), "otelbridge: New: option 1 is nil"; got != want {
					t.Errorf("the panic is %v, want %s", got, want)
				}
			}()
			New(WithRejectedSpans(), opt)
		}()
		g, err := breaker.NewGroup(breaker.Config{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = RegisterMetrics(g, WithRejectedSpans(), opt)
		if got, want := fmt.Sprint(err), "otelbridge: RegisterMetrics: option 1 is nil"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestRejectedSpans(t *testing.T) {
	tr := newTraces()
	b := New(WithTracerProvider(tr.provider), WithRejectedSpans())
	caller := tr.record(t, func(ctx context.Context) {
		b.Rejected(ctx, rejection)
		b.Transition(ctx, recovery)
	})
	wantEvents := []string{"circuit_breaker.rejected", "circuit_breaker.state_change"}
	if got := events(caller); !slices.Equal(got, wantEvents) {
		t.Errorf("events on the caller's span: got %v, want %v", got, wantEvents)
	}
	spans := tr.named()["circuit_breaker.rejected"]
	if len(spans) != 1 {
		t.Fatalf("%d spans, want 1", len(spans))
	}
	s := spans[0]
	if s.Parent().SpanID() != caller.SpanContext().SpanID() {
		t.Errorf("the parent is %v, want the caller's span", s.Parent().SpanID())
	}
	if s.SpanKind() != trace.SpanKindInternal {
		t.Errorf("the span is %v, want internal", s.SpanKind())
	}
	want := sdktrace.Status{Code: otelcodes.Error, Description: "circuit breaker rejected the call: half_open"}
	if s.Status() != want {
		t.Errorf("status %v, want %v", s.Status(), want)
	}
	if s.InstrumentationScope().Name != ScopeName || s.InstrumentationScope().SchemaURL != semconv.SchemaURL {
		t.Errorf("scope %v, want %q with schema %q", s.InstrumentationScope(), ScopeName, semconv.SchemaURL)
	}
	if diff := cmp.Diff(attrsOf(s.Attributes()), attrs{
		"circuit_breaker.name": "dns:///orders:443 shop.Orders/Get", "rpc.method": "shop.Orders/Get",
		"circuit_breaker.state": "half_open", "circuit_breaker.reason": "half_open", "error.type": "CIRCUIT_OPEN",
	}); diff != "" {
		t.Errorf("attributes (-got +want):\n%s", diff)
	}
}

// A rejection has a span even without a caller's span. It has none if the trace is not sampled.
func TestRejectedSpansWithoutParent(t *testing.T) {
	tr := newTraces(sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())))
	b := New(WithTracerProvider(tr.provider), WithRejectedSpans())
	b.Rejected(t.Context(), rejection)
	b.Rejected(trace.ContextWithRemoteSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1},
	})), rejection)
	spans := tr.Ended()
	if len(spans) != 1 {
		t.Fatalf("%d spans, want 1", len(spans))
	}
	if spans[0].Parent().IsValid() {
		t.Errorf("the parent is %v, want none", spans[0].Parent())
	}
}

func TestNoRejectedSpansByDefault(t *testing.T) {
	tr := newTraces()
	New(WithTracerProvider(tr.provider)).Rejected(t.Context(), rejection)
	if n := len(tr.Ended()); n != 0 {
		t.Errorf("%d spans, want none", n)
	}
}

// A nil provider is the global one, and that may be set after New.
//
// The global API forwards to the first global provider that is set, once in a process. So each run of the test needs a
// new process, or it would fail with -count=2 and -cpu 1,2.
func TestNilProviders(t *testing.T) {
	const child = "OTELBRIDGE_TEST_NIL_OPTIONS"
	if os.Getenv(child) == "" {
		binary, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), binary, "-test.run=^TestNilProviders$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestNilProviders") {
			t.Errorf("%v:\n%s", err, out)
		}
		return
	}
	group := newGroup(t, breaker.Config{})
	group.Get(orders)
	opts := []Option{
		WithTracerProvider(nil), WithMeterProvider(nil), WithLoggerProvider(nil), WithRejectedSpans(),
	}
	b := New(opts...)
	registration, err := RegisterMetrics(group, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := registration.Unregister(); err != nil {
			t.Error(err)
		}
	})
	tr, l, m := newTraces(), new(logs), newMeters()
	otel.SetTracerProvider(tr.provider)
	otel.SetLoggerProvider(l.provider())
	otel.SetMeterProvider(m.provider)
	b.Rejected(t.Context(), rejection)
	if n := len(tr.Ended()); n != 1 {
		t.Errorf("%d spans of rejections from the global provider, want 1", n)
	}
	if n := len(l.records); n != 1 {
		t.Errorf("%d log records from the global provider, want 1", n)
	}
	if n := len(m.collect(t)); n == 0 {
		t.Error("no metrics from the global provider")
	}
}
