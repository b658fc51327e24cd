package breaker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func methodKey(i int) Key { return Key{Method: fmt.Sprint(i)} }

func TestB32_ConcurrentGetMakesOneBreakerConcurrentSafe(t *testing.T) {
	const callers, keys = 8, 200 // enough keys for the table to be replaced several times
	g := mustGroup(t, Config{})
	got := make([][keys]*Breaker, callers)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			<-start
			for j := range keys {
				got[i][j] = g.Get(methodKey(j))
				if b, ok := g.Lookup(methodKey(j)); ok && b != got[i][j] {
					t.Errorf("key %d: Lookup finds another breaker", j)
				}
				p, err := got[i][j].Acquire(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				p.Done(t.Context(), Success)
			}
		})
	}
	close(start)
	wg.Wait()
	for i := range got {
		if got[i] != got[0] {
			t.Fatalf("callers 0 and %d got different breakers", i)
		}
	}
	if g.Len() != keys {
		t.Errorf("Len is %d, want %d", g.Len(), keys)
	}
	for key, b := range g.All() {
		if s := b.Snapshot(); s.Successes != callers {
			t.Errorf("%v: %d successes, want %d: a call went to another breaker", key, s.Successes, callers)
		}
	}
}

// mustNotBlock runs f, which must not wait for a lock that the test holds.
func mustNotBlock(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second): // only if it fails
		t.Fatalf("%s waits for a lock", what)
	}
}

// Get of a known key takes no exclusive lock. Neither do calls of a closed breaker and rejections.
func TestB32_TheHotPathTakesNoLock(t *testing.T) {
	for name, cfg := range map[string]Config{
		"default": {}, "slow rule": {SlowCall: time.Hour},
		"no window": {FailureRatio: -1},
	} {
		cfg.Window = time.Hour  // because sliding takes the lock
		cfg.OpenFor = time.Hour // because a probe takes it too
		g := mustGroup(t, cfg)
		b, open, half := g.Get(Key{}), g.Get(methodKey(1)), g.Get(methodKey(2))
		open.Trip(t.Context(), "test")
		half.Trip(t.Context(), "test")
		d := half.begin(t.Context())
		d.toHalfOpen()
		half.mu.Unlock()
		acquire(t, half)
		_ = mustReject(t, half) // the first rejection takes the lock to set gate.until

		g.mu.Lock()
		for _, b := range []*Breaker{b, open, half} {
			b.mu.Lock()
		}
		mustNotBlock(t, name+": Get", func() { g.Get(Key{}) })
		mustNotBlock(t, name+": Lookup", func() { g.Lookup(Key{}); g.Lookup(methodKey(99)) })
		mustNotBlock(t, name+": All", func() {
			for range g.All() {
			}
		})
		mustNotBlock(t, name+": State", func() { b.State(); open.State(); half.State() })
		mustNotBlock(t, name+": a success", func() {
			if p, err := b.Acquire(t.Context()); err == nil {
				p.Done(t.Context(), Success)
			}
		})
		mustNotBlock(t, name+": a rejection", func() { _, _ = open.Acquire(t.Context()) })
		mustNotBlock(t, name+": a half-open rejection", func() { _, _ = half.Acquire(t.Context()) })
		for _, b := range []*Breaker{b, open, half} {
			b.mu.Unlock()
		}
		g.mu.Unlock()
		if s := b.Snapshot(); s.Successes != 1 {
			t.Errorf("%s: %d successes, want 1", name, s.Successes)
		}
		if a, b := open.Snapshot().Rejections, half.Snapshot().Rejections; a != (ReasonCounts{Open: 1}) ||
			b != (ReasonCounts{HalfOpen: 2}) {
			t.Errorf("%s: rejections %+v and %+v, want 1 open and 2 half-open", name, a, b)
		}
	}
}

func TestGroup(t *testing.T) {
	g := mustGroup(t, Config{})
	if _, ok := g.Lookup(Key{}); ok || g.Len() != 0 {
		t.Errorf("a new group has %d breakers", g.Len())
	}
	a, b := g.Get(Key{Method: "a"}), g.Get(Key{Method: "b"})
	if got, ok := g.Lookup(a.Key()); !ok || got != a || g.Get(a.Key()) != a || a == b {
		t.Error("a key has more than one breaker, or two keys have one")
	}
	if _, ok := g.Lookup(Key{Method: "c"}); ok || g.Len() != 2 {
		t.Error("Lookup makes breakers")
	}
	want := map[Key]*Breaker{a.Key(): a, b.Key(): b}
	if got := maps.Collect(g.All()); !maps.Equal(got, want) {
		t.Errorf("All yields %v, want %v", got, want)
	}
	n := 0
	for range g.All() {
		n++
		break
	}
	if n != 1 {
		t.Errorf("a loop that ends at once ran %d times", n)
	}
	g.CountUnguarded()
	wantSame(t, "Stats", g.Stats(), GroupStats{Breakers: 2, Unguarded: 1})
}

// All may miss breakers that are added meanwhile. It yields no breaker twice and misses none that was there before.
func TestAllWhileTheTableGrows(t *testing.T) {
	g := mustGroup(t, Config{})
	for i := range 10 {
		g.Get(methodKey(i))
	}
	seen := make(map[Key]int)
	for key := range g.All() {
		seen[key]++
		for i := range 20 {
			g.Get(methodKey(100*len(seen) + i))
		}
	}
	for key, n := range seen {
		if n != 1 {
			t.Errorf("%v was yielded %d times", key, n)
		}
	}
	for i := range 10 {
		if seen[methodKey(i)] == 0 {
			t.Errorf("%d was missed", i)
		}
	}
}

func TestOptions(t *testing.T) {
	var none Option
	var noFunc option
	for _, tt := range []struct {
		name string
		opts []Option
		want string
	}{
		{"nil", []Option{none}, "option 0 is nil"},
		{"a nil function", []Option{WithTrip(func(Counts) bool { return false }), noFunc}, "option 1 is nil"},
		{"WithListener(nil)", []Option{WithListener(nil)}, "WithListener: the function is nil"},
		{"WithTrip(nil)", []Option{WithTrip(nil)}, "WithTrip: the function is nil"},
	} {
		b, err := New(Key{}, Config{}, tt.opts...)
		if b != nil || err == nil || err.Error() != "breaker: "+tt.want {
			t.Errorf("%s: New returned %v, %v; want the error %q", tt.name, b, err, tt.want)
		}
		opts := make([]GroupOption, len(tt.opts))
		for i, o := range tt.opts {
			opts[i] = o
		}
		g, err := NewGroup(Config{}, opts...)
		if g != nil || err == nil || err.Error() != "breaker: "+tt.want {
			t.Errorf("%s: NewGroup returned %v, %v; want the error %q", tt.name, g, err, tt.want)
		}
	}
	var noGroupFunc groupOption
	for _, tt := range []struct {
		name string
		opt  GroupOption
		want string
	}{
		{"nil", nil, "option 0 is nil"},
		{"a nil function", noGroupFunc, "option 0 is nil"},
		{"WithMaxBreakers(0)", WithMaxBreakers(0), "WithMaxBreakers: n is 0, want 1 or more"},
		{"WithMaxBreakers(-1)", WithMaxBreakers(-1), "WithMaxBreakers: n is -1, want 1 or more"},
	} {
		g, err := NewGroup(Config{}, tt.opt)
		if g != nil || err == nil || err.Error() != "breaker: "+tt.want {
			t.Errorf("%s: NewGroup returned %v, %v; want the error %q", tt.name, g, err, tt.want)
		}
	}
	// If an option is given more than once, listeners add up, and the last custom rule counts.
	events := 0
	count := WithListener(func(context.Context, Event) { events++ })
	b := mustNew(t, Config{}, count, WithTrip(func(Counts) bool { return false }), count,
		WithTrip(func(Counts) bool { return true }))
	report(t, b, 1, Failure)
	if b.State() != Open || events != 2 {
		t.Errorf("%v, %d events received; want open, 2", b.State(), events)
	}
}

// Apply keeps states, generations, permits and deadlines.
func TestB34_ApplyKeepsStateAndPermits(t *testing.T) {
	const due = 5 * time.Second
	other := Config{
		ConsecutiveFailures: 3, FailingFor: -1, FailureRatio: 0.9, MinCalls: 3, OpenFor: time.Hour, MaxOpenFor: 2 * time.Hour,
		Jitter: 1, Backoff: 9,
		SlowCall: time.Hour, SuccessesToClose: 5, MaxProbes: 1, ProbeTimeout: time.Hour,
	}
	for _, tt := range []struct {
		name          string
		before, after []row
	}{
		{
			"closed",
			[]row{{0, "failure begin:1 begin:2", "closed"}},
			[]row{{0, "end:1=failure", "closed"}, {0, "end:2=failure", "open"}},
		},
		{
			"open: the deadline stays, and the next period is that of the new policy",
			[]row{{0, "trip", "open"}, {due - 2, "", "open"}},
			[]row{
				{due - 1, "success", "rejected:open open"},
				{due, "failure", "probe open"},
				{due + time.Hour, "success", "rejected:open open"},
			},
		},
		{"half-open: probes and their leases stay, and new ones follow the new policy", []row{
			{0, "trip", "open"}, {due, "success begin:1", "probe*2 half_open"},
		}, []row{
			{due + 10*time.Second - 1, "success", "rejected:half_open half_open"},
			// 1 is lost at the end of the old lease
			{due + 10*time.Second, "begin:2 success", "probe rejected:half_open half_open"},
			{due + time.Hour, "success", "rejected:half_open half_open"},
			{due + time.Hour, "end:2=success success*2", "probe*2 half_open"}, // one before, three after
			{due + time.Hour, "success", "probe closed"},
		}},
		{
			"an override",
			[]row{{0, "trip force_closed/1h", "closed"}},
			[]row{{time.Hour - 1, "success", "closed"}, {time.Hour, "success", "probe half_open"}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var rec recorder
				g := mustGroup(t, Config{Jitter: -1, SuccessesToClose: 9}, WithListener(rec.Transition))
				b := g.Get(Key{})
				tl := newTimeline(t, b)
				tl.run(tt.before...)
				events := len(rec.received())
				before := b.Snapshot()
				if err := g.Apply(other); err != nil {
					t.Fatal(err)
				}
				after := b.Snapshot()
				if after.MinCalls != 3 {
					t.Errorf("MinCalls is %d, want 3: the new policy is not in force", after.MinCalls)
				}
				after.MinCalls, after.Config = before.MinCalls, before.Config
				if diff := cmp.Diff(before, after); diff != "" {
					t.Errorf("Apply changed more than the policy:\n%s", diff)
				}
				if got := len(rec.received()) - events; got != 0 {
					t.Errorf("Apply made %d events", got)
				}
				tl.run(tt.after...)
				if got := b.Snapshot().Late; got != 0 {
					t.Errorf("%d results were late", got)
				}
			})
		})
	}
}

// Counts survive a change of thresholds. A change of Window starts an empty window. If no rule uses it, there is none.
func TestB34_CountsAndTheWindow(t *testing.T) {
	counts := Counts{Successes: 3, Failures: 3, Overloads: 1, Slow: 1, ConsecutiveFailures: 2}
	base := Config{FailingFor: -1, SlowCall: time.Second, MinCalls: 100, Jitter: -1}
	with := func(change func(*Config)) Config {
		c := base
		change(&c)
		return c
	}
	for _, tt := range []struct {
		name   string
		cfg    Config
		window Counts
		next   string // the state after the next failure
	}{
		{"nothing", base, counts, "closed"},
		{"MinCalls", with(func(c *Config) { c.MinCalls = 8 }), counts, "open"}, // 5 of 8 failed
		{"MinCalls, not yet", with(func(c *Config) { c.MinCalls = 9 }), counts, "closed"},
		{"ConsecutiveFailures", with(func(c *Config) { c.ConsecutiveFailures = 3 }), counts, "open"},
		{"FailureRatio", with(func(c *Config) { c.MinCalls, c.FailureRatio = 8, 0.63 }), counts, "closed"},
		{"SlowRatio", with(func(c *Config) { c.MinCalls, c.FailureRatio, c.SlowRatio = 8, -1, 0.125 }), counts, "open"},
		{
			"SlowCall off", with(func(c *Config) { c.MinCalls, c.FailureRatio, c.SlowRatio, c.SlowCall = 8, 0.63, 0.125, 0 }),
			counts, "closed",
		},
		{
			"no rule for the window", with(func(c *Config) { c.MinCalls, c.FailureRatio, c.SlowCall = 8, -1, 0 }),
			Counts{ConsecutiveFailures: 2},
			"closed",
		},
		{"Window", with(func(c *Config) { c.Window = time.Minute }), Counts{ConsecutiveFailures: 2}, "closed"},
		{
			"Window and MinCalls", with(func(c *Config) { c.Window, c.MinCalls = time.Second, 2 }),
			Counts{ConsecutiveFailures: 2},
			"closed",
		},
		{
			"Window and ConsecutiveFailures", with(func(c *Config) { c.Window, c.ConsecutiveFailures = time.Second, 3 }),
			Counts{ConsecutiveFailures: 2},
			"open",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := mustGroup(t, base)
				b := g.Get(Key{})
				tl := newTimeline(t, b)
				tl.run(row{0, "success*2 failure overload success~2s failure*2 begin:1 begin:2", "closed"})
				if err := g.Apply(tt.cfg); err != nil {
					t.Fatal(err)
				}
				s := b.Snapshot()
				wantSame(t, "window", s.Window, tt.window)
				if s.Successes != 3 || s.Failures != 3 || s.Overloads != 1 || s.SlowCalls != 1 || s.InFlight != 2 ||
					s.Generation != 1 {
					t.Errorf("totals: %+v", s)
				}
				tl.run(row{0, "end:1=failure", tt.next})
				tl.do("end:2=success")
				if s := b.Snapshot(); s.InFlight != 0 || s.Late != map[string]uint64{"open": 1}[tt.next] {
					t.Errorf("%d in flight, %d late", s.InFlight, s.Late)
				}
			})
		})
	}
}

// After Apply, more slots are free at once, also for calls that are rejected without the lock.
func TestB34_MoreProbesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := mustGroup(t, steady())
		tl := newTimeline(t, g.Get(Key{}))
		tl.run(row{0, "trip", "open"}, row{5 * time.Second, "begin:1 success", "probe rejected:half_open half_open"})
		more := steady()
		more.MaxProbes = 3
		if err := g.Apply(more); err != nil {
			t.Fatal(err)
		}
		tl.run(row{5 * time.Second, "begin:2 begin:3 success", "probe*2 rejected:half_open half_open"})
		if err := g.Apply(steady()); err != nil { // fewer slots do not affect probes in flight
			t.Fatal(err)
		}
		tl.run(
			row{5 * time.Second, "end:1=ignored end:2=ignored success", "rejected:half_open half_open"},
			row{5 * time.Second, "end:3=ignored success", "probe closed"},
		)
	})
}

// In a bubble the group makes no pause after a search for room, which takes no time there.
func TestB34_ApplyReachesNewBreakersToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := func(minCalls int) Config { return Config{MinCalls: minCalls} }
		g := mustGroup(t, config(1), WithPolicy(PolicyRule{Match: Key{Method: "a"}, Config: config(2)}), WithMaxBreakers(3))
		for _, m := range []string{"a", "b", "c"} {
			g.Get(Key{Method: m}).Trip(t.Context(), "test")
		}
		over := g.Get(Key{Method: "d"})
		if over.Key() != overflowKey {
			t.Fatalf("got %v, want the overflow breaker", over.Key())
		}
		minCalls := func() (all []string) {
			for key, b := range g.All() {
				all = append(all, fmt.Sprintf("%v %d", key, b.Snapshot().MinCalls))
			}
			slices.Sort(all)
			return all
		}
		wantSame(t, "before", minCalls(), []string{"/a 2", "/b 1", "/c 1", "tag=overflow 1"})
		err := g.Apply(config(3), PolicyRule{Match: Key{Method: "b"}, Config: config(4)}, PolicyRule{Match: overflowKey, Config: config(5)},
			PolicyRule{Match: Key{Method: "e"}, Config: config(6)})
		if err != nil {
			t.Fatal(err)
		}
		// the old rules do not count any more
		wantSame(t, "after", minCalls(), []string{"/a 3", "/b 4", "/c 3", "tag=overflow 5"})
		g.Get(Key{Method: "c"}).Reset(t.Context())
		if got := g.Get(Key{Method: "e"}).Snapshot().MinCalls; got != 6 {
			t.Errorf("a new breaker has %d, want 6", got)
		}
		if err := g.Apply(config(7), PolicyRule{Match: Key{Method: "x"}}, PolicyRule{Match: Key{Method: "x"}}); err == nil {
			t.Error("the same Match twice: got no error")
		}
		if got := g.Get(Key{Method: "b"}).Snapshot().MinCalls; got != 4 {
			t.Errorf("after an Apply that failed it is %d, want 4", got)
		}
	})
}

// A breaker recovers if Apply is called while it is open.
func TestB34_ApplyWhileOpenStillRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := mustGroup(t, steady())
		tl := newTimeline(t, g.Get(Key{}))
		tl.run(row{0, "trip", "open"})
		for range 5 {
			if err := g.Apply(Config{
				FailingFor: -1, Jitter: -1, SuccessesToClose: 1, Window: time.Minute,
				MaxConcurrent: 4,
			}); err != nil {
				t.Fatal(err)
			}
		}
		tl.run(row{5 * time.Second, "success", "probe closed"}, row{5 * time.Second, "failure*5", "open"})
	})
}
