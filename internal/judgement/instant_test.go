package judgement

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// tenth is the length of a step of the window. Steps end at multiples of it after the breaker was made, which is at the
// start of the run.
const tenth = time.Second

// background is the traffic before, during and after failures of one instant.
type background struct {
	name   string
	gap    time.Duration // 0: no call for a minute
	errors int           // number of failures in five calls, evenly spread
}

var (
	idle       = background{name: "after an idle minute"}
	busy       = background{name: "in traffic of 10/s", gap: 100 * time.Millisecond}
	busier     = background{name: "in traffic of 100/s", gap: 10 * time.Millisecond}
	erring     = background{name: "in traffic of 10/s with 20% errors", gap: 100 * time.Millisecond, errors: 1}
	erringMore = background{name: "in traffic of 100/s with 20% errors", gap: 10 * time.Millisecond, errors: 1}
)

// run sends the traffic through b for a time. Calls take no time, so none is in flight when it returns.
func (g background) run(ctx context.Context, b *breaker.Breaker, length time.Duration) {
	if g.gap == 0 {
		time.Sleep(length)
		return
	}
	began := time.Now()
	answers := func(at time.Duration, _ bool) fate { return fate{good: int(at/g.gap)%5 >= g.errors} }
	simulate(ctx, b, answers, every(g.gap), length)
	time.Sleep(length - time.Since(began))
}

// lose fails n calls that are in flight together: the first now, the last after the given time. No call succeeds in
// between, because a success would end the failure streak.
func lose(t *testing.T, ctx context.Context, b *breaker.Breaker, n int, over time.Duration) {
	t.Helper()
	permits := make([]breaker.Permit, n)
	for i := range permits {
		p, err := b.Acquire(ctx)
		if err != nil {
			t.Fatalf("call %d of those in flight: %v", i, err)
		}
		permits[i] = p
	}
	began := time.Now()
	for i, p := range permits {
		time.Sleep(over*time.Duration(i)/time.Duration(max(1, n-1)) - time.Since(began))
		p.Done(ctx, breaker.Failure)
	}
}

// stateAfter returns the state of a breaker after n failures, spread over a time, and ten more seconds of the same
// traffic. It returns Open if the breaker opened at any time in between.
func stateAfter(
	t *testing.T, cfg breaker.Config, g background, offset time.Duration, n int, over time.Duration,
) (state breaker.State) {
	t.Helper()
	bubble(t, cfg, func(ctx context.Context, b *breaker.Breaker) {
		g.run(ctx, b, time.Minute+offset)
		if trips(b) > 0 {
			t.Errorf("%s: opened before the failures", g.name)
		}
		lose(t, ctx, b, n, over)
		g.run(ctx, b, 10*time.Second)
		if state = b.State(); trips(b) > 0 {
			state = breaker.Open
		}
	})
	return state
}

// where lists positions of failures with one cause in the window.
var where = []struct {
	name         string
	offset, over time.Duration
}{
	{"at one time", tenth / 2, 0},
	{"within 8 ms, over the end of a tenth", tenth - 4*time.Millisecond, 8 * time.Millisecond},
}

// A lost connection fails all calls on it at once. They count as one failure, no matter how many calls there were and
// at which position in the window: B4 for failure streaks, B5 for the ratio.
func TestB04_FailuresOfOneInstantDoNotOpen(t *testing.T) {
	for _, g := range []background{idle, busy, busier, erring, erringMore} {
		for _, w := range where {
			for _, n := range []int{5, 20, 100} {
				name := fmt.Sprintf("%d failures %s, %s", n, w.name, g.name)
				if got := stateAfter(t, breaker.Config{}, g, w.offset, n, w.over); got != breaker.Closed {
					t.Errorf("%s: %v, want closed", name, got)
				}
				if got := stateAfter(t, breaker.Config{FailingFor: -1}, g, w.offset, n, w.over); got != breaker.Open {
					t.Errorf("%s, without FailingFor: %v, want open: the test shows nothing", name, got)
				}
			}
		}
	}
}

// The same failures open the breaker if they are spread over more than a second.
func TestB04_FailuresSpreadOverMoreThanASecondOpen(t *testing.T) {
	for _, g := range []background{idle, busy, busier, erring, erringMore} {
		for _, n := range []int{5, 20, 100} {
			if got := stateAfter(t, breaker.Config{}, g, tenth/2, n, 1200*time.Millisecond); got != breaker.Open {
				t.Errorf("%d failures over 1.2 s, %s: %v, want open", n, g.name, got)
			}
		}
		if got := stateAfter(t, breaker.Config{}, g, tenth/2, 5, 990*time.Millisecond); got != breaker.Closed {
			t.Errorf("5 failures over 0.99 s, %s: %v, want closed", g.name, got)
		}
	}
}

// A failure streak may last for an hour, but all failures of one instant count as one failure of the streak.
func TestB04_FourFailuresOfAnInstantAndOneAnHourLaterDoNotOpen(t *testing.T) {
	for _, tt := range []struct {
		name string
		over time.Duration // of the four
		want breaker.State
	}{
		{"in one instant", 0, breaker.Closed},
		{"within 9 ms", 9 * time.Millisecond, breaker.Closed},
		{"one a minute", 3 * time.Minute, breaker.Open},
	} {
		bubble(t, breaker.Config{}, func(ctx context.Context, b *breaker.Breaker) {
			lose(t, ctx, b, 4, tt.over)
			time.Sleep(time.Hour)
			lose(t, ctx, b, 1, 0)
			if got := b.State(); got != tt.want {
				t.Errorf("four failures %s and one an hour later: %v, want %v", tt.name, got, tt.want)
			}
		})
	}
}
