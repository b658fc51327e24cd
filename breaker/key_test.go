package breaker

import (
	"strconv"
	"strings"
	"testing"
)

func TestKeyString(t *testing.T) {
	tests := []struct {
		key  Key
		want string
	}{
		{Key{}, "default"},
		{Key{Target: "dns:///orders:443"}, "dns:///orders:443"},
		{Key{Service: "shop.Orders"}, "shop.Orders"},
		{Key{Method: "Get"}, "/Get"},
		{Key{Tag: "gold"}, "tag=gold"},
		{Key{Service: "shop.Orders", Method: "Get"}, "shop.Orders/Get"},
		{Key{Target: "t", Method: "Get"}, "t /Get"},
		{Key{Target: "t", Tag: "gold"}, "t tag=gold"},
		{Key{"dns:///orders:443", "shop.Orders", "Get", "gold"}, "dns:///orders:443 shop.Orders/Get tag=gold"},
		{Key{Target: "\xff"}, "\xff"},
	}
	for _, tt := range tests {
		if got := tt.key.String(); got != tt.want {
			t.Errorf("%+v: got %q, want %q", tt.key, got, tt.want)
		}
	}
}

// oddKeys returns keys that a wrong hash or comparison would confuse.
func oddKeys() []Key {
	huge := strings.Repeat("k", 1<<20)
	return []Key{
		{},
		{Target: "a"},
		{Service: "a"},
		{Method: "a"},
		{Tag: "a"},
		{Target: "a", Service: "b"},
		{Target: "b", Service: "a"},
		{Service: "a", Method: "b"},
		{Service: "b", Method: "a"},
		{Service: "ab"},
		{Target: "a", Tag: "b"},
		{Target: huge},
		{Method: huge},
		{Method: huge[1:]},
		{Service: "\xff"},
		{Service: "\xfe"},
		{Service: "\uFFFD"},
		{Service: "\x00"},
		{Service: "\x00", Method: "\x00"},
		{"a", "a", "a", "a"},
	}
}

func TestKeysAreOnlyCompared(t *testing.T) {
	g := mustGroup(t, Config{})
	keys := oddKeys()
	seen := make(map[*Breaker]Key)
	for _, k := range keys {
		b := g.Get(k)
		if other, dup := seen[b]; dup {
			t.Errorf("%.40q and %.40q share a breaker", k, other)
		}
		seen[b] = k
		if b.Key() != k {
			t.Errorf("the breaker for %.40q has key %.40q", k, b.Key())
		}
	}
	for _, k := range keys {
		if found, ok := g.Lookup(k); !ok || seen[found] != k {
			t.Errorf("%.40q is not found again", k)
		}
	}
	if g.Len() != len(keys) {
		t.Errorf("Len is %d, want %d", g.Len(), len(keys))
	}
}

// The hash depends on which part a string is in. Otherwise keys with swapped parts would share slots in the table.
func TestHashDependsOnThePart(t *testing.T) {
	hashes := make(map[uint64]Key)
	for _, k := range oddKeys() {
		if other, dup := hashes[k.hash()]; dup {
			t.Errorf("%.40q and %.40q have one hash", k, other)
		}
		hashes[k.hash()] = k
	}
	// It depends on each part, whatever the others are. Otherwise keys that differ in one part would share slots.
	for _, rest := range []Key{{}, {"a", "a", "a", ""}, {"a", "a", "a", "a"}} {
		for part := range 4 {
			hashes := make(map[uint64]bool)
			for i := range 1000 {
				k := rest
				*[...]*string{&k.Target, &k.Service, &k.Method, &k.Tag}[part] = strconv.Itoa(i)
				hashes[k.hash()] = true
			}
			if len(hashes) != 1000 {
				t.Errorf("1000 keys like %+v, different in part %d, have %d hashes", rest, part, len(hashes))
			}
		}
	}
}

func TestKeyCovers(t *testing.T) {
	full := Key{"t", "s", "m", "g"}
	tests := []struct {
		match, key Key
		want       bool
	}{
		{Key{}, Key{}, true},
		{Key{}, full, true},
		{full, full, true},
		{full, Key{}, false},
		{Key{Target: "t"}, full, true},
		{Key{Service: "s"}, full, true},
		{Key{Method: "m"}, full, true},
		{Key{Tag: "g"}, full, true},
		{Key{Target: "x"}, full, false},
		{Key{Service: "x"}, full, false},
		{Key{Method: "x"}, full, false},
		{Key{Tag: "x"}, full, false},
		{Key{Target: "t", Service: "x"}, full, false},
		{Key{Method: "m", Tag: "g"}, full, true},
	}
	for _, tt := range tests {
		if got := tt.match.covers(tt.key); got != tt.want {
			t.Errorf("%+v covers %+v: got %v, want %v", tt.match, tt.key, got, tt.want)
		}
	}
}

func TestKeySpecificity(t *testing.T) {
	// From the least specific to the most specific.
	order := []Key{
		{},
		{Target: "x"},
		{Service: "x"},
		{Method: "x"},
		{Tag: "x"},
		{Target: "x", Service: "x"},
		{Target: "x", Method: "x"},
		{Service: "x", Method: "x"},
		{Target: "x", Tag: "x"},
		{Service: "x", Tag: "x"},
		{Method: "x", Tag: "x"},
		{Target: "x", Service: "x", Method: "x"},
		{Target: "x", Service: "x", Tag: "x"},
		{Target: "x", Method: "x", Tag: "x"},
		{Service: "x", Method: "x", Tag: "x"},
		{"x", "x", "x", "x"},
	}
	for i := 1; i < len(order); i++ {
		if a, b := order[i-1].specificity(), order[i].specificity(); a >= b {
			t.Errorf("%+v has %d, which is not below the %d of %+v", order[i-1], a, b, order[i])
		}
	}
}
