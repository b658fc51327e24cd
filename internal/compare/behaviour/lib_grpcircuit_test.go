package behaviour

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/grpcircuit/grpcircuit/breaker"
)

var grpcircuit = &library{
	name:   "grpcircuit",
	module: "github.com/grpcircuit/grpcircuit",
	form:   "breaker.Breaker: Do, and Acquire with Permit.Done",
	make: func(w want) *instance {
		group, err := breaker.NewGroup(ourConfig(w), ourOptions(w)...)
		if err != nil {
			panic(err)
		}
		i := ourInstance(group.Get(breaker.Key{Tag: "only"}), w)
		i.apply = func(w want) {
			if err := group.Apply(ourConfig(w)); err != nil {
				panic(err)
			}
		}
		return i
	},
	preset: func() *instance {
		b, err := breaker.New(breaker.Key{}, breaker.Config{})
		if err != nil {
			panic(err)
		}
		return ourInstance(b, want{})
	},
	registry: func(w want, bound int) *registry {
		group, err := breaker.NewGroup(ourConfig(w), breaker.WithMaxBreakers(bound))
		if err != nil {
			panic(err)
		}
		return &registry{
			get: func(key string) *instance { return ourInstance(group.Get(breaker.Key{Tag: key}), w) },
			len: group.Len,
		}
	},
	nonsense: func() error {
		_, err := breaker.New(breaker.Key{}, breaker.Config{FailureRatio: 1.5})
		return err
	},
	lacks: map[feature]lack{
		hasHang: cannot("sees a call only when it ends, and has no time limit for it"),
	},
}

// ourConfig converts w to a Config. A scenario has the same policy for every library: a number of failures opens the
// breaker, no matter how fast they come. This is FailingFor: -1. The scenarios on presets use the default, by which
// failures must last for a second.
func ourConfig(w want) breaker.Config {
	c := breaker.Config{
		ConsecutiveFailures: w.failures, FailingFor: -1, FailureRatio: w.ratio, MinCalls: w.minCalls, Window: w.window,
		OpenFor: w.openFor, MaxOpenFor: max(w.openFor, w.maxOpen), Backoff: max(1, w.backoff), Jitter: w.jitter,
		MaxProbes: w.probes, SuccessesToClose: w.successes, ProbeTimeout: w.lease,
		SlowCall: w.slow, Ramp: w.ramp, MaxConcurrent: w.maxCalls,
	}
	// A scenario is about one rule, so the others are off.
	if w.ratio == 0 {
		c.FailureRatio = -1
	}
	if w.failures == 0 {
		c.ConsecutiveFailures = -1
	}
	if w.jitter == 0 {
		c.Jitter = -1
	}
	if w.slow > 0 {
		c.SlowRatio, c.FailureRatio = w.ratio, -1
	}
	return c
}

func ourOptions(w want) (opts []breaker.GroupOption) {
	if w.onChange != nil {
		opts = append(opts, breaker.WithListener(func(_ context.Context, e breaker.Event) {
			failures := e.Counts.Failures
			if e.Rule == breaker.RuleConsecutive {
				failures = e.Counts.ConsecutiveFailures // without a ratio rule there is no window
			}
			w.onChange(change{from: ourState(e.From), to: ourState(e.To), failures: int(failures)})
		}))
	}
	if w.trip != nil {
		opts = append(opts, breaker.WithTrip(func(breaker.Counts) bool { return w.trip() }))
	}
	return opts
}

func ourState(s breaker.State) state {
	switch s {
	case breaker.Open:
		return open
	case breaker.HalfOpen:
		return halfOpen
	default:
		return closed
	}
}

func ourOutcome(o outcome) breaker.Outcome {
	switch o {
	case success:
		return breaker.Success
	case ignored:
		return breaker.Ignored
	default:
		return breaker.Failure
	}
}

func ourInstance(b *breaker.Breaker, w want) *instance {
	ctx := context.Background()
	override := func(m breaker.Mode) func() {
		if err := b.SetOverride(ctx, breaker.Override{Mode: m, Why: "scenario", By: "scenario"}); err != nil {
			panic(err)
		}
		return func() { b.ClearOverride(ctx) }
	}
	do := b.Do
	if w.asked != nil {
		do = func(ctx context.Context, fn func(context.Context) error) error {
			permit, err := b.Acquire(ctx)
			if err != nil {
				return err
			}
			if err = fn(ctx); err != nil {
				permit.Report(ctx, breaker.Report{Outcome: breaker.Failure, RetryAfter: w.asked()})
				return err
			}
			permit.Done(ctx, breaker.Success)
			return nil
		}
	}
	return &instance{
		has: has{failures: w.failures, openFor: w.openFor, window: w.window, successes: w.successes, lease: w.lease},
		do:  do,
		start: func(ctx context.Context) (func(outcome), error) {
			permit, err := b.Acquire(ctx)
			if err != nil {
				return nil, err
			}
			return func(o outcome) { permit.Done(ctx, ourOutcome(o)) }, nil
		},
		rejected: func(err error) bool { return errors.Is(err, breaker.ErrRejected) },
		state:    func() state { return ourState(b.State()) },
		counts: func() (int, int) {
			c := b.Snapshot().Window
			return int(c.Successes), int(c.Failures)
		},
		trip:      func() { b.Trip(ctx, "scenario") },
		reset:     func() { b.Reset(ctx) },
		forceOpen: func() func() { return override(breaker.ForceOpen) },
		shadow: func() func() int {
			override(breaker.Shadow)
			return func() int { return int(b.Snapshot().ShadowRejections.Total()) }
		},
		retryAfter: func(err error) time.Duration {
			e, ok := errors.AsType[*breaker.RejectedError](err)
			if !ok {
				panic("not a rejection: " + strconv.Quote(err.Error()))
			}
			return e.RetryAfter()
		},
	}
}
