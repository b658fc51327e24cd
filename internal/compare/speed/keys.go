package speed

import (
	"context"
	"sync"

	"github.com/cep21/circuit/v4"
	"github.com/sony/gobreaker/v2"
	gozero "github.com/zeromicro/go-zero/core/breaker"
	"google.golang.org/grpc"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
)

// KeyCounts are the numbers of keys for which the cost for each key is measured.
var KeyCounts = []int{1, 10, 1000, 100_000}

// Keyed is a way to guard each method with its own breaker.
type Keyed struct {
	Name string
	// New is called with the largest number of methods.
	New func(keys int) (*KeyedGuard, error)
}

// KeyedGuard guards methods.
type KeyedGuard struct {
	Call     func(method string) error // a guarded call that succeeds, by the full name of its method
	Breakers func() int                // the number of breakers, or nil if it is not known
	Close    func()                    // may be nil
}

// Keyeds returns all ways, this library's first. Those that keep their breakers in a map forever come last.
func Keyeds() []Keyed {
	return []Keyed{
		{Name: Ours + ", Guard.Unary", New: unaryByKey},
		{Name: Ours + ", Group.Get, Acquire, Done", New: permitByKey},
		{Name: "sony/gobreaker in a sync.Map", New: gobreakerByKey},
		{Name: "cep21/circuit, its Manager", New: cep21ByKey},
		{Name: "bytedance/gopkg, its Panel", New: bytedanceByKey},
		{Name: "go-zero, its breakers by name", New: gozeroByKey},
	}
}

// BenchmarkName returns the name of its benchmark below the one that runs it.
func (k Keyed) BenchmarkName() string { return benchmarkName(k.Name) }

func unaryByKey(keys int) (*KeyedGuard, error) {
	group, err := breaker.NewGroup(breaker.Config{}, breaker.WithMaxBreakers(keys))
	if err != nil {
		return nil, err
	}
	g, err := interceptor.New(group)
	if err != nil {
		return nil, err
	}
	invoker := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return succeed() }
	call := func(method string) error { return g.Unary(ctx, method, nil, nil, nil, invoker) }
	return &KeyedGuard{Call: call, Breakers: group.Len}, nil
}

func permitByKey(keys int) (*KeyedGuard, error) {
	group, err := breaker.NewGroup(breaker.Config{}, breaker.WithMaxBreakers(keys))
	if err != nil {
		return nil, err
	}
	call := func(method string) error {
		p, err := group.Get(breaker.Key{Method: method}).Acquire(ctx)
		if err != nil {
			return err
		}
		if err := succeed(); err != nil {
			p.Done(ctx, breaker.Failure)
			return err
		}
		p.Done(ctx, breaker.Success)
		return nil
	}
	return &KeyedGuard{Call: call, Breakers: group.Len}, nil
}

func gobreakerByKey(int) (*KeyedGuard, error) {
	st := settings{openFor: openForLong}.gobreaker(rolling)
	inner := func() (struct{}, error) { return struct{}{}, succeed() }
	var breakers sync.Map
	call := func(method string) error {
		b, ok := breakers.Load(method)
		if !ok {
			b, _ = breakers.LoadOrStore(method, gobreaker.NewCircuitBreaker[struct{}](st))
		}
		_, err := b.(*gobreaker.CircuitBreaker[struct{}]).Execute(inner)
		return err
	}
	count := func() (n int) {
		for range breakers.Range {
			n++
		}
		return n
	}
	return &KeyedGuard{Call: call, Breakers: count}, nil
}

func cep21ByKey(int) (*KeyedGuard, error) {
	cfg := settings{openFor: openForLong}.cep21Config()
	manager := circuit.Manager{DefaultCircuitProperties: []circuit.CommandPropertiesConstructor{
		func(string) circuit.Config { return cfg },
	}}
	inner := func(context.Context) error { return succeed() }
	call := func(method string) error {
		c := manager.GetCircuit(method)
		if c == nil {
			var err error
			if c, err = manager.CreateCircuit(method); err != nil {
				return err
			}
		}
		return c.Run(ctx, inner)
	}
	return &KeyedGuard{Call: call, Breakers: func() int { return len(manager.AllCircuits()) }}, nil
}

func bytedanceByKey(int) (*KeyedGuard, error) {
	panel, err := settings{openFor: openForLong}.bytedance(false)
	if err != nil {
		return nil, err
	}
	call := func(method string) error {
		if !panel.IsAllowed(method) {
			return errRejected
		}
		if err := succeed(); err != nil {
			panel.Fail(method)
			return err
		}
		panel.Succeed(method)
		return nil
	}
	// The number of breakers is not known: the library removes those that had no call for a window.
	return &KeyedGuard{Call: call, Close: panel.Close}, nil
}

func gozeroByKey(int) (*KeyedGuard, error) {
	return &KeyedGuard{Call: func(method string) error { return gozero.DoCtx(ctx, method, succeed) }}, nil
}
