package behaviour

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/go-kratos/aegis/circuitbreaker"
	"github.com/go-kratos/aegis/circuitbreaker/sre"
	"github.com/zeromicro/go-zero/core/breaker"
	"github.com/zeromicro/go-zero/core/fx"
	"github.com/zeromicro/go-zero/core/logx"
	"github.com/zeromicro/go-zero/core/syncx"
)

// The two throttles reject at random, in proportion to recent failures. They have no states, by design.
var throttleLacks = map[feature]lack{
	hasStates:    notFor("a throttle: it rejects a share of the calls and has no states"),
	hasPreset:    notFor("a throttle: it rejects a share of the calls and has no states"),
	hasStreak:    notFor("a throttle: it rejects a share of the calls and has no states"),
	hasRatio:     notFor("a throttle: it rejects a share of the calls and has no states"),
	hasProbes:    notFor("a throttle: it rejects a share of the calls and has no states"),
	hasSuccesses: notFor("a throttle: it rejects a share of the calls and has no states"),
	hasListener:  notFor("a throttle: it rejects a share of the calls and has no states"),
	hasState:     notFor("a throttle: it rejects a share of the calls and has no states"),
	hasBackoff:   notFor("a throttle: it rejects a share of the calls and has no states"),
	hasJitter:    notFor("a throttle: its random decisions spread the calls anyway"),
	hasAsked:     notFor("a throttle: it rejects a share of the calls and has no states"),
	hasRetry:     notFor("a throttle: the next call may pass at any time"),
	hasCause:     notFor("a throttle: it rejects a share of the calls and has no states"),
	hasTrip:      notFor("a throttle: it rejects a share of the calls and has no states"),
	hasRamp:      notFor("a throttle: its share of rejections falls gradually anyway"),
	hasLimit:     notFor("no limit on calls in flight"),
	hasSlow:      cannot("has no rule for slow calls"),
	hasHang:      cannot("sees a call only when it ends, and has no time limit for it"),
	hasManual:    cannot("cannot be opened or closed manually"),
	hasForce:     cannot("has no override"),
	hasShadow:    cannot("has no shadow mode"),
	hasCounts:    cannot("does not expose its counts"),
	hasLive:      cannot("settings are fixed"),
}

func throttle(more map[feature]lack) map[feature]lack { return with(throttleLacks, more) }

// with returns a copy of lacks with the entries of more.
func with(lacks, more map[feature]lack) map[feature]lack {
	all := map[feature]lack{}
	maps.Copy(all, lacks)
	maps.Copy(all, more)
	return all
}

// without returns a copy of lacks without the entries in fewer.
func without(lacks map[feature]lack, fewer ...feature) map[feature]lack {
	rest := with(lacks, nil)
	for _, f := range fewer {
		delete(rest, f)
	}
	return rest
}

var goZero = &library{
	name:   "go-zero",
	module: "github.com/zeromicro/go-zero",
	form:   "core/breaker: DoWithAcceptableCtx, around fx.DoWithTimeout in T23, in syncx.Limit in N05; it has no settings",
	make: func(w want) *instance {
		logx.Disable()
		i := goZeroOf(breaker.NewBreaker(), w)
		if w.maxCalls > 0 {
			i.do = goZeroLimit(syncx.NewLimit(w.maxCalls), i.do)
			i.start = startByDo(i.do)
		}
		return i
	},
	registry: func(w want, _ int) *registry {
		logx.Disable()
		return &registry{get: func(key string) *instance { return goZeroOf(breaker.GetBreaker(key), w) }}
	},
	lacks: with(without(throttleLacks, hasHang, hasLimit), map[feature]lack{
		hasNonsense: notFor("it has no settings"),
	}),
}

func goZeroOf(b breaker.Breaker, w want) *instance {
	return &instance{
		do: func(ctx context.Context, fn func(context.Context) error) error {
			run := func() error { return fn(ctx) }
			if w.hang > 0 {
				run = func() error {
					return fx.DoWithTimeout(func() error { return fn(ctx) }, w.hang, fx.WithContext(ctx))
				}
			}
			return b.DoWithAcceptableCtx(ctx, run, func(err error) bool {
				return err == nil || errors.Is(err, context.Canceled) || errors.Is(err, breaker.ErrServiceUnavailable)
			})
		},
		start: func(ctx context.Context) (func(outcome), error) {
			promise, err := b.AllowCtx(ctx)
			if err != nil {
				return nil, err
			}
			return func(o outcome) {
				if o == failure {
					promise.Reject("failed")
					return
				}
				promise.Accept()
			}, nil
		},
		rejected: func(err error) bool {
			return errors.Is(err, breaker.ErrServiceUnavailable) || errors.Is(err, errGoZeroLimit)
		},
	}
}

var errGoZeroLimit = errors.New("go-zero: TryBorrow returned false")

// goZeroLimit is do with a limit on calls in flight, outside of the breaker, which would count its rejections as
// failures.
func goZeroLimit(limit syncx.Limit, do doFunc) doFunc {
	return func(ctx context.Context, fn func(context.Context) error) error {
		if !limit.TryBorrow() {
			return errGoZeroLimit
		}
		// Return only fails if nothing was borrowed.
		defer func() { _ = limit.Return() }()
		return do(ctx, fn)
	}
}

var aegis = &library{
	name:   "aegis SRE",
	module: "github.com/go-kratos/aegis",
	form:   "circuitbreaker/sre: Allow, MarkSuccess and MarkFailed",
	make:   func(w want) *instance { return aegisOf(sre.NewBreaker(aegisOptions(w)...)) },
	nonsense: func() error {
		sre.NewBreaker(sre.WithSuccess(1.5)) // the share of calls that must succeed
		return nil
	},
	lacks: throttle(with(noContext, map[feature]lack{
		hasCallback: notFor("no callback form: the caller's code has to handle a panic"),
		hasKeys:     notFor("one breaker, no registry"),
	})),
}

func aegisOptions(w want) (opts []sre.Option) {
	if w.minCalls > 0 {
		opts = append(opts, sre.WithRequest(int64(w.minCalls)))
	}
	if w.window > 0 && w.window != 10*time.Second {
		opts = append(opts, sre.WithWindow(w.window))
	}
	return opts
}

func aegisOf(b circuitbreaker.CircuitBreaker) *instance {
	finish := func(o outcome) {
		switch o {
		case success:
			b.MarkSuccess()
		case failure:
			b.MarkFailed()
		case ignored: // no mark, no count
		}
	}
	allow := func() error {
		err := b.Allow()
		if err != nil {
			b.MarkFailed() // as its documentation recommends
		}
		return err
	}
	return &instance{
		do: func(ctx context.Context, fn func(context.Context) error) error {
			if err := allow(); err != nil {
				return err
			}
			err := fn(ctx)
			finish(outcomeOf(err, circuitbreaker.ErrNotAllowed))
			return err
		},
		start: func(context.Context) (func(outcome), error) {
			if err := allow(); err != nil {
				return nil, err
			}
			return finish, nil
		},
		rejected: func(err error) bool { return errors.Is(err, circuitbreaker.ErrNotAllowed) },
	}
}
