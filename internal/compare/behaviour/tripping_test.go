package behaviour

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

var tripping = []*scenario{
	{
		id: "T01", title: "The nth failure opens; n-1 do not", rule: "B4, B5",
		why:   "the threshold in the configuration is the one that acts",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{failures: 5})
			for i := range b.failures - 1 {
				b.must(failure, "failing call "+ordinal(i))
			}
			b.must(failure, "the failure that is to open it")
			b.mustNot("a call after as many failures as configured")
		},
	},
	{
		id: "T02", title: "A success in between starts the count of failures in a row anew", rule: "B4",
		why:   "a backend that answers every other call is not dead",
		needs: []feature{hasStates, hasStreak},
		run: func(c *cell) {
			b := c.make(want{failures: 5, streak: true})
			for range 10 {
				for range b.failures - 1 {
					b.must(failure, "a failure of a streak that is too short")
				}
				b.must(success, "the success between two streaks")
			}
		},
	},
	{
		id: "T03", title: "A backend that is asked once a minute, and always fails, is given up", rule: "B4",
		why:   "little traffic is no reason to wait for a dead backend every time",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{failures: 5, window: time.Hour, openFor: 10 * time.Minute})
			for range 100 {
				if !b.try(failure) {
					return
				}
				c.sleep(time.Minute)
			}
			c.failf("100 calls failed, a minute apart, and it never opened")
		},
	},
	{
		id: "T04", title: "A ratio that is met exactly opens: 57 of 100 at 57%", rule: "B5",
		why:   "a threshold that floating point moves cannot be tested or explained",
		needs: []feature{hasStates, hasRatio},
		run: func(c *cell) {
			b := c.make(want{ratio: 0.57, minCalls: 100})
			for range 43 {
				b.must(success, "a success in a healthy window")
			}
			for range 57 {
				if !b.try(failure) {
					c.failf("opened below the ratio")
				}
			}
			b.mustNot("a call after 57 of 100 failed")
		},
	},
	{
		id: "T05", title: "Too few calls to judge do not open, whatever their ratio", rule: "B5",
		why:   "two failures at night are 100% and mean nothing",
		needs: []feature{hasStates, hasRatio},
		run: func(c *cell) {
			b := c.make(want{ratio: 0.5, minCalls: 20})
			for range 19 {
				if !b.try(failure) {
					c.failf("opened before there were as many calls as configured")
				}
			}
		},
	},
	{
		id: "T06", title: "A ratio below the threshold never opens", rule: "B5",
		why:   "errors below the limit are what the limit allows",
		needs: []feature{hasStates, hasRatio},
		run: func(c *cell) {
			b := c.make(want{ratio: 0.5, minCalls: 20})
			for i := range 1000 {
				o := success
				if i >= 20 && i%5 < 2 {
					o = failure
				}
				b.must(o, "a call while 40% fail, with the limit at 50%")
				c.sleep(10 * time.Millisecond)
			}
		},
	},
	{
		id: "T07", title: "Successes alone never open", rule: "B3",
		why:   "a healthy backend is left alone at any load",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{failures: 5})
			for range 10_000 {
				if !b.try(success) {
					c.failf("opened without a failure")
				}
			}
		},
	},
	{
		id: "T08", title: "Calls slower than the window count", rule: "B7",
		why:   "a backend that times out slowly is the very case for a breaker",
		needs: []feature{hasStates, hasRatio, hasWindow},
		run: func(c *cell) {
			b := c.make(want{ratio: 0.5, minCalls: 5, window: 10 * time.Second})
			var calls []func(outcome)
			for range 300 {
				end, ok := b.hold()
				if !ok {
					return
				}
				calls = append(calls, end)
				c.sleep(b.window / 20)
				if len(calls) >= 28 {
					calls[0](failure)
					calls = calls[1:]
				}
			}
			c.failf("300 calls failed after 1.4 windows each, 20 to a window, and it never opened")
		},
	},
	{
		id: "T09", title: "A failure older than the window is forgotten", rule: "B7",
		why:   "what happened before lunch must not open the breaker in the afternoon",
		needs: []feature{hasStates, hasRatio, hasWindow},
		run: func(c *cell) {
			b := c.make(want{ratio: 0.5, minCalls: 20, window: 10 * time.Second})
			for range 10 {
				b.must(failure, "a failure in the first window")
			}
			c.sleep(b.window*6/5 + time.Second)
			for i := range 40 {
				o := success
				if i%3 == 2 {
					o = failure
				}
				b.must(o, "a call while a third fails, with the limit at half")
			}
		},
	},
	{
		id: "T10", title: "The window slides: failures on both sides of a boundary add up", rule: "B7",
		why:   "an outage does not begin when a window does",
		needs: []feature{hasStates, hasRatio, hasWindow},
		run: func(c *cell) {
			b := c.make(want{ratio: 0.5, minCalls: 20, window: 10 * time.Second})
			// 19 calls in any place of a fixed window, and 19 more a fifth of a window later: on whichever side the
			// boundary lies, one of the ten tries has it between the two.
			for try := range 10 {
				b := b
				if try > 0 {
					b = c.make(want{ratio: 0.5, minCalls: 20, window: 10 * time.Second})
				}
				c.sleep(b.window * time.Duration(try) / 10)
				for range 10 {
					b.try(failure)
				}
				c.sleep(b.window / 5)
				for range 10 {
					b.try(failure)
				}
				if b.try(failure) {
					c.failf("20 failures within a fifth of a window did not open it, as a window ended between them")
				}
			}
		},
	},
	{
		id: "T11", title: "An idle hour is forgotten before the next decision", rule: "B8",
		why:   "after a quiet night the breaker has no opinion",
		needs: []feature{hasStates, hasRatio, hasWindow},
		run: func(c *cell) {
			b := c.make(want{ratio: 0.5, minCalls: 10, window: 10 * time.Second})
			for range 9 {
				b.must(failure, "one of 9 failures, with a minimum of 10 calls")
			}
			c.sleep(time.Hour)
			b.must(failure, "the first call after an hour")
			b.must(success, "a call after the first failure in an hour")
		},
	},
	{
		id: "T12", title: "A burst right after an idle hour is counted in full", rule: "B8",
		why:   "an outage in the morning is an outage",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{failures: 20})
			b.must(success, "the first call")
			c.sleep(time.Hour)
			b.open()
		},
	},
	{
		id: "T13", title: "Failures that end all at once open it", rule: "B9",
		why:   "outages hit many calls in the same instant",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{failures: 5})
			var ends []func(outcome)
			for range 64 {
				ends = append(ends, b.begin())
			}
			var all sync.WaitGroup
			for _, end := range ends {
				all.Go(func() { end(failure) })
			}
			all.Wait()
			c.settle()
			b.mustNot("a call after 64 failures")
		},
	},
	{
		id: "T14", title: "The defaults protect: a backend that only fails is given up", rule: "B1",
		why:   "a breaker that was added and never opens is worse than none",
		needs: []feature{hasPreset},
		run: func(c *cell) {
			b := c.test(c.lib.preset())
			for range 1000 {
				if !b.try(failure) {
					return
				}
				c.sleep(10 * time.Millisecond) // long enough for defaults that want failures to last
			}
			c.failf("1000 calls in a row failed, and it never opened")
		},
	},
	{
		id: "T15", title: "The defaults bear one failure", rule: "B1",
		why:   "one lost packet must not cost a minute of service",
		needs: []feature{hasPreset},
		run: func(c *cell) {
			b := c.test(c.lib.preset())
			for range 50 {
				b.must(success, "a success")
			}
			b.must(failure, "the one failure")
			b.must(success, "the call after one failure of 51 calls")
		},
	},
	{
		id: "T16", title: "Settings that mean nothing are refused", rule: "B1, B2",
		why: "a ratio of 150% or a period of minus one second is a typing error, and should not go to production; " +
			"where every value has a documented meaning there is nothing to refuse",
		needs: []feature{hasNonsense},
		run: func(c *cell) {
			if err := c.lib.nonsense(); err == nil {
				c.failf("took settings that mean nothing without an error")
			}
		},
	},
	{
		id: "T17", title: "Cancelled calls do not open it", rule: "G3, B4",
		why: "users who give up say nothing of the backend",
		run: func(c *cell) {
			b := c.make(want{failures: 5, minCalls: 5})
			for range 200 {
				if !b.try(ignored) {
					c.failf("200 cancelled calls opened it")
				}
				c.sleep(time.Millisecond)
			}
		},
	},
	{
		id: "T18", title: "A cancelled call does not interrupt a streak of failures", rule: "B4",
		why:   "a dead backend must not look alive because a user gave up",
		needs: []feature{hasStates, hasStreak},
		run: func(c *cell) {
			b := c.make(want{failures: 5, streak: true})
			for i := range b.failures {
				b.must(failure, "failing call "+ordinal(i))
				if i < b.failures-1 {
					b.must(ignored, "a cancelled call")
				}
			}
			b.mustNot("a call after 5 failures with cancelled calls between them")
		},
	},
	{
		id: "T19", title: "Cancelled calls do not water down the ratio", rule: "B5, G3",
		why:   "while a backend is down users give up, and all those calls are no successes",
		needs: []feature{hasStates, hasRatio},
		run: func(c *cell) {
			b := c.make(want{ratio: 0.5, minCalls: 20})
			for range 20 {
				if !b.try(failure) {
					break
				}
				for range 4 {
					b.try(ignored)
				}
			}
			b.mustNot("a call after 20 of 20 calls failed, with 80 cancelled ones between them")
		},
	},
	{
		id: "T20", title: "The rejection of an inner breaker is no failure of the outer one", rule: "G7, B12",
		why:   "two breakers in a row must not open each other",
		needs: []feature{hasStates},
		run: func(c *cell) {
			outer, inner := c.make(want{failures: 5}), c.make(want{failures: 5})
			inner.open()
			for range 100 {
				ran := false
				// the rejection is what is expected
				_ = outer.do(bg, func(ctx context.Context) error {
					ran = true
					return inner.do(ctx, func(context.Context) error { return nil })
				})
				c.settle()
				if !ran {
					c.failf("the outer breaker opened on rejections of the inner one")
				}
			}
		},
	},
	{
		id: "T21", title: "Slow calls open it, though all succeed", rule: "B6",
		why:   "a backend that takes 30 s to say yes is down too, and its answers may still be wanted; what cuts slow calls off is T23",
		needs: []feature{hasStates, hasSlow},
		run: func(c *cell) {
			b := c.make(want{ratio: 0.5, minCalls: 10, slow: time.Second, window: time.Minute})
			for range 10 {
				err := b.do(bg, func(context.Context) error {
					c.sleep(1100 * time.Millisecond)
					return nil
				})
				c.settle()
				if err != nil {
					c.failf("a slow call did not succeed")
				}
			}
			b.mustNot("a call after 10 of 10 were slow")
		},
	},
	{
		id: "T22", title: "A call that takes exactly the limit is not slow", rule: "B6",
		why:   "the limit is what is allowed",
		needs: []feature{hasStates, hasSlow},
		run: func(c *cell) {
			b := c.make(want{ratio: 0.5, minCalls: 10, slow: time.Second, window: time.Minute})
			for range 30 {
				end := b.mustHold("a call, after others that took exactly what is allowed")
				c.sleep(time.Second)
				end(success)
			}
		},
	},
	{
		id: "T23", title: "A backend that hangs is given up, though its callers would wait for ever", rule: "B38",
		why: "where callers forgot their deadlines, a breaker that only sees ends is blind: it must look at calls that are under way, " +
			"or cut them off by a time limit of its own",
		needs: []feature{hasHang},
		run: func(c *cell) {
			b := c.make(want{failures: 5, hang: 5 * time.Second})
			var running atomic.Int64
			for range 100 {
				if !b.hang(&running) {
					return
				}
				c.sleep(200 * time.Millisecond)
			}
			c.failf("100 calls hang for up to 20 s, with a limit of 5 s, and it never opened")
		},
	},
	{
		id: "T24", title: "A rule of the user's own that panics leaves a working breaker", rule: "G13",
		why:   "a bug in the user's code must not take the service down for good",
		needs: []feature{hasStates, hasTrip},
		wall:  true,
		run: func(c *cell) {
			var calm atomic.Bool
			b := c.make(want{trip: func() bool {
				if !calm.Load() {
					panic("a bug in the rule")
				}
				return true
			}})
			quietly := func() {
				defer func() { _ = recover() }() // it may pass the panic on
				b.try(failure)
			}
			c.within(patience, "a call hangs after the rule has panicked", func() {
				quietly()
				calm.Store(true)
				quietly()
			})
			c.within(patience, "a call hangs after the rule has panicked", func() {
				b.mustNot("a call after the rule, with its bug mended, said open")
			})
		},
	},
}
