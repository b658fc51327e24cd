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
// Every operation of a breaker takes effect at one instant between its call and its return, and the instants put all
// operations in an order in which the sequential model of model_test.go does the same: it admits and rejects the same
// calls for the same reasons, as probes or not, in the same generations, and makes the same transitions with the same
// events. The following do not, on purpose; each comes in steps, and the steps are linearizable:
//
//   - A success that takes no lock comes in three: it is judged (in time or late), it is counted, and it ends the row of
//     consecutive failures. Its stay may end between the steps. It still is a success, as it was in time when it was judged,
//     and is in the totals; to the stay after its own it does nothing.
//   - What may open comes in three, under one hold of the lock: it is noted in the window, the rules are evaluated, and if
//     one fires the breaker opens. Only what takes no lock comes between: the steps of successes, admissions while closed,
//     and State. So a success that runs beside the Nth consecutive failure may end the row when that failure is in it
//     already; then nothing opens. And one that comes after the evaluation does not stop the breaker from opening.
//   - The rule of WithTrip is asked outside the lock. Its answer is a step of its own, and counts if the stay lasts.
//   - A snapshot, and the counts in an event, are of one instant in all that the lock guards and in any one of the figures
//     that it does not guard: the row, and the successes in the window. Two of these may be of two instants, and so may the
//     counts of admissions, successes and rejections in all. At rest all of it is exact.
//
// In a history such an operation stands as its steps, all between its call and its return.
const (
	opAcquire  = "acquire"
	opSettle   = "settle"   // in one step: a probe, or an outcome that nothing follows from
	opJudge    = "judge"    // a success, first step
	opCount    = "count"    // second
	opEndRow   = "end row"  // third
	opNote     = "note"     // what may open, first step
	opEvaluate = "evaluate" // second
	opOpen     = "open"     // third
	opAnswer   = "answer"   // fourth, with a rule of one's own
	opTrip     = "trip"
	opReset    = "reset"
	opOverride = "override"
	opClear    = "clear override"
	opState    = "state"
	opRow      = "snapshot, with the row"
	opWindow   = "snapshot, with the successes"
	opRest     = "snapshot at rest"
	opAdvance  = "advance"
)

// linearOp is what an operation was asked, linearSaw what came back.
type linearOp struct {
	kind   string
	permit int // acquire: the number that it gets if it is let through; settle and its steps: which
	report Report
	mode   Mode
	d      time.Duration // to advance, or an override's TTL
	alone  bool          // nothing ran at the same time that could tell the first three steps apart
}

type linearSaw struct {
	reason Reason // of a rejection
	until  time.Duration
	probe  bool
	gen    uint64
	state  State // of State; or in a rejection
	locks  bool  // a report: even a success takes the lock
	snap   *Snapshot
}

// linearState is the model, and where operations of several steps stand.
type linearState struct {
	model
	now     time.Duration
	probes  int // let out, in the order of the model
	permits []linearPermit
	noted   int    // the permit whose report has been noted and holds the lock; below 0: none
	fires   Rule   // what it met
	met     Counts // the counts that it met it with
	next    int    // the permit of the next step; below 0: any
}

type linearPermit struct {
	ticket int
	gen    uint64
	probe  bool
	steps  int // taken of its report
	late   bool
	check  *customCheck // for the rule of one's own; never written to
}

// stepOf is how many steps of the same report come before this one.
var stepOf = map[string]int{opJudge: 0, opCount: 1, opEndRow: 2, opNote: 0, opEvaluate: 1, opOpen: 2, opAnswer: 3}

func (s *linearState) clone() *linearState {
	c := *s
	c.results = slices.Clone(s.results)
	c.leases = slices.Clone(s.leases)
	c.permits = slices.Clone(s.permits)
	return &c
}

// hash is of what tells states apart most often; the rest is left to a comparison.
func (s *linearState) hash() uint64 {
	const prime = 1099511628211
	h := uint64(14695981039346656037)
	for _, v := range []uint64{
		s.gen, s.streak, uint64(s.noted), uint64(s.next), uint64(s.fires), uint64(len(s.results)), uint64(len(s.leases)), uint64(s.probes),
		uint64(s.successes), s.credit, s.sum.Admitted, s.sum.Successes, s.sum.Failures, s.sum.Late, s.sum.Probes.Success, uint64(s.override),
	} {
		h = (h ^ v) * prime
	}
	for _, p := range s.permits {
		h = (h ^ uint64(p.ticket)) * prime
		h = (h ^ p.gen) * prime
	}
	return h
}

// TestLinearStateIsCopiedWhole fails if the model gets a field that clone would share between two states.
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
	wantSame(t, "fields to copy by hand", shared, []string{".model.trip", ".model.results", ".model.leases", ".permits"})
}

// linearModel is the model for one history, which made these events.
func linearModel(cfg Config, custom func(Counts) bool, permits int, events []Event, born time.Time) porcupine.Model {
	return porcupine.Model{
		Init: func() any {
			s := &linearState{model: *newModel(cfg, nil), permits: make([]linearPermit, permits), noted: -1, next: -1}
			s.custom = custom != nil
			return s
		},
		Step: func(state, input, output any) (bool, any) {
			old, op, saw := state.(*linearState), input.(linearOp), output.(linearSaw)
			if !old.admits(op) {
				return false, nil
			}
			s := old.clone()
			if !s.do(op, saw, custom) || !s.told(old, op, events, born) {
				return false, nil
			}
			s.settleDown(op, custom)
			return true, s
		},
		Equal: reflect.DeepEqual,
		Hash:  func(state any) uint64 { return state.(*linearState).hash() },
		DescribeOperation: func(input, output any) string {
			return describeLinear(input.(linearOp), output.(linearSaw))
		},
	}
}

// admits says whether op may come now: it may have to wait for its turn or for the lock.
func (s *linearState) admits(op linearOp) bool {
	n, step := stepOf[op.kind]
	if step && s.permits[op.permit].steps != n {
		return false
	}
	if s.next >= 0 {
		return step && op.permit == s.next
	}
	if s.noted < 0 {
		return true
	}
	switch op.kind {
	case opEvaluate, opOpen:
		return op.permit == s.noted
	case opJudge, opCount, opEndRow, opState:
		return true
	case opAcquire:
		return s.mode() == 0 && !s.ramping && s.cfg.MaxConcurrent == 0
	}
	return false
}

// settleDown leaves the checker no choice where there is none, which saves it most of its work: steps that nobody
// could tell apart, or that change nothing, follow at once, and results of one instant stand in one order.
func (s *linearState) settleDown(op linearOp, custom func(Counts) bool) {
	s.next = -1
	p := s.permits[op.permit]
	last := 3
	var idle bool
	switch op.kind {
	case opJudge, opCount, opEndRow:
		idle = p.gen != s.gen
	case opNote, opEvaluate, opOpen:
		idle = s.fires == 0 && (s.noted < 0 || op.kind == opEvaluate) && p.check == nil
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

// do takes one step, and says whether what was seen is what the model does.
func (s *linearState) do(op linearOp, saw linearSaw, custom func(Counts) bool) bool {
	switch op.kind { // what takes the lock ends what time has ended; reads do not
	case opState:
		return saw.state == s.snapshot(s.now).State
	case opRow, opWindow, opRest:
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
	case opJudge, opCount, opEndRow:
		s.succeed(op)
	case opNote:
		if _, ask := s.record(s.ticket(op), op.report, s.now); ask {
			s.noted = op.permit
		}
	case opEvaluate:
		s.evaluate(op, custom)
	case opOpen:
		if s.fires != 0 {
			s.open(s.fires, op.report.RetryAfter, s.now)
		}
		s.noted, s.fires, s.met = -1, 0, Counts{}
	case opAnswer:
		if q := s.permits[op.permit].check; q != nil && q.gen == s.gen && s.state == Closed && s.mode() != ForceClosed {
			s.open(RuleCustom, op.report.RetryAfter, s.now)
		}
	case opTrip:
		s.tripNow(s.now)
	case opReset:
		s.reset(s.now)
	case opOverride:
		s.override, s.overrideEnd = op.mode, 0
		if op.d > 0 {
			s.overrideEnd = s.now + op.d
		}
	case opClear:
		s.override, s.overrideEnd = 0, 0
	}
	return true
}

func (s *linearState) doAcquire(op linearOp, saw linearSaw) bool {
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

// ticket is the model's. Reports name their latency, so the call began that long ago.
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
	if s.noted != op.permit {
		return
	}
	s.fires, s.met = s.rule(op.report.Outcome, s.now), s.counts(s.now)
	if s.fires == 0 && custom != nil && custom(s.met) {
		s.permits[op.permit].check = &customCheck{gen: s.gen, counts: s.met}
	}
}

// matches compares a snapshot with the model's.
func (s *linearState) matches(kind string, got Snapshot) bool {
	want := s.snapshot(s.now)
	want.Key, want.Since, want.LastFailure = got.Key, got.Since, got.LastFailure
	want.LastCause, want.Opened = got.LastCause, got.Opened               // TestModel checks them
	want.OpenUntil, want.OutageStarted = got.OpenUntil, got.OutageStarted // on the wall clock
	want.Override = Override{Mode: want.Override.Mode}
	got.Override = Override{Mode: got.Override.Mode}
	if kind == opRest {
		return got == want
	}
	if kind == opRow {
		want.Window.Successes = got.Window.Successes
	} else {
		want.Window.ConsecutiveFailures = got.Window.ConsecutiveFailures
	}
	want.Admitted, want.Successes, want.InFlight = got.Admitted, got.Successes, got.InFlight
	want.Rejections.Open, want.Rejections.HalfOpen = got.Rejections.Open, got.Rejections.HalfOpen
	return got == want
}

// told says whether the listener was told of the transition from old to s, if there was one: the event of that
// generation must be of it. So every transition has one event, and every event one transition.
func (s *linearState) told(old *linearState, op linearOp, events []Event, born time.Time) bool {
	if s.gen == old.gen {
		return true
	}
	if s.gen-2 >= uint64(len(events)) {
		return false
	}
	e := events[s.gen-2]
	want := Event{From: old.state, To: s.state, Seq: s.gen - 1, Generation: s.gen, FailedRecoveries: s.failed, Override: e.Override}
	if e.Override.Mode != s.mode() {
		return false
	}
	if op.kind == opReset {
		want.Rule = RuleManual
	}
	if s.state == Open {
		want.Rule, want.OpenFor = s.openedBy, s.until-s.now
		if old.state == Closed {
			switch op.kind {
			case opOpen:
				want.Counts = old.met
			case opAnswer:
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
