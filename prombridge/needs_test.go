package prombridge

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/needs"
)

// defaultSeries are the series of a closed breaker with the default Config.
var defaultSeries = []string{
	`calls_total{outcome="failure"}`, `calls_total{outcome="ignored"}`, `calls_total{outcome="overload"}`,
	`calls_total{outcome="success"}`, `failure_ratio`, `in_flight`, `late_results_total`, `open_seconds_total`,
	`override{mode="force_closed"}`, `override{mode="force_open"}`, `override{mode="shadow"}`,
	`probes_total{result="failure"}`, `probes_total{result="ignored"}`, `probes_total{result="lost"}`,
	`probes_total{result="success"}`, `ready`, `recoveries_total`, `rejections_total{reason="half_open"}`,
	`rejections_total{reason="open"}`, `state_entered_timestamp_seconds`, `state{state="closed"}`,
	`state{state="half_open"}`, `state{state="open"}`, `trips_total{rule="consecutive"}`, `trips_total{rule="ratio"}`,
}

// O4: the series of a closed breaker with the default Config, its failure ratio included.
func TestO4_AtMost26SeriesOfAClosedBreaker(t *testing.T) {
	g := newGroup(t, breaker.Config{})
	for range 20 {
		call(t, g.Get(getKey), breaker.Success)
	}
	got := slices.Sorted(maps.Keys(scrape(t, registry(t, NewCollector(g)))[getKey]))
	if diff := cmp.Diff(got, defaultSeries); diff != "" {
		t.Errorf("series (-got +want):\n%s", diff)
	}
	if len(got) > 26 {
		t.Errorf("%d series, want at most 26", len(got))
	}
}

// O4: series that the policy in force cannot raise above 0 are left out, and all others exist.
func TestO4_SeriesFollowThePolicy(t *testing.T) {
	shadow := breaker.Override{Mode: breaker.Shadow, Why: "test", By: "test"}
	shadowSeries := []string{
		`shadow_rejections_total{reason="half_open"}`, `shadow_rejections_total{reason="open"}`,
		`shadow_trips_total{rule="consecutive"}`, `shadow_trips_total{rule="ratio"}`,
	}
	for _, tt := range []struct {
		name     string
		cfg      breaker.Config
		opts     []breaker.GroupOption
		override breaker.Override
		more     []string // series besides defaultSeries
		less     []string
	}{
		{name: "default"},
		{
			name: "slow rule", cfg: breaker.Config{SlowCall: time.Minute},
			more: []string{`slow_calls_total`, `slow_ratio`, `trips_total{rule="slow"}`},
		},
		{name: "slow rule off", cfg: breaker.Config{SlowCall: -1}},
		{name: "ramp", cfg: breaker.Config{Ramp: time.Minute}, more: []string{`rejections_total{reason="ramp"}`}},
		{name: "ramp off", cfg: breaker.Config{Ramp: -1}},
		{
			name: "concurrency", cfg: breaker.Config{MaxConcurrent: 9},
			more: []string{`rejections_total{reason="concurrency"}`},
		},
		{name: "concurrency unlimited", cfg: breaker.Config{MaxConcurrent: -1}},
		{
			name: "consecutive rule off", cfg: breaker.Config{ConsecutiveFailures: -1},
			less: []string{`trips_total{rule="consecutive"}`},
		},
		{
			name: "ratio rule off, and no window", cfg: breaker.Config{FailureRatio: -1},
			less: []string{`trips_total{rule="ratio"}`, `failure_ratio`},
		},
		{
			name: "custom rule", opts: []breaker.GroupOption{breaker.WithTrip(func(breaker.Counts) bool { return false })},
			more: []string{`trips_total{rule="custom"}`},
		},
		{name: "shadow policy", cfg: breaker.Config{Enforcement: breaker.EnforcementShadow}, more: shadowSeries},
		{name: "policy off", cfg: breaker.Config{Enforcement: breaker.EnforcementOff}},
		{
			name: "shadow override", override: shadow,
			more: append([]string{`rejections_total{reason="forced"}`}, shadowSeries...),
		},
		{
			name: "shadow policy with everything",
			cfg: breaker.Config{
				Enforcement: breaker.EnforcementShadow, SlowCall: time.Minute, Ramp: time.Minute, MaxConcurrent: 9,
			},
			opts: []breaker.GroupOption{breaker.WithTrip(func(breaker.Counts) bool { return false })},
			more: append([]string{
				`slow_calls_total`, `slow_ratio`, `trips_total{rule="slow"}`, `trips_total{rule="custom"}`,
				`rejections_total{reason="ramp"}`, `rejections_total{reason="concurrency"}`,
				`shadow_rejections_total{reason="ramp"}`, `shadow_rejections_total{reason="concurrency"}`,
				`shadow_trips_total{rule="slow"}`, `shadow_trips_total{rule="custom"}`,
			}, shadowSeries...),
		},
	} {
		g := newGroup(t, tt.cfg, tt.opts...)
		b := g.Get(getKey)
		if tt.override != (breaker.Override{}) {
			if err := b.SetOverride(t.Context(), tt.override); err != nil {
				t.Fatal(err)
			}
		}
		for range 20 {
			call(t, b, breaker.Success)
		}
		want := map[string]bool{}
		for _, series := range slices.Concat(defaultSeries, tt.more) {
			want[series] = !slices.Contains(tt.less, series)
		}
		maps.DeleteFunc(want, func(_ string, exists bool) bool { return !exists })
		got := map[string]bool{}
		for series := range scrape(t, registry(t, NewCollector(g)))[getKey] {
			got[series] = true
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("%s (-got +want):\n%s", tt.name, diff)
		}
		all := scrape(t, registry(t, NewCollector(g, WithAllSeries())))[getKey]
		if diff := cmp.Diff(all, wantAllSeries(b.Snapshot())); diff != "" {
			t.Errorf("%s, all series (-got +want):\n%s", tt.name, diff)
		}
	}
}

// O4: a counter above 0 stays when the policy, the mode or the override that raised it has gone.
func TestO4_CountersAboveZeroStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		g := newGroup(t, breaker.Config{
			ConsecutiveFailures: 1, SlowCall: time.Second, MinCalls: 1, MaxConcurrent: 1,
			OpenFor: time.Hour, MaxOpenFor: time.Hour,
		})
		reg := registry(t, NewCollector(g))
		b := g.Get(getKey)
		force := func(mode breaker.Mode) {
			t.Helper()
			if err := b.SetOverride(ctx, breaker.Override{Mode: mode, Why: "test", By: "test"}); err != nil {
				t.Fatal(err)
			}
		}
		permit, err := b.Acquire(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Acquire(ctx); err == nil {
			t.Fatal("a second call was admitted")
		}
		permit.Report(ctx, breaker.Report{Outcome: breaker.Success, Latency: time.Minute}) // opens it: the slow rule
		b.Reset(ctx)
		call(t, b, breaker.Failure)
		b.Reset(ctx)
		b.Trip(ctx, "test")
		b.Reset(ctx)
		force(breaker.ForceOpen)
		_, _ = b.Acquire(ctx)
		force(breaker.Shadow)
		call(t, b, breaker.Failure)
		call(t, b, breaker.Success)
		b.ClearOverride(ctx)
		b.Reset(ctx)
		b.CountFallback(true)
		if err := g.Apply(breaker.Config{ConsecutiveFailures: -1}); err != nil {
			t.Fatal(err)
		}
		got := scrape(t, reg)[getKey]
		for series, want := range map[string]float64{
			`slow_calls_total`: 1, `rejections_total{reason="concurrency"}`: 1, `rejections_total{reason="forced"}`: 1,
			`trips_total{rule="consecutive"}`: 1, `trips_total{rule="manual"}`: 1, `shadow_trips_total{rule="consecutive"}`: 1,
			`shadow_trips_total{rule="ratio"}`: 0, `shadow_rejections_total{reason="open"}`: 1,
			`fallbacks_total{result="served"}`: 1, `fallbacks_total{result="failed"}`: 0,
		} {
			if v, ok := got[series]; !ok || v != want {
				t.Errorf("%s is %v (%v), want %v", series, v, ok, want)
			}
		}
		if _, ok := got[`slow_ratio`]; ok {
			t.Error("slow_ratio exists without the slow rule")
		}
	})
}

// O5: under a policy without the slow rule there is no slow ratio, even if the window still has slow calls from an
// earlier policy.
func TestO5_NoSlowRatioWithoutTheRule(t *testing.T) {
	g := newGroup(t, breaker.Config{SlowCall: time.Second, SlowRatio: 1, MinCalls: 2})
	reg := registry(t, NewCollector(g))
	for _, latency := range []time.Duration{time.Minute, time.Millisecond} {
		p, err := g.Get(getKey).Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p.Report(t.Context(), breaker.Report{Outcome: breaker.Success, Latency: latency})
	}
	if v := scrape(t, reg)[getKey][`slow_ratio`]; v != 0.5 {
		t.Errorf("slow_ratio is %v, want 0.5", v)
	}
	if err := g.Apply(breaker.Config{MinCalls: 2}); err != nil {
		t.Fatal(err)
	}
	if g.Get(getKey).Snapshot().Window.Slow != 1 {
		t.Error("the window has no slow call, so this test tests nothing")
	}
	if v, ok := scrape(t, reg)[getKey][`slow_ratio`]; ok {
		t.Errorf("slow_ratio is %v without the slow rule, want none", v)
	}
}

// O4: while an override or the policy admits every call, there is no outage to alert on. The breaker keeps its state.
func TestO4_NoOutageWhileEveryCallIsAdmitted(t *testing.T) {
	g := newGroup(t, breaker.Config{})
	reg := registry(t, NewCollector(g))
	b := g.Get(getKey)
	b.Trip(t.Context(), "test")
	check := func(when string, want bool) {
		t.Helper()
		s := scrape(t, reg)[getKey]
		for _, name := range []string{`open_until_timestamp_seconds`, `outage_started_timestamp_seconds`} {
			if v, ok := s[name]; ok != want {
				t.Errorf("%s: %s is %v, %v, want %v", when, name, v, ok, want)
			}
		}
	}
	check("open", true)
	for _, mode := range []breaker.Mode{breaker.ForceClosed, breaker.Shadow, breaker.ForceOpen} {
		if err := b.SetOverride(t.Context(), breaker.Override{Mode: mode, Why: "test", By: "test"}); err != nil {
			t.Fatal(err)
		}
		check(mode.String(), mode == breaker.ForceOpen)
	}
	b.ClearOverride(t.Context())
	for _, e := range []breaker.Enforcement{breaker.EnforcementOff, breaker.EnforcementShadow, breaker.EnforcementOn} {
		if err := g.Apply(breaker.Config{Enforcement: e}); err != nil {
			t.Fatal(err)
		}
		check(e.String(), e == breaker.EnforcementOn)
	}
}

// outage holds the series of an outage in a scrape. Timestamps are seconds since the start of the test; -1 is absent.
type outage struct{ ready, open, until, started, trips, shadowTrips, failedProbes float64 }

// B20, O4: the series that a person on call uses during an outage.
func TestO4_Outage(t *testing.T) {
	for _, mode := range []breaker.Mode{0, breaker.Shadow} {
		synctest.Test(t, func(t *testing.T) {
			ctx, start := t.Context(), time.Now()
			g := newGroup(t, breaker.Config{ConsecutiveFailures: 1, OpenFor: 4 * time.Second, Jitter: -1, SuccessesToClose: 1})
			reg := registry(t, NewCollector(g))
			b := g.Get(getKey)
			if mode != 0 {
				if err := b.SetOverride(ctx, breaker.Override{Mode: mode, Why: "test", By: "test"}); err != nil {
					t.Fatal(err)
				}
			}
			check := func(when string, want outage) {
				t.Helper()
				s := scrape(t, reg)[getKey]
				at := func(series string) float64 {
					if v, ok := s[series]; ok {
						return v - float64(start.Unix())
					}
					return -1
				}
				got := outage{
					ready: s[`ready`], open: s[`state{state="open"}`],
					until: at(`open_until_timestamp_seconds`), started: at(`outage_started_timestamp_seconds`),
					trips: s[`trips_total{rule="consecutive"}`], shadowTrips: s[`shadow_trips_total{rule="consecutive"}`],
					failedProbes: s[`probes_total{result="failure"}`],
				}
				if mode != 0 { // every call is admitted, no alert fires, and the openings are counted apart
					want.ready, want.until, want.started = 1, -1, -1
					want.trips, want.shadowTrips = 0, want.trips
				}
				if got != want {
					t.Errorf("%v, %s:\n got %+v\nwant %+v", mode, when, got, want)
				}
			}
			check("closed", outage{ready: 1, until: -1, started: -1})
			time.Sleep(time.Second)
			call(t, b, breaker.Failure)
			check("open", outage{open: 1, until: 5, started: 1, trips: 1})
			time.Sleep(100 * time.Second)
			check("the open period is over, and nobody calls", outage{ready: 1, open: 1, until: 5, started: 1, trips: 1})
			call(t, b, breaker.Failure) // a probe
			check("reopened", outage{open: 1, until: 109, started: 1, trips: 1, failedProbes: 1})
			time.Sleep(8 * time.Second)
			p, err := b.Acquire(ctx)
			if err != nil {
				t.Fatal(err)
			}
			check("half-open", outage{until: -1, started: 1, trips: 1, failedProbes: 1})
			p.Done(ctx, breaker.Success)
			check("closed again", outage{ready: 1, until: -1, started: -1, trips: 1, failedProbes: 1})
		})
	}
}

// B28: a mode of the policy has the same series as that of an override, and an override takes precedence.
func TestO5_ModeOfThePolicy(t *testing.T) {
	ctx := t.Context()
	for _, tt := range []struct {
		enforcement breaker.Enforcement
		override    breaker.Mode
		want        string
	}{
		{breaker.EnforcementShadow, 0, "shadow"},
		{breaker.EnforcementOff, 0, "force_closed"},
		{breaker.EnforcementShadow, breaker.ForceOpen, "force_open"},
		{breaker.EnforcementOff, breaker.Shadow, "shadow"},
	} {
		g := newGroup(t, breaker.Config{Enforcement: tt.enforcement})
		b := g.Get(getKey)
		if tt.override != 0 {
			if err := b.SetOverride(ctx, breaker.Override{Mode: tt.override, Why: "test", By: "test"}); err != nil {
				t.Fatal(err)
			}
		}
		got := scrape(t, registry(t, NewCollector(g)))[getKey]
		for _, mode := range labelValues["mode"] {
			want := 0.0
			if mode == tt.want {
				want = 1
			}
			if v := got[fmt.Sprintf("override{mode=%q}", mode)]; v != want {
				t.Errorf("%v and %v: %s is %v, want %v", tt.enforcement, tt.override, mode, v, want)
			}
		}
	}
}

func TestPolicyReloads(t *testing.T) {
	g := newGroup(t, breaker.Config{})
	var succeeded, failed uint64
	var last time.Time
	reg := registry(t, NewCollector(g, WithPolicyReloads(reloads), WithPolicyReloads(
		func() (uint64, uint64, time.Time) { return succeeded, failed, last })))
	group := func() map[string]float64 {
		got := scrape(t, reg)
		m := maps.Clone(got[groupItself])
		maps.Copy(m, got[breaker.Key{}]) // policy_reloads_total has a label, but none of a key
		for _, name := range []string{"breakers", "evictions_total", "overflow_total", "unguarded_total"} {
			delete(m, name)
		}
		return m
	}
	want := map[string]float64{`policy_reloads_total{result="success"}`: 0, `policy_reloads_total{result="failure"}`: 0}
	if diff := cmp.Diff(group(), want); diff != "" {
		t.Errorf("before the first success (-got +want):\n%s", diff)
	}
	succeeded, failed, last = 2, 3, time.Unix(1e9, 0)
	want = map[string]float64{
		`policy_reloads_total{result="success"}`: 2, `policy_reloads_total{result="failure"}`: 3,
		`policy_last_success_timestamp_seconds`: 1e9,
	}
	if diff := cmp.Diff(group(), want); diff != "" {
		t.Errorf("after it (-got +want):\n%s", diff)
	}
}

// A registry calls collectors on goroutines of its own, where a panic would end the program.
func TestPolicyReloadsThatPanic(t *testing.T) {
	g := newGroup(t, breaker.Config{})
	got := scrape(t, registry(t, NewCollector(g, WithPolicyReloads(func() (uint64, uint64, time.Time) {
		panic("no watcher")
	}))))
	if len(got[breaker.Key{}]) > 0 || len(got[groupItself]) != 4 {
		t.Errorf("got %v, want the four metrics of the group", got)
	}
}

// The table in doc.go has the same metrics as the design, and marks with * those that WithAllSeries adds.
func TestDocTable(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`(?m)^//\t([a-z_]+)(?:\{([a-z]+)\})? +(gauge|counter|histogram) +(?:[a-z]+ +)?(.*)$`)
	kinds, starred := map[string]string{}, map[string]bool{}
	for _, m := range rows.FindAllStringSubmatch(string(doc), -1) {
		kinds[m[1]+" "+m[2]] = m[3]
		starred[m[1]] = strings.Contains(m[4], "*")
	}
	want := map[string]string{}
	for _, m := range design(t) {
		label := ""
		for _, l := range m.Labels {
			if valuesOf(m.Name, l) != nil {
				label = l
			}
		}
		want[m.Name+" "+label] = m.Kind
	}
	if diff := cmp.Diff(kinds, want); diff != "" {
		t.Errorf("table (-got +want):\n%s", diff)
	}
	for _, f := range breakerFamilies() {
		all := f.needs
		for _, s := range f.series {
			all |= s.needs
		}
		if starred[f.name] != (all != needs.Nothing) {
			t.Errorf("%s has a * in the table: %v; want %v", f.name, starred[f.name], all != needs.Nothing)
		}
	}
	for label, values := range labelValues {
		if line := fmt.Sprintf("//\t%-8s %s\n", label, strings.Join(values, ", ")); !strings.Contains(string(doc), line) {
			t.Errorf("the values of the label %s are not in doc.go: want %q", label, line)
		}
	}
}
