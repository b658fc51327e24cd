package behaviour

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	sentinelapi "github.com/alibaba/sentinel-golang/api"
	"github.com/alibaba/sentinel-golang/core/base"
	sentinel "github.com/alibaba/sentinel-golang/core/circuitbreaker"
	sentinelconfig "github.com/alibaba/sentinel-golang/core/config"
	"github.com/alibaba/sentinel-golang/core/isolation"
	"github.com/alibaba/sentinel-golang/logging"
	bytedance "github.com/bytedance/gopkg/cloud/circuitbreaker"
)

var bytedanceGopkg = &library{
	name: "bytedance", module: "github.com/bytedance/gopkg",
	form: "cloud/circuitbreaker.Panel: IsAllowed, Succeed and Fail, 100 buckets to a window; a probe every 200 ms",
	make: func(w want) *instance { return bytedanceOf(bytedancePanel(w), "only", w) },
	preset: func() *instance {
		p, err := bytedance.NewPanel(nil, bytedance.Options{})
		if err != nil {
			panic(err)
		}
		return bytedanceOf(p, "only", want{})
	},
	registry: func(w want, _ int) *registry {
		p := bytedancePanel(w)
		return &registry{
			get: func(key string) *instance { return bytedanceOf(p, key, w) },
			len: func() int { return len(p.DumpBreakers()) },
		}
	},
	nonsense: func() error {
		_, err := bytedance.NewPanel(nil, bytedance.Options{
			CoolingTimeout: -time.Second, HalfOpenSuccesses: -1, ShouldTrip: bytedance.RateTripFunc(1.5, 10),
		})
		return err
	},
	lacks: with(noContext, map[feature]lack{
		hasSlow:     cannot("has no rule for slow calls"),
		hasHang:     cannot("sees a call only when it ends; the caller has to report timeouts"),
		hasBackoff:  cannot("every open period is CoolingTimeout"),
		hasJitter:   cannot("every open period is CoolingTimeout, to the nanosecond"),
		hasAsked:    cannot("every open period is CoolingTimeout"),
		hasManual:   cannot("can be reset manually, but not opened"),
		hasForce:    cannot("has no override"),
		hasShadow:   cannot("has no shadow mode"),
		hasRetry:    cannot("a rejection is only false, and the breaker does not give the remaining time"),
		hasLive:     cannot("settings are fixed when the panel is made"),
		hasRamp:     cannot("goes from a few probes to all calls at once"),
		hasLimit:    notFor("no limit on calls in flight"),
		hasProbes:   notFor("one probe each DetectTimeout, by design"),
		hasSteps:    notFor("the end of a call is not tied to its beginning"),
		hasCallback: notFor("no callback form: the caller's code has to handle a panic"),
	}),
}

const bytedanceDetect = 200 * time.Millisecond

func bytedancePanel(w want) bytedance.Panel {
	o := bytedance.Options{
		BucketTime: w.window / 100, BucketNums: 100, CoolingTimeout: w.openFor, DetectTimeout: bytedanceDetect,
		HalfOpenSuccesses: int32(w.successes),
	}
	switch {
	case w.trip != nil:
		o.ShouldTrip = func(bytedance.Metricer) bool { return w.trip() }
	case w.ratio > 0:
		o.ShouldTrip = bytedance.RateTripFunc(w.ratio, int64(w.minCalls))
	default:
		o.ShouldTrip = bytedance.ConsecutiveTripFunc(int64(w.failures))
	}
	var told bytedance.PanelStateChangeHandler
	if w.onChange != nil {
		told = func(_ string, from, to bytedance.State, m bytedance.Metricer) {
			w.onChange(change{from: bytedanceState(from), to: bytedanceState(to), failures: int(m.Failures())})
		}
	}
	p, err := bytedance.NewPanel(told, o)
	if err != nil {
		panic(err)
	}
	return p
}

func bytedanceState(s bytedance.State) state {
	switch s {
	case bytedance.Open:
		return open
	case bytedance.HalfOpen:
		return halfOpen
	default:
		return closed
	}
}

var errBytedance = errors.New("bytedance: IsAllowed returned false")

func bytedanceOf(p bytedance.Panel, key string, w want) *instance {
	finish := func(o outcome) {
		switch o {
		case success:
			p.Succeed(key)
		case failure:
			p.Fail(key)
		case ignored: // no report, no count
		}
	}
	return &instance{
		has: has{
			failures: w.failures, openFor: w.openFor, window: w.window, successes: w.successes, between: bytedanceDetect,
		},
		do: func(ctx context.Context, fn func(context.Context) error) error {
			if !p.IsAllowed(key) {
				return errBytedance
			}
			err := fn(ctx)
			finish(outcomeOf(err, errBytedance))
			return err
		},
		start: func(context.Context) (func(outcome), error) {
			if !p.IsAllowed(key) {
				return nil, errBytedance
			}
			return finish, nil
		},
		rejected: func(err error) bool { return errors.Is(err, errBytedance) },
		state: func() state {
			b, ok := p.DumpBreakers()[key]
			if !ok {
				return closed
			}
			return bytedanceState(b.State())
		},
		counts: func() (int, int) {
			successes, failures, _ := p.GetMetricer(key).Counts()
			return int(successes), int(failures)
		},
	}
}

var sentinelGolang = &library{
	name: "sentinel-golang", module: "github.com/alibaba/sentinel-golang",
	form: "Entry, TraceError and Exit under one circuit breaking rule with ten buckets; an isolation rule in N05",
	make: sentinelMake,
	nonsense: func() error {
		// LoadRules drops invalid rules and logs them. IsValidRule reports them before.
		return sentinel.IsValidRule(&sentinel.Rule{
			Resource: "nonsense", Strategy: sentinel.ErrorRatio, Threshold: 1.5, StatIntervalMs: 1000, RetryTimeoutMs: 1000,
		})
	},
	lacks: with(noContext, map[feature]lack{
		hasStreak:   cannot("has rules on ratio and number of errors, not on failure streaks"),
		hasHang:     cannot("sees a call only when it ends, and has no time limit for it"),
		hasBackoff:  cannot("every open period is RetryTimeoutMs"),
		hasJitter:   cannot("every open period is RetryTimeoutMs"),
		hasAsked:    cannot("every open period is RetryTimeoutMs"),
		hasManual:   cannot("cannot be opened or closed manually"),
		hasForce:    cannot("has no override"),
		hasShadow:   cannot("has no shadow mode"),
		hasRetry:    cannot("a BlockError has the rule, but not the remaining time"),
		hasState:    cannot("does not expose its state, except to a listener"),
		hasCounts:   cannot("does not expose the counts of its rules"),
		hasKeys:     notFor("has a breaker for each rule that the user loads"),
		hasRamp:     cannot("goes from a few probes to all calls at once"),
		hasProbes:   cannot("half-open admits one call, or with ProbeNum every call"),
		hasCallback: notFor("no callback form: the caller's code has to handle a panic"),
		hasTrip:     notFor("takes thresholds, but no custom rule"),
		hasPreset:   notFor("has no defaults: every rule is the user's"),
	}),
}

var sentinelSeq atomic.Int64

// sentinelListener receives events of every breaker, because sentinel has one list of listeners for the process.
type sentinelListener func(change)

func (l sentinelListener) OnTransformToClosed(prev sentinel.State, _ sentinel.Rule) {
	l(change{from: sentinelState(prev), to: closed})
}

func (l sentinelListener) OnTransformToHalfOpen(prev sentinel.State, _ sentinel.Rule) {
	l(change{from: sentinelState(prev), to: halfOpen})
}

func (l sentinelListener) OnTransformToOpen(prev sentinel.State, _ sentinel.Rule, snapshot any) {
	failures, _ := snapshot.(uint64)
	l(change{from: sentinelState(prev), to: open, failures: int(failures)})
}

func sentinelState(s sentinel.State) state {
	switch s {
	case sentinel.Open:
		return open
	case sentinel.HalfOpen:
		return halfOpen
	default:
		return closed
	}
}

func sentinelMake(w want) *instance {
	conf := sentinelconfig.NewDefaultConfig()
	conf.Sentinel.Log.Logger = quiet{}
	conf.Sentinel.Log.Metric.FlushIntervalSec = 0
	conf.Sentinel.Stat.System = sentinelconfig.SystemStatConfig{}
	conf.Sentinel.UseCacheTime = false
	if err := sentinelapi.InitWithConfig(conf); err != nil {
		panic(err)
	}
	if w.onChange != nil {
		sentinel.RegisterStateChangeListeners(sentinelListener(w.onChange))
	}
	var at atomic.Value
	at.Store(closed)
	sentinel.RegisterStateChangeListeners(sentinelListener(func(e change) { at.Store(e.to) }))
	resource := fmt.Sprintf("resource %d", sentinelSeq.Add(1))
	sentinelLoad(resource, w)
	rejected := func(err error) bool { _, ok := errors.AsType[*base.BlockError](err); return ok }
	start := func(context.Context) (func(outcome), error) {
		entry, blocked := sentinelapi.Entry(resource, sentinelapi.WithTrafficType(base.Outbound))
		if blocked != nil {
			return nil, blocked
		}
		return func(o outcome) {
			if o == failure {
				sentinelapi.TraceError(entry, errFailed)
			}
			entry.Exit()
		}, nil
	}
	return &instance{
		has: has{failures: w.failures, openFor: w.openFor, window: w.window, successes: w.successes},
		do: func(ctx context.Context, fn func(context.Context) error) error {
			finish, err := start(ctx)
			if err != nil {
				return err
			}
			err = fn(ctx)
			if rejected(err) {
				finish(ignored) // by an inner rule: not a failure here
			} else {
				finish(outcomeOf(err))
			}
			return err
		},
		start:    start,
		state:    func() state { return at.Load().(state) },
		rejected: rejected,
		apply:    func(w want) { sentinelLoad(resource, w) },
	}
}

func sentinelLoad(resource string, w want) {
	r := &sentinel.Rule{
		Resource: resource, RetryTimeoutMs: uint32(w.openFor / time.Millisecond),
		StatIntervalMs:               uint32(w.window / time.Millisecond),
		StatSlidingWindowBucketCount: 10,
	}
	// Without ProbeNum it admits one probe and closes on its success. With ProbeNum it admits every call.
	if w.successes > 1 {
		r.ProbeNum = uint64(w.successes)
	}
	switch {
	case w.slow > 0:
		r.Strategy, r.Threshold, r.MinRequestAmount = sentinel.SlowRequestRatio, w.ratio, uint64(w.minCalls)
		r.MaxAllowedRtMs = uint64(w.slow / time.Millisecond)
	case w.ratio > 0:
		r.Strategy, r.Threshold, r.MinRequestAmount = sentinel.ErrorRatio, w.ratio, uint64(w.minCalls)
	default:
		r.Strategy, r.Threshold = sentinel.ErrorCount, float64(w.failures)
	}
	// LoadRules would remove the rules of all other resources.
	if _, err := sentinel.LoadRulesOfResource(resource, []*sentinel.Rule{r}); err != nil {
		panic(err)
	}
	if w.maxCalls > 0 {
		limit := &isolation.Rule{Resource: resource, MetricType: isolation.Concurrency, Threshold: uint32(w.maxCalls)}
		if _, err := isolation.LoadRulesOfResource(resource, []*isolation.Rule{limit}); err != nil {
			panic(err)
		}
	}
}

// quiet is a logger that discards everything.
type quiet struct{}

var _ logging.Logger = quiet{}

func (quiet) Debug(string, ...any)        {}
func (quiet) DebugEnabled() bool          { return false }
func (quiet) Info(string, ...any)         {}
func (quiet) InfoEnabled() bool           { return false }
func (quiet) Warn(string, ...any)         {}
func (quiet) WarnEnabled() bool           { return false }
func (quiet) Error(error, string, ...any) {}
func (quiet) ErrorEnabled() bool          { return false }
