package breaker

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// model implements the rules B of docs/semantics.md in plain sequential Go: with lists instead of buckets and atomics,
// and with sums that are computed each time. It is slow and simple. Instants are durations since the breaker was made.
type model struct {
	cfg  Config // with defaults
	trip func(Counts) bool

	custom bool // there is a custom rule, so there is a window; linearState calls the rule itself, and trip is nil

	state   State
	gen     uint64
	entered time.Duration
	until   time.Duration // open
	opened  time.Duration // when it was last closed
	failed  int           // recoveries

	// For the back-off: time without a failed recovery and without being open, up to calmSince; the last open period;
	// and the calls that succeeded since it closed.
	calm, calmSince time.Duration
	period          time.Duration
	succeeded       uint64

	// Closed.
	born      time.Duration // of the window
	results   []modelResult
	streak    uint64
	failing   time.Duration // when the first failure of the streak ended
	counted   time.Duration // when the last failure that was counted in the streak ended
	doubt     bool          // the last outcome was not a success
	ramping   bool
	rampStart time.Duration
	credit    uint64

	// Half-open.
	successes           int
	leases              []modelLease
	lastProbe           time.Duration
	lastTicket, excused int // of probes: the last one, and the last one at the last closing
	excusedHere         int // the last one at the last successful probe of this generation

	openedBy    Rule // the last one
	override    Mode
	overrideEnd time.Duration // 0: none

	events uint64 // of transitions and overrides

	sum Snapshot // totals only
}

type modelResult struct {
	at      time.Duration
	outcome Outcome
	slow    bool
	// newBad: a failure or an overload that begins a burst. newSlow: a slow call that begins a burst of slow calls.
	newBad, newSlow bool
}

type modelLease struct {
	ticket  int
	gen     uint64
	expires time.Duration
	lost    bool
}

// ticket is a permit of the model and of the breaker. It may be reported generations later.
type ticket struct {
	id     int
	gen    uint64
	start  time.Duration
	probe  bool
	timed  bool // the slow rule was on
	permit Permit

	sign *modelStreak // the streak that its sign of life has ended
	undo func()       // of its sign of life
}

// modelStreak is a failure streak that a sign of life has ended.
type modelStreak struct {
	gen, failures, successes uint64
	failing, counted         time.Duration
}

func newModel(cfg Config, trip func(Counts) bool) *model {
	return &model{
		cfg: cfg.WithDefaults(), trip: trip, custom: trip != nil, gen: 1, lastTicket: -1, excused: -1,
		excusedHere: -1,
	}
}

// windowed reports whether a rule uses the window. If none does, there is none.
func (m *model) windowed() bool { return m.cfg.FailureRatio > 0 || m.cfg.SlowCall > 0 || m.custom }

// counts returns what the window holds: the results of the last ten tenths of a window.
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
		case Ignored: // slow and canceled
			c.SlowCanceled++
		}
		if r.slow {
			c.Slow++
		}
	}
	return c
}

// reached reports whether the share of bad calls reaches ratio. It must also reach it without the largest burst, and
// without a proportional share of the other calls in the tenths of that burst.
func (m *model) reached(slow bool, ratio float64, now time.Duration) bool {
	const all = 1 << 40 // stands for all tenths
	tenth := m.cfg.Window / 10
	// By tenth: calls, bad calls, the size of the largest burst that began in it, and the calls of that burst in the next
	// tenth.
	whole, part, largest, spill := map[time.Duration]uint64{}, map[time.Duration]uint64{}, map[time.Duration]uint64{},
		map[time.Duration]uint64{}
	began, size, sizeHere := time.Duration(-1), uint64(0), uint64(0)
	tenths := map[time.Duration]bool{} // in the window, in which a burst began
	oldest := now                      // when the first of these bursts began
	for i, r := range m.results {
		n := (r.at - m.born) / tenth
		for _, same := range m.results[i:] { // results of one instant may be in any order
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
		bad := (slow && r.slow) || (!slow && r.outcome != Success)
		if bad {
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
			if bad {
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

// beginsBurst reports whether a bad call at now begins a burst.
func (m *model) beginsBurst(slow bool, now time.Duration) bool {
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

// refresh ends an override and a ramp whose time is over.
func (m *model) refresh(now time.Duration) {
	if m.override != 0 && m.overrideEnd != 0 && now >= m.overrideEnd {
		m.override, m.overrideEnd = 0, 0
	}
	if m.ramping && now >= m.rampStart+m.cfg.Ramp {
		m.ramping = false
	}
}

// fraction returns the share of the calls that is admitted.
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

// slot reports whether a probe may start in generation gen.
func (m *model) slot(gen uint64, now time.Duration) bool {
	taken, hung := 0, 0
	for _, l := range m.leases {
		if l.gen == gen && now < l.expires {
			taken++
		} else if l.ticket > m.excused && l.ticket > m.excusedHere {
			hung++
		}
	}
	if taken >= m.cfg.MaxProbes {
		return false
	}
	wait := m.cfg.ProbeTimeout
	for i := 8 * m.cfg.MaxProbes; i <= hung; i += 8 * m.cfg.MaxProbes {
		wait = min(2*wait, max(time.Hour, m.cfg.ProbeTimeout))
	}
	return hung < 8*m.cfg.MaxProbes || now >= m.lastProbe+wait
}

// admit decides about a call without overrides. With dryRun it changes nothing.
func (m *model) admit(now time.Duration, dryRun bool) (probe bool, _ Reason) {
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
		if !dryRun {
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
		if !dryRun {
			m.become(HalfOpen, now)
		}
	}
	if !dryRun {
		m.expireProbes(now)
	}
	if !m.slot(gen, now) {
		return false, ReasonHalfOpen
	}
	return true, 0
}

// expireProbes counts the probes whose leases have expired.
func (m *model) expireProbes(now time.Duration) {
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
	_, reason := m.admit(now, true)
	return reason == 0
}

// acquire returns a ticket, or the reason for a rejection.
func (m *model) acquire(id int, now time.Duration) (ticket, Reason) {
	m.refresh(now)
	var probe bool
	var reason Reason
	switch m.mode() {
	case ForceOpen:
		reason = ReasonForced
	case ForceClosed:
	default:
		probe, reason = m.admit(now, false)
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
		ReasonOpen: &c.Open, ReasonHalfOpen: &c.HalfOpen, ReasonRamp: &c.Ramp, ReasonForced: &c.Forced,
		ReasonConcurrency: &c.Concurrency,
	}[r]
}

func ruleCount(c *RuleCounts, r Rule) *uint64 {
	return map[Rule]*uint64{
		RuleConsecutive: &c.Consecutive, RuleRatio: &c.Ratio, RuleSlow: &c.Slow, RuleCustom: &c.Custom,
		RuleManual: &c.Manual,
	}[r]
}

// settle takes the report of a ticket, and reports whether it was late.
func (m *model) settle(tk ticket, r Report, now time.Duration) (late bool) {
	late, evaluate := m.record(tk, r, now)
	if evaluate {
		if rule := m.rule(r.Outcome, now); rule != 0 {
			m.open(rule, r.RetryAfter, now)
		}
	}
	return late
}

// record is settle without the rules. evaluate reports whether the rules must be evaluated.
func (m *model) record(tk ticket, r Report, now time.Duration) (late, evaluate bool) {
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
			m.probeSucceeded(now)
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
		m.settleProbe(r, slow, now)
	case m.state == Closed && (o != Ignored || slow):
		m.doubt = o != Success
		if o == Success {
			m.addSuccess(now, slow)
			m.streak = 0
		} else {
			m.results = append(m.results, modelResult{now, o, slow, o != Ignored && m.beginsBurst(false, now), slow &&
				m.beginsBurst(true, now)})
		}
		if o == Failure {
			m.resumeStreak(tk.sign)
			m.fail(now)
		}
		return false, (o != Success || slow) && m.mode() != ForceClosed
	case m.state == Closed:
		m.doubt = true
	}
	return false, false
}

// signOfLife is a sign of life of a call that is not a probe. It returns the streak that it ended, or nil.
func (m *model) signOfLife(tk ticket, now time.Duration) *modelStreak {
	m.refresh(now)
	if tk.gen != m.gen || m.state != Closed || m.streak == 0 {
		return nil
	}
	s := &modelStreak{gen: m.gen, failures: m.streak, successes: m.sum.Successes, failing: m.failing, counted: m.counted}
	m.streak = 0
	return s
}

// resumeStreak continues a streak that a sign of life has ended.
func (m *model) resumeStreak(s *modelStreak) {
	if s == nil || s.gen != m.gen || s.successes != m.sum.Successes {
		return
	}
	if m.streak == 0 {
		m.counted = s.counted
	}
	m.streak += s.failures
	m.failing = s.failing
}

// probeSignOfLife is a sign of life of a probe.
func (m *model) probeSignOfLife(tk ticket, now time.Duration) (again bool) {
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
	m.results = append(m.results, modelResult{now, Success, slow, false, slow && m.beginsBurst(true, now)})
	m.succeeded++
}

// fail adds a failure to the streak, unless it is within 10 ms of the last one counted.
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

func (m *model) settleProbe(r Report, slow bool, now time.Duration) {
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
		m.probeSucceeded(now)
	}
}

func (m *model) probeSucceeded(now time.Duration) {
	m.excusedHere = m.lastTicket
	if m.successes++; m.successes >= m.cfg.SuccessesToClose {
		m.close(m.cfg.Ramp > 0, now)
	}
}

// rule returns the first rule that fires, in the order of B10.
func (m *model) rule(o Outcome, now time.Duration) Rule {
	switch {
	case o == Failure && m.cfg.ConsecutiveFailures > 0 && m.streak >= uint64(m.cfg.ConsecutiveFailures) &&
		now-m.failing >= m.cfg.FailingFor:
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

// reached reports whether part/whole reaches ratio. It compares in hundredths; the ratios of these tests have no more
// digits.
func reached(part, whole uint64, ratio float64) bool {
	return part > 0 && part*100 >= whole*uint64(math.Round(ratio*100))
}

func (m *model) open(rule Rule, retryAfter, now time.Duration) {
	m.openedBy = rule
	m.decayFailures(now)
	if m.state == Closed {
		trips := &m.sum.Trips
		if m.mode() == Shadow {
			trips = &m.sum.ShadowTrips
		}
		*ruleCount(trips, rule)++
		m.opened = now
	}
	byRule := m.state == Closed && rule != RuleManual
	good := m.succeeded > uint64(m.cfg.SuccessesToClose)
	soon := m.period > 0 && now-m.entered <= max(m.cfg.Window, m.period)
	switch {
	case rule == RuleProbe, byRule && m.ramping, byRule && soon && !good:
		m.calm = 0
		m.failed = min(m.failed+1, m.mostFailed())
	case byRule && good:
		m.failed = 0
	}
	m.period = max(m.openPeriod(m.failed), min(retryAfter, max(time.Minute, m.cfg.MaxOpenFor)))
	m.until = now + m.period
	m.become(Open, now)
}

// openPeriod returns the open period after so many failed recoveries.
func (m *model) openPeriod(failed int) time.Duration {
	period := m.cfg.OpenFor
	for range failed {
		period = min(time.Duration(float64(period)*m.cfg.Backoff), m.cfg.MaxOpenFor)
	}
	return period
}

// mostFailed returns the number of failed recoveries at which the period reaches MaxOpenFor.
func (m *model) mostFailed() (n int) {
	for m.cfg.Backoff > 1 && m.openPeriod(n) < m.cfg.MaxOpenFor {
		n++
	}
	return n
}

// decayFailures reduces the failed recoveries by the calm time up to now.
func (m *model) decayFailures(now time.Duration) {
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
	m.excused = m.lastTicket
	m.succeeded = 0
	m.become(Closed, now)
	m.ramping, m.rampStart, m.credit = ramp, now, 1<<32-1
}

func (m *model) become(s State, now time.Duration) {
	m.decayFailures(now)
	m.state, m.entered = s, now
	m.gen++
	m.events++
	m.results, m.streak, m.born = nil, 0, now
	m.successes, m.ramping, m.excusedHere, m.doubt = 0, false, -1, false
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

func (m *model) setOverride(mode Mode, ttl, now time.Duration) {
	m.refresh(now)
	m.override, m.overrideEnd = mode, 0
	if ttl > 0 {
		m.overrideEnd = now + ttl
	}
	m.events++
}

func (m *model) clearOverride(now time.Duration) {
	m.refresh(now)
	if m.override != 0 {
		m.events++
	}
	m.override, m.overrideEnd = 0, 0
}

func (m *model) apply(cfg Config, now time.Duration) {
	m.refresh(now)
	cfg = cfg.WithDefaults()
	m.decayFailures(now)
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

// mode returns the mode in force: that of the override or of the policy.
func (m *model) mode() Mode { return cmp.Or(m.override, m.cfg.Enforcement.mode()) }

// snapshot returns what the breaker's must be, except for the key, Opened and times of the wall clock.
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
	copied := *m
	copied.override = override
	s.Override.Mode = override
	s.Generation = m.gen
	s.Ready = copied.ready(now)
	s.MinCalls = m.minCalls(now)
	copied.decayFailures(now)
	s.FailedRecoveries = copied.failed
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
