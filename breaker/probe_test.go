package breaker

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// probing returns a Config with an open period of 5 s.
func probing(maxProbes, successes int) Config {
	return Config{Jitter: -1, Backoff: 1, MaxProbes: maxProbes, SuccessesToClose: successes, ProbeTimeout: time.Second}
}

func TestB19_AtMostMaxProbesAreInFlight(t *testing.T) {
	const due = 5 * time.Second
	runScenarios(t, []scenario{
		{"one", probing(1, 2), []row{
			{0, "trip", "open"},
			{due, "begin:1 success*9", "probe rejected:half_open*9 half_open"},
			{due, "end:1=success success", "probe closed"},
		}},
		{"three", probing(3, 9), []row{
			{0, "trip", "open"},
			{due, "begin:1 begin:2 begin:3 success*5", "probe*3 rejected:half_open*5 half_open"},
			{due, "end:2=success begin:4 success", "probe rejected:half_open half_open"},
			{due, "end:1=success end:3=success success*5", "probe*5 half_open"}, // 4 is in flight
			{due, "end:4=success", "closed"},
		}},
		{"more than are needed to close", probing(5, 1), []row{
			{0, "trip", "open"},
			{due, "begin:1 begin:2 begin:3 begin:4 begin:5 success", "probe*5 rejected:half_open half_open"},
			{due, "end:3=success success", "closed"},
			{due, "end:1=failure end:2=success end:4=ignored end:5=overload success", "closed"}, // late, all of them
		}},
		{"rejections do not extend the lease", probing(1, 1), []row{
			{0, "trip", "open"},
			{due, "begin:1 success*100", "probe rejected:half_open*100 half_open"},
			{due + time.Second - 1, "success*100", "rejected:half_open*100 half_open"},
			{due + time.Second, "success", "probe closed"},
		}},
	})
}

// Exactly MaxProbes of the callers become probes.
func TestB19_AThousandCallersAtTheDeadlineConcurrentSafe(t *testing.T) {
	const callers = 1000
	for _, maxProbes := range []int{1, 3, 10} {
		synctest.Test(t, func(t *testing.T) {
			b := mustNew(t, probing(maxProbes, 10))
			b.Trip(t.Context(), "test")
			var probes, admitted, halfOpen, other atomic.Int64
			var permits sync.Map
			var wg sync.WaitGroup
			for i := range callers {
				wg.Go(func() {
					time.Sleep(5 * time.Second) // all of them wake up at the deadline
					p, err := b.Acquire(t.Context())
					e, rejected := err.(*RejectedError) //nolint:errorlint // Acquire returns it unwrapped
					switch {
					case p.IsProbe():
						probes.Add(1)
						permits.Store(i, p)
					case err == nil:
						admitted.Add(1)
					case rejected && e.Reason == ReasonHalfOpen && e.State == HalfOpen:
						halfOpen.Add(1)
					default:
						other.Add(1)
					}
				})
			}
			wg.Wait()
			if probes.Load() != int64(maxProbes) || halfOpen.Load() != int64(callers-maxProbes) ||
				admitted.Load()+other.Load() != 0 {
				t.Errorf("MaxProbes %d: %d probes, %d rejected as half-open, %d admitted otherwise, %d rejected otherwise",
					maxProbes,
					probes.Load(), halfOpen.Load(), admitted.Load(), other.Load())
			}
			s := b.Snapshot()
			if s.Rejections.HalfOpen != uint64(callers-maxProbes) || s.InFlight != uint64(maxProbes) || s.Generation != 3 {
				t.Errorf("MaxProbes %d: %d rejections, %d in flight, generation %d", maxProbes, s.Rejections.HalfOpen, s.InFlight,
					s.Generation)
			}
			for _, p := range permits.Range {
				p.(Permit).Done(t.Context(), Ignored)
			}
			if s := b.Snapshot(); s.InFlight != 0 || !s.Ready {
				t.Errorf("MaxProbes %d: after all have reported %d are in flight, ready: %v", maxProbes, s.InFlight, s.Ready)
			}
		})
	}
}

// There are never more than MaxProbes probes in flight while others begin and end.
func TestB19_SlotsUnderLoadConcurrentSafe(t *testing.T) {
	const callers, calls, maxProbes = 8, 200, 3
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, probing(maxProbes, callers*calls))
		b.Trip(t.Context(), "test")
		time.Sleep(5 * time.Second)
		var inFlight, most atomic.Int64
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for range calls {
					p, err := b.Acquire(t.Context())
					if err != nil {
						runtime.Gosched()
						continue
					}
					if n := inFlight.Add(1); n > maxProbes {
						most.Store(n)
					}
					runtime.Gosched()
					inFlight.Add(-1)
					p.Done(t.Context(), Outcome(3*(p.lease%2))) // successes and ignored
				}
			})
		}
		wg.Wait()
		if got := most.Load(); got != 0 {
			t.Errorf("%d probes were in flight at once, want at most %d", got, maxProbes)
		}
		if s := b.Snapshot(); s.State != HalfOpen || s.InFlight != 0 || s.Probes.Success+s.Probes.Ignored != s.Admitted {
			t.Errorf("%v, %d in flight, %+v of %d", s.State, s.InFlight, s.Probes, s.Admitted)
		}
	})
}

// SuccessesToClose is independent of MaxProbes.
func TestB20_SuccessesClose(t *testing.T) {
	for _, maxProbes := range []int{1, 2, 3, 10} {
		for _, successes := range []int{1, 2, 3, 10} {
			synctest.Test(t, func(t *testing.T) {
				b := mustNew(t, probing(maxProbes, successes))
				rows := []row{{0, "trip", "open"}}
				if successes > 1 {
					rows = append(rows, row{
						5 * time.Second, fmt.Sprintf("success*%d", successes-1), times("probe", successes-1) + " half_open",
					})
				}
				rows = append(rows, row{5 * time.Second, "success", "probe closed"}, row{5 * time.Second, "success", "closed"})
				newTimeline(t, b).run(rows...)
				if s := b.Snapshot(); s.Probes.Success != uint64(successes) || s.Recoveries != 1 {
					t.Errorf("MaxProbes %d: %d probes succeeded, %d recoveries, want %d and 1", maxProbes, s.Probes.Success,
						s.Recoveries, successes)
				}
			})
		}
	}
}

func times(word string, n int) string {
	if n == 1 {
		return word
	}
	return fmt.Sprintf("%s*%d", word, n)
}

// Any failed, overloaded or slow probe opens again, at once.
func TestB20_OneBadProbeOpensAgain(t *testing.T) {
	const due = 5 * time.Second
	slow := probing(3, 3)
	slow.SlowCall = time.Minute
	cases := []scenario{
		{"earlier successes do not count", probing(1, 2), []row{
			{0, "trip", "open"},
			{due, "success failure", "probe*2 open"},
			{2 * due, "success", "probe half_open"},
			{2 * due, "success", "probe closed"},
		}},
		{"probes in flight are late", probing(3, 1), []row{
			{0, "trip", "open"},
			{due, "begin:1 begin:2 begin:3 end:2=failure", "probe*3 open"},
			{due, "end:1=success end:3=success success", "rejected:open open"},
			{2*due - 1, "success", "rejected:open open"},
			{2 * due, "success", "probe closed"},
		}},
		{"exactly as long as allowed is not slow", slow, []row{{0, "trip", "open"}, {due, "success~1m*3", "probe*3 closed"}}},
		{"slow, and the rule is off", probing(1, 1), []row{{0, "trip", "open"}, {due, "success~1000h", "probe closed"}}},
		{"slow and ignored is ignored", slow, []row{{0, "trip", "open"}, {due, "ignored~1h success*3", "probe*4 closed"}}},
		{"by the clock", func() Config { c := slow; c.ProbeTimeout = time.Hour; return c }(), []row{
			{0, "trip", "open"},
			{due, "begin:1 begin:2", "probe*2 half_open"},
			{due + time.Minute, "end:1=success", "half_open"},
			{due + time.Minute + 1, "end:2=success", "open"},
		}},
	}
	for _, bad := range []string{"failure", "overload", "success~61s", "failure~61s"} {
		cases = append(cases, scenario{bad, slow, []row{
			{0, "trip", "open"},
			{due, "success*2 " + bad, "probe*3 open"},
			{due, "success", "rejected:open open"},
			{2*due - 1, "success", "rejected:open open"},
			{2 * due, "success", "probe half_open"},
		}})
	}
	runScenarios(t, cases)
}

func TestB20_ProbeCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorder
		cfg := probing(1, 2)
		cfg.SlowCall = time.Minute
		b := mustNew(t, cfg, WithListener(rec.Transition))
		newTimeline(t, b).run(
			row{0, "trip", "open"},
			row{5 * time.Second, "success ignored success~61s", "probe*3 open"},
			row{10 * time.Second, "failure", "probe open"},
			row{15 * time.Second, "overload", "probe open"},
			row{20 * time.Second, "begin:lost", "probe half_open"},
			row{21 * time.Second, "success*2", "probe*2 closed"},
		)
		s := b.Snapshot()
		wantSame(t, "probes", s.Probes, ProbeCounts{Success: 3, Failure: 3, Ignored: 1, Lost: 1})
		wantSame(t, "trips", s.Trips, RuleCounts{Manual: 1})
		// Probes are calls too, and count by outcome.
		if s.Successes != 4 || s.Failures != 1 || s.Overloads != 1 || s.Ignored != 1 || s.SlowCalls != 1 || s.InFlight != 1 {
			t.Errorf("totals: %+v", s)
		}
		var whys []string
		for _, e := range rec.received() {
			whys = append(whys, e.Why)
		}
		wantSame(t, "whys", whys, []string{
			"test", "open period over", "a probe was slow", "open period over", "a probe failed", "open period over",
			"a probe failed",
			"open period over", "probes succeeded",
		})
	})
}

// A known bug of other breakers: a canceled probe closes the breaker.
func TestB21_AnIgnoredProbeDecidesNothing(t *testing.T) {
	const due = 5 * time.Second
	runScenarios(t, []scenario{
		{"it neither closes nor opens", probing(1, 1), []row{
			{0, "trip", "open"}, {due, "ignored*10", "probe*10 half_open"}, {due, "success", "probe closed"},
		}},
		{"its slot is free at once", probing(1, 1), []row{
			{0, "trip", "open"},
			{due, "begin:1 success", "probe rejected:half_open half_open"},
			{due, "end:1=ignored begin:2 success", "probe rejected:half_open half_open"},
		}},
		{"it does not interrupt successes in a row", probing(1, 2), []row{
			{0, "trip", "open"}, {due, "success ignored", "probe*2 half_open"}, {due, "success", "probe closed"},
		}},
		{"it does not count as one of them", probing(1, 3), []row{
			{0, "trip", "open"}, {due, "success ignored*5 success", "probe*7 half_open"}, {due, "success", "probe closed"},
		}},
	})
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, probing(1, 1))
		newTimeline(t, b).run(row{0, "trip", "open"}, row{due, "ignored", "probe half_open"})
		s := b.Snapshot()
		wantSame(t, "probes", s.Probes, ProbeCounts{Ignored: 1})
		if s.Ignored != 1 || s.InFlight != 0 || !s.Ready || !s.LastFailure.IsZero() {
			t.Errorf("%d ignored, %d in flight, ready: %v, last failure %v", s.Ignored, s.InFlight, s.Ready, s.LastFailure)
		}
	})
}

// B20: the event of a probe that is slow and failed says that it failed.
func TestB20_WhyAProbeOpens(t *testing.T) {
	for o, want := range map[Outcome]string{
		Success: "a probe was slow", Failure: "a probe failed",
		Overload: "a probe failed",
	} {
		synctest.Test(t, func(t *testing.T) {
			rec := new(recorder)
			cfg := steady()
			cfg.SlowCall = time.Second
			b := mustNew(t, cfg, WithListener(rec.Transition))
			b.Trip(t.Context(), "test")
			time.Sleep(time.Hour)
			p := acquire(t, b)
			time.Sleep(2 * time.Second)
			p.Done(t.Context(), o)
			events := rec.received()
			if got := events[len(events)-1]; got.To != Open || got.Why != want {
				t.Errorf("%v: to %v because %q, want open because %q", o, got.To, got.Why, want)
			}
		})
	}
}

// Config returns the Config in force, with defaults.
func TestBreakerConfig(t *testing.T) {
	g, err := NewGroup(Config{ProbeTimeout: 7 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	b := g.Get(Key{})
	if got, want := b.Config(), (Config{ProbeTimeout: 7 * time.Second}).WithDefaults(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if err := g.Apply(Config{OpenFor: time.Minute}); err != nil {
		t.Fatal(err)
	}
	if got, want := b.Config(), (Config{OpenFor: time.Minute}).WithDefaults(); got != want {
		t.Errorf("after Apply: got %+v, want %+v", got, want)
	}
}
