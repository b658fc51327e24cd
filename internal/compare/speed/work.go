package speed

import (
	"errors"
	"fmt"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Work is what a benchmark does.
type Work string

// All works. In all but Consecutive the breaker opens when half of at least 20 calls in 10 s have failed, or under the
// most similar condition that the library has.
const (
	Success     Work = "success"     // closed, every call succeeds
	OnePercent  Work = "1percent"    // closed, every hundredth call fails
	Consecutive Work = "consecutive" // closed, every call succeeds, the failure streak is the only rule
	Open        Work = "open"        // open, every call is rejected
	HalfOpen    Work = "halfopen"    // half-open with all probe slots taken, every call is rejected
	Unary       Work = "unary"       // Success as a unary client interceptor around an invoker that returns at once
	UnaryOpen   Work = "unaryopen"   // Open as a unary client interceptor
)

// The connections of the benchmark of real calls.
const (
	ConnBare    = "bare"
	ConnAgain   = "again" // another one without a guard
	ConnGuarded = "guarded"
)

// Works lists all works in the order of the report.
var Works = []Work{Success, Consecutive, OnePercent, Open, HalfOpen, Unary, UnaryOpen}

// Rejects reports whether every call must be rejected.
func (w Work) Rejects() bool { return w == Open || w == HalfOpen || w == UnaryOpen }

// errDown is the error of a guarded function. It is a gRPC status that interceptors count as a failure of the server.
var errDown = status.Error(codes.Unavailable, "down")

// errRejected stands for a rejection without an error, or with a new error each time.
var errRejected = errors.New("rejected")

// While watched is true, the guarded functions count their runs in ran. While it is false, reading it is a load from a
// cache line that no goroutine writes. It costs every library the same fraction of a nanosecond, in parallel too.
var (
	watched atomic.Bool
	ran     atomic.Int64
)

func succeed() error {
	if watched.Load() {
		ran.Add(1)
	}
	return nil
}

func fail() error {
	if watched.Load() {
		ran.Add(1)
	}
	return errDown
}

// A Job is a breaker that is ready for a work.
type Job struct {
	Work Work
	// Call makes one guarded call.
	Call func() error
	// Fail makes one guarded call whose function fails. It is for OnePercent.
	Fail func() error
	// Want is the error that each Call must return.
	Want error

	guard  *guard
	closes []func()
}

// Close releases everything that the job holds.
func (j *Job) Close() {
	for _, f := range j.closes {
		f()
	}
}

// Check checks that the benchmark did the work, after the given number of calls. unexpected is the number of calls with
// a wrong result. The function must have run exactly if calls are admitted, and a breaker that counts must have counted
// all calls.
func (j *Job) Check(calls, unexpected uint64) error {
	if unexpected != 0 {
		return fmt.Errorf("%d of %d calls did not return what they should (%s)", unexpected, calls, j.wanted())
	}
	const more = 10
	ran.Store(0)
	watched.Store(true)
	defer watched.Store(false)
	for range more {
		if err := j.Call(); err != j.Want { //nolint:errorlint // the same value, as in the benchmarks
			return fmt.Errorf("a call returned (%w), want %s", err, j.wanted())
		}
	}
	want := int64(more)
	if j.Work.Rejects() {
		want = 0
	}
	if n := ran.Load(); n != want {
		return fmt.Errorf("the function ran %d times in %d calls, want %d", n, more, want)
	}
	if j.guard.counted != nil && !j.Work.Rejects() {
		if n := j.guard.counted(); n < calls+more {
			return fmt.Errorf("the breaker counted %d of %d calls", n, calls+more)
		}
	}
	return nil
}

func (j *Job) wanted() string {
	if j.Want == nil {
		return "nil"
	}
	return j.Want.Error()
}
