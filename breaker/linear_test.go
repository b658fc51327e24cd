package breaker

import (
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"
)

const (
	linearHistories = 600     // at least; the test continues until it has seen everything in linearMustSee
	linearDecided   = 90      // percent of the histories that must be decided
	linearMaxSteps  = 100_000 // steps of the model for one history; with more, it is not decided
)

var linearSeed = flag.Uint64("linear.seed", 0, "check histories of this seed only, in TestLinearizable")

// TestLinearizable runs random operations on one breaker in 4 to 8 goroutines. It searches for an order of the
// operations in which the model does the same, see linear_model_test.go. Time moves only between rounds, while all
// goroutines wait. So a round happens at one instant, and moving the time is an operation like others.
//
// The seed determines the operations. Their order depends on the scheduler too, so a seed that failed may have to run
// several times until it fails again: -linear.seed does that.
func TestLinearizable(t *testing.T) {
	saw := seen{}
	base := rand.Uint64()
	histories := 0
	for ; histories < linearHistories || (len(saw.missing(linearMustSee)) > 0 &&
		histories < 20*linearHistories); histories++ {
		seed := base + uint64(histories)
		if *linearSeed != 0 {
			seed = *linearSeed
		}
		var h *linearHistory
		synctest.Test(t, func(t *testing.T) { h = newLinearHistory(t, seed); h.run(t) })
		h.count(saw)
		if !h.check(t) {
			saw["not decided"]++
		}
		if t.Failed() || (*linearSeed != 0 && histories >= linearHistories) {
			return
		}
	}
	if decided := histories - saw["not decided"]; decided*100 < histories*linearDecided {
		t.Errorf("%d of %d histories are decided, want %d%%", decided, histories, linearDecided)
	}
	saw.report(t, linearMustSee)
}

var linearMustSee = []string{
	"operations at once", "a permit handed over", "a second report of a probe",
	"opened by consecutive", "opened by ratio", "opened by slow", "opened by custom", "opened by probe",
	"opened by manual", "override set", "override cleared",
	"half-open", "closed by probes", "closed by hand", "probe succeeded", "probe failed", "probe ignored", "probe lost",
	"late",
	"rejected: open", "rejected: half_open", "rejected: ramp", "rejected: forced", "rejected: concurrency",
	"shadow rejected",
	"state closed", "state half_open", "state open", "a success during a failure", "a slow canceled call",
}

// steps returns the history, with operations of several steps replaced by their steps. The stamps of the steps are in
// order, because that is the order that the checker tries first.
func (h *linearHistory) steps() (steps []porcupine.Operation) {
	for _, o := range h.ops {
		op, kinds := o.Input.(linearOp), []string{o.Input.(linearOp).kind}
		switch {
		case h.mayOpen(o):
			op.alone = !h.concurrentWith(o, h.lockFree)
			kinds = []string{opRecord, opEvaluate, opOpen}
			if h.custom != nil {
				kinds = append(kinds, opCustom)
			}
		case h.lockFree(o):
			op.alone = !h.concurrentWith(o, func(o porcupine.Operation) bool {
				kind := o.Input.(linearOp).kind
				return h.mayOpen(o) || kind == opStreak || kind == opWindow
			})
			kinds = []string{opJudge, opCount, opEndStreak}
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

// mayOpen reports whether the rules may be evaluated for o.
func (h *linearHistory) mayOpen(o porcupine.Operation) bool {
	op := o.Input.(linearOp)
	if op.kind != opSettle || o.Output.(linearResult).probe {
		return false
	}
	switch op.report.Outcome {
	case Success:
		return h.slow(op.report)
	case Ignored:
		return op.report.Canceled && h.slow(op.report)
	case Failure, Overload:
	}
	return true
}

// lockFree reports whether o is a success that takes no lock.
func (h *linearHistory) lockFree(o porcupine.Operation) bool {
	op, saw := o.Input.(linearOp), o.Output.(linearResult)
	return op.kind == opSettle && !saw.probe && !saw.locks && op.report.Outcome == Success && !h.slow(op.report)
}

func (h *linearHistory) slow(r Report) bool { return h.cfg.SlowCall > 0 && r.Latency > h.cfg.SlowCall }

// concurrentWith reports whether an operation of that kind ran at the same time as o.
func (h *linearHistory) concurrentWith(o porcupine.Operation, kind func(porcupine.Operation) bool) bool {
	return slices.ContainsFunc(h.ops, func(other porcupine.Operation) bool {
		return other.Call < o.Return && o.Call < other.Return && other.Call != o.Call && kind(other)
	})
}

// check fails the test if the history is not linearizable. Trying all orders may take too long. Then it gives up, and
// decided is false.
func (h *linearHistory) check(t *testing.T) (decided bool) {
	t.Helper()
	m, left := h.model(), linearMaxSteps
	step := m.Step
	m.Step = func(state, input, output any) (bool, any) {
		if left--; left < 0 {
			return false, nil
		}
		return step(state, input, output)
	}
	if porcupine.CheckOperations(m, h.steps()) {
		return true
	}
	if left < 0 {
		return false
	}
	t.Errorf("not linearizable; again with go test -run TestLinearizable ./breaker -linear.seed=%d\n%s", h.seed,
		h.describe())
	return true
}

func (h *linearHistory) model() porcupine.Model {
	return linearModel(h.cfg, h.custom, int(h.permits.Load()), h.rec.received(), h.born)
}

// describe returns everything that is known of a history that is not linearizable.
func (h *linearHistory) describe() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%d goroutines, custom rule %v, %+v\n", len(h.workers), h.custom != nil, h.cfg.WithDefaults())
	slices.SortFunc(h.ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	for _, o := range h.ops {
		fmt.Fprintf(&text, "%4d-%-4d goroutine %d: %s\n", o.Call, o.Return, o.ClientId,
			describeLinear(o.Input.(linearOp), o.Output.(linearResult)))
	}
	for _, e := range h.rec.received() {
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
			fmt.Fprintf(&text, "goroutine %d: %s\n", o.ClientId, describeLinear(o.Input.(linearOp), o.Output.(linearResult)))
		}
	}
	s := state.(*linearState)
	fmt.Fprintf(&text, "And then the model is: %+v", s.snapshot(s.now))
	return text.String()
}

// count adds to saw what happened in the history.
func (h *linearHistory) count(saw seen) {
	for _, w := range h.workers {
		for what, n := range w.saw {
			saw[what] += n
		}
	}
	var last Snapshot
	for i, o := range h.ops {
		op, out := o.Input.(linearOp), o.Output.(linearResult)
		switch op.kind {
		case opState:
			saw["state "+out.state.String()]++
		case opRest:
			last = *out.snap
		}
		concurrent, failure := false, false
		for j, other := range h.ops {
			if i != j && other.Call < o.Return && o.Call < other.Return {
				concurrent = true
				with := other.Input.(linearOp)
				failure = failure || (with.kind == opSettle && with.report.Outcome == Failure)
			}
		}
		saw["operations"]++
		if concurrent {
			saw["operations at once"]++
		}
		if op.kind == opSettle && op.report.Outcome == Ignored && h.mayOpen(o) {
			saw["a slow canceled call"]++
		}
		if failure && op.kind == opSettle && op.report.Outcome == Success {
			saw["a success during a failure"]++
		}
	}
	for _, e := range h.rec.received() {
		switch {
		case e.OverrideChanged:
			saw[e.Why]++
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
		"probe succeeded": last.Probes.Success, "probe failed": last.Probes.Failure, "probe ignored": last.Probes.Ignored,
		"probe lost": last.Probes.Lost,
		"late":       last.Late, "shadow rejected": last.ShadowRejections.Total(),
		"rejected: open": last.Rejections.Open, "rejected: half_open": last.Rejections.HalfOpen,
		"rejected: ramp":   last.Rejections.Ramp,
		"rejected: forced": last.Rejections.Forced, "rejected: concurrency": last.Rejections.Concurrency,
	} {
		saw[what] += int(n)
	}
}

func describeLinear(op linearOp, saw linearResult) string {
	switch op.kind {
	case opAcquire:
		switch {
		case saw.reason == ReasonOpen:
			return fmt.Sprintf("%s: %v until %v", op.kind, saw.reason, saw.until)
		case saw.reason != 0:
			return fmt.Sprintf("%s: %v, %v", op.kind, saw.reason, saw.state)
		case saw.probe:
			return fmt.Sprintf("%s: permit %d, a probe of generation %d", op.kind, op.permit, saw.gen)
		}
		return fmt.Sprintf("%s: permit %d of generation %d", op.kind, op.permit, saw.gen)
	case opOverride:
		return fmt.Sprintf("%s %v for %v", op.kind, op.mode, op.d)
	case opAdvance:
		return fmt.Sprintf("%s %v", op.kind, op.d)
	case opState:
		return fmt.Sprintf("%s: %v", op.kind, saw.state)
	case opStreak, opWindow, opRest:
		return fmt.Sprintf("%s: %+v", op.kind, *saw.snap)
	case opTrip, opReset, opClear:
		return op.kind
	}
	return fmt.Sprintf("%s permit %d: %+v", op.kind, op.permit, op.report)
}
