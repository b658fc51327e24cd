package breaker

import (
	"context"
	"fmt"
	"time"
)

// GroupOption configures a Group. The With functions of this package return options. Each Option is a GroupOption too.
type GroupOption interface{ applyGroup(*options) error }

// Option configures a Breaker or a Group.
type Option interface {
	GroupOption
	forBreaker()
}

type groupOption func(*options) error

func (f groupOption) applyGroup(o *options) error { return f(o) }

type option func(*options) error

func (f option) applyGroup(o *options) error { return f(o) }
func (option) forBreaker()                   {}

type options struct {
	listeners   []func(context.Context, Event)
	logs        []*transitionLog
	trip        func(Counts) bool
	rules       []PolicyRule
	maxBreakers int
	idleTimeout time.Duration // negative: never
}

const (
	defaultMaxBreakers = 10_000
	defaultIdleTimeout = time.Hour
)

// isNil reports whether opt is nil, or one of our own functions that is nil.
func isNil(opt GroupOption) bool {
	switch f := opt.(type) {
	case nil:
		return true
	case option:
		return f == nil
	case groupOption:
		return f == nil
	}
	return false
}

// share sets what the breakers of a group share.
func (o *options) share(s *shared) {
	s.trip, s.logs = o.trip, o.logs
	for _, f := range o.listeners {
		s.listeners.add(f)
	}
}

func errorf(format string, args ...any) error { return fmt.Errorf("breaker: "+format, args...) }

// WithListener adds a function that is called on each transition, and when an override is set or cleared. It may be
// given more than once.
//
// The calls for one breaker are made one after the other, in order, on the goroutine of one of the calls that cause
// the transitions, and without any lock held. So f may call any method of any breaker. An f that makes an event for
// each event, with Trip or SetOverride, does not end. f receives the context of the call that caused the event, which
// may be done already. A slow f delays only the call that delivers; the events of its breaker wait meanwhile, in a
// queue without a limit. If f panics or exits its goroutine, nothing else is affected.
//
// A nil f is an error. Default: none.
func WithListener(f func(context.Context, Event)) Option {
	return option(func(o *options) error {
		if f == nil {
			return errorf("WithListener: the function is nil")
		}
		o.listeners = append(o.listeners, f)
		return nil
	})
}

// WithTrip sets the custom rule, which is called after the built-in ones. When a failure, an overload or a slow call
// was counted and no rule of the Config fired, trip is called with the counts of the window, without any lock held. If
// it returns true, the breaker opens. A panic counts as false. A nil trip is an error. If WithTrip is given more than
// once, the last one counts. Default: none.
func WithTrip(trip func(Counts) bool) Option {
	return option(func(o *options) error {
		if trip == nil {
			return errorf("WithTrip: the function is nil")
		}
		o.trip = trip
		return nil
	})
}

// WithPolicy adds rules that set the Config of the keys that they match. If it is given more than once, the rules add
// up. An invalid rule is an error, and so are two rules with the same Match. Default: none, each key has the group's
// Config.
func WithPolicy(rules ...PolicyRule) GroupOption {
	return groupOption(func(o *options) error {
		o.rules = append(o.rules, rules...)
		return nil
	})
}

// WithMaxBreakers limits how many breakers the group keeps, without the overflow breaker. See [Group] for what happens
// when it is full. n must be at least 1; otherwise it is an error. Default: 10 000.
func WithMaxBreakers(n int) GroupOption {
	return groupOption(func(o *options) error {
		if n < 1 {
			return errorf("WithMaxBreakers: n is %d, want 1 or more", n)
		}
		o.maxBreakers = n
		return nil
	})
}

// WithIdleTimeout sets when a breaker is idle: when no call has begun or ended for d, no override is in force, and no
// call is in flight. A probe whose lease has expired does not count as in flight. [Group.All] does not yield an idle
// breaker, so collectors drop its series. Its memory is freed when new keys arrive. If a call arrives first, the
// breaker continues unchanged. The time of the last call is known to a tenth of the window. Without a window (see
// Config.Window), it is only known whether a call came since All or a new key last checked the breaker.
//
// d is negative (never idle) or from 1 ms to 100 years; anything else is an error. Default: 1 hour.
func WithIdleTimeout(d time.Duration) GroupOption {
	return groupOption(func(o *options) error {
		if d >= 0 && !validDuration(d) {
			return errorf("WithIdleTimeout: d is %v, want negative (never) or from 1ms to 100 years%s", d, missingUnit(d))
		}
		o.idleTimeout = d
		return nil
	})
}
