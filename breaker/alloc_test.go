package breaker

import (
	"context"
	"math"
	"runtime"
	"testing"
	"time"
)

// zeroAllocs fails if f allocates.
func zeroAllocs(t *testing.T, what string, f func()) {
	t.Helper()
	if n := testing.AllocsPerRun(1000, f); n != 0 {
		t.Errorf("%s: %v allocations, want none", what, n)
	}
}

func TestACallAllocatesNothing(t *testing.T) {
	ctx := t.Context()
	call := func(b *Breaker, o Outcome) func() {
		return func() {
			p, err := b.Acquire(ctx)
			if err != nil {
				t.Fatal(err)
			}
			p.Done(ctx, o)
		}
	}
	reject := func(b *Breaker, want Reason) func() {
		return func() {
			_, err := b.Acquire(ctx)
			if e, ok := err.(*RejectedError); !ok || e.Reason != want { //nolint:errorlint // errors.As allocates
				t.Fatalf("got %v, want a rejection for reason %v", err, want)
			}
		}
	}
	loose := Config{ConsecutiveFailures: -1, FailureRatio: 1, MinCalls: math.MaxInt}
	zeroAllocs(t, "success, no window", call(mustNew(t, Config{FailureRatio: -1}), Success))
	zeroAllocs(t, "success", call(mustNew(t, Config{}), Success))
	zeroAllocs(t, "success, slow rule on", call(mustNew(t, Config{SlowCall: time.Hour}), Success))
	zeroAllocs(t, "success, the window slides all the time", call(mustNew(t, Config{Window: time.Millisecond}), Success))
	zeroAllocs(t, "success, MaxConcurrent", call(mustNew(t, Config{MaxConcurrent: 5}), Success))
	zeroAllocs(t, "failure", call(mustNew(t, loose), Failure))
	zeroAllocs(t, "overload", call(mustNew(t, loose), Overload))
	zeroAllocs(t, "ignored", call(mustNew(t, Config{}), Ignored))

	b := mustNew(t, Config{})
	zeroAllocs(t, "Do", func() {
		if err := b.Do(ctx, succeed); err != nil {
			t.Fatal(err)
		}
	})
	zeroAllocs(t, "State and Snapshot", func() { _, _ = b.State(), b.Snapshot() })

	open := mustNew(t, Config{OpenFor: time.Hour})
	open.Trip(ctx, "test")
	zeroAllocs(t, "rejection while open", reject(open, ReasonOpen))

	half := mustNew(t, Config{OpenFor: time.Millisecond, ProbeTimeout: time.Hour})
	half.Trip(ctx, "test")
	for half.State() == Open {
		_, _ = half.Acquire(ctx)
	}
	zeroAllocs(t, "rejection while half-open", reject(half, ReasonHalfOpen))

	forced := mustNew(t, Config{})
	setOverride(t, forced, ForceOpen, 0)
	zeroAllocs(t, "forced rejection", reject(forced, ReasonForced))

	full := mustNew(t, Config{MaxConcurrent: 1})
	acquire(t, full)
	zeroAllocs(t, "rejection at MaxConcurrent", reject(full, ReasonConcurrency))

	g := mustGroup(t, Config{})
	keys := oddKeys()
	for _, k := range keys {
		g.Get(k)
	}
	zeroAllocs(t, "Get and Lookup of known keys", func() {
		for _, k := range keys[:11] { // without the huge ones, which are slow
			g.Get(k)
			g.Lookup(k)
		}
	})
}

func succeed(context.Context) error { return nil }

// A closed breaker takes at most 400 bytes. That includes its slot in the group, but not the strings of its key.
func TestAClosedBreakerIsSmall(t *testing.T) {
	const keys, most = 100_000, 400
	names := make([]Key, keys)
	for i := range names {
		names[i] = methodKey(i)
	}
	g := mustGroup(t, Config{}, WithMaxBreakers(keys))
	before := heap()
	for _, k := range names {
		report(t, g.Get(k), 1, Success)
	}
	per := float64(heap()-before) / keys
	runtime.KeepAlive(g)
	runtime.KeepAlive(names)
	t.Logf("%.0f bytes", per)
	if per > most {
		t.Errorf("a closed breaker takes %.0f bytes, want at most %d", per, most)
	}
}
