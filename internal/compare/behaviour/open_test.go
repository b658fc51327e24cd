package behaviour

import (
	"context"
	"slices"
	"sync/atomic"
	"time"
)

var opened = []*scenario{
	{
		id: "O01", title: "Rejects until the open period is over, then probes", rule: "B13",
		why:   "the open period should last as long as configured",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{})
			b.open()
			c.sleep(b.openFor - b.openFor/50)
			b.mustNot("a call before the open period was over")
			c.sleep(b.openFor/50 + soon(b.openFor) - b.openFor)
			b.must(success, "the call after the open period")
		},
	},
	{
		id: "O02", title: "A rejected call can be distinguished from a failed one", rule: "G8",
		why:   "callers fall back on a rejection and retry a failure",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{})
			for range b.failures {
				err := b.do(bg, func(context.Context) error { return errFailed })
				c.settle()
				if err != nil && b.rejected(err) {
					c.failf("the failure that opened it looks like a rejection")
				}
			}
			b.mustNot("a call after the failures that open it")
		},
	},
	{
		id: "O03", title: "Rejections do not prolong the open period", rule: "B12, B13",
		why:   "otherwise a busier client is rejected for longer",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{})
			b.open()
			for range 98 {
				c.sleep(b.openFor / 100)
				b.mustNot("a call before the open period was over")
			}
			c.sleep(soon(b.openFor) - b.openFor*98/100)
			b.must(success, "the call after an open period full of rejections")
		},
	},
	{
		id: "O04", title: "Rejections do not count as calls: after closing they do not affect the ratio", rule: "B12",
		why:   "rejections show nothing about the backend",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{})
			b.open()
			for range 1000 {
				b.mustNot("a call while open")
			}
			b.elapse()
			b.shut()
			for range 20 {
				b.must(success, "a call after it had closed again")
			}
			b.must(failure, "a call after it had closed again")
			b.must(success, "a call after the first failure since it closed")
		},
	},
	{
		id: "O05", title: "Failures of calls begun before it opened do not prolong the open period", rule: "B15",
		why:   "with timeouts of 30 s it would be open for 30 s more than configured",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{})
			var late []func(outcome)
			for range 3 {
				late = append(late, b.mustHold("a call of a closed breaker"))
			}
			b.open()
			c.sleep(b.openFor * 9 / 10)
			for _, end := range late {
				end(failure)
			}
			c.sleep(soon(b.openFor) - b.openFor*9/10)
			b.must(success, "the call after the open period, as calls begun before it had failed during it")
		},
	},
	{
		id: "O06", title: "A success of a call begun before it opened does not close it", rule: "B15",
		why:   "one slow answer from before the outage must not send all traffic to a dead backend",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{})
			end := b.mustHold("a call of a closed breaker")
			b.open()
			c.sleep(b.openFor / 10)
			end(success)
			b.mustNot("a call, as one begun before it opened had succeeded")
		},
	},
	{
		id: "O07", title: "It opens once: further failures of the same outage cause no events", rule: "B15, B9",
		why:   "one outage is one alert",
		needs: []feature{hasStates, hasListener},
		run: func(c *cell) {
			var opens atomic.Int64
			b := c.make(want{onChange: func(e change) {
				if e.to == open {
					opens.Add(1)
				}
			}})
			var late []func(outcome)
			for range 50 {
				late = append(late, b.mustHold("a call of a closed breaker"))
			}
			for _, end := range late {
				end(failure)
				c.sleep(time.Millisecond)
			}
			if n := opens.Load(); n != 1 {
				c.failf("called the listener %s for opening", times(int(n)))
			}
		},
	},
	{
		id: "O08", title: "Reading the state changes nothing and causes no events", rule: "B14",
		why:   "a dashboard is not traffic",
		needs: []feature{hasStates, hasState, hasListener},
		run: func(c *cell) {
			var events atomic.Int64
			b := c.make(want{onChange: func(change) { events.Add(1) }})
			b.open()
			b.elapse()
			before := events.Load() // a timer may have made a transition before
			for range 10 {
				b.state()
			}
			c.settle()
			if events.Load() != before {
				c.failf("reading the state made a transition")
			}
		},
	},
	{
		id: "O09", title: "It is open for the whole period, also with a short window and steady traffic", rule: "B33",
		why:   "a breaker that is removed while it is open protects no backend",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{openFor: 10 * time.Second, window: time.Second})
			b.open()
			for range 90 {
				c.sleep(b.openFor / 100)
				b.mustNot("a call in the middle of the open period")
			}
		},
	},
	{
		id: "O10", title: "It is open for the whole period, also without calls", rule: "B33, B36",
		why:   "the same, with little traffic",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{openFor: 10 * time.Second, window: time.Second})
			b.open()
			c.sleep(b.openFor * 9 / 10)
			b.mustNot("a call in the middle of the open period")
		},
	},
	{
		id: "O11", title: "A rejected caller can learn when to retry", rule: "G8",
		why:   "a server can return it as Retry-After, and a job queue can reschedule",
		needs: []feature{hasStates, hasRetry},
		run: func(c *cell) {
			b := c.make(want{openFor: 10 * time.Second})
			b.open()
			c.sleep(b.openFor * 4 / 10)
			err := b.do(bg, func(context.Context) error { return nil })
			if err == nil {
				c.failf("admitted a call while open")
			}
			if got := b.retryAfter(err); got < b.openFor/2 || got > b.openFor*7/10 {
				c.failf("with 60%% of the period left, it reported a wrong time")
			}
		},
	},
	{
		id: "O12", title: "Each failed recovery makes the next open period longer, up to a limit", rule: "B17",
		why:   "a backend that is down for an hour does not need a probe every 5 s",
		needs: []feature{hasStates, hasBackoff},
		run: func(c *cell) {
			b := c.make(want{openFor: time.Second, backoff: 2, maxOpen: 5 * time.Second})
			for range b.failures {
				b.must(failure, "a failure that is to open it")
			}
			var periods []time.Duration
			for range 5 {
				periods = append(periods, c.untilProbe(b))
			}
			for i, seconds := range []int{1, 2, 4, 5, 5} {
				want := time.Duration(seconds) * time.Second
				if periods[i] < want*95/100 || periods[i] > want*105/100 {
					c.failf("open period %d is not %v, with 1 s, doubled each time, at most 5 s", i+1, want)
				}
			}
		},
	},
	{
		id: "O13", title: "Breakers that opened together do not probe together", rule: "B17",
		why:   "a thousand clients that return at the same instant can cause the next outage",
		needs: []feature{hasStates, hasJitter},
		run: func(c *cell) {
			var periods []time.Duration
			for range 10 {
				b := c.make(want{openFor: 10 * time.Second, jitter: 0.2})
				for range b.failures {
					b.must(failure, "a failure that is to open it")
				}
				periods = append(periods, c.untilProbe(b))
			}
			if slices.Max(periods)-slices.Min(periods) < 100*time.Millisecond {
				c.failf("ten breakers with jitter probe within 100 ms of each other")
			}
		},
	},
	{
		id: "O14", title: "A backend that asks for a pause gets it", rule: "B18",
		why:   "gRPC servers can send the time after which to retry (RetryInfo, pushback)",
		needs: []feature{hasStates, hasAsked},
		run: func(c *cell) {
			b := c.make(want{
				openFor: 5 * time.Second, maxOpen: time.Minute, asked: func() time.Duration { return 30 * time.Second },
			})
			for range b.failures {
				b.must(failure, "a failure that is to open it")
			}
			c.sleep(25 * time.Second)
			b.mustNot("a call after 25 s, though the backend had asked for 30 s")
		},
	},
	{
		id: "O15", title: "It can be opened and closed manually", rule: "B29",
		why:   "the operator may know of an outage, or of its end, before the breaker does",
		needs: []feature{hasStates, hasManual},
		run: func(c *cell) {
			b := c.make(want{})
			b.trip()
			c.settle()
			b.mustNot("a call after it was opened manually")
			b.reset()
			c.settle()
			for range 10 {
				b.must(success, "a call after it was closed manually")
			}
		},
	},
	{
		id: "O16", title: "It can be held open until it is released", rule: "B28",
		why:   "during maintenance not even probes should be admitted",
		needs: []feature{hasForce},
		run: func(c *cell) {
			b := c.make(want{openFor: time.Second})
			release := b.forceOpen()
			for range 50 {
				c.sleep(b.openFor)
				b.mustNot("a call while it is held open")
			}
			release()
			c.settle()
			b.must(success, "a call after it was released")
		},
	},
	{
		id: "O17", title: "It has a shadow mode: it admits all calls and counts those that it would have rejected",
		rule:  "B28",
		why:   "users want to observe a breaker in production before they enable it",
		needs: []feature{hasShadow},
		run: func(c *cell) {
			b := c.make(want{})
			would := b.shadow()
			for range 50 {
				b.must(failure, "a call in shadow mode")
			}
			if would() == 0 {
				c.failf("after 50 failed calls it would have rejected none")
			}
		},
	},
}

// untilProbe returns the time until the next call is admitted, and fails that call.
func (c *cell) untilProbe(b subject) time.Duration {
	begin := time.Now()
	const step = 10 * time.Millisecond
	for time.Since(begin) < 2*time.Minute {
		c.sleep(step)
		if b.try(failure) {
			return time.Since(begin)
		}
	}
	c.failf("open for more than two minutes")
	return 0
}
