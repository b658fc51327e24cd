// Package keyfunc has functions that return the key of the breaker for a call: [Method], [Service], [Target] and their
// combinations, [MapTarget] for targets that hold more than a name, and [Tagged] for anything else. Package interceptor
// uses TargetMethod by default.
//
// With a finer key, one failing method or target affects fewer other calls, but a breaker sees fewer calls and needs
// longer to decide. Methods mostly fail independently of each other, so the default separates them.
package keyfunc

import (
	"context"
	"slices"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// Call describes a call to a key function.
type Call struct {
	// Target is the target of the ClientConn, as its Target method returns it. It is empty if there is no ClientConn. One
	// backend may have several spellings, which are different targets. See MapTarget.
	Target string
	// CallMeta has Service ("pkg.Service") and Method ("Method"). Both are "unknown" if the full method does not have the
	// form /service/method. It also has Typ, and ReqOrNil, the request of a unary call.
	interceptors.CallMeta
}

// Func returns the key of the breaker for a call. It runs for each call, so it should be fast, and it must be safe for
// concurrent use. If it panics, the call is not guarded, and is counted as unguarded.
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

// MapTarget returns a key function that calls base with target(Call.Target) in place of the target. Use it if one
// backend has several targets, for example because they contain an address or a pointer. Without it, each target has
// separate breakers, and a target that changes with each connection makes new breakers each time.
//
//	keyfunc.MapTarget(nil, func(string) string { return "etcd" }) // all connections of an etcd client
//
// target runs for each call and must be safe for concurrent use. A nil base means TargetMethod. A nil target panics.
func MapTarget(base Func, target func(string) string) Func {
	if target == nil {
		panic("keyfunc: MapTarget: the target function is nil")
	}
	if base == nil {
		base = TargetMethod
	}
	return func(ctx context.Context, c Call) breaker.Key {
		c.Target = target(c.Target)
		return base(ctx, c)
	}
}

// Other is the tag of Tagged for values that are not allowed.
const Other = "other"

// Tagged returns a key function that adds a tag to the keys of base: the result of tag if it is one of allowed, and
// Other if not. The empty string is Other too, unless it is allowed. So a tag may come from data that anybody can set,
// such as request metadata, and the number of keys stays limited. A nil base means TargetMethod. A nil tag panics.
func Tagged(base Func, tag func(ctx context.Context, call Call) string, allowed ...string) Func {
	if tag == nil {
		panic("keyfunc: Tagged: the tag function is nil")
	}
	if base == nil {
		base = TargetMethod
	}
	allowed = slices.Clone(allowed)
	return func(ctx context.Context, c Call) breaker.Key {
		key := base(ctx, c)
		key.Tag = Other
		// This is the allowed string and not the returned one. The returned one may be part of a large buffer, which the key
		// would keep alive.
		if i := slices.Index(allowed, tag(ctx, c)); i >= 0 {
			key.Tag = allowed[i]
		}
		return key
	}
}
