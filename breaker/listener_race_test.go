package breaker

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
)

// The events of each breaker are delivered in order and one at a time. Seq has no gaps, and To of one is From of the
// next. Many goroutines change the breakers, and the listener itself causes events.
func TestB30_EventsAreInOrderConcurrentSafe(t *testing.T) {
	const callers, calls, keys = 4, 60, 2
	var mu sync.Mutex
	events := make(map[Key][]Event)
	busy := make(map[Key]bool)
	var g *Group
	g = mustGroup(t, Config{ConsecutiveFailures: 2, SuccessesToClose: 1}, WithListener(func(ctx context.Context, e Event) {
		mu.Lock()
		if busy[e.Key] {
			t.Errorf("%v: two events are delivered at once", e.Key)
		}
		busy[e.Key] = true
		events[e.Key] = append(events[e.Key], e)
		mu.Unlock()
		runtime.Gosched()
		b := g.Get(e.Key)
		_ = b.Snapshot()
		if e.Seq%7 == 0 {
			b.Reset(ctx)
		}
		if p, err := b.Acquire(ctx); err == nil {
			p.Done(ctx, Outcome(e.Seq%2))
		}
		mu.Lock()
		busy[e.Key] = false
		mu.Unlock()
	}))
	shortenOpenPeriods(g.policies)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for j := range calls {
				b := g.Get(Key{Method: fmt.Sprint(j % keys)})
				switch (i + j) % 4 {
				case 0:
					b.Trip(t.Context(), "test")
				case 1:
					b.Reset(t.Context())
				default:
					if p, err := b.Acquire(t.Context()); err == nil {
						p.Done(t.Context(), Failure)
					}
				}
			}
		})
	}
	wg.Wait()
	for key, b := range g.All() {
		list := events[key]
		from := Closed
		for i, e := range list {
			if e.Seq != uint64(i+1) || e.Generation != uint64(i+2) || e.From != from {
				t.Fatalf("%v: event %d is %+v, want Seq %d, Generation %d, From %v", key, i, e, i+1, i+2, from)
			}
			from = e.To
		}
		if s := b.Snapshot(); s.State != from || s.Generation != uint64(len(list)+1) || s.InFlight != 0 {
			t.Errorf("%v: %v in generation %d, %d in flight, after %d events of which the last leads to %v", key, s.State,
				s.Generation, s.InFlight, len(list), from)
		}
	}
}

// Listeners are added and removed while events are delivered.
func TestB30_ListenAndStopConcurrentSafe(t *testing.T) {
	g := mustGroup(t, Config{})
	b := g.Get(Key{})
	var shared recorder
	stop := g.Listen(shared.Transition)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				var own recorder
				stopOwn := g.Listen(own.Transition)
				b.Trip(t.Context(), "test")
				stopOwn()
			}
		})
	}
	wg.Wait()
	stop()
	if got := len(shared.received()); got != 200 {
		t.Errorf("received %d events, want 200", got)
	}
	for i, e := range shared.received() {
		if e.Seq != uint64(i+1) {
			t.Fatalf("event %d has Seq %d", i+1, e.Seq)
		}
	}
	if got := len(g.shared.listeners.list()); got != 0 {
		t.Errorf("%d listeners are left", got)
	}
}
