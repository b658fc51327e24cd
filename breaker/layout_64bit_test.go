//go:build !386 && !arm && !mips && !mipsle

// The layout is made for words of 64 bits. With shorter words the fields are closer together, which affects only the
// speed.

package breaker

import (
	"reflect"
	"strings"
	"testing"
)

// A word that calls write must not share a cache line with one that all calls read, because the core that writes takes
// the line from all others. With separate lines, closed calls on two cores take three quarters of the time.
func TestTheClosedPathSharesNoCacheLine(t *testing.T) {
	for _, c := range []struct {
		typ           reflect.Type
		size          uintptr // a size class whose objects begin at a cache line
		read, written []string
	}{{
		typ:  reflect.TypeFor[Breaker](),
		size: 320,
		read: []string{
			"phase", "key", "hash", "firstPhase",
			"firstWindow.edge", "firstWindow.slot", "firstWindow.doubt", "firstWindow.streak",
		},
		written: []string{"admitted", "firstWindow.successes"},
	}, {
		typ:     reflect.TypeFor[paddedWindow](),
		size:    192,
		read:    []string{"window.edge", "window.slot", "window.doubt", "window.streak"},
		written: []string{"window.successes"},
	}} {
		if c.typ.Size() != c.size {
			t.Errorf("%v has %d bytes, want %d", c.typ, c.typ.Size(), c.size)
		}
		for _, r := range c.read {
			for _, w := range c.written {
				firstRead, lastRead := linesOf(t, c.typ, r)
				firstWritten, lastWritten := linesOf(t, c.typ, w)
				if firstRead <= lastWritten && firstWritten <= lastRead {
					t.Errorf("%v: %s, which calls write, shares a cache line with %s, which they read", c.typ, w, r)
				}
			}
		}
	}
}

// linesOf returns the first and the last cache line of the field at the end of path, counted from the start of typ.
func linesOf(t *testing.T, typ reflect.Type, path string) (first, last uintptr) {
	t.Helper()
	const line = 64 // bytes, on the common server processors
	var at uintptr
	for name := range strings.SplitSeq(path, ".") {
		f, ok := typ.FieldByName(name)
		if !ok {
			t.Fatalf("%v has no field %s", typ, name)
		}
		at += f.Offset
		typ = f.Type
	}
	return at / line, (at + typ.Size() - 1) / line
}
