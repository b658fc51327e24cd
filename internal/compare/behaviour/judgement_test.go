package behaviour

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// judgement holds scenarios about healthy and recovered backends. J01 to J04 use the library's own preset if it has
// one.
var judgement = []*scenario{
	{
		id: "J01", title: "100 calls lost with one connection, and no other failure: the next calls are admitted",
		rule:  "B4, B5",
		why:   "one lost connection is one failure, no matter how many calls were in flight; the next call succeeds",
		needs: []feature{hasPreset},
		run: func(c *cell) {
			b := c.test(c.lib.preset())
			b.loseAtOnce(100)
			b.mustMostlyPass(10*time.Second, "after 100 calls had failed in one instant")
		},
	},
	{
		id: "J02", title: "100 calls lost with one connection, during other traffic: the next calls are admitted",
		rule:  "B4, B5",
		why:   "the same for a busy client",
		needs: []feature{hasPreset},
		run: func(c *cell) {
			b := c.test(c.lib.preset())
			b.drive(10*time.Second, success)
			b.loseAtOnce(100)
			b.mustMostlyPass(10*time.Second, "after 100 calls had failed in one instant")
		},
	},
	{
		id: "J03", title: "With 20% random errors, 1000 calls/s for a minute, almost no call is rejected", rule: "B4, B5",
		why:   "callers that retry can work with 20% errors, but not without their backend",
		needs: []feature{hasPreset},
		run: func(c *cell) {
			b := c.test(c.lib.preset())
			rnd := rand.New(rand.NewPCG(20, 20))
			passed := 0
			for range 60_000 {
				o := success
				if rnd.IntN(5) == 0 {
					o = failure
				}
				if b.try(o) {
					passed++
				}
				c.sleep(time.Millisecond)
			}
			if passed < 60_000*99/100 {
				c.failf("rejected more than 1%% of the calls, with 20%% errors")
			}
		},
	},
	{
		id:    "J04",
		title: "15 s after an outage of an hour, 95% of the calls are admitted, at whatever point of an open period it ends",
		rule:  "B17",
		why:   "a long open period, or a back-off that grows with the outage, makes the outage longer",
		needs: []feature{hasPreset},
		run: func(c *cell) {
			for more := time.Duration(0); more < time.Minute; more += 5 * time.Second {
				b := c.test(c.lib.preset())
				b.slowly(time.Hour+more, failure)
				b.drive(15*time.Second, success)
				if passed := b.drive(time.Second, success); passed < rate*95/100 {
					c.failf("15 s after an outage of an hour, it admits less than 95%% of the calls")
				}
			}
		},
	},
	{
		id: "J05", title: "An hour after a long outage, a short one is treated like a first one", rule: "B17",
		why:   "a back-off that never resets makes later outages longer",
		needs: []feature{hasStates, hasBackoff},
		run: func(c *cell) {
			b := c.make(want{failures: 5, openFor: time.Second, maxOpen: time.Minute, backoff: 2})
			b.slowly(time.Hour, failure)
			b.drive(time.Minute, success)
			for range 60 {
				b.drive(time.Second, success)
				c.sleep(59 * time.Second)
			}
			for range 100 {
				if !b.try(failure) {
					break
				}
				c.sleep(250 * time.Millisecond)
			}
			start := time.Now()
			for time.Since(start) < 3*time.Second {
				if b.try(success) {
					return
				}
				c.sleep(100 * time.Millisecond)
			}
			c.failf("an hour after a long outage, it opens for more than 3 s, though 1 s is configured")
		},
	},
	{
		id: "J06", title: "Keys of dead targets do not prevent breakers for other keys", rule: "B33, B40",
		why:   "targets start and end; the breakers of those that ended while they failed are open for ever",
		needs: []feature{hasStates, hasKeys},
		run: func(c *cell) {
			w := c.filled(want{failures: 5})
			r := c.lib.registry(w, 10)
			for i := range 10 {
				b := c.test(r.get(fmt.Sprintf("dead-%d", i)))
				for range 100 {
					if !b.try(failure) {
						break
					}
				}
			}
			c.sleep(24 * time.Hour)
			for i := range 5 {
				name := fmt.Sprintf("new-%d", i)
				for n := range 101 {
					if !c.test(r.get(name)).try(failure) {
						break
					}
					if n == 100 {
						c.failf("after 10 keys had died, a new key that fails 100 times never opens")
					}
				}
			}
			c.test(r.get("well")).must(success, "a call of a healthy key, after 10 keys had died")
		},
	},
	{
		id: "J07", title: "The time of a slow listener does not count as time of the backend", rule: "B30",
		why:   "otherwise each probe counts as slow and opens the breaker again",
		needs: []feature{hasStates, hasListener, hasHook, hasSlow},
		run: func(c *cell) {
			b := c.make(want{
				slow: time.Second, ratio: 0.5, minCalls: 5, window: 10 * time.Minute,
				onChange: func(change) { time.Sleep(2 * time.Second) },
			})
			for range 100 {
				if !b.tryFor(2*time.Second, success) {
					break
				}
			}
			for range 20 {
				c.sleep(soon(b.openFor))
				b.try(success)
				c.sleep(soon(b.between))
			}
			if !b.isClosed() {
				c.failf("20 quick calls after the open period do not close it, while its listener takes 2 s")
			}
		},
	},
	{
		id: "J08", title: "A backend that hangs gets few calls, although its callers cancel before it answers", rule: "B6",
		why:   "calls to a backend that hangs end when their callers cancel, and a cancelled call is no failure",
		needs: []feature{hasStates, hasContext},
		run: func(c *cell) {
			// By a rule for slow calls, or by a time limit of the library.
			w := want{slow: time.Second, ratio: 0.5, minCalls: 10, window: 10 * time.Minute}
			if _, no := c.lib.lacks[hasSlow]; no {
				w = want{failures: 5, hang: time.Second}
				if l, no := c.lib.lacks[hasHang]; no {
					c.give(verdict{Mark: lacking, Reason: l.why})
				}
			}
			b := c.make(w)
			for range 100 {
				if !b.tryFor(5*time.Second, ignored) {
					return
				}
			}
			c.failf("it never opened, though 100 callers cancelled after 5 s with a limit of 1 s")
		},
	},
}

// loseAtOnce makes n concurrent calls, which all fail at the same instant.
func (s subject) loseAtOnce(n int) {
	var ends []func(outcome)
	for range n {
		if end, err := s.start(bg); err == nil {
			ends = append(ends, end)
		}
	}
	s.c.settle()
	if len(ends) < 5 {
		s.c.failf("admits fewer than 5 of %d concurrent calls, before any failure", n)
	}
	s.c.sleep(500 * time.Millisecond) // shorter than the default time limits of some libraries
	var wg sync.WaitGroup
	for _, end := range ends {
		wg.Go(func() { end(failure) })
	}
	wg.Wait()
	s.c.settle()
}

// mustMostlyPass makes successful calls, and requires that 99% of them are admitted.
func (s subject) mustMostlyPass(d time.Duration, when string) {
	if passed := s.drive(d, success); passed < int(d/time.Second)*rate*99/100 {
		s.c.failf("rejected more than 1%% of the calls to a healthy backend, %s", when)
	}
}

// slowly is drive with one call a second.
func (s subject) slowly(d time.Duration, o outcome) {
	for range int(d / time.Second) {
		s.try(o)
		s.c.sleep(time.Second)
	}
}

// tryFor makes one call that takes d, or until its context ends, and ends with o. It reports whether it was admitted.
func (s subject) tryFor(d time.Duration, o outcome) bool {
	ctx, cancel := context.WithCancel(bg)
	defer cancel()
	ran := false
	// the function returns o's error
	_ = s.do(ctx, func(ctx context.Context) error {
		ran = true
		select {
		case <-time.After(d):
		case <-ctx.Done(): // a time limit
			return ctx.Err()
		}
		if o == ignored {
			cancel()
		}
		return o.err()
	})
	s.c.settle()
	return ran
}
