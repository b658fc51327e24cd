package behaviour

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// patience is the real time after which a scenario decides that a call hangs.
const patience = 10 * time.Second

// brief is an open period for scenarios in real time.
const brief = 500 * time.Millisecond

var listeners = []*scenario{
	{
		id: "E01", title: "A listener is called for opening, half-opening and closing", rule: "B30",
		why:   "alerts and logs depend on it",
		needs: []feature{hasStates, hasListener},
		run: func(c *cell) {
			told := recorder{}
			b := c.make(want{onChange: told.add})
			b.cycle()
			c.settle()
			var got []state
			for _, e := range told.all() {
				got = append(got, e.to)
			}
			if slices.Equal(got, []state{open, closed}) {
				c.failf("reports opening and closing, but not half-opening")
			}
			if !slices.Equal(got, []state{open, halfOpen, closed}) {
				c.failf("reports wrong transitions, or in a wrong order")
			}
		},
	},
	{
		id: "E02", title: "A listener may read the breaker", rule: "B30",
		why:   "a log line should show the counts",
		needs: []feature{hasStates, hasListener},
		wall:  true,
		run: func(c *cell) {
			var b subject
			told := make(chan struct{})
			var once sync.Once
			b = c.make(want{openFor: time.Minute, onChange: func(change) {
				if b.state != nil {
					b.state()
				}
				if b.counts != nil {
					b.counts()
				}
				once.Do(func() { close(told) })
			}})
			c.within(patience, "deadlock: the listener reads the breaker, and the call that opened it never returns", b.open)
			c.within(patience, "the listener was never called", func() { <-told })
		},
	},
	{
		id: "E03", title: "A listener may call through the breaker", rule: "B30",
		why:   "it may fill a cache, or write to a log through the same breaker",
		needs: []feature{hasStates, hasListener},
		wall:  true,
		run: func(c *cell) {
			var b subject
			b = c.make(want{openFor: brief, onChange: func(change) {
				// a rejection is expected
				_ = b.do(bg, func(context.Context) error { return nil })
			}})
			const deadlock = "deadlock: the listener makes a call, and the call that opened the breaker never returns"
			c.within(patience, deadlock, func() {
				for range b.failures + 1 {
					b.try(failure)
				}
			})
		},
	},
	{
		id: "E04", title: "The breaker works after a listener has panicked", rule: "B30",
		why:   "a nil pointer in a log line must not take the service down",
		needs: []feature{hasStates, hasListener, hasHook},
		wall:  true,
		run: func(c *cell) {
			b := c.make(want{openFor: brief, onChange: func(change) { panic("a bug in the listener") }})
			quietly := func(o outcome) (ran bool) {
				defer func() { _ = recover() }() // the library may rethrow the panic
				return b.try(o)
			}
			c.within(patience, "a call hangs after the listener has panicked", func() {
				var last time.Time
				for range b.failures {
					last = time.Now()
					quietly(failure)
				}
				// On a busy machine the open period may be over before this call.
				if quietly(success) && time.Since(last) < brief {
					c.failf("did not open, as the listener panicked")
				}
				for range 40 {
					time.Sleep(brief / 10)
					quietly(success)
				}
				defer func() {
					if recover() != nil {
						c.failf("a call long after the open period still panics")
					}
				}()
				b.must(success, "a call long after the open period, as the listener had panicked")
			})
		},
	},
	{
		id: "E05", title: "The breaker works after a listener has ended its goroutine", rule: "B30",
		why:   "t.FailNow in the listener of a test does this",
		needs: []feature{hasStates, hasListener, hasHook},
		wall:  true,
		run: func(c *cell) {
			b := c.make(want{openFor: brief, onChange: func(change) { runtime.Goexit() }})
			aside := func(o outcome) {
				done := make(chan struct{})
				go func() {
					defer close(done)
					b.try(o)
				}()
				<-done
			}
			c.within(patience, "a call hangs after the listener has ended its goroutine", func() {
				for range b.failures {
					aside(failure)
				}
				for range 40 {
					time.Sleep(brief / 10)
					aside(success)
				}
				b.must(success, "a call long after the open period, as the listener had ended its goroutine")
			})
		},
	},
	{
		id: "E06", title: "Events arrive in order: each begins in the state in which the previous one ended", rule: "B30",
		why:   "a gauge that is set from events would keep a wrong value",
		needs: []feature{hasStates, hasListener},
		run: func(c *cell) {
			told := recorder{}
			b := c.make(want{onChange: told.add})
			for range 100 {
				b.cycle()
			}
			c.settle()
			at := closed
			for _, e := range told.all() {
				if e.from != at {
					c.failf("an event begins in another state than the one before it ended in")
				}
				at = e.to
			}
			if at != closed {
				c.failf("the last event is not to the state that it is in")
			}
		},
	},
	{
		id: "E07", title: "Events arrive in order under concurrent traffic too", rule: "B30",
		why:   "the same, where it is harder to achieve",
		needs: []feature{hasStates, hasListener},
		run: func(c *cell) {
			told := recorder{}
			b := c.make(want{onChange: told.add, openFor: time.Second})
			for round := range 100 {
				var all sync.WaitGroup
				for worker := range 16 {
					all.Go(func() {
						o := failure
						if (worker+round)%2 == 0 && round%3 > 0 {
							o = success
						}
						// a rejection is allowed
						_ = b.do(bg, func(context.Context) error { return o.err() })
					})
				}
				all.Wait()
				c.sleep(b.openFor / 4)
			}
			c.settle()
			at := closed
			for _, e := range told.all() {
				if e.from != at {
					c.failf("an event begins in another state than the one before it ended in")
				}
				at = e.to
			}
		},
	},
	{
		id: "E08", title: "A slow listener delays at most the call that runs it", rule: "B30",
		why:   "an alert over HTTP takes seconds, and otherwise all calls wait for it",
		needs: []feature{hasStates, hasListener},
		wall:  true,
		run: func(c *cell) {
			release := make(chan struct{})
			var in atomic.Int64
			b := c.make(want{openFor: time.Hour, onChange: func(change) {
				in.Add(1)
				<-release
			}})
			go func() {
				for range b.failures {
					// it fails on purpose
					_ = b.do(bg, func(context.Context) error { return errFailed })
				}
			}()
			c.within(patience, "the listener was never called", func() {
				for in.Load() == 0 {
					time.Sleep(time.Millisecond)
				}
			})
			c.within(patience, "while the listener works, all other calls wait", func() { b.mustNot("a call while open") })
			close(release)
		},
	},
	{
		id: "E09", title: "An event has the number of failures on which the breaker opened", rule: "B31",
		why:   "whoever gets the alert needs the number first",
		needs: []feature{hasStates, hasListener, hasCause},
		run: func(c *cell) {
			told := recorder{}
			b := c.make(want{onChange: told.add})
			b.open()
			c.settle()
			got := told.all()
			if len(got) == 0 {
				c.failf("reports no transition")
			}
			if got[0].failures != b.failures {
				c.failf("reports a wrong number of failures")
			}
		},
	},
}

// recorder keeps the arguments of a listener.
type recorder struct {
	mu     sync.Mutex
	events []change
}

func (r *recorder) add(e change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) all() []change {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events
}
