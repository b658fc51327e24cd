package interceptor

import (
	"google.golang.org/grpc"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// Bypass lets this one call past its breaker: it is neither rejected nor counted. A connection without a Guard takes it
// and does nothing.
func Bypass() grpc.CallOption { return bypassOption{} }

// Tag sets Key.Tag for this one call, in place of what the key function gave. Give it values from a small set: each
// is a breaker of its own. A connection without a Guard takes it and does nothing. If it comes more than once, the
// last one counts.
func Tag(tag string) grpc.CallOption { return &tagOption{tag: tag} }

type bypassOption struct{ grpc.EmptyCallOption }

type tagOption struct {
	grpc.EmptyCallOption
	tag string
}

// guardMark is a call option that a guard adds to probes, to calls in doubt, and to its first calls. A guard further in
// that finds its own breaker in a mark is installed twice, or shares a group with the outer one. It lets a probe pass:
// otherwise it would take the probe for a second one and reject it, and no probe would ever succeed.
type guardMark struct {
	grpc.EmptyCallOption
	breaker *breaker.Breaker
	probe   bool
}

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

// findMark returns the mark of b in opts. If guards of several breakers follow one another, a call may have several
// marks, also of one breaker; a mark of a probe is preferred. It returns nil if there is none.
func findMark(opts []grpc.CallOption, b *breaker.Breaker) (mark *guardMark) {
	for _, o := range opts {
		if m, ok := o.(*guardMark); ok && m.breaker == b && (mark == nil || m.probe) {
			mark = m
		}
	}
	return mark
}
