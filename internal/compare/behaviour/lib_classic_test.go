package behaviour

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/afex/hystrix-go/hystrix"
	"github.com/cenk/backoff"
	resiliency "github.com/eapache/go-resiliency/breaker"
	"github.com/eapache/go-resiliency/deadline"
	"github.com/eapache/go-resiliency/semaphore"
	circuit "github.com/rubyist/circuitbreaker"
	handy "github.com/streadway/handy/breaker"
)

// plainLacks lists what all of the older breakers lack.
var plainLacks = map[feature]lack{
	hasSlow:    cannot("has no rule for slow calls"),
	hasHang:    cannot("sees a call only when it ends, and has no time limit for it"),
	hasBackoff: cannot("every open period is the same"),
	hasJitter:  cannot("every open period is the same"),
	hasAsked:   cannot("every open period is the same"),
	hasManual:  cannot("cannot be opened or closed manually"),
	hasForce:   cannot("has no override"),
	hasShadow:  cannot("has no shadow mode"),
	hasRetry:   cannot("neither a rejection nor the breaker gives the remaining time"),
	hasKeys:    notFor("one breaker, no registry"),
	hasLive:    cannot("settings are fixed when it is made"),
	hasRamp:    cannot("goes from a few probes to all calls at once"),
	hasLimit:   notFor("no limit on calls in flight"),
	hasCause:   cannot("does not report why it opened"),
	hasTrip:    notFor("takes thresholds, but no custom rule"),
	hasProbes:  notFor("one probe at a time, by design"),
	hasSteps:   notFor("the end of a call is not tied to its beginning"),
}

// aside runs fn under a breaker that counts every error as a failure. The errors in ignore look like successes to the
// breaker, but the caller still gets them.
func aside(fn func(context.Context) error, run func(func(context.Context) error) error, ignore ...error) error {
	var hidden error
	err := run(func(ctx context.Context) error {
		own := fn(ctx)
		if slices.ContainsFunc(ignore, func(e error) bool { return errors.Is(own, e) }) {
			hidden = own
			return nil
		}
		return own
	})
	if err == nil {
		return hidden
	}
	return err
}

var goResiliency = &library{
	name: "go-resiliency", module: "github.com/eapache/go-resiliency",
	form: "breaker.Breaker.Run, around deadline.Deadline.Run in T23 and H13, in a semaphore.Semaphore in N05",
	make: func(w want) *instance {
		b := resiliency.New(w.failures, w.successes, w.openFor)
		do := func(ctx context.Context, fn func(context.Context) error) error {
			return aside(fn, func(fn func(context.Context) error) error {
				return b.Run(func() error { return resiliencyDeadline(ctx, w.hang, fn) })
			}, resiliency.ErrBreakerOpen, context.Canceled)
		}
		if w.maxCalls > 0 {
			do = resiliencyLimit(semaphore.New(w.maxCalls, time.Millisecond), do)
		}
		return &instance{
			has: has{failures: w.failures, openFor: w.openFor, window: w.openFor, successes: w.successes},
			do:  do, start: startByDo(do),
			rejected: func(err error) bool {
				return errors.Is(err, resiliency.ErrBreakerOpen) || errors.Is(err, semaphore.ErrNoTickets)
			},
			state: func() state {
				switch b.GetState() {
				case resiliency.Open:
					return open
				case resiliency.HalfOpen:
					return halfOpen
				default:
					return closed
				}
			},
		}
	},
	nonsense: func() error {
		resiliency.New(-1, -1, -time.Second)
		return nil
	},
	lacks: with(with(without(plainLacks, hasHang, hasLimit), noContext), map[feature]lack{
		hasSlow:     cannot("its deadline ends a slow call"),
		hasStreak:   cannot("a success does not reset its count of errors; only a gap without errors does"),
		hasRatio:    cannot("counts errors, not calls"),
		hasWindow:   cannot("its window is a gap without errors as long as the open period"),
		hasListener: cannot("has no listener"),
		hasCounts:   cannot("does not expose its counts"),
		hasPreset:   notFor("has no defaults: all three settings are arguments"),
		hasProbes:   cannot("half-open admits every call"),
	}),
}

// resiliencyDeadline runs fn under the library's own time limit, if there is one. After the limit the library closes a
// channel, so that the function can stop.
func resiliencyDeadline(ctx context.Context, limit time.Duration, fn func(context.Context) error) error {
	if limit == 0 {
		return fn(ctx)
	}
	return deadline.New(limit).Run(func(stop <-chan struct{}) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() {
			select {
			case <-stop:
				cancel()
			case <-ctx.Done():
			}
		}()
		return fn(ctx)
	})
}

// resiliencyLimit is do with a limit on calls in flight, outside of the breaker, which would count its rejections as
// failures.
func resiliencyLimit(tickets *semaphore.Semaphore, do doFunc) doFunc {
	return func(ctx context.Context, fn func(context.Context) error) error {
		if err := tickets.Acquire(); err != nil {
			return err
		}
		defer tickets.Release()
		return do(ctx, fn)
	}
}

var hystrixSeq atomic.Int64

var hystrixGo = &library{
	name: "hystrix-go", module: "github.com/afex/hystrix-go",
	form: "DoC; its window is fixed at 10 s; a time limit (Timeout) of an hour, but in T23 and H13",
	make: func(w want) *instance { return hystrixOf(fmt.Sprintf("command %d", hystrixSeq.Add(1)), w) },
	preset: func() *instance {
		i := hystrixOf("preset", want{failures: hystrix.DefaultVolumeThreshold})
		hystrix.ConfigureCommand("preset", hystrix.CommandConfig{})
		return i
	},
	registry: func(w want, _ int) *registry {
		return &registry{get: func(key string) *instance { return hystrixOf(key, w) }}
	},
	nonsense: func() error {
		hystrix.ConfigureCommand("nonsense", hystrix.CommandConfig{ErrorPercentThreshold: 150, SleepWindow: -1})
		return nil
	},
	lacks: with(without(plainLacks, hasKeys, hasLive, hasLimit, hasHang), map[feature]lack{
		hasStreak:    cannot("has a rule on the error percentage only"),
		hasSlow:      cannot("its time limit ends a slow call"),
		hasSuccesses: cannot("the first success closes it"),
		hasListener:  cannot("has no listener; its collectors see outcomes, not states"),
		hasCounts:    notFor("its counts go to metrics collectors and are not read"),
	}),
}

func hystrixConfigure(name string, w want) {
	c := hystrix.CommandConfig{
		Timeout: int(time.Hour / time.Millisecond), MaxConcurrentRequests: 5000,
		RequestVolumeThreshold: max(w.failures, w.minCalls), SleepWindow: int(w.openFor / time.Millisecond),
		ErrorPercentThreshold: 50,
	}
	if w.ratio > 0 {
		c.ErrorPercentThreshold = int(w.ratio*100 + 0.5)
	}
	if w.hang > 0 {
		c.Timeout = int(w.hang / time.Millisecond)
	}
	if w.maxCalls > 0 {
		c.MaxConcurrentRequests = w.maxCalls
	}
	hystrix.ConfigureCommand(name, c)
}

func hystrixOf(name string, w want) *instance {
	hystrixConfigure(name, w)
	do := func(ctx context.Context, fn func(context.Context) error) error {
		return aside(fn, func(fn func(context.Context) error) error { return hystrix.DoC(ctx, name, fn, nil) },
			hystrix.ErrCircuitOpen)
	}
	return &instance{
		has: has{failures: w.failures, openFor: w.openFor, window: 10 * time.Second, successes: 1, between: w.openFor},
		do:  do, start: startByDo(do),
		rejected: func(err error) bool {
			return errors.Is(err, hystrix.ErrCircuitOpen) || errors.Is(err, hystrix.ErrMaxConcurrency)
		},
		state: func() state {
			c, _, err := hystrix.GetCircuit(name)
			if err != nil {
				panic(err)
			}
			if c.IsOpen() {
				return open
			}
			return closed
		},
		apply: func(w want) { hystrixConfigure(name, w) },
	}
}

var handyBreaker = &library{
	name: "handy", module: "github.com/streadway/handy",
	form: "breaker.Allow, Success and Failure; after 11 calls, over 5 s, open for 1 s; the options for these have no " +
		"effect",
	make: func(w want) *instance {
		ratio := w.ratio
		if ratio == 0 {
			ratio = 0.5
		}
		return handyOf(ratio, w)
	},
	preset: func() *instance { return handyOf(0.5, want{}) },
	nonsense: func() error {
		// According to a comment in the source, the library would clamp a ratio to the range from 0 to 1.
		b := handy.NewBreaker(0.5)
		b.WithCooldown(-time.Second)
		return nil
	},
	lacks: with(with(plainLacks, noContext), map[feature]lack{
		hasStreak:    cannot("has a rule on the failure ratio only"),
		hasSuccesses: cannot("the first success closes it"),
		hasListener:  cannot("has no listener"),
		hasState:     cannot("does not expose its state"),
		hasCounts:    cannot("does not expose its counts"),
		hasCallback:  notFor("no callback form: the caller's code has to handle a panic"),
	}),
}

var errHandy = errors.New("handy: Allow returned false")

func handyOf(ratio float64, w want) *instance {
	b := handy.NewBreaker(ratio)
	if w.minCalls > 0 {
		b.WithMinObservation(uint(w.minCalls))
	}
	if w.window > 0 {
		b.WithWindow(w.window)
	}
	if w.openFor > 0 {
		b.WithCooldown(w.openFor)
	}
	finish := func(o outcome) {
		switch o {
		case success:
			b.Success(0)
		case failure:
			b.Failure(0)
		case ignored: // no report, no count
		}
	}
	return &instance{
		has: has{
			failures: handy.DefaultMinObservations + 1, openFor: handy.DefaultCooldown, window: handy.DefaultWindow,
			successes: 1, between: handy.DefaultCooldown,
		},
		do: func(ctx context.Context, fn func(context.Context) error) error {
			if !b.Allow() {
				return errHandy
			}
			err := fn(ctx)
			finish(outcomeOf(err, errHandy))
			return err
		},
		start: func(context.Context) (func(outcome), error) {
			if !b.Allow() {
				return nil, errHandy
			}
			return finish, nil
		},
		rejected: func(err error) bool { return errors.Is(err, errHandy) },
	}
}

var rubyist = &library{
	name: "rubyist", module: "github.com/rubyist/circuitbreaker",
	form:   "CallContext, with a timeout in T23 and H13, and Ready with Success or Fail; constant back-off",
	make:   rubyistMake,
	preset: func() *instance { return rubyistOf(circuit.NewBreaker(), want{}) },
	nonsense: func() error {
		circuit.NewRateBreaker(-1, -1)
		return nil
	},
	lacks: with(without(plainLacks, hasBackoff, hasJitter, hasManual, hasForce, hasTrip, hasHang), map[feature]lack{
		hasSlow:      cannot("its timeout ends a slow call"),
		hasSuccesses: cannot("the first success closes it"),
		hasHook:      notFor("its events arrive on a channel, which the caller's code reads"),
		hasKeys:      notFor("its Panel keeps breakers that the user makes"),
		hasAsked:     cannot("its back-off does not see what failed"),
	}),
}

func rubyistMake(w want) *instance {
	o := &circuit.Options{BackOff: backoff.NewConstantBackOff(w.openFor), WindowTime: w.window, WindowBuckets: 10}
	if w.backoff > 0 || w.jitter > 0 {
		e := backoff.NewExponentialBackOff()
		e.InitialInterval, e.MaxInterval, e.MaxElapsedTime = w.openFor, max(w.openFor, w.maxOpen), 0
		e.Multiplier, e.RandomizationFactor = max(1, w.backoff), w.jitter
		e.Reset()
		o.BackOff = e
	}
	switch {
	case w.trip != nil:
		o.ShouldTrip = func(*circuit.Breaker) bool { return w.trip() }
	case w.ratio > 0:
		o.ShouldTrip = circuit.RateTripFunc(w.ratio, int64(w.minCalls))
	default:
		o.ShouldTrip = circuit.ConsecutiveTripFunc(int64(w.failures))
	}
	return rubyistOf(circuit.NewBreakerWithOptions(o), w)
}

func rubyistOf(b *circuit.Breaker, w want) *instance {
	if w.onChange != nil {
		events := b.Subscribe()
		go func() {
			at := closed
			for e := range events {
				from := at
				switch e {
				case circuit.BreakerTripped:
					at = open
				case circuit.BreakerReset:
					at = closed
				case circuit.BreakerReady:
					at = halfOpen
				case circuit.BreakerFail:
					continue
				}
				w.onChange(change{from: from, to: at})
			}
		}()
	}
	return &instance{
		has: has{failures: w.failures, openFor: w.openFor, window: w.window, successes: 1},
		do: func(ctx context.Context, fn func(context.Context) error) error {
			return aside(fn, func(fn func(context.Context) error) error {
				return b.CallContext(ctx, func() error { return fn(ctx) }, w.hang) // 0 is no limit
			}, circuit.ErrBreakerOpen)
		},
		start: func(context.Context) (func(outcome), error) {
			if !b.Ready() {
				return nil, circuit.ErrBreakerOpen
			}
			return func(o outcome) {
				switch o {
				case success:
					b.Success()
				case failure:
					b.Fail()
				case ignored: // no report, no count
				}
			}, nil
		},
		rejected: func(err error) bool { return errors.Is(err, circuit.ErrBreakerOpen) },
		state: func() state {
			if b.Tripped() {
				return open
			}
			return closed
		},
		counts: func() (int, int) { return int(b.Successes()), int(b.Failures()) },
		trip:   b.Trip, reset: b.Reset,
		forceOpen: func() func() {
			b.Break()
			return b.Reset
		},
	}
}
