package behaviour

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A scenario is one row of the comparison.
type scenario struct {
	id string

	title string // what the library must do
	rule  string // of docs/semantics.md
	why   string // why a user wants it
	needs []feature
	// wall makes it run in real time. The clock of a bubble stands still while a goroutine waits for a mutex, so scenarios
	// that look for deadlocks cannot run in one.
	wall bool
	run  func(c *cell)
}

type mark string

const (
	pass    mark = "pass"
	fail    mark = "fail"
	lacking mark = "lacking" // a fail because of a missing feature
	na      mark = "na"
	hang    mark = "hang"
	crash   mark = "crash"
)

type verdict struct {
	Mark   mark   `json:"mark"`
	Reason string `json:"reason,omitempty"`
}

// A cell is one scenario with one library, in its own process. Its first verdict ends the process. So any goroutine may
// give the verdict, and goroutines that the library leaves behind do not matter.
type cell struct {
	tb    testing.TB
	lib   *library
	wall  bool
	given atomic.Bool
}

// resultFD is the file descriptor to which the child writes its verdict.
const resultFD = 3

func (c *cell) give(v verdict) {
	if !c.given.CompareAndSwap(false, true) {
		select {} // the process is about to end
	}
	out := os.NewFile(resultFD, "verdict")
	if err := json.NewEncoder(out).Encode(v); err != nil {
		fmt.Fprintln(os.Stderr, "verdict:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// failf gives the verdict that the library did not behave as described. The text must be the same on every machine and
// in every run.
func (c *cell) failf(format string, args ...any) {
	c.give(verdict{Mark: fail, Reason: fmt.Sprintf(format, args...)})
}

func (c *cell) notApplicable(why string) { c.give(verdict{Mark: na, Reason: why}) }

// settle waits until the library's background goroutines are idle.
func (c *cell) settle() {
	if c.wall {
		time.Sleep(time.Millisecond)
		return
	}
	synctest.Wait()
}

func (c *cell) sleep(d time.Duration) {
	time.Sleep(d)
	c.settle()
}

// within runs f in a goroutine and fails the cell if it does not return in time. It is for scenarios in real time.
func (c *cell) within(d time.Duration, what string, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(d):
		c.failf("%s", what)
	}
}

// subject is a breaker under test.
type subject struct {
	*instance
	c *cell
}

func (c *cell) make(w want) subject { return c.test(c.lib.make(c.filled(w))) }

// filled returns w with defaults for the fields that a scenario left zero.
func (c *cell) filled(w want) want {
	if w.failures == 0 && w.ratio == 0 && w.slow == 0 && w.trip == nil {
		w.failures = 5
	}
	if w.openFor == 0 {
		w.openFor = 5 * time.Second
	}
	if w.window == 0 {
		w.window = 10 * time.Second
	}
	if w.probes == 0 {
		w.probes = 1
	}
	if w.successes == 0 {
		w.successes = 1
	}
	if w.lease == 0 {
		w.lease = w.openFor
	}
	return w
}

func (c *cell) test(i *instance) subject { return subject{i, c} }

// try makes one call that ends with o and reports whether it was admitted.
func (s subject) try(o outcome) bool {
	ctx, cancel := context.WithCancel(bg)
	defer cancel()
	ran := false
	err := s.do(ctx, func(context.Context) error {
		ran = true
		if o == ignored {
			cancel()
		}
		return o.err()
	})
	s.c.settle()
	if rejected := err != nil && s.rejected(err); rejected == ran {
		if ran {
			s.c.failf("ran a call and reported that it had rejected it")
		}
		s.c.failf("neither ran nor rejected a call")
	}
	return ran
}

// begin is hold without settle, for calls that end at the same time.
func (s subject) begin() func(outcome) {
	end, err := s.start(bg)
	if err != nil {
		s.c.failf("rejected a call of a closed breaker")
	}
	return end
}

// must is try for a call that must be admitted.
func (s subject) must(o outcome, what string) {
	s.c.tb.Helper()
	if !s.try(o) {
		s.c.failf("rejected %s", what)
	}
}

// mustNot is try for a call that must be rejected.
func (s subject) mustNot(what string) {
	s.c.tb.Helper()
	if s.try(success) {
		s.c.failf("admitted %s", what)
	}
}

// mustAdmitWithin waits for up to the given number of open periods, with a call after each, until one is admitted.
func (s subject) mustAdmitWithin(periods int, otherwise string) {
	s.c.tb.Helper()
	for range periods {
		s.c.sleep(s.openFor)
		if s.try(success) {
			return
		}
	}
	s.c.failf("%s", otherwise)
}

// hold begins a call.
func (s subject) hold() (end func(outcome), ok bool) {
	finish, err := s.start(bg)
	s.c.settle()
	if err != nil {
		return nil, false
	}
	return func(o outcome) {
		finish(o)
		s.c.settle()
	}, true
}

// hang makes a call that ends when its context does, as gRPC calls do, and reports whether it was admitted. Its caller
// would wait forever.
func (s subject) hang(running *atomic.Int64) bool {
	var in atomic.Bool
	go func() {
		// the result does not matter
		_ = s.do(bg, func(ctx context.Context) error {
			in.Store(true)
			running.Add(1)
			defer running.Add(-1)
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	s.c.settle()
	return in.Load()
}

func (s subject) mustHold(what string) (end func(outcome)) {
	s.c.tb.Helper()
	end, ok := s.hold()
	if !ok {
		s.c.failf("rejected %s", what)
	}
	return end
}

// open opens a new breaker.
func (s subject) open() {
	for i := range s.failures {
		s.must(failure, fmt.Sprintf("failing call %d of the %d that open it", i+1, s.failures))
	}
	s.mustNot(fmt.Sprintf("a call after the %d failures that open it", s.failures))
}

// bg never ends. The context of the test ends with the cell.
var bg = context.Background()

// ordinal returns i+1, to count from 1.
func ordinal(i int) string { return strconv.Itoa(i + 1) }

// times returns a number of times, as a word if there is one.
func times(n int) string {
	switch n {
	case 0:
		return "never"
	case 1:
		return "once"
	case 2:
		return "twice"
	default:
		return strconv.Itoa(n) + " times"
	}
}

// soon returns a little more than d, because libraries may count in milliseconds or require strictly more.
func soon(d time.Duration) time.Duration { return d + d/50 + 2*time.Millisecond }

// elapse waits until the open period is over.
func (s subject) elapse() { s.c.sleep(soon(s.openFor)) }

// shut closes a breaker whose open period is over.
func (s subject) shut() {
	for i := range s.successes {
		if i > 0 {
			s.c.sleep(soon(s.between))
		}
		s.must(success, fmt.Sprintf("probe %d of the %d that close it", i+1, s.successes))
	}
}

// cycle opens a breaker and closes it again.
func (s subject) cycle() {
	s.open()
	s.elapse()
	s.shut()
}

// isClosed reports whether the breaker admits concurrent calls, which only a closed one does.
func (s subject) isClosed() bool {
	if s.state != nil {
		return s.state() == closed
	}
	var ends []func(outcome)
	for range 3 {
		end, ok := s.hold()
		if !ok {
			break
		}
		ends = append(ends, end)
	}
	for _, end := range ends {
		end(success)
	}
	return len(ends) == 3
}
