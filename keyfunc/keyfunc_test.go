package keyfunc_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"go.uber.org/goleak"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/keyfunc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func call(target, fullMethod string) keyfunc.Call {
	return keyfunc.Call{Target: target, CallMeta: interceptors.NewClientCallMeta(fullMethod, nil, nil)}
}

func TestFuncs(t *testing.T) {
	get := call("dns:///orders:443", "/shop.Orders/Get")
	for _, tt := range []struct {
		name string
		f    keyfunc.Func
		call keyfunc.Call
		want breaker.Key
	}{
		{"Method", keyfunc.Method, get, breaker.Key{Service: "shop.Orders", Method: "Get"}},
		{"Service", keyfunc.Service, get, breaker.Key{Service: "shop.Orders"}},
		{"Target", keyfunc.Target, get, breaker.Key{Target: "dns:///orders:443"}},
		{"TargetMethod", keyfunc.TargetMethod, get, breaker.Key{
			Target: "dns:///orders:443", Service: "shop.Orders",
			Method: "Get",
		}},
		{"TargetService", keyfunc.TargetService, get, breaker.Key{Target: "dns:///orders:443", Service: "shop.Orders"}},
		{
			"no ClientConn", keyfunc.TargetMethod, call("", "/shop.Orders/Get"),
			breaker.Key{Service: "shop.Orders", Method: "Get"},
		},
		{
			"not a method", keyfunc.TargetMethod, call("t", "nonsense"),
			breaker.Key{Target: "t", Service: "unknown", Method: "unknown"},
		},
		{
			"empty method", keyfunc.TargetMethod, call("t", ""),
			breaker.Key{Target: "t", Service: "unknown", Method: "unknown"},
		},
		{"slash in method", keyfunc.Method, call("t", "/a/b/c"), breaker.Key{Service: "a", Method: "b/c"}},
		{"invalid UTF-8", keyfunc.Method, call("t", "/a\xff/b\xfe"), breaker.Key{Service: "a\xff", Method: "b\xfe"}},
		{
			"huge", keyfunc.Method, call("t", "/s/"+strings.Repeat("m", 1<<20)),
			breaker.Key{Service: "s", Method: strings.Repeat("m", 1<<20)},
		},
	} {
		if diff := cmp.Diff(tt.want, tt.f(t.Context(), tt.call)); diff != "" {
			t.Errorf("%s: key (-want +got):\n%s", tt.name, diff)
		}
	}
}

type tenant struct{}

func tenantOf(ctx context.Context, _ keyfunc.Call) string {
	s, _ := ctx.Value(tenant{}).(string)
	return s
}

func TestTaggedAdmitsOnlyWhatIsAllowed(t *testing.T) {
	f := keyfunc.Tagged(keyfunc.Method, tenantOf, "gold", "silver")
	for in, want := range map[string]string{
		"gold": "gold", "silver": "silver", "Gold": "other", "bronze": "other", "": "other",
		"other": "other", "gold ": "other", "\xff": "other",
	} {
		got := f(context.WithValue(t.Context(), tenant{}, in), call("t", "/s/m"))
		if want := (breaker.Key{Service: "s", Method: "m", Tag: want}); got != want {
			t.Errorf("tag %q: key %+v, want %+v", in, got, want)
		}
	}
}

func TestTaggedKeepsTheKeySpaceBounded(t *testing.T) {
	f := keyfunc.Tagged(keyfunc.Method, tenantOf, "gold")
	seen := map[breaker.Key]bool{}
	for i := range 10_000 {
		seen[f(context.WithValue(t.Context(), tenant{}, fmt.Sprint("tenant", i)), call("t", "/s/m"))] = true
	}
	if len(seen) != 1 {
		t.Errorf("10000 tags that are not allowed made %d keys, want 1", len(seen))
	}
}

func TestTaggedEdges(t *testing.T) {
	if got, want := keyfunc.Tagged(nil, tenantOf)(t.Context(),
		call("t", "/s/m")), (breaker.Key{Target: "t", Service: "s", Method: "m", Tag: "other"}); got != want {
		t.Errorf("nil base: key %+v, want that of TargetMethod, %+v", got, want)
	}
	allowed := []string{"gold"}
	f := keyfunc.Tagged(keyfunc.Target, tenantOf, allowed...)
	allowed[0] = "lead"
	if got := f(context.WithValue(t.Context(), tenant{}, "gold"), call("t", "/s/m")); got.Tag != "gold" {
		t.Errorf("tag %q after the caller changed its slice, want gold", got.Tag)
	}
	empty := keyfunc.Tagged(keyfunc.Target, tenantOf, "")
	if got := empty(t.Context(), call("t", "/s/m")); got.Tag != "" {
		t.Errorf("the empty tag, allowed: %q, want it empty", got.Tag)
	}
}

// MapTarget changes only the target that base gets.
func TestMapTarget(t *testing.T) {
	strip := func(target string) string { return strings.TrimSuffix(target, "#1") }
	for _, tt := range []struct {
		name string
		f    keyfunc.Func
		want breaker.Key
	}{
		{"nil base", keyfunc.MapTarget(nil, strip), breaker.Key{Target: "t", Service: "s", Method: "m"}},
		{"Target", keyfunc.MapTarget(keyfunc.Target, strip), breaker.Key{Target: "t"}},
		{"Method", keyfunc.MapTarget(keyfunc.Method, strip), breaker.Key{Service: "s", Method: "m"}},
		{"to nothing", keyfunc.MapTarget(nil, func(string) string { return "" }), breaker.Key{Service: "s", Method: "m"}},
	} {
		if got := tt.f(t.Context(), call("t#1", "/s/m")); got != tt.want {
			t.Errorf("%s: key %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// A nil function panics when the key function is made, and the panic names it.
func TestNilFunctions(t *testing.T) {
	for want, f := range map[string]func(){
		"keyfunc: Tagged: the tag function is nil":       func() { keyfunc.Tagged(keyfunc.Target, nil, "gold") },
		"keyfunc: MapTarget: the target function is nil": func() { keyfunc.MapTarget(keyfunc.Target, nil) },
	} {
		func() {
			defer func() {
				if got := recover(); got != want {
					t.Errorf("the panic is %v, want %s", got, want)
				}
			}()
			f()
		}()
	}
}

func ExampleMapTarget() {
	// The target of an etcd client holds a pointer, which differs for each client.
	key := keyfunc.MapTarget(keyfunc.TargetService, func(target string) string {
		return "etcd:///" + target[strings.LastIndexByte(target, '/')+1:]
	})
	c := keyfunc.Call{
		Target:   "etcd-endpoints://0x2d5e4a6c8000/orders-etcd:2379",
		CallMeta: interceptors.NewClientCallMeta("/etcdserverpb.KV/Range", nil, nil),
	}
	fmt.Println(key(context.Background(), c))
	// Output:
	// etcd:///orders-etcd:2379 etcdserverpb.KV
}

func TestZeroAllocations(t *testing.T) {
	ctx := context.WithValue(t.Context(), tenant{}, "gold")
	c := call("dns:///orders:443", "/shop.Orders/Get")
	tagged := keyfunc.Tagged(keyfunc.TargetMethod, tenantOf, "silver", "gold")
	for name, f := range map[string]keyfunc.Func{
		"TargetMethod": keyfunc.TargetMethod, "Tagged": tagged,
		"MapTarget": keyfunc.MapTarget(nil, func(target string) string { return target[:3] }),
	} {
		if n := testing.AllocsPerRun(100, func() { f(ctx, c) }); n != 0 {
			t.Errorf("%s: %v allocations a call, want 0", name, n)
		}
	}
}

func ExampleTagged() {
	type tenantKey struct{}
	key := keyfunc.Tagged(keyfunc.Method, func(ctx context.Context, _ keyfunc.Call) string {
		t, _ := ctx.Value(tenantKey{}).(string)
		return t
	}, "gold", "silver")

	c := keyfunc.Call{CallMeta: interceptors.NewClientCallMeta("/shop.Orders/Get", nil, nil)}
	fmt.Println(key(context.WithValue(context.Background(), tenantKey{}, "gold"), c))
	fmt.Println(key(context.WithValue(context.Background(), tenantKey{}, "somebody else"), c))
	// Output:
	// shop.Orders/Get tag=gold
	// shop.Orders/Get tag=other
}
