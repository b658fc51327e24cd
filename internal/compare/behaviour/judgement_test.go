package behaviour

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// judgement holds scenarios about healthy backends, and backends that have recovered. J01 to J04 use the library's own
// preset where it has one.
var judgement = []*scenario{
	{
		id: "J01", title: "100 calls lost with one connection, and nothing else: the next calls pass", rule: "B4, B5",
		why:   "one lost connection is one event, however many calls were in flight; the next attempt succeeds",
		needs: []feature{hasPreset},
		run: func(c *cell) {
			b := c.test(c.lib.preset())
			b.loseAtOnce(100)
			b.mustMostlyPass(10*time.Second, "after 100 calls had failed in one instant")
		},
	},
	{
		id: "J02", title: "100 calls lost with one connection, in the middle of traffic: the next calls pass", rule: "B4, B5",
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
		id: "J03", title: "With 20% errors at random, 1000 calls/s for a minute, hardly a call is rejected", rule: "B4, B5",
		why:   "callers who retry get along with 20% errors; without their backend they do not",
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
		id: "J04", title: "15 s after an outage of an hour, 95% of the calls pass, whenever in its open period it ends", rule: "B17",
		why:   "a long open period, or a back-off that grows with the outage, makes the outage longer",
		needs: []feature{hasPreset},
		run: func(c *cell) {
			for more := time.Duration(0); more < time.Minute; more += 5 * time.Second {
				b := c.test(c.lib.preset())
				b.slowly(time.Hour+more, failure)
				b.drive(15*time.Second, success)
				if passed := b.drive(time.Second, success); passed < rate*95/100 {
					c.failf("15 s after an outage of an hour, less than 95%% of the calls pass")
				}
			}
		},
	},
	{
		id: "J05", title: "An hour after a long outage, a short one is judged as the first was", rule: "B17",
		why:   "a back-off that never forgets punishes today for yesterday",
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
			c.failf("an hour after a long outage, it opens for more than 3 s where 1 s is configured")
		},
	},
	{
		id: "J06", title: "Keys that died do not keep others from having a breaker", rule: "B33, B40",
		why:   "targets come and go; those that went while they failed are open for ever",
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
			c.test(r.get("well")).must(success, "a call of a key that is well, after 10 keys had died")
		},
	},
	{
		id: "J07", title: "The time that a slow listener takes is not held against the backend", rule: "B30",
		why:   "a probe that is judged slow for it opens again, and so for ever",
		needs: []feature{hasStates, hasListener, hasHook, hasSlow},
		run: func(c *cell) {
			b := c.make(want{slow: time.Second, ratio: 0.5, minCalls: 5, window: 10 * time.Minute, onChange: func(change) { time.Sleep(2 * time.Second) }})
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
		id: "J08", title: "A backend that hangs is shielded, although its callers cancel before it answers", rule: "B6",
		why:   "impatient callers are how one learns of a backend that hangs; their calls end as canceled, which is no failure",
		needs: []feature{hasStates, hasContext},
		run: func(c *cell) {
			// By a rule on slow calls, or by a time limit of the library's own.
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
			c.failf("100 callers gave up after 5 s, with 1 s as the limit, and it never opened")
		},
	},
}

// loseAtOnce has n calls in flight, which all fail in one instant.
func (s subject) loseAtOnce(n int) {
	var ends []func(outcome)
	for range n {
		if end, err := s.start(bg); err == nil {
			ends = append(ends, end)
		}
	}
	s.c.settle()
	if len(ends) < 5 {
		s.c.failf("lets through fewer than 5 of %d calls at once, before anything has failed", n)
	}
	s.c.sleep(500 * time.Millisecond) // below the time limits that some libraries have by default
	var wg sync.WaitGroup
	for _, end := range ends {
		wg.Go(func() { end(failure) })
	}
	wg.Wait()
	s.c.settle()
}

// mustMostlyPass makes calls that succeed, and wants 99% of them to be let through.
func (s subject) mustMostlyPass(d time.Duration, when string) {
	if passed := s.drive(d, success); passed < int(d/time.Second)*rate*99/100 {
		s.c.failf("rejected more than 1%% of the calls to a backend that is well, %s", when)
	}
}

// slowly is drive with a call a second.
func (s subject) slowly(d time.Duration, o outcome) {
	for range int(d / time.Second) {
		s.try(o)
		s.c.sleep(time.Second)
	}
}

// tryFor makes one call that takes d, or until its context ends, and ends with o. It reports whether it was let through.
func (s subject) tryFor(d time.Duration, o outcome) bool {
	ctx, cancel := context.WithCancel(bg)
	defer cancel()
	ran := false
	// what it returns is what it was told
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
