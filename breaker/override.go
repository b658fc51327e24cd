package breaker

import (
	"context"
	"log/slog"
	"time"
)

// Mode is what an Override does. The zero Mode means none.
type Mode uint8

const (
	// ForceOpen rejects all calls. No probes are made.
	ForceOpen Mode = iota + 1
	// ForceClosed admits all calls. Outcomes are counted, but no rule is evaluated, no probes are made, and the results
	// of earlier probes do not change the state.
	ForceClosed
	// Shadow admits all calls. The breaker changes its state as without an override, and Snapshot.ShadowRejections counts
	// the calls that it would have rejected. Shadow is for trying out a policy.
	Shadow
)

var modeNames = [...]string{"", "force_open", "force_closed", "shadow"}

// String returns "force_open", "force_closed" or "shadow", and "" for the zero Mode.
func (m Mode) String() string { return nameOf(modeNames[:], uint8(m), "Mode") }

// MarshalText returns what String returns. A value that is not a Mode is an error.
func (m Mode) MarshalText() ([]byte, error) { return marshalName(modeNames[:], uint8(m), "mode") }

// UnmarshalText accepts what MarshalText returns. Any other text is an error and leaves m unchanged.
func (m *Mode) UnmarshalText(text []byte) error {
	n, err := unmarshalName(modeNames[:], text, "mode")
	if err == nil {
		*m = Mode(n)
	}
	return err
}

// An Override forces the breaker open or closed, or runs it in shadow mode, until it is cleared or its TTL is over. The
// breaker keeps its own state meanwhile (Snapshot.Underlying), and returns to it after that.
type Override struct {
	Mode Mode          `json:"mode"`
	TTL  time.Duration `json:"ttl,omitempty"` // from 1 ms to 100 years; 0: until it is cleared
	Why  string        `json:"why"`           // for people; must not be empty
	By   string        `json:"by"`            // who set it; must not be empty
}

// LogValue returns mode, by, why and, if it is not 0, ttl.
func (o Override) LogValue() slog.Value {
	attrs := append(make([]slog.Attr, 0, 4),
		slog.String("mode", o.Mode.String()), slog.String("by", o.By), slog.String("why", o.Why))
	if o.TTL > 0 {
		attrs = append(attrs, slog.Duration("ttl", o.TTL))
	}
	return slog.GroupValue(attrs...)
}

// These are Event.Why of a change of the override.
const (
	overrideSet     = "override set"
	overrideCleared = "override cleared"
)

type override struct {
	Override
	expires  int64          // 0: never
	rejected *RejectedError // of the calls that ForceOpen rejects
}

// inForce reports whether o is not nil and its TTL is not over at now.
func (o *override) inForce(now int64) bool {
	return o != nil && (o.expires == 0 || now < o.expires)
}

// SetOverride puts o in force at once. It replaces an override that is already in force. It is for one breaker.
// Group.Get returns that breaker even before its first call. With keys of keyfunc.TargetMethod:
//
//	b := group.Get(breaker.Key{Target: conn.Target(), Service: "shop.Orders", Method: "Get"})
//	err := b.SetOverride(ctx, breaker.Override{Mode: breaker.ForceOpen, TTL: time.Hour, Why: "migration", By: "ops"})
//
// SetOverride returns an error, and changes nothing, if a field of o is invalid. If the breaker was removed from its
// group and the group is full, so that its key shares the overflow breaker, that is an error too. It makes an event
// (Event.OverrideChanged).
func (b *Breaker) SetOverride(ctx context.Context, o Override) error {
	switch {
	case o.Mode < ForceOpen || o.Mode > Shadow:
		return errorf("Override.Mode is %d, want ForceOpen, ForceClosed or Shadow", uint8(o.Mode))
	case o.TTL != 0 && !validDuration(o.TTL):
		return errorf("Override.TTL is %v, want 0 (until cleared) or from 1ms to 100 years%s", o.TTL, missingUnit(o.TTL))
	case o.Why == "":
		return errorf("Override.Why is empty, want a reason for the people who will ask")
	case o.By == "":
		return errorf("Override.By is empty, want who sets it")
	}
	var err error
	b.change(ctx, func(d *decision) {
		rejected := &RejectedError{Key: b.key, State: Open, Reason: ReasonForced, Override: o}
		next := &override{Override: o, rejected: rejected}
		if o.TTL > 0 {
			next.expires = d.now + int64(o.TTL)
			rejected.Until = d.t.Add(o.TTL)
		}
		d.setOverride(next)
	}, func(live *Breaker) {
		if live.key != b.key {
			err = errorf("SetOverride: %q has no breaker of its own, because the group is full (WithMaxBreakers)", b.key)
			return
		}
		err = live.SetOverride(ctx, o)
	})
	return err
}

// ClearOverride ends the override that is in force, and makes an event (Event.OverrideChanged). If there is no
// override, it does nothing.
func (b *Breaker) ClearOverride(ctx context.Context) {
	d := b.begin(ctx)
	if d.ph.kind != removed {
		if d.ph.override != nil {
			d.setOverride(nil)
		}
		b.unlock()
		return
	}
	b.mu.Unlock()
	if live, ok := b.shared.group.Lookup(b.key); ok && live != b { // otherwise no call has come since, so none is set
		live.ClearOverride(ctx)
	}
}
