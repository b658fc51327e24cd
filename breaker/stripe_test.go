package breaker

import (
	"math"
	"reflect"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// withStripes returns a breaker with stripes for three Ps.
func withStripes(tb testing.TB, cfg Config, opts ...Option) *Breaker {
	tb.Helper()
	b := mustNew(tb, cfg, opts...)
	b.enableStripes(3)
	if ph := b.phase.Load(); !ph.striped || len(b.lazy.Load().loadStripes()) != 6 || len(ph.win.stripeList()) != 6 {
		tb.Fatalf("striped: %v, %d and %d stripes, want 6 and 6", ph.striped, len(b.lazy.Load().loadStripes()),
			len(ph.win.stripeList()))
	}
	return b
}

// addToEachStripe counts n calls in each stripe, and returns how many these are in all.
func addToEachStripe(b *Breaker, n uint64) (all uint64) {
	w := b.phase.Load().win
	for i := range b.lazy.Load().loadStripes() {
		b.lazy.Load().loadStripes()[i].admitted.Add(n)
		w.stripeList()[i].successes[w.slot.Load()].Add(n)
		all += n
	}
	return all
}

func TestStripesAfterContention(t *testing.T) {
	for _, tt := range []struct {
		n, others uint64
		want      bool
	}{
		{sampleEvery, contendedFrom, true},
		{3 * sampleEvery, 1000, true},
		{sampleEvery, contendedFrom - 1, false},
		{sampleEvery, 0, false},
		{sampleEvery - 1, 1000, false},
		{sampleEvery + 1, 1000, false},
		{1, 1000, false},
	} {
		b := mustNew(t, Config{})
		var counter atomic.Uint64
		counter.Store(tt.n + tt.others)
		b.noteContention(&counter, tt.n)
		if got := b.phase.Load().striped; got != tt.want {
			t.Errorf("%d calls of others after number %d: striped: %v, want %v", tt.others, tt.n, got, tt.want)
		}
		if want := min(32, 2*runtime.GOMAXPROCS(0)); tt.want && len(b.phase.Load().win.stripeList()) != want {
			t.Errorf("%d stripes, want %d", len(b.phase.Load().win.stripeList()), want)
		}
	}
	// A counter at its maximum, for which inc returns 0, shows no contention.
	full := mustNew(t, Config{})
	var most atomic.Uint64
	most.Store(math.MaxUint64)
	full.noteContention(&most, 0)
	if full.phase.Load().striped {
		t.Error("a counter at its maximum enables stripes")
	}
	// A bucket that was drained during the sample shows no contention.
	b := mustNew(t, Config{})
	b.noteContention(new(atomic.Uint64), sampleEvery)
	if b.phase.Load().striped {
		t.Error("a window that slides enables stripes")
	}
}

// One goroutine causes no contention, however many calls it makes.
func TestOneCallerGetsNoStripes(t *testing.T) {
	for _, cfg := range []Config{{}, {FailureRatio: -1}, {OpenFor: time.Hour}} {
		b := mustNew(t, cfg)
		if cfg.OpenFor != 0 {
			b.Trip(t.Context(), "test")
		}
		for range 4 * sampleEvery {
			if p, err := b.Acquire(t.Context()); err == nil {
				p.Done(t.Context(), Success)
			}
		}
		if c := b.lazy.Load(); b.phase.Load().striped || c != nil && c.loadStripes() != nil {
			t.Errorf("%+v: one caller enabled stripes", cfg)
		}
	}
}

// Several goroutines cause contention if they run at once, and no count is lost when stripes are enabled. If they do
// not run at once (one core, or a busy machine), the test enables the stripes after some time.
func TestB09_StripesAppearDuringCallsConcurrentSafe(t *testing.T) {
	for _, rejecting := range []bool{false, true} {
		b := mustNew(t, Config{OpenFor: time.Hour})
		if rejecting {
			b.Trip(t.Context(), "test")
		}
		striped := func() bool { c := b.lazy.Load(); return c != nil && c.loadStripes() != nil }
		var calls atomic.Uint64
		start := time.Now()
		runTogether(4, func(int) {
			n := uint64(0)
			for ; n < 1000 || n%64 != 0 || !striped(); n++ {
				if p, err := b.Acquire(t.Context()); err == nil {
					p.Done(t.Context(), Success)
				}
				if n%1024 == 0 && time.Since(start) > 2*time.Second {
					b.enableStripes(2)
				}
			}
			calls.Add(n)
		})
		t.Logf("rejecting: %v; stripes after %v", rejecting, time.Since(start))
		s := wantSettled(t, "in the end", b)
		if got := s.Successes + s.Rejections.Total(); got != calls.Load() {
			t.Errorf("rejecting: %v; %d counted of %d calls", rejecting, got, calls.Load())
		}
	}
}

// B9, B7, B37: counts in stripes slide out of the window and add up like other counts.
func TestB09_StripesCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := withStripes(t, Config{Window: 10 * time.Second})
		check := func(what string, admitted, successes, window uint64) {
			t.Helper()
			s := b.Snapshot()
			if s.Admitted != admitted || s.Successes != successes || s.Window.Successes != window ||
				s.InFlight != admitted-successes {
				t.Errorf("%s: %d admitted, %d successes, %d in the window, %d in flight; want %d, %d, %d, %d", what,
					s.Admitted, s.Successes, s.Window.Successes, s.InFlight, admitted, successes, window, admitted-successes)
			}
		}
		report(t, b, 5, Success)
		check("calls", 5, 5, 5)
		if b.admitted.Load() != 0 || b.phase.Load().win.successes[0].Load() != 0 {
			t.Error("the calls were not counted in a stripe")
		}
		all := 5 + addToEachStripe(b, 7)
		check("in every stripe", all, all, all)
		p := acquire(t, b)
		check("one in flight", all+1, all, all)
		time.Sleep(5 * time.Second)
		p.Done(t.Context(), Success)
		check("later", all+1, all+1, all+1)
		time.Sleep(5 * time.Second)
		check("a window after the first", all+1, all+1, 1)
		report(t, b, 1, Success) // slides the window
		check("after the window has slid", all+2, all+2, 2)
		addToEachStripe(b, 1)
		time.Sleep(time.Hour)
		report(t, b, 1, Success)
		check("an hour later", all+9, all+9, 1)
	})
}

// The rules include the counts in stripes.
func TestB05_TheRatioCountsStripes(t *testing.T) {
	b := withStripes(t, Config{ConsecutiveFailures: -1, FailureRatio: 0.5, MinCalls: 1})
	all := addToEachStripe(b, 2)
	report(t, b, int(all)-1, Failure)
	if got := b.State(); got != Closed {
		t.Fatalf("%v after %d failures and %d successes, want closed", got, all-1, all)
	}
	report(t, b, 1, Failure)
	if got := b.State(); got != Open {
		t.Errorf("%v after %d failures and %d successes, want open", got, all, all)
	}
}

// A success that counts in a stripe ends the failure streak, and may be slow. A call that was admitted before there
// were stripes counts too.
func TestB04_B06_StripesOnTheClosedPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, Config{SlowCall: time.Second, SlowRatio: 1, MinCalls: 100})
		before := acquire(t, b)
		b.enableStripes(1)
		if ph := b.phase.Load(); ph.kind != admitStriped {
			t.Fatalf("admission is %d, want admitStriped", ph.kind)
		}
		p, fast := acquire(t, b), acquire(t, b)
		if p.start == 0 {
			t.Error("the slow rule is on, and the start of a call was not taken")
		}
		fast.Done(t.Context(), Success)
		time.Sleep(time.Second + 1)
		report(t, b, 2, Failure)
		p.Done(t.Context(), Success)
		before.Done(t.Context(), Success)
		s := b.Snapshot()
		if s.SlowCalls != 2 || s.Successes != 3 || s.Window.Slow != 2 || s.Window.ConsecutiveFailures != 0 ||
			s.InFlight != 0 {
			t.Errorf("%d slow, %d successes, %+v, %d in flight; want 2, 3, no streak, 0", s.SlowCalls, s.Successes, s.Window,
				s.InFlight)
		}
		plain := withStripes(t, Config{})
		if p := acquire(t, plain); p.start != 0 {
			t.Error("no rule needs the start of a call, and it was taken")
		}
		windowless := withStripes(t, Config{FailureRatio: -1})
		report(t, windowless, 2, Failure)
		report(t, windowless, 1, Success)
		if s := windowless.Snapshot(); s.Window != (Counts{}) || s.Successes != 1 || s.InFlight != 0 {
			t.Errorf("without a window: %+v, %d successes, %d in flight", s.Window, s.Successes, s.InFlight)
		}
		if !windowless.settleSuccess(acquire(t, windowless), 0) {
			t.Error("without a window a success in a stripe takes the lock")
		}
	})
}

// The stripes of a window end with its generation, and their counts are not lost. The stripes of the breaker stay.
func TestB15_StripesEndWithTheGeneration(t *testing.T) {
	for name, end := range map[string]func(*Group, *Breaker){
		"a trip":                 func(_ *Group, b *Breaker) { b.Trip(t.Context(), "test") },
		"a reset":                func(_ *Group, b *Breaker) { b.Reset(t.Context()) },
		"another window":         func(g *Group, _ *Breaker) { apply(t, g, Config{Window: time.Minute}) },
		"no window":              func(g *Group, _ *Breaker) { apply(t, g, Config{FailureRatio: -1}) },
		"nothing but thresholds": nil,
	} {
		t.Run(name, func(t *testing.T) {
			g := mustGroup(t, Config{})
			b := g.Get(Key{})
			b.enableStripes(2)
			all := addToEachStripe(b, 3)
			ph := b.phase.Load()
			last := acquire(t, b)
			if end == nil {
				apply(t, g, Config{MinCalls: 7})
				if now := b.phase.Load(); !now.striped || now.win != ph.win {
					t.Errorf("striped: %v; the same window: %v; want both", now.striped, now.win == ph.win)
				}
			} else {
				end(g, b)
				if now := b.phase.Load(); now.striped || now.win == ph.win {
					t.Errorf("striped: %v; the same window: %v; want neither", now.striped, now.win == ph.win)
				}
			}
			last.Done(t.Context(), Success)
			s := b.Snapshot()
			if s.Admitted != all+1 || s.Successes+s.Late != all+1 || s.InFlight != 0 || s.Successes < all {
				t.Errorf("%d admitted, %d successes, %d late, %d in flight; want %d, all of them settled", s.Admitted, s.Successes,
					s.Late, s.InFlight, all+1)
			}
			if b.lazy.Load().loadStripes() == nil {
				t.Error("the stripes of the breaker were removed")
			}
		})
	}
}

func apply(t *testing.T, g *Group, cfg Config) {
	t.Helper()
	if err := g.Apply(cfg); err != nil {
		t.Fatal(err)
	}
}

// What a last leaves in a stripe of a generation that is over is collected.
func TestB09_DrainStaleCollectsFromStripes(t *testing.T) {
	b := withStripes(t, Config{})
	acquire(t, b)
	ph := b.phase.Load()
	b.Reset(t.Context())
	inc(&ph.win.stripeList()[5].successes[4])
	b.drainStale(ph)
	b.drainStale(ph)
	if s := b.Snapshot(); s.Successes != 1 || s.InFlight != 0 || s.Window.Successes != 0 {
		t.Errorf("%d successes, %d in flight, %d in the window; want 1, 0, 0", s.Successes, s.InFlight, s.Window.Successes)
	}
}

func TestB12_RejectionsInStripes(t *testing.T) {
	b := withStripes(t, Config{OpenFor: time.Hour})
	b.Trip(t.Context(), "test")
	for range 5 {
		if _, err := b.Acquire(t.Context()); err == nil {
			t.Fatal("admitted")
		}
	}
	if got := b.lazy.Load().rejections[ReasonOpen].Load(); got != 0 {
		t.Errorf("%d rejections were not counted in a stripe", got)
	}
	for i := range b.lazy.Load().loadStripes() {
		for r := ReasonOpen; int(r) < reasons; r++ {
			b.lazy.Load().loadStripes()[i].rejections[r].Add(uint64(r))
		}
	}
	const stripes = 6
	want := ReasonCounts{
		Open: stripes + 5, HalfOpen: 2 * stripes, Ramp: 3 * stripes, Forced: 4 * stripes,
		Concurrency: 5 * stripes,
	}
	if got := b.Snapshot().Rejections; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// Stripes are made once, and those of a window only while the breaker is closed.
func TestStripesAreEnabledOnce(t *testing.T) {
	b := withStripes(t, Config{})
	ph := b.phase.Load()
	all := addToEachStripe(b, 1)
	b.enableStripes(9)
	if b.phase.Load() != ph || len(b.lazy.Load().loadStripes()) != 6 || b.Snapshot().Successes != all {
		t.Error("a second enableStripes changed something")
	}
	b.Trip(t.Context(), "test")
	open := b.phase.Load()
	b.enableStripes(9)
	if b.phase.Load() != open || open.striped {
		t.Error("enableStripes changed the phase of an open breaker")
	}
	b.Reset(t.Context())
	b.enableStripes(4)
	if ph := b.phase.Load(); len(ph.win.stripeList()) != 8 || ph.gen != open.gen+1 {
		t.Errorf("%d stripes in the new window, generation %d; want 8, %d", len(ph.win.stripeList()), ph.gen, open.gen+1)
	}
	if s := b.Snapshot(); s.Successes != all || s.Admitted != all {
		t.Errorf("%d successes of %d admitted, want %d", s.Successes, s.Admitted, all)
	}

	large := mustNew(t, Config{})
	large.enableStripes(100)
	if got, want := len(large.lazy.Load().loadStripes()), 32; got != want ||
		len(large.phase.Load().win.stripeList()) != want {
		t.Errorf("%d and %d stripes on 100 Ps, want %d", got, len(large.phase.Load().win.stripeList()), want)
	}

	young := mustNew(t, Config{})
	young.Trip(t.Context(), "test")
	young.enableStripes(2)
	if got := len(young.lazy.Load().loadStripes()); got != 4 || young.phase.Load().striped {
		t.Errorf("open: %d stripes, want 4, for its rejections", got)
	}
}

// Under an override, a ramp or MaxConcurrent, calls are counted with the lock. Counts in stripes stay in the sums.
func TestB28_StripesUnderAnOverride(t *testing.T) {
	b := withStripes(t, Config{})
	all := addToEachStripe(b, 1)
	setOverride(t, b, Shadow, 0)
	if ph := b.phase.Load(); ph.kind != needsLock || !ph.striped {
		t.Errorf("admission %d, striped: %v; want needsLock, striped", ph.kind, ph.striped)
	}
	report(t, b, 1, Success)
	if s := b.Snapshot(); s.Admitted != all+1 || s.Successes != all+1 || s.Window.Successes != all+1 {
		t.Errorf("%d admitted, %d successes, %d in the window; want %d", s.Admitted, s.Successes, s.Window.Successes, all+1)
	}
	b.ClearOverride(t.Context())
	if ph := b.phase.Load(); ph.kind != admitStriped {
		t.Errorf("admission %d after the override, want admitStriped", ph.kind)
	}
}

// B33: a caller that counts itself in a stripe sees an eviction, and a call in flight in a stripe prevents one.
func TestB33_StripesAndEviction(t *testing.T) {
	for _, cfg := range []Config{{}, {FailureRatio: -1}} {
		b := mustGroup(t, cfg).Get(Key{})
		b.enableStripes(2)
		p := acquire(t, b)
		if evictNow(b) {
			t.Error("it was evicted with a call in flight in a stripe")
		}
		p.Done(t.Context(), Success)
		ph := b.phase.Load()
		counter := &b.lazy.Load().loadStripes()[1].admitted
		if !b.admitFast(ph, counter) {
			t.Error("nothing has changed, and the call is not admitted")
		}
		Permit{b: b, ph: ph}.Done(t.Context(), Success)
		if cfg.FailureRatio < 0 { // calls in stripes are uses
			b.evictable(1) // finds the earlier calls
			if last, ok := b.evictable(2); !ok || last != 1 {
				t.Errorf("without a call since the last check: evictable: %v, last used at %d; want true, at the check before", ok,
					last)
			}
			report(t, b, 1, Success)
			if last, ok := b.evictable(3); !ok || last != 3 {
				t.Errorf("after a call since the last check: evictable: %v, last used at %d; want true, now", ok, last)
			}
		}
		if !evictNow(b) {
			t.Fatal("it is idle and was not evicted")
		}
		if b.admitFast(ph, counter) {
			t.Error("it was evicted, and admits a call")
		}
		if got, settled := b.admittedTotal(), b.current().settled(); got < 2 || got != settled {
			t.Errorf("%d admitted, %d settled", got, settled)
		}
		last := b.phase.Load()
		b.enableStripes(2)
		if b.phase.Load() != last {
			t.Error("enableStripes changed an evicted breaker")
		}
	}
}

// If a generation ends while a success is counted in a stripe, the success is collected once.
func TestB09_StripesWhileGenerationsEndConcurrentSafe(t *testing.T) {
	b := mustNew(t, Config{ConsecutiveFailures: -1, FailureRatio: -1, SlowCall: time.Hour})
	var calls atomic.Uint64
	var done atomic.Bool
	runTogether(3, func(i int) {
		if i == 0 {
			for range 3000 {
				b.enableStripes(2)
				b.Reset(t.Context())
			}
			done.Store(true)
			return
		}
		for !done.Load() {
			if p, err := b.Acquire(t.Context()); err == nil {
				p.Done(t.Context(), Success)
				calls.Add(1)
			}
		}
	})
	s := wantSettled(t, "in the end", b)
	if s.Successes+s.Late != calls.Load() || s.Admitted != calls.Load() {
		t.Errorf("%d successes and %d late of %d calls, %d admitted", s.Successes, s.Late, calls.Load(), s.Admitted)
	}
	var left uint64
	b.mu.Lock()
	defer b.mu.Unlock()
	if left = b.phase.Load().win.total(); satAdd(b.retired, left) != s.Successes {
		t.Errorf("%d retired and %d in the window, want %d", b.retired, left, s.Successes)
	}
}

// For any number of stripes, each number selects a stripe, and each stripe is selected.
func TestStripeFor(t *testing.T) {
	for _, stripes := range []int{1, 2, 5} {
		of := make([]stripe, stripes)
		// First the numbers that are in the pools of the Ps, and then new ones.
		for i := range uint32(1000) {
			stripeNumbers.Put(&i)
			inc(&stripeFor(of).admitted)
			stripeNumbers.Get()
		}
		for i := range of {
			if of[i].admitted.Load() == 0 {
				t.Errorf("none of 1000 calls used stripe %d of %d", i, stripes)
			}
		}
	}
	numbers := map[uint32]bool{}
	for range 1000 {
		numbers[*stripeNumbers.New().(*uint32)] = true
	}
	if len(numbers) != 1000 {
		t.Errorf("%d numbers, want 1000", len(numbers))
	}
}

// Two stripes share no cache line. Otherwise cores would write to the same line.
func TestAStripeIsWholeCacheLines(t *testing.T) {
	if got := reflect.TypeFor[stripe]().Size(); got != 64 {
		t.Errorf("a stripe has %d bytes, want a cache line", got)
	}
	if got := reflect.TypeFor[windowStripe]().Size(); got != 128 {
		t.Errorf("a stripe of a window has %d bytes, want two cache lines", got)
	}
}

// A call that counts in a stripe allocates nothing.
func TestAStripeAllocatesNothing(t *testing.T) {
	ctx := t.Context()
	b := withStripes(t, Config{})
	zeroAllocs(t, "success in a stripe", func() {
		p, err := b.Acquire(ctx)
		if err != nil {
			t.Fatal(err)
		}
		p.Done(ctx, Success)
	})
	open := withStripes(t, Config{OpenFor: time.Hour})
	open.Trip(ctx, "test")
	zeroAllocs(t, "rejection in a stripe", func() {
		if _, err := open.Acquire(ctx); err == nil {
			t.Fatal("admitted")
		}
	})
}
