package breaker

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// ErrRejected matches every rejection with errors.Is, whatever its reason.
var ErrRejected = errors.New("breaker: call rejected")

// RejectedError says that a call was not let through, and why. All calls that a breaker rejects for one reason during
// one stay in a state share one RejectedError, so that a rejection allocates nothing: treat it as read-only.
type RejectedError struct {
	Key    Key       // of the breaker that rejected
	State  State     // it was in: Open while an override forces it
	Reason Reason    // why
	Until  time.Time // when the open period ends; zero where no instant is known: every reason but ReasonOpen

	memos atomic.Pointer[[]memo]
}

type memo struct{ owner, value any }

// Error names key, state and reason.
func (e *RejectedError) Error() string {
	return fmt.Sprintf("breaker: call rejected: %q is %v (reason %v)", e.Key.String(), e.State, e.Reason)
}

// Is makes errors.Is(err, ErrRejected) true.
func (e *RejectedError) Is(target error) bool { return target == ErrRejected }

// RetryAfter is how long it takes until the open period ends and a call may be let through as a probe: 0 when that
// instant has passed or is not known. It follows the monotonic clock.
func (e *RejectedError) RetryAfter() time.Duration {
	if e.Until.IsZero() {
		return 0
	}
	return max(0, time.Until(e.Until))
}

// Memo returns what wrap made of e when Memo was first called with this owner, so that a layer that wraps rejections
// in an error of its own (package interceptor does) allocates once per stay and not once per call. owner must be
// comparable and is compared with ==; what wrap returns must be immutable. Two first calls at once may both run wrap;
// one result is kept.
func (e *RejectedError) Memo(owner any, wrap func(*RejectedError) any) any {
	for {
		old := e.memos.Load()
		if old != nil {
			for _, m := range *old {
				if m.owner == owner {
					return m.value
				}
			}
		}
		m := memo{owner, wrap(e)}
		var list []memo
		if old != nil {
			list = slices.Clip(*old)
		}
		list = append(list, m)
		if e.memos.CompareAndSwap(old, &list) {
			return m.value
		}
	}
}
