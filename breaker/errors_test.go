package breaker

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestRejectedError(t *testing.T) {
	e := &RejectedError{Key: Key{Service: "shop.Orders", Method: "Get"}, State: HalfOpen, Reason: ReasonHalfOpen}
	if got, want := e.Error(), `breaker: call rejected: "shop.Orders/Get" is half_open (reason half_open)`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	wrapped := fmt.Errorf("placing the order: %w", e)
	if !errors.Is(wrapped, ErrRejected) {
		t.Error("a wrapped rejection is not ErrRejected")
	}
	if got, ok := errors.AsType[*RejectedError](wrapped); !ok || got != e {
		t.Errorf("AsType finds %v", got)
	}
	if errors.Is(e, errors.ErrUnsupported) {
		t.Error("a rejection is any error there is")
	}
}

func TestRejectedErrorRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, steady())
		b.Trip(t.Context(), "test")
		tripped := time.Now()
		e := refused(t, b)
		if want := tripped.Add(5 * time.Second); !e.Until.Equal(want) {
			t.Errorf("Until is %v, want %v", e.Until, want)
		}
		for _, tt := range []struct{ at, want time.Duration }{
			{0, 5 * time.Second}, {5*time.Second - 1, 1}, {5 * time.Second, 0}, {time.Hour, 0},
		} {
			time.Sleep(tt.at - time.Since(tripped))
			if got := e.RetryAfter(); got != tt.want {
				t.Errorf("at %v: RetryAfter is %v, want %v", tt.at, got, tt.want)
			}
		}
		acquire(t, b)
		if e := refused(t, b); !e.Until.IsZero() || e.RetryAfter() != 0 {
			t.Errorf("half-open: Until %v, RetryAfter %v, want neither", e.Until, e.RetryAfter())
		}
	})
}

// All calls that a breaker rejects for one reason during one stay share one error, and the next stay has another.
func TestRejectionsOfOneStayShareTheirError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, steady())
		b.Trip(t.Context(), "test")
		first := refused(t, b)
		if refused(t, b) != first {
			t.Error("two rejections of one stay have two errors")
		}
		setOverride(t, b, ForceOpen, 0)
		forced := refused(t, b)
		if forced == first || refused(t, b) != forced {
			t.Error("forced rejections do not share an error of their own")
		}
		wantRejection(t, forced, Open, ReasonForced)
		b.ClearOverride(t.Context())
		if refused(t, b) != first {
			t.Error("an override that came and went changed the error of the stay")
		}
		setOverride(t, b, ForceOpen, time.Second)
		time.Sleep(time.Second)
		if refused(t, b) != first {
			t.Error("an override that ran out changed the error of the stay")
		}
		time.Sleep(4 * time.Second)
		acquire(t, b)
		half := refused(t, b)
		wantRejection(t, half, HalfOpen, ReasonHalfOpen)
		if refused(t, b) != half {
			t.Error("two rejections of one half-open stay have two errors")
		}
		b.Trip(t.Context(), "again")
		if refused(t, b) == first {
			t.Error("two open stays share an error")
		}
	})
}

func wantRejection(t *testing.T, e *RejectedError, s State, r Reason) {
	t.Helper()
	if e.State != s || e.Reason != r {
		t.Errorf("rejected in state %v for reason %v, want %v, %v", e.State, e.Reason, s, r)
	}
}

func TestMemo(t *testing.T) {
	var e RejectedError
	calls := 0
	wrap := func(got *RejectedError) any {
		calls++
		if got != &e {
			t.Errorf("wrap got %p, want %p", got, &e)
		}
		return new(int)
	}
	one := e.Memo("one", wrap)
	two := e.Memo("two", wrap)
	if one == two {
		t.Error("two owners share a memo")
	}
	if e.Memo("one", wrap) != one || e.Memo("two", wrap) != two || calls != 2 {
		t.Errorf("a memo is made anew: wrap ran %d times, want 2", calls)
	}
	if n := testing.AllocsPerRun(100, func() { e.Memo("two", nil) }); n != 0 {
		t.Errorf("a known memo allocates %v times", n)
	}
}

func TestMemo_OneResultForAllConcurrentSafe(t *testing.T) {
	var e RejectedError
	const callers, owners = 16, 4
	got := make([][owners]any, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for o := range owners {
				got[i][o] = e.Memo(o, func(*RejectedError) any {
					runtime.Gosched()
					return new(int)
				})
			}
		})
	}
	wg.Wait()
	for i := range got {
		if got[i] != got[0] {
			t.Fatalf("caller %d has %v, caller 0 has %v", i, got[i], got[0])
		}
	}
}
