package breaker

import (
	"context"
	"log/slog"
	"time"
)

// Mode is what an Override does. The zero Mode is none.
type Mode uint8

const (
	// ForceOpen rejects every call, probes included.
	ForceOpen Mode = iota + 1
	// ForceClosed admits every call. Outcomes go on being counted; no rule is evaluated and no probe made.
	ForceClosed
	// Shadow admits every call, runs the state machine on what really happens, and counts what it would have rejected:
	// for trying a policy out.
	Shadow
)

var modeNames = [...]string{"", "force_open", "force_closed", "shadow"}

// String returns "force_open", "force_closed" or "shadow", and "" for the zero Mode.
func (m Mode) String() string { return nameOf(modeNames[:], uint8(m), "Mode") }

// MarshalText writes what String returns. A value that is no Mode is an error.
func (m Mode) MarshalText() ([]byte, error) { return marshalName(modeNames[:], uint8(m), "mode") }

// UnmarshalText reads what MarshalText writes. Anything else is an error and leaves m as it was.
func (m *Mode) UnmarshalText(text []byte) error {
	n, err := unmarshalName(modeNames[:], text, "mode")
	if err == nil {
		*m = Mode(n)
	}
	return err
}

// Override sets a breaker's judgement aside until it is cleared or its time is over. Below it the breaker keeps its
// state, which shows again afterwards.
type Override struct {
	Mode Mode          `json:"mode"`
	TTL  time.Duration `json:"ttl,omitempty"` // 0: until cleared. Otherwise from 1 ms to 100 years
	Why  string        `json:"why"`           // for people; not empty
	By   string        `json:"by"`            // who set it; not empty
}

// LogValue returns mode, author, reason and, if there is one, the time to live.
func (o Override) LogValue() slog.Value {
	attrs := append(make([]slog.Attr, 0, 4), slog.String("mode", o.Mode.String()), slog.String("by", o.By), slog.String("why", o.Why))
	if o.TTL > 0 {
		attrs = append(attrs, slog.Duration("ttl", o.TTL))
	}
	return slog.GroupValue(attrs...)
}

type override struct {
	Override
	expires  int64          // 0: never
	rejected *RejectedError // of the calls that ForceOpen rejects
}

// mode of a nil override is none.
func (o *override) mode() Mode {
	if o == nil {
		return 0
	}
	return o.Mode
}

func (o *override) inForce(now int64) bool {
	return o != nil && (o.expires == 0 || now < o.expires)
}

// SetOverride puts o in force at once, in place of one that is in force already. It returns an error, and changes
// nothing, if a field of o is out of bounds, or if the breaker was evicted and its group is full, so that its key has
// no breaker of its own.
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
	changed := false
	b.change(func(_ *phase, t time.Time) {
		b.ensureLazy()
		changed = true
		b.republish(func(next *phase) {
			rejected := &RejectedError{Key: b.key, State: Open, Reason: ReasonForced, Override: o}
			next.override = &override{Override: o, rejected: rejected}
			if o.TTL > 0 {
				next.override.expires = instant(t) + int64(o.TTL)
				rejected.Until = t.Add(o.TTL)
			}
		})
	}, func(live *Breaker) {
		if live.key != b.key {
			err = errorf("SetOverride: %q has no breaker of its own, because the group is full (WithMaxBreakers)", b.key)
			return
		}
		err = live.SetOverride(ctx, o)
	})
	if changed {
		b.shared.logOverride(ctx, b.key, o)
	}
	return err
}

// ClearOverride ends the override that is in force, if any.
func (b *Breaker) ClearOverride(ctx context.Context) {
	b.mu.Lock()
	if ph := b.refresh(clock()); ph.kind != removed {
		b.republish(func(next *phase) { next.override = nil })
		b.unlock()
		if ph.override != nil {
			b.shared.logOverride(ctx, b.key, Override{})
		}
		return
	}
	b.mu.Unlock()
	if live, ok := b.shared.group.Lookup(b.key); ok && live != b { // there is nothing to clear if nobody has called since
		live.ClearOverride(ctx)
	}
}
