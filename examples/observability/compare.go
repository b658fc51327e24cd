package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// compare stops the calls and compares the counters in Prometheus with the counts of the client and the servers.
func (s *scenario) compare(ctx context.Context) error {
	s.client.pause()
	stopped := time.Now()
	err := until(ctx, patience, "a scrape after the last call", func(ctx context.Context) (bool, error) {
		return s.prom.scrapedAfter(ctx, stopped)
	})
	if err != nil {
		return err
	}
	for _, pair := range []struct {
		r *caller
		b *backend
	}{{s.orders, s.flaky}, {s.pays, s.steady}} {
		want := pair.r.counts()
		got, err := s.counters(ctx, pair.r.target)
		if err != nil {
			return err
		}
		s.out.say("  %s", pair.r.target)
		s.out.say("    client:     %v; its server received %d", want, pair.b.received())
		s.out.say("    Prometheus: %v", got)
		if err := errors.Join(
			expect(got == want, "the counters differ from the client's own counts"),
			expect(pair.b.received() == got.success+got.failure, "the server should have received the admitted calls"),
		); err != nil {
			return err
		}
	}
	orders, pays := s.orders.counts(), s.pays.counts()
	return errors.Join(
		expect(orders.success > 0 && orders.failure > 4 && orders.rejected > 0,
			"calls of each kind should have happened: %v", orders),
		expect(pays.success > 0 && pays.failure+pays.rejected == 0, "the other backend should not fail: %v", pays))
}

// counters reads the counters of a target from Prometheus.
func (s *scenario) counters(ctx context.Context, target string) (counts, error) {
	series := func(name string) string { return fmt.Sprintf("grpc_client_breaker_%s{grpc_target=%q}", name, target) }
	calls, err := s.prom.query(ctx, series("calls_total"), "outcome")
	if err != nil {
		return counts{}, err
	}
	rejected, err := s.prom.query(ctx, "sum("+series("rejections_total")+")", "")
	if err != nil {
		return counts{}, err
	}
	late, err := s.prom.query(ctx, series("late_results_total"), "")
	if err != nil {
		return counts{}, err
	}
	return counts{int(calls["success"]), int(calls["failure"]), int(rejected[""])}, errors.Join(
		expect(len(calls) == 4 && len(rejected) == 1 && len(late) == 1,
			"series are missing: %v, %v, %v", calls, rejected, late),
		expect(calls["overload"]+calls["ignored"]+late[""] == 0, "calls of other outcomes: %v, late: %v", calls, late))
}

// traces checks that the transitions of the flaky backend's breaker arrived in the sink as span events.
func (s *scenario) traces(ctx context.Context) error {
	if err := s.client.tracing.ForceFlush(ctx); err != nil {
		return err
	}
	spans, changes := s.sink.received(s.orders.target)
	s.out.say("  the OTLP sink received %d spans", spans)
	seen := make(map[string]bool)
	for _, c := range changes {
		seen[c.attributes["previous_state"]+" -> "+c.attributes["state"]] = true
		s.out.say("  %v", c)
	}
	_, others := s.sink.received(s.pays.target)
	return errors.Join(
		expect(seen["closed -> open"], "no span has the event of the opening"),
		expect(seen["half_open -> closed"], "no span has the event of the closing"),
		expect(len(others) == 0, "the breaker of the other backend changed its state: %v", others))
}
