package interceptor

import (
	"sync/atomic"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// breakerCache holds the breakers of pairs of target and method. With it, most calls neither split the method's name
// nor hash three strings. The calls of one connection use the same strings each time, and equal pointers compare fast.
// The cache saves a quarter of the cost of a guarded call. It is only for the default key function, because another one
// may return a different key for each call.
//
// A pair has one slot. The first pair that gets a slot keeps it until its breaker is evicted. Other pairs with the same
// slot are looked up in the group. So the cache is bounded, and allocates nothing while the group keeps its breakers.
type breakerCache [512]atomic.Pointer[cachedBreaker]

type cachedBreaker struct {
	target, method string
	breaker        *breaker.Breaker
}

// find returns the breaker for a method at a target. g makes the breaker if there is none.
func (c *breakerCache) find(g *breaker.Group, target, method string) *breaker.Breaker {
	slot := &c[(slotHash(method)*31+slotHash(target))%uint64(len(c))]
	cached := slot.Load()
	if cached != nil && cached.method == method && cached.target == target && !cached.breaker.Evicted() {
		return cached.breaker
	}
	key := targetMethod(target, method)
	b := g.Get(key)
	// The breaker that keys share while the group is full has another key. It is not cached, because the key gets another
	// breaker once there is room (B33).
	if (cached == nil || cached.breaker.Evicted()) && b.Key() == key {
		slot.Store(&cachedBreaker{target, method, b})
	}
	return b
}

// slotHash mixes the last eight bytes, in which the methods of a service differ, and targets too. It is fast, but
// collides more often than a good hash. If two pairs collide, one of them takes as long as without the cache.
func slotHash(s string) uint64 {
	const odd = 0x9e3779b97f4a7c15 // 2^64 divided by the golden ratio
	n := len(s)
	if n < 8 {
		return uint64(n)
	}
	s = s[n-8:]
	word := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
	return (word*odd ^ uint64(n)) >> 32
}

// targetMethod returns the key that keyfunc.TargetMethod would return.
func targetMethod(target, method string) (key breaker.Key) {
	key.Target = target
	key.Service, key.Method = splitMethod(method)
	return key
}
