package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/breaker/statusz"
	"github.com/grpcircuit/grpcircuit/interceptor"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
	"github.com/grpcircuit/grpcircuit/otelbridge"
	"github.com/grpcircuit/grpcircuit/prombridge"
)

// A client calls the backends. It has one group of breakers, with logs, traces, metrics and the live page.
type client struct {
	group   *breaker.Group
	guard   *interceptor.Guard
	tracing *sdktrace.TracerProvider
	page    *statusz.Page
	web     *http.Server
	url     string // of the web server, which has /metrics and /debug/breakers/
	callers []*caller

	stopping chan struct{} // closed to end the goroutines of call
	calling  sync.WaitGroup
}

// newClient returns a client that sends its traces to otlp, writes transitions to logger, and serves its page.
func newClient(ctx context.Context, otlp string, logger *slog.Logger) (*client, error) {
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(otlp), otlptracegrpc.WithInsecure())
	if err != nil {
		return nil, err
	}
	c := &client{tracing: sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter))}
	c.group, err = breaker.NewGroup(breaker.Config{}, breaker.LogTransitions(logger, breaker.LogEvery(time.Millisecond)))
	if err != nil {
		return nil, err
	}
	if c.guard, err = interceptor.New(c.group, interceptor.WithHooks(otelbridge.New())); err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	if err := registry.Register(prombridge.NewCollector(c.group)); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c.page = statusz.Handler(c.group, statusz.WithHistory())
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.Handle("/debug/breakers/", c.page)
	c.web = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	c.url = "http://" + l.Addr().String()
	go func() { _ = c.web.Serve(l) }()
	return c, nil
}

// connect adds a backend. Its target is passthrough:///name, so that metrics and alerts have a readable name.
func (c *client) connect(b *backend) (*caller, error) {
	conn, err := grpc.NewClient("passthrough:///"+b.name, append(c.guard.DialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStatsHandler(otelgrpc.NewClientHandler(otelgrpc.WithTracerProvider(c.tracing))),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", b.addr)
		}))...)
	if err != nil {
		return nil, err
	}
	r := &caller{
		target: conn.Target(), conn: conn, stub: testpb.NewTestClient(conn),
		tracer: c.tracing.Tracer("observability"), span: "use " + b.name,
	}
	c.callers = append(c.callers, r)
	return r, nil
}

// start makes calls to all backends, until pause. A panic in such a goroutine ends the program; see dieWithParent.
func (c *client) start() {
	stop := make(chan struct{}) // a goroutine may begin only after pause, which changes c.stopping
	c.stopping = stop
	for _, r := range c.callers {
		c.calling.Go(func() { r.run(stop) })
	}
}

// pause waits until no call is in flight.
func (c *client) pause() {
	if c.stopping != nil {
		close(c.stopping)
		c.stopping = nil
	}
	c.calling.Wait()
}

// close ends the client. Spans that cannot be sent within a second are lost.
func (c *client) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c.pause()
	for _, r := range c.callers {
		_ = r.conn.Close()
	}
	c.page.Close()
	_ = c.web.Close()
	_ = c.tracing.Shutdown(ctx)
}
