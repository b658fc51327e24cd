package breaker

import (
	"context"
	"fmt"
	"sync/atomic"
)

// Acquire returns a Permit for one call. Its Done or Report must be called when the call is over. If ctx is done,
// Acquire returns ctx's error as it is. If the breaker rejects the call, Acquire returns a *RejectedError as it is
// (errors.Is ErrRejected). ctx must not be nil. It is kept only until the listeners have received it.
//
// Acquire starts no goroutine and no timer. It blocks only for listeners of a transition that it causes. The time that
// they take is not part of the call: the call, and the lease of a probe, begin when the listeners have returned. If ctx
// is done by then, Acquire returns its error and counts nothing.
//
// While the breaker is closed and Ramp, MaxConcurrent and overrides are not in use, Acquire takes no lock. An
// admission by a closed breaker and a rejection allocate nothing, except for state that is allocated once.
func (b *Breaker) Acquire(ctx context.Context) (Permit, error) {
	if err := ctx.Err(); err != nil {
		return Permit{}, err // counts nowhere (B24)
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
			return Permit{b: b, ph: ph, start: ph.pol.callStart()}, nil
		}
	case rejectUntil:
		if now := clock(); now < ph.gate.until.Load() { // at the deadline itself the call is a probe (B13)
			b.countRejection(ph.gate.rejected.Reason, now)
			return Permit{}, ph.gate.rejected
		}
	case needsLock, removed:
	}
	return b.acquireLocked(ctx)
}

// admitFast counts an admission in counter without the lock. It loads the phase again only because of evictions: the
// evictor publishes the new phase before it counts calls in flight, and a caller counts itself before it reloads the
// phase, so at least one of them sees the other. After any other change of the phase the call is admitted in the old
// generation.
func (b *Breaker) admitFast(ph *phase, counter *atomic.Uint64) bool {
	inc(counter)
	if b.phase.Load() == ph {
		return true
	}
	return b.stillInGroup(counter)
}

// stillInGroup takes the admission back, and reports false, if the breaker was removed from its group.
func (b *Breaker) stillInGroup(counter *atomic.Uint64) bool {
	if b.phase.Load().kind != removed {
		return true
	}
	counter.Add(^uint64(0))
	return false
}

func (b *Breaker) acquireLocked(ctx context.Context) (Permit, error) {
	d := b.begin(ctx)
	if d.ph.kind == removed {
		b.mu.Unlock()
		return b.successor().Acquire(ctx)
	}
	b.lastUsed.Store(d.now)
	p, reason := d.acquire()
	if reason == 0 {
		inc(&b.admitted)
		return b.deliverThenGrant(ctx, p)
	}
	inc(&b.ensureLazy().rejections[reason])
	err := d.rejectedError(reason)
	b.unlock()
	return Permit{}, err
}

// deliverThenGrant delivers the events of the admission and then returns the permit. The call begins after that: the
// time that listeners take is not charged to the backend (B30). Caller must hold b.mu, which deliverThenGrant releases.
func (b *Breaker) deliverThenGrant(ctx context.Context, p Permit) (Permit, error) {
	lazy := b.lazy.Load()
	if lazy == nil || !lazy.events.mustDeliver() {
		b.mu.Unlock()
		return p, nil
	}
	if p.lease != 0 {
		lazy.probes.find(p.lease).pending = true
	}
	granted := false
	defer func() {
		if !granted { // ctx is done, or a listener ended the goroutine
			b.withdraw(p)
		}
	}()
	b.unlock()
	if err := ctx.Err(); err != nil {
		return Permit{}, err // counts nowhere (B24)
	}
	if granted = b.restartCall(&p); granted {
		return p, nil
	}
	b.withdraw(p)
	granted = true
	return b.Acquire(ctx)
}

// restartCall makes the call of p begin now. It reports false if p is a probe whose lease has expired, so that another
// probe may have its slot.
func (b *Breaker) restartCall(p *Permit) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	p.start = clock()
	if p.lease == 0 {
		return true
	}
	return b.ensureLazy().probes.restart(p.lease, b.phase.Load(), p.start)
}

// withdraw takes back a permit whose call will not be made. Nothing of it is counted.
func (b *Breaker) withdraw(p Permit) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.admitted.Add(^uint64(0))
	if p.lease != 0 {
		b.ensureLazy().probes.withdraw(p.lease)
		b.phase.Load().slotsChanged()
	}
}

// acquire admits or rejects, and makes an open breaker half-open after its open period. An override decides first. A
// call that only Shadow admits is an ordinary call, not a probe.
func (d *decision) acquire() (Permit, Reason) {
	mode := d.ph.mode()
	switch mode {
	case ForceOpen:
		return Permit{}, ReasonForced
	case ForceClosed:
		return Permit{b: d.b, ph: d.ph, start: d.now}, 0
	case Shadow:
	}
	lease, reason := d.admit()
	if reason != 0 && mode == Shadow {
		totals := &d.b.ensureLazy().totals
		totals.shadow[reason] = satAdd(totals.shadow[reason], 1)
		reason = 0
	}
	return Permit{b: d.b, ph: d.ph, start: d.now, lease: lease}, reason
}

// admit is acquire without overrides. MaxConcurrent applies to the closed state only. In other states MaxProbes limits
// the calls: a concurrency limit that is filled by permits that never report would prevent all probes. The credit of a
// ramp is taken last, because taking it changes it.
func (d *decision) admit() (lease uint64, _ Reason) {
	switch d.ph.state {
	case Closed:
		if d.atConcurrencyLimit() {
			return 0, ReasonConcurrency
		}
		if ramp := d.ph.ramp; ramp != nil && !ramp.take(d.now, d.ph.pol) {
			return 0, ReasonRamp
		}
		return 0, 0
	case Open:
		if d.now < d.ph.gate.until.Load() {
			return 0, ReasonOpen
		}
		d.toHalfOpen()
	case HalfOpen:
	}
	lease, ok := d.claimSlot()
	if !ok {
		return 0, ReasonHalfOpen
	}
	return lease, 0
}

// rejectedError returns the error for a call that was rejected for reason. It is the same for all such calls of a
// generation, of an override, or of a policy.
func (d *decision) rejectedError(reason Reason) *RejectedError {
	switch reason {
	case ReasonForced:
		return d.ph.override.rejected
	case ReasonRamp, ReasonConcurrency:
		return d.b.ensureLazy().limitErrors.get(d.b.key, reason, d.ph.pol)
	case ReasonOpen, ReasonHalfOpen:
	}
	return d.ph.gate.rejected
}

// limitErrors keeps the errors of calls that a closed breaker rejects. It is guarded by Breaker.mu.
type limitErrors struct {
	pol               *policy // that the errors were made for
	ramp, concurrency *RejectedError
}

func (l *limitErrors) get(key Key, reason Reason, pol *policy) *RejectedError {
	if l.pol != pol {
		*l = limitErrors{
			pol: pol,
			ramp: &RejectedError{
				Key: key, State: Closed, Reason: ReasonRamp,
				limit: fmt.Sprintf("it has closed recently, and admits only a part of the calls for %v", pol.cfg.Ramp),
			},
			concurrency: &RejectedError{
				Key: key, State: Closed, Reason: ReasonConcurrency,
				limit: fmt.Sprintf("MaxConcurrent is %d, and that many calls are in flight", pol.cfg.MaxConcurrent),
			},
		}
	}
	if reason == ReasonRamp {
		return l.ramp
	}
	return l.concurrency
}
