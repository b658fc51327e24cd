package breaker

import (
	"context"
	"fmt"
	"time"
)

// Option sets something up that is not plain data. Options come from the With functions of this package.
type Option interface{ apply(*options) error }

type optionFunc func(*options) error

func (f optionFunc) apply(o *options) error { return f(o) }

type options struct {
	listeners   []Listener
	trip        func(Counts) bool
	rules       []PolicyRule
	maxBreakers int
	idleTimeout time.Duration // negative: never
	groupOnly   string        // name of an option that New does not take
}

const (
	defaultMaxBreakers = 10_000
	defaultIdleTimeout = time.Hour
)

func collect(opts []Option) (*options, error) {
	o := &options{maxBreakers: defaultMaxBreakers, idleTimeout: defaultIdleTimeout}
	for i, opt := range opts {
		if opt == nil || isNilFunc(opt) {
			return nil, errorf("option %d is nil", i)
		}
		if err := opt.apply(o); err != nil {
			return nil, err
		}
	}
	return o, nil
}

func isNilFunc(opt Option) bool {
	f, ok := opt.(optionFunc)
	return ok && f == nil
}

func (o *options) shared(g *Group) *shared {
	h := &shared{group: g, trip: o.trip}
	for _, l := range o.listeners {
		h.listeners.listen(l)
	}
	return h
}

func errorf(format string, args ...any) error { return fmt.Errorf("breaker: "+format, args...) }

// WithListener calls f on every transition, as a [Listener] is called. It may be given more than once. A nil f is an
// error. Default: none.
func WithListener(f func(context.Context, Event)) Option {
	return optionFunc(func(o *options) error {
		if f == nil {
			return errorf("WithListener: the function is nil")
		}
		o.listeners = append(o.listeners, &listenerFunc{f})
		return nil
	})
}

// WithTrip adds a custom rule: whenever a failure, an overload or a slow call was counted and no rule of the
// Config fired, trip is asked, outside every lock, and true opens the breaker. One that panics says false. A nil trip
// is an error; the last one given counts. Default: none.
func WithTrip(trip func(Counts) bool) Option {
	return optionFunc(func(o *options) error {
		if trip == nil {
			return errorf("WithTrip: the function is nil")
		}
		o.trip = trip
		return nil
	})
}

// WithPolicy gives keys that a rule matches a Config of their own. Given more than once, the rules add up. NewGroup
// only; an invalid rule is an error. Default: none, every key has the group's Config.
func WithPolicy(rules ...PolicyRule) Option {
	return optionFunc(func(o *options) error {
		o.rules = append(o.rules, rules...)
		o.groupOnly = "WithPolicy"
		return nil
	})
}

// WithMaxBreakers bounds how many breakers the group keeps, n at least 1; below that is an error. NewGroup only.
// Default: 10 000.
func WithMaxBreakers(n int) Option {
	return optionFunc(func(o *options) error {
		if n < 1 {
			return errorf("WithMaxBreakers: n is %d, want 1 or more", n)
		}
		o.maxBreakers = n
		o.groupOnly = "WithMaxBreakers"
		return nil
	})
}

// WithIdleTimeout sets when a breaker is idle: when no call has come for it during d, it has no override, and no
// calls are in flight. [Group.All] does not yield an idle breaker, so collectors drop its series. Its memory is freed
// when new keys arrive. If a call arrives first, the breaker continues unchanged. How long no call has come is known
// to a tenth of the window; without a window (see Config.Window), only whether one came since All or a new key last
// checked that breaker.
//
// d is negative (never idle) or from 1 ms to 100 years; anything else is an error. NewGroup only. Default: 1 hour.
func WithIdleTimeout(d time.Duration) Option {
	return optionFunc(func(o *options) error {
		if d >= 0 && !validDuration(d) {
			return errorf("WithIdleTimeout: d is %v, want negative (never) or from 1ms to 100 years%s", d, missingUnit(d))
		}
		o.idleTimeout = d
		o.groupOnly = "WithIdleTimeout"
		return nil
	})
}
