package behaviour

import "time"

var lateResults = []*scenario{
	{
		id: "L01", title: "Successes of calls from before it opened do not close it when half-open", rule: "B15",
		why:   "they show an earlier condition of the backend",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{})
			var late []func(outcome)
			for range 3 {
				late = append(late, b.mustHold("a call of a closed breaker"))
			}
			b.open()
			b.elapse()
			end := b.mustHold("the probe")
			for _, end := range late {
				end(success)
			}
			if b.isClosed() {
				c.failf("closed on successes of calls begun before it opened")
			}
			end(failure)
			b.mustNot("a call after the probe had failed")
		},
	},
	{
		id: "L02", title: "A failure of a call from before it opened does not open it again when half-open", rule: "B15",
		why:   "calls that time out after 30 s would undo every recovery",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{lease: time.Minute})
			late := b.mustHold("a call of a closed breaker")
			b.open()
			b.elapse()
			end := b.mustHold("the probe")
			late(failure)
			end(success)
			c.settle()
			if !b.isClosed() {
				c.failf("the probe succeeded, and a failure of a call begun before it opened kept it from closing")
			}
		},
	},
	{
		id: "L03", title: "The end of a call from before it opened does not free a probe slot", rule: "B15, B19",
		why:   "the limit on probes must hold",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{probes: 1, successes: 2, lease: time.Minute})
			var late []func(outcome)
			for range 5 {
				late = append(late, b.mustHold("a call of a closed breaker"))
			}
			b.open()
			b.elapse()
			out := 0
			for out < 10 {
				if _, ok := b.hold(); !ok {
					break
				}
				out++
			}
			if out == 10 {
				c.failf("it does not limit probes")
			}
			late[0](success)
			for _, end := range late[1:] {
				end(success)
				if _, ok := b.hold(); ok {
					c.failf("a result of a call begun before it opened admitted a further probe")
				}
			}
		},
	},
	{
		id: "L04", title: "A probe of an earlier half-open period does not count in the current one", rule: "B15",
		why:   "the same, one period later",
		needs: []feature{hasStates, hasProbes},
		run: func(c *cell) {
			b := c.make(want{probes: 2, successes: 2, lease: time.Minute})
			b.open()
			b.elapse()
			first, second := b.mustHold("the first probe"), b.mustHold("the second probe")
			first(failure)
			b.mustNot("a call after a probe had failed")
			b.elapse()
			b.must(success, "a probe of the second half-open period")
			second(success)
			if b.isClosed() {
				c.failf("one success of this half-open period and one of the previous period closed it")
			}
		},
	},
	{
		id: "L05", title: "Failures of calls from before it opened do not open it again once it has closed", rule: "B15",
		why:   "calls that hang through a short outage fail together after it",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{window: time.Minute})
			var late []func(outcome)
			for range b.failures * 2 {
				late = append(late, b.mustHold("a call of a closed breaker"))
			}
			b.cycle()
			for _, end := range late {
				end(failure)
			}
			b.must(success, "a call after it had closed: calls begun before it opened failed and opened it again")
		},
	},
	{
		id: "L06", title: "A call that spans the end of a window counts once", rule: "B7, B15",
		why:   "the end of a window does not make a call old",
		needs: []feature{hasStates, hasRatio, hasWindow, hasCounts},
		run: func(c *cell) {
			b := c.make(want{ratio: 0.5, minCalls: 1000, window: 10 * time.Second})
			for range 20 {
				end := b.mustHold("a call of a closed breaker")
				c.sleep(b.window * 7 / 10)
				end(failure)
				if _, failures := b.counts(); failures < 1 || failures > 2 {
					c.failf("right after a call of 0.7 windows failed, the window does not hold it")
				}
			}
		},
	},
}
