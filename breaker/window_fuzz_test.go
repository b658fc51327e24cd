package breaker

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// The operations of a FuzzWindow script. The byte after an operation is its argument.
const (
	winWait = iota // by so many 16ths of a tenth of the window
	winTenths
	winWindows
	winEdge // to an instant next to the one at which the window slides
	winSuccess
	winFailure
	winOverload
	winSlow
	winBegin // a call that ends later
	winEnd
	winApply
	winOpCount
)

// fuzzWindows are the windows that winApply sets. Two have the same tenth, so that Apply keeps the window.
var fuzzWindows = [...]time.Duration{
	10 * time.Second, time.Millisecond, time.Millisecond + 9, time.Second + 7, time.Hour, time.Minute,
	12345678 * time.Nanosecond, 24 * time.Hour,
}

const fuzzSlow = time.Second

// timestamps is a model of the window: a list of all outcomes with their time. Each read goes through the whole list.
type timestamps struct {
	window time.Duration
	born   time.Duration // since the start of the script
	list   []timestamp
	streak uint64
	failed time.Duration // when the last failure that was counted in the streak ended
	totals map[Outcome]uint64
	slow   uint64
}

type timestamp struct {
	at      time.Duration
	outcome Outcome
	slow    bool
}

func (m *timestamps) record(e timestamp) {
	m.list = append(m.list, e)
	m.totals[e.outcome]++
	if e.slow {
		m.slow++
	}
	switch e.outcome {
	case Success:
		m.streak = 0
	case Failure:
		if m.streak == 0 || e.at-m.failed > 10*time.Millisecond {
			m.streak++
			m.failed = e.at
		}
	case Overload, Ignored:
	}
}

// counts returns what the window must hold at now: it slides in ten steps from its creation on (B7).
func (m *timestamps) counts(t *testing.T, now time.Duration) Counts {
	t.Helper()
	c := Counts{ConsecutiveFailures: m.streak}
	step := m.window / 10
	for _, e := range m.list {
		inWindow := (now-m.born)/step-(e.at-m.born)/step < 10
		// B7 for the model itself: an outcome counts for at least nine tenths of the window and for less than the window.
		if age := now - e.at; age <= 9*step && !inWindow || age >= m.window && inWindow {
			t.Fatalf("the list has an outcome of age %v, window %v: in the window: %t", age, m.window, inWindow)
		}
		if !inWindow {
			continue
		}
		switch e.outcome {
		case Success:
			c.Successes++
		case Failure:
			c.Failures++
		case Overload:
			c.Overloads++
		case Ignored: // slow and canceled
			c.SlowCanceled++
		}
		if e.slow {
			c.Slow++
		}
	}
	return c
}

// FuzzWindow reports outcomes of all kinds at random times, to windows of changing width, and compares each read with a
// list of timestamps (B7, B8, B34).
func FuzzWindow(f *testing.F) {
	for _, seed := range [][]byte{
		{winFailure, 0, winTenths, 9, winSuccess, 0, winTenths, 1, winFailure, 3},
		{winSuccess, 5, winEdge, 0, winSuccess, 1, winEdge, 1, winOverload, 2, winEdge, 2, winSlow, 0, winTenths, 10},
		{winFailure, 9, winWindows, 1, winFailure, 0, winWindows, 255, winWindows, 255, winSuccess, 9, winSlow, 9},
		{winBegin, 0, winTenths, 5, winBegin, 0, winTenths, 6, winEnd, 0, winEnd, 1, winTenths, 9, winEdge, 1},
		{
			winSuccess, 3, winFailure, 3, winApply, 1, winFailure, 1, winTenths, 4, winApply, 2, winSuccess, 1, winTenths, 5,
			winTenths, 1,
		},
		{winApply, 3, winSuccess, 200, winWait, 15, winSlow, 7, winTenths, 9, winWait, 1, winWait, 1},
		{winSlow, 100, winTenths, 3, winSlow, 127, winFailure, 2, winWait, 1, winFailure, 0, winTenths, 8},
		{winBegin, 0, winApply, 4, winEnd, 2, winApply, 4, winOverload, 0, winTenths, 10, winSuccess, 0},
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 128 {
			t.Skip("too long")
		}
		synctest.Test(t, func(t *testing.T) { playWindow(t, script) })
	})
}

func playWindow(t *testing.T, script []byte) {
	t.Helper()
	// MinCalls: it never trips
	cfg := Config{
		ConsecutiveFailures: -1, FailingFor: time.Second, FailureRatio: -1, SlowCall: fuzzSlow,
		MinCalls: 1 << 30, Window: fuzzWindows[0],
	}
	g := mustGroup(t, cfg)
	b := g.Get(Key{})
	start := time.Now()
	m := &timestamps{window: cfg.Window, totals: make(map[Outcome]uint64)}
	type begun struct {
		permit Permit
		at     time.Duration
	}
	var open []begun
	for i := 0; i+1 < len(script); i += 2 {
		op, n := script[i]%winOpCount, int64(script[i+1])
		now := time.Since(start)
		step := m.window / 10
		wait, outcome, times := time.Duration(0), Ignored, int(n%32)+1
		switch op {
		case winWait:
			wait = time.Duration(n * int64(step) / 16)
		case winTenths:
			wait = time.Duration(n * int64(step))
		case winWindows:
			wait = time.Duration(n * int64(m.window))
		case winEdge:
			wait = step - (now-m.born)%step + time.Duration(n%3-1)
		case winSuccess, winSlow:
			outcome = Success
		case winFailure:
			outcome = Failure
		case winOverload:
			outcome = Overload
		case winBegin:
			open = append(open, begun{acquire(t, b), now})
		case winEnd:
			if len(open) > 0 {
				first := open[0]
				open = open[1:]
				e := timestamp{now, Outcome(n % 3), now-first.at > fuzzSlow}
				first.permit.Done(t.Context(), e.outcome)
				m.record(e)
			}
		case winApply:
			cfg.Window = fuzzWindows[int(n)%len(fuzzWindows)]
			cfg.MinCalls++ // B34: a change of anything else leaves the counts alone
			if err := g.Apply(cfg); err != nil {
				t.Fatal(err)
			}
			if cfg.Window/10 != step {
				m.born, m.list = now, nil
			}
			m.window = cfg.Window
		}
		if outcome != Ignored {
			r := Report{Outcome: outcome, Latency: fuzzSlow} // not longer than SlowCall
			if op == winSlow {
				r.Outcome, r.Latency, r.Canceled = Outcome(n>>5%4), fuzzSlow+1, true
			}
			for range times {
				acquire(t, b).Report(t.Context(), r)
				m.record(timestamp{now, r.Outcome, op == winSlow})
			}
		}
		if now+wait < maxDuration {
			time.Sleep(wait)
		}
		m.compare(t, fmt.Sprintf("script %v, up to byte %d", script, i), b.Snapshot(), time.Since(start), uint64(len(open)))
	}
}

func (m *timestamps) compare(t *testing.T, when string, got Snapshot, now time.Duration, inFlight uint64) {
	t.Helper()
	if want := m.counts(t, now); got.Window != want {
		t.Fatalf("%s, at %v, window %v of %v: got %+v, want %+v", when, now, m.window, m.born, got.Window, want)
	}
	all := m.totals[Success] + m.totals[Failure] + m.totals[Overload] + m.totals[Ignored]
	if got.Successes != m.totals[Success] || got.Failures != m.totals[Failure] || got.Overloads != m.totals[Overload] ||
		got.Ignored != m.totals[Ignored] ||
		got.SlowCalls != m.slow || got.InFlight != inFlight || got.Admitted != all+inFlight {
		t.Fatalf("%s, at %v: got the totals of %+v, want %v, %d slow, %d in flight", when, now, got, m.totals, m.slow,
			inFlight)
	}
}
