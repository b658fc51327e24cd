package interceptor

import (
	"google.golang.org/grpc"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// Bypass returns an option for a call that is not guarded: it is neither rejected nor counted. On a connection without
// a Guard the option has no effect.
func Bypass() grpc.CallOption { return bypassOption{} }

// Tag returns an option that sets Key.Tag for a call, in place of the tag from the key function. Use few different
// values, because each value has a separate breaker. If a call has the option more than once, the last one counts. On a
// connection without a Guard the option has no effect.
func Tag(tag string) grpc.CallOption { return &tagOption{tag: tag} }

type bypassOption struct{ grpc.EmptyCallOption }

type tagOption struct {
	grpc.EmptyCallOption
	tag string
}

// guardMark is a call option that a guard adds to a call. If a guard gets a call with a mark of the same breaker, the
// guard is installed twice, or two guards share a group. The inner guard does not guard a marked probe. Otherwise it
// would count the probe as a second one and reject it, and no probe would ever succeed.
type guardMark struct {
	grpc.EmptyCallOption
	breaker *breaker.Breaker
	probe   bool
}

// callOptions returns the options of this package in opts.
func callOptions(opts []grpc.CallOption) (bypass bool, tag *tagOption, marked bool) {
	for _, o := range opts {
		switch o := o.(type) {
		case bypassOption:
			bypass = true
		case *tagOption:
			tag = o
		case *guardMark:
			marked = true
		}
	}
	return bypass, tag, marked
}

// findMark returns the mark of b in opts, or nil if there is none. A call that has passed several guards may have
// several marks, even of the same breaker. The mark of a probe is preferred.
func findMark(opts []grpc.CallOption, b *breaker.Breaker) (mark *guardMark) {
	for _, o := range opts {
		if m, ok := o.(*guardMark); ok && m.breaker == b && (mark == nil || m.probe) {
			mark = m
		}
	}
	return mark
}
