package statusz

import (
	"strconv"
	"time"

	"github.com/grpcircuit/grpcircuit/breaker"
)

const (
	tick       = time.Second // between two samples
	shown      = 120         // seconds that a sparkline shows
	slots      = 128         // seconds that a ring holds: more than shown, so that older frames can still be drawn
	rateOver   = 10          // seconds that rates are averaged over
	longestGap = 10          // seconds between two samples; the calls of a longer gap are not spread over it
)

// calls counts calls, in total or in one second.
type calls struct {
	successes, failures, rejections uint64
}

// callsOf returns the totals of a breaker. Ignored and late results are left out.
func callsOf(s *breaker.Snapshot) calls {
	return calls{s.Successes, s.Failures + s.Overloads, s.Rejections.Total()}
}

// since returns how many calls there were from old to c. Totals are lower than before if the key has another breaker
// after an eviction. Then all its calls are new.
func (c calls) since(old calls) calls {
	if c.successes < old.successes || c.failures < old.failures || c.rejections < old.rejections {
		return c
	}
	return calls{c.successes - old.successes, c.failures - old.failures, c.rejections - old.rejections}
}

// second holds the calls of one second. 32 bits are enough, and use half of the memory.
type second struct {
	successes, failures, rejections uint32
}

// ring holds the calls of one breaker in the last seconds. The calls of a slot are at its number modulo slots.
type ring [slots]second

// clock assigns a slot to each sample, and records which slots have counts. All breakers share it, because they are
// sampled together.
type clock struct {
	start time.Time   // of slot 0; zero before the first sample
	last  int         // slot of the last sample
	known [slots]bool // slots whose counts are known
}

// advance moves the clock to t. It returns the new slot, and the number of slots over which the calls since the last
// sample are spread. A spread of 0 means that these calls are dropped, because the gap is too long to tell when they
// were made. If no second has passed, ok is false.
func (c *clock) advance(t time.Time) (slot, spread int, ok bool) {
	if c.start.IsZero() {
		c.start = t
		return 0, 0, true
	}
	// Rounded to the nearest second. Otherwise, with ticks that jitter around the full second, two samples would share a
	// slot and the next slot would be empty.
	slot = int((t.Sub(c.start) + tick/2) / tick)
	gap := slot - c.last
	if gap <= 0 {
		return c.last, 0, false
	}
	for i := max(c.last+1, slot-slots+1); i <= slot; i++ {
		c.known[i%slots] = gap <= longestGap
	}
	c.last = slot
	if gap > longestGap {
		return slot, 0, true
	}
	return slot, gap, true
}

// entry holds what the sampler keeps for one key between samples.
type entry struct {
	total    calls  // at the last sample
	ring     *ring  // nil while there were no calls
	busy     int    // slot of the last call
	frame    uint64 // the last sample that had the key
	measured bool   // total was set by a sample
}

// record adds a sample to the history. See clock.advance for slot and spread.
func (e *entry) record(total calls, slot, spread int) {
	delta := total.since(e.total)
	if !e.measured {
		delta = calls{} // the seconds of these calls are not known
	}
	e.total, e.measured = total, true
	if spread == 0 {
		delta = calls{}
	}
	if delta != (calls{}) {
		e.busy = slot
		if e.ring == nil {
			e.ring = new(ring)
		}
	}
	if e.ring == nil {
		return
	}
	if slot-e.busy >= slots {
		e.ring = nil // it holds only zeros
		return
	}
	for i := range spread {
		parts := uint64(spread - i)
		s := second{share(&delta.successes, parts), share(&delta.failures, parts), share(&delta.rejections, parts)}
		e.ring[(slot-spread+1+i)%slots] = s
	}
}

// share takes one of parts equal parts from n.
func share(n *uint64, parts uint64) uint32 {
	s := *n / parts
	*n -= s
	return uint32(min(s, 1<<32-1))
}

// Rates are calls per second, averaged over the last ten seconds.
type Rates struct {
	Successes  float64 `json:"successes"`
	Failures   float64 `json:"failures"` // and overloads
	Rejections float64 `json:"rejections"`
}

// Calls is the rate of calls that ran.
func (r Rates) Calls() float64 { return r.Successes + r.Failures }

func (r Rates) plus(more Rates) Rates {
	return Rates{r.Successes + more.Successes, r.Failures + more.Failures, r.Rejections + more.Rejections}
}

// rates returns the rates at the slot of the last sample. r may be nil.
func (c *clock) rates(r *ring) Rates {
	var sum Rates
	n := 0.0
	for i := max(0, c.last-rateOver+1); i <= c.last; i++ {
		if !c.known[i%slots] {
			continue
		}
		n++
		if r != nil {
			s := r[i%slots]
			sum = sum.plus(Rates{float64(s.successes), float64(s.failures), float64(s.rejections)})
		}
	}
	if n == 0 {
		return Rates{}
	}
	return Rates{sum.Successes / n, sum.Failures / n, sum.Rejections / n}
}

// measured reports whether anything is known about the time that rates are averaged over.
func (c *clock) measured() bool {
	for i := max(0, c.last-rateOver+1); i <= c.last; i++ {
		if c.known[i%slots] {
			return true
		}
	}
	return false
}

// History holds the calls of the last two minutes, one element for each second, the oldest first. An element is -1 if
// its second was not sampled.
type History struct {
	Successes  []int64 `json:"successes"`
	Failures   []int64 `json:"failures"` // and overloads
	Rejections []int64 `json:"rejections"`
}

// history returns the seconds of r that are shown. r may be nil.
func (c *clock) history(r *ring) *History {
	h := &History{make([]int64, shown), make([]int64, shown), make([]int64, shown)}
	for i := range shown {
		slot := c.last - shown + 1 + i
		switch {
		case slot < 0 || !c.known[slot%slots]:
			h.Successes[i], h.Failures[i], h.Rejections[i] = -1, -1, -1
		case r != nil:
			s := r[slot%slots]
			h.Successes[i], h.Failures[i] = int64(s.successes), int64(s.failures)
			h.Rejections[i] = int64(s.rejections)
		}
	}
	return h
}

// spark is a sparkline: three step lines over the last two minutes, as paths of a viewBox of 120 x 24.
type spark struct {
	Successes, Failures, Rejections string
	Peak                            int64 // the highest value, which fills the height
}

const sparkHeight = 24

// sparkline returns the lines of h, or nil if there is nothing to draw.
func (h *History) sparkline() *spark {
	var s spark
	for i := range shown {
		s.Peak = max(s.Peak, h.Successes[i], h.Failures[i], h.Rejections[i])
	}
	if s.Peak <= 0 {
		return nil
	}
	s.Successes, s.Failures = stepPath(h.Successes, s.Peak), stepPath(h.Failures, s.Peak)
	s.Rejections = stepPath(h.Rejections, s.Peak)
	return &s
}

// stepPath returns the SVG path of values as steps. Equal neighbours are one step, so a line with few changes is short.
// If all values are zero or unknown, the path is empty.
func stepPath(values []int64, peak int64) string {
	var b []byte
	drawn, pen := false, false
	level, run := 0, 0
	flush := func() {
		if run > 0 {
			b = strconv.AppendInt(append(b, 'h'), int64(run), 10)
			run = 0
		}
	}
	for i, v := range values {
		if v < 0 {
			flush()
			pen = false
			continue
		}
		drawn = drawn || v > 0
		// Rounded up, so that a second with calls is never drawn as a second without calls.
		y := sparkHeight - int((v*(sparkHeight-1)+peak-1)/peak)
		switch {
		case !pen:
			b = strconv.AppendInt(append(b, 'M'), int64(i), 10)
			b = strconv.AppendInt(append(b, ' '), int64(y), 10)
			pen = true
		case y != level:
			flush()
			b = strconv.AppendInt(append(b, 'V'), int64(y), 10)
		}
		level = y
		run++
	}
	if !drawn {
		return ""
	}
	flush()
	return string(b)
}
