package interceptor

import "google.golang.org/grpc"

// Bypass lets this one call past its breaker: it is neither rejected nor counted. A connection without a Guard takes it
// and does nothing.
func Bypass() grpc.CallOption { return bypassOption{} }

// Tag sets Key.Tag for this one call, in place of what the key function gave. Give it values from a small set: each is a
// breaker of its own. A connection without a Guard takes it and does nothing. If it comes more than once, the last one
// counts.
func Tag(tag string) grpc.CallOption { return &tagOption{tag: tag} }

type bypassOption struct{ grpc.EmptyCallOption }

type tagOption struct {
	grpc.EmptyCallOption
	tag string
}

func callOptions(opts []grpc.CallOption) (bypass bool, tag *tagOption) {
	for _, o := range opts {
		switch o := o.(type) {
		case bypassOption:
			bypass = true
		case *tagOption:
			tag = o
		}
	}
	return bypass, tag
}
