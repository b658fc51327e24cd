package breaker

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// linearHistory is one breaker, the workers that use it, and the results of their operations.
type linearHistory struct {
	seed    uint64
	rnd     *rand.Rand // of the coordinator
	cfg     Config
	custom  func(Counts) bool
	workers []*linearWorker
	b       *Breaker
	rec     recorder
	born    time.Time

	stamps  atomic.Int64 // order of calls and returns; the clock of the bubble stands still
	permits atomic.Int64 // numbers given to calls

	mu   sync.Mutex
	pool []sharedPermit // handed over to any worker; guarded by mu

	ops []porcupine.Operation // all of them, at the end
}

type sharedPermit struct {
	Permit
	id      int
	owner   int
	settled bool // it has reported once; a probe may report again
}

// linearWorker is one goroutine of each round. No other goroutine uses its fields.
type linearWorker struct {
	h   *linearHistory
	id  int
	rnd *rand.Rand
	own []sharedPermit
	ops []porcupine.Operation
	saw seen
}

func newLinearHistory(t *testing.T, seed uint64) *linearHistory {
	t.Helper()
	h := &linearHistory{seed: seed, rnd: rand.New(rand.NewPCG(seed, 0)), born: time.Now()}
	pick := func(of ...int) int { return of[h.rnd.IntN(len(of))] }
	h.cfg = Config{
		ConsecutiveFailures: pick(-1, 1, 2, 3),
		FailingFor:          time.Duration(pick(-1, -1, 1)) * time.Second,
		FailureRatio:        float64(pick(-1, 50, 50)) / 100,
		MinCalls:            pick(2, 4, 6),
		SlowCall:            time.Duration(pick(0, 0, 1)) * time.Second,
		OpenFor:             5 * time.Second,
		MaxOpenFor:          20 * time.Second,
		Jitter:              -1,
		MaxProbes:           pick(1, 1, 2),
		SuccessesToClose:    pick(1, 2),
		ProbeTimeout:        3 * time.Second,
		Ramp:                time.Duration(pick(0, 0, 0, 0, 20)) * time.Second,
		MaxConcurrent:       pick(0, 0, 0, 0, 2),
	}
	opts := []Option{WithListener(h.rec.Transition)}
	if pick(0, 0, 0, 1) == 1 {
		h.custom = func(c Counts) bool { return c.Overloads > 0 }
		opts = append(opts, WithTrip(func(c Counts) bool { runtime.Gosched(); return h.custom(c) }))
	}
	h.b = mustNew(t, h.cfg, opts...)
	for i := range 4 + h.rnd.IntN(5) {
		h.workers = append(h.workers, &linearWorker{h: h, id: i, rnd: rand.New(rand.NewPCG(seed, uint64(i+1))), saw: seen{}})
	}
	return h
}

// linearThemes are the themes of rounds. In a round, many workers do similar operations at once, which is most likely
// to find races.
var linearThemes = []struct {
	outcomes []Outcome
	weights  seen
}{
	{[]Outcome{Success, Failure}, seen{opAcquire: 8, opSettle: 1, opState: 1}},
	{[]Outcome{Failure, Failure, Failure, Overload, Success}, seen{opAcquire: 2, opSettle: 8}},
	{[]Outcome{Success, Success, Success, Failure}, seen{opAcquire: 2, opSettle: 8, opStreak: 1, opWindow: 1}},
	{[]Outcome{Success}, seen{opAcquire: 2, opSettle: 6, opTrip: 1, opState: 1}},
	{[]Outcome{Success, Failure, Overload, Ignored}, seen{
		opAcquire: 8, opSettle: 8, opTrip: 1, opReset: 1, opOverride: 1, opClear: 1, opState: 2, opStreak: 1, opWindow: 1,
	}},
}

// run is the coordinator. It runs rounds, and between them takes a snapshot and moves the time.
func (h *linearHistory) run(t *testing.T) {
	t.Helper()
	coordinator := &linearWorker{h: h, id: len(h.workers), saw: seen{}}
	for range 4 + h.rnd.IntN(4) {
		theme := linearThemes[h.rnd.IntN(len(linearThemes))]
		var kinds []string
		for _, kind := range slices.Sorted(mapKeys(theme.weights)) {
			for range theme.weights[kind] {
				kinds = append(kinds, kind)
			}
		}
		each := 1 + h.rnd.IntN(3)
		runTogether(len(h.workers), func(i int) {
			for range each {
				w := h.workers[i]
				if w.rnd.IntN(16) == 0 {
					h.b.enableStripes(2) // it has no visible effect
				}
				w.step(t, kinds[w.rnd.IntN(len(kinds))], theme.outcomes)
			}
		})
		s := coordinator.snapshot(t, opRest)
		advances := []time.Duration{
			0, s.RetryAfter, s.RetryAfter, s.RetryAfter - 1, h.cfg.ProbeTimeout, h.cfg.ProbeTimeout - 1, time.Second,
			20 * time.Second,
		}
		if d := advances[h.rnd.IntN(len(advances))]; d > 0 {
			coordinator.do(linearOp{kind: opAdvance, d: d}, func(*linearResult) { time.Sleep(d) })
		}
	}
	coordinator.snapshot(t, opRest)
	for _, w := range append(h.workers, coordinator) {
		h.ops = append(h.ops, w.ops...)
		w.ops = nil
	}
}

// do runs one operation and records it.
func (w *linearWorker) do(op linearOp, f func(*linearResult)) {
	var saw linearResult
	call := w.h.stamps.Add(1)
	f(&saw)
	w.ops = append(w.ops, porcupine.Operation{
		ClientId: w.id, Input: op, Call: call, Output: saw,
		Return: w.h.stamps.Add(1),
	})
}

func (w *linearWorker) step(t *testing.T, kind string, outcomes []Outcome) {
	t.Helper()
	b, ctx := w.h.b, t.Context()
	switch kind {
	case opAcquire:
		w.acquire(ctx)
	case opSettle:
		if !w.settle(ctx, outcomes[w.rnd.IntN(len(outcomes))]) {
			w.acquire(ctx)
		}
	case opTrip:
		w.do(linearOp{kind: kind}, func(*linearResult) { b.Trip(ctx, "test") })
	case opReset:
		w.do(linearOp{kind: kind}, func(*linearResult) { b.Reset(ctx) })
	case opOverride:
		op := linearOp{kind: kind, mode: ForceOpen + Mode(w.rnd.IntN(3)), d: time.Duration(w.rnd.IntN(2)) * time.Second}
		w.do(op, func(*linearResult) {
			if err := b.SetOverride(ctx, Override{Mode: op.mode, TTL: op.d, Why: "test", By: "test"}); err != nil {
				t.Error(err)
			}
		})
	case opClear:
		w.do(linearOp{kind: kind}, func(*linearResult) { b.ClearOverride(ctx) })
	case opState:
		w.do(linearOp{kind: kind}, func(saw *linearResult) { saw.state = b.State() })
	case opStreak, opWindow:
		w.snapshot(t, kind)
	}
}

func (w *linearWorker) snapshot(t *testing.T, kind string) (s Snapshot) {
	t.Helper()
	w.do(linearOp{kind: kind}, func(saw *linearResult) {
		s = w.h.b.Snapshot()
		saw.snap = &s
	})
	wantBalance(t, kind, s)
	return s
}

func (w *linearWorker) acquire(ctx context.Context) {
	h := w.h
	id := int(h.permits.Add(1) - 1)
	var p Permit
	var err error
	w.do(linearOp{kind: opAcquire, permit: id}, func(saw *linearResult) {
		p, err = h.b.Acquire(ctx)
		if e, ok := errors.AsType[*RejectedError](err); ok {
			saw.reason, saw.state = e.Reason, e.State
			if !e.Until.IsZero() {
				saw.until = e.Until.Sub(h.born)
			}
			return
		}
		saw.probe, saw.gen = p.IsProbe(), p.ph.gen
	})
	if err == nil {
		w.keep(sharedPermit{Permit: p, id: id, owner: w.id})
	}
}

// keep keeps a permit, or passes it to another worker.
func (w *linearWorker) keep(p sharedPermit) {
	if w.rnd.IntN(2) == 0 {
		w.own = append(w.own, p)
		return
	}
	w.h.mu.Lock()
	w.h.pool = append(w.h.pool, p)
	w.h.mu.Unlock()
}

// take returns a permit to report: one that the worker kept, or one that another worker passed on.
func (w *linearWorker) take() (p sharedPermit, ok bool) {
	from := &w.own
	if len(w.own) == 0 || w.rnd.IntN(2) == 0 {
		w.h.mu.Lock()
		defer w.h.mu.Unlock()
		from = &w.h.pool
	}
	if len(*from) == 0 {
		return p, false
	}
	i := w.rnd.IntN(len(*from))
	p = (*from)[i]
	*from = slices.Delete(*from, i, i+1)
	return p, true
}

// settle reports through a permit. A probe may report a second time.
func (w *linearWorker) settle(ctx context.Context, o Outcome) bool {
	p, ok := w.take()
	if !ok {
		return false
	}
	r := Report{Outcome: o, Latency: time.Millisecond}
	if w.rnd.IntN(4) == 0 {
		r.Latency = 2 * time.Second
	}
	r.Canceled = o == Ignored && w.rnd.IntN(2) == 0
	if w.rnd.IntN(8) == 0 {
		r.RetryAfter = 12 * time.Second
	}
	w.do(linearOp{kind: opSettle, permit: p.id, report: r}, func(saw *linearResult) {
		p.Report(ctx, r)
		saw.probe, saw.locks = p.IsProbe(), p.ph.kind > admitStriped
	})
	if p.owner != w.id {
		w.saw["a permit handed over"]++
	}
	if p.settled {
		w.saw["a second report of a probe"]++
	}
	if p.IsProbe() && !p.settled && w.rnd.IntN(4) == 0 {
		p.settled = true
		w.keep(p)
	}
	return true
}
