package breaker

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDo(t *testing.T) {
	cause := errors.New("cause")
	for _, tt := range []struct {
		err  error
		want Outcome
	}{
		{nil, Success},
		{cause, Failure},
		{context.DeadlineExceeded, Failure},
		{context.Canceled, Ignored},
		{fmt.Errorf("wrapped: %w", context.Canceled), Ignored},
		{&RejectedError{}, Ignored},
		{ErrRejected, Ignored},
		{fmt.Errorf("by another breaker: %w", &RejectedError{}), Ignored},
		{errors.Join(cause, context.Canceled), Ignored},
	} {
		b := mustNew(t, Config{})
		ctx := context.WithValue(t.Context(), ctxKey{}, "mine")
		err := b.Do(ctx, func(got context.Context) error {
			if got != ctx {
				t.Error("fn got another context")
			}
			if n := b.Snapshot().InFlight; n != 1 {
				t.Errorf("while fn runs %d calls are in flight, want 1", n)
			}
			return tt.err
		})
		if err != tt.err { //nolint:errorlint // the very same error
			t.Errorf("Do returned %v, want %v as it is", err, tt.err)
		}
		wantOnly(t, fmt.Sprint(tt.err), b, tt.want)
	}
}

type ctxKey struct{}

// wantOnly checks that there was one call, with outcome o.
func wantOnly(t *testing.T, what string, b *Breaker, o Outcome) {
	t.Helper()
	s := b.Snapshot()
	got := [...]uint64{Success: s.Successes, Failure: s.Failures, Overload: s.Overloads, Ignored: s.Ignored}
	var want [4]uint64
	want[o] = 1
	if got != want || s.Admitted != 1 || s.InFlight != 0 {
		t.Errorf("%s: successes, failures, overloads, ignored are %v, %d admitted, %d in flight; want %v, 1, 0", what, got,
			s.Admitted, s.InFlight, want)
	}
}

// exits are ways in which fn may end other than by returning.
var exits = map[string]func(){
	"panic":            func() { panic(errPanic) },
	"panic with nil":   func() { panic(nil) },
	"runtime error":    func() { var none Permit; _ = none.ph.gen },
	"Goexit":           runtime.Goexit,
	"panic in a defer": func() { defer func() { panic(errPanic) }(); panic("first") },
}

var errPanic = errors.New("the very panic")

// runToEnd runs f on another goroutine. It returns the value of a panic, and whether f ended by runtime.Goexit.
func runToEnd(f func()) (recovered any, exited bool) {
	type end struct {
		value  any
		goexit bool
	}
	ends := make(chan end, 1)
	go func() {
		e := end{goexit: true}
		defer func() {
			if r := recover(); r != nil {
				e = end{value: r}
			}
			ends <- e
		}()
		f()
		e.goexit = false
	}()
	e := <-ends
	return e.value, e.goexit
}

func TestB23_APanicSettlesAndContinues(t *testing.T) {
	for name, exit := range exits {
		wantPanic, wantExit := runToEnd(exit)
		listeners := map[string]func(context.Context, Event){
			"a quiet listener":     func(context.Context, Event) {},
			"a panicking listener": func(context.Context, Event) { panic("listener") },
		}
		for which, l := range listeners {
			// The failure trips the breaker, so that the listener runs during the panic.
			b := mustNew(t, Config{ConsecutiveFailures: 1}, WithListener(l))
			got, exited := runToEnd(func() {
				_ = b.Do(t.Context(), func(context.Context) error { exit(); return nil })
				t.Errorf("%s, %s: Do returned", name, which)
			})
			if fmt.Sprint(got) != fmt.Sprint(wantPanic) || exited != wantExit {
				t.Errorf("%s, %s: it ended with %v, exit: %v; want %v, %v", name, which, got, exited, wantPanic, wantExit)
			}
			if wantPanic == any(errPanic) && got != wantPanic {
				t.Errorf("%s, %s: the panic has another value: %#v", name, which, got)
			}
			wantOnly(t, name+", "+which, b, Failure)
			if s := b.State(); s != Open {
				t.Errorf("%s, %s: %v, want open", name, which, s)
			}
		}
	}
}

// The same for a probe: its slot is free at once, and it has failed.
func TestB23_APanickingProbeOpensAgain(t *testing.T) {
	for name, exit := range exits {
		synctest.Test(t, func(t *testing.T) {
			b := mustNew(t, probing(1, 1))
			newTimeline(t, b).run(row{0, "trip", "open"}, row{5 * time.Second, "", "open"})
			runToEnd(func() { _ = b.Do(t.Context(), func(context.Context) error { exit(); return nil }) })
			s := b.Snapshot()
			if s.State != Open || s.Probes != (ProbeCounts{Failure: 1}) || s.InFlight != 0 || s.RetryAfter != 5*time.Second {
				t.Errorf("%s: %v, %+v, %d in flight, %v to go", name, s.State, s.Probes, s.InFlight, s.RetryAfter)
			}
		})
	}
}

// A nil function is a bug of the caller. Do panics, and the permit is settled.
func TestDoNil(t *testing.T) {
	b := mustNew(t, Config{})
	if got, _ := runToEnd(func() { _ = b.Do(t.Context(), nil) }); got == nil {
		t.Error("Do(ctx, nil) did not panic")
	}
	wantOnly(t, "nil", b, Failure)
}

func TestB24_AContextThatIsDoneTakesNothing(t *testing.T) {
	const due = 5 * time.Second
	stop := errors.New("stop")
	for _, tt := range []struct {
		name string
		cfg  Config
		rows []row
	}{
		{"closed", steady(), []row{{0, "failure", "closed"}}},
		{"closed, slow rule", Config{SlowCall: time.Millisecond}, []row{{0, "failure", "closed"}}},
		{"open", steady(), []row{{0, "trip", "open"}}},
		{"open and due", steady(), []row{{0, "trip", "open"}, {due, "", "open"}}},
		{"half-open with a slot", steady(), []row{{0, "trip", "open"}, {due, "ignored", "probe half_open"}}},
		{"half-open and full", steady(), []row{{0, "trip", "open"}, {due, "begin:1", "probe half_open"}}},
		{"half-open with a lease that is over", steady(), []row{
			{0, "trip", "open"},
			{due, "begin:1", "probe half_open"},
			{time.Hour, "", "half_open"},
		}},
		{
			"ramping",
			Config{Jitter: -1, Ramp: time.Hour, SuccessesToClose: 1},
			[]row{{0, "trip", "open"}, {due, "success", "probe closed"}},
		},
		{"at MaxConcurrent", Config{MaxConcurrent: 1}, []row{{0, "begin:1", "closed"}}},
		{"forced open", steady(), []row{{0, "force_open", "open"}}},
		{"forced closed", steady(), []row{{0, "force_closed", "closed"}}},
		{"shadow", steady(), []row{{0, "trip shadow", "open"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := mustNew(t, tt.cfg)
				newTimeline(t, b).run(tt.rows...)
				canceled, cancel := context.WithCancelCause(t.Context())
				cancel(stop)
				expired, cancelExpired := context.WithDeadline(t.Context(), time.Now())
				defer cancelExpired()
				before, ph := b.Snapshot(), b.phase.Load()
				for _, ctx := range []context.Context{canceled, expired} {
					p, err := b.Acquire(ctx)
					if err != ctx.Err() { //nolint:errorlint // as it is
						t.Errorf("Acquire returned %v, want %v as it is", err, ctx.Err())
					}
					if p != (Permit{}) {
						t.Errorf("Acquire returned a permit: %+v", p)
					}
					p.Done(ctx, Failure)
					err = b.Do(ctx, func(context.Context) error { t.Error("fn was called"); return nil })
					if err != ctx.Err() { //nolint:errorlint // as it is
						t.Errorf("Do returned %v, want %v as it is", err, ctx.Err())
					}
				}
				if diff := cmp.Diff(before, b.Snapshot()); diff != "" || b.phase.Load() != ph {
					t.Errorf("the breaker changed:\n%s", diff)
				}
			})
		})
	}
}

func TestB25_ASecondReportOfAProbeChangesNothing(t *testing.T) {
	const due = 5 * time.Second
	for _, first := range []Outcome{Success, Failure, Overload, Ignored} {
		for _, second := range []Outcome{Success, Failure, Overload, Ignored} {
			for _, wait := range []time.Duration{0, time.Minute} { // in the same generation, or after the next has begun
				synctest.Test(t, func(t *testing.T) {
					b := mustNew(t, probing(2, 3))
					b.Trip(t.Context(), "test")
					time.Sleep(due)
					p, other := acquire(t, b), acquire(t, b)
					p.Done(t.Context(), first)
					time.Sleep(wait)
					if wait > 0 {
						if q, err := b.Acquire(t.Context()); err == nil {
							q.Done(t.Context(), Ignored)
						}
					}
					before, ph := b.Snapshot(), b.phase.Load()
					p.Done(t.Context(), second)
					p.Report(t.Context(), Report{Outcome: second, RetryAfter: time.Hour})
					p.Report(t.Context(), Report{Outcome: second, Latency: time.Hour})
					if diff := cmp.Diff(before, b.Snapshot()); diff != "" || b.phase.Load() != ph {
						t.Errorf("%v, then %v after %v changed something:\n%s", first, second, wait, diff)
					}
					other.Done(t.Context(), Ignored)
				})
			}
		}
	}
}

// A lost probe reports once, and is late. A second report changes nothing.
func TestB25_ASecondReportOfALostProbeChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, probing(1, 1))
		newTimeline(t, b).run(row{0, "trip", "open"}, row{5 * time.Second, "", "open"})
		p := acquire(t, b)
		time.Sleep(time.Hour)
		p.Done(t.Context(), Success)
		before := b.Snapshot()
		p.Done(t.Context(), Success)
		if diff := cmp.Diff(before, b.Snapshot()); diff != "" {
			t.Errorf("the second late report changed something:\n%s", diff)
		}
	})
}

// In the closed state a second report is not recognized, as Permit documents. It counts as another call, and no counter
// wraps.
func TestB25_ASecondReportWhileClosedIsOneMoreCall(t *testing.T) {
	b := mustNew(t, Config{})
	p := acquire(t, b)
	for range 3 {
		p.Done(t.Context(), Success)
	}
	s := b.Snapshot()
	if s.Successes != 3 || s.InFlight != 0 || s.Admitted != 3 || s.Window.Successes != 3 {
		t.Errorf("%d successes (window: %d), %d in flight, %d admitted; want 3 (3), 0, 3", s.Successes, s.Window.Successes,
			s.InFlight, s.Admitted)
	}
}

func TestTheZeroPermitReportsNothing(t *testing.T) {
	var p Permit
	p.Done(t.Context(), Success)
	p.Done(t.Context(), Failure)
	p.Report(t.Context(), Report{Outcome: Failure, RetryAfter: time.Second})
	p.Report(t.Context(), Report{})
	if p.IsProbe() || doubtOf(p) != noDoubt {
		t.Errorf("probe: %v, doubt: %v; want nothing", p.IsProbe(), doubtOf(p))
	}
	if undo, again := p.SignOfLife(t.Context()); undo != nil || again {
		t.Error("the sign of life of the zero Permit has an effect")
	}
}

func TestAnInvalidOutcomeIsAFailure(t *testing.T) {
	for _, o := range []Outcome{Ignored + 1, 200, 255} {
		b := mustNew(t, Config{ConsecutiveFailures: 1})
		acquire(t, b).Done(t.Context(), o)
		wantOnly(t, o.String(), b, Failure)
		if got := b.State(); got != Open {
			t.Errorf("%v: %v, want open", o, got)
		}
	}
}

func TestPermitIsProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, steady())
		if acquire(t, b).IsProbe() {
			t.Error("closed: a probe")
		}
		b.Trip(t.Context(), "test")
		time.Sleep(5 * time.Second)
		if !acquire(t, b).IsProbe() {
			t.Error("half-open: the call is not a probe")
		}
	})
}

func TestMaxConcurrent(t *testing.T) {
	three := Config{MaxConcurrent: 3, Jitter: -1, SuccessesToClose: 1, MaxProbes: 10, ProbeTimeout: time.Second}
	runScenarios(t, []scenario{
		{"the limit", three, []row{
			{0, "begin:1 begin:2 begin:3 success*2", "rejected:concurrency*2 closed"},
			{0, "end:2=success begin:4 success", "rejected:concurrency closed"},
			{time.Hour, "success", "rejected:concurrency closed"},
			{time.Hour, "end:1=failure end:3=ignored end:4=overload success*5", "closed"},
		}},
		// A call that hangs, and a permit that is never reported, must not prevent probes (B22).
		{"probes have another limit", three, []row{
			{0, "begin:1 begin:2 begin:lost trip", "open"},
			{5 * time.Second, "success", "probe closed"},
		}},
	})
}
