package behaviour

import (
	"time"
)

var tripping = []*scenario{
	{
		id: "T01", topic: "Tripping", title: "The nth failure opens; n-1 do not", rule: "B4, B5",
		why:   "the threshold in the configuration is the one that acts",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{failures: 5})
			for i := range b.failures - 1 {
				b.must(failure, "failing call "+ordinal(i))
			}
			b.must(failure, "the failure that opens it")
			b.mustNot("a call after as many failures as configured")
		},
	},
	{
		id: "T08", topic: "Tripping", title: "Calls slower than the window count", rule: "B7",
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
				// A call a tenth of a window, and each takes 1.4 windows.
				c.sleep(b.window / 10)
				if len(calls) >= 14 {
					calls[0](failure)
					calls = calls[1:]
				}
			}
			c.failf("300 calls in a row failed after 1.4 windows each, and it never opened")
		},
	},
}
