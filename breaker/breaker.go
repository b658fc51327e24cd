package breaker

import (
	"sync"
	"sync/atomic"
	"time"
)

// Breaker guards one backend. It is Closed, HalfOpen or Open. The package comment shows the transitions.
//
// Most callers get their breakers from a [Group] and use a guard, which calls Acquire and Done for them. Without a
// guard, use Do, or
//
//	permit, err := b.Acquire(ctx)
//	if err != nil {
//		return err // rejected, or ctx is done
//	}
//	err = call(ctx)
//	permit.Done(ctx, outcome(err))
//
// A Breaker is safe for concurrent use. It owns no goroutine and no timer; it becomes half-open when a call arrives
// after the open period. It must come from New or from a Group; the zero Breaker is not usable.
type Breaker struct {
	// The order of the fields separates what each call reads from what calls write. What each call reads fills the first
	// three cache lines, which all cores share. TestTheClosedPathSharesNoCacheLine checks this.

	phase atomic.Pointer[phase] // publishes state, generation, deadline and policy in one step
	key   Key
	hash  uint64

	// lastUsed is when a call last used the breaker, as far as a clock was read: each decision under mu sets it, and
	// rejections set it once in lastUsedEvery. It misses closed calls that take no lock; see lastUse.
	lastUsed atomic.Int64

	// The first phase and window are part of the breaker, so that a new breaker is one allocation.
	firstPhase  phase
	firstWindow window // its last part begins the next cache line

	admitted atomic.Uint64 // permits issued over the life of the breaker, without those counted in stripes

	// mu serializes all decisions. It is held for tens of nanoseconds, and for some hundred if stripes must be summed. It
	// is never held while user code runs.
	mu      sync.Mutex
	retired uint64 // guarded by mu: successes that have left the window

	shared *shared
	lazy   atomic.Pointer[lazyState] // nil until something other than a fast success happens
}

// lazyState is the part of a breaker that is not needed while all calls succeed fast.
type lazyState struct {
	rejections [reasons]atomic.Uint64   // by Reason, without those counted in stripes
	fallbacks  [2]atomic.Uint64         // failed, served
	stripes    atomic.Pointer[[]stripe] // nil until several cores call the breaker; then never nil again

	// All fields below are guarded by Breaker.mu.

	totals  totals
	backoff backoff
	probes  probes
	events  eventQueue

	limitErrors limitErrors
}

// shared is what the breakers of a group share.
type shared struct {
	group     *Group // nil for a breaker from New
	trip      func(Counts) bool
	listeners listeners
	logs      []*transitionLog
}

// New returns a closed breaker that belongs to no group. A nil option and an invalid cfg are errors.
func New(key Key, cfg Config, opts ...Option) (*Breaker, error) {
	var o options
	for i, opt := range opts {
		if isNil(opt) {
			return nil, errorf("option %d is nil", i)
		}
		if err := opt.applyGroup(&o); err != nil {
			return nil, err
		}
	}
	pol, err := newPolicy(cfg, o.trip != nil)
	if err != nil {
		return nil, err
	}
	s := new(shared)
	o.share(s)
	return newBreaker(key, key.hash(), pol, s), nil
}

func newBreaker(key Key, hash uint64, pol *policy, s *shared) *Breaker {
	t := time.Now()
	now := instant(t)
	b := &Breaker{shared: s, key: key, hash: hash}
	b.lastUsed.Store(now)
	b.firstWindow.init(now, pol.bucket)
	b.firstPhase = phase{gen: 1, pol: pol, win: &b.firstWindow, since: now, wall: t.UnixNano()}
	b.phase.Store(b.firstPhase.withKind())
	return b
}

// Key returns the key that the breaker was made for.
func (b *Breaker) Key() Key { return b.key }

// Config returns the Config in force, with each zero field replaced by its default.
func (b *Breaker) Config() Config { return b.phase.Load().pol.cfg }

// ensureLazy returns the lazy state, and makes it if needed. Caller must hold b.mu.
func (b *Breaker) ensureLazy() *lazyState {
	lazy := b.lazy.Load()
	if lazy == nil {
		lazy = new(lazyState)
		b.lazy.Store(lazy)
	}
	return lazy
}
