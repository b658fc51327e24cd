package otelbridge

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// meters is a meter provider of the SDK with a reader that the test controls.
type meters struct {
	reader   *sdkmetric.ManualReader
	provider *sdkmetric.MeterProvider
}

func newMeters(opts ...sdkmetric.Option) meters {
	r := sdkmetric.NewManualReader()
	return meters{r, sdkmetric.NewMeterProvider(append(opts, sdkmetric.WithReader(r))...)}
}

func (m meters) read(tb testing.TB) []metricdata.Metrics {
	tb.Helper()
	var rm metricdata.ResourceMetrics
	if err := m.reader.Collect(tb.Context(), &rm); err != nil {
		tb.Fatal(err)
	}
	var all []metricdata.Metrics
	for _, sm := range rm.ScopeMetrics {
		if sm.Scope.Name != ScopeName {
			tb.Errorf("scope %q, want %q", sm.Scope.Name, ScopeName)
		}
		all = append(all, sm.Metrics...)
	}
	return all
}

// collect returns the value of each series by its name, such as name{attribute=value,…}.
func (m meters) collect(tb testing.TB) map[string]float64 {
	tb.Helper()
	got := make(map[string]float64)
	add := func(name string, set attribute.Set, value float64) {
		var pairs []string
		for _, kv := range set.ToSlice() {
			pairs = append(pairs, string(kv.Key)+"="+kv.Value.AsString())
		}
		slices.Sort(pairs)
		series := strings.TrimPrefix(name, "grpc.client.breaker.")
		if len(pairs) > 0 {
			series += "{" + strings.Join(pairs, ",") + "}"
		}
		if _, twice := got[series]; twice {
			tb.Errorf("%s was collected twice", series)
		}
		got[series] = value
	}
	for _, metric := range m.read(tb) {
		switch data := metric.Data.(type) {
		case metricdata.Sum[int64]:
			for _, p := range data.DataPoints {
				add(metric.Name, p.Attributes, float64(p.Value))
			}
		case metricdata.Sum[float64]:
			for _, p := range data.DataPoints {
				add(metric.Name, p.Attributes, p.Value)
			}
		case metricdata.Gauge[float64]:
			for _, p := range data.DataPoints {
				add(metric.Name, p.Attributes, p.Value)
			}
		default:
			tb.Errorf("%s: unexpected %T", metric.Name, data)
		}
	}
	return got
}

func newGroup(tb testing.TB, cfg breaker.Config, opts ...breaker.GroupOption) *breaker.Group {
	tb.Helper()
	g, err := breaker.NewGroup(cfg, opts...)
	if err != nil {
		tb.Fatal(err)
	}
	return g
}

func register(tb testing.TB, g *breaker.Group, m meters, opts ...Option) {
	tb.Helper()
	r, err := RegisterMetrics(g, append(opts, WithMeterProvider(m.provider))...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := r.Unregister(); err != nil {
			tb.Error(err)
		}
	})
}

// wantSeries returns the series of a group that was not collected before, computed from its Snapshots independently of
// the package.
func wantSeries(g *breaker.Group) map[string]float64 { return wantSomeSeries(g, false) }

// wantSomeSeries is wantSeries, and with WithAllSeries if all is true.
func wantSomeSeries(g *breaker.Group, all bool) map[string]float64 {
	want := make(map[string]float64)
	for _, b := range g.All() {
		s := b.Snapshot()
		key := fmt.Sprintf("grpc.method=%s,grpc.service=%s,grpc.target=%s", s.Key.Method, s.Key.Service, s.Key.Target)
		tag := ",tag=" + s.Key.Tag
		plain := func(name string, v float64) { want[name+"{"+key+tag+"}"] = v }
		by := func(name, attr, value string, v float64) { want[name+"{"+key+","+attr+"="+value+tag+"}"] = v }
		// A counter that is left out unless it is above 0, or if possible.
		byIf := func(possible bool, name, attr, value string, n uint64) {
			if all || possible || n > 0 {
				by(name, attr, value, float64(n))
			}
		}
		slow, cfg, shadow := s.Config.SlowCall > 0, s.Config, s.Mode == breaker.Shadow
		for _, state := range []string{"closed", "half_open", "open"} {
			by("state", "state", state, 0)
		}
		by("state", "state", s.State.String(), 1)
		for _, mode := range []string{"force_open", "force_closed", "shadow"} {
			by("override", "mode", mode, 0)
		}
		if s.Mode != 0 {
			by("override", "mode", s.Mode.String(), 1)
		}
		plain("ready", map[bool]float64{true: 1}[s.Ready])
		by("calls", "outcome", "success", float64(s.Successes))
		by("calls", "outcome", "failure", float64(s.Failures))
		by("calls", "outcome", "overload", float64(s.Overloads))
		by("calls", "outcome", "ignored", float64(s.Ignored))
		if all || slow || s.SlowCalls > 0 {
			plain("slow_calls", float64(s.SlowCalls))
		}
		plain("late_results", float64(s.Late))

		reasons := func(name string, c breaker.ReasonCounts, on, forced bool) {
			byIf(on, name, "reason", "open", c.Open)
			byIf(on, name, "reason", "half_open", c.HalfOpen)
			byIf(on && cfg.Ramp > 0, name, "reason", "ramp", c.Ramp)
			byIf(forced, name, "reason", "forced", c.Forced)
			byIf(on && cfg.MaxConcurrent > 0, name, "reason", "concurrency", c.Concurrency)
		}
		reasons("rejections", s.Rejections, true, s.Override != breaker.Override{})
		reasons("shadow_rejections", s.ShadowRejections, shadow || s.ShadowRejections != breaker.ReasonCounts{}, false)
		rules := func(name string, c breaker.RuleCounts, on bool) {
			byIf(on && cfg.ConsecutiveFailures > 0, name, "rule", "consecutive", c.Consecutive)
			byIf(on && cfg.FailureRatio > 0, name, "rule", "ratio", c.Ratio)
			byIf(on && slow, name, "rule", "slow", c.Slow)
			byIf(on && s.CustomRule, name, "rule", "custom", c.Custom)
			byIf(false, name, "rule", "manual", c.Manual)
		}
		rules("trips", s.Trips, true)
		rules("shadow_trips", s.ShadowTrips, shadow || s.ShadowTrips != breaker.RuleCounts{})

		plain("recoveries", float64(s.Recoveries))
		by("probes", "result", "success", float64(s.Probes.Success))
		by("probes", "result", "failure", float64(s.Probes.Failure))
		by("probes", "result", "ignored", float64(s.Probes.Ignored))
		by("probes", "result", "lost", float64(s.Probes.Lost))
		plain("open", s.NotClosed.Seconds())
		plain("state_entered_timestamp", float64(s.Since.UnixNano())/1e9)
		rejects := s.Mode == 0 || s.Mode == breaker.ForceOpen
		if s.Underlying == breaker.Open && rejects {
			plain("open_until_timestamp", float64(s.OpenUntil.UnixNano())/1e9)
		}
		if s.Underlying != breaker.Closed && rejects {
			plain("outage_started_timestamp", float64(s.Outage.At.UnixNano())/1e9)
		}
		if s.Underlying == breaker.Closed && s.Window.Calls() > 0 && s.Window.Calls() >= s.MinCalls {
			plain("failure_ratio", s.Window.FailureRatio())
		}
		// B6: slow calls that their callers canceled count only for the slow rule.
		timed := s.Window.Calls() + s.Window.SlowCanceled
		if s.Underlying == breaker.Closed && timed > 0 && timed >= s.MinCalls && (all || slow) {
			plain("slow_ratio", float64(s.Window.Slow)/float64(timed))
		}
		plain("in_flight", float64(s.InFlight))
		fellBack := s.Fallbacks != breaker.FallbackCounts{}
		byIf(fellBack, "fallbacks", "result", "served", s.Fallbacks.Served)
		byIf(fellBack, "fallbacks", "result", "failed", s.Fallbacks.Failed)
	}
	stats := g.Stats()
	want["breakers"] = float64(stats.Breakers)
	want["evictions"] = float64(stats.Evictions)
	want["overflow"] = float64(stats.Overflow)
	want["unguarded"] = float64(stats.Unguarded)
	return want
}

// schedule makes random calls to the breakers of a group.
type schedule struct {
	*rand.Rand
	group   *breaker.Group
	permits []breaker.Permit
}

func (s *schedule) key() breaker.Key {
	return breaker.Key{
		Target: "passthrough:///x", Service: "pkg.Svc",
		Method: string(rune('A' + s.IntN(5))), Tag: []string{"", "gold"}[s.IntN(2)],
	}
}

// outcomes has failures twice, so that breakers open more often.
var outcomes = [...]breaker.Outcome{
	breaker.Success, breaker.Failure, breaker.Failure, breaker.Overload, breaker.Ignored,
}

func (s *schedule) step(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	b := s.group.Get(s.key())
	switch n := s.IntN(100); {
	case n < 45:
		if p, err := b.Acquire(ctx); err == nil {
			s.permits = append(s.permits, p)
		}
	case n < 80 && len(s.permits) > 0:
		i := s.IntN(len(s.permits))
		s.permits[i].Report(ctx, breaker.Report{
			Outcome:  outcomes[s.IntN(len(outcomes))],
			Canceled: s.IntN(2) == 0,
		})
		s.permits = slices.Delete(s.permits, i, i+1)
	case n < 90:
		time.Sleep(time.Duration(s.Int64N(int64(400 * time.Millisecond))))
	case n < 92:
		b.CountFallback(s.IntN(2) == 0)
	case n < 93:
		s.group.CountUnguarded()
	case n < 94:
		b.Trip(ctx, "test")
	case n < 95:
		b.Reset(ctx)
	case n < 97:
		o := breaker.Override{Mode: breaker.Mode(1 + s.IntN(3)), Why: "test", By: "test"}
		if s.IntN(2) == 0 {
			o.TTL = time.Second
		}
		if err := b.SetOverride(ctx, o); err != nil {
			t.Fatal(err)
		}
	case n < 99:
		b.ClearOverride(ctx)
	default:
		time.Sleep(12 * time.Second)
	}
}

// neverFall checks that no counter is lower than in the earlier collection, if that had it.
func neverFall(t *testing.T, before, now map[string]float64) {
	t.Helper()
	for name, v := range now {
		base, _, _ := strings.Cut(name, "{")
		switch base {
		case "state", "override", "ready", "in_flight", "breakers", "state_entered_timestamp", "failure_ratio", "slow_ratio",
			"open_until_timestamp", "outage_started_timestamp":
		default:
			if was, ok := before[name]; ok && v < was {
				t.Errorf("%s falls from %v to %v", name, was, v)
			}
		}
	}
}

// O5: every value agrees with Snapshot, over random schedules. A registration that has seen earlier breakers of a key
// has higher counters, and none of them falls.
func TestO5_AgreesWithSnapshot(t *testing.T) {
	seen := make(map[string]bool) // the series that were ever different from 0
	for seed := range uint64(16) {
		synctest.Test(t, func(t *testing.T) {
			cfg := breaker.Config{
				ConsecutiveFailures: 3, FailingFor: -1, MinCalls: 4, Window: 2 * time.Second,
				SlowCall: 150 * time.Millisecond, SlowRatio: 0.9, OpenFor: 300 * time.Millisecond,
				ProbeTimeout: 400 * time.Millisecond, SuccessesToClose: 1, Ramp: time.Second, MaxConcurrent: 8,
			}
			if seed%2 == 0 { // so that the other rules open breakers too
				cfg.ConsecutiveFailures, cfg.FailureRatio = -1, -1
			}
			trip := func(c breaker.Counts) bool { return seed%4 == 0 && c.Overloads > 3 }
			g := newGroup(t, cfg, breaker.WithMaxBreakers(6), breaker.WithTrip(trip))
			old := newMeters()
			register(t, g, old)
			var seenBefore map[string]float64
			s := &schedule{Rand: rand.New(rand.NewPCG(seed, 0)), group: g}
			for step := range 1500 {
				s.step(t)
				if step%50 != 0 {
					continue
				}
				all := old.collect(t)
				neverFall(t, seenBefore, all)
				seenBefore = all
				before := wantSeries(g)
				m := newMeters() // it has not seen earlier breakers
				register(t, g, m)
				got := m.collect(t)
				if diff := cmp.Diff(got, before); diff != "" {
					t.Fatalf("seed %d, step %d: (-got +want)\n%s", seed, step, diff)
				}
				m = newMeters()
				register(t, g, m, WithAllSeries())
				if diff := cmp.Diff(m.collect(t), wantSomeSeries(g, true)); diff != "" {
					t.Fatalf("seed %d, step %d: all series (-got +want)\n%s", seed, step, diff)
				}
				if diff := cmp.Diff(wantSeries(g), before); diff != "" { // B14
					t.Fatalf("seed %d, step %d: collecting changed (-got +want)\n%s", seed, step, diff)
				}
				for name, v := range got {
					if v != 0 {
						seen[family(name)] = true
					}
				}
			}
		})
	}
	// A series that was always 0 was not tested.
	for _, want := range []string{
		"breakers", "calls failure", "calls ignored", "calls overload", "calls success", "evictions", "failure_ratio",
		"fallbacks failed", "fallbacks served", "in_flight", "late_results", "open", "overflow", "override force_closed",
		"open_until_timestamp", "outage_started_timestamp", "ready",
		"override force_open", "override shadow", "probes failure", "probes ignored", "probes lost", "probes success",
		"recoveries", "rejections concurrency", "rejections forced", "rejections half_open", "rejections open",
		"rejections ramp", "shadow_rejections concurrency", "shadow_rejections half_open", "shadow_rejections open",
		"shadow_rejections ramp", "slow_calls", "slow_ratio", "state closed", "state half_open", "state open",
		"state_entered_timestamp", "trips consecutive", "trips custom", "trips manual", "trips ratio",
		"trips slow", "shadow_trips consecutive", "shadow_trips custom", "shadow_trips manual", "shadow_trips ratio",
		"shadow_trips slow", "unguarded",
	} {
		if !seen[want] {
			t.Errorf("%s was 0 in all schedules", want)
		}
		delete(seen, want)
	}
	if len(seen) > 0 {
		t.Errorf("unexpected series: %v", slices.Sorted(maps.Keys(seen)))
	}
}

// family returns the name of a series without the key of its breaker, such as "calls failure".
func family(series string) string {
	name, rest, _ := strings.Cut(series, "{")
	for pair := range strings.SplitSeq(strings.TrimSuffix(rest, "}"), ",") {
		attr, value, _ := strings.Cut(pair, "=")
		switch attr {
		case "state", "mode", "outcome", "reason", "rule", "result":
			return name + " " + value
		}
	}
	return name
}

// The values of a breaker come from one snapshot, so they add up even while calls run.
func TestO5_CollectConcurrentSafe(t *testing.T) {
	cfg := breaker.Config{FailingFor: -1, OpenFor: time.Millisecond, MaxProbes: 4, SuccessesToClose: 1}
	g := newGroup(t, cfg, breaker.WithMaxBreakers(4))
	m := newMeters()
	register(t, g, m)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 0))
			for {
				select {
				case <-stop:
					return
				default:
				}
				b := g.Get(breaker.Key{Method: string(rune('A' + r.IntN(6)))})
				if p, err := b.Acquire(t.Context()); err == nil {
					p.Done(t.Context(), breaker.Outcome(r.IntN(2)))
				}
			}
		})
	}
	for range 50 {
		states := make(map[string]float64)
		for series, v := range m.collect(t) {
			if name, key, _ := strings.Cut(series, "{"); name == "state" {
				method, _, _ := strings.Cut(key, ",")
				states[method] += v
			}
		}
		for key, n := range states {
			if n != 1 {
				t.Errorf("%s is in %v states, want 1", key, n)
			}
		}
	}
	close(stop)
	wg.Wait()
}

func reloads() (succeeded, failed uint64, lastSuccess time.Time) { return 3, 1, time.Unix(1e9, 5e8) }

// The names and kinds of the metrics are those of the package documentation.
func TestMetricNames(t *testing.T) {
	m := newMeters()
	g := newGroup(t, breaker.Config{MinCalls: 1})
	register(t, g, m, WithAllSeries(), WithPolicyReloads(reloads))
	g.Get(breaker.Key{}).Trip(t.Context(), "test")
	p, err := g.Get(orders).Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p.Done(t.Context(), breaker.Success)
	var got []string
	for _, metric := range m.read(t) {
		kind := "?"
		switch data := metric.Data.(type) {
		case metricdata.Sum[int64]:
			kind = fmt.Sprintf("sum %v monotonic=%v", data.Temporality, data.IsMonotonic)
		case metricdata.Sum[float64]:
			kind = fmt.Sprintf("sum %v monotonic=%v", data.Temporality, data.IsMonotonic)
		case metricdata.Gauge[float64]:
			kind = "gauge"
		}
		got = append(got, fmt.Sprintf("%s %s %s", metric.Name, metric.Unit, kind))
		if metric.Description == "" {
			t.Errorf("%s has no description", metric.Name)
		}
	}
	slices.Sort(got)
	const counter, upDown = "sum CumulativeTemporality monotonic=true", "sum CumulativeTemporality monotonic=false"
	want := []string{
		"grpc.client.breaker.breakers {breaker} " + upDown,
		"grpc.client.breaker.calls {call} " + counter,
		"grpc.client.breaker.evictions {breaker} " + counter,
		"grpc.client.breaker.failure_ratio 1 gauge",
		"grpc.client.breaker.fallbacks {call} " + counter,
		"grpc.client.breaker.in_flight {call} " + upDown,
		"grpc.client.breaker.late_results {result} " + counter,
		"grpc.client.breaker.open s " + counter,
		"grpc.client.breaker.open_until_timestamp s gauge",
		"grpc.client.breaker.outage_started_timestamp s gauge",
		"grpc.client.breaker.overflow {call} " + counter,
		"grpc.client.breaker.override {breaker} " + upDown,
		"grpc.client.breaker.policy_last_success_timestamp s gauge",
		"grpc.client.breaker.policy_reloads {reload} " + counter,
		"grpc.client.breaker.probes {probe} " + counter,
		"grpc.client.breaker.ready {breaker} " + upDown,
		"grpc.client.breaker.recoveries {recovery} " + counter,
		"grpc.client.breaker.rejections {call} " + counter,
		"grpc.client.breaker.shadow_rejections {call} " + counter,
		"grpc.client.breaker.shadow_trips {trip} " + counter,
		"grpc.client.breaker.slow_calls {call} " + counter,
		"grpc.client.breaker.slow_ratio 1 gauge",
		"grpc.client.breaker.state {breaker} " + upDown,
		"grpc.client.breaker.state_entered_timestamp s gauge",
		"grpc.client.breaker.trips {trip} " + counter,
		"grpc.client.breaker.unguarded {call} " + counter,
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("instruments (-got +want):\n%s", diff)
	}
}

// A key may contain any bytes. Keys that differ have different series, and all attributes are valid UTF-8.
func TestMetricsOfOddKeys(t *testing.T) {
	m := newMeters()
	g := newGroup(t, breaker.Config{})
	register(t, g, m)
	for i, k := range []breaker.Key{{Tag: "\xff"}, {Tag: `\xff`}, {Tag: "\uFFFD"}} {
		for range i + 1 {
			g.Get(k).CountFallback(true)
		}
	}
	got := m.collect(t)
	for series, want := range map[string]float64{
		`fallbacks{grpc.method=,grpc.service=,grpc.target=,result=served,tag=\xff}`:   1,
		`fallbacks{grpc.method=,grpc.service=,grpc.target=,result=served,tag=\\xff}`:  2,
		"fallbacks{grpc.method=,grpc.service=,grpc.target=,result=served,tag=\uFFFD}": 3,
	} {
		if v, ok := got[series]; !ok || v != want {
			t.Errorf("%s is %v (%v), want %v", series, v, ok, want)
		}
	}
}

// B33: the series of a breaker end when it leaves the group.
func TestMetricsEndWithTheirBreaker(t *testing.T) {
	m := newMeters()
	g := newGroup(t, breaker.Config{}, breaker.WithMaxBreakers(1))
	register(t, g, m)
	for _, method := range []string{"A", "B"} {
		g.Get(breaker.Key{Method: method})
		got := m.collect(t)
		if diff := cmp.Diff(got, wantSeries(g)); diff != "" {
			t.Errorf("%s (-got +want):\n%s", method, diff)
		}
		if got["breakers"] != 1 {
			t.Errorf("%s: %v breakers, want 1", method, got["breakers"])
		}
	}
}

// B40: a breaker that no call has used during the idle timeout has no series. If a call uses it again, they continue
// from their last values.
func TestB40_IdleBreakersHaveNoSeries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const idle = time.Minute
		m := newMeters()
		g := newGroup(t, breaker.Config{}, breaker.WithIdleTimeout(idle))
		register(t, g, m)
		call := func() {
			p, err := g.Get(orders).Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			p.Done(t.Context(), breaker.Failure)
		}
		call()
		groupSeries := map[string]float64{"breakers": 1, "evictions": 0, "overflow": 0, "unguarded": 0}
		time.Sleep(idle - time.Nanosecond)
		if got := m.collect(t); len(got) <= len(groupSeries) {
			t.Errorf("before the idle timeout: %v, want the series of the breaker too", got)
		}
		time.Sleep(time.Second + time.Nanosecond) // the time of the last use is known to a tenth of the window
		if diff := cmp.Diff(m.collect(t), groupSeries); diff != "" {
			t.Errorf("idle (-got +want):\n%s", diff)
		}
		call()
		got := m.collect(t)
		if diff := cmp.Diff(got, wantSeries(g)); diff != "" {
			t.Errorf("used again (-got +want):\n%s", diff)
		}
		if got := series(got, "calls{", "outcome=failure"); got != 2 {
			t.Errorf("used again: %v failures, want 2", got)
		}
	})
}

// B6: while a backend hangs and all callers cancel, the slow ratio exists and the failure ratio does not.
func TestO5_RatiosOfCanceledCalls(t *testing.T) {
	m := newMeters()
	g := newGroup(t, breaker.Config{SlowCall: time.Minute, SlowRatio: 1, MinCalls: 2})
	register(t, g, m)
	b := g.Get(orders)
	for range 2 {
		p, err := b.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p.Report(t.Context(), breaker.Report{Outcome: breaker.Ignored, Canceled: true, Latency: time.Hour})
	}
	ratios := map[string]float64{}
	for series, v := range m.collect(t) {
		if name := family(series); strings.HasSuffix(name, "_ratio") {
			ratios[name] = v
		}
	}
	if diff := cmp.Diff(ratios, map[string]float64{"slow_ratio": 1}); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}

func TestUnregister(t *testing.T) {
	m := newMeters()
	g := newGroup(t, breaker.Config{})
	r, err := RegisterMetrics(g, WithMeterProvider(m.provider))
	if err != nil {
		t.Fatal(err)
	}
	if len(m.collect(t)) == 0 {
		t.Error("no series")
	}
	if err := r.Unregister(); err != nil {
		t.Error(err)
	}
	if got := m.collect(t); len(got) != 0 {
		t.Errorf("%d series after Unregister, want none", len(got))
	}
}

func TestRegisterMetricsWithNilGroup(t *testing.T) {
	m := newMeters()
	r, err := RegisterMetrics(nil, WithMeterProvider(m.provider))
	if err == nil || r != nil {
		t.Fatalf("got %v, %v, want an error", r, err)
	}
	if got, want := err.Error(), "otelbridge: RegisterMetrics: the group is nil"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// badMeter fails to make the instrument with the name bad. If bad is "callback", it fails to register callbacks.
type badMeter struct {
	noop.Meter
	bad string
}

type badMeters struct {
	noop.MeterProvider
	meter badMeter
}

var errBad = errors.New("bad instrument")

func (m badMeters) Meter(string, ...metric.MeterOption) metric.Meter { return m.meter }

func (m badMeter) Int64ObservableCounter(
	name string, _ ...metric.Int64ObservableCounterOption,
) (metric.Int64ObservableCounter, error) {
	return noop.Int64ObservableCounter{}, m.check(name)
}

func (m badMeter) Int64ObservableUpDownCounter(
	name string, _ ...metric.Int64ObservableUpDownCounterOption,
) (metric.Int64ObservableUpDownCounter, error) {
	return noop.Int64ObservableUpDownCounter{}, m.check(name)
}

func (m badMeter) Float64ObservableCounter(
	name string, _ ...metric.Float64ObservableCounterOption,
) (metric.Float64ObservableCounter, error) {
	return noop.Float64ObservableCounter{}, m.check(name)
}

func (m badMeter) Float64ObservableGauge(
	name string, _ ...metric.Float64ObservableGaugeOption,
) (metric.Float64ObservableGauge, error) {
	return noop.Float64ObservableGauge{}, m.check(name)
}

func (m badMeter) RegisterCallback(metric.Callback, ...metric.Observable) (metric.Registration, error) {
	return noop.Registration{}, m.check("callback")
}

func (m badMeter) check(name string) error {
	if name == m.bad {
		return errBad
	}
	return nil
}

func TestRegisterMetricsWithBadMeter(t *testing.T) {
	g := newGroup(t, breaker.Config{})
	for _, bad := range []string{
		"callback", "grpc.client.breaker.state", "grpc.client.breaker.calls", "grpc.client.breaker.open",
		"grpc.client.breaker.failure_ratio",
	} {
		r, err := RegisterMetrics(g, WithMeterProvider(badMeters{meter: badMeter{bad: bad}}))
		if !errors.Is(err, errBad) || r != nil {
			t.Errorf("%s: got %v, %v, want the meter's error", bad, r, err)
		}
	}
	if _, err := RegisterMetrics(g, WithMeterProvider(badMeters{})); err != nil {
		t.Error(err)
	}
}

// A key whose breaker is replaced while a reader collects is reported once.
func TestO5_KeyYieldedTwice(t *testing.T) {
	m := newMeters()
	meter := m.provider.Meter(ScopeName)
	in, err := newInstruments(meter, options{})
	if err != nil {
		t.Fatal(err)
	}
	g := newGroup(t, breaker.Config{})
	b := g.Get(breaker.Key{})
	b.CountFallback(true)
	twice := func(yield func(breaker.Key, *breaker.Breaker) bool) {
		for range 2 {
			if !yield(b.Key(), b) {
				return
			}
		}
	}
	if _, err := meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		in.observeBreakers(o, g, twice, newTotals(false), 1)
		return nil
	}, in.all...); err != nil {
		t.Fatal(err)
	}
	got, want := m.collect(t), wantSeries(g)
	for _, name := range []string{"breakers", "evictions", "overflow", "unguarded"} {
		delete(want, name)
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}

// B11: counters that saturate in Snapshot saturate here too.
func TestToInt64(t *testing.T) {
	for n, want := range map[uint64]int64{
		0: 0, 7: 7, math.MaxInt64: math.MaxInt64, math.MaxInt64 + 1: math.MaxInt64, math.MaxUint64: math.MaxInt64,
	} {
		if got := toInt64(n); got != want {
			t.Errorf("toInt64(%d): got %d, want %d", n, got, want)
		}
	}
}
