package breaker

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Breaker guards one backend. It is Closed, HalfOpen or Open (see the package comment for the way from one to the
// other).
//
// Most callers have a [Group] make their breakers, and guards that call Acquire and Done for them. By hand, it is Do,
// or
//
//	permit, err := b.Acquire(ctx)
//	if err != nil {
//		return err // rejected, or ctx is done
//	}
//	err = call(ctx)
//	permit.Done(ctx, verdict(err))
//
// A Breaker is safe for concurrent use. It owns no goroutine and no timer: time passes when somebody asks. It must come
// from New or from a Group; the zero Breaker is not usable.
type Breaker struct {
	// The order of the fields keeps words apart that calls write from those that all calls read: what every call reads
	// fills the first three cache lines, and stays shared there by all cores. TestTheClosedPathSharesNoLine holds it.

	phase atomic.Pointer[phase] // publishes state, generation, deadline and policy as one
	key   Key
	hash  uint64

	// lastUsed is when a call last asked for the breaker, as far as a clock was read: every decision under mu sets it, and
	// rejections do once in usedEvery. What it misses is closed calls that take no lock; see lastUse.
	lastUsed atomic.Int64

	// A breaker is born closed, so its first phase and window live inside it: one allocation.
	firstPhase  phase
	firstWindow window // its last part begins the next cache line

	admitted atomic.Uint64 // permits given out, ever

	// mu serialises every decision. It is held for tens of nanoseconds, some hundred where there are lanes to be
	// summed, never while user code runs.
	mu      sync.Mutex
	retired uint64 // guarded by mu: successes that are in no window any more

	shared *shared
	lazy atomic.Pointer[lazyState] // nil until something other than a fast success happened
}

// lazyState is the part of a breaker that one whose calls all succeed never needs.
type lazyState struct {
	rejections [reasons]atomic.Uint64 // by Reason; counted without the lock
	fallbacks  [2]atomic.Uint64       // failed, served
	stripes      atomic.Pointer[[]stripe] // nil until cores meet; then for good

	// All below is guarded by Breaker.mu.

	failures, overloads, ignored, late, slow uint64
	shadow                                   [reasons]uint64 // by Reason: what Shadow would have rejected
	trips                                    [rules]uint64   // by Rule
	recoveries                               uint64
	probes                                   ProbeCounts

	lastFailure time.Time
	openedAt    int64 // when it was closed last; of use while it is not closed
	notClosed   int64 // nanoseconds spent not closed, up to the last closing

	backoff backoff

	leases    []lease // of probes that have not reported, of any generation
	lastLease uint64
	forgiven  uint64 // the last lease when it closed last: the backend has answered since, so none up to it slows probes down
	lastProbe int64  // when the last one was let out

	rejectedErrors [reasons][3]*RejectedError // by Reason and State, made when first needed

	seq        uint64
	queue      []delivery
	undelivered      []Listener // who has still to hear queue[0]; nil: nobody has heard it
	delivering bool
}

// shared is what breakers of one group share.
type shared struct {
	group *Group // nil for a breaker from New
	trip  func(Counts) bool
	listeners  listeners
}

// New returns a closed breaker that belongs to no group. It takes the options WithListener and WithTrip; an option that
// only makes sense for a group, a nil option and an invalid cfg are errors.
func New(key Key, cfg Config, opts ...Option) (*Breaker, error) {
	o, err := collect(opts)
	if err != nil {
		return nil, err
	}
	if o.groupOnly != "" {
		return nil, errorf("%s is an option for NewGroup, not for New", o.groupOnly)
	}
	pol, err := newPolicy(cfg, o.trip != nil)
	if err != nil {
		return nil, err
	}
	return newBreaker(key, key.hash(), pol, o.shared(nil)), nil
}

func newBreaker(key Key, hash uint64, pol *policy, h *shared) *Breaker {
	t := time.Now()
	now := instant(t)
	b := &Breaker{shared: h, key: key, hash: hash}
	b.lastUsed.Store(now)
	b.firstWindow.init(now, pol.bucket)
	b.firstPhase = phase{gen: 1, pol: pol, win: &b.firstWindow, since: now, wall: t.UnixNano()}
	b.phase.Store(b.firstPhase.withKind())
	return b
}

// Evicted reports whether the breaker is no longer in its group: it made room for another one, was idle
// (WithIdleTimeout) or was removed. Its methods act on the breaker that its key has now, at the price of a lookup
// each time. A caller that keeps a *Breaker for long may check Evicted and get it anew.
func (b *Breaker) Evicted() bool {
	if b.phase.Load().kind != removed {
		return false
	}
	b.mu.Lock() // an eviction that is called off is over by then
	defer b.mu.Unlock()
	return b.phase.Load().kind == removed
}

// Key returns the key that the breaker was made for.
func (b *Breaker) Key() Key { return b.key }

// ensureLazy returns the cold part, making it if need be. Caller must hold b.mu.
func (b *Breaker) ensureLazy() *lazyState {
	c := b.lazy.Load()
	if c == nil {
		c = new(lazyState)
		b.lazy.Store(c)
	}
	return c
}

// Acquire asks for leave to make one call. It returns a Permit whose Done must be called once the call is over; or,
// as they are, ctx's error if ctx is already done, and a *RejectedError (errors.Is ErrRejected) if the breaker does
// not let the call through. ctx must not be nil; it is handed to listeners and kept no longer than that.
//
// Acquire starts nothing, and blocks for nothing but listeners, of a transition that it causes. What they take is not
// part of the call: it begins, and a probe's lease too, when they have returned, and if ctx is done by then Acquire
// returns its error and nothing is counted. While the breaker is closed and neither Ramp nor MaxConcurrent nor an
// override asks for more, it takes no lock; it never allocates while closed, nor to reject, but for the counters that
// a breaker gets once when many cores call it.
func (b *Breaker) Acquire(ctx context.Context) (Permit, error) {
	if err := ctx.Err(); err != nil {
		return Permit{}, err // B24
	}
	ph := b.phase.Load()
	switch ph.kind {
	case admitUntimed, admitPlain:
		if b.admitFast(ph, &b.admitted) {
			return Permit{b: b, ph: ph}, nil
		}
	case admitTimed:
		if b.admitFast(ph, &b.admitted) {
			return Permit{b: b, ph: ph, start: clock()}, nil
		}
	case admitStriped:
		if b.admitFast(ph, &stripeFor(b.lazy.Load().loadStripes()).admitted) {
			return Permit{b: b, ph: ph, start: ph.pol.stamp()}, nil
		}
	case rejectUntil:
		if now := clock(); now < ph.gate.until.Load() { // B13: at the deadline itself the call is a probe
			b.reject(ph.gate.rejected.Reason, now)
			return Permit{}, ph.gate.rejected
		}
	case needsLock, removed:
	}
	return b.acquireLocked(ctx)
}

// admitFast counts a call in, in Breaker.admitted or a lane, without the lock. The second look is for eviction alone: who
// evicts publishes first and looks for calls in flight after that, so one of the two sees the other. Any other change
// of phase leaves a call that was admitted in the old generation, which is what it was.
func (b *Breaker) admitFast(ph *phase, counter *atomic.Uint64) bool {
	inc(counter)
	if b.phase.Load() == ph {
		return true
	}
	return b.stillInGroup(counter)
}

func (b *Breaker) stillInGroup(counter *atomic.Uint64) bool {
	if b.phase.Load().kind != removed {
		return true
	}
	counter.Add(^uint64(0))
	return false
}

func (b *Breaker) acquireLocked(ctx context.Context) (Permit, error) {
	b.mu.Lock()
	t := time.Now() // under the lock, so that decisions come in the order of their instants
	ph := b.refresh(instant(t))
	if ph.kind == removed {
		b.mu.Unlock()
		return b.successor().Acquire(ctx)
	}
	b.lastUsed.Store(instant(t))
	p, reason := b.decide(ctx, ph, t)
	if reason == 0 {
		inc(&b.admitted)
		return b.deliverThenGrant(ctx, p)
	}
	c := b.ensureLazy()
	inc(&c.rejections[reason])
	err := b.rejectedError(c, reason)
	b.unlock()
	return Permit{}, err
}

// deliverThenGrant delivers the events of the admission and then hands the permit over, with its times set to now: what
// listeners took is not charged to the backend. Caller must hold b.mu, which deliverThenGrant releases.
func (b *Breaker) deliverThenGrant(ctx context.Context, p Permit) (Permit, error) {
	c := b.lazy.Load()
	if !c.mustDeliver() {
		b.mu.Unlock()
		return p, nil
	}
	if p.lease != 0 {
		c.leases[c.leaseIndex(p.lease)].pending = true
	}
	handed := false
	defer func() {
		if !handed { // ctx is done, or a listener ended the goroutine
			b.withdraw(p)
		}
	}()
	b.unlock()
	if err := ctx.Err(); err != nil {
		return Permit{}, err // B24
	}
	if handed = b.restartClock(&p); handed {
		return p, nil
	}
	b.withdraw(p)
	handed = true
	return b.Acquire(ctx)
}

// restartClock makes the call of p begin now. It reports false if p is a probe whose lease has run out, so that another
// one may have its slot. If the half-open stay is over, the call is one of an earlier stay, like others that are in
// flight.
func (b *Breaker) restartClock(p *Permit) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := clock()
	p.start = now
	if p.lease == 0 {
		return true
	}
	c, ph := b.ensureLazy(), b.phase.Load()
	l := &c.leases[c.leaseIndex(p.lease)]
	l.pending = false
	if l.gen != ph.gen {
		return true
	}
	if !l.holds(ph.gen, now) {
		return false
	}
	l.expires = now + int64(ph.pol.cfg.ProbeTimeout)
	c.lastProbe, l.issued = now, now
	return true
}

// withdraw takes back a permit whose call will not be made, as if it had never been asked for.
func (b *Breaker) withdraw(p Permit) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.admitted.Add(^uint64(0))
	if p.lease == 0 {
		return
	}
	c := b.ensureLazy()
	i := c.leaseIndex(p.lease)
	if l := c.leases[i]; c.lastProbe == l.issued { // none went out since
		c.lastProbe = l.previous
	}
	c.leases = slices.Delete(c.leases, i, i+1)
	b.slotChanged(b.phase.Load())
}

// decide admits or rejects, and moves from open to half-open when the time has come. An override decides first; what
// Shadow lets through although it would have been rejected runs as an ordinary call.
// Caller must hold b.mu.
func (b *Breaker) decide(ctx context.Context, ph *phase, t time.Time) (Permit, Reason) {
	now := instant(t)
	mode := ph.override.mode()
	switch mode {
	case ForceOpen:
		return Permit{}, ReasonForced
	case ForceClosed:
		return Permit{b: b, ph: ph, start: now}, 0
	case Shadow:
	}
	lease, reason := b.admit(ctx, ph, t)
	if reason != 0 && mode == Shadow {
		c := b.ensureLazy()
		c.shadow[reason] = satAdd(c.shadow[reason], 1)
		reason = 0
	}
	return Permit{b: b, ph: b.phase.Load(), start: now, lease: lease}, reason
}

// admit is decide without overrides. MaxConcurrent is for the closed state; MaxProbes bounds the others, where a limit
// that is filled by permits that never report would keep the breaker from ever probing. What is used up by asking, a
// ramp's credit, is taken last. Caller must hold b.mu.
func (b *Breaker) admit(ctx context.Context, ph *phase, t time.Time) (lease uint64, _ Reason) {
	now := instant(t)
	switch ph.state {
	case Closed:
		if b.atConcurrencyLimit(ph, now) {
			return 0, ReasonConcurrency
		}
		if ph.ramp != nil && !ph.ramp.take(now, ph.pol) {
			return 0, ReasonRamp
		}
		return 0, 0
	case Open:
		if now < ph.gate.until.Load() {
			return 0, ReasonOpen
		}
		ph = b.toHalfOpen(ctx, ph, t)
	case HalfOpen:
	}
	lease, ok := b.claim(ph, now)
	if !ok {
		return 0, ReasonHalfOpen
	}
	return lease, 0
}

// rejectedError returns the error for a call rejected for reason, the same one for all calls of a stay.
// Caller must hold b.mu.
func (b *Breaker) rejectedError(c *lazyState, reason Reason) *RejectedError {
	ph := b.phase.Load()
	if reason == ReasonOpen || reason == ReasonHalfOpen {
		return ph.gate.rejected
	}
	state := ph.state
	if reason == ReasonForced {
		state = Open
	}
	e := c.rejectedErrors[reason][state]
	if e == nil {
		e = &RejectedError{Key: b.key, State: state, Reason: reason}
		c.rejectedErrors[reason][state] = e
	}
	return e
}

// successes is how many calls have succeeded. Caller must hold b.mu.
func (b *Breaker) successes(ph *phase) uint64 {
	if ph.win == nil {
		return b.retired
	}
	return satAdd(b.retired, ph.win.total())
}

// settled is how many permits have reported. Caller must hold b.mu.
func (b *Breaker) settled() uint64 {
	n := b.successes(b.phase.Load())
	if c := b.lazy.Load(); c != nil {
		n = satAdd(n, c.failures, c.overloads, c.ignored, c.late)
	}
	return n
}

// inFlight is how many permits have not reported, or more: it reads admitted last, so calls that come and go
// meanwhile count, and none that is in flight is missed. A Done too many (B25) would make it negative; then it is 0.
// Caller must hold b.mu.
func (b *Breaker) inFlight() uint64 {
	settled := b.settled()
	return satSub(b.admittedTotal(), settled)
}

// running is inFlight without the probes that are known to be lost. Caller must hold b.mu.
func (b *Breaker) running(now int64) uint64 {
	var lost uint64
	if c := b.lazy.Load(); c != nil {
		for _, l := range c.leases {
			if l.lost || now >= l.expires {
				lost++
			}
		}
	}
	return satSub(b.inFlight(), lost)
}

// atConcurrencyLimit reports whether MaxConcurrent calls are in flight. Caller must hold b.mu.
func (b *Breaker) atConcurrencyLimit(ph *phase, now int64) bool {
	limit := ph.pol.cfg.MaxConcurrent
	return limit > 0 && b.running(now) >= uint64(limit)
}
