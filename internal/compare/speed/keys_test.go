package speed

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// BenchmarkKeys makes guarded calls that succeed, with a breaker for each of many keys in random order. It also reports
// the bytes of the heap for each key.
func BenchmarkKeys(b *testing.B) {
	for _, k := range Keyeds() {
		for _, keys := range KeyCounts {
			b.Run(fmt.Sprintf("%s/keys=%d", k.BenchmarkName(), keys), func(b *testing.B) {
				r := newKeyRun(b, k, keys)
				b.ReportAllocs()
				b.ResetTimer()
				i := 0
				for b.Loop() {
					if r.Call(r.methods[i]) != nil {
						b.Fatal("rejected")
					}
					if i++; i == keys {
						i = 0
					}
				}
				if keys >= 1000 { // with fewer keys, the other heap use of the process is larger
					b.ReportMetric(r.bytes, "bytes/key")
				}
				r.check(b)
			})
		}
	}
}

type keyRun struct {
	*KeyedGuard
	methods []string
	bytes   float64
}

// newKeyRun makes one call with each key, so that every breaker exists.
func newKeyRun(tb testing.TB, k Keyed, keys int) *keyRun {
	tb.Helper()
	r := &keyRun{methods: make([]string, keys)}
	for i := range r.methods {
		r.methods[i] = fmt.Sprintf("/shop.Orders%d/%s%d", i%100, benchmarkName(k.Name), i)
	}
	before := memory()
	var err error
	if r.KeyedGuard, err = k.New(keys); err != nil {
		tb.Fatal(err)
	}
	if r.Close != nil {
		tb.Cleanup(r.Close)
	}
	for _, m := range r.methods {
		if err := r.Call(m); err != nil {
			tb.Fatal(err)
		}
	}
	r.bytes = float64(memory()-before) / float64(keys)
	rand.New(rand.NewPCG(1, 2)).Shuffle(keys, func(i, j int) { r.methods[i], r.methods[j] = r.methods[j], r.methods[i] })
	return r
}

// check checks that a call runs the function, and that there are as many breakers as keys.
func (r *keyRun) check(tb testing.TB) {
	tb.Helper()
	ran.Store(0)
	watched.Store(true)
	err := r.Call(r.methods[0])
	watched.Store(false)
	if n := ran.Load(); err != nil || n != 1 {
		tb.Fatalf("a call ran the function %d times and returned %v", n, err)
	}
	if r.Breakers != nil {
		if n := r.Breakers(); n != len(r.methods) {
			tb.Fatalf("%d breakers for %d keys", n, len(r.methods))
		}
	}
}

func TestEveryKeyed(t *testing.T) {
	for _, k := range Keyeds() {
		for _, keys := range []int{1, 1000} {
			t.Run(fmt.Sprintf("%s, %d keys", k.Name, keys), func(t *testing.T) {
				r := newKeyRun(t, k, keys)
				for _, m := range r.methods {
					if err := r.Call(m); err != nil {
						t.Fatal(err)
					}
				}
				r.check(t)
			})
		}
	}
}
