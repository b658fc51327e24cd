package breaker

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// tripResetTrip makes three events.
func tripResetTrip(t *testing.T, b *Breaker) {
	t.Helper()
	b.Trip(t.Context(), "test")
	b.Reset(t.Context())
	b.Trip(t.Context(), "test")
}

var tripResetTripEvents = []string{"1 closed>open manual", "2 open>closed manual", "3 closed>open manual"}

// A listener that panics or exits affects nothing else. All listeners receive all events, and none twice.
func TestB30_AListenerMayPanicOrExit(t *testing.T) {
	for name, exit := range exits {
		var before, bad, after recorder
		b := mustNew(t, Config{}, WithListener(before.Transition), WithListener(func(ctx context.Context, e Event) {
			bad.Transition(ctx, e)
			exit()
		}), WithListener(after.Transition))
		for _, change := range []func(){
			func() { b.Trip(t.Context(), "test") }, func() { b.Reset(t.Context()) }, func() { b.Trip(t.Context(), "test") },
		} {
			if got, _ := runToEnd(change); got != nil {
				t.Errorf("%s: the listener's panic reached the caller: %v", name, got)
			}
		}
		for which, rec := range map[string]*recorder{
			"the listener before": &before, "the listener itself": &bad,
			"the listener after": &after,
		} {
			wantSame(t, name+", "+which, rec.brief(), tripResetTripEvents)
		}
		if s := b.Snapshot(); s.State != Open || s.Generation != 4 {
			t.Errorf("%s: %v in generation %d, want open in 4", name, s.State, s.Generation)
		}
		b.mu.Lock() // the lock is free and the queue is empty
		if q := &b.lazy.Load().events; q.delivering || len(q.queue) != 0 || q.recipients != nil {
			t.Errorf("%s: delivering: %v, %d events in the queue, %d listeners to go", name, q.delivering, len(q.queue),
				len(q.recipients))
		}
		b.mu.Unlock()
	}
}

// Several events wait in the queue when a listener exits its goroutine. The goroutine delivers all of them before it
// ends.
func TestB30_ExitingLeavesNothingInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var first, last recorder
		hold := make(chan struct{})
		b := mustNew(t, Config{}, WithListener(first.Transition), WithListener(func(_ context.Context, e Event) {
			if e.Seq == 1 {
				<-hold
			}
			runtime.Goexit()
		}), WithListener(last.Transition))
		go b.Trip(t.Context(), "test")
		synctest.Wait()
		b.Reset(t.Context()) // both only append to the queue
		b.Trip(t.Context(), "test")
		close(hold)
		synctest.Wait()
		wantSame(t, "received first", first.brief(), tripResetTripEvents)
		wantSame(t, "received last", last.brief(), tripResetTripEvents)
	})
}

// The listener exits the goroutine of a call that was admitted as a probe. Acquire does not return its permit, so its
// slot must be free again.
func TestB30_AnExitingListenerFreesTheSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, steady(), WithListener(func(_ context.Context, e Event) {
			if e.To == HalfOpen {
				runtime.Goexit()
			}
		}))
		b.Trip(t.Context(), "test")
		time.Sleep(5 * time.Second)
		_, exited := runToEnd(func() { _, _ = b.Acquire(t.Context()) })
		if !exited {
			t.Fatal("Acquire returned, although its listener exited")
		}
		s := b.Snapshot()
		if s.State != HalfOpen || s.InFlight != 0 || !s.Ready {
			t.Errorf("%v, %d in flight, ready: %v; want half_open, 0, true: the permit is lost", s.State, s.InFlight, s.Ready)
		}
	})
}

// A slow listener delays the call that delivers, and no other, of this breaker or another.
func TestB30_ASlowListenerDelaysOneCallOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorder
		slow := Key{Method: "slow"}
		g := mustGroup(t, steady(), WithListener(func(ctx context.Context, e Event) {
			if e.Key == slow && e.Seq == 1 {
				time.Sleep(time.Hour)
			}
			rec.Transition(ctx, e)
		}))
		b, other := g.Get(slow), g.Get(Key{Method: "other"})
		begin := time.Now()
		var tripped time.Duration
		go func() {
			b.Trip(t.Context(), "slow")
			tripped = time.Since(begin)
		}()
		synctest.Wait()

		// All of these return at once, and none delivers the events of the slow breaker out of order.
		newTimeline(t, b).run(row{0, "success", "rejected:open open"}, row{0, "reset success failure*5", "open"})
		newTimeline(t, other).run(row{0, "failure*5", "open"}, row{0, "reset", "closed"})
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("other calls were delayed by %v", waited)
		}
		// other's
		wantSame(t, "received meanwhile", rec.brief(), []string{"1 closed>open consecutive", "2 open>closed manual"})
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if tripped != time.Hour {
			t.Errorf("the call that delivers took %v, want an hour", tripped)
		}
		wantSame(t, "received in the end", rec.brief()[2:], []string{
			"1 closed>open manual", "2 open>closed manual", "3 closed>open consecutive",
		})
		if s := b.State(); s != Open {
			t.Errorf("%v, want open", s)
		}
	})
}

// An event carries the context of the call that caused it, also if the goroutine of another call delivers it.
func TestB31_TheContextIsOfTheCausingCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorder
		hold := make(chan struct{})
		b := mustNew(t, Config{}, WithListener(func(ctx context.Context, e Event) {
			if e.Seq == 1 {
				<-hold
			}
			rec.Transition(ctx, e)
		}))
		go b.Trip(tagged(t, "first"), "test")
		synctest.Wait()
		b.Reset(tagged(t, "second"))
		close(hold)
		synctest.Wait()
		for i, want := range []string{"first", "second"} {
			if got := rec.ctxs[i].Value(ctxKey{}); got != want {
				t.Errorf("event %d has the context of %v, want %v", i+1, got, want)
			}
		}
	})
}

// callsEverything is a listener that calls all methods.
type callsEverything struct {
	t *testing.T
	recorder
	g     *Group
	locks int
	depth int
}

func (n *callsEverything) Transition(ctx context.Context, e Event) {
	n.recorder.Transition(ctx, e)
	n.depth++
	defer func() { n.depth-- }()
	if n.depth > 1 {
		n.t.Error("received an event while it handled another one")
	}
	b := n.g.Get(e.Key)
	// No other goroutine is running, so each lock must be free.
	for _, mu := range []*sync.Mutex{&b.mu, &n.g.mu, &n.g.shared.listeners.mu} {
		if mu.TryLock() {
			mu.Unlock()
		} else {
			n.locks++
		}
	}
	_, _, _ = b.State(), b.Snapshot(), b.Key()
	if p, err := b.Acquire(ctx); err == nil {
		p.Done(ctx, Ignored)
	}
	_ = b.Do(ctx, func(context.Context) error { return nil })
	b.CountFallback(true)
	_ = n.g.Get(Key{Method: fmt.Sprint(e.Seq)})
	_, _ = n.g.Lookup(e.Key)
	_, _ = n.g.Len(), n.g.Stats()
	for range n.g.All() {
	}
	_ = n.g.Apply(Config{OpenFor: time.Hour})
	n.g.Listen(n.Transition)()
	if e.Seq == 1 {
		b.Reset(ctx) // makes event 2
		b.Trip(ctx, "listener")
		_ = b.SetOverride(ctx, Override{Mode: Shadow, Why: "listener", By: "listener"})
		b.ClearOverride(ctx)
	}
}

func TestB30_AListenerMayCallAnything(t *testing.T) {
	g := mustGroup(t, Config{OpenFor: time.Hour}) // so that the calls of the listener are no probes
	n := &callsEverything{t: t, g: g}
	stop := g.Listen(n.Transition)
	b := g.Get(Key{Method: "m"})
	b.Trip(t.Context(), "test")
	want := append(slices.Clone(tripResetTripEvents), "4 open>open override set", "5 open>open override cleared")
	wantSame(t, "events", n.brief(), want)
	if n.locks != 0 {
		t.Errorf("%d locks were held while the listener ran", n.locks)
	}
	stop()
	b.Reset(t.Context())
	wantSame(t, "events after stop", n.brief(), want)
}

// A function may be registered more than once. Each stop removes one registration.
func TestB30_ListenAndStop(t *testing.T) {
	g := mustGroup(t, Config{})
	b := g.Get(Key{})
	var one, two recorder
	trip := func() { b.Trip(t.Context(), "test") }
	want := func(ones, twos int) {
		t.Helper()
		if a, b := len(one.received()), len(two.received()); a != ones || b != twos {
			t.Errorf("received %d and %d events, want %d and %d", a, b, ones, twos)
		}
	}
	trip()
	want(0, 0)
	stop1 := g.Listen(one.Transition)
	trip()
	want(1, 0)
	stop2 := g.Listen(two.Transition)
	trip()
	want(2, 1)
	stop1()
	stop1() // a second call has no effect
	trip()
	want(2, 2)
	stop1b, stop1c := g.Listen(one.Transition), g.Listen(one.Transition)
	trip()
	want(4, 3)
	stop1b()
	trip()
	want(5, 4)
	stop1c()
	stop2()
	trip()
	want(5, 4)
	// Events are numbered also without listeners, so a new listener can see that it has missed some.
	wantSame(t, "two", two.brief(), []string{
		"3 open>open manual", "4 open>open manual", "5 open>open manual", "6 open>open manual",
	})
	if got := len(g.shared.listeners.list()); got != 0 {
		t.Errorf("%d registrations are left", got)
	}
}

func TestListenNil(t *testing.T) {
	defer func() {
		if got, want := recover(), "breaker: Group.Listen: the function is nil"; got != want {
			t.Errorf("the panic is %v, want %s", got, want)
		}
	}()
	mustGroup(t, Config{}).Listen(nil)
}

// A listener removes itself and adds another one while it receives an event.
func TestB30_AListenerChangesTheListeners(t *testing.T) {
	g := mustGroup(t, Config{})
	var late recorder
	var stop func()
	calls := 0
	l := func(context.Context, Event) {
		calls++
		stop()
		g.Listen(late.Transition)
	}
	stop = g.Listen(l)
	b := g.Get(Key{})
	tripResetTrip(t, b)
	if calls != 1 {
		t.Errorf("it was called %d times, want once", calls)
	}
	wantSame(t, "the listener that it added", late.brief(), tripResetTripEvents[1:])
}

// Listeners of WithListener and of Listen are called in the order of registration, for each breaker of the group.
func TestB30_AllListenersReceiveAllEvents(t *testing.T) {
	var order []string
	note := func(name string) func(context.Context, Event) {
		return func(_ context.Context, e Event) { order = append(order, name+" "+e.Key.Method) }
	}
	g := mustGroup(t, Config{}, WithListener(note("1")), WithListener(note("2")))
	a := g.Get(Key{Method: "a"})
	g.Listen(note("3"))
	a.Trip(t.Context(), "test")
	g.Get(Key{Method: "b"}).Trip(t.Context(), "test")
	wantSame(t, "order", order, []string{"1 a", "2 a", "3 a", "1 b", "2 b", "3 b"})
}

// Events that wait when the last listener is removed are dropped. The next listener receives later events.
func TestB30_NoListenerIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorder
		hold := make(chan struct{})
		g := mustGroup(t, Config{})
		stop := g.Listen(func(ctx context.Context, e Event) {
			rec.Transition(ctx, e)
			<-hold
		})
		b := g.Get(Key{})
		go b.Trip(t.Context(), "test")
		synctest.Wait()
		b.Reset(t.Context())
		stop()
		close(hold)
		synctest.Wait()
		wantSame(t, "received by the removed listener", rec.brief(), tripResetTripEvents[:1])
		var next recorder
		g.Listen(next.Transition)
		b.Trip(t.Context(), "test")
		wantSame(t, "received by the next", next.brief(), tripResetTripEvents[2:])
	})
}
