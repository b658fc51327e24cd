package breaker

import (
	"log/slog"
	"math"
	"sync/atomic"
)

// satAdd adds counters. The sum stays at the maximum and does not wrap (B11).
func satAdd(a uint64, more ...uint64) uint64 {
	for _, m := range more {
		if a > math.MaxUint64-m {
			return math.MaxUint64
		}
		a += m
	}
	return a
}

// satSub returns a - b, or 0 if that would be negative.
func satSub(a, b uint64) uint64 {
	return a - min(a, b)
}

// inc adds one to a counter that others add to as well. The counter stays at its maximum and does not wrap (B11). inc
// returns the new value, and 0 if the counter was at its maximum.
func inc(c *atomic.Uint64) (n uint64) {
	if n = c.Add(1); n == 0 {
		c.Store(math.MaxUint64)
	}
	return n
}

// Counts are the calls in the window of a breaker. Late results are not included. Ignored calls are included only as
// SlowCanceled. If no rule uses the window (see Config.Window), all fields but ConsecutiveFailures are 0.
type Counts struct {
	Successes uint64 `json:"successes"`
	Failures  uint64 `json:"failures"`
	Overloads uint64 `json:"overloads"`
	// Slow calls are also successes, failures or overloads, or SlowCanceled.
	Slow uint64 `json:"slow"`
	// SlowCanceled are calls that their caller canceled after more than SlowCall. Their outcome is ignored, so they are
	// not part of Calls.
	SlowCanceled uint64 `json:"slowCanceled"`
	// ConsecutiveFailures is the length of the failure streak: the failures since the last success. Failures that ended
	// within 10 ms of the last one counted are one failure, unless Config.FailingFor is negative. The streak is not
	// limited to the window.
	ConsecutiveFailures uint64 `json:"consecutiveFailures"`
}

// Calls returns the number of calls in the window that had an outcome other than ignored.
func (c Counts) Calls() uint64 { return satAdd(c.Successes, c.Failures, c.Overloads) }

// FailureRatio returns (failures + overloads) / calls, and 0 if there are no calls.
func (c Counts) FailureRatio() float64 { return ratio(satAdd(c.Failures, c.Overloads), c.Calls()) }

// SlowRatio returns slow calls / (calls + SlowCanceled), and 0 if there are no calls.
func (c Counts) SlowRatio() float64 { return ratio(c.Slow, c.timed()) }

// timed returns the number of calls that the slow rule counts.
func (c Counts) timed() uint64 { return satAdd(c.Calls(), c.SlowCanceled) }

// LogValue returns the number of calls and the counts, without those that are 0.
func (c Counts) LogValue() slog.Value {
	attrs := make([]slog.Attr, 0, 6)
	add := func(name string, n uint64) {
		if n > 0 {
			attrs = append(attrs, slog.Uint64(name, n))
		}
	}
	add("calls", c.Calls())
	add("failures", c.Failures)
	add("overloads", c.Overloads)
	add("slow", c.Slow)
	add("slow_canceled", c.SlowCanceled)
	add("consecutive_failures", c.ConsecutiveFailures)
	return slog.GroupValue(attrs...)
}

func ratio(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}
