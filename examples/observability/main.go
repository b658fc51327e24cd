// Observability shows an outage as a person on call sees it. On 127.0.0.1 it starts two gRPC servers, a client with
// circuit breakers and the live page, a receiver of OTLP traces, and Prometheus with the rules in
// monitoring/prometheus. One server fails and recovers. The program checks through Prometheus's HTTP API that the
// alerts went pending, fired and resolved, and that the counters equal the client's own counts. It takes about 20 s:
//
//	go -C examples/observability run .          # exits with status 0 only if every step happened
//	go -C examples/observability run . -serve   # runs until interrupted, with an outage each 90 s, and prints its URLs
//
// It needs the program prometheus; on Debian: apt-get install prometheus. Without it the exit status is 2.
//
// The rules are copies in a temporary directory, in which a minute is a second.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	serve := flag.Bool("serve", false, "go on after the scenario, with an outage each 90 s, until interrupted")
	rules := flag.String("rules", "../../monitoring/prometheus", "the directory with rules.yaml and alerts.yaml")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, os.Stdout, *rules, *serve)
	stop()
	switch {
	case errors.Is(err, errNoPrometheus):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "FAILED:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, w io.Writer, rules string, serve bool) (err error) {
	s := &scenario{out: &output{w: w, start: time.Now()}, printed: make(map[string]bool)}
	if s.sink, err = startSink(); err != nil {
		return err
	}
	defer s.sink.stop()
	if s.flaky, err = startBackend("orders"); err != nil {
		return err
	}
	defer s.flaky.stop()
	if s.steady, err = startBackend("payments"); err != nil {
		return err
	}
	defer s.steady.stop()
	if s.client, err = newClient(ctx, s.sink.addr, slog.New(slog.NewTextHandler(s.out, logOptions))); err != nil {
		return err
	}
	defer s.client.close()
	if s.orders, err = s.client.connect(s.flaky); err != nil {
		return err
	}
	if s.pays, err = s.client.connect(s.steady); err != nil {
		return err
	}
	if s.prom, err = startPrometheus(ctx, rules, strings.TrimPrefix(s.client.url, "http://")); err != nil {
		return err
	}
	defer s.prom.stop()
	if err := s.printURLs(ctx); err != nil {
		return err
	}
	if err := s.play(ctx); err != nil {
		return err
	}
	s.out.say("Every step happened as expected.")
	if serve {
		return s.serve(ctx)
	}
	return nil
}

// logOptions leave out the time, which each line of output has already.
var logOptions = &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}}

// printURLs prints the addresses for a browser and checks that they have a page.
func (s *scenario) printURLs(ctx context.Context) error {
	alerts := s.prom.url + "/alerts"
	if status, err := statusOf(ctx, alerts); err == nil && status == http.StatusNotFound {
		alerts = s.prom.url + "/classic/alerts" // Debian's Prometheus has no other pages
	}
	for _, page := range []struct{ name, url string }{
		{"live page", s.client.url + "/debug/breakers/"}, {"metrics", s.client.url + "/metrics"}, {"Prometheus", alerts},
	} {
		status, err := statusOf(ctx, page.url)
		if err := errors.Join(err, expect(status == http.StatusOK, "%s: status %d", page.url, status)); err != nil {
			return err
		}
		s.out.say("%-11s %s", page.name, page.url)
	}
	s.out.say("%-11s %s", "OTLP sink", s.sink.addr)
	return nil
}

func statusOf(ctx context.Context, url string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// serve makes calls until ctx ends. In each 90 s, the backend orders fails for 30 s.
func (s *scenario) serve(ctx context.Context) error {
	s.out.say("Running until interrupted.")
	if err := s.printURLs(ctx); err != nil {
		return err
	}
	s.client.start()
	for {
		for _, change := range []struct {
			after time.Duration
			to    func()
		}{{60 * time.Second, s.flaky.fail}, {30 * time.Second, s.flaky.heal}} {
			select {
			case <-ctx.Done():
				return nil
			case <-s.prom.exited:
				return s.prom.alive()
			case <-time.After(change.after):
				change.to()
			}
		}
	}
}
