package behaviour

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

var tripping = []*scenario{
	{
		id: "T01", title: "The nth failure opens it; n-1 failures do not", rule: "B4, B5",
		why:   "the configured threshold must be the actual one",
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
		id: "T02", title: "A success in between ends the failure streak", rule: "B4",
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
		id: "T03", title: "The breaker opens for a backend that gets one call a minute and always fails", rule: "B4",
		why:   "also with little traffic, callers should not wait for a dead backend each time",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{failures: 5, window: time.Hour, openFor: 10 * time.Minute})
			for range 100 {
				if !b.try(failure) {
					return
				}
				c.sleep(time.Minute)
			}
			c.failf("it never opened, though 100 calls failed, a minute apart")
		},
	},
	{
		id: "T04", title: "A ratio equal to the threshold opens it: 57 of 100 at 57%", rule: "B5",
		why:   "rounding errors must not change the threshold",
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
		id: "T05", title: "Fewer calls than the minimum do not open it, whatever their ratio", rule: "B5",
		why:   "two failures at night are a ratio of 100%, but mean little",
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
		id: "T06", title: "A ratio below the threshold never opens it", rule: "B5",
		why:   "the threshold allows such a ratio",
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
		id: "T07", title: "Successes alone never open it", rule: "B3",
		why:   "a breaker must admit all calls to a healthy backend, at any load",
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
		why:   "a backend whose calls time out is the main use of a breaker",
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
			c.failf("it never opened, though 300 calls failed after 1.4 windows each, 20 in each window")
		},
	},
	{
		id: "T09", title: "A failure older than the window is forgotten", rule: "B7",
		why:   "failures of the morning must not open the breaker in the afternoon",
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
		why:   "an outage can begin at any point of a window",
		needs: []feature{hasStates, hasRatio, hasWindow},
		run: func(c *cell) {
			b := c.make(want{ratio: 0.5, minCalls: 20, window: 10 * time.Second})
			// 19 calls at some point of a fixed window, and 19 more a fifth of a window later. In one of the ten tries the
			// boundary lies between the two.
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
		why:   "counts from before a quiet night show nothing about the backend",
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
		id: "T12", title: "Calls right after an idle hour are all counted", rule: "B8",
		why:   "an outage can begin after a quiet night",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{failures: 20})
			b.must(success, "the first call")
			c.sleep(time.Hour)
			b.open()
		},
	},
	{
		id: "T13", title: "Failures that end at the same time open it", rule: "B9",
		why:   "an outage makes many calls fail at the same instant",
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
		id: "T14", title: "The defaults work: the breaker opens for a backend that only fails", rule: "B1",
		why:   "a breaker that never opens is worse than no breaker",
		needs: []feature{hasPreset},
		run: func(c *cell) {
			b := c.test(c.lib.preset())
			for range 1000 {
				if !b.try(failure) {
					return
				}
				c.sleep(10 * time.Millisecond) // long enough for defaults that require failures to last
			}
			c.failf("it never opened, though 1000 consecutive calls failed")
		},
	},
	{
		id: "T15", title: "The defaults tolerate one failure", rule: "B1",
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
		id: "T16", title: "Meaningless settings are refused", rule: "B1, B2",
		why: "a ratio of 150% or a period of minus one second is an error, and must not reach production; " +
			"if every value has a documented meaning, there is nothing to refuse",
		needs: []feature{hasNonsense},
		run: func(c *cell) {
			if err := c.lib.nonsense(); err == nil {
				c.failf("accepted meaningless settings without an error")
			}
		},
	},
	{
		id: "T17", title: "Cancelled calls do not open it", rule: "G3, B4",
		why: "cancelled calls show nothing about the backend's health",
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
		id: "T18", title: "A cancelled call does not end a failure streak", rule: "B4",
		why:   "a dead backend must not appear healthy because a user cancelled",
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
		id: "T19", title: "Cancelled calls do not lower the ratio", rule: "B5, G3",
		why:   "users cancel calls while a backend is down, and those calls are no successes",
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
		why:   "one of two nested breakers must not open because of the other",
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
		id: "T21", title: "Slow calls open it, even if all succeed", rule: "B6",
		why: "a backend that needs 30 s for a success is as good as down, but callers may still want its answers; T23 " +
			"is about time limits",
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
		why:   "the limit itself is allowed",
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
		id: "T23", title: "The breaker opens for a backend that hangs, even if its callers would wait for ever", rule: "B38",
		why: "calls without a deadline never end, so the breaker must also look at calls in flight, " +
			"or end them with its own time limit",
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
			c.failf("it never opened, though 100 calls hang for up to 20 s with a limit of 5 s")
		},
	},
	{
		id: "T24", title: "The breaker works after a custom rule has panicked", rule: "G13",
		why:   "a bug in the user's code must not stop the service for ever",
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
				defer func() { _ = recover() }() // the library may rethrow the panic
				b.try(failure)
			}
			c.within(patience, "a call hangs after the rule has panicked", func() {
				quietly()
				calm.Store(true)
				quietly()
			})
			c.within(patience, "a call hangs after the rule has panicked", func() {
				b.mustNot("a call after the rule, with its bug fixed, returned true")
			})
		},
	},
}
