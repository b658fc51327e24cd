package prombridge

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

func settled(outcome breaker.Outcome, durations ...time.Duration) interceptor.Settlement {
	s := interceptor.Settlement{Key: getKey, Outcome: outcome}
	for _, d := range durations {
		s.Duration = d
	}
	return s
}

// gatherHistograms returns the histograms of a breaker by outcome.
func gatherHistograms(t *testing.T, h *DurationHistogram, key breaker.Key) map[string]*dto.Histogram {
	t.Helper()
	families, err := registry(t, h).Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]*dto.Histogram)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if k, series := keyOf("", m); k == key {
				got[strings.Trim(strings.TrimPrefix(series, "{outcome="), `"}`)] = m.GetHistogram()
			}
		}
	}
	return got
}

// counts returns the number of observations by outcome. It omits outcomes without observations.
func counts(t *testing.T, h *DurationHistogram, key breaker.Key) map[string]uint64 {
	t.Helper()
	var got map[string]uint64
	for outcome, hist := range gatherHistograms(t, h, key) {
		if got == nil {
			got = make(map[string]uint64)
		}
		if n := hist.GetSampleCount(); n > 0 {
			got[outcome] = n
		}
	}
	return got
}

// With a guard and a connection, every admitted call counts once, with its duration.
func TestDurationHistogramOfAGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := new(testpb.Server)
		answer := func(d time.Duration, err error) {
			srv.Set(testpb.Script{OnUnary: func(context.Context, *testpb.Request) (*testpb.Response, error) {
				time.Sleep(d)
				return new(testpb.Response), err
			}})
		}
		g := newGroup(t, breaker.Config{ConsecutiveFailures: 2})
		h := durationHistogram(g)
		guard, err := interceptor.New(g, interceptor.WithHooks(&interceptor.Hooks{Settled: h.settled}))
		if err != nil {
			t.Fatal(err)
		}
		client := testpb.NewTestClient(testpb.Bufconn(t, srv, guard.DialOptions()...))
		do := func(d time.Duration, err error) {
			t.Helper()
			answer(d, err)
			_, _ = client.Unary(t.Context(), &testpb.Request{})
		}
		do(30*time.Millisecond, nil)
		do(20*time.Millisecond, status.Error(codes.NotFound, "an answer"))
		ctx, cancel := context.WithCancel(t.Context())
		srv.Set(testpb.Script{OnUnary: func(handler context.Context, _ *testpb.Request) (*testpb.Response, error) {
			cancel()
			<-handler.Done()
			return nil, handler.Err()
		}})
		_, _ = client.Unary(ctx, &testpb.Request{}) // its caller cancels it immediately
		do(2*time.Second, status.Error(codes.Unavailable, "down"))
		do(3*time.Second, status.Error(codes.Unavailable, "down"))
		do(time.Second, nil) // rejected

		key := breaker.Key{Target: "passthrough:///bufconn", Service: "grpcircuit.testpb.Test", Method: "Unary"}
		got := map[string]string{}
		for outcome, hist := range gatherHistograms(t, h, key) {
			got[outcome] = fmt.Sprintf("%d in %.3fs", hist.GetSampleCount(), hist.GetSampleSum())
		}
		want := map[string]string{
			"success": "2 in 0.050s", "ignored": "1 in 0.000s", "failure": "2 in 5.000s", "overload": "0 in 0.000s",
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("histograms (-got +want):\n%s", diff)
		}
	})
}

func TestDurationHistogramIsNativeAndClassic(t *testing.T) {
	g := newGroup(t, breaker.Config{})
	h := durationHistogram(g)
	g.Get(getKey)
	for _, d := range []time.Duration{0, 50 * time.Microsecond, time.Millisecond, 3 * time.Millisecond, time.Minute} {
		h.settled(t.Context(), settled(breaker.Success, d))
	}
	hists := gatherHistograms(t, h, getKey)
	var got []string
	for _, b := range hists["success"].GetBucket() {
		got = append(got, fmt.Sprintf("%v: %d", b.GetUpperBound(), b.GetCumulativeCount()))
	}
	want := []string{
		"0.001: 3", "0.0025: 3", "0.005: 4", "0.01: 4", "0.025: 4", "0.05: 4", "0.1: 4",
		"0.25: 4", "0.5: 4", "1: 4", "2.5: 4", "5: 4", "10: 4", "30: 4",
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("classic buckets (-got +want):\n%s", diff)
	}
	for outcome, hist := range hists {
		// Schema 3 has the factor 2^(1/8), the largest one up to 1.1.
		if hist.GetSchema() != 3 || hist.GetZeroThreshold() == 0 || len(hist.GetBucket()) != len(want) {
			t.Errorf("%s: schema %d, zero threshold %v, %d classic buckets; want schema 3, a threshold and %d buckets",
				outcome, hist.GetSchema(), hist.GetZeroThreshold(), len(hist.GetBucket()), len(want))
		}
	}
	if got := len(hists["success"].GetPositiveDelta()); got != 4 {
		t.Errorf("%d native buckets, want 4 besides the zero bucket", got)
	}
}

// A histogram stays small for any distribution of durations.
func TestDurationHistogramIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the histogram has a timer, which ends with the bubble
		g := newGroup(t, breaker.Config{})
		h := durationHistogram(g)
		g.Get(getKey)
		for d := time.Nanosecond; d < 1000*time.Hour; d += d/20 + 1 {
			h.settled(t.Context(), settled(breaker.Failure, d))
		}
		if got := len(gatherHistograms(t, h, getKey)["failure"].GetPositiveDelta()); got > 160 {
			t.Errorf("%d native buckets, want at most 160", got)
		}
		time.Sleep(2 * time.Hour)
	})
}

func TestDurationHistogramCountsOutcomes(t *testing.T) {
	g := newGroup(t, breaker.Config{})
	h := durationHistogram(g)
	h.settled(t.Context(), settled(breaker.Success)) // before the breaker exists
	if got := counts(t, h, getKey); got != nil {
		t.Errorf("series of a key without a breaker: %v", got)
	}
	g.Get(getKey)
	if diff := cmp.Diff(counts(t, h, getKey), map[string]uint64{}); diff != "" {
		t.Errorf("new breaker (-got +want):\n%s", diff)
	}
	for outcome := range 6 { // 4 and 5 are invalid, and the breaker counts them as failures
		for range outcome + 1 {
			h.settled(t.Context(), settled(breaker.Outcome(outcome)))
		}
	}
	want := map[string]uint64{"success": 1, "failure": 2 + 5 + 6, "overload": 3, "ignored": 4}
	if diff := cmp.Diff(counts(t, h, getKey), want); diff != "" {
		t.Errorf("counts (-got +want):\n%s", diff)
	}
}

// B33: memory is bounded by the group, even without a scrape.
func TestB33_DurationHistogramForgetsEvictedBreakers(t *testing.T) {
	g := newGroup(t, breaker.Config{}, breaker.WithMaxBreakers(10))
	h := durationHistogram(g)
	stored := func() (n int) {
		h.histograms.Range(func(any, any) bool { n++; return true })
		return n
	}
	most := 0
	for i := range 1000 {
		s := settled(breaker.Success)
		s.Key.Tag = fmt.Sprint(i)
		g.Get(s.Key)
		h.settled(t.Context(), s)
		most = max(most, stored())
	}
	if most > 2*10+16 {
		t.Errorf("up to %d breakers stored, want at most 36 for a group of 10", most)
	}
	drain(h)
	if got := stored(); got != 10 {
		t.Errorf("%d breakers stored after a scrape, want 10", got)
	}
}

func TestDurationHistogramConcurrentSafe(t *testing.T) {
	g := newGroup(t, breaker.Config{})
	h := durationHistogram(g)
	const callers, rounds = 4, 300
	for i := range rounds { // the first calls of a breaker run while its histograms are allocated
		s := settled(breaker.Outcome(i % 4))
		s.Key.Tag = fmt.Sprint(i)
		g.Get(s.Key)
		var ready, wg sync.WaitGroup
		ready.Add(callers)
		for c := range callers {
			wg.Go(func() {
				ready.Done()
				ready.Wait()
				h.settled(t.Context(), s)
				if i%20 == 0 && c == 0 {
					drain(h)
				}
			})
		}
		wg.Wait()
	}
	got := scrape(t, registry(t, h))
	for i := range rounds {
		key := getKey
		key.Tag = fmt.Sprint(i)
		series := fmt.Sprintf("call_duration_seconds{outcome=%q}", breaker.Outcome(i%4))
		if got := got[key][series]; got != callers {
			t.Errorf("round %d: %v durations, want %d", i, got, callers)
		}
	}
}

func TestSettledZeroAllocations(t *testing.T) {
	g := newGroup(t, breaker.Config{})
	h := durationHistogram(g)
	g.Get(getKey)
	ctx, s := t.Context(), settled(breaker.Success, 3*time.Millisecond)
	h.settled(ctx, s)
	if n := testing.AllocsPerRun(100, func() { h.settled(ctx, s) }); n != 0 {
		t.Errorf("%v allocations a call, want 0", n)
	}
}
