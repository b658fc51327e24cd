package behaviour

import "time"

// rate is the number of calls per second of these scenarios.
const rate = 200

var load = []*scenario{
	{
		id: "V01", title: "A dead backend gets few calls: of 2000 calls in 10 s, less than a fifth reach it", rule: "B4, B5",
		why: "this is the purpose of a breaker",
		run: func(c *cell) {
			b := c.make(loadWant)
			b.drive(10*time.Second, failure)
			if passed := b.drive(10*time.Second, failure); passed > rate*10/5 {
				c.failf("admitted more than a fifth of the calls to a backend that failed each of them for 10 s")
			}
		},
	},
	{
		id: "V02", title: "A dead backend gets a probe at least every 30 s", rule: "B13, B22",
		why: "otherwise the recovery is never noticed",
		run: func(c *cell) {
			b := c.make(loadWant)
			b.drive(30*time.Second, failure)
			for range 4 {
				if b.drive(30*time.Second, failure) == 0 {
					c.failf("admitted no probe for 30 s")
				}
			}
		},
	},
	{
		id: "V03", title: "15 s after the backend has recovered, 95% of the calls are admitted", rule: "B20",
		why: "a breaker must not make the outage longer",
		run: func(c *cell) {
			b := c.make(loadWant)
			b.drive(30*time.Second, failure)
			b.drive(15*time.Second, success)
			if passed := b.drive(time.Second, success); passed < rate*95/100 {
				c.failf("15 s after the backend had recovered, it admits less than 95%% of the calls")
			}
		},
	},
	{
		id: "V04", title: "A healthy backend is never rejected", rule: "B3",
		why: "a breaker must do no harm",
		run: func(c *cell) {
			b := c.make(loadWant)
			if passed := b.drive(60*time.Second, success); passed < 60*rate {
				c.failf("rejected calls though none had failed")
			}
		},
	},
	{
		id: "V05", title: "With 5% errors, almost no call is rejected", rule: "B5",
		why: "some errors are normal",
		run: func(c *cell) {
			b := c.make(loadWant)
			passed := 0
			for i := range 60 * rate {
				o := success
				if i%20 == 19 {
					o = failure
				}
				if b.try(o) {
					passed++
				}
				c.sleep(time.Second / rate)
			}
			if passed < 60*rate*99/100 {
				c.failf("rejected more than 1%% of the calls, with 5%% errors")
			}
		},
	},
	{
		id: "V06", title: "A minute after the last call of an outage, the first call is admitted", rule: "B8, B13",
		why: "old failures are no reason to reject",
		run: func(c *cell) {
			for range 20 {
				b := c.make(loadWant)
				b.drive(10*time.Second, failure)
				c.sleep(time.Minute)
				if !b.try(success) {
					c.failf("rejected the first call for a minute")
				}
			}
		},
	},
}

// loadWant is the policy of these scenarios: open for 5 s at half of 20 calls in 10 s or, without a ratio rule, at 20
// failures.
var loadWant = want{failures: 20, ratio: 0.5, minCalls: 20, openFor: 5 * time.Second, window: 10 * time.Second}

// drive makes calls for d and returns the number that was admitted.
func (s subject) drive(d time.Duration, o outcome) (passed int) {
	for range int(d/time.Second) * rate {
		if s.try(o) {
			passed++
		}
		s.c.sleep(time.Second / rate)
	}
	return passed
}
