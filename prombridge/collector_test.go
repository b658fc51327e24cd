package prombridge

import (
	"context"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

var (
	getKey  = breaker.Key{Target: "dns:///orders:443", Service: "shop.v1.Orders", Method: "Get"}
	listKey = breaker.Key{Target: "dns:///orders:443", Service: "shop.v1.Orders", Method: "List", Tag: "gold"}
	downKey = breaker.Key{Target: "dns:///stock:443", Service: "shop.v1.Stock", Method: "Get"}
)

// labelValues holds the values that a label may have, by label. They come from testdata/design.md where it lists them,
// and from package breaker.
var labelValues = map[string][]string{
	"state":   {"closed", "half_open", "open"},
	"mode":    {"force_closed", "force_open", "shadow"},
	"outcome": {"failure", "ignored", "overload", "success"},
	"reason":  {"concurrency", "forced", "half_open", "open", "ramp"},
	"rule":    {"consecutive", "custom", "manual", "ratio", "slow"},
}

// valuesOf returns the values that a label of a metric may have. Those of "result" depend on the metric.
func valuesOf(metric, label string) []string {
	if label != "result" {
		return labelValues[label]
	}
	switch metric {
	case "fallbacks_total":
		return []string{"failed", "served"}
	case "policy_reloads_total":
		return []string{"failure", "success"}
	}
	return []string{"failure", "ignored", "lost", "success"}
}

// metric is a row of the table in testdata/design.md, or a part of one.
type metric struct {
	Name, Kind string
	Labels     []string
}

// design reads the table in testdata/design.md, a copy of the section on metrics of the design.
func design(t *testing.T) (rows []metric) {
	t.Helper()
	doc, err := os.ReadFile("testdata/design.md")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile("`([a-z_]+)(?:{([a-z_]+)})?`")
	for line := range strings.Lines(string(doc)) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 || !strings.Contains(cells[1], "`") {
			continue
		}
		names := name.FindAllStringSubmatch(cells[1], -1)
		for i, n := range names {
			kinds := strings.Split(cells[2], ",") // "gauge, counters": the kind of the first metric, and of the others
			kind := strings.TrimSpace(kinds[min(i, len(kinds)-1)])
			m := metric{Name: n[1], Kind: strings.TrimPrefix(strings.TrimSuffix(kind, "s"), "native ")}
			if len(kinds) == 1 {
				m.Labels = []string{"grpc_method", "grpc_service", "grpc_target", "tag"}
			}
			if n[2] != "" {
				m.Labels = append(m.Labels, n[2])
			}
			slices.Sort(m.Labels)
			rows = append(rows, m)
		}
	}
	slices.SortFunc(rows, func(a, b metric) int { return strings.Compare(a.Name, b.Name) })
	return rows
}

// busyGroup returns a group with a closed breaker, whose window has enough calls for the ratios, and an open one.
func busyGroup(t *testing.T) *breaker.Group {
	t.Helper()
	g := newGroup(t, breaker.Config{MinCalls: 1})
	call(t, g.Get(getKey), breaker.Success)
	g.Get(listKey).Trip(t.Context(), "test")
	return g
}

// everySeries has the options that add series to those of a collector.
func everySeries() []Option { return []Option{WithAllSeries(), WithPolicyReloads(reloads)} }

func reloads() (succeeded, failed uint64, lastSuccess time.Time) { return 3, 1, time.Unix(1e9, 5e8) }

func TestO3_NamesKindsAndLabelsAreThoseOfTheDesign(t *testing.T) {
	g := busyGroup(t)
	families, err := registry(t, NewCollector(g, everySeries()...), durationHistogram(g)).Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []metric
	for _, f := range families {
		m := metric{Name: strings.TrimPrefix(f.GetName(), prefix), Kind: strings.ToLower(f.GetType().String())}
		values := map[string][]string{}
		for _, series := range f.GetMetric() {
			m.Labels = nil
			for _, l := range series.GetLabel() {
				m.Labels = append(m.Labels, l.GetName())
				values[l.GetName()] = append(values[l.GetName()], l.GetValue())
			}
			slices.Sort(m.Labels)
		}
		got = append(got, m)
		for label, vs := range values {
			want := valuesOf(m.Name, label)
			if want == nil {
				continue // a part of the key
			}
			slices.Sort(vs) // of two breakers
			if diff := cmp.Diff(slices.Compact(vs), want); diff != "" {
				t.Errorf("%s, values of %s (-got +want):\n%s", m.Name, label, diff)
			}
		}
		if f.GetHelp() == "" || len(f.GetHelp()) > 120 {
			t.Errorf("%s: help of %d bytes, want from 1 to 120", m.Name, len(f.GetHelp()))
		}
	}
	want := design(t)
	if len(want) != 27 {
		t.Errorf("the table has %d metrics, want 27: it was not read correctly", len(want))
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("metrics (-got +want):\n%s", diff)
	}
}

func TestO3_LintIsSilent(t *testing.T) {
	g := busyGroup(t)
	problems, err := testutil.GatherAndLint(registry(t, NewCollector(g, everySeries()...), durationHistogram(g)))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// TestO3_Golden compares two scrapes with the files in testdata. Run with -update to rewrite the files.
func TestO3_Golden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, breaker.Config{
			FailingFor: -1, MinCalls: 5, SlowCall: time.Second, SlowRatio: 1, OpenFor: 5 * time.Second, Jitter: -1,
		})
		durations := durationHistogram(g)
		reg := registry(t, NewCollector(g, WithPolicyReloads(reloads)), durations)

		get := g.Get(getKey) // trips, has a failed probe, and recovers
		for range 5 {
			call(t, get, breaker.Failure)
		}
		_, _ = get.Acquire(t.Context())
		time.Sleep(5 * time.Second)
		call(t, get, breaker.Failure)
		time.Sleep(10 * time.Second)
		call(t, get, breaker.Ignored)
		call(t, get, breaker.Success)
		call(t, get, breaker.Success)
		time.Sleep(time.Second)

		list := g.Get(listKey) // has a few failures, one of them slow
		slow, err := list.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(1500 * time.Millisecond)
		slow.Done(t.Context(), breaker.Failure)
		call(t, list, breaker.Overload)
		for range 3 {
			call(t, list, breaker.Success)
		}
		list.CountFallback(true)
		shadow := breaker.Override{Mode: breaker.Shadow, Why: "trial", By: "ann"}
		if err := list.SetOverride(t.Context(), shadow); err != nil {
			t.Fatal(err)
		}
		if _, err := list.Acquire(t.Context()); err != nil { // stays in flight
			t.Fatal(err)
		}
		for _, d := range []time.Duration{time.Millisecond, 30 * time.Millisecond, 31 * time.Millisecond} {
			durations.settled(t.Context(), interceptor.Settlement{Key: listKey, Outcome: breaker.Success, Duration: d})
		}
		durations.settled(t.Context(),
			interceptor.Settlement{Key: listKey, Outcome: breaker.Failure, Duration: time.Minute})

		g.Get(downKey).Trip(t.Context(), "test") // is open

		_ = g.Get(breaker.Key{Method: "quote \" backslash \\ newline \n invalid \xff"})
		g.CountUnguarded()

		wantGolden(t, "testdata/metrics.txt", text(t, reg))
		wantGolden(t, "testdata/all_series.txt", text(t, registry(t, NewCollector(g, everySeries()...))))
	})
}

func wantGolden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(got, "\n"), strings.Split(string(want), "\n")); diff != "" {
		t.Errorf("%s (-got +want):\n%s", file, diff)
	}
}

// B14: a scrape does not change the breakers.
func TestO3_ScrapeChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, breaker.Config{Jitter: -1})
		reg := registry(t, NewCollector(g), durationHistogram(g))
		b := g.Get(getKey)
		b.Trip(t.Context(), "test")
		time.Sleep(time.Minute) // open, and the open period has ended
		before, stats := b.Snapshot(), g.Stats()
		got := scrape(t, reg)
		if diff := cmp.Diff(b.Snapshot(), before); diff != "" {
			t.Errorf("snapshot after the scrape (-got +want):\n%s", diff)
		}
		if diff := cmp.Diff(g.Stats(), stats); diff != "" {
			t.Errorf("stats after the scrape (-got +want):\n%s", diff)
		}
		if got := got[getKey][`state{state="open"}`]; got != 1 {
			t.Errorf("open: %v, want 1", got)
		}
		if diff := cmp.Diff(scrape(t, reg), got); diff != "" {
			t.Errorf("second scrape (-got +want first):\n%s", diff)
		}
	})
}

// A registry that receives metrics slowly, or stops, delays no call and no other scrape.
func TestO3_ScrapeHoldsNoLockWhileItSends(t *testing.T) {
	const breakers = 50
	g := newGroup(t, breaker.Config{FailingFor: -1})
	key := func(i int) breaker.Key { return breaker.Key{Method: fmt.Sprint(i)} }
	for i := range breakers {
		call(t, g.Get(key(i)), breaker.Failure)
	}
	durations := durationHistogram(g)
	for _, c := range []prometheus.Collector{NewCollector(g), durations} {
		ch := make(chan prometheus.Metric)
		go func() {
			defer close(ch)
			c.Collect(ch)
		}()
		n := 0
		for range ch {
			// The scrape waits in the middle of a breaker.
			if n++; n%37 != 0 {
				continue
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				for i := range breakers + 1 {
					b := g.Get(key(i))
					b.Reset(t.Context())
					for range 5 {
						if p, err := b.Acquire(t.Context()); err == nil {
							p.Done(t.Context(), breaker.Failure)
						}
					}
					durations.settled(t.Context(), interceptor.Settlement{Key: key(i), Outcome: breaker.Ignored})
				}
				drain(c)
			}()
			select {
			case <-done:
			case <-time.After(20 * time.Second):
				t.Fatalf("%T: calls or a second scrape wait for a blocked scrape", c)
			}
		}
		if n == 0 {
			t.Errorf("%T: no metrics were sent", c)
		}
	}
}

func TestO3_ScrapeConcurrentSafe(t *testing.T) {
	// The group is small, so that breakers are evicted all the time. Some keys look like escaped forms of others.
	g := newGroup(t,
		breaker.Config{FailingFor: -1, MinCalls: 1, OpenFor: time.Millisecond, Ramp: time.Millisecond},
		breaker.WithMaxBreakers(48))
	durations := durationHistogram(g)
	reg := registry(t, NewCollector(g), durations)
	var callers sync.WaitGroup
	for c := range 4 {
		callers.Go(func() {
			ctx := t.Context()
			for i := range 1500 {
				key := breaker.Key{Service: fmt.Sprint(i % 7)}
				switch n := i * (c + 1) % 97; n % 4 {
				case 1:
					key.Method = fmt.Sprintf("%d\xff", n)
				case 2:
					key.Method = fmt.Sprintf(`%d\xff`, n)
				case 3:
					key.Method = fmt.Sprintf("%d\xff", n)
					key.Tag = `\xff`
				}
				b := g.Get(key)
				if i%500 == 0 {
					shadow := breaker.Override{Mode: breaker.Shadow, TTL: time.Millisecond, Why: "w", By: "b"}
					err := b.SetOverride(ctx, shadow)
					if err != nil && !b.Evicted() { // after an eviction from a full group its key may have no breaker
						t.Error(err)
					}
				}
				if p, err := b.Acquire(ctx); err == nil {
					outcome := breaker.Outcome(i % 4)
					p.Done(ctx, outcome)
					d := time.Duration(i) * time.Microsecond
					durations.settled(ctx, interceptor.Settlement{Key: b.Key(), Outcome: outcome, Duration: d})
				}
			}
		})
	}
	var done atomic.Bool
	var scrapers sync.WaitGroup
	for range 2 {
		scrapers.Go(func() {
			for last := false; !last; {
				last = done.Load()
				families, err := reg.Gather()
				if err != nil {
					t.Errorf("Gather: %v", err)
					return
				}
				states := 0.0
				series := 0
				for _, f := range families {
					if f.GetName() == prefix+"state" {
						series = len(f.GetMetric())
						for _, m := range f.GetMetric() {
							states += m.GetGauge().GetValue()
						}
					}
				}
				if got, want := states, float64(series)/3; got != want {
					t.Errorf("%v states are 1, want %v, one for each breaker", got, want)
				}
			}
		})
	}
	callers.Wait()
	done.Store(true)
	scrapers.Wait()
	if g.Stats().Evictions == 0 {
		t.Error("no breaker was evicted, so the test has not tested evictions")
	}
}

// The series exist before anything was counted, because a rate misses the step from no series to 1.
func TestO4_SeriesExistFromTheFirstCallOn(t *testing.T) {
	g := newGroup(t, breaker.Config{})
	reg := registry(t, NewCollector(g, WithAllSeries()), durationHistogram(g))
	want := map[string]float64{`breakers`: 0, `evictions_total`: 0, `overflow_total`: 0, `unguarded_total`: 0}
	if diff := cmp.Diff(scrape(t, reg), scraped{groupItself: want}); diff != "" {
		t.Errorf("empty group (-got +want):\n%s", diff)
	}
	b := g.Get(getKey)
	if _, err := b.Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	want = map[string]float64{}
	for _, m := range design(t) {
		switch {
		case len(m.Labels) == 0, strings.HasSuffix(m.Name, "_ratio"), strings.HasPrefix(m.Name, "policy_"):
			continue
		case m.Name == "open_until_timestamp_seconds", m.Name == "outage_started_timestamp_seconds":
			continue
		}
		label := ""
		for _, l := range m.Labels {
			if _, own := labelValues[l]; own || l == "result" {
				label = l
			}
		}
		if label == "" {
			want[m.Name] = 0
		}
		for _, v := range valuesOf(m.Name, label) {
			want[fmt.Sprintf("%s{%s=%q}", m.Name, label, v)] = 0
		}
	}
	want[`state{state="closed"}`] = 1
	want[`in_flight`] = 1
	want[`ready`] = 1
	want[`state_entered_timestamp_seconds`] = float64(b.Snapshot().Since.UnixNano()) / 1e9
	if diff := cmp.Diff(scrape(t, reg)[getKey], want); diff != "" {
		t.Errorf("after the first call (-got +want):\n%s", diff)
	}
}

// Each field of the Snapshot gets a different number, so that no two series can be mixed up.
func TestO5_EveryFieldOfASnapshotIsExported(t *testing.T) {
	var s breaker.Snapshot
	n := uint64(1000)
	missing := map[uint64]string{}
	var number func(path string, v reflect.Value)
	number = func(path string, v reflect.Value) {
		switch {
		case v.Type() == reflect.TypeFor[time.Time](), v.Type() == reflect.TypeFor[breaker.Override](),
			v.Type() == reflect.TypeFor[breaker.Key]():
		case v.Kind() == reflect.Struct:
			for i := range v.NumField() {
				number(path+"."+v.Type().Field(i).Name, v.Field(i))
			}
		case v.Kind() == reflect.Uint64:
			n++
			v.SetUint(n)
			missing[n] = path
		}
	}
	number("", reflect.ValueOf(&s).Elem())
	s.NotClosed = 4242 * time.Second
	s.Since = time.Unix(1e9, 5e8)
	s.MinCalls = 1
	s.State = breaker.HalfOpen
	s.Mode = breaker.Shadow
	s.Underlying, s.OpenUntil, s.Outage.At = breaker.Open, time.Unix(2e9, 0), time.Unix(3e9, 0)

	got := map[string]float64{}
	for _, f := range breakerFamilies() {
		for _, def := range f.series {
			got[seriesName(f, def)] = def.read(&s)
			delete(missing, uint64(def.read(&s)))
		}
	}
	delete(got, `open_until_timestamp_seconds`) // in shadow mode; the test of these two is another one
	delete(got, `outage_started_timestamp_seconds`)
	if diff := cmp.Diff(got, wantAllSeries(s)); diff != "" {
		t.Errorf("series (-got +want):\n%s", diff)
	}
	// The openings are for events and errors. The window is exported as its ratios. SlowCanceled is part of the divisor
	// of slow_ratio.
	want := []string{
		".Admitted", ".Generation", ".MinCalls",
		".Opened.Counts.ConsecutiveFailures", ".Opened.Counts.Failures", ".Opened.Counts.Overloads", ".Opened.Counts.Slow",
		".Opened.Counts.SlowCanceled", ".Opened.Counts.Successes",
		".Outage.Counts.ConsecutiveFailures", ".Outage.Counts.Failures", ".Outage.Counts.Overloads", ".Outage.Counts.Slow",
		".Outage.Counts.SlowCanceled", ".Outage.Counts.Successes", ".Window.ConsecutiveFailures", ".Window.Failures", ".Window.Overloads",
		".Window.Slow", ".Window.SlowCanceled", ".Window.Successes",
	}
	if diff := cmp.Diff(slices.Sorted(maps.Values(missing)), want); diff != "" {
		t.Errorf("fields that are not exported (-got +want):\n%s", diff)
	}
}

// A new state, mode, reason, rule or outcome in package breaker fails this test until it is exported.
func TestO5_EveryValueOfAnEnumIsExported(t *testing.T) {
	names := func(first int, name func(int) string) (all []string) {
		for i := first; !strings.Contains(name(i), "("); i++ {
			all = append(all, name(i))
		}
		slices.Sort(all)
		return all
	}
	want := map[string][]string{
		"state":   names(0, func(i int) string { return breaker.State(i).String() }),
		"mode":    names(1, func(i int) string { return breaker.Mode(i).String() }),
		"outcome": names(0, func(i int) string { return breaker.Outcome(i).String() }),
		"reason":  names(1, func(i int) string { return breaker.Reason(i).String() }),
		"rule":    names(1, func(i int) string { return breaker.Rule(i).String() }),
	}
	// A failed probe opens a breaker that is not closed. It is in probes_total.
	want["rule"] = slices.DeleteFunc(want["rule"], func(rule string) bool { return rule == "probe" })
	for _, f := range breakerFamilies() {
		if want[f.label] == nil {
			continue
		}
		var got []string
		for _, def := range f.series {
			got = append(got, def.value)
		}
		if diff := cmp.Diff(got, want[f.label]); diff != "" {
			t.Errorf("%s (-got +want):\n%s", f.name, diff)
		}
	}
}

func TestO5_RatiosAreAbsentWhereTheyAreMeaningless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, breaker.Config{ConsecutiveFailures: -1, FailureRatio: 1, MinCalls: 4, SlowCall: time.Minute})
		reg := registry(t, NewCollector(g))
		b := g.Get(getKey)
		ratios := func(when string, want ...string) {
			t.Helper()
			var got []string
			for _, name := range []string{"failure_ratio", "slow_ratio"} {
				if v, ok := scrape(t, reg)[getKey][name]; ok {
					got = append(got, fmt.Sprint(name, " ", v))
				}
			}
			if diff := cmp.Diff(got, want); diff != "" {
				t.Errorf("%s (-got +want):\n%s", when, diff)
			}
		}
		ratios("no call")
		call(t, b, breaker.Failure)
		call(t, b, breaker.Overload)
		call(t, b, breaker.Success)
		call(t, b, breaker.Ignored)
		ratios("three calls, because ignored ones do not count")
		call(t, b, breaker.Success)
		ratios("four calls", "failure_ratio 0.5", "slow_ratio 0")
		time.Sleep(20 * time.Second)
		ratios("a window later")
		for range 4 {
			call(t, b, breaker.Success)
		}
		ratios("nothing but successes", "failure_ratio 0", "slow_ratio 0")
		time.Sleep(20 * time.Second)
		canceled := breaker.Report{Outcome: breaker.Ignored, Canceled: true, Latency: time.Hour}
		for i := range 4 {
			if i == 3 {
				ratios("three calls that their callers canceled")
			}
			p, err := b.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			p.Report(t.Context(), canceled)
		}
		// Only the slow rule counts these calls, so only its ratio is exported.
		ratios("four calls that their callers canceled", "slow_ratio 1")
		b.Trip(t.Context(), "test")
		ratios("open")
	})
}

// B28: the series show the override in force, and the state that it leads to.
func TestO5_OverridesAreExported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, breaker.Config{Jitter: -1})
		reg := registry(t, NewCollector(g))
		b := g.Get(getKey)
		ones := func() (got []string) {
			for series, v := range scrape(t, reg)[getKey] {
				if v == 1 && (strings.HasPrefix(series, "state{") || strings.HasPrefix(series, "override{")) {
					got = append(got, series)
				}
			}
			slices.Sort(got)
			return got
		}
		for _, tt := range []struct {
			mode breaker.Mode
			want []string
		}{
			{breaker.ForceOpen, []string{`override{mode="force_open"}`, `state{state="open"}`}},
			{breaker.ForceClosed, []string{`override{mode="force_closed"}`, `state{state="closed"}`}},
			{breaker.Shadow, []string{`override{mode="shadow"}`, `state{state="closed"}`}},
		} {
			o := breaker.Override{Mode: tt.mode, TTL: time.Minute, Why: "test", By: "test"}
			if err := b.SetOverride(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(ones(), tt.want); diff != "" {
				t.Errorf("%v (-got +want):\n%s", tt.mode, diff)
			}
		}
		time.Sleep(time.Minute)
		if diff := cmp.Diff(ones(), []string{`state{state="closed"}`}); diff != "" {
			t.Errorf("after the TTL (-got +want):\n%s", diff)
		}
	})
}

func TestO6_NothingButKeysNumbersAndFixedWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const secret = "hunter2"
		srv := new(testpb.Server)
		srv.Set(testpb.Script{OnUnary: func(context.Context, *testpb.Request) (*testpb.Response, error) {
			return nil, status.Error(codes.Unavailable, secret)
		}})
		g := newGroup(t, breaker.Config{FailingFor: -1})
		durations := durationHistogram(g)
		reg := registry(t, NewCollector(g), durations)
		guard, err := interceptor.New(g, interceptor.WithHooks(&interceptor.Hooks{Settled: durations.settled}))
		if err != nil {
			t.Fatal(err)
		}
		client := testpb.NewTestClient(testpb.Bufconn(t, srv, guard.DialOptions()...))
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-token", secret)
		for range 7 {
			_, _ = client.Unary(ctx, &testpb.Request{Payload: []byte(secret)})
		}
		for _, b := range g.All() {
			b.Trip(ctx, secret)
			if err := b.SetOverride(ctx, breaker.Override{Mode: breaker.ForceOpen, Why: secret, By: secret}); err != nil {
				t.Fatal(err)
			}
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		allowed := map[string]bool{"failed": true, "served": true, "lost": true}
		for _, vs := range labelValues {
			for _, v := range vs {
				allowed[v] = true
			}
		}
		for key := range g.All() {
			for _, v := range []string{key.Target, key.Service, key.Method, key.Tag} {
				allowed[v] = true
			}
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					if !allowed[l.GetValue()] {
						t.Errorf("%s has %s=%q", f.GetName(), l.GetName(), l.GetValue())
					}
				}
				for _, b := range m.GetHistogram().GetBucket() {
					if b.GetExemplar() != nil {
						t.Errorf("%s has an exemplar", f.GetName())
					}
				}
			}
		}
		if strings.Contains(text(t, reg), secret) {
			t.Error("a scrape contains the secret")
		}
		key := breaker.Key{Target: "passthrough:///bufconn", Service: "grpcircuit.testpb.Test", Method: "Unary"}
		if got := scrape(t, reg)[key]; got[`calls_total{outcome="failure"}`] != 5 {
			t.Errorf("the guard's breaker: %v, want 5 failures", got)
		}
	})
}

// B33: the series of a breaker end when it leaves the group. A new breaker of the same key starts at zero.
func TestB33_SeriesEndWithTheirBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, breaker.Config{}, breaker.WithMaxBreakers(1))
		durations := durationHistogram(g)
		reg := registry(t, NewCollector(g), durations)
		use := func(key breaker.Key) scraped {
			t.Helper()
			call(t, g.Get(key), breaker.Failure)
			durations.settled(t.Context(), interceptor.Settlement{Key: key, Outcome: breaker.Failure})
			time.Sleep(time.Minute)
			return scrape(t, reg)
		}
		for i, key := range []breaker.Key{getKey, listKey, getKey} {
			got := use(key)
			want := map[string]float64{
				`breakers`: 1, `evictions_total`: float64(i), `overflow_total`: 0, `unguarded_total`: 0,
			}
			if diff := cmp.Diff(got[groupItself], want); diff != "" {
				t.Errorf("use %d, the group (-got +want):\n%s", i, diff)
			}
			delete(got, groupItself)
			if len(got) != 1 || got[key] == nil {
				t.Fatalf("use %d: series of %v, want of %v alone", i, slices.Collect(maps.Keys(got)), key)
			}
			for _, series := range []string{`calls_total{outcome="failure"}`, `call_duration_seconds{outcome="failure"}`} {
				if got := got[key][series]; got != 1 {
					t.Errorf("use %d: %s is %v, want 1", i, series, got)
				}
			}
		}
		// A key whose breaker was replaced between two scrapes has a different breaker.
		call(t, g.Get(listKey), breaker.Success)
		got := use(getKey)[getKey]
		if got[`calls_total{outcome="failure"}`] != 1 || got[`call_duration_seconds{outcome="failure"}`] != 1 {
			t.Errorf("replaced between two scrapes: %v, want 1 failure and 1 duration", got)
		}
	})
}

// B40: a breaker that no call has used during the idle timeout has no series. If a call uses it again, they continue
// from their last values.
func TestB40_IdleBreakersHaveNoSeries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const idle = time.Minute
		g := newGroup(t, breaker.Config{}, breaker.WithIdleTimeout(idle))
		durations := durationHistogram(g)
		reg := registry(t, NewCollector(g), durations)
		for _, key := range []breaker.Key{getKey, listKey} {
			call(t, g.Get(key), breaker.Failure)
			durations.settled(t.Context(), interceptor.Settlement{Key: key, Outcome: breaker.Failure})
		}
		used := func(when string, want ...breaker.Key) scraped {
			t.Helper()
			got := scrape(t, reg)
			if got := got[groupItself]["breakers"]; got != 2 { // their memory is freed when a new key arrives
				t.Errorf("%s: %v breakers, want 2", when, got)
			}
			for _, key := range want {
				if got[key] == nil {
					t.Errorf("%s: %v has no series", when, key)
				}
			}
			if len(got) != len(want)+1 {
				t.Errorf("%s: series of %v, want of %v", when, slices.Collect(maps.Keys(got)), want)
			}
			return got
		}
		used("at once", getKey, listKey)
		time.Sleep(idle / 2)
		call(t, g.Get(listKey), breaker.Failure)
		time.Sleep(idle/2 + time.Second) // the time of the last use is known to a tenth of the window
		used("when the first is idle", listKey)
		time.Sleep(idle)
		used("when both are idle")
		call(t, g.Get(getKey), breaker.Failure)
		got := used("when one is used again", getKey)[getKey]
		if got[`calls_total{outcome="failure"}`] != 2 || got[`call_duration_seconds{outcome="failure"}`] != 1 {
			t.Errorf("used again: %v, want 2 failures and 1 duration", got)
		}
	})
}

func TestB33_OverflowIsExported(t *testing.T) {
	g := newGroup(t, breaker.Config{}, breaker.WithMaxBreakers(1))
	reg := registry(t, NewCollector(g))
	g.Get(getKey).Trip(t.Context(), "test")
	call(t, g.Get(listKey), breaker.Success)
	got := scrape(t, reg)
	want := map[string]float64{`breakers`: 2, `evictions_total`: 0, `overflow_total`: 1, `unguarded_total`: 0}
	if diff := cmp.Diff(got[groupItself], want); diff != "" {
		t.Errorf("the group (-got +want):\n%s", diff)
	}
	if got := got[breaker.Key{Tag: breaker.OverflowTag}][`calls_total{outcome="success"}`]; got != 1 {
		t.Errorf("calls of the overflow breaker: %v, want 1", got)
	}
}
