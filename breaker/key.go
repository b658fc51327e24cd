package breaker

import (
	"hash/maphash"
	"log/slog"
	"strings"
)

// Key names what a breaker guards. It is comparable. A key function (package keyfunc) sets the parts that it
// distinguishes and leaves the others empty. Every string is allowed, also an empty one and invalid UTF-8, because keys
// are only compared. Collectors escape what their format cannot carry. Without gRPC, set Target to the name of the
// backend.
type Key struct {
	Target  string `json:"target,omitempty" yaml:"target,omitempty"`   // the target of the ClientConn
	Service string `json:"service,omitempty" yaml:"service,omitempty"` // "pkg.Service"
	Method  string `json:"method,omitempty" yaml:"method,omitempty"`   // "Method", without the service
	Tag     string `json:"tag,omitempty" yaml:"tag,omitempty"`         // anything else: a tenant, a shard, a priority
}

// String returns the parts that are set: "dns:///orders:443 shop.Orders/Get tag=gold". The zero Key is "default".
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

// LogValue returns what String returns.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// phrase returns the key for use in a sentence: "shop.Orders/Get at dns:///orders:443".
func (k Key) phrase() string {
	if k == overflowKey {
		return "the keys that share a breaker because the group is full"
	}
	what := printable(Key{Service: k.Service, Method: k.Method}.String())
	switch {
	case k == Key{} || k.Target == "":
	case k.Service == "" && k.Method == "":
		what = printable(k.Target)
	default:
		what += " at " + printable(k.Target)
	}
	switch {
	case k.Tag == "":
		return what
	case k == Key{Tag: k.Tag}:
		return "tag " + printable(k.Tag)
	}
	return what + ", tag " + printable(k.Tag)
}

var hashSeed = maphash.MakeSeed()

// hash mixes the parts by hand. maphash.Comparable takes 1.2 times as long on a Key, because it walks the struct by
// type. The position of a part must count: otherwise {Service: "a"} and {Method: "a"} would share a slot.
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

// covers reports whether k, as the Match of a PolicyRule, matches other. An empty part matches anything.
func (k Key) covers(other Key) bool {
	return (k.Target == "" || k.Target == other.Target) &&
		(k.Service == "" || k.Service == other.Service) &&
		(k.Method == "" || k.Method == other.Method) &&
		(k.Tag == "" || k.Tag == other.Tag)
}

// specificity orders the rules that match a key. A rule with more parts wins. With equally many parts, the tag counts
// most, then the method, the service and the target.
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
