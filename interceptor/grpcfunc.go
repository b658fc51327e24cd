package interceptor

import (
	"go/token"
	"reflect"
	"runtime"
	"sync/atomic"

	"google.golang.org/grpc"
)

// grpcFunc is the function of grpc that the innermost interceptor calls. It is recognised by its name. Finding the name
// of a function is slow, so the last results are kept.
type grpcFunc struct {
	name      string
	entry     atomic.Uintptr // the address of this function; 0 until it was found
	lastOther atomic.Uintptr // the address of the last function that was another one
}

var (
	grpcStreamer = grpcFunc{name: "google.golang.org/grpc.newClientStream"}
	grpcInvoker  = grpcFunc{name: "google.golang.org/grpc.invoke"}
)

// is reports whether f is this function. If so, no interceptor is between the guard and grpc, grpc calls OnFinish, and
// no other attempt shares the options for header, trailer and peer. If grpc renames the function, each f counts as an
// interceptor. Errors are then classified without evidence (G5), streams cost three more allocations, and tests fail.
func (g *grpcFunc) is(f any) bool {
	pc := reflect.ValueOf(f).Pointer()
	switch pc {
	case 0, g.lastOther.Load():
		return false
	case g.entry.Load():
		return true
	}
	if fn := runtime.FuncForPC(pc); fn == nil || fn.Name() != g.name {
		g.lastOther.Store(pc)
		return false
	}
	g.entry.Store(pc)
	return true
}

// fromGRPC reports whether grpc made cs. It recognises the types of package grpc that are not exported.
func fromGRPC(cs grpc.ClientStream) bool {
	t := reflect.TypeOf(cs)
	if t == nil || t.Kind() != reflect.Pointer {
		return false
	}
	t = t.Elem()
	return t.PkgPath() == "google.golang.org/grpc" && !token.IsExported(t.Name())
}
