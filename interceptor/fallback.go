package interceptor

import (
	"context"
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

// FallbackTrailer is the key that marks the answer of a fallback in the trailer of a call: its value is
// FallbackRejected or FallbackFailed. A caller that wants to know passes grpc.Trailer; no backend sends this key.
const (
	FallbackTrailer  = "grpcircuit-fallback"
	FallbackRejected = "rejected" // the call was not let through
	FallbackFailed   = "failed"   // the call ran and failed
)

// FallbackHandler answers calls in a backend's stead. Fallback makes one.
type FallbackHandler struct {
	answer    func(ctx context.Context, req any, cause error) (resp any, err error)
	req, resp reflect.Type // of *Req and *Resp
}

// Fallback makes a handler of a typed function. The function gets the call's context, the request, and the error that
// the caller would see; what it returns goes into the caller's reply. If it returns an error or a nil response, or
// panics, the caller sees the original error. It runs outside the permit, so a slow one occupies no slot of the
// breaker, and it may make calls of its own. Calls that it makes with its context get no fallback, whatever guard
// they pass, so a handler that calls the same method elsewhere cannot recurse. After a deadline that context is done;
// context.WithTimeout(context.WithoutCancel(ctx), d) gives such a call time and keeps the mark. With a context that
// is not derived from it calls get a fallback.
//
// The reply is a copy of the handler's response if both are protobuf messages. With another codec it is a shallow
// copy, which shares what the response points to with the caller: the handler must make a new response for each call,
// and must not change it afterwards.
//
// Req and Resp are the message types, as in Fallback[pb.GetRequest, pb.GetResponse]. A call with other types gets
// status Internal, which wraps the original error.
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

// ForMethods matches the methods with these full names, "/pkg.Service/Method". New checks the names, and in
// WithFallback the handler's message types, as far as the services' generated code is linked in.
func ForMethods(fullMethods ...string) selector.Matcher { return methods(slices.Clone(fullMethods)) }

type methods []string

// Match compares without building the full name.
func (m methods) Match(_ context.Context, c interceptors.CallMeta) bool {
	for _, full := range m {
		if service, method, ok := cutMethod(full); ok && service == c.Service && method == c.Method {
			return true
		}
	}
	return false
}

// cutMethod is splitMethod for names that people wrote.
func cutMethod(full string) (service, method string, ok bool) {
	if !strings.HasPrefix(full, "/") {
		return "", "", false
	}
	return strings.Cut(full[1:], "/")
}

// FallbackOption changes when a fallback answers.
type FallbackOption interface{ apply(*fallback) }

type onFailure struct{}

func (onFailure) apply(f *fallback) { f.onFailure = true }

// OnFailure has the fallback answer calls that ran and failed too: those that the classifier judged Failure or
// Overload. The backend's outcome stays what it was.
func OnFailure() FallbackOption { return onFailure{} }

type fallback struct {
	where     selector.Matcher
	handler   FallbackHandler
	onFailure bool
}

// WithFallback has h answer the unary calls that where matches when the breaker rejects them, and with OnFailure also
// when they fail. It may be given more than once: the first that matches answers. Streams have no fallback.
//
// An answer is marked in the call's trailer (FallbackTrailer), counted, and never an outcome of the backend. With a
// retry interceptor outside, OnFailure answers the first attempt that fails, so nothing is retried.
//
// A nil matcher and a handler without a function are errors. So are the names of ForMethods that cannot be right:
// none, one that is not of the form "/service/method", and, of services whose descriptors are linked in, a method
// that the service does not have, one that is a stream, and one whose messages are not the handler's. Default: none.
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

// check finds the methods whose descriptors are linked in. Names that cannot be right are errors: none at all, one
// that is not of the form, one of a linked-in service without such a method. They would match nothing, and nobody
// would notice.
func (m methods) check(option string) (known []protoreflect.MethodDescriptor, err error) {
	if len(m) == 0 {
		return nil, errorf("%s: ForMethods has no names", option)
	}
	for _, full := range m {
		service, method, ok := cutMethod(full)
		if !ok || service == "" || method == "" {
			return nil, errorf("%s: %q is no full method name, want \"/service/method\"", option, full)
		}
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
		if err != nil {
			continue // not linked in: nothing to compare with
		}
		s, ok := d.(protoreflect.ServiceDescriptor)
		if !ok {
			return nil, errorf("%s: %s is no service", option, service)
		}
		found := s.Methods().ByName(protoreflect.Name(method))
		if found == nil {
			return nil, errorf("%s: service %s has no method %q", option, service, method)
		}
		known = append(known, found)
	}
	return known, nil
}

// check compares the handler's types with the method's, as far as they can be known.
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
			return errorf("WithFallback: the %s of %s is %s, and the handler has %v", side.name, name, side.want, side.have)
		}
		if have, ok := protoName(side.have); ok && have != side.want {
			return errorf("WithFallback: the %s of %s is %s, and the handler has %s", side.name, name, side.want, have)
		}
	}
	return nil
}

// protoName is the message name of a type that is a proto.Message, if it has one: a dynamic message has none before
// it is made, and panics.
func protoName(t reflect.Type) (name protoreflect.FullName, ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	m, _ := reflect.TypeAssert[proto.Message](reflect.Zero(t))
	return m.ProtoReflect().Descriptor().FullName(), true
}

// inFallback marks the context that a fallback handler gets.
type inFallback struct{}

// unaryCall is what a fallback needs to know of a call.
type unaryCall struct {
	method     string
	req, reply any
	cc         *grpc.ClientConn
	opts       []grpc.CallOption
	err        error           // of the rejection, or that the call ended with
	outcome    breaker.Outcome // of a call that ran
	rejected   bool
}

func (a *unaryCall) call() Call { return callOf(a.method, nil, a.req, a.cc) }

// tryFallback answers for a call that was rejected or has failed, if there is a fallback for it, and returns what the
// caller is to see.
func (g *Guard) tryFallback(ctx context.Context, b *breaker.Breaker, a *unaryCall) error {
	if !a.rejected && a.outcome != breaker.Failure && a.outcome != breaker.Overload {
		return a.err
	}
	if ctx.Value(inFallback{}) != nil { // the handler's own call: another fallback would make another one, without end
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

// markTrailer notes in the trailers that the caller asked for who answered.
func markTrailer(a *unaryCall) {
	value := FallbackFailed
	if a.rejected {
		value = FallbackRejected
	}
	for _, o := range a.opts {
		if t, ok := o.(grpc.TrailerCallOption); ok && t.TrailerAddr != nil {
			md := metadata.MD{}
			if !a.rejected { // what the backend sent; of a rejected call grpc has written none, and an old one may stand there
				md = t.TrailerAddr.Copy()
			}
			md.Set(FallbackTrailer, value)
			*t.TrailerAddr = md
		}
	}
}

// fallbackTypeError is a handler that was set up for calls of other types. Its status is Internal; it wraps the error
// that the fallback was to answer for.
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
