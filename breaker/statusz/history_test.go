package statusz

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// lastOf returns the last n seconds of the successes that e has recorded.
func lastOf(c *clock, e *entry, n int) []int64 { return c.history(e.ring).Successes[shown-n:] }

func TestHistory(t *testing.T) {
	start := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	var c clock
	var e entry
	sample := func(at time.Duration, total uint64) {
		if slot, spread, ok := c.advance(start.Add(at)); ok {
			e.record(calls{successes: total}, slot, spread)
		}
	}
	check := func(what string, want ...int64) {
		t.Helper()
		if diff := cmp.Diff(lastOf(&c, &e, len(want)), want); diff != "" {
			t.Errorf("%s (-got +want):\n%s", what, diff)
		}
	}
	sample(0, 100)
	check("the first sample only knows totals", -1, -1)
	sample(1010*time.Millisecond, 103)
	sample(1990*time.Millisecond, 104)
	check("ticks that jitter", -1, 3, 1)
	sample(2100*time.Millisecond, 110)
	check("a sample within the same second counts with the next", -1, 3, 1)
	sample(3*time.Second, 112)
	check("the next", -1, 3, 1, 8)
	sample(7*time.Second, 122)
	check("a short gap is spread evenly", -1, 3, 1, 8, 2, 2, 3, 3)
	if got := c.rates(e.ring); got.Successes != 22.0/7 {
		t.Errorf("the rate over the known seconds is %v", got.Successes)
	}
	var late entry // of a breaker that was idle, and not in the samples before
	late.record(calls{successes: 5000}, c.last, 1)
	if late.ring != nil {
		t.Error("calls from before the first sample of a breaker are shown as if they were now")
	}
	sample(60*time.Second, 1000)
	sample(61*time.Second, 1002)
	check("a long gap is unknown", -1, -1, 2)
	sample(62*time.Second, 5)
	check("a breaker that was made anew", -1, 2, 5)
	for i := range 200 {
		sample(time.Duration(63+i)*time.Second, 5)
	}
	check("quiet", 0, 0, 0)
	if e.ring != nil {
		t.Error("a breaker without calls for two minutes keeps its ring")
	}
	// After a long gap, slots that were skipped must not show old counts.
	for i := range 130 {
		sample(time.Duration(300+i)*time.Second, uint64(10+i))
	}
	sample(1000*time.Second, 1000)
	for _, v := range c.history(e.ring).Successes {
		if v != -1 {
			t.Fatalf("a second in which nobody looked has %d calls", v)
		}
	}
	if c.rates(e.ring) != (Rates{}) {
		t.Error("a rate although nothing is known")
	}
}

func TestSparkline(t *testing.T) {
	h := new(clock).history(nil)
	if h.sparkline() != nil {
		t.Error("a line although nothing is known")
	}
	for i := range shown {
		h.Successes[i], h.Failures[i], h.Rejections[i] = -1, -1, 0
	}
	copy(h.Successes[shown-6:], []int64{0, 10, 10, -1, 1, 0})
	s := h.sparkline()
	if s == nil || s.Successes != "M114 24h1V1h2M118 21h1V24h1" || s.Failures != "" || s.Rejections != "" || s.Peak != 10 {
		t.Errorf("got %+v", s)
	}
	h.Failures[0], h.Successes[shown-5] = 1, 1_000_000
	if s := h.sparkline(); s.Failures != "M0 23h1" {
		t.Errorf("one failure among many calls is drawn as %q, want a step", s.Failures)
	}
}

func TestShare(t *testing.T) {
	n := uint64(1) << 40
	if got := share(&n, 1); got != 1<<32-1 {
		t.Errorf("got %d, want the highest count", got)
	}
}
