package interceptor

import (
	"sync/atomic"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// breakerCache remembers which breaker guards which method at which target, so that most calls neither take the method's
// name apart nor hash three strings; the names of one connection's calls are the same strings each time, which
// compare at a glance. It takes a quarter off what a guarded call costs. Only the default key function has it: what
// another one makes of a call may change from call to call.
//
// A pair has one place. The first to come has it until its breaker is evicted, and others that fall on it go the long
// way, so breakerCache is bounded, and nothing is allocated while the breakers stay.
type breakerCache [512]atomic.Pointer[cachedBreaker]

type cachedBreaker struct {
	target, method string
	breaker        *breaker.Breaker
}

// find returns the breaker for a method at a target, and has g make it if need be.
func (h *breakerCache) find(g *breaker.Group, target, method string) *breaker.Breaker {
	place := &h[(slotHash(method)*31+slotHash(target))%uint64(len(h))]
	known := place.Load()
	if known != nil && known.method == method && known.target == target && !known.breaker.Evicted() {
		return known.breaker
	}
	key := targetMethod(target, method)
	b := g.Get(key)
	// Not the breaker that keys share while the group is full: it stands for the key until there is room, and no longer.
	if (known == nil || known.breaker.Evicted()) && b.Key() == key {
		place.Store(&cachedBreaker{target, method, b})
	}
	return b
}

// slotHash mixes the last eight bytes, in which methods of a service differ, and targets too. That is no good hash, but
// a fast one: where it fails, a call takes as long as it would without handles.
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

// targetMethod is what keyfunc.TargetMethod returns.
func targetMethod(target, method string) (key breaker.Key) {
	key.Target = target
	key.Service, key.Method = splitMethod(method)
	return key
}
