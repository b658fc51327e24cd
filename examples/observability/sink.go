package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"sync"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
)

// maxChanges limits the memory of the sink: with -serve it runs for a long time.
const maxChanges = 1000

// A sink receives traces over OTLP/gRPC, as a collector does. It keeps only the transitions of the breakers.
type sink struct {
	coltracepb.UnimplementedTraceServiceServer

	addr   string
	server *grpc.Server

	mu      sync.Mutex
	spans   int      // received
	changes []change // the first maxChanges
}

// A change is the span event circuit_breaker.state_change, with the span that it is on.
type change struct {
	span, trace string
	attributes  map[string]string
}

func startSink() (*sink, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &sink{addr: l.Addr().String(), server: grpc.NewServer()}
	coltracepb.RegisterTraceServiceServer(s.server, s)
	go func() { _ = s.server.Serve(l) }()
	return s, nil
}

func (s *sink) stop() { s.server.Stop() }

// Export implements [coltracepb.TraceServiceServer].
func (s *sink) Export(
	_ context.Context, req *coltracepb.ExportTraceServiceRequest,
) (*coltracepb.ExportTraceServiceResponse, error) {
	for _, resource := range req.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				s.add(span)
			}
		}
	}
	return &coltracepb.ExportTraceServiceResponse{}, nil
}

func (s *sink) add(span *tracepb.Span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spans++
	for _, e := range span.GetEvents() {
		if e.GetName() != "circuit_breaker.state_change" || len(s.changes) == maxChanges {
			continue
		}
		c := change{span: span.GetName(), trace: hex.EncodeToString(span.GetTraceId()), attributes: map[string]string{}}
		for _, a := range e.GetAttributes() {
			value := a.GetValue().GetStringValue()
			if value == "" {
				value = fmt.Sprint(a.GetValue().GetIntValue())
			}
			c.attributes[strings.TrimPrefix(a.GetKey(), "circuit_breaker.")] = value
		}
		s.changes = append(s.changes, c)
	}
}

// received returns the number of spans, and the transitions of the breaker of a target.
func (s *sink) received(target string) (spans int, changes []change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.changes {
		if strings.HasPrefix(c.attributes["name"], target+" ") {
			changes = append(changes, c)
		}
	}
	return s.spans, changes
}

func (c change) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "span %q of trace %s: circuit_breaker.state_change %s -> %s",
		c.span, c.trace, c.attributes["previous_state"], c.attributes["state"])
	for _, name := range []string{"rule", "cause", "consecutive_failures", "open_ms"} {
		if v, ok := c.attributes[name]; ok {
			text.WriteString(" " + name + "=" + v)
		}
	}
	return text.String()
}
