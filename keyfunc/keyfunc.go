// Package keyfunc turns a call into the key of the breaker that guards it: [Method], [Service], [Target] and their
// combinations, and [Tagged] for anything else. TargetMethod is what package interceptor uses unless told otherwise.
//
// The finer the key, the less one failing method or target drags others along, and the longer a breaker takes to see
// enough calls. Methods fail for reasons of their own more often than not, which is why the default tells them apart.
package keyfunc

import (
	"context"
	"slices"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// Call is what is known of a call when its key is made.
type Call struct {
	// Target is what the ClientConn was made for, as its Target method returns it; empty where there is no ClientConn. One
	// backend may have several spellings; keys tell them apart.
	Target string
	// CallMeta has Service ("pkg.Service") and Method ("Method"), both "unknown" if the full method is not of the form
	// /service/method; Typ; and ReqOrNil, the request of a unary call.
	interceptors.CallMeta
}

// Func returns the key of the breaker that guards a call. It runs on the way of every call: it should be quick, and it
// must be safe for concurrent use. A call whose key function panics goes unguarded and is counted.
type Func func(ctx context.Context, call Call) breaker.Key

// Method keys by service and method, over all targets.
func Method(_ context.Context, c Call) breaker.Key {
	return breaker.Key{Service: c.Service, Method: c.Method}
}

// Service keys by service, over all targets and methods.
func Service(_ context.Context, c Call) breaker.Key {
	return breaker.Key{Service: c.Service}
}

// Target keys by target, over all services and methods.
func Target(_ context.Context, c Call) breaker.Key {
	return breaker.Key{Target: c.Target}
}

// TargetMethod keys by target, service and method.
func TargetMethod(_ context.Context, c Call) breaker.Key {
	return breaker.Key{Target: c.Target, Service: c.Service, Method: c.Method}
}

// TargetService keys by target and service.
func TargetService(_ context.Context, c Call) breaker.Key {
	return breaker.Key{Target: c.Target, Service: c.Service}
}

// Other is the tag that Tagged gives in place of one that is not allowed.
const Other = "other"

// Tagged adds a tag to the keys of base: what tag returns if it is one of allowed, and Other for everything else, the
// empty string included unless it is allowed. So a tag may come from where anybody can write, such as request metadata,
// and still cannot mint keys. A nil base stands for TargetMethod; with a nil tag every key gets Other.
func Tagged(base Func, tag func(ctx context.Context, call Call) string, allowed ...string) Func {
	if base == nil {
		base = TargetMethod
	}
	allowed = slices.Clone(allowed)
	return func(ctx context.Context, c Call) breaker.Key {
		key := base(ctx, c)
		key.Tag = Other
		if tag == nil {
			return key
		}
		// The allowed string rather than the one that came: it may be a piece of a large buffer that the key would keep.
		if i := slices.Index(allowed, tag(ctx, c)); i >= 0 {
			key.Tag = allowed[i]
		}
		return key
	}
}
