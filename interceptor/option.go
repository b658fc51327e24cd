package interceptor

import (
	"fmt"
	"slices"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/selector"
	"google.golang.org/grpc/codes"

	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// Option configures a Guard. Options come from the With functions of this package.
type Option interface{ apply(*options) error }

type optionFunc func(*options) error

func (f optionFunc) apply(o *options) error { return f(o) }

type options struct {
	key         keyfunc.Func // nil: keyfunc.TargetMethod
	classifier  Classifier   // nil: DefaultClassifier
	matcher     selector.Matcher
	hooks       hookFuncs
	transitions []*Hooks // those with Transition
	code        codes.Code
	codes       []codeRule // codes that replace code for some calls
	details     bool
	evidence    bool
	minBudget   time.Duration
	longStream  time.Duration
	resetFor    time.Duration // how long a probe waits for a connection after a reset; 0: no reset
	fallbacks   []fallback

	// plain is true if only the error of a call matters, and a call without an error is a success for which no hook is
	// called.
	plain bool
	// timed is true if the classifier, the hook Settled or WithMinBudget needs the start of each call.
	timed bool
}

func collect(opts []Option) (*options, error) {
	o := &options{code: codes.Unavailable, longStream: 10 * time.Second}
	for i, opt := range opts {
		if f, ok := opt.(optionFunc); opt == nil || (ok && f == nil) {
			return nil, errorf("option %d is nil", i)
		}
		if err := opt.apply(o); err != nil {
			return nil, err
		}
	}
	o.timed = o.classifier != nil || o.hooks.settled != nil || o.minBudget > 0
	o.plain = !o.timed && !o.evidence
	return o, nil
}

// WithKey sets the function that returns the key of the breaker for a call. A nil function is an error. Default:
// keyfunc.TargetMethod.
func WithKey(f keyfunc.Func) Option {
	return optionFunc(func(o *options) error {
		if f == nil {
			return errorf("WithKey: the function is nil")
		}
		o.key = f
		return nil
	})
}

// WithClassifier sets the function that returns the outcome of a call. A nil function is an error. Default:
// DefaultClassifier.
func WithClassifier(c Classifier) Option {
	return optionFunc(func(o *options) error {
		if c == nil {
			return errorf("WithClassifier: the function is nil")
		}
		o.classifier = c
		return nil
	})
}

// WithMatcher restricts the guard to the calls that m matches. Other calls are neither rejected nor counted, and no
// hook is called for them. Use it for example to exclude health checks, which must pass while a breaker is open. If m
// panics, the call is not guarded, and is counted as unguarded.
//
// A nil m is an error. Names of ForMethods that cannot match a call are errors, as in WithFallback. Default: all calls.
func WithMatcher(m selector.Matcher) Option {
	return optionFunc(func(o *options) error {
		if m == nil {
			return errorf("WithMatcher: the matcher is nil")
		}
		if err := checkNames("WithMatcher", m); err != nil {
			return err
		}
		o.matcher = m
		return nil
	})
}

// WithHooks adds functions that the guard calls, see Hooks. It may be given more than once; all of them are called, in
// that order. A nil h is an error. Default: none.
func WithHooks(h *Hooks) Option {
	return optionFunc(func(o *options) error {
		if h == nil {
			return errorf("WithHooks: the hooks are nil")
		}
		o.hooks.add(h)
		if h.Transition != nil {
			o.transitions = append(o.transitions, h)
		}
		return nil
	})
}

// codeRule is the status code of rejected calls that a matcher of where matches.
type codeRule struct {
	where []selector.Matcher
	code  codes.Code
}

// WithRejectionCode sets the status code of rejections. c must be from 1 (Canceled) to 16 (Unauthenticated); anything
// else is an error.
//
// With matchers, the code is only for the calls that one of them matches. The option may then be given more than once,
// and the first with a matcher that matches counts. Packages selector and interceptors are those of go-grpc-middleware.
// This one sets the code of streams:
//
//	isStream := func(_ context.Context, c interceptors.CallMeta) bool { return c.Typ != interceptors.Unary }
//	interceptor.WithRejectionCode(codes.Aborted, selector.MatchFunc(isStream))
//
// A matcher that panics does not match. A nil matcher is an error. Names of ForMethods that cannot match a call are
// errors, as in WithFallback.
//
// Default: codes.Unavailable, as in gRPC's own circuit breaking (gRFC A32).
func WithRejectionCode(c codes.Code, where ...selector.Matcher) Option {
	return optionFunc(func(o *options) error {
		if c == codes.OK || c > codes.Unauthenticated {
			return errorf("WithRejectionCode: the code is %d (%v), want from 1 to %d",
				uint32(c), c, uint32(codes.Unauthenticated))
		}
		if len(where) == 0 {
			o.code = c
			return nil
		}
		for i, m := range where {
			if m == nil {
				return errorf("WithRejectionCode: matcher %d is nil", i)
			}
			if err := checkNames("WithRejectionCode", m); err != nil {
				return err
			}
		}
		o.codes = append(o.codes, codeRule{slices.Clone(where), c})
		return nil
	})
}

// checkNames returns an error if m is from ForMethods and has no names, or a name that cannot match a call.
func checkNames(option string, m selector.Matcher) error {
	names, ok := m.(methods)
	if !ok {
		return nil
	}
	_, err := names.check(option)
	return err
}

// WithRejectionDetails adds details to the status of rejections. Its message is then the text of RejectedError.Error,
// which names the key, what opened the breaker, and who forced it. The metadata of its ErrorInfo has the key, the state
// and the reason. A server that returns the error as it is then shows its clients which backends it uses. Default: off.
func WithRejectionDetails() Option {
	return optionFunc(func(o *options) error {
		o.details = true
		return nil
	})
}

// WithPeerEvidence makes the guard get the header, the trailer and the peer of each unary call from grpc, with call
// options. The header and the trailer distinguish an error of the backend from one that grpc made in this process with
// the same text. The trailer may also hold a pushback. The price is that grpc copies these values in each call. The
// option does not affect streams.
//
// The call options also pass through interceptors between the guard and grpc. Do not use WithPeerEvidence with a
// hedging interceptor there, or another one that makes several attempts at once: the attempts would write to the same
// memory. With an interceptor there, errors of credentials are still recognised only by code and text.
//
// Default: off. The guard then gets them only while a backend is in doubt, and only if no interceptor is between it and
// grpc.
func WithPeerEvidence() Option {
	return optionFunc(func(o *options) error {
		o.evidence = true
		return nil
	})
}

// WithMinBudget sets Result.ShortBudget for calls that had less than d until their deadline when they were admitted,
// or, after a wait of WithConnectionReset, when they had a connection. DefaultClassifier ignores such a call if it ends
// at its deadline. So callers with little time do not open the breaker for others. d must be at least 1 ms; anything
// else is an error. Default: off, DeadlineExceeded is a failure.
func WithMinBudget(d time.Duration) Option {
	return optionFunc(func(o *options) error {
		if d < minDuration {
			return errorf("WithMinBudget: the budget is %v, want 1ms or more%s", d, missingUnit(d))
		}
		o.minBudget = d
		return nil
	})
}

// WithLongStream sets the age at which a stream is Result.Old. A lost connection is then not a failure, see
// DefaultClassifier. The age counts from when the stream was created, without the wait for a connection.
//
// A probe that is still open at that age closes its breaker, unless its channel has lost the connection; then the time
// starts again. If d is not shorter than Config.ProbeTimeout, the lease of the probe may end first, and the probe also
// counts as lost.
//
// d must be at least 1 ms; anything else is an error. Default: 10 s.
func WithLongStream(d time.Duration) Option {
	return optionFunc(func(o *options) error {
		if d < minDuration {
			return errorf("WithLongStream: the duration is %v, want 1ms or more%s", d, missingUnit(d))
		}
		o.longStream = d
		return nil
	})
}

// minDuration is the shortest duration that an option takes. A shorter one is nearly always a number without its unit.
const minDuration = time.Millisecond

// missingUnit returns the end of an error text for d. If d is so short that its unit is probably missing, the text says
// what was probably meant. Package breaker uses the same words.
func missingUnit(d time.Duration) string {
	format := "; a number without a unit is nanoseconds, probably %d*time.Second or %[1]d*time.Millisecond was meant"
	switch {
	case d <= 0 || d >= 100*time.Microsecond:
		return ""
	case d >= 10*time.Microsecond:
		format = "; a number without a unit is nanoseconds, probably %d*time.Millisecond was meant"
	}
	return fmt.Sprintf(format, int64(d))
}
