package breaker

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"
)

const (
	linearHistories = 600
	linearDecided   = 540     // at least
	linearPatience  = 100_000 // steps of the model, for one history
)

var linearSeed = flag.Uint64("linear.seed", 0, "check histories of this program only, in TestLinearizable")

// TestLinearizable has 4 to 8 goroutines run random programs on one breaker, and looks for an order of their operations in which
// the model does the same: see linear_model_test.go. Time moves between rounds only, while all of them wait; so all of a round
// happens at one instant, and moving time is an operation like others.
//
// The seed makes the programs. What comes of them depends on the scheduler too, so a seed that failed may have to run several
// times until it fails again: that is what -linear.seed is for.
func TestLinearizable(t *testing.T) {
	saw := seen{}
	base := rand.Uint64()
	for i := range uint64(linearHistories) {
		seed := base + i
		if *linearSeed != 0 {
			seed = *linearSeed
		}
		var h *linearHistory
		synctest.Test(t, func(t *testing.T) { h = newLinearHistory(t, seed); h.run(t) })
		h.count(saw)
		if !h.check(t) {
			saw["not decided"]++
		}
		if t.Failed() {
			return
		}
	}
	if decided := linearHistories - saw["not decided"]; decided < linearDecided {
		t.Errorf("%d histories are decided, want %d", decided, linearDecided)
	}
	if *linearSeed != 0 {
		return
	}
	for _, what := range []string{
		"operations at once", "a permit handed over", "a second report of a probe",
		"opened by consecutive", "opened by ratio", "opened by slow", "opened by custom", "opened by probe", "opened by manual",
		"half-open", "closed by probes", "closed by hand", "probe succeeded", "probe failed", "probe ignored", "probe lost", "late",
		"rejected: open", "rejected: half_open", "rejected: ramp", "rejected: forced", "rejected: concurrency", "shadow rejected",
		"state closed", "state half_open", "state open", "a success beside a failure",
	} {
		if saw[what] == 0 {
			t.Errorf("never seen: %s", what)
		}
	}
	if testing.Verbose() {
		for _, what := range slices.Sorted(mapKeys(saw)) {
			t.Logf("%7d  %s", saw[what], what)
		}
	}
}

// linearHistory is one breaker, who works on it, and what they saw.
type linearHistory struct {
	seed    uint64
	rnd     *rand.Rand // of the coordinator; before the start, of all
	cfg     Config
	custom  func(Counts) bool
	workers []*linearWorker
	b       *Breaker
	rec     recorder
	born    time.Time

	stamps  atomic.Int64 // real time, as it were: the bubble's stands still
	permits atomic.Int64 // numbers given to calls

	mu   sync.Mutex
	pool []heldPermit // handed over; guarded by mu

	ops []porcupine.Operation // all of them, at the end
}

type heldPermit struct {
	Permit
	id      int
	owner   int
	settled bool // once; a probe may be reported again
}

// linearWorker is one goroutine of each round. What it holds is its own.
type linearWorker struct {
	h    *linearHistory
	id   int
	rnd  *rand.Rand
	held []heldPermit
	ops  []porcupine.Operation
	saw  seen
}

func newLinearHistory(t *testing.T, seed uint64) *linearHistory {
	h := &linearHistory{seed: seed, rnd: rand.New(rand.NewPCG(seed, 0)), born: time.Now()}
	pick := func(of ...int) int { return of[h.rnd.IntN(len(of))] }
	h.cfg = Config{
		ConsecutiveFailures: pick(-1, 1, 2, 3),
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

// A round has a theme, so that many do alike at once: what is likeliest to go wrong.
var linearThemes = []struct {
	outcomes []Outcome
	weights  seen
}{
	{[]Outcome{Success, Failure}, seen{opAcquire: 8, opSettle: 1, opState: 1}},
	{[]Outcome{Failure, Failure, Failure, Overload, Success}, seen{opAcquire: 2, opSettle: 8}},
	{[]Outcome{Success, Success, Success, Failure}, seen{opAcquire: 2, opSettle: 8, opRow: 1, opWindow: 1}},
	{[]Outcome{Success}, seen{opAcquire: 2, opSettle: 6, opTrip: 1, opState: 1}},
	{[]Outcome{Success, Failure, Overload, Ignored}, seen{
		opAcquire: 8, opSettle: 8, opTrip: 1, opReset: 1, opOverride: 1, opClear: 1, opState: 2, opRow: 1, opWindow: 1,
	}},
}

// run is the coordinator: rounds, and between them a look at rest and some time.
func (h *linearHistory) run(t *testing.T) {
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
		together(len(h.workers), func(i int) {
			for range each {
				w := h.workers[i]
				w.step(t, kinds[w.rnd.IntN(len(kinds))], theme.outcomes)
			}
		})
		s := coordinator.look(t, opRest)
		d := []time.Duration{0, s.RetryAfter, s.RetryAfter, s.RetryAfter - 1, 3 * time.Second, 3*time.Second - 1, time.Second, 20 * time.Second}[h.rnd.IntN(8)]
		if d > 0 {
			coordinator.do(linearOp{kind: opAdvance, d: d}, func(*linearSaw) { time.Sleep(d) })
		}
	}
	coordinator.look(t, opRest)
	for _, w := range append(h.workers, coordinator) {
		h.ops = append(h.ops, w.ops...)
		w.ops = nil
	}
}

// do takes the stamps of one operation.
func (w *linearWorker) do(op linearOp, f func(*linearSaw)) {
	var saw linearSaw
	call := w.h.stamps.Add(1)
	f(&saw)
	w.ops = append(w.ops, porcupine.Operation{ClientId: w.id, Input: op, Call: call, Output: saw, Return: w.h.stamps.Add(1)})
}

func (w *linearWorker) step(t *testing.T, kind string, outcomes []Outcome) {
	b, ctx := w.h.b, t.Context()
	switch kind {
	case opAcquire:
		w.acquire(ctx)
	case opSettle:
		if !w.settle(ctx, outcomes[w.rnd.IntN(len(outcomes))]) {
			w.acquire(ctx)
		}
	case opTrip:
		w.do(linearOp{kind: kind}, func(*linearSaw) { b.Trip(ctx, "test") })
	case opReset:
		w.do(linearOp{kind: kind}, func(*linearSaw) { b.Reset(ctx) })
	case opOverride:
		op := linearOp{kind: kind, mode: ForceOpen + Mode(w.rnd.IntN(3)), d: time.Duration(w.rnd.IntN(2)) * time.Second}
		w.do(op, func(*linearSaw) {
			if err := b.SetOverride(ctx, Override{Mode: op.mode, TTL: op.d, Why: "test", By: "test"}); err != nil {
				t.Error(err)
			}
		})
	case opClear:
		w.do(linearOp{kind: kind}, func(*linearSaw) { b.ClearOverride(ctx) })
	case opState:
		w.do(linearOp{kind: kind}, func(saw *linearSaw) { saw.state = b.State() })
	case opRow, opWindow:
		w.look(t, kind)
	}
}

func (w *linearWorker) look(t *testing.T, kind string) (s Snapshot) {
	w.do(linearOp{kind: kind}, func(saw *linearSaw) {
		s = w.h.b.Snapshot()
		saw.snap = &s
	})
	balance(t, kind, s)
	return s
}

func (w *linearWorker) acquire(ctx context.Context) {
	h := w.h
	id := int(h.permits.Add(1) - 1)
	var p Permit
	var err error
	w.do(linearOp{kind: opAcquire, permit: id}, func(saw *linearSaw) {
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
		w.keep(heldPermit{Permit: p, id: id, owner: w.id})
	}
}

// keep holds a permit, or hands it over.
func (w *linearWorker) keep(p heldPermit) {
	if w.rnd.IntN(2) == 0 {
		w.held = append(w.held, p)
		return
	}
	w.h.mu.Lock()
	w.h.pool = append(w.h.pool, p)
	w.h.mu.Unlock()
}

// take finds a permit to report: one of its own or, if the die says so or it has none, one that was handed over.
func (w *linearWorker) take() (p heldPermit, ok bool) {
	from := &w.held
	if len(w.held) == 0 || w.rnd.IntN(2) == 0 {
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

// settle reports a permit, a probe's perhaps a second time.
func (w *linearWorker) settle(ctx context.Context, o Outcome) bool {
	p, ok := w.take()
	if !ok {
		return false
	}
	r := Report{Outcome: o, Latency: time.Millisecond}
	if w.rnd.IntN(4) == 0 {
		r.Latency = 2 * time.Second
	}
	if w.rnd.IntN(8) == 0 {
		r.RetryAfter = 12 * time.Second
	}
	w.do(linearOp{kind: opSettle, permit: p.id, report: r}, func(saw *linearSaw) {
		p.DoneWith(ctx, r)
		saw.probe, saw.locks = p.IsProbe(), p.ph.kind > admitTimed
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

// steps is the history with operations of several steps taken apart. Stamps are spread so that the steps begin in order: that is
// what the checker tries first.
func (h *linearHistory) steps() (steps []porcupine.Operation) {
	for _, o := range h.ops {
		op, kinds := o.Input.(linearOp), []string{o.Input.(linearOp).kind}
		switch {
		case h.mayOpen(o):
			op.alone = !h.beside(o, h.quick)
			kinds = []string{opNote, opEvaluate, opOpen}
			if h.custom != nil {
				kinds = append(kinds, opAnswer)
			}
		case h.quick(o):
			op.alone = !h.beside(o, func(o porcupine.Operation) bool {
				kind := o.Input.(linearOp).kind
				return h.mayOpen(o) || kind == opRow || kind == opWindow
			})
			kinds = []string{opJudge, opCount, opEndRow}
		}
		o.Call, o.Return = 8*o.Call, 8*o.Return
		for _, op.kind = range kinds {
			o.Input = op
			steps = append(steps, o)
			o.Call++
		}
	}
	return steps
}

// mayOpen says whether the rules may be evaluated for o, quick whether it is a success that takes no lock.
func (h *linearHistory) mayOpen(o porcupine.Operation) bool {
	op := o.Input.(linearOp)
	return op.kind == opSettle && !o.Output.(linearSaw).probe && op.report.Outcome != Ignored && (op.report.Outcome != Success || h.slow(op.report))
}

func (h *linearHistory) quick(o porcupine.Operation) bool {
	op, saw := o.Input.(linearOp), o.Output.(linearSaw)
	return op.kind == opSettle && !saw.probe && !saw.locks && op.report.Outcome == Success && !h.slow(op.report)
}

func (h *linearHistory) slow(r Report) bool { return h.cfg.SlowCall > 0 && r.Latency > h.cfg.SlowCall }

// beside says whether an operation of that kind ran at the same time as o.
func (h *linearHistory) beside(o porcupine.Operation, kind func(porcupine.Operation) bool) bool {
	return slices.ContainsFunc(h.ops, func(other porcupine.Operation) bool {
		return other.Call < o.Return && o.Call < other.Return && other.Call != o.Call && kind(other)
	})
}

// check says whether the history is linearizable, and fails the test if not. To look at all orders may take too long; then it
// gives up and says that it has not decided.
func (h *linearHistory) check(t *testing.T) (decided bool) {
	t.Helper()
	m, patience := h.model(), linearPatience
	step := m.Step
	m.Step = func(state, input, output any) (bool, any) {
		if patience--; patience < 0 {
			return false, nil
		}
		return step(state, input, output)
	}
	if porcupine.CheckOperations(m, h.steps()) {
		return true
	}
	if patience < 0 {
		return false
	}
	t.Errorf("not linearizable; again with -linear.seed=%d\n%s", h.seed, h.describe())
	return true
}

func (h *linearHistory) model() porcupine.Model {
	return linearModel(h.cfg, h.custom, int(h.permits.Load()), h.rec.heard(), h.born)
}

// describe is all there is to know of a history that is not linearizable.
func (h *linearHistory) describe() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%d goroutines, custom rule %v, %+v\n", len(h.workers), h.custom != nil, h.cfg.WithDefaults())
	slices.SortFunc(h.ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	for _, o := range h.ops {
		fmt.Fprintf(&text, "%4d-%-4d goroutine %d: %s\n", o.Call, o.Return, o.ClientId, describeLinear(o.Input.(linearOp), o.Output.(linearSaw)))
	}
	for _, e := range h.rec.heard() {
		fmt.Fprintf(&text, "event at %v: %+v\n", e.At.Sub(h.born), e)
	}

	m := h.model()
	_, info := porcupine.CheckOperationsVerbose(m, h.steps(), time.Minute)
	var longest []porcupine.Operation
	for _, part := range info.PartialLinearizationsOperations()[0] {
		if len(part) > len(longest) {
			longest = part
		}
	}
	fmt.Fprintln(&text, "The longest order that is possible ends with:")
	state := m.Init()
	for i, o := range longest {
		_, state = m.Step(state, o.Input, o.Output)
		if i >= len(longest)-12 {
			fmt.Fprintf(&text, "goroutine %d: %s\n", o.ClientId, describeLinear(o.Input.(linearOp), o.Output.(linearSaw)))
		}
	}
	s := state.(*linearState)
	fmt.Fprintf(&text, "And then the model is: %+v", s.snapshot(s.now))
	return text.String()
}

// count notes what the history had to show.
func (h *linearHistory) count(saw seen) {
	for _, w := range h.workers {
		for what, n := range w.saw {
			saw[what] += n
		}
	}
	var last Snapshot
	for i, o := range h.ops {
		op, out := o.Input.(linearOp), o.Output.(linearSaw)
		switch op.kind {
		case opState:
			saw["state "+out.state.String()]++
		case opRest:
			last = *out.snap
		}
		beside, failure := false, false
		for j, other := range h.ops {
			if i != j && other.Call < o.Return && o.Call < other.Return {
				beside = true
				with := other.Input.(linearOp)
				failure = failure || (with.kind == opSettle && with.report.Outcome == Failure)
			}
		}
		saw["operations"]++
		if beside {
			saw["operations at once"]++
		}
		if failure && op.kind == opSettle && op.report.Outcome == Success {
			saw["a success beside a failure"]++
		}
	}
	for _, e := range h.rec.heard() {
		switch {
		case e.To == Open:
			saw["opened by "+e.Rule.String()]++
		case e.To == HalfOpen:
			saw["half-open"]++
		case e.Rule == RuleManual:
			saw["closed by hand"]++
		default:
			saw["closed by probes"]++
		}
	}
	for what, n := range map[string]uint64{
		"probe succeeded": last.Probes.Success, "probe failed": last.Probes.Failure, "probe ignored": last.Probes.Ignored, "probe lost": last.Probes.Lost,
		"late": last.Late, "shadow rejected": last.ShadowRejections.Total(),
		"rejected: open": last.Rejections.Open, "rejected: half_open": last.Rejections.HalfOpen, "rejected: ramp": last.Rejections.Ramp,
		"rejected: forced": last.Rejections.Forced, "rejected: concurrency": last.Rejections.Concurrency,
	} {
		saw[what] += int(n)
	}
}
