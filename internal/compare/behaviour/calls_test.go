package behaviour

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"
)

var errOwn = errors.New("the caller's own error")

var calls = []*scenario{
	{
		id: "P01", title: "A panic counts as a failure", rule: "B23",
		why:   "code may panic because the backend's answer is bad",
		needs: []feature{hasStates, hasCallback},
		run: func(c *cell) {
			b := c.make(want{failures: 5})
			for range b.failures {
				c.panics(b)
			}
			b.mustNot("a call after as many panics as failures open it")
		},
	},
	{
		id: "P02", title: "A panic reaches the caller with its value unchanged", rule: "B23",
		why:   "code that recovers panics looks at the value",
		needs: []feature{hasCallback},
		run: func(c *cell) {
			b := c.make(want{failures: 5})
			if got := c.panics(b); got != errPanic {
				c.failf("the caller gets another value, or no panic")
			}
		},
	},
	{
		id: "P03", title: "runtime.Goexit in a call counts as a failure", rule: "B23",
		why:   "the call has ended without success",
		needs: []feature{hasStates, hasCallback},
		run: func(c *cell) {
			b := c.make(want{failures: 5})
			for range b.failures {
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
			}
			b.mustNot("a call after as many calls with Goexit as failures open it")
		},
	},
	{
		id: "P04", title: "The error of a call reaches the caller unchanged", rule: "G1",
		why:   "callers compare errors",
		needs: []feature{hasCallback},
		run: func(c *cell) {
			b := c.make(want{failures: 5})
			//nolint:errorlint // the scenario requires the same value
			if err := b.do(bg, func(context.Context) error { return errOwn }); err != errOwn {
				c.failf("the caller gets another error")
			}
		},
	},
	{
		id: "N01", title: "Calls run concurrently", rule: "B9",
		why: "a breaker is not a queue",
		run: func(c *cell) {
			b := c.make(want{failures: 5})
			begin := time.Now()
			var all sync.WaitGroup
			for range 20 {
				all.Go(func() {
					// it succeeds
					_ = b.do(bg, func(context.Context) error {
						time.Sleep(time.Second)
						return nil
					})
				})
			}
			all.Wait()
			if time.Since(begin) > 1500*time.Millisecond {
				c.failf("20 concurrent calls of a second each took longer than a second and a half")
			}
		},
	},
	{
		id: "N02", title: "Counts are exact under concurrency", rule: "B9, B37",
		why:   "a ratio of wrong counts is wrong",
		needs: []feature{hasStates, hasCounts, hasRatio},
		run: func(c *cell) {
			b := c.make(want{ratio: 1, minCalls: 1_000_000})
			var all sync.WaitGroup
			for worker := range 8 {
				all.Go(func() {
					for range 1000 {
						o := success
						if worker%2 == 0 {
							o = failure
						}
						// half of them fail
						_ = b.do(bg, func(context.Context) error { return o.err() })
					}
				})
			}
			all.Wait()
			c.settle()
			if s, f := b.counts(); s != 4000 || f != 4000 {
				c.failf("the counts are wrong after 8000 calls, half of them failures")
			}
		},
	},
	{
		id: "N03", title: "The counts of an idle breaker cover only its window", rule: "B8",
		why:   "a dashboard must not show 100% errors an hour after the last call",
		needs: []feature{hasStates, hasCounts, hasRatio, hasWindow},
		run: func(c *cell) {
			b := c.make(want{ratio: 0.5, minCalls: 1000})
			for range 100 {
				b.must(failure, "one of 100 failures, with a minimum of 1000 calls")
			}
			c.sleep(b.window * 5)
			if _, f := b.counts(); f != 0 {
				c.failf("still counts failures five windows later")
			}
		},
	},
	{
		id: "N04", title: "Breakers leave no goroutines behind", rule: "B36",
		why: "tests make thousands of breakers, and so do short-lived clients",
		run: func(c *cell) {
			before := runtime.NumGoroutine()
			for range 200 {
				b := c.make(want{failures: 5})
				b.must(success, "the first call")
			}
			c.sleep(time.Minute)
			runtime.GC()
			c.settle()
			if runtime.NumGoroutine()-before > 20 {
				c.failf("200 unused breakers have more than 20 goroutines")
			}
		},
	},
	{
		id: "N05", title: "A limit on calls in flight can be set and is kept", rule: "B19",
		why:   "calls that wait for a slow backend fill the memory before any of them fails",
		needs: []feature{hasLimit},
		run: func(c *cell) {
			b := c.make(want{failures: 5, maxCalls: 5})
			var ends []func(outcome)
			for range 5 {
				ends = append(ends, b.mustHold("one of five calls in flight"))
			}
			if _, ok := b.hold(); ok {
				c.failf("admitted a sixth call, with a limit of five")
			}
			ends[0](success)
			b.mustHold("a call after one of five had ended")
		},
	},
	{
		id: "K01", title: "An open breaker does not affect other keys", rule: "B32, G11",
		why:   "a dead method must not make calls of other methods fail",
		needs: []feature{hasKeys},
		run: func(c *cell) {
			r := c.registry(want{failures: 5}, 1000)
			dead, well := r("dead"), r("well")
			for range 200 {
				dead.try(failure)
				well.must(success, "a call of a key that never failed")
				c.sleep(time.Millisecond)
			}
			passed := 0
			for range 100 {
				if dead.try(failure) {
					passed++
				}
				c.sleep(time.Millisecond)
			}
			if passed > 50 {
				c.failf("admitted most calls of a key that always failed")
			}
		},
	},
	{
		id: "K02", title: "Concurrent first uses of a key make one breaker", rule: "B32",
		why:   "otherwise the first failures of a burst are lost",
		needs: []feature{hasStates, hasKeys},
		run: func(c *cell) {
			for round := range 20 {
				r := c.registry(want{failures: 5}, 1000)
				var all sync.WaitGroup
				for range 5 {
					all.Go(func() {
						// it fails on purpose
						_ = r("key "+ordinal(round)).do(bg, func(context.Context) error { return errFailed })
					})
				}
				all.Wait()
				c.settle()
				r("key " + ordinal(round)).mustNot("a call after five failures in five goroutines")
			}
		},
	},
	{
		id: "K03", title: "Keys that are used once are not kept for ever", rule: "B33",
		why:   "keys that contain an id fill the memory of a client that runs for months",
		needs: []feature{hasKeys},
		run: func(c *cell) {
			get := c.registry(want{failures: 5}, 100)
			use := func(from, to int) {
				for i := from; i < to; i++ {
					get("key "+ordinal(i)).must(success, "the first call of a key")
				}
				c.sleep(time.Minute)
			}
			use(0, 100)
			few := heap()
			use(100, 200)
			step := max(heap()-few, 8<<10)
			use(200, 2200)
			if heap()-few > 12*step {
				c.failf("2000 keys that were used once, a minute ago, are all still in memory")
			}
			runtime.KeepAlive(get) // keeps the registry from being collected before the last reading
		},
	},
	{
		id: "K04", title: "An open breaker is not evicted for other keys", rule: "B33",
		why:   "otherwise calls reach a dead backend again",
		needs: []feature{hasStates, hasKeys},
		run: func(c *cell) {
			get := c.registry(want{failures: 5, openFor: time.Minute}, 100)
			get("dead").open()
			for i := range 2000 {
				get("key "+ordinal(i)).must(success, "the first call of a key")
				c.sleep(10 * time.Millisecond)
			}
			get("dead").mustNot("a call of an open key, after calls of 2000 others")
		},
	},
	{
		id: "K05", title: "Settings can be changed while it is open, without closing it", rule: "B34",
		why:   "operators change settings during outages",
		needs: []feature{hasStates, hasLive},
		run: func(c *cell) {
			w := want{
				failures: 5, window: 10 * time.Second, openFor: 10 * time.Second, probes: 1, successes: 1, lease: time.Minute,
			}
			b := c.make(w)
			b.open()
			w.failures = 8
			b.apply(w)
			c.settle()
			b.mustNot("a call of an open breaker after a threshold was changed")
		},
	},
}

// errPanic is the value that a call made by panics has.
var errPanic any = errors.New("a bug in the call")

// panics makes a call that panics, and returns what came out of it.
func (c *cell) panics(b subject) (value any) {
	defer c.settle()
	defer func() { value = recover() }()
	// it never returns
	_ = b.do(bg, func(context.Context) error { panic(errPanic) })
	return nil
}

// registry returns the library's way from a key to its breaker.
func (c *cell) registry(w want, bound int) func(key string) subject {
	r := c.lib.registry(c.filled(w), bound)
	return func(key string) subject { return c.test(r.get(key)) }
}

// heap is how much memory is in use.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) + int64(m.StackInuse)
}
