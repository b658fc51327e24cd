package behaviour

import (
	"context"
	"errors"
	"sync"
	"time"
)

// The fakes are bad breakers, each with one known defect. A scenario that does not detect the defect that it is about
// would make the comparison worthless.
var fakes = []*library{
	fake("fake without defect", func(*fakeBreaker) {}),
	fake("fake that never opens", func(b *fakeBreaker) { b.never = true }),
	fake("fake without lease", func(b *fakeBreaker) { b.noLease = true }),
	fake("fake without generations", func(b *fakeBreaker) { b.noGeneration = true }),
	fake("fake without cap", func(b *fakeBreaker) { b.noCap = true }),
	fake("fake that counts cancelled calls", func(b *fakeBreaker) { b.countsIgnored = true }),
	fake("fake that opens too late", func(b *fakeBreaker) { b.failures++ }),
	fake("fake that hangs on a lock", func(b *fakeBreaker) { b.mu.Lock() }),
	fake("fake that hangs on a channel", func(b *fakeBreaker) { b.before = func() { <-make(chan int) } }),
	fake("fake that crashes", func(b *fakeBreaker) {
		b.before = func() { go func() { panic("a bug in the library") }() }
	}),
	{
		name: "fake that lacks", lacks: map[feature]lack{hasRatio: cannot("has none"), hasCallback: notFor("wants none")},
	},
}

// fakeBreaker opens at a failure streak of the given length, and closes after one successful probe.
type fakeBreaker struct {
	want
	before func()

	never, noLease, noGeneration, noCap, countsIgnored bool

	mu         sync.Mutex
	state      state
	streak     int
	generation int
	until      time.Time // of the open period
	lease      time.Time // of the probe in flight
}

var errFake = errors.New("fake: rejected")

func fake(name string, defect func(*fakeBreaker)) *library {
	return &library{name: name, make: func(w want) *instance {
		b := &fakeBreaker{want: w, state: closed, before: func() {}}
		defect(b)
		i := &instance{
			has:      has{failures: w.failures, openFor: w.openFor, window: w.window, successes: 1},
			start:    b.start,
			rejected: func(err error) bool { return errors.Is(err, errFake) },
		}
		i.do = func(ctx context.Context, fn func(context.Context) error) error {
			finish, err := b.start(ctx)
			if err != nil {
				return err
			}
			err = fn(ctx)
			finish(outcomeOf(err))
			return err
		}
		return i
	}}
}

func (b *fakeBreaker) start(context.Context) (func(outcome), error) {
	b.before()
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.state == open && now.After(b.until) {
		b.state = halfOpen
		b.generation++
		b.lease = time.Time{}
	}
	switch b.state {
	case open:
		return nil, errFake
	case halfOpen:
		if now.Before(b.lease) && !b.noCap {
			return nil, errFake
		}
		b.lease = now.Add(b.want.lease)
		if b.noLease {
			b.lease = now.AddDate(100, 0, 0)
		}
	case closed:
	}
	generation := b.generation
	return func(o outcome) { b.finish(o, generation) }, nil
}

func (b *fakeBreaker) finish(o outcome, generation int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if o == ignored && b.countsIgnored {
		o = failure
	}
	switch {
	case generation != b.generation && !b.noGeneration:
	case o == ignored:
		b.lease = time.Time{}
	case b.state == halfOpen && o == success:
		b.become(closed)
	case b.state == halfOpen:
		b.become(open)
	case o == success:
		b.streak = 0
	default:
		b.streak++
		if b.streak >= b.failures && !b.never {
			b.become(open)
		}
	}
}

func (b *fakeBreaker) become(s state) {
	b.state, b.streak = s, 0
	b.generation++
	b.until = time.Now().Add(b.openFor)
}
