package breaker

import (
	"hash/maphash"
	"strings"
)

// Key names what a breaker guards. It is comparable; a key function (package keyfunc) fills the parts it wants to tell
// apart and leaves the others empty. Any string is taken as it is, the empty one and invalid UTF-8 included: a Key is
// only ever compared. Collectors escape what their format cannot carry.
type Key struct {
	Target  string `json:"target,omitempty" yaml:"target,omitempty"`   // the target that the ClientConn was made for
	Service string `json:"service,omitempty" yaml:"service,omitempty"` // "pkg.Service"
	Method  string `json:"method,omitempty" yaml:"method,omitempty"`   // "Method", without the service
	Tag     string `json:"tag,omitempty" yaml:"tag,omitempty"`         // anything else: a tenant, a shard, a priority
}

// String joins the parts that are set: "dns:///orders:443 shop.Orders/Get tag=gold". The zero Key is "default".
func (k Key) String() string {
	var b strings.Builder
	if k.Target != "" {
		b.WriteString(k.Target)
	}
	if k.Service != "" || k.Method != "" {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(k.Service)
		if k.Method != "" {
			b.WriteByte('/')
			b.WriteString(k.Method)
		}
	}
	if k.Tag != "" {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString("tag=")
		b.WriteString(k.Tag)
	}
	if b.Len() == 0 {
		return "default"
	}
	return b.String()
}

var hashSeed = maphash.MakeSeed()

// hash mixes the parts by hand: maphash.Comparable takes 1.2 times as long on a Key, because it walks the struct by
// type. A part's position must count, or {Service: "a"} and {Method: "a"} would share a chain.
func (k Key) hash() uint64 {
	const odd = 0x9e3779b97f4a7c15 // 2^64 divided by the golden ratio: spreads the sum over all bits
	h := maphash.String(hashSeed, k.Method)
	h = h*odd + maphash.String(hashSeed, k.Service)
	h = h*odd + maphash.String(hashSeed, k.Target)
	if k.Tag != "" {
		h = h*odd + maphash.String(hashSeed, k.Tag)
	}
	return h
}

// covers says whether k, as the Match of a PolicyRule, matches other: an empty part matches anything.
func (k Key) covers(other Key) bool {
	return (k.Target == "" || k.Target == other.Target) &&
		(k.Service == "" || k.Service == other.Service) &&
		(k.Method == "" || k.Method == other.Method) &&
		(k.Tag == "" || k.Tag == other.Tag)
}

// specificity orders matching rules: more parts win; among as many parts, the tag weighs most, then method, service,
// target.
func (k Key) specificity() int {
	parts, weight := 0, 0
	for i, p := range [...]string{k.Target, k.Service, k.Method, k.Tag} {
		if p != "" {
			parts++
			weight += 1 << i
		}
	}
	return parts<<4 + weight
}
