package main

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// `make examples` runs the scenario. This is the part that it cannot run.
func TestWithoutPrometheus(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var out strings.Builder
	err := run(t.Context(), &out, rulesDir, false)
	if !errors.Is(err, errNoPrometheus) || !strings.Contains(err.Error(), "apt-get install prometheus") {
		t.Errorf("got %v, want the error that says how to install Prometheus", err)
	}
}

// TestSink checks that a transition arrives in the sink as a span event.
func TestSink(t *testing.T) {
	s, err := startSink()
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	c, err := newClient(t.Context(), s.addr, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	b, err := startBackend("test")
	if err != nil {
		t.Fatal(err)
	}
	defer b.stop()
	r, err := c.connect(b)
	if err != nil {
		t.Fatal(err)
	}
	r.call()
	ctx, span := r.tracer.Start(t.Context(), "a person")
	for _, br := range c.group.All() {
		br.Trip(ctx, "a test")
	}
	span.End()
	if err := c.tracing.ForceFlush(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The spans are that of call, that of otelgrpc below it, and that of the person.
	spans, changes := s.received("passthrough:///test")
	if spans != 3 || len(changes) != 1 {
		t.Fatalf("got %d spans and the transitions %v, want 3 spans and 1 transition", spans, changes)
	}
	if got := changes[0].String(); !strings.Contains(got, `span "a person"`) ||
		!strings.Contains(got, "circuit_breaker.state_change closed -> open rule=manual") {
		t.Errorf("got the transition %s", got)
	}
	if got := r.counts(); got != (counts{success: 1}) {
		t.Errorf("got %v, want one success", got)
	}
}

// A pause ends all callers, also one whose goroutine has not begun.
func TestPauseRightAfterStart(t *testing.T) {
	for range 100 {
		c := &client{callers: []*caller{{}, {}, {}, {}}}
		c.start()
		c.pause()
	}
}
