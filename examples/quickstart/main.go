// Quickstart shows what the library does, over real TCP. A gRPC server on 127.0.0.1 starts to fail. The client's
// circuit breakers open and reject calls, and a fallback answers instead. The server recovers, and probes close the
// breakers. The breakers have the default Config. At the end the program prints what Prometheus would scrape and the
// span events of the traces.
//
//	go run ./examples/quickstart          # ends by itself; exits with status 0 only if every stage happened
//	go run ./examples/quickstart -serve   # runs until interrupted, with regular outages, and serves /metrics on loopback
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
)

func main() {
	serve := flag.Bool("serve", false, "go on after the scenario, with an outage now and then, and serve /metrics")
	addr := flag.String("addr", "127.0.0.1:0", "where to serve /metrics")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout, *serve, *addr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, serve bool, addr string) error {
	b, err := startBackend()
	if err != nil {
		return err
	}
	defer b.stop()
	c, err := newClient(b.addr)
	if err != nil {
		return err
	}
	defer c.close()

	s := &scenario{out: out, start: time.Now(), backend: b, client: c, printed: map[string]bool{}}
	c.onTransition = s.transition
	if err := s.play(ctx); err != nil {
		return err
	}
	if err := c.printSeries(out); err != nil {
		return err
	}
	if err := c.printSpanEvents(out); err != nil {
		return err
	}
	fmt.Fprintln(out, "\nEvery stage happened as expected.")
	if !serve {
		return nil
	}
	return s.serve(ctx, addr)
}

// scenario makes the calls and checks their results.
type scenario struct {
	out     io.Writer
	start   time.Time
	backend *backend
	client  *client
	printed map[string]bool // the kinds of error that printError has printed
}

func (s *scenario) say(format string, args ...any) {
	fmt.Fprintf(s.out, "%6.2fs  %s\n", time.Since(s.start).Seconds(), fmt.Sprintf(format, args...))
}

func (s *scenario) transition(e breaker.Event) {
	why := e.Why
	if e.To == breaker.Open {
		why += fmt.Sprintf("; open for %v", e.OpenFor.Round(time.Millisecond))
	}
	s.say("  %s: %v -> %v (%s)", e.Key.Method, e.From, e.To, why)
}

// tally holds the results of a run of calls.
type tally struct{ ok, fellBack, rejected, failed int }

// printError prints the text of the first error of a kind.
func (s *scenario) printError(kind string, err error) {
	if !s.printed[kind] {
		s.printed[kind] = true
		s.say("  the first call that %s returns: %v", kind, err)
	}
}

// calls makes n rounds of three unary calls and a stream, 10 ms apart, and stops early if enough returns true.
func (s *scenario) calls(ctx context.Context, n int, enough func() bool) (t tally, err error) {
	count := func(fellBack bool, err error) {
		switch {
		case err == nil && fellBack:
			t.fellBack++
		case err == nil:
			t.ok++
		case interceptor.IsRejected(err):
			t.rejected++
			s.printError("is rejected", err)
		default:
			t.failed++
			s.printError("fails", err)
		}
	}
	for range n {
		if enough() {
			break
		}
		for range 3 {
			count(s.client.get(ctx))
		}
		count(false, s.client.watch(ctx))
		select {
		case <-ctx.Done():
			return t, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return t, nil
}

func (s *scenario) play(ctx context.Context) error {
	for _, stage := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"healthy", s.healthy},
		{"outage", s.outage},
		{"open", s.open},
		{"recovery", s.recovery},
		{"healthy again", s.healthy},
	} {
		s.say("%s", stage.name)
		ctx, end := s.client.span(ctx, stage.name)
		err := stage.run(ctx)
		end()
		if err != nil {
			return fmt.Errorf("stage %q: %w", stage.name, err)
		}
	}
	return nil
}

func never() bool { return false }

func (s *scenario) healthy(ctx context.Context) error {
	before := s.backend.received()
	t, err := s.calls(ctx, 25, never)
	if err != nil {
		return err
	}
	s.say("  %d calls succeeded, the server received %d", t.ok, s.backend.received()-before)
	return errors.Join(
		expect(t == tally{ok: 100}, "every call should be answered by the server: %+v", t),
		expect(s.backend.received()-before == 100, "the server should receive every call"),
		s.expectState(breaker.Closed),
	)
}

func (s *scenario) outage(ctx context.Context) error {
	s.backend.fail(codes.Unavailable)
	s.say("  the server fails from now on: unary calls at once, streams after a message")
	s.say("  a unary call that fails is retried twice")
	t, err := s.calls(ctx, 100, func() bool { return s.expectState(breaker.Open) == nil })
	if err != nil {
		return err
	}
	s.say("  %d calls failed, the fallback answered %d", t.failed, t.fellBack)
	return errors.Join(
		expect(t.failed > 0, "some calls should fail before the breakers open: %+v", t),
		s.expectState(breaker.Open),
	)
}

func (s *scenario) open(ctx context.Context) error {
	before, rejections := s.backend.received(), s.client.rejections()
	t, err := s.calls(ctx, 10, never)
	if err != nil {
		return err
	}
	received, rejected := s.backend.received()-before, s.client.rejections()-rejections
	s.say("  the fallback answered %d unary calls, %d streams were rejected, the server received %d calls", t.fellBack,
		t.rejected, received)
	return errors.Join(
		expect(t == tally{fellBack: 30, rejected: 10}, "every call should be rejected, and the unary ones fall back: %+v", t),
		expect(received == 0, "the server should receive nothing, it received %d", received),
		expect(rejected == 40, "the retry interceptor should not retry rejections: %d rejections for 40 calls", rejected),
	)
}

func (s *scenario) recovery(ctx context.Context) error {
	s.backend.heal()
	s.say("  the server answers again; calls are rejected until the open period is over")
	t, err := s.calls(ctx, 600, func() bool { return s.expectState(breaker.Closed) == nil })
	if err != nil {
		return err
	}
	s.say("  the server answered %d calls, the fallback %d; %d were rejected", t.ok, t.fellBack, t.rejected)
	probes := s.client.probes()
	return errors.Join(
		expect(t.failed == 0, "no call should fail any more: %+v", t),
		expect(probes >= 4, "two probes each should have closed the two breakers, %d succeeded", probes),
		s.expectState(breaker.Closed),
	)
}

// expectState checks that both breakers are in the wanted state.
func (s *scenario) expectState(want breaker.State) error {
	n := 0
	for key, b := range s.client.group.All() {
		n++
		if got := b.State(); got != want {
			return fmt.Errorf("breaker %q is %v, want %v", key, got, want)
		}
	}
	return expect(n == 2, "there should be two breakers, one a method; there are %d", n)
}

func expect(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// serve makes calls until ctx is done, with an outage of ten seconds in every thirty.
func (s *scenario) serve(ctx context.Context, addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(s.client.registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	go s.weather(ctx)
	go func() { _, _ = s.calls(ctx, int(^uint(0)>>1), never) }()
	fmt.Fprintf(s.out, "\nServing http://%s/metrics until interrupted.\n", l.Addr())
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *scenario) weather(ctx context.Context) {
	for {
		for _, change := range []struct {
			after time.Duration
			to    func()
		}{{20 * time.Second, func() { s.backend.fail(codes.Unavailable) }}, {10 * time.Second, s.backend.heal}} {
			select {
			case <-ctx.Done():
				return
			case <-time.After(change.after):
				change.to()
			}
		}
	}
}
