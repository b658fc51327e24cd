package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/retry"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
	"github.com/grpcircuit/grpcircuit/otelbridge"
	"github.com/grpcircuit/grpcircuit/prombridge"
)

// client is a gRPC client that is set up like that of an application.
type client struct {
	conn         *grpc.ClientConn
	stub         testpb.TestClient
	group        *breaker.Group
	registry     *prometheus.Registry
	spans        *tracetest.InMemoryExporter
	tracing      *sdktrace.TracerProvider
	onTransition func(breaker.Event)
}

func newClient(target string) (*client, error) {
	c := &client{registry: prometheus.NewRegistry(), spans: tracetest.NewInMemoryExporter()}
	c.tracing = sdktrace.NewTracerProvider(sdktrace.WithSyncer(c.spans))

	var err error
	// The defaults: five failures in a row over at least a second open a breaker, and two successful probes close it.
	if c.group, err = breaker.NewGroup(breaker.Config{}); err != nil {
		return nil, err
	}
	fallback := interceptor.Fallback(func(_ context.Context, req *testpb.Request, _ error) (*testpb.Response, error) {
		return &testpb.Response{Text: "from the fallback: " + req.GetText()}, nil
	})
	guard, err := interceptor.New(c.group,
		interceptor.WithHooks(&interceptor.Hooks{
			Transition: func(_ context.Context, e breaker.Event) { c.onTransition(e) },
		}),
		interceptor.WithHooks(otelbridge.New()),
		interceptor.WithFallback(interceptor.ForMethods(testpb.Test_Unary_FullMethodName), fallback),
	)
	if err != nil {
		return nil, err
	}
	if err := c.registry.Register(prombridge.NewCollector(c.group)); err != nil {
		return nil, err
	}

	again := []retry.CallOption{
		retry.WithMax(3),
		retry.WithBackoff(retry.BackoffLinear(25 * time.Millisecond)),
		retry.WithRetriable(interceptor.Retriable), // calls that an open breaker rejects are not retried
	}
	c.conn, err = grpc.NewClient(target,
		grpc.WithChainUnaryInterceptor(retry.UnaryClientInterceptor(again...), guard.Unary), // retry outside, guard inside
		grpc.WithChainStreamInterceptor(retry.StreamClientInterceptor(again...), guard.Stream),
		grpc.WithStatsHandler(otelgrpc.NewClientHandler(otelgrpc.WithTracerProvider(c.tracing))),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	)
	if err != nil {
		return nil, err
	}
	c.stub = testpb.NewTestClient(c.conn)
	return c, nil
}

func (c *client) close() { _ = c.conn.Close() }

// get makes a unary call and reports whether the fallback answered.
func (c *client) get(ctx context.Context) (fellBack bool, err error) {
	var trailer metadata.MD
	_, err = c.stub.Unary(ctx, &testpb.Request{Text: "hello"}, grpc.Trailer(&trailer))
	return len(trailer.Get(interceptor.FallbackTrailer)) > 0, err
}

// watch reads a stream to its end.
func (c *client) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.stub.ServerStream(ctx, &testpb.Request{Count: 3})
	if err != nil {
		return err
	}
	for {
		if _, err := s.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// span starts a span, as an application's handler would; the breaker's events are added to it.
func (c *client) span(ctx context.Context, name string) (context.Context, func()) {
	ctx, span := c.tracing.Tracer("quickstart").Start(ctx, name)
	return ctx, func() { span.End() }
}

// describe returns the event, method and state of a breaker's span event, and its other attributes.
func describe(e sdktrace.Event) (what, details string) {
	var method, state string
	for _, a := range e.Attributes {
		switch key, value := strings.TrimPrefix(string(a.Key), "circuit_breaker."), a.Value.String(); key {
		case "name": // the target and the method
		case "rpc.method":
			method = path.Base(value)
		case "state":
			state = value
		default:
			details += " " + key + "=" + value
		}
	}
	return fmt.Sprintf("%s method=%s state=%s", e.Name, method, state), details
}

func (c *client) rejections() (n uint64) {
	for _, b := range c.group.All() {
		n += b.Snapshot().Rejections.Total()
	}
	return n
}

func (c *client) probes() (n uint64) {
	for _, b := range c.group.All() {
		n += b.Snapshot().Probes.Success
	}
	return n
}

// otherLabels are the labels that are the same for all series here.
var otherLabels = regexp.MustCompile(`grpc_service="[^"]*",grpc_target="[^"]*",?|,?tag=""`)

// printSeries prints the scrape, without the series that are zero and without the labels that are always the same.
func (c *client) printSeries(out io.Writer) error {
	rec := httptest.NewRecorder()
	request, err := http.NewRequest(http.MethodGet, "/metrics", nil)
	if err != nil {
		return err
	}
	promhttp.HandlerFor(c.registry, promhttp.HandlerOpts{}).ServeHTTP(rec, request)
	if rec.Code != http.StatusOK {
		return fmt.Errorf("the scrape failed: %s", rec.Body)
	}
	fmt.Fprintln(out, "\nWhat Prometheus scrapes (not shown: zeros, and the labels grpc_service, grpc_target and tag):")
	n := 0
	for line := range strings.Lines(rec.Body.String()) {
		if strings.HasPrefix(line, "#") || strings.HasSuffix(line, " 0\n") {
			continue
		}
		n++
		fmt.Fprint(out, "  ", strings.Replace(otherLabels.ReplaceAllString(line, ""), ",}", "}", 1))
	}
	return expect(n > 0, "the scrape has no series")
}

// printSpanEvents prints the events of the breakers on the spans of the stages. Of equal events of a breaker on a span
// it prints the first.
func (c *client) printSpanEvents(out io.Writer) error {
	fmt.Fprintln(out, "\nWhat the traces recorded (on each span the first event of a kind):")
	seen := map[string]bool{}
	for _, span := range c.spans.GetSpans() {
		for _, e := range span.Events {
			if !strings.HasPrefix(e.Name, "circuit_breaker.") {
				continue
			}
			seen[span.Name+e.Name] = true
			what, details := describe(e)
			if !seen[span.Name+what] {
				seen[span.Name+what] = true
				fmt.Fprintf(out, "  span %q: %s%s\n", span.Name, what, details)
			}
		}
	}
	return errors.Join(
		expect(seen["outage"+"circuit_breaker.state_change"], "no span event shows that a breaker opened"),
		expect(seen["open"+"circuit_breaker.rejected"], "no span event shows a rejection"),
		expect(seen["recovery"+"circuit_breaker.state_change"], "no span event shows that a breaker closed"),
	)
}
