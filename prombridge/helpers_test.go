package prombridge

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"github.com/grpcircuit/grpcircuit/breaker"
)

const prefix = "grpc_client_breaker_"

func newGroup(tb testing.TB, cfg breaker.Config, opts ...breaker.GroupOption) *breaker.Group {
	tb.Helper()
	g, err := breaker.NewGroup(cfg, opts...)
	if err != nil {
		tb.Fatal(err)
	}
	return g
}

// registry returns a pedantic registry, which checks that collected metrics were described.
func registry(tb testing.TB, cs ...prometheus.Collector) *prometheus.Registry {
	tb.Helper()
	reg := prometheus.NewPedanticRegistry()
	for _, c := range cs {
		if err := reg.Register(c); err != nil {
			tb.Fatal(err)
		}
	}
	return reg
}

// call makes a call that ends immediately.
func call(tb testing.TB, b *breaker.Breaker, outcome breaker.Outcome) {
	tb.Helper()
	p, err := b.Acquire(tb.Context())
	if err != nil {
		tb.Fatalf("Acquire: %v", err)
	}
	p.Done(tb.Context(), outcome)
}

// fatal has the methods that *testing.T and *rapid.T have in common.
type fatal interface {
	Helper()
	Fatalf(format string, args ...any)
}

// scraped holds the values of a scrape by key and series, such as `calls_total{outcome="success"}`.
type scraped map[breaker.Key]map[string]float64

// groupItself is the key in scraped of the series of the group.
var groupItself = breaker.Key{Tag: "(the group itself)"}

// scrape returns the values of reg. The value of a histogram is its number of observations.
func scrape(t fatal, reg prometheus.Gatherer) scraped {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatalf("Gather: %v", err)
	}
	got := make(scraped)
	for _, f := range families {
		name, ok := strings.CutPrefix(f.GetName(), prefix)
		if !ok {
			t.Fatalf("metric %q, want %q before it", f.GetName(), prefix)
		}
		for _, m := range f.GetMetric() {
			key, series := keyOf(name, m)
			if got[key] == nil {
				got[key] = make(map[string]float64)
			}
			if _, twice := got[key][series]; twice {
				t.Fatalf("%v has %s twice", key, series)
			}
			got[key][series] = valueOf(m)
		}
	}
	return got
}

func keyOf(name string, m *dto.Metric) (key breaker.Key, series string) {
	series = name
	if len(m.GetLabel()) == 0 {
		return groupItself, series
	}
	for _, l := range m.GetLabel() {
		switch l.GetName() {
		case "grpc_target":
			key.Target = l.GetValue()
		case "grpc_service":
			key.Service = l.GetValue()
		case "grpc_method":
			key.Method = l.GetValue()
		case "tag":
			key.Tag = l.GetValue()
		default:
			series += "{" + l.GetName() + "=" + strconv.Quote(l.GetValue()) + "}"
		}
	}
	return key, series
}

func valueOf(m *dto.Metric) float64 {
	switch {
	case m.GetCounter() != nil:
		return m.GetCounter().GetValue()
	case m.GetGauge() != nil:
		return m.GetGauge().GetValue()
	default:
		return float64(m.GetHistogram().GetSampleCount())
	}
}

// seriesName returns the name that scraped has for a series of f.
func seriesName(f family, def seriesDef) string {
	if f.label == "" {
		return f.name
	}
	return f.name + "{" + f.label + "=" + strconv.Quote(def.value) + "}"
}

// text returns a scrape in the text format.
func text(tb testing.TB, reg prometheus.Gatherer) string {
	tb.Helper()
	rec := httptest.NewRecorder()
	req := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(rec, req)
	if rec.Code != http.StatusOK {
		tb.Fatalf("scrape: status %d: %s", rec.Code, rec.Body)
	}
	return rec.Body.String()
}

// wantSeries returns the series of a breaker with snapshot s. It states the tables in testdata/design.md and doc.go
// independently of the package.
func wantSeries(s breaker.Snapshot) map[string]float64 {
	m := wantAllSeries(s)
	on := s.Config
	shadow := s.Mode == breaker.Shadow
	rejections := shadow || s.ShadowRejections != breaker.ReasonCounts{}
	trips := shadow || s.ShadowTrips != breaker.RuleCounts{}
	for series, possible := range map[string]bool{
		`slow_calls_total`:                              on.SlowCall > 0,
		`rejections_total{reason="ramp"}`:               on.Ramp > 0,
		`rejections_total{reason="forced"}`:             s.Override != breaker.Override{},
		`rejections_total{reason="concurrency"}`:        on.MaxConcurrent > 0,
		`trips_total{rule="consecutive"}`:               on.ConsecutiveFailures > 0,
		`trips_total{rule="ratio"}`:                     on.FailureRatio > 0,
		`trips_total{rule="slow"}`:                      on.SlowCall > 0,
		`trips_total{rule="custom"}`:                    s.CustomRule,
		`trips_total{rule="manual"}`:                    false,
		`shadow_rejections_total{reason="open"}`:        rejections,
		`shadow_rejections_total{reason="half_open"}`:   rejections,
		`shadow_rejections_total{reason="ramp"}`:        on.Ramp > 0 && rejections,
		`shadow_rejections_total{reason="forced"}`:      false, // a breaker in shadow mode is not forced open
		`shadow_rejections_total{reason="concurrency"}`: on.MaxConcurrent > 0 && rejections,
		`shadow_trips_total{rule="consecutive"}`:        on.ConsecutiveFailures > 0 && trips,
		`shadow_trips_total{rule="ratio"}`:              on.FailureRatio > 0 && trips,
		`shadow_trips_total{rule="slow"}`:               on.SlowCall > 0 && trips,
		`shadow_trips_total{rule="custom"}`:             s.CustomRule && trips,
		`shadow_trips_total{rule="manual"}`:             false,
		`fallbacks_total{result="served"}`:              s.Fallbacks != breaker.FallbackCounts{},
		`fallbacks_total{result="failed"}`:              s.Fallbacks != breaker.FallbackCounts{},
	} {
		if m[series] == 0 && !possible {
			delete(m, series)
		}
	}
	if on.SlowCall <= 0 {
		delete(m, `slow_ratio`)
	}
	return m
}

// wantAllSeries is wantSeries with WithAllSeries.
func wantAllSeries(s breaker.Snapshot) map[string]float64 {
	is := map[bool]float64{true: 1}
	m := map[string]float64{
		`state{state="closed"}`:         is[s.State == breaker.Closed],
		`state{state="half_open"}`:      is[s.State == breaker.HalfOpen],
		`state{state="open"}`:           is[s.State == breaker.Open],
		`override{mode="force_open"}`:   is[s.Mode == breaker.ForceOpen],
		`override{mode="force_closed"}`: is[s.Mode == breaker.ForceClosed],
		`override{mode="shadow"}`:       is[s.Mode == breaker.Shadow],

		`ready`: is[s.Ready],

		`calls_total{outcome="success"}`:  float64(s.Successes),
		`calls_total{outcome="failure"}`:  float64(s.Failures),
		`calls_total{outcome="overload"}`: float64(s.Overloads),
		`calls_total{outcome="ignored"}`:  float64(s.Ignored),
		`slow_calls_total`:                float64(s.SlowCalls),
		`late_results_total`:              float64(s.Late),

		`rejections_total{reason="open"}`:               float64(s.Rejections.Open),
		`rejections_total{reason="half_open"}`:          float64(s.Rejections.HalfOpen),
		`rejections_total{reason="ramp"}`:               float64(s.Rejections.Ramp),
		`rejections_total{reason="forced"}`:             float64(s.Rejections.Forced),
		`rejections_total{reason="concurrency"}`:        float64(s.Rejections.Concurrency),
		`shadow_rejections_total{reason="open"}`:        float64(s.ShadowRejections.Open),
		`shadow_rejections_total{reason="half_open"}`:   float64(s.ShadowRejections.HalfOpen),
		`shadow_rejections_total{reason="ramp"}`:        float64(s.ShadowRejections.Ramp),
		`shadow_rejections_total{reason="forced"}`:      float64(s.ShadowRejections.Forced),
		`shadow_rejections_total{reason="concurrency"}`: float64(s.ShadowRejections.Concurrency),

		`trips_total{rule="consecutive"}`: float64(s.Trips.Consecutive),
		`trips_total{rule="ratio"}`:       float64(s.Trips.Ratio),
		`trips_total{rule="slow"}`:        float64(s.Trips.Slow),
		`trips_total{rule="custom"}`:      float64(s.Trips.Custom),
		`trips_total{rule="manual"}`:      float64(s.Trips.Manual),
		`recoveries_total`:                float64(s.Recoveries),

		`shadow_trips_total{rule="consecutive"}`: float64(s.ShadowTrips.Consecutive),
		`shadow_trips_total{rule="ratio"}`:       float64(s.ShadowTrips.Ratio),
		`shadow_trips_total{rule="slow"}`:        float64(s.ShadowTrips.Slow),
		`shadow_trips_total{rule="custom"}`:      float64(s.ShadowTrips.Custom),
		`shadow_trips_total{rule="manual"}`:      float64(s.ShadowTrips.Manual),

		`probes_total{result="success"}`: float64(s.Probes.Success),
		`probes_total{result="failure"}`: float64(s.Probes.Failure),
		`probes_total{result="ignored"}`: float64(s.Probes.Ignored),
		`probes_total{result="lost"}`:    float64(s.Probes.Lost),

		`open_seconds_total`:               s.NotClosed.Seconds(),
		`state_entered_timestamp_seconds`:  float64(s.Since.UnixNano()) / 1e9,
		`in_flight`:                        float64(s.InFlight),
		`fallbacks_total{result="served"}`: float64(s.Fallbacks.Served),
		`fallbacks_total{result="failed"}`: float64(s.Fallbacks.Failed),
	}
	rejects := s.Mode == 0 || s.Mode == breaker.ForceOpen
	if s.Underlying == breaker.Open && rejects {
		m[`open_until_timestamp_seconds`] = float64(s.OpenUntil.UnixNano()) / 1e9
	}
	if s.Underlying != breaker.Closed && rejects {
		m[`outage_started_timestamp_seconds`] = float64(s.Outage.At.UnixNano()) / 1e9
	}
	calls := s.Window.Successes + s.Window.Failures + s.Window.Overloads
	if calls > 0 && calls >= s.MinCalls {
		m[`failure_ratio`] = float64(s.Window.Failures+s.Window.Overloads) / float64(calls)
	}
	if timed := calls + s.Window.SlowCanceled; timed > 0 && timed >= s.MinCalls {
		m[`slow_ratio`] = float64(s.Window.Slow) / float64(timed)
	}
	return m
}

// durationHistogram returns the histogram of NewDurationHistogram.
func durationHistogram(g *breaker.Group, opts ...Option) *DurationHistogram {
	_, h := NewDurationHistogram(g, opts...)
	return h
}
