package breaker

import (
	"context"
	"time"
)

// Counts is what a breaker knows of the calls in its window. Late results are not part of it, and ignored ones only as
// SlowCanceled. Where no rule looks at the window (see Config.Window) all but ConsecutiveFailures is 0.
type Counts struct {
	Successes uint64 `json:"successes"`
	Failures  uint64 `json:"failures"`
	Overloads uint64 `json:"overloads"`
	Slow      uint64 `json:"slow"` // each of them is a success, a failure or an overload too, or one of SlowCanceled
	// SlowCanceled is the calls that their caller canceled after more than SlowCall. Their outcome is ignored, so
	// they are not part of Calls.
	SlowCanceled uint64 `json:"slowCanceled"`
	// ConsecutiveFailures is the length of the failure streak: failures since the last success, where those that
	// ended within 10 ms of the last one counted are one (unless Config.FailingFor is negative). It is not bound to
	// the window.
	ConsecutiveFailures uint64 `json:"consecutiveFailures"`
}

// Calls is the number of calls in the window that had an outcome.
func (c Counts) Calls() uint64 { return satAdd(c.Successes, c.Failures, c.Overloads) }

// FailureRatio is (failures + overloads) / calls, and 0 where there are no calls.
func (c Counts) FailureRatio() float64 { return ratio(satAdd(c.Failures, c.Overloads), c.Calls()) }

// SlowRatio is slow calls / (calls + SlowCanceled), and 0 where there are no calls.
func (c Counts) SlowRatio() float64 { return ratio(c.Slow, c.timed()) }

// timed is the number of calls that the slow rule looks at.
func (c Counts) timed() uint64 { return satAdd(c.Calls(), c.SlowCanceled) }

func ratio(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

// Event tells of one transition of one breaker. To of one event is From of the next; Trip on an open breaker and
// Reset on a closed one start a new stay too, with From and To alike. Overrides make no events: they hide the state,
// and change nothing about it.
type Event struct {
	Key        Key           `json:"key"`
	From       State         `json:"from"`
	To         State         `json:"to"`
	Rule       Rule          `json:"rule"`       // what opened it, or RuleManual; zero otherwise
	Why        string        `json:"why"`        // in words: "5 consecutive failures", or what was given to Trip
	At         time.Time     `json:"at"`         // with a monotonic reading
	Seq        uint64        `json:"seq"`        // 1 for a breaker's first event, then without gaps
	Generation uint64        `json:"generation"` // of the stay that begins
	OpenFor    time.Duration `json:"openFor"`    // the open period that begins, jitter included; 0 unless To is Open
	Counts     Counts        `json:"counts"`     // of the window that the rule fired on; zero unless From is Closed
	Failed     int           `json:"failed"`     // recoveries that failed, which the back-off counts
	Override   Mode          `json:"override"`   // in force at the transition; zero: none. Under Shadow no call is rejected
}

// Listener hears of every transition. Calls for one breaker come one after another and in order, on the goroutine of
// one of the calls that cause them, outside every lock: a listener may call any method of any breaker. A slow one
// delays the call that delivers, and no other; the events of its breaker wait meanwhile, in a queue without a bound.
// One that panics or exits is as if it had returned.
type Listener interface {
	// Transition gets the context of the call that caused e. It may be done already.
	Transition(ctx context.Context, e Event)
}

type listenerFunc struct{ f func(context.Context, Event) }

func (l *listenerFunc) Transition(ctx context.Context, e Event) { l.f(ctx, e) }

type delivery struct {
	ctx   context.Context //nolint:containedctx // B31: the event carries it, for as long as it waits for its turn
	event Event
}

// unlock releases b.mu and then delivers queued events until none is left. Only one goroutine delivers for a breaker
// at a time (B30: order); the others leave their events in the queue and go on with their calls. Caller must hold
// b.mu.
func (b *Breaker) unlock() {
	c := b.lazy.Load()
	if !c.mustDeliver() {
		b.mu.Unlock()
		return
	}
	c.delivering = true
	b.mu.Unlock()
	b.drainQueue(c)
}

// mustDeliver reports whether whoever releases the lock has events to deliver. c may be nil. Caller must hold
// Breaker.mu.
func (c *lazyState) mustDeliver() bool { return c != nil && !c.delivering && len(c.queue) > 0 }

// drainQueue does the delivering. A listener that calls runtime.Goexit ends this goroutine while it is here: then the
// deferred call takes the rest over before the goroutine is gone, so that nothing stays behind in the queue.
func (b *Breaker) drainQueue(c *lazyState) {
	emptied := false
	defer func() {
		if !emptied {
			b.drainQueue(c)
		}
	}()
	for {
		b.mu.Lock()
		if len(c.queue) == 0 {
			c.delivering = false
			c.queue = nil
			b.mu.Unlock()
			emptied = true
			return
		}
		// Popped before it is handed out: a listener that exits must not see it again.
		if c.undelivered == nil {
			c.undelivered = b.shared.listeners.list()
		}
		if len(c.undelivered) == 0 {
			c.undelivered = nil
			c.pop()
			b.mu.Unlock()
			continue
		}
		l, d := c.undelivered[0], c.queue[0]
		if c.undelivered = c.undelivered[1:]; len(c.undelivered) == 0 {
			c.undelivered = nil
			c.pop()
		}
		b.mu.Unlock()
		deliver(l, d)
	}
}

// pop drops the first delivery, and lets go of its context. Caller must hold Breaker.mu.
func (c *lazyState) pop() {
	c.queue[0] = delivery{}
	c.queue = c.queue[1:]
}

func deliver(l Listener, d delivery) {
	defer func() { _ = recover() }() // B30: a panicking listener changes nothing else
	l.Transition(d.ctx, d.event)
}
