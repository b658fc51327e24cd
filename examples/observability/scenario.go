package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// watched are the alerts that must go pending, fire and resolve in the outage. Others may be active too.
var watched = []string{"GrpcBreakerFleetRejects", "GrpcBreakerOutage"}

// patience is how long a step may take. It takes some seconds at most, unless the machine is busy with something else.
const patience = time.Minute

// A scenario drives an outage and compares what the client, Prometheus and the trace sink recorded.
type scenario struct {
	out     *output
	flaky   *backend
	steady  *backend // never fails
	orders  *caller  // of flaky
	pays    *caller  // of steady
	client  *client
	sink    *sink
	prom    *server
	printed map[string]bool
}

// output writes lines with the time since the start. It is safe for concurrent use.
type output struct {
	w     io.Writer
	start time.Time
	mu    sync.Mutex
}

func (o *output) say(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	fmt.Fprintf(o.w, "%6.2fs  %s\n", time.Since(o.start).Seconds(), fmt.Sprintf(format, args...))
}

// Write writes a line of the log.
func (o *output) Write(line []byte) (int, error) {
	o.say("  log: %s", bytes.TrimSpace(line))
	return len(line), nil
}

func (s *scenario) play(ctx context.Context) error {
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"1. Both backends answer.", s.healthy},
		{"2. The backend orders fails every call. Its breaker opens.", s.outage},
		{"3. The alerts go pending, then fire.", s.alarm},
		{"4. The live page, for curl.", s.page},
		{"5. The backend recovers. Probes close the breaker.", s.recovery},
		{"6. The alerts resolve.", s.resolved},
		{"7. Prometheus has the counts that the client made itself.", s.compare},
		{"8. The traces have the transitions.", s.traces},
	} {
		s.out.say("%s", step.name)
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("step %q: %w", step.name, err)
		}
	}
	return nil
}

func (s *scenario) healthy(ctx context.Context) error {
	s.client.start()
	// The counters must be scraped before the outage, or rate() does not include the first failures. The rules must
	// have been evaluated, or checkRules finds them unknown.
	began := time.Now()
	err := until(ctx, patience, "two seconds of scrapes", func(ctx context.Context) (bool, error) {
		return s.prom.scrapedAfter(ctx, began.Add(2*time.Second))
	})
	if err != nil {
		return err
	}
	n, err := s.prom.checkRules(ctx)
	if err != nil {
		return err
	}
	s.out.say("  Prometheus scrapes %s/metrics and evaluates %d rules; in them a minute is a second here", s.client.url, n)
	alerts, err := s.prom.alerts(ctx)
	return errors.Join(err,
		expect(n > 20, "Prometheus should have all rules, it has %d", n),
		expect(len(alerts) == 0, "no alert should be active yet: %v", alerts),
		s.expectState(s.orders, breaker.Closed), s.expectState(s.pays, breaker.Closed))
}

func (s *scenario) outage(ctx context.Context) error {
	s.flaky.fail()
	return until(ctx, patience, "the breaker to open", func(context.Context) (bool, error) {
		return s.expectState(s.orders, breaker.Open) == nil, nil
	})
}

func (s *scenario) alarm(ctx context.Context) error {
	for _, state := range []string{"pending", "firing"} {
		for _, name := range watched {
			err := until(ctx, patience, name+" to be "+state, func(ctx context.Context) (bool, error) {
				alerts, err := s.activeAlerts(ctx)
				a, ok := alerts[name]
				return ok && (a.State == state || a.State == "firing"), err
			})
			if err != nil {
				return err
			}
		}
	}
	// The loop accepts an alert that fires already, because on a busy machine it may have missed the pending state. The
	// series ALERTS has all states.
	for _, name := range watched {
		expr := fmt.Sprintf("count_over_time(ALERTS{alertname=%q,alertstate=\"pending\"}[5m])", name)
		pending, err := s.prom.query(ctx, expr, "grpc_target")
		if err != nil {
			return err
		}
		n := pending[s.orders.target]
		if err := expect(n > 0, "%s was never pending: %v", name, pending); err != nil {
			return err
		}
		s.out.say("  %s was pending in %.0f evaluations and fires now", name, n)
	}
	return nil
}

// activeAlerts returns the active alerts by name and prints each alert once per state. An alert for the steady
// backend is an error.
func (s *scenario) activeAlerts(ctx context.Context) (map[string]alert, error) {
	alerts, err := s.prom.alerts(ctx)
	if err != nil {
		return nil, err
	}
	byName := make(map[string]alert)
	for _, a := range alerts {
		name := a.Labels["alertname"]
		byName[name] = a
		if target := a.Labels["grpc_target"]; target != s.orders.target {
			return nil, fmt.Errorf("%s is active for %q, which does not fail: %v", name, target, a.Labels)
		}
		if key := name + a.State; !s.printed[key] {
			s.printed[key] = true
			s.out.say("  %-8s %s (%s): %s", a.State, name, a.Labels["severity"], a.Annotations["summary"])
		}
	}
	return byName, nil
}

func (s *scenario) page(ctx context.Context) error {
	url := s.client.url + "/debug/breakers/?format=text"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	s.out.say("  curl %s", url)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	for _, line := range lines {
		s.out.say("    %s", line)
	}
	return errors.Join(
		expect(resp.StatusCode == http.StatusOK, "the page answered %s", resp.Status),
		expect(len(lines) >= 3 && strings.Contains(lines[1], s.orders.target), "the failing backend should come first"))
}

func (s *scenario) recovery(ctx context.Context) error {
	s.flaky.heal()
	return until(ctx, patience, "the breaker to close", func(context.Context) (bool, error) {
		return s.expectState(s.orders, breaker.Closed) == nil, nil
	})
}

func (s *scenario) resolved(ctx context.Context) error {
	for _, name := range watched {
		err := until(ctx, patience, name+" to resolve", func(ctx context.Context) (bool, error) {
			alerts, err := s.activeAlerts(ctx)
			_, active := alerts[name]
			return !active, err
		})
		if err != nil {
			return err
		}
		s.out.say("  %s is resolved", name)
	}
	return nil
}

// expectState checks the state of the breaker of a caller's method.
func (s *scenario) expectState(r *caller, want breaker.State) error {
	for key, b := range s.client.group.All() {
		if key.Target == r.target {
			return expect(b.State() == want, "the breaker of %v is %v, want %v", key, b.State(), want)
		}
	}
	return fmt.Errorf("no breaker has the target %q", r.target)
}

func expect(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}
