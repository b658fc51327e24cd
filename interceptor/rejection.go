package interceptor

import (
	"context"
	"reflect"
	"sync/atomic"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/selector"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// rejectionCache keeps the errors of rejected calls, so that the guard makes one for each error of package breaker, and
// not one for each call. It has a fixed size. If many breakers reject calls at the same time, the guard may make an
// error again.
type rejectionCache struct {
	entries [256]atomic.Pointer[RejectedError]
	victim  atomic.Uint32 // the way to replace next
}

// rejectionWays is the number of entries that may hold a given error.
const rejectionWays = 4

// get returns the guard's error for cause and code.
func (c *rejectionCache) get(cause *breaker.RejectedError, code codes.Code, details bool) *RejectedError {
	// The address identifies an error, because the garbage collector does not move it. The multiplication mixes its bits.
	// Errors are at a few fixed offsets within each page, so unmixed addresses would use less than half of the places.
	const odd = 0x9e3779b97f4a7c15 // 2^64 divided by the golden ratio
	set := uint32(uint64(reflect.ValueOf(cause).Pointer())*odd>>32) + uint32(code)
	victim := c.victim.Load() % rejectionWays // before the search, so that two concurrent calls choose the same one
	var replaced *RejectedError
	for way := range uint32(rejectionWays) {
		e := c.place(set, way).Load()
		if e == nil { // the places after it are empty too, because errors are replaced and never removed
			victim, replaced = way, nil
			break
		}
		if e.RejectedError == cause && e.code == code {
			return e
		}
		if way == victim {
			replaced = e
		}
	}
	e := &RejectedError{RejectedError: cause, code: code, details: details}
	if c.place(set, victim).CompareAndSwap(replaced, e) {
		c.victim.Add(1)
		return e
	}
	// Another call has stored an error in that place. In most cases it is the same error.
	if other := c.place(set, victim).Load(); other.RejectedError == cause && other.code == code {
		return other
	}
	return e
}

// place returns one of the places of an error.
func (c *rejectionCache) place(set, way uint32) *atomic.Pointer[RejectedError] {
	return &c.entries[(set+way)%uint32(len(c.entries))]
}

// asRejection returns the rejection that err is. It returns nil if err is the error of a context that was done before
// the call. The guard passes such a call to grpc, which ends it with grpc's status (B24).
func asRejection(err error) *breaker.RejectedError {
	rejected, _ := err.(*breaker.RejectedError) //nolint:errorlint // Acquire does not wrap it; errors.As is slower
	return rejected
}

// reject returns the error of a rejected call and calls the hooks.
func (g *Guard) reject(
	ctx context.Context, cause *breaker.RejectedError, method string, desc *grpc.StreamDesc, req any, cc *grpc.ClientConn,
) *RejectedError {
	code := g.code
	if g.codes != nil {
		code = g.rejectionCode(ctx, callOf(method, desc, req, cc))
	}
	err := g.rejections.get(cause, code, g.details)
	callHooks(ctx, &g.hooks, "Rejected", g.hooks.rejected, err)
	return err
}

// rejectionCode returns the status code of a rejected call. It is that of the first WithRejectionCode with a matcher
// that matches, or the code for all calls.
func (g *Guard) rejectionCode(ctx context.Context, call Call) codes.Code {
	for i := range g.codes {
		for _, m := range g.codes[i].where {
			if g.matches(ctx, m, call) {
				return g.codes[i].code
			}
		}
	}
	return g.code
}

// matches calls a matcher. A panic is reported and counts as false.
func (g *Guard) matches(ctx context.Context, m selector.Matcher, call Call) (ok bool) {
	defer func() {
		if v := recover(); v != nil {
			g.hooks.reportPanic(ctx, "matcher", v, call)
			ok = false
		}
	}()
	return m.Match(ctx, call.CallMeta)
}

// callOnFinish calls the OnFinish options of a rejected call, as grpc does for a call that it cannot start. For
// example, grpc's OpenTelemetry plugin outside the guard ends the span of a stream in its OnFinish option.
func callOnFinish(opts []grpc.CallOption, err error) {
	for _, o := range opts {
		if f, ok := o.(grpc.OnFinishCallOption); ok && f.OnFinish != nil {
			recovered(func() { f.OnFinish(err) })
		}
	}
}
