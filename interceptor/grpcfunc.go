package interceptor

import (
	"go/token"
	"reflect"
	"runtime"
	"sync/atomic"

	"google.golang.org/grpc"
)

// grpcFunc is a function of grpc's own that interceptors end in.
type grpcFunc struct {
	name      string
	entry     atomic.Uintptr // where it begins, once it has been seen
	lastOther atomic.Uintptr // where the last function began that was another one: finding a name takes long
}

var (
	grpcStreamer = grpcFunc{name: "google.golang.org/grpc.newClientStream"}
	grpcInvoker  = grpcFunc{name: "google.golang.org/grpc.invoke"}
)

// is reports whether f is grpc's own function: then no interceptor stands between it and the guard, OnFinish is certain
// to be called, and no other attempt shares the options for header, trailer and peer. If grpc renames the function, every
// f counts as an interceptor: errors are then judged without evidence (G5), streams cost three allocations more, and
// tests fail.
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

// fromGRPC reports whether grpc made cs: it is of a type that grpc does not export.
func fromGRPC(cs grpc.ClientStream) bool {
	t := reflect.TypeOf(cs)
	if t == nil || t.Kind() != reflect.Pointer {
		return false
	}
	t = t.Elem()
	return t.PkgPath() == "google.golang.org/grpc" && !token.IsExported(t.Name())
}
