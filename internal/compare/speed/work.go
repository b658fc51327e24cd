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

// All works. In all but Consecutive the breaker opens when half of at least 20 calls in 10 s have failed, or what comes
// nearest to it in the library.
const (
	Success     Work = "success"     // closed, every call succeeds
	OnePercent  Work = "1percent"    // closed, every hundredth call fails
	Consecutive Work = "consecutive" // closed, every call succeeds, failures in a row are the only rule
	Open        Work = "open"        // open, every call is rejected
	HalfOpen    Work = "halfopen"    // half-open with every probe slot out, every call is rejected
	Unary       Work = "unary"       // Success as a unary client interceptor around an invoker that returns at once
	UnaryOpen   Work = "unaryopen"   // Open as a unary client interceptor
)

// The connections of a real call.
const (
	ConnBare    = "bare"
	ConnAgain   = "again" // another one like it
	ConnGuarded = "guarded"
)

// Works lists all of them in the order of the report.
var Works = []Work{Success, Consecutive, OnePercent, Open, HalfOpen, Unary, UnaryOpen}

// Rejects says whether every call is to be rejected.
func (w Work) Rejects() bool { return w == Open || w == HalfOpen || w == UnaryOpen }

// errDown is how a guarded function fails. It is a gRPC status that interceptors take for a failure of the server.
var errDown = status.Error(codes.Unavailable, "down")

// errRejected is what a guarded call returns where the library says no without an error, or with a new one each time.
var errRejected = errors.New("rejected")

// While watched is on, the guarded functions count themselves in ran. Off, looking at it is a load from a cache line that
// nobody writes, so it costs every library the same fraction of a nanosecond, in parallel too.
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

// Job is a breaker that is ready for a work.
type Job struct {
	Work Work
	// Call is one guarded call.
	Call func() error
	// Fail is one whose function fails. It is for OnePercent.
	Fail func() error
	// Want is what each Call must return.
	Want error

	guard  *guard
	closes []func()
}

// Close lets go of all that the job holds.
func (j *Job) Close() {
	for _, f := range j.closes {
		f()
	}
}

// Check says whether calls were what the work says, after calls of them, unexpected of which did not return what they should:
// the function must run exactly if calls are admitted, and a breaker that counts must have counted them all.
func (j *Job) Check(calls, unexpected uint64) error {
	if unexpected != 0 {
		return fmt.Errorf("%d of %d calls did not return what they should (%s)", unexpected, calls, j.wanted())
	}
	const more = 10
	ran.Store(0)
	watched.Store(true)
	defer watched.Store(false)
	for range more {
		if err := j.Call(); err != j.Want { //nolint:errorlint // the very same value, as in the benchmarks
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
