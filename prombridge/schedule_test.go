package prombridge

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// schedule makes random calls to a group, and records what is known of it from outside.
type schedule struct {
	group   *breaker.Group
	reg     prometheus.Gatherer
	live    map[breaker.Key]*breaker.Breaker
	started map[breaker.Key]uint64 // calls to the breaker in live
	permits []breaker.Permit
}

// pick gets the breaker of one of a few keys. There are more keys than the group can hold.
func (s *schedule) pick(t *rapid.T) *breaker.Breaker {
	b := s.group.Get(breaker.Key{Method: rapid.SampledFrom([]string{`\xff`, "\xff", "a", "b", "c"}).Draw(t, "method")})
	if s.live[b.Key()] != b {
		s.live[b.Key()], s.started[b.Key()] = b, 0
	}
	return b
}

func (s *schedule) call(t *rapid.T) {
	b := s.pick(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if rapid.IntRange(0, 9).Draw(t, "done before") == 0 {
		cancel() // such a call is not counted (B24)
	}
	p, err := b.Acquire(ctx)
	if ctx.Err() != nil {
		return
	}
	s.started[b.Key()]++
	if err == nil {
		s.permits = append(s.permits, p)
	}
}

func (s *schedule) settle(t *rapid.T) {
	if len(s.permits) == 0 {
		t.Skip("no call in flight")
	}
	i := rapid.IntRange(0, len(s.permits)-1).Draw(t, "permit")
	s.permits[i].Report(context.Background(), report(t))
	s.permits = slices.Delete(s.permits, i, i+1)
}

func report(t *rapid.T) breaker.Report {
	return breaker.Report{
		Outcome:  breaker.Outcome(rapid.IntRange(0, 3).Draw(t, "outcome")),
		Canceled: rapid.Bool().Draw(t, "canceled"),
		Latency:  rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second}).Draw(t, "latency"),
	}
}

// burst makes some calls, one after the other, with the same outcome.
func (s *schedule) burst(t *rapid.T) {
	b, r, ctx := s.pick(t), report(t), context.Background()
	for range rapid.IntRange(2, 6).Draw(t, "calls") {
		s.started[b.Key()]++
		if p, err := b.Acquire(ctx); err == nil {
			p.Report(ctx, r)
		}
	}
}

func (s *schedule) byHand(t *rapid.T) {
	b, ctx := s.pick(t), context.Background()
	switch rapid.IntRange(0, 4).Draw(t, "what") {
	case 0:
		b.Trip(ctx, "test")
	case 1:
		b.Reset(ctx)
	case 2:
		b.ClearOverride(ctx)
	case 3:
		b.CountFallback(rapid.Bool().Draw(t, "served"))
	case 4:
		if err := b.SetOverride(ctx, breaker.Override{
			Mode: breaker.Mode(rapid.IntRange(1, 3).Draw(t, "mode")),
			TTL:  rapid.SampledFrom([]time.Duration{0, time.Second}).Draw(t, "ttl"),
			Why:  "test", By: "test",
		}); err != nil {
			t.Fatalf("SetOverride: %v", err)
		}
	}
}

// check compares a scrape with the schedule and the snapshots.
func (s *schedule) check(t *rapid.T) (got scraped) {
	got = scrape(t, s.reg)
	stats := s.group.Stats()
	want := map[string]float64{
		`breakers`: float64(stats.Breakers), `evictions_total`: float64(stats.Evictions),
		`overflow_total`: float64(stats.Overflow), `unguarded_total`: float64(stats.Unguarded),
	}
	if diff := cmp.Diff(got[groupItself], want); diff != "" {
		t.Fatalf("O5: the group (-got +want):\n%s", diff)
	}
	keys := make([]breaker.Key, 0, len(s.live))
	for key := range s.group.All() {
		keys = append(keys, key)
	}
	if len(got) != len(keys)+1 {
		t.Fatalf("B33: series of %d breakers, want of %d", len(got)-1, len(keys))
	}
	for key, label := range labelsOf(t, keys...) {
		b := s.live[key]
		if diff := cmp.Diff(got[label], wantSeries(b.Snapshot())); diff != "" {
			t.Fatalf("O5: %q (-got +want):\n%s", key, diff)
		}
		sum := 0.0
		for _, series := range []string{
			`calls_total{outcome="success"}`, `calls_total{outcome="failure"}`, `calls_total{outcome="overload"}`,
			`calls_total{outcome="ignored"}`, `late_results_total`, `in_flight`, `rejections_total{reason="open"}`,
			`rejections_total{reason="half_open"}`, `rejections_total{reason="ramp"}`, `rejections_total{reason="forced"}`,
			`rejections_total{reason="concurrency"}`,
		} {
			sum += got[label][series]
		}
		if sum != float64(s.started[key]) {
			t.Fatalf("O4: %q: calls, late results, calls in flight and rejections are %v, want the %d calls started",
				key, sum, s.started[key])
		}
	}
	return got
}

// A series that was never above zero was not tested. Some are above zero in only one schedule of twenty, and rapid
// tries 100 schedules, or 20 with -short. So the test goes on until it has seen all of them above zero.
func TestO4_CallsAddUpOverAnySchedule(t *testing.T) {
	const rounds = 50 // far more than needed
	seen := make(map[string]bool)
	for round := 0; round == 0 || (len(unseen(seen)) > 0 && round < rounds); round++ {
		rapid.Check(t, func(rt *rapid.T) {
			// rapid stops a run with a panic, which must reach rapid's goroutine outside the bubble.
			var stopped any
			synctest.Test(t, func(*testing.T) {
				defer func() { stopped = recover() }()
				runSchedule(rt, seen)
			})
			if stopped != nil {
				panic(stopped)
			}
		})
	}
	for _, series := range unseen(seen) {
		t.Errorf("never above zero: %s", series)
	}
}

// unseen returns the names of a breaker's series that are not in seen.
func unseen(seen map[string]bool) (missing []string) {
	for _, f := range breakerFamilies() {
		if strings.HasPrefix(f.name, "shadow_") { // they are part of no sum, and some need too many steps
			continue
		}
		for _, def := range f.series {
			if series := seriesName(f, def); !seen[series] {
				missing = append(missing, series)
			}
		}
	}
	return missing
}

func runSchedule(t *rapid.T, seen map[string]bool) {
	g, err := breaker.NewGroup(
		breaker.Config{
			FailingFor: -1, MinCalls: 4, Window: 10 * time.Second,
			ConsecutiveFailures: rapid.SampledFrom([]int{-1, 3}).Draw(t, "consecutive"),
			SlowCall:            100 * time.Millisecond, SuccessesToClose: 1, Jitter: -1,
			OpenFor: time.Second, MaxProbes: 2, ProbeTimeout: 3 * time.Second, Ramp: 5 * time.Second, MaxConcurrent: 2,
		},
		breaker.WithMaxBreakers(3),
		breaker.WithTrip(func(c breaker.Counts) bool { return c.Overloads > 1 }),
	)
	if err != nil {
		t.Fatalf("NewGroup: %v", err)
	}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(NewCollector(g))
	s := &schedule{
		group: g, reg: reg, live: make(map[breaker.Key]*breaker.Breaker), started: make(map[breaker.Key]uint64),
	}
	wait := func(t *rapid.T) {
		time.Sleep(rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, 4 * time.Second}).Draw(t, "wait"))
	}
	t.Repeat(map[string]func(*rapid.T){
		"call": s.call, "call too": s.call,
		"settle":    s.settle,
		"burst":     s.burst,
		"by hand":   s.byHand,
		"unguarded": func(*rapid.T) { g.CountUnguarded() },
		"wait":      wait,
		"": func(t *rapid.T) {
			for _, series := range s.check(t) {
				for name, v := range series {
					if v > 0 {
						seen[name] = true
					}
				}
			}
		},
	})
}
