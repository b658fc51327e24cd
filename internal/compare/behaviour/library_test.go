package behaviour

import (
	"context"
	"errors"
	"slices"
	"time"
)

// A library is one column of the comparison.
type library struct {
	name   string
	module string // the report shows its version
	form   string // how the adapter uses it
	// make returns a breaker that is as close to w as the library allows; instance.has holds the actual settings.
	make func(w want) *instance
	// preset returns a breaker as the library's own constructor makes it without settings.
	preset func() *instance
	// registry returns breakers by key. It must keep at most bound of them.
	registry func(w want, bound int) *registry
	// nonsense tries to make a breaker with meaningless settings, and returns the library's error, if any.
	nonsense func() error
	grpc     *grpcClient
	lacks    map[feature]lack
}

// want holds what a scenario requires of a breaker. Fields that are zero do not matter.
type want struct {
	failures  int     // length of the failure streak that opens a new breaker
	streak    bool    // by a rule for failure streaks, not by a ratio
	ratio     float64 // instead: the ratio at which it opens,
	minCalls  int     // with at least this number of calls
	window    time.Duration
	openFor   time.Duration
	maxOpen   time.Duration // with backoff
	backoff   float64
	jitter    float64
	probes    int // limit on concurrent probes
	successes int // to close
	lease     time.Duration
	slow      time.Duration // calls that take longer are slow; the ratio rule is on them
	// Calls that take longer count as failures while they are in flight. If the library has no rule for that, its time
	// limit for calls is used.
	hang     time.Duration
	ramp     time.Duration
	maxCalls int // in flight
	onChange func(change)
	trip     func() bool // a custom rule, called on each failure
	asked    func() time.Duration
}

// has holds the actual settings of a breaker that was made for a want.
type has struct {
	failures  int
	openFor   time.Duration
	window    time.Duration
	successes int
	between   time.Duration // pause between probes
	lease     time.Duration
}

type state string

const (
	closed   state = "closed"
	open     state = "open"
	halfOpen state = "half-open"
)

// change is the argument of a listener.
type change struct {
	from, to state
	failures int // the number on which it opened, if the library reports it
}

type outcome uint8

const (
	success outcome = iota
	failure
	ignored // the caller cancelled, which shows nothing about the backend
)

var (
	errFailed  = errors.New("the backend failed")
	errRefused = errors.New("refused by a panic")
	errHarness = errors.New("no such library or scenario")
)

// err returns the error of a call with that outcome.
func (o outcome) err() error {
	switch o {
	case success:
		return nil
	case ignored:
		return context.Canceled
	default:
		return errFailed
	}
}

// outcomeOf is the reverse of err. Errors in ignore, such as the library's own rejections, are ignored too.
func outcomeOf(err error, ignore ...error) outcome {
	switch {
	case err == nil:
		return success
	case errors.Is(err, context.Canceled), slices.ContainsFunc(ignore, func(e error) bool { return errors.Is(err, e) }):
		return ignored
	default:
		return failure
	}
}

// instance is one breaker. A function is nil if the library has no equivalent; library.lacks gives the reason.
type instance struct {
	has
	// do runs fn under the breaker, in the form that the library's documentation recommends.
	do doFunc
	// start begins a call and returns the function that ends it.
	start    func(ctx context.Context) (func(outcome), error)
	rejected func(error) bool

	state      func() state
	counts     func() (successes, failures int)
	trip       func()
	reset      func()
	forceOpen  func() (undo func())
	shadow     func() (wouldReject func() int)
	retryAfter func(rejection error) time.Duration
	apply      func(w want) // to the live breaker
}

// doFunc makes one call.
type doFunc = func(ctx context.Context, fn func(context.Context) error) error

type registry struct {
	get func(key string) *instance
	len func() int
}

// startByDo keeps a call in flight in a goroutine, for libraries that have only the callback form.
func startByDo(do doFunc) func(context.Context) (func(outcome), error) {
	return func(ctx context.Context) (func(outcome), error) {
		ctx, cancel := context.WithCancel(ctx)
		running := make(chan struct{})
		end := make(chan outcome)
		result := make(chan error, 1)
		over := make(chan struct{})
		go func() {
			defer close(over)
			result <- do(ctx, func(context.Context) error {
				close(running)
				o := <-end
				if o == ignored {
					cancel()
				}
				return o.err()
			})
		}()
		select {
		case <-running:
			return func(o outcome) {
				end <- o
				<-over
				cancel()
			}, nil
		case err := <-result:
			cancel()
			return nil, err
		}
	}
}

// A feature is something that a library needs for a scenario.
type feature string

const (
	hasStates    feature = "states"
	hasStreak    feature = "streak"
	hasRatio     feature = "ratio"
	hasWindow    feature = "window"
	hasSlow      feature = "slow"
	hasHang      feature = "hang"
	hasCallback  feature = "callback"
	hasContext   feature = "context"   // of a call
	hasProbes    feature = "probes"    // a cap on probes other than one
	hasSuccesses feature = "successes" // to close, other than one
	hasListener  feature = "listener"
	hasHook      feature = "hook" // a listener that is called, not a channel
	hasState     feature = "state"
	hasCounts    feature = "counts"
	hasBackoff   feature = "backoff"
	hasJitter    feature = "jitter"
	hasAsked     feature = "asked"
	hasManual    feature = "manual"
	hasForce     feature = "force"
	hasShadow    feature = "shadow"
	hasRetry     feature = "retry"
	hasKeys      feature = "keys"
	hasLive      feature = "live"
	hasRamp      feature = "ramp"
	hasLimit     feature = "limit"
	hasTrip      feature = "trip"
	hasNonsense  feature = "nonsense"
	hasPreset    feature = "preset"
	hasCause     feature = "cause"
	hasSteps     feature = "steps"   // a call with a function for its begin and one for its end, tied together
	hasStreams   feature = "streams" // guarded
	hasFallback  feature = "fallback"
)

// hallmarks are the scenarios that stand for a feature. A library that has no listeners fails one row because of that,
// and not every row on listeners.
var hallmarks = map[feature]string{
	hasStreak: "T02", hasRatio: "T04", hasWindow: "T09", hasSlow: "T21", hasHang: "T23", hasRetry: "O11",
	hasBackoff: "O12",
	hasJitter:  "O13", hasAsked: "O14", hasManual: "O15", hasForce: "O16", hasShadow: "O17", hasProbes: "H02",
	hasSuccesses: "H04",
	hasRamp:      "H17", hasListener: "E01", hasState: "O08", hasCounts: "N02", hasCause: "E09", hasLive: "K05",
	hasStreams:  "S01",
	hasFallback: "W06",
}

// lack describes how a missing feature counts.
type lack struct {
	why    string
	excuse bool // not the purpose of the library: the mark is na, not lacking
}

// cannot returns the lack of a feature that a user of the library would want.
func cannot(why string) lack { return lack{why: why} }

// callbackOnly is for libraries whose calls are functions.
var callbackOnly = map[feature]lack{hasSteps: notFor("a call ends when its function returns")}

// noContext is for libraries whose calls take no context. The adapter must not check one for them, because that would
// test the adapter.
var noContext = map[feature]lack{hasContext: notFor("a call takes no context")}

// notFor returns the lack of a feature that is not part of the library's documented purpose.
func notFor(why string) lack { return lack{why: why, excuse: true} }
