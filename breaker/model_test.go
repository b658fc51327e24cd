package breaker

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// model is the rules B of docs/semantics.md in plain sequential Go: lists in place of buckets and atomics, sums made
// anew each time, one copy of everything, and floating point nowhere. It is slow and obvious. Instants are durations
// since the breaker's birth.
type model struct {
	cfg  Config // with defaults
	trip func(Counts) bool

	custom bool // a rule of WithTrip looks at the window, though trip may be asked by somebody else

	state   State
	gen     uint64
	entered time.Duration
	until   time.Duration // open
	opened  time.Duration // when it was closed last
	failed  int           // recoveries

	// For the back-off: time without a failed recovery and without being open, up to calmSince; the last open period;
	// and the calls that succeeded since it closed.
	calm, calmSince time.Duration
	period          time.Duration
	served          uint64

	// Closed.
	born      time.Duration // of the window
	results   []modelResult
	streak    uint64
	failing   time.Duration // when the first failure of the streak ended
	counted   time.Duration // when the last failure that counted in the streak ended
	doubt     bool          // the last outcome was not a success
	ramping   bool
	rampStart time.Duration
	credit    uint64

	// Half-open.
	successes            int
	leases               []modelLease
	lastProbe            time.Duration
	lastTicket, forgiven int // of probes; the second as of the last closing
	forgivenHere         int // as of the last good answer in this stay

	openedBy    Rule // the last one
	override    Mode
	overrideEnd time.Duration // 0: none

	sum Snapshot // the totals in it are the model's own
}

type modelResult struct {
	at      time.Duration
	outcome Outcome
	slow    bool
	// Of a failure or an overload, and of a slow call: it begins an event, and is not seen as one with an earlier call.
	newBad, newSlow bool
}

type modelLease struct {
	ticket  int
	gen     uint64
	expires time.Duration
	lost    bool
}

// ticket is a permit that has been given out, and may be reported generations later.
type ticket struct {
	id     int
	gen    uint64
	start  time.Duration
	probe  bool
	timed  bool // the slow rule was on
	permit Permit

	sign *modelStreak // what its sign of life has ended
	undo func()       // takes the sign of life back
}

// modelStreak is a failure streak that a sign of life has ended.
type modelStreak struct {
	gen, failures, successes uint64
	failing, counted         time.Duration
}

func newModel(cfg Config, trip func(Counts) bool) *model {
	return &model{cfg: cfg.WithDefaults(), trip: trip, custom: trip != nil, gen: 1, lastTicket: -1, forgiven: -1, forgivenHere: -1}
}

// windowed says whether any rule looks at the window. If none does, there is none.
func (m *model) windowed() bool { return m.cfg.FailureRatio > 0 || m.cfg.SlowCall > 0 || m.custom }

// counts is what the window holds: results whose tenth of a window is among the last ten.
func (m *model) counts(now time.Duration) Counts {
	c := Counts{ConsecutiveFailures: m.streak}
	if !m.windowed() {
		return c
	}
	tenth := m.cfg.Window / 10
	for _, r := range m.results {
		if (now-m.born)/tenth-(r.at-m.born)/tenth >= 10 {
			continue
		}
		switch r.outcome {
		case Success:
			c.Successes++
		case Failure:
			c.Failures++
		case Overload:
			c.Overloads++
		case Ignored: // slow, and given up
			c.SlowCanceled++
		}
		if r.slow {
			c.Slow++
		}
	}
	return c
}

// reached reports whether the share of calls that speak against the backend reaches ratio, and does so without the
// largest event too, and the like share of the other calls of the tenth in which that began.
func (m *model) reached(slow bool, ratio float64, now time.Duration) bool {
	const all = 1 << 40 // no tenth
	tenth := m.cfg.Window / 10
	// By tenth: calls, those that speak against the backend, sizes of the largest event, and its calls in the next
	// tenth.
	whole, part, largest, spill := map[time.Duration]uint64{}, map[time.Duration]uint64{}, map[time.Duration]uint64{}, map[time.Duration]uint64{}
	began, size, sizeHere := time.Duration(-1), uint64(0), uint64(0)
	tenths := map[time.Duration]bool{} // that are alive, in which an event began
	oldest := now                      // when the first of these events began
	for i, r := range m.results {
		n := (r.at - m.born) / tenth
		for _, same := range m.results[i:] { // of one instant, in any order
			if same.at != r.at || (i > 0 && m.results[i-1].at == r.at) {
				break
			}
			if (slow && same.newSlow) || (!slow && same.newBad) {
				began, size, sizeHere = n, 0, 0
				if (now-m.born)/tenth-n < 10 {
					tenths[n] = true
					oldest = min(oldest, r.at)
				}
			}
		}
		if r.outcome == Ignored && !slow {
			continue
		}
		against := (slow && r.slow) || (!slow && r.outcome != Success)
		if against {
			size++
			if began != n {
				sizeHere++
				if sizeHere > largest[n] {
					largest[n], spill[n] = sizeHere, 0
				}
			}
			if size > largest[began] {
				largest[began], spill[began] = size, sizeHere
			}
		}
		if (now-m.born)/tenth-n < 10 {
			whole[n]++
			whole[all]++
			if against {
				part[n]++
				part[all]++
			}
		}
	}
	least := m.minCalls(now)
	if whole[all] < least || !reached(part[all], whole[all], ratio) {
		return false
	}
	if m.cfg.FailingFor < 0 {
		return true
	}
	if len(tenths) < 2 || now-oldest < min(m.cfg.FailingFor, m.cfg.Window)/2 {
		return false
	}
	at := time.Duration(-2)
	for n := (now - m.born) / tenth; n >= 0 && (now-m.born)/tenth-n < 10; n-- {
		if largest[n] > largest[at] {
			at = n
		}
	}
	restPart := part[all] - largest[at]
	good := func(n time.Duration, of uint64) uint64 { return (whole[n] - part[n]) * of / max(1, part[n]) }
	restWhole := whole[all] - largest[at] - good(at, largest[at]-spill[at]) - good(at+1, spill[at])
	return 2*restWhole >= least && reached(restPart, restWhole, ratio)
}

// alone reports whether a result at now that speaks against the backend begins an event.
func (m *model) alone(slow bool, now time.Duration) bool {
	last := time.Duration(-1)
	for _, r := range slices.Backward(m.results) {
		if (slow && !r.slow) || (!slow && (r.outcome == Success || r.outcome == Ignored)) {
			continue
		}
		last = max(last, r.at)
		if (slow && r.newSlow) || (!slow && r.newBad) {
			return now-last > min(10*time.Millisecond, m.cfg.Window/10) || now-r.at >= m.cfg.Window/10
		}
	}
	return true
}

// refresh ends what time has ended.
func (m *model) refresh(now time.Duration) {
	if m.override != 0 && m.overrideEnd != 0 && now >= m.overrideEnd {
		m.override, m.overrideEnd = 0, 0
	}
	if m.ramping && now >= m.rampStart+m.cfg.Ramp {
		m.ramping = false
	}
}

// fraction of the calls that is admitted.
func (m *model) fraction(now time.Duration) float64 {
	if !m.ramping || now >= m.rampStart+m.cfg.Ramp {
		return 1
	}
	return 0.1 + 0.9*float64(now-m.rampStart)/float64(m.cfg.Ramp)
}

func (m *model) minCalls(now time.Duration) uint64 {
	return max(1, uint64(math.Ceil(m.fraction(now)*float64(m.cfg.MinCalls))))
}

func (m *model) inFlight() uint64 {
	s := m.sum
	return s.Admitted - s.Successes - s.Failures - s.Overloads - s.Ignored - s.Late
}

func (m *model) concurrencyReached(now time.Duration) bool {
	running := m.inFlight()
	for _, l := range m.leases {
		if l.lost || now >= l.expires {
			running--
		}
	}
	return m.cfg.MaxConcurrent > 0 && running >= uint64(m.cfg.MaxConcurrent)
}

// slot says whether a probe may go out in the stay gen.
func (m *model) slot(gen uint64, now time.Duration) bool {
	taken, stale := 0, 0
	for _, l := range m.leases {
		if l.gen == gen && now < l.expires {
			taken++
		} else if l.ticket > m.forgiven && l.ticket > m.forgivenHere {
			stale++
		}
	}
	if taken >= m.cfg.MaxProbes {
		return false
	}
	wait := m.cfg.ProbeTimeout
	for i := 8 * m.cfg.MaxProbes; i <= stale; i += 8 * m.cfg.MaxProbes {
		wait = min(2*wait, max(time.Hour, m.cfg.ProbeTimeout))
	}
	return stale < 8*m.cfg.MaxProbes || now >= m.lastProbe+wait
}

// ask is the way of a call without overrides. With look it only looks.
func (m *model) ask(now time.Duration, look bool) (probe bool, _ Reason) {
	if m.state == Open && now < m.until {
		return false, ReasonOpen
	}
	if m.state == Closed {
		if m.concurrencyReached(now) {
			return false, ReasonConcurrency
		}
		if !m.ramping || now >= m.rampStart+m.cfg.Ramp {
			return false, 0
		}
		credit := m.credit + uint64(m.fraction(now)*(1<<32))
		if !look {
			m.credit = credit % (1 << 32)
		}
		if credit < 1<<32 {
			return false, ReasonRamp
		}
		return false, 0
	}
	gen := m.gen
	if m.state == Open {
		gen++
		if !look {
			m.become(HalfOpen, now)
		}
	}
	if !look {
		m.reap(now)
	}
	if !m.slot(gen, now) {
		return false, ReasonHalfOpen
	}
	return true, 0
}

// reap counts the probes that have not reported in time.
func (m *model) reap(now time.Duration) {
	for i := range m.leases {
		if l := &m.leases[i]; !l.lost && now >= l.expires {
			l.lost = true
			m.sum.Probes.Lost++
		}
	}
}

func (m *model) ready(now time.Duration) bool {
	switch m.mode() {
	case ForceOpen:
		return false
	case ForceClosed, Shadow:
		return true
	}
	_, reason := m.ask(now, true)
	return reason == 0
}

// acquire returns a ticket, or the reason for none.
func (m *model) acquire(id int, now time.Duration) (ticket, Reason) {
	m.refresh(now)
	var probe bool
	var reason Reason
	switch m.mode() {
	case ForceOpen:
		reason = ReasonForced
	case ForceClosed:
	default:
		probe, reason = m.ask(now, false)
		if reason != 0 && m.mode() == Shadow {
			*reasonCount(&m.sum.ShadowRejections, reason)++
			reason = 0
		}
	}
	if reason != 0 {
		*reasonCount(&m.sum.Rejections, reason)++
		return ticket{}, reason
	}
	m.sum.Admitted++
	if probe {
		m.leases = append(m.leases, modelLease{ticket: id, gen: m.gen, expires: now + m.cfg.ProbeTimeout})
		m.lastProbe, m.lastTicket = now, id
	}
	return ticket{id: id, gen: m.gen, start: now, probe: probe, timed: m.cfg.SlowCall > 0}, 0
}

func reasonCount(c *ReasonCounts, r Reason) *uint64 {
	return map[Reason]*uint64{
		ReasonOpen: &c.Open, ReasonHalfOpen: &c.HalfOpen, ReasonRamp: &c.Ramp, ReasonForced: &c.Forced, ReasonConcurrency: &c.Concurrency,
	}[r]
}

func ruleCount(c *RuleCounts, r Rule) *uint64 {
	return map[Rule]*uint64{
		RuleConsecutive: &c.Consecutive, RuleRatio: &c.Ratio, RuleSlow: &c.Slow, RuleCustom: &c.Custom, RuleManual: &c.Manual,
	}[r]
}

// settle takes the report of a ticket, and says whether it was late.
func (m *model) settle(tk ticket, r Report, now time.Duration) (late bool) {
	late, ask := m.record(tk, r, now)
	if ask {
		if rule := m.rule(r.Outcome, now); rule != 0 {
			m.open(rule, r.RetryAfter, now)
		}
	}
	return late
}

// record is settle up to the rules, and says whether they are to be asked.
func (m *model) record(tk ticket, r Report, now time.Duration) (late, ask bool) {
	m.refresh(now)
	o := r.Outcome
	slow := m.cfg.SlowCall > 0 && tk.timed && now-tk.start > m.cfg.SlowCall && (o != Ignored || r.Canceled)
	inTime := tk.gen == m.gen
	if tk.probe {
		i := slices.IndexFunc(m.leases, func(l modelLease) bool { return l.ticket == tk.id })
		if i < 0 {
			return false, false // a second report
		}
		l := m.leases[i]
		m.leases = slices.Delete(m.leases, i, i+1)
		if now >= l.expires && !l.lost {
			m.sum.Probes.Lost++
		}
		inTime = inTime && now < l.expires
	}
	if !inTime {
		m.sum.Late++
		switch {
		case !tk.probe || tk.gen != m.gen || (o == Ignored && !slow) || m.mode() == ForceClosed:
		case o == Success && !slow:
			m.answered(now)
		default:
			m.successes = 0
		}
		return true, false
	}
	switch o {
	case Success:
		m.sum.Successes++
	case Failure:
		m.sum.Failures++
		m.sum.LastCause = r.Cause
	case Overload:
		m.sum.Overloads++
		m.sum.LastCause = r.Cause
	case Ignored:
		m.sum.Ignored++
	}
	if slow {
		m.sum.SlowCalls++
	}
	switch {
	case tk.probe:
		m.judge(r, slow, now)
	case m.state == Closed && (o != Ignored || slow):
		m.doubt = o != Success
		if o == Success {
			m.addSuccess(now, slow)
			m.streak = 0
		} else {
			m.results = append(m.results, modelResult{now, o, slow, o != Ignored && m.alone(false, now), slow && m.alone(true, now)})
		}
		if o == Failure {
			m.takeBack(tk.sign)
			m.fail(now)
		}
		return false, (o != Success || slow) && m.mode() != ForceClosed
	case m.state == Closed:
		m.doubt = true
	}
	return false, false
}

// signOfLife is the first message of a stream.
func (m *model) signOfLife(tk ticket, now time.Duration) *modelStreak {
	m.refresh(now)
	if tk.gen != m.gen || m.state != Closed || m.streak == 0 {
		return nil
	}
	s := &modelStreak{gen: m.gen, failures: m.streak, successes: m.sum.Successes, failing: m.failing, counted: m.counted}
	m.streak = 0
	return s
}

// takeBack continues a streak that a sign of life has ended.
func (m *model) takeBack(s *modelStreak) {
	if s == nil || s.gen != m.gen || s.successes != m.sum.Successes {
		return
	}
	if m.streak == 0 {
		m.counted = s.counted
	}
	m.streak += s.failures
	m.failing = s.failing
}

// sustain is the stream of a probe that stays open.
func (m *model) sustain(tk ticket, now time.Duration) (again bool) {
	m.refresh(now)
	if !tk.probe || tk.gen != m.gen {
		return false
	}
	if m.mode() == ForceClosed {
		return true
	}
	m.close(m.cfg.Ramp > 0, now)
	return false
}

// inDoubt reports whether a call that has just been admitted is in doubt.
func (m *model) inDoubt(probe bool) bool {
	return probe || (m.state == Closed && (m.doubt || m.cfg.ConsecutiveFailures == 1))
}

// addSuccess puts a success into the window.
func (m *model) addSuccess(now time.Duration, slow bool) {
	m.results = append(m.results, modelResult{now, Success, slow, false, slow && m.alone(true, now)})
	m.served++
}

// fail makes the failure streak longer, unless the failure is seen as one with the last one that counted.
func (m *model) fail(now time.Duration) {
	switch {
	case m.streak == 0:
		m.failing = now
	case m.cfg.FailingFor >= 0 && now-m.counted <= 10*time.Millisecond:
		return
	}
	m.streak++
	m.counted = now
}

func (m *model) judge(r Report, slow bool, now time.Duration) {
	bad := slow || (r.Outcome != Success && r.Outcome != Ignored)
	switch {
	case r.Outcome == Ignored && !bad:
		m.sum.Probes.Ignored++
		return
	case !bad:
		m.sum.Probes.Success++
	default:
		m.sum.Probes.Failure++
	}
	switch {
	case m.mode() == ForceClosed:
	case bad:
		m.open(RuleProbe, r.RetryAfter, now)
	default:
		m.answered(now)
	}
}

func (m *model) answered(now time.Duration) {
	m.forgivenHere = m.lastTicket
	if m.successes++; m.successes >= m.cfg.SuccessesToClose {
		m.close(m.cfg.Ramp > 0, now)
	}
}

// rule returns the first rule of B10 that fires.
func (m *model) rule(o Outcome, now time.Duration) Rule {
	switch {
	case o == Failure && m.cfg.ConsecutiveFailures > 0 && m.streak >= uint64(m.cfg.ConsecutiveFailures) && now-m.failing >= m.cfg.FailingFor:
		return RuleConsecutive
	case m.cfg.FailureRatio > 0 && m.reached(false, m.cfg.FailureRatio, now):
		return RuleRatio
	case m.cfg.SlowCall > 0 && m.reached(true, m.cfg.SlowRatio, now):
		return RuleSlow
	case m.trip != nil && m.trip(m.counts(now)):
		return RuleCustom
	}
	return 0
}

// reached compares in hundredths, which the ratios of the tests are.
func reached(part, whole uint64, ratio float64) bool {
	return part > 0 && part*100 >= whole*uint64(math.Round(ratio*100))
}

func (m *model) open(rule Rule, asked, now time.Duration) {
	m.openedBy = rule
	m.forget(now)
	if m.state == Closed {
		trips := &m.sum.Trips
		if m.mode() == Shadow {
			trips = &m.sum.ShadowTrips
		}
		*ruleCount(trips, rule)++
		m.opened = now
	}
	judged := m.state == Closed && rule != RuleManual
	good := m.served > uint64(m.cfg.SuccessesToClose)
	soon := m.period > 0 && now-m.entered <= max(m.cfg.Window, m.period)
	switch {
	case rule == RuleProbe, judged && m.ramping, judged && soon && !good:
		m.calm = 0
		m.failed = min(m.failed+1, m.mostFailed())
	case judged && good:
		m.failed = 0
	}
	m.period = max(m.openPeriod(m.failed), min(asked, max(time.Minute, m.cfg.MaxOpenFor)))
	m.until = now + m.period
	m.become(Open, now)
}

// openPeriod is the period after so many failed recoveries.
func (m *model) openPeriod(failed int) time.Duration {
	period := m.cfg.OpenFor
	for range failed {
		period = min(time.Duration(float64(period)*m.cfg.Backoff), m.cfg.MaxOpenFor)
	}
	return period
}

// mostFailed is after how many failed recoveries the period is as long as it gets.
func (m *model) mostFailed() (n int) {
	for m.cfg.Backoff > 1 && m.openPeriod(n) < m.cfg.MaxOpenFor {
		n++
	}
	return n
}

// forget takes failed recoveries off for the calm time up to now.
func (m *model) forget(now time.Duration) {
	if m.state != Open {
		m.calm += now - m.calmSince
	}
	m.failed = int(max(0, int64(m.failed)-int64(m.calm/m.cfg.MaxOpenFor)))
	m.calmSince, m.calm = now, m.calm%m.cfg.MaxOpenFor
}

func (m *model) close(ramp bool, now time.Duration) {
	if m.state != Closed {
		m.sum.Recoveries++
		m.sum.NotClosed += now - m.opened
	}
	m.forgiven = m.lastTicket
	m.served = 0
	m.become(Closed, now)
	m.ramping, m.rampStart, m.credit = ramp, now, 1<<32-1
}

func (m *model) become(s State, now time.Duration) {
	m.forget(now)
	m.state, m.entered = s, now
	m.gen++
	m.results, m.streak, m.born = nil, 0, now
	m.successes, m.ramping, m.forgivenHere, m.doubt = 0, false, -1, false
}

func (m *model) tripNow(now time.Duration) {
	m.refresh(now)
	m.open(RuleManual, 0, now)
}

func (m *model) reset(now time.Duration) {
	m.refresh(now)
	m.close(false, now)
	m.failed, m.calm, m.period = 0, 0, 0
}

func (m *model) apply(cfg Config, now time.Duration) {
	m.refresh(now)
	cfg = cfg.WithDefaults()
	m.forget(now)
	old := *m
	m.cfg = cfg
	if cfg.Window != old.cfg.Window || m.windowed() != old.windowed() {
		m.results, m.born = nil, now
	}
	if cfg.Ramp == 0 {
		m.ramping = false
	}
	m.failed = min(m.failed, m.mostFailed())
}

// mode is the mode in force: of the override or of the policy.
func (m *model) mode() Mode { return cmp.Or(m.override, m.cfg.Enforcement.mode()) }

// snapshot is what the breaker's must be, but for wall clock times and the key.
func (m *model) snapshot(now time.Duration) Snapshot {
	s := m.sum
	s.Underlying, s.State = m.state, m.state
	override := m.override
	if override != 0 && m.overrideEnd != 0 && now >= m.overrideEnd {
		override = 0
	}
	s.Mode, s.Config, s.CustomRule = cmp.Or(override, m.cfg.Enforcement.mode()), m.cfg, m.custom
	switch s.Mode {
	case ForceOpen:
		s.State = Open
	case ForceClosed:
		s.State = Closed
	case Shadow:
	}
	looking := *m
	looking.override = override
	s.Override.Mode = override
	s.Generation = m.gen
	s.Ready = looking.ready(now)
	s.MinCalls = m.minCalls(now)
	looking.forget(now)
	s.FailedRecoveries = looking.failed
	s.InFlight = m.inFlight()
	switch m.state {
	case Closed:
		s.Window = m.counts(now)
	case Open:
		s.RetryAfter = max(0, m.until-now)
	case HalfOpen:
	}
	for _, l := range m.leases {
		if !l.lost && now >= l.expires {
			s.Probes.Lost++
		}
	}
	if m.state != Closed {
		s.NotClosed += now - m.opened
	}
	return s
}
