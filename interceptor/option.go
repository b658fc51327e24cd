package interceptor

import (
	"fmt"
	"slices"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/selector"
	"google.golang.org/grpc/codes"

	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// Option sets up a Guard. Options come from the With functions of this package.
type Option interface{ apply(*options) error }

type optionFunc func(*options) error

func (f optionFunc) apply(o *options) error { return f(o) }

type options struct {
	key         keyfunc.Func // nil: keyfunc.TargetMethod
	classifier  Classifier   // nil: DefaultClassifier
	matcher     selector.Matcher
	hooks       hookFuncs
	transitions []*Hooks // those with a function for transitions
	code        codes.Code
	codes       []codeRule // for some calls, in place of code
	details     bool
	evidence    bool
	minBudget   time.Duration
	longStream  time.Duration
	resetFor    time.Duration // how long a probe waits for a connection after a reset; 0: no reset
	fallbacks   []fallback

	// plain: only the error of a call matters, and a call without an error is a success that no hook needs.
	plain bool
	// timed: the classifier, a hook or the budget needs the start of each call.
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

// WithKey sets the function that says which breaker guards a call. A nil function is an error.
// Default: keyfunc.TargetMethod.
func WithKey(f keyfunc.Func) Option {
	return optionFunc(func(o *options) error {
		if f == nil {
			return errorf("WithKey: the function is nil")
		}
		o.key = f
		return nil
	})
}

// WithClassifier sets the function that judges how a call ended. A nil function is an error. Default:
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

// WithMatcher guards only the calls that m matches; all others bypass everything, metrics included. Health checks
// through the connection are a reason: they must pass while a breaker is open. A nil m is an error, and so are the
// names of ForMethods that cannot be right. Default: every call.
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

// WithHooks adds functions that the guard calls, see Hooks. It may be given more than once. A nil h is an error.
// Default: none.
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

// codeRule is the status code of the rejected calls that one of where matches.
type codeRule struct {
	where []selector.Matcher
	code  codes.Code
}

// WithRejectionCode sets the status code of rejections. c is one of the 16 codes of gRPC that are errors; any other is
// an error.
//
// With matchers, the code is for the calls that one of them matches, so that for example streams differ from unary
// calls. It may then be given more than once; the first that matches counts. A nil matcher is an error, and so are the
// names of ForMethods that cannot be right. A matcher that panics does not match.
//
// Default: codes.Unavailable, as for gRPC's own circuit breaking (gRFC A32).
func WithRejectionCode(c codes.Code, where ...selector.Matcher) Option {
	return optionFunc(func(o *options) error {
		if c == codes.OK || c > codes.Unauthenticated {
			return errorf("WithRejectionCode: the code is %d (%v), want from 1 to %d", uint32(c), c, uint32(codes.Unauthenticated))
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

// checkNames returns an error if m is from ForMethods and has names that cannot be right.
func checkNames(option string, m selector.Matcher) error {
	names, ok := m.(methods)
	if !ok {
		return nil
	}
	_, err := names.check(option)
	return err
}

// WithRejectionDetails puts the breaker's key, state and reason into the status of rejections, as the metadata of its
// ErrorInfo. A server that hands the error on then tells its clients what it depends on. Default: off.
func WithRejectionDetails() Option {
	return optionFunc(func(o *options) error {
		o.details = true
		return nil
	})
}

// WithPeerEvidence makes the guard ask for the header, the trailer and the peer of each unary call. That distinguishes
// an error of the peer from one that grpc made in the client with the same text, and finds a pushback in every
// trailer. Every call then pays for the copies. It has no effect on streams.
//
// The options also pass through interceptors between the guard and grpc. Do not use it with a hedging interceptor
// there, or another that makes several attempts at once: they would write to the same memory. With an interceptor
// there, errors of credentials are still judged by code and text. Default: off: the guard asks only while a backend
// is in doubt and no interceptor is between.
func WithPeerEvidence() Option {
	return optionFunc(func(o *options) error {
		o.evidence = true
		return nil
	})
}

// WithMinBudget ignores calls that ran out of time having had less than d of it when they began, so that callers in a
// hurry do not open the breaker for all others. d must be at least 1 ms; anything else is an error. Default: off,
// DeadlineExceeded is a failure.
func WithMinBudget(d time.Duration) Option {
	return optionFunc(func(o *options) error {
		if d < minDuration {
			return errorf("WithMinBudget: the budget is %v, want 1ms or more%s", d, missingUnit(d))
		}
		o.minBudget = d
		return nil
	})
}

// WithLongStream sets the age from which the end of a stream by a lost connection is not a failure: see
// DefaultClassifier. A probe stream that is open at that age closes its breaker. If that is not before
// Config.ProbeTimeout, its lease may be over, and it counts as a lost probe all the same. d must be at least 1 ms;
// anything else is an error. Default: 10 s.
func WithLongStream(d time.Duration) Option {
	return optionFunc(func(o *options) error {
		if d < minDuration {
			return errorf("WithLongStream: the duration is %v, want 1ms or more%s", d, missingUnit(d))
		}
		o.longStream = d
		return nil
	})
}

// minDuration is the shortest duration that an option takes. Shorter ones are nearly always a number without its unit.
const minDuration = time.Millisecond

// missingUnit is the end of an error text for d: what was probably meant, if d is so short that its unit was
// forgotten. The words are those of package breaker.
func missingUnit(d time.Duration) string {
	switch {
	case d <= 0 || d >= 100*time.Microsecond:
		return ""
	case d >= 10*time.Microsecond:
		return fmt.Sprintf("; a number without a unit is nanoseconds, probably %d*time.Millisecond was meant", int64(d))
	}
	return fmt.Sprintf("; a number without a unit is nanoseconds, probably %d*time.Second or %[1]d*time.Millisecond was meant", int64(d))
}
