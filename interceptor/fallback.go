package interceptor

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/selector"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// FallbackTrailer is a metadata key that marks the answer of a fallback. Its value is FallbackRejected or
// FallbackFailed. The guard sets it in the metadata of the caller's grpc.Trailer options. It is never sent.
const (
	FallbackTrailer  = "grpcircuit-fallback"
	FallbackRejected = "rejected" // the breaker rejected the call, or one of a guard inside did
	FallbackFailed   = "failed"   // the call was admitted and failed
)

// FallbackHandler answers calls in place of a backend. It comes from Fallback; the zero value is an error in
// WithFallback.
type FallbackHandler struct {
	answer    func(ctx context.Context, req any, cause error) (resp any, err error)
	req, resp reflect.Type // of *Req and *Resp
}

// Fallback returns a handler that calls f with the context of the call, the request, and the error that the caller
// would get. The response of f is copied to the caller's reply. If f returns an error or a nil response, or panics, the
// caller gets the original error. f must be safe for concurrent use.
//
// f runs after the permit is settled, so a slow f holds no slot of the breaker. It may make calls. Calls with the
// context of f, or one derived from it, get no fallback from any guard, so a handler that calls the same method cannot
// recurse. If the call ran into its deadline, the context of f is done. For its own calls, f can then use
// context.WithTimeout(context.WithoutCancel(ctx), d), which still prevents fallbacks.
//
// If the messages are protobuf, the reply is a deep copy of the response. With another codec the reply is a shallow
// copy that shares memory with the response. Then f must return a new response for each call, and must not change it
// afterwards.
//
// Req and Resp are the message types without the pointer. The compiler infers them from f. A call with other types gets
// an error with code Internal that wraps the original error. A nil f is an error in WithFallback.
func Fallback[Req, Resp any](f func(context.Context, *Req, error) (*Resp, error)) FallbackHandler {
	if f == nil {
		return FallbackHandler{}
	}
	return FallbackHandler{
		req:  reflect.TypeFor[*Req](),
		resp: reflect.TypeFor[*Resp](),
		answer: func(ctx context.Context, req any, cause error) (any, error) {
			r, err := f(ctx, req.(*Req), cause) //nolint:forcetypeassert // checked by fits
			if r == nil {
				return nil, err
			}
			return r, err
		},
	}
}

// ForMethods returns a matcher for the methods with these full names, of the form "/pkg.Service/Method". New checks the
// names, and in WithFallback the message types of the handler. It can check only services whose generated code is
// linked in.
func ForMethods(fullMethods ...string) selector.Matcher { return methods(slices.Clone(fullMethods)) }

type methods []string

// Match reports whether c is a call of one of the methods. It does not allocate a string for the full name.
func (m methods) Match(_ context.Context, c interceptors.CallMeta) bool {
	for _, full := range m {
		if service, method, ok := cutMethod(full); ok && service == c.Service && method == c.Method {
			return true
		}
	}
	return false
}

// cutMethod splits a full name like splitMethod, but reports a missing slash.
func cutMethod(full string) (service, method string, ok bool) {
	if !strings.HasPrefix(full, "/") {
		return "", "", false
	}
	return strings.Cut(full[1:], "/")
}

// FallbackOption changes when a fallback answers. OnFailure is the only one.
type FallbackOption interface{ apply(*fallback) }

type onFailure struct{}

func (onFailure) apply(f *fallback) { f.onFailure = true }

// OnFailure makes the fallback also answer calls that were admitted and whose outcome is Failure or Overload. The
// breaker still counts that outcome. Default: off, the fallback answers only rejected calls.
func OnFailure() FallbackOption { return onFailure{} }

type fallback struct {
	where     selector.Matcher
	handler   FallbackHandler
	onFailure bool
}

// WithFallback adds a fallback. h answers the unary calls that where matches if the breaker rejects them, or a guard
// inside this one does, and with OnFailure also if they fail. Streams have no fallback.
//
//	interceptor.WithFallback(interceptor.ForMethods("/shop.Orders/Get"), interceptor.Fallback(
//		func(ctx context.Context, req *pb.GetRequest, cause error) (*pb.GetResponse, error) { return cached(req) }))
//
// WithFallback may be given more than once. A rejected call is answered by the first fallback that matches it, and a
// failed call by the first that matches it and has OnFailure. A matcher that panics does not match.
//
// The answer of a fallback is marked (see FallbackTrailer) and counted, and is not an outcome of the backend. With a
// retry interceptor outside the guard, OnFailure answers the first attempt that fails, so nothing is retried.
//
// If a connection has two guards, give the fallback to the outer one only. A guard takes the answer of a fallback
// inside it for an answer of the backend, and counts a success.
//
// A nil matcher, a handler without a function and a nil option are errors. It is also an error if ForMethods has no
// name or a name that is not of the form "/service/method". If the descriptor of the service is linked in, these are
// errors too: a method that the service does not have, a streaming method, and a method whose messages differ from
// those of the handler. Default: none.
func WithFallback(where selector.Matcher, h FallbackHandler, opts ...FallbackOption) Option {
	return optionFunc(func(o *options) error {
		if where == nil {
			return errorf("WithFallback: the matcher is nil")
		}
		if h.answer == nil {
			return errorf("WithFallback: the handler has no function")
		}
		if names, ok := where.(methods); ok {
			known, err := names.check("WithFallback")
			if err != nil {
				return err
			}
			for _, m := range known {
				if err := h.check(m); err != nil {
					return err
				}
			}
		}
		f := fallback{where: where, handler: h}
		for i, opt := range opts {
			if opt == nil {
				return errorf("WithFallback: option %d is nil", i)
			}
			opt.apply(&f)
		}
		o.fallbacks = append(o.fallbacks, f)
		return nil
	})
}

// check returns the methods whose descriptors are linked in. No name at all, a name of another form, and a method that
// a linked-in service does not have are errors. Otherwise a misspelled name would match nothing without any sign.
func (m methods) check(option string) (known []protoreflect.MethodDescriptor, err error) {
	if len(m) == 0 {
		return nil, errorf("%s: ForMethods has no names", option)
	}
	for _, full := range m {
		service, method, ok := cutMethod(full)
		if !ok || service == "" || method == "" {
			return nil, errorf("%s: %q is not a full method name, want \"/service/method\"", option, full)
		}
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
		if err != nil {
			continue // not linked in: nothing to compare with
		}
		s, ok := d.(protoreflect.ServiceDescriptor)
		if !ok {
			return nil, errorf("%s: %s is not a service", option, service)
		}
		found := s.Methods().ByName(protoreflect.Name(method))
		if found == nil {
			return nil, errorf("%s: service %s has no method %q", option, service, method)
		}
		known = append(known, found)
	}
	return known, nil
}

// check returns an error if m is a stream, or if the message types of m and of the handler differ. The name of a
// dynamic message type is not known, so such types pass.
func (h FallbackHandler) check(m protoreflect.MethodDescriptor) error {
	name := fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
	if m.IsStreamingClient() || m.IsStreamingServer() {
		return errorf("WithFallback: %s is a stream, and streams have no fallback", name)
	}
	for _, side := range []struct {
		name string
		have reflect.Type
		want protoreflect.FullName
	}{{"request", h.req, m.Input().FullName()}, {"response", h.resp, m.Output().FullName()}} {
		if !side.have.Implements(reflect.TypeFor[proto.Message]()) {
			return errorf("WithFallback: the %s of %s is %s, and the handler has %v",
				side.name, name, side.want, side.have)
		}
		if have, ok := protoName(side.have); ok && have != side.want {
			return errorf("WithFallback: the %s of %s is %s, and the handler has %s", side.name, name, side.want, have)
		}
	}
	return nil
}

// protoName returns the message name of a type that is a proto.Message. ok is false for a dynamic message, which has no
// name before it is made: its method panics.
func protoName(t reflect.Type) (name protoreflect.FullName, ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	m, _ := reflect.TypeAssert[proto.Message](reflect.Zero(t))
	return m.ProtoReflect().Descriptor().FullName(), true
}

// inFallback is the key of a context value that marks the context of a fallback handler.
type inFallback struct{}

// unaryCall holds the arguments of a unary call and how it ended.
type unaryCall struct {
	method     string
	req, reply any
	cc         *grpc.ClientConn
	opts       []grpc.CallOption
	err        error           // the rejection, or the error of the call
	outcome    breaker.Outcome // unless this guard rejected the call
	rejected   bool            // by this guard, or by one inside it
}

func (a *unaryCall) call() Call { return callOf(a.method, nil, a.req, a.cc) }

// tryFallback runs the fallback for a call that was rejected or has failed, if there is one. It returns the error that
// the caller gets.
func (g *Guard) tryFallback(ctx context.Context, b *breaker.Breaker, a *unaryCall) error {
	a.rejected = a.rejected || rejectedInside(a.err)
	if !a.rejected && a.outcome != breaker.Failure && a.outcome != breaker.Overload {
		return a.err
	}
	if ctx.Value(inFallback{}) != nil { // a call of a fallback handler: a fallback could recurse without end
		return a.err
	}
	f := g.fallbackFor(ctx, a)
	if f == nil {
		return a.err
	}
	err := a.err
	served := false
	defer func() { // also if the handler exits the goroutine
		b.CountFallback(served)
		info := FallbackInfo{Key: b.Key(), Call: a.call(), Cause: a.err, Served: served}
		callHooks(ctx, &g.hooks, "FellBack", g.hooks.fellBack, info)
	}()
	switch {
	case reflect.TypeOf(a.req) != f.handler.req || reflect.TypeOf(a.reply) != f.handler.resp:
		err = &fallbackTypeError{method: a.method, handler: f.handler, req: a.req, reply: a.reply, cause: a.err}
	case g.serve(ctx, f.handler, a):
		served = true
		err = nil
		markTrailer(a)
	}
	return err
}

// rejectedInside reports whether err is the rejection of a guard inside this one, or wraps it. An error whose methods
// panic is not; it was reported when the call was classified.
func rejectedInside(err error) (is bool) {
	defer func() {
		if recover() != nil {
			is = false
		}
	}()
	_, is = errors.AsType[*RejectedError](err)
	return is
}

// fallbackFor returns the fallback for a call, or nil if there is none.
func (g *Guard) fallbackFor(ctx context.Context, a *unaryCall) *fallback {
	call := a.call()
	for i := range g.fallbacks {
		f := &g.fallbacks[i]
		if (a.rejected || f.onFailure) && g.matches(ctx, f.where, call) {
			return f
		}
	}
	return nil
}

// serve runs the handler and copies its answer to the reply. A panic is reported, and counts as an error.
func (g *Guard) serve(ctx context.Context, h FallbackHandler, a *unaryCall) (served bool) {
	defer func() {
		if v := recover(); v != nil {
			g.hooks.reportPanic(ctx, "fallback", v, a.call())
			served = false
		}
	}()
	resp, err := h.answer(context.WithValue(ctx, inFallback{}, true), a.req, a.err)
	if err != nil || resp == nil {
		return false
	}
	if reply, ok := a.reply.(proto.Message); ok {
		proto.Reset(reply)
		proto.Merge(reply, resp.(proto.Message)) //nolint:forcetypeassert // same type as the reply
	} else {
		reflect.ValueOf(a.reply).Elem().Set(reflect.ValueOf(resp).Elem())
	}
	return true
}

// markTrailer sets FallbackTrailer in the metadata of the caller's grpc.Trailer options.
func markTrailer(a *unaryCall) {
	value := FallbackFailed
	if a.rejected {
		value = FallbackRejected
	}
	for _, o := range a.opts {
		if t, ok := o.(grpc.TrailerCallOption); ok && t.TrailerAddr != nil {
			md := metadata.MD{}
			if !a.rejected { // grpc wrote no trailer of a rejected call, so the metadata may be that of an earlier call
				md = t.TrailerAddr.Copy()
			}
			md.Set(FallbackTrailer, value)
			*t.TrailerAddr = md
		}
	}
}

// fallbackTypeError is the error of a call whose message types are not those of the handler. Its code is Internal. It
// wraps the rejection or the failure that the fallback should have answered for.
type fallbackTypeError struct {
	method     string
	handler    FallbackHandler
	req, reply any
	cause      error
}

func (e *fallbackTypeError) Error() string {
	return fmt.Sprintf("interceptor: the fallback for %s takes %v and gives %v, the call has %T and %T: %v",
		e.method, e.handler.req, e.handler.resp, e.req, e.reply, e.cause)
}

func (e *fallbackTypeError) Unwrap() error { return e.cause }

func (e *fallbackTypeError) GRPCStatus() *status.Status {
	return status.Newf(codes.Internal, "the fallback for %s takes %v and gives %v, the call has %T and %T",
		e.method, e.handler.req, e.handler.resp, e.req, e.reply)
}
