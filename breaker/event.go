package breaker

import (
	"context"
	"log/slog"
	"time"
)

// Event describes one transition of one breaker, or a change of its override (OverrideChanged). From is To of the
// previous event. From and To are equal for a change of the override, and for Trip on an open breaker and Reset on a
// closed one, which begin a new generation too. So count openings by events with From != To.
type Event struct {
	Key  Key   `json:"key"`
	From State `json:"from"`
	To   State `json:"to"`
	// Rule is what opened the breaker, or RuleManual for Trip and Reset. Otherwise it is zero.
	Rule Rule `json:"rule"`
	// Why is why the state changed, in words: "5 failures in a row over 1.2s", or the argument of Trip.
	Why string `json:"why"`
	// Cause is Report.Cause of the call that opened the breaker. It is empty if there is none, and if To is not Open.
	Cause      string        `json:"cause"`
	At         time.Time     `json:"at"`         // with a monotonic clock reading
	Seq        uint64        `json:"seq"`        // 1 for the first event of a breaker, then without gaps
	Generation uint64        `json:"generation"` // the one that begins, or the current one
	OpenFor    time.Duration `json:"openFor"`    // the open period that begins, jitter included; 0 if none begins
	// Counts are those of the window that the rule fired on. They are zero unless From is Closed.
	Counts           Counts `json:"counts"`
	FailedRecoveries int    `json:"failedRecoveries"` // which lengthen the open period, see Config.Backoff
	// Override is in force at the transition; its Mode is zero if there is none. Under Shadow no call is rejected. If
	// Config.Enforcement is not EnforcementOn, Override stands for it, and By is "policy".
	Override Override `json:"override"`
	// OverrideChanged is true if SetOverride or ClearOverride made the event. Then Override is what is in force now, and
	// From, To and Generation are those of the breaker below it, which does not change. The end of a TTL makes no event.
	OverrideChanged bool `json:"overrideChanged,omitempty"`
}

// LogValue returns key, from, to and why. If they are set, it also returns rule, cause and override, and for a
// transition to Open open_for and failed_recoveries.
func (e Event) LogValue() slog.Value {
	attrs := append(make([]slog.Attr, 0, 10),
		slog.String("key", e.Key.String()), slog.String("from", e.From.String()), slog.String("to", e.To.String()))
	if e.Rule != 0 {
		attrs = append(attrs, slog.String("rule", e.Rule.String()))
	}
	attrs = append(attrs, slog.String("why", e.Why))
	if e.Cause != "" {
		attrs = append(attrs, slog.String("cause", e.Cause))
	}
	if e.To == Open && !e.OverrideChanged {
		attrs = append(attrs, slog.Duration("open_for", e.OpenFor), slog.Int("failed_recoveries", e.FailedRecoveries))
	}
	if e.Override.Mode != 0 {
		attrs = append(attrs, slog.Any("override", e.Override))
	}
	return slog.GroupValue(attrs...)
}

// eventQueue holds the events that listeners have not received yet. All of it is guarded by Breaker.mu.
//
// One goroutine at a time delivers the events of a breaker, so that they arrive in order (B30). Other goroutines append
// to the queue and continue with their calls.
type eventQueue struct {
	seq        uint64 // of the last event
	queue      []delivery
	recipients []*listener // those that have not received queue[0]; nil: its delivery has not begun
	delivering bool
}

type delivery struct {
	ctx   context.Context //nolint:containedctx // the event carries the context of its call until it is delivered (B31)
	event Event
}

// mustDeliver reports whether the goroutine that releases the lock has events to deliver.
func (q *eventQueue) mustDeliver() bool { return !q.delivering && len(q.queue) > 0 }

// next removes one delivery to one listener from the queue. It returns nil if the queue is empty. all are the
// listeners that are registered now. The delivery is removed before it happens, because a listener that exits its
// goroutine must not receive the event again.
func (q *eventQueue) next(all []*listener) (*listener, delivery) {
	for len(q.queue) > 0 {
		if q.recipients == nil {
			q.recipients = all
		}
		d := q.queue[0]
		if len(q.recipients) == 0 {
			q.pop()
			continue
		}
		l := q.recipients[0]
		if q.recipients = q.recipients[1:]; len(q.recipients) == 0 {
			q.pop()
		}
		return l, d
	}
	q.queue = nil
	return nil, delivery{}
}

// pop removes the first delivery, and the reference to its context.
func (q *eventQueue) pop() {
	q.recipients = nil
	q.queue[0] = delivery{}
	q.queue = q.queue[1:]
}

// unlock releases b.mu and then delivers the events in the queue. Caller must hold b.mu.
func (b *Breaker) unlock() {
	lazy := b.lazy.Load()
	if lazy == nil || !lazy.events.mustDeliver() {
		b.mu.Unlock()
		return
	}
	lazy.events.delivering = true
	b.mu.Unlock()
	b.deliverEvents(&lazy.events)
}

// deliverEvents delivers until the queue is empty. If a listener calls runtime.Goexit, the deferred call delivers the
// rest before the goroutine ends.
func (b *Breaker) deliverEvents(q *eventQueue) {
	done := false
	defer func() {
		if !done {
			b.deliverEvents(q)
		}
	}()
	for {
		b.mu.Lock()
		l, d := q.next(b.shared.listeners.list())
		if l == nil {
			q.delivering = false
			b.mu.Unlock()
			done = true
			return
		}
		b.mu.Unlock()
		l.deliver(d, b.shared)
	}
}

// deliver calls the listener. A panic is logged and dropped: it must not affect the call or other listeners (B30).
func (l *listener) deliver(d delivery, s *shared) {
	defer func() {
		if v := recover(); v != nil {
			s.logPanic(d.ctx, d.event.Key, "listener", v)
		}
	}()
	l.call(d.ctx, d.event)
}
