package breaker

import (
	"cmp"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// What is linearizable, and what is not
//
// Each operation of a breaker takes effect at one instant between its call and its return. The instants put all
// operations in an order in which the sequential model of model_test.go does the same: it admits and rejects the same
// calls for the same reasons, as probes or not, in the same generations, and makes the same transitions with the same
// events. These operations are exceptions, on purpose. Each consists of steps, and the steps are linearizable:
//
//   - A success that takes no lock has three steps: it is judged (in time or late), it is counted, and it ends the
//     failure streak. Its generation may end between the steps. It is still a success, because it was in time when it
//     was judged, and is counted in the totals. It has no effect on the next generation.
//   - A result that may open the breaker has three steps, with the lock held: it is recorded in the window, the rules
//     are evaluated, and the breaker opens if one fires. Only operations without the lock come between them: the steps
//     of successes, admissions while closed, and State. So a success during the Nth consecutive failure may end the
//     streak that includes this failure; then the breaker does not open. A success after the evaluation does not
//     prevent the opening.
//   - The custom rule is called without the lock. Its result is a separate step, and counts if the generation has not
//     ended.
//   - In a snapshot, and in the counts of an event, everything that the lock guards is of one instant. The failure
//     streak and the successes in the window may each be of another instant, and so may the totals of admissions,
//     successes and rejections. At rest all of it is exact.
//
// In a history, such an operation is replaced by its steps, all between its call and its return.
const (
	opAcquire   = "acquire"
	opSettle    = "settle"      // in one step: a probe, or an outcome that cannot open the breaker
	opJudge     = "judge"       // a success, first step
	opCount     = "count"       // second
	opEndStreak = "end streak"  // third
	opRecord    = "record"      // a result that may open the breaker, first step
	opEvaluate  = "evaluate"    // second
	opOpen      = "open"        // third
	opCustom    = "custom rule" // fourth, with a custom rule
	opTrip      = "trip"
	opReset     = "reset"
	opOverride  = "override"
	opClear     = "clear override"
	opState     = "state"
	opStreak    = "snapshot, with the streak"
	opWindow    = "snapshot, with the successes"
	opRest      = "snapshot at rest"
	opAdvance   = "advance"
)

// linearOp is the input of an operation.
type linearOp struct {
	kind   string
	permit int // acquire: the number of the permit if it is admitted; settle and its steps: the number of the permit
	report Report
	mode   Mode
	d      time.Duration // to advance, or an override's TTL
	alone  bool          // no concurrent operation could observe the time between the first three steps
}

// linearResult is the output of an operation.
type linearResult struct {
	reason Reason // of a rejection
	until  time.Duration
	probe  bool
	gen    uint64
	state  State // of State; or in a rejection
	locks  bool  // a report: even a success takes the lock
	snap   *Snapshot
}

// linearState is the model, and the progress of operations of several steps.
type linearState struct {
	model
	now         time.Duration
	probes      int // admitted, in the order of the model
	permits     []linearPermit
	recording   int    // the permit whose report is recorded and holds the lock; below 0: none
	fires       Rule   // the rule that fires for that report
	firedCounts Counts // the counts that it fired on
	next        int    // the permit of the next step; below 0: any
}

type linearPermit struct {
	ticket int
	gen    uint64
	probe  bool
	steps  int // steps of its report that are done
	late   bool
	check  *customCheck // for the custom rule; never written to
}

// stepOf returns how many steps of the same report come before this one.
var stepOf = map[string]int{opJudge: 0, opCount: 1, opEndStreak: 2, opRecord: 0, opEvaluate: 1, opOpen: 2, opCustom: 3}

func (s *linearState) clone() *linearState {
	c := *s
	c.results = slices.Clone(s.results)
	c.leases = slices.Clone(s.leases)
	c.permits = slices.Clone(s.permits)
	return &c
}

// hash covers the fields that differ most often. Equal compares the rest.
func (s *linearState) hash() uint64 {
	const prime = 1099511628211
	h := uint64(14695981039346656037)
	for _, v := range []uint64{
		s.gen, s.streak, uint64(s.recording), uint64(s.next), uint64(s.fires), uint64(len(s.results)), uint64(len(s.leases)),
		uint64(s.probes),
		uint64(s.successes), s.credit, s.sum.Admitted, s.sum.Successes, s.sum.Failures, s.sum.Late, s.sum.Probes.Success,
		uint64(s.override),
	} {
		h = (h ^ v) * prime
	}
	for _, p := range s.permits {
		h = (h ^ uint64(p.ticket)) * prime
		h = (h ^ p.gen) * prime
	}
	return h
}

// TestLinearStateIsCopiedWhole fails if the model gets a field that two states would share after clone.
func TestLinearStateIsCopiedWhole(t *testing.T) {
	var shared []string
	var walk func(at string, typ reflect.Type)
	walk = func(at string, typ reflect.Type) {
		switch typ.Kind() {
		case reflect.Struct:
			if typ == reflect.TypeFor[time.Time]() {
				return
			}
			for f := range typ.Fields() {
				walk(at+"."+f.Name, f.Type)
			}
		case reflect.Slice, reflect.Map, reflect.Pointer, reflect.Chan, reflect.Interface, reflect.Func:
			shared = append(shared, at)
		default: // a value
		}
	}
	walk("", reflect.TypeFor[linearState]())
	wantSame(t, "fields that clone must copy", shared, []string{
		".model.trip", ".model.results", ".model.leases",
		".permits",
	})
}

// linearModel returns the model for one history with these events.
func linearModel(cfg Config, custom func(Counts) bool, permits int, events []Event, born time.Time) porcupine.Model {
	return porcupine.Model{
		Init: func() any {
			s := &linearState{model: *newModel(cfg, nil), permits: make([]linearPermit, permits), recording: -1, next: -1}
			s.custom = custom != nil
			return s
		},
		Step: func(state, input, output any) (bool, any) {
			old, op, saw := state.(*linearState), input.(linearOp), output.(linearResult)
			if !old.mayStep(op) {
				return false, nil
			}
			s := old.clone()
			if !s.do(op, saw, custom) || !s.eventMatches(old, op, events, born) {
				return false, nil
			}
			s.reduceChoices(op, custom)
			return true, s
		},
		Equal: reflect.DeepEqual,
		Hash:  func(state any) uint64 { return state.(*linearState).hash() },
		DescribeOperation: func(input, output any) string {
			return describeLinear(input.(linearOp), output.(linearResult))
		},
	}
}

// mayStep reports whether op may happen now. A step may have to wait for an earlier step or for the lock.
func (s *linearState) mayStep(op linearOp) bool {
	n, step := stepOf[op.kind]
	if step && s.permits[op.permit].steps != n {
		return false
	}
	if s.next >= 0 {
		return step && op.permit == s.next
	}
	if s.recording < 0 {
		return true
	}
	switch op.kind {
	case opEvaluate, opOpen:
		return op.permit == s.recording
	case opJudge, opCount, opEndStreak, opState:
		return true
	case opAcquire:
		return s.mode() == 0 && !s.ramping && s.cfg.MaxConcurrent == 0
	}
	return false
}

// reduceChoices removes choices that make no difference, which saves the checker most of its work. Steps that nothing
// can observe, or that change nothing, follow at once. Results of one instant are put in one order.
func (s *linearState) reduceChoices(op linearOp, custom func(Counts) bool) {
	s.next = -1
	p := s.permits[op.permit]
	last := 3
	var idle bool
	switch op.kind {
	case opJudge, opCount, opEndStreak:
		idle = p.gen != s.gen
	case opRecord, opEvaluate, opOpen:
		idle = s.fires == 0 && (s.recording < 0 || op.kind == opEvaluate) && p.check == nil
		if custom != nil {
			last = 4
		}
	default:
		last = 0
	}
	if p.steps < last && (idle || (op.alone && p.steps < 3)) {
		s.next = op.permit
	}
	slices.SortFunc(s.results, func(a, b modelResult) int {
		if a.at == b.at && a.outcome == b.outcome && a.slow != b.slow {
			return map[bool]int{true: 1, false: -1}[a.slow]
		}
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.outcome, b.outcome))
	})
}

// do takes one step, and reports whether its result is that of the model.
func (s *linearState) do(op linearOp, saw linearResult, custom func(Counts) bool) bool {
	switch op.kind { // operations that take the lock end overrides and ramps whose time is over; reads do not
	case opState:
		return saw.state == s.snapshot(s.now).State
	case opStreak, opWindow, opRest:
		return s.matches(op.kind, *saw.snap)
	case opAdvance:
		s.now += op.d
		return true
	}
	s.refresh(s.now)
	if _, step := stepOf[op.kind]; step {
		s.permits[op.permit].steps++
	}
	switch op.kind {
	case opAcquire:
		return s.doAcquire(op, saw)
	case opSettle:
		s.settle(s.ticket(op), op.report, s.now)
	case opJudge, opCount, opEndStreak:
		s.succeed(op)
	case opRecord:
		if _, evaluate := s.record(s.ticket(op), op.report, s.now); evaluate {
			s.recording = op.permit
		}
	case opEvaluate:
		s.evaluate(op, custom)
	case opOpen:
		if s.fires != 0 {
			s.open(s.fires, op.report.RetryAfter, s.now)
		}
		s.recording, s.fires, s.firedCounts = -1, 0, Counts{}
	case opCustom:
		if q := s.permits[op.permit].check; q != nil && q.gen == s.gen && s.state == Closed && s.mode() != ForceClosed {
			s.open(RuleCustom, op.report.RetryAfter, s.now)
		}
	case opTrip:
		s.tripNow(s.now)
	case opReset:
		s.reset(s.now)
	case opOverride:
		s.setOverride(op.mode, op.d, s.now)
	case opClear:
		s.clearOverride(s.now)
	}
	return true
}

func (s *linearState) doAcquire(op linearOp, saw linearResult) bool {
	tk, reason := s.acquire(s.probes, s.now)
	if reason != saw.reason {
		return false
	}
	switch reason {
	case 0:
		s.permits[op.permit] = linearPermit{ticket: tk.id, gen: tk.gen, probe: tk.probe}
		if tk.probe {
			s.probes++
		}
		return tk.probe == saw.probe && tk.gen == saw.gen
	case ReasonForced:
		return saw.state == Open
	case ReasonOpen:
		return saw.state == Open && saw.until == s.until
	case ReasonHalfOpen, ReasonRamp, ReasonConcurrency:
	}
	return saw.state == s.state
}

// ticket returns the ticket of the model. Reports have a latency, so the call began that long ago.
func (s *linearState) ticket(op linearOp) ticket {
	p := s.permits[op.permit]
	return ticket{id: p.ticket, gen: p.gen, probe: p.probe, timed: true, start: s.now - op.report.Latency}
}

// succeed takes one of the three steps of a success.
func (s *linearState) succeed(op linearOp) {
	p := &s.permits[op.permit]
	lasts := p.gen == s.gen
	switch {
	case op.kind == opJudge:
		if p.late = !lasts; p.late {
			s.sum.Late++
		}
	case p.late:
	case op.kind == opCount:
		s.sum.Successes++
		if lasts {
			s.addSuccess(s.now, false)
		}
	case lasts:
		s.streak = 0
	}
}

func (s *linearState) evaluate(op linearOp, custom func(Counts) bool) {
	if s.recording != op.permit {
		return
	}
	s.fires, s.firedCounts = s.rule(op.report.Outcome, s.now), s.counts(s.now)
	if s.fires == 0 && custom != nil && custom(s.firedCounts) {
		s.permits[op.permit].check = &customCheck{gen: s.gen, counts: s.firedCounts}
	}
}

// matches reports whether a snapshot is that of the model.
func (s *linearState) matches(kind string, got Snapshot) bool {
	want := s.snapshot(s.now)
	want.Key, want.Since, want.LastFailure = got.Key, got.Since, got.LastFailure
	want.LastCause, want.Opened, want.Outage = got.LastCause, got.Opened, got.Outage         // TestModel checks them
	want.OpenUntil, want.Config, want.CustomRule = got.OpenUntil, got.Config, got.CustomRule // and these
	want.Override = Override{Mode: want.Override.Mode}
	got.Override = Override{Mode: got.Override.Mode}
	if kind == opRest {
		return got == want
	}
	if kind == opStreak {
		want.Window.Successes = got.Window.Successes
	} else {
		want.Window.ConsecutiveFailures = got.Window.ConsecutiveFailures
	}
	want.Admitted, want.Successes, want.InFlight = got.Admitted, got.Successes, got.InFlight
	want.Rejections.Open, want.Rejections.HalfOpen = got.Rejections.Open, got.Rejections.HalfOpen
	return got == want
}

// eventMatches reports whether the event of a transition from old to s, or of a change of the override, is correct if
// there is one. So each transition and each change has one event, and each event is of one of them.
func (s *linearState) eventMatches(old *linearState, op linearOp, events []Event, born time.Time) bool {
	if s.events == old.events {
		return true
	}
	if s.events > uint64(len(events)) {
		return false
	}
	e := events[s.events-1]
	want := Event{
		From: old.state, To: s.state, Seq: s.events, Generation: s.gen, FailedRecoveries: s.failed,
		Override: e.Override, OverrideChanged: s.gen == old.gen,
	}
	if e.Override.Mode != s.mode() {
		return false
	}
	if e.OverrideChanged {
		want.FailedRecoveries = s.snapshot(s.now).FailedRecoveries
	}
	if op.kind == opReset {
		want.Rule = RuleManual
	}
	if s.state == Open && !e.OverrideChanged {
		want.Rule, want.OpenFor = s.openedBy, s.until-s.now
		if old.state == Closed {
			switch op.kind {
			case opOpen:
				want.Counts = old.firedCounts
			case opCustom:
				want.Counts = old.permits[op.permit].check.counts
			default:
				want.Counts = old.counts(s.now)
			}
			if want.Rule != RuleConsecutive {
				want.Counts.ConsecutiveFailures = e.Counts.ConsecutiveFailures
			}
			if want.Rule != RuleRatio && want.Rule != RuleSlow {
				want.Counts.Successes = e.Counts.Successes
			}
		}
	}
	at := e.At.Sub(born)
	e.Key, e.Why, e.At = Key{}, "", time.Time{}
	return e == want && at == s.now
}
