package behaviour

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

var halfOpened = []*scenario{
	{
		id: "H01", title: "One probe at a time: while it runs, other calls are rejected", rule: "B19",
		why:   "a backend that has just recovered must not get full load",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{})
			b.open()
			b.elapse()
			b.mustHold("the first call after the open period")
			for range 20 {
				b.mustNot("a second call while a probe was running")
			}
		},
	},
	{
		id: "H02", title: "If three probes are configured, three are admitted and no fourth", rule: "B19",
		why:   "a busy client should detect a recovery soon without overloading the backend",
		needs: []feature{hasStates, hasProbes},
		run: func(c *cell) {
			b := c.make(want{probes: 3, successes: 3})
			b.open()
			b.elapse()
			for range 3 {
				b.mustHold("one of three probes")
			}
			b.mustNot("a fourth probe, of three")
		},
	},
	{
		id: "H03", title: "1000 callers at the instant when the open period ends: one is admitted", rule: "B19",
		why:   "queues, retries and timers make callers call at the same time",
		needs: []feature{hasStates},
		run: func(c *cell) {
			for range 50 {
				b := c.make(want{})
				b.open()
				b.elapse()
				var in atomic.Int64
				gate, release := make(chan struct{}), make(chan struct{})
				var all sync.WaitGroup
				for range 1000 {
					all.Go(func() {
						<-gate
						// a rejection is expected
						_ = b.do(bg, func(context.Context) error {
							in.Add(1)
							<-release
							return nil
						})
					})
				}
				c.settle()
				close(gate)
				c.settle()
				n := in.Load()
				close(release)
				all.Wait()
				if n > 1 {
					c.failf("more than one of 1000 was admitted")
				}
				if n == 0 {
					c.failf("none of 1000 was admitted")
				}
			}
		},
	},
	{
		id: "H04", title: "As many successes as configured close it, and not one fewer", rule: "B20",
		why:   "one success may be luck",
		needs: []feature{hasStates, hasSuccesses},
		run: func(c *cell) {
			b := c.make(want{successes: 3})
			b.open()
			b.elapse()
			for i := range 2 {
				b.must(success, "probe "+ordinal(i)+" of 3")
				c.sleep(soon(b.between))
			}
			// Still half-open: a single failure opens it at once, but would not open a closed one.
			b.must(failure, "probe 3 of 3")
			b.mustNot("a call after a probe had failed: two of three successes had closed it")
			b.elapse()
			b.shut()
			b.must(failure, "the first call after three successes")
			b.must(success, "a call after one failure: three of three successes had not closed it")
		},
	},
	{
		id: "H05", title: "One probe at a time, though three successes are needed", rule: "B20",
		why:   "the number of concurrent probes and the number of successes are separate settings",
		needs: []feature{hasStates, hasSuccesses},
		run: func(c *cell) {
			b := c.make(want{probes: 1, successes: 3})
			b.open()
			b.elapse()
			b.mustHold("the first call after the open period")
			b.mustNot("a second probe while the first ran, as more than one success is needed to close")
		},
	},
	{
		id: "H06", title: "A failed probe opens again, at once and for a whole period", rule: "B20, B13",
		why:   "the outage is not over",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{})
			b.open()
			b.elapse()
			b.must(failure, "the probe")
			b.mustNot("a call after the probe had failed")
			c.sleep(b.openFor - b.openFor/50)
			b.mustNot("a call before the second open period was over")
			c.sleep(b.openFor/50 + soon(b.openFor) - b.openFor)
			b.must(success, "the call after the second open period")
		},
	},
	{
		id: "H07", title: "Successes before a failed probe do not count in the next round", rule: "B20",
		why:   "the successes must be consecutive",
		needs: []feature{hasStates, hasSuccesses},
		run: func(c *cell) {
			b := c.make(want{successes: 2})
			b.open()
			b.elapse()
			b.must(success, "the first probe")
			c.sleep(soon(b.between))
			b.must(failure, "the second probe")
			b.elapse()
			b.must(success, "the probe of the second half-open period")
			c.sleep(soon(b.between))
			b.must(failure, "the second probe of the second half-open period")
			b.mustNot("a call after a failed probe: a success of the previous half-open period had helped to close it")
		},
	},
	{
		id: "H08", title: "A cancelled probe neither closes nor opens, and the next call probes", rule: "B21",
		why:   "a cancelled call shows nothing about the backend",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{})
			b.open()
			b.elapse()
			b.must(ignored, "the first call after the open period")
			c.sleep(soon(b.between))
			end := b.mustHold("the call after a probe that was cancelled")
			if b.isClosed() {
				c.failf("a cancelled probe closed it")
			}
			end(failure)
			b.mustNot("a call after the second probe had failed")
		},
	},
	{
		id: "H09", title: "A call whose context is already done does not use a probe", rule: "B24",
		why:   "it never reaches the backend; if the library's calls take no context, the caller has to check it",
		needs: []feature{hasStates, hasContext},
		run: func(c *cell) {
			b := c.make(want{})
			b.open()
			b.elapse()
			done, cancel := context.WithCancel(bg)
			cancel()
			// the context's error is expected
			_ = b.do(done, func(ctx context.Context) error { return ctx.Err() })
			c.settle()
			end := b.mustHold("the first live call after the open period")
			if b.isClosed() {
				c.failf("a call that was never admitted closed it")
			}
			end(success)
		},
	},
	{
		id: "H10", title: "A probe that never reports does not keep the breaker half-open", rule: "B22",
		why: "the most reported bug: half-open for six days because one answer was lost; this probe does not even " +
			"return when its context ends",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{lease: 10 * time.Second})
			b.open()
			b.elapse()
			b.mustHold("the probe that will never report")
			b.mustAdmitWithin(100, "one probe never reported, and 100 open periods later every call is still rejected")
		},
	},
	{
		id: "H11", title: "A probe that ends in runtime.Goexit does not keep the breaker half-open", rule: "B22, B23",
		why:   "t.FailNow in a test and some worker pools end goroutines this way",
		needs: []feature{hasStates, hasCallback},
		run: func(c *cell) {
			b := c.make(want{lease: 10 * time.Second})
			b.open()
			b.elapse()
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				// it never returns
				_ = b.do(bg, func(context.Context) error {
					runtime.Goexit()
					return nil
				})
			}()
			<-gone
			c.settle()
			b.mustAdmitWithin(100, "100 open periods after the probe ended in Goexit, every call is still rejected")
		},
	},
	{
		id: "H12", title: "A probe that panics is a failed probe", rule: "B23",
		why:   "a panic must neither close the breaker nor occupy the probe slot for ever",
		needs: []feature{hasStates, hasCallback},
		run: func(c *cell) {
			b := c.make(want{lease: 10 * time.Second})
			b.open()
			b.elapse()
			c.panics(b)
			b.mustNot("a call after the probe had panicked")
			b.mustAdmitWithin(100, "100 open periods after the probe panicked, every call is still rejected")
		},
	},
	{
		id: "H13", title: "Probes do not pile up at a backend that hangs", rule: "B22",
		why:   "each is a goroutine, a stream and memory on both sides; a time limit of the library's own may end them",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{openFor: time.Second, lease: time.Second, hang: time.Second})
			b.open()
			var running atomic.Int64
			asked, most := false, int64(0)
			for range 4000 {
				c.sleep(b.openFor / 4)
				asked = b.hang(&running) || asked
				most = max(most, running.Load())
			}
			if most > 60 {
				c.failf("after 1000 open periods with a backend that hangs, more than 60 probes are in flight")
			}
			if !asked {
				c.failf("never admitted a probe again")
			}
		},
	},
	{
		id: "H14", title: "Calls rejected while a probe runs do not disturb it", rule: "B19, B12",
		why:   "under load there are always rejected calls",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{lease: time.Minute})
			b.open()
			b.elapse()
			end := b.mustHold("the probe")
			for range 1000 {
				b.try(success)
				c.sleep(b.openFor / 20_000)
			}
			end(success)
			if !b.isClosed() {
				c.failf("the probe succeeded, and it did not close")
			}
		},
	},
	{
		id: "H15", title: "Half-open and idle for an hour, it still closes on the next success", rule: "B20, B22",
		why:   "traffic may stop during a recovery",
		needs: []feature{hasStates, hasSuccesses},
		run: func(c *cell) {
			b := c.make(want{successes: 2})
			b.open()
			b.elapse()
			b.must(success, "the first probe")
			c.sleep(time.Hour)
			b.must(success, "the second probe, an hour later")
			c.sleep(soon(b.between))
			if !b.isClosed() {
				c.failf("both probes succeeded, and it did not close")
			}
		},
	},
	{
		id: "H16", title: "After closing, earlier failures are forgotten", rule: "B26",
		why:   "one failure after the recovery must not open it again",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{window: time.Minute})
			b.cycle()
			b.must(failure, "the first call after it closed")
			b.must(success, "a call after the first failure since it closed")
		},
	},
	{
		id: "H17", title: "After closing, load increases gradually, if configured", rule: "B27",
		why:   "a backend with cold caches cannot take full load",
		needs: []feature{hasStates, hasRamp},
		run: func(c *cell) {
			b := c.make(want{ramp: 10 * time.Second})
			b.cycle()
			passed := 0
			for range 100 {
				if b.try(success) {
					passed++
				}
				c.sleep(10 * time.Millisecond)
			}
			if passed < 5 || passed > 50 {
				c.failf("in the first tenth of the ramp, the share of admitted calls is not between 5%% and 50%%")
			}
			c.sleep(10 * time.Second)
			for range 100 {
				b.must(success, "a call after the ramp")
			}
		},
	},
	{
		id: "H18", title: "A second report of the same probe is ignored", rule: "B25",
		why:   "code may easily report in a defer and also explicitly",
		needs: []feature{hasStates, hasSteps, hasSuccesses},
		run: func(c *cell) {
			b := c.make(want{successes: 2})
			b.open()
			b.elapse()
			end := b.mustHold("the first probe")
			end(success)
			end(success)
			if b.isClosed() {
				c.failf("one probe, reported twice, closed it where two successes are needed")
			}
		},
	},
}
