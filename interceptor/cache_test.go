package interceptor

import (
	"fmt"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// mustSucceed makes a guarded call that succeeds, and fails the test if it was rejected.
func (g *Guard) mustSucceed(t *testing.T, method string, cc *grpc.ClientConn) {
	t.Helper()
	if err := g.Unary(t.Context(), method, nil, nil, cc, returnsAtOnce); err != nil {
		t.Fatalf("%s: %v", method, err)
	}
}

func newConn(t *testing.T, target string) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

// G11: each call goes to the breaker of its key, although several methods and targets share a slot of the cache.
func TestG11_CacheSeparatesKeys(t *testing.T) {
	group, err := breaker.NewGroup(breaker.Config{}, breaker.WithMaxBreakers(10_000))
	if err != nil {
		t.Fatal(err)
	}
	g, err := New(group)
	if err != nil {
		t.Fatal(err)
	}
	// The first two share a slot, because slotHash uses their ends. The third has the key of the first.
	conns := []*grpc.ClientConn{
		newConn(t, "passthrough:///a.example:443"), newConn(t, "passthrough:///b.example:443"),
		newConn(t, "passthrough:///a.example:443"), nil,
	}
	var methods []string
	for i := range 2 * len(g.cache) {
		methods = append(methods, fmt.Sprintf("/pkg.Service/Method%d", i))
	}
	methods = append(methods, "", "/", "/a/b", "/b/a", "a/b", "no slash at all")
	places := map[uint64]int{}
	want := map[breaker.Key]uint64{}
	for range 3 { // the first fills the cache, the others use it
		for _, cc := range conns {
			for _, method := range methods {
				g.mustSucceed(t, method, cc)
				want[keyfunc.TargetMethod(t.Context(), callOf(method, nil, nil, cc))]++
				places[slotHash(method)%uint64(len(g.cache))]++
			}
		}
	}
	if len(places) == len(methods) {
		t.Fatal("no two methods share a slot, so the test checks nothing")
	}
	for key, n := range want {
		b, ok := group.Lookup(key)
		if !ok {
			t.Fatalf("%v: no breaker", key)
		}
		if got := b.Snapshot().Successes; got != n {
			t.Errorf("%v: %d successes, want %d", key, got, n)
		}
	}
	if got := group.Len(); got != len(want) {
		t.Errorf("%d breakers, want %d", got, len(want))
	}
}

// B33: the cache does not return a breaker that was evicted.
func TestB33_CacheSkipsEvictedBreakers(t *testing.T) {
	group, err := breaker.NewGroup(breaker.Config{}, breaker.WithMaxBreakers(1))
	if err != nil {
		t.Fatal(err)
	}
	g, err := New(group)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for _, name := range []string{"One", "Two"} {
			key, method := breaker.Key{Service: "pkg.Service", Method: name}, "/pkg.Service/"+name
			g.mustSucceed(t, method, nil) // evicts the breaker of the other method
			for range 4 {
				g.mustSucceed(t, method, nil)
			}
			b, ok := group.Lookup(key)
			if !ok {
				t.Fatalf("%v has no breaker after a call", key)
			}
			if got := b.Snapshot().Successes; got != 5 {
				t.Errorf("%v: %d successes since it was made, want 5", key, got)
			}
			known := g.cache[(slotHash(method)*31+slotHash(""))%uint64(len(g.cache))].Load()
			if known == nil || known.breaker != b {
				t.Errorf("%v: the cache does not hold the breaker of the group", key)
			}
		}
	}
}

// B33: a key that used the overflow breaker gets its own breaker once there is room.
func TestB33_OverflowIsNotCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		group, err := breaker.NewGroup(breaker.Config{}, breaker.WithMaxBreakers(1))
		if err != nil {
			t.Fatal(err)
		}
		g, err := New(group)
		if err != nil {
			t.Fatal(err)
		}
		const first, second = "/pkg.Service/One", "/pkg.Service/Two"
		g.mustSucceed(t, first, nil)
		held := group.Get(breaker.Key{Service: "pkg.Service", Method: "One"})
		held.Trip(t.Context(), "test")
		g.mustSucceed(t, second, nil)
		key := breaker.Key{Service: "pkg.Service", Method: "Two"}
		if _, ok := group.Lookup(key); ok {
			t.Fatal("the group made a breaker beyond its bound, so the test checks nothing")
		}
		held.Reset(t.Context())
		g.mustSucceed(t, second, nil) // in a bubble the group makes no pause after a search, which takes no time there
		if _, ok := group.Lookup(key); !ok {
			t.Error("calls go to the overflow breaker although there is room")
		}
	})
}
