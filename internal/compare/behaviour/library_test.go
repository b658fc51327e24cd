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
	module string // whose version the report shows
	form   string // how the adapter uses it
	// make returns a breaker that is as close to w as the library can be; instance.has says what it came to.
	make func(w want) *instance
	// preset returns a breaker as the library's own constructor makes it when it is told nothing.
	preset func() *instance
	// registry returns breakers by key, of which it is to keep at most bound.
	registry func(w want, bound int) *registry
	// nonsense tries to make a breaker of settings that mean nothing, and returns the library's error, if any.
	nonsense func() error
	grpc     *grpcClient
	lacks    map[feature]lack
}

// want is what a scenario asks of a breaker. What it leaves at zero it does not care about.
type want struct {
	failures  int     // so many failures, with nothing between, open a new breaker
	streak    bool    // by a rule on failures in a row, not by a ratio
	ratio     float64 // instead: failures/calls at which it opens,
	minCalls  int     // once there are so many calls
	window    time.Duration
	openFor   time.Duration
	maxOpen   time.Duration // with backoff
	backoff   float64
	jitter    float64
	probes    int // at once
	successes int // to close
	lease     time.Duration
	slow      time.Duration // calls that take longer are slow; the ratio rule is on them
	hang      time.Duration // calls that take longer count as failures while they last, by a time limit of the library's own if need be
	ramp      time.Duration
	maxCalls  int // in flight
	onChange  func(change)
	trip      func() bool // a rule of the user's own, asked on each failure
	asked     func() time.Duration
}

// has is what a breaker made for a want really does.
type has struct {
	failures  int
	openFor   time.Duration
	window    time.Duration
	successes int
	between   time.Duration // the pause that it makes between probes
	lease     time.Duration
}

type state string

const (
	closed   state = "closed"
	open     state = "open"
	halfOpen state = "half-open"
)

// change is what a listener is told.
type change struct {
	from, to state
	failures int // that it opened on, where the library says
}

type outcome uint8

const (
	success outcome = iota
	failure
	ignored // the caller cancelled: the call says nothing of the backend
)

var (
	errFailed  = errors.New("the backend failed")
	errRefused = errors.New("refused by a panic")
	errHarness = errors.New("no such library or scenario")
)

// err is what a call with that outcome returns.
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

// outcomeOf is the other way round. What is to be ignored besides, such as the library's own rejections, comes after err.
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

// instance is one breaker. A function that the library has no equivalent of is nil, and library.lacks says so.
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

// startByDo holds a call open in a goroutine, for libraries that have the callback form only.
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

// A feature is something that a scenario needs a library to have.
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
	hasHook      feature = "hook" // a listener that is called, and not a channel
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
	hasSteps     feature = "steps"   // a call that begins and ends with a function each, tied together
	hasStreams   feature = "streams" // guarded
	hasFallback  feature = "fallback"
)

// hallmarks are the scenarios that stand for a feature: a library that has no listeners is told so once, and not in every row
// on listeners.
var hallmarks = map[feature]string{
	hasStreak: "T02", hasRatio: "T04", hasWindow: "T09", hasSlow: "T21", hasHang: "T23", hasRetry: "O11", hasBackoff: "O12",
	hasJitter: "O13", hasAsked: "O14", hasManual: "O15", hasForce: "O16", hasShadow: "O17", hasProbes: "H02", hasSuccesses: "H04",
	hasRamp: "H17", hasListener: "E01", hasState: "O08", hasCounts: "N02", hasCause: "E09", hasLive: "K05", hasStreams: "S01",
	hasFallback: "W06",
}

// lack says how a missing feature counts.
type lack struct {
	why    string
	excuse bool // it is not what the library is for: not applicable, rather than failed
}

// cannot is a feature that a user of the library would want and does not get.
func cannot(why string) lack { return lack{why: why} }

// callbackOnly is what a library lacks whose calls are functions.
var callbackOnly = map[feature]lack{hasSteps: notFor("a call ends when its function returns")}

// noContext is what a library lacks whose calls take no context. The adapter must not look at one in its place: that would be
// a mark for the adapter.
var noContext = map[feature]lack{hasContext: notFor("a call takes no context: there is none to look at")}

// notFor is a feature that is beside the library's documented purpose.
func notFor(why string) lack { return lack{why: why, excuse: true} }
