package breaker

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// doubtWithin returns each change of the result of InDoubt within d, and when it happens from now, to a tenth of a
// second.
func doubtWithin(t *testing.T, b *Breaker, d time.Duration) (changes []doubt, at []time.Duration) {
	t.Helper()
	start := time.Now()
	for time.Since(start) <= d {
		if got := doubtOf(acquire(t, b)); len(changes) == 0 || changes[len(changes)-1] != got {
			changes, at = append(changes, got), append(at, time.Since(start))
		}
		time.Sleep(100 * ms)
	}
	return changes, at
}

func doubtOf(p Permit) doubt {
	recently, now := p.InDoubt()
	switch {
	case now && !recently:
		panic("InDoubt: now without recently")
	case now:
		return inDoubt
	case recently:
		return troubled
	}
	return noDoubt
}

// endStreak gives a sign of life for a call that is not a probe, and returns undo.
func endStreak(t *testing.T, p Permit) (undo func()) {
	t.Helper()
	undo, again := p.SignOfLife(t.Context())
	if again {
		t.Error("a call that is not a probe: again is true")
	}
	return undo
}

// probeSignOfLife gives a sign of life for a probe.
func probeSignOfLife(t *testing.T, p Permit) (again bool) {
	t.Helper()
	undo, again := p.SignOfLife(t.Context())
	if undo != nil && p.IsProbe() {
		t.Error("a probe: undo is not nil")
	}
	return again
}

// G5: a call is in doubt while the last outcome was not a success, and troubled for a Window after that.
func TestG05_Doubt(t *testing.T) {
	for _, o := range []Outcome{Failure, Overload, Ignored} {
		for _, window := range []time.Duration{time.Second, 10 * time.Second, time.Hour} {
			synctest.Test(t, func(t *testing.T) {
				b := mustNew(t, Config{ConsecutiveFailures: -1, FailureRatio: 1, MinCalls: 10_000, Window: window})
				if got := doubtOf(acquire(t, b)); got != noDoubt {
					t.Errorf("at first: doubt is %d, want none", got)
				}
				before := acquire(t, b)
				report(t, b, 1, o)
				time.Sleep(3 * window)
				if got := doubtOf(before); got != inDoubt {
					t.Errorf("after %v: doubt is %d, want in doubt", o, got)
				}
				report(t, b, 1, o)
				report(t, b, 1, Success)
				changes, at := doubtWithin(t, b, window+6*time.Second)
				if want := []doubt{troubled, noDoubt}; !slices.Equal(changes, want) {
					t.Fatalf("after %v and a success: doubt is %d, want %d", o, changes, want)
				}
				if at[1] < window || at[1] > window+5*time.Second {
					t.Errorf("after %v: troubled for %v, want from %v to 5 s longer", o, at[1], window)
				}
				if word := b.phase.Load().win.doubt.Load(); word != 0 {
					t.Errorf("after %v: the word is %d when the breaker is not troubled any more, want 0", o, word)
				}
				report(t, b, 1, o)
				report(t, b, 1, Success)
				if got := doubtOf(acquire(t, b)); got != troubled {
					t.Errorf("after %v, once more: doubt is %d, want troubled", o, got)
				}
			})
		}
	}
}

// G5: doubt of a breaker that opens at its first failure, of one that has just closed, and of one after Reset.
func TestG05_DoubtAtOneFailureAndAfterClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, Config{ConsecutiveFailures: 1, FailureRatio: -1})
		if got := doubtOf(acquire(t, b)); got != inDoubt {
			t.Errorf("one failure opens: doubt is %d, want in doubt", got)
		}
		b = mustNew(t, steady())
		b.Trip(t.Context(), "test")
		time.Sleep(time.Hour)
		p := acquire(t, b)
		if got := doubtOf(p); got != inDoubt {
			t.Errorf("a probe: doubt is %d, want in doubt", got)
		}
		p.Done(t.Context(), Success)
		if got := doubtOf(acquire(t, b)); got != troubled {
			t.Errorf("just closed: doubt is %d, want troubled", got)
		}
		b.Reset(t.Context())
		if got := doubtOf(acquire(t, b)); got != noDoubt {
			t.Errorf("after Reset: doubt is %d, want none", got)
		}
	})
}

// The word holds the longest window, for as long as a program may run.
func TestG05_DoubtOfALongWindow(t *testing.T) {
	cfg := Config{Window: maxDuration}
	for _, now := range []int64{1, clock(), clock() + int64(80*365*24*time.Hour)} {
		word := troubledUntil(now, &cfg)
		w := new(window)
		if got := w.doubtAt(word, now); got != troubled {
			t.Errorf("at %d: doubt is %d, want troubled", now, got)
		}
	}
}

// failApart reports n failures, 20 ms apart.
func failApart(t *testing.T, b *Breaker, n int) {
	t.Helper()
	for range n {
		report(t, b, 1, Failure)
		time.Sleep(20 * ms)
	}
}

func wantStreak(t *testing.T, what string, b *Breaker, want uint64) {
	t.Helper()
	if s := b.Snapshot(); s.State != Closed || s.Window.ConsecutiveFailures != want {
		t.Errorf("%s: %v with a streak of %d, want closed with %d", what, s.State, s.Window.ConsecutiveFailures, want)
	}
}

// S13: a sign of life ends the failure streak and counts nothing. After undo, the streak continues, and has lasted
// since its first failure.
func TestS13_SignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, Config{FailureRatio: -1})
		p := acquire(t, b)
		if endStreak(t, p) != nil {
			t.Error("without a streak: undo is not nil")
		}
		failApart(t, b, 4)
		before := b.Snapshot()
		undo := endStreak(t, p)
		wantStreak(t, "after the sign of life", b, 0)
		after := b.Snapshot()
		after.Window.ConsecutiveFailures = before.Window.ConsecutiveFailures
		if after != before {
			t.Errorf("the sign of life changed the snapshot from %+v to %+v", before, after)
		}
		if doubtOf(acquire(t, b)) != inDoubt {
			t.Error("after the sign of life the backend is not in doubt, although a sign of life is not an outcome")
		}
		if endStreak(t, p) != nil {
			t.Error("a second sign of life: undo is not nil")
		}
		time.Sleep(2 * time.Second)
		undo()
		p.Done(t.Context(), Failure)
		if got := b.State(); got != Open {
			t.Errorf("the fifth failure, after undo: %v, want open", got)
		}
	})
}

// S13: what undo does after other outcomes.
func TestS13_Undo(t *testing.T) {
	for _, tt := range []struct {
		name  string
		cfg   Config
		since func(t *testing.T, b *Breaker)
		want  uint64
	}{
		{"at once", Config{}, nil, 4},
		{"failures since then", Config{}, func(t *testing.T, b *Breaker) {
			t.Helper()
			failApart(t, b, 2)
		}, 6},
		{"a success since then", Config{}, func(t *testing.T, b *Breaker) {
			t.Helper()
			report(t, b, 1, Success)
		}, 1},
		{"a success and a failure since then", Config{}, func(t *testing.T, b *Breaker) {
			t.Helper()
			report(t, b, 1, Success)
			failApart(t, b, 1)
		}, 2},
		{"a success that takes the lock since then", Config{SlowCall: time.Second}, func(t *testing.T, b *Breaker) {
			t.Helper()
			acquire(t, b).Report(t.Context(), Report{Latency: time.Minute})
		}, 1},
		{"a success that has left the window", Config{}, func(t *testing.T, b *Breaker) {
			t.Helper()
			report(t, b, 1, Success)
			time.Sleep(time.Minute)
		}, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			cfg := tt.cfg
			cfg.ConsecutiveFailures, cfg.FailureRatio = 100, -1
			b := mustNew(t, cfg)
			p := acquire(t, b)
			failApart(t, b, 3)
			undo := endStreak(t, p)
			if undo == nil {
				t.Fatalf("%s: no streak", tt.name)
			}
			if tt.since != nil {
				tt.since(t, b)
			}
			undo()
			p.Done(t.Context(), Failure)
			wantStreak(t, tt.name, b, tt.want)
		})
	}
}

// S13: undo has an effect once. A second call does not count the failures of the streak again.
func TestS13_UndoTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, Config{ConsecutiveFailures: 100, FailureRatio: -1})
		p := acquire(t, b)
		failApart(t, b, 3)
		undo := endStreak(t, p)
		undo()
		undo()
		wantStreak(t, "after undo", b, 3)
		report(t, b, 1, Success)
		undo()
		wantStreak(t, "after a success", b, 0)
	})
}

// S13: after undo, the streak begins with its first failure, whatever happened since the sign of life. Its last failure
// is the newest one: two failures that end together after that are one.
func TestS13_UndoKeepsTheSpan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, Config{ConsecutiveFailures: 5, FailureRatio: -1, FailingFor: time.Minute})
		p := acquire(t, b)
		failApart(t, b, 3)
		undo := endStreak(t, p)
		time.Sleep(59 * time.Second)
		undo()
		p.Done(t.Context(), Failure)
		wantStreak(t, "four failures", b, 4)
		acquire(t, b).Done(t.Context(), Failure)
		wantStreak(t, "one that ends with the fourth", b, 4)
		time.Sleep(time.Second)
		acquire(t, b).Done(t.Context(), Failure)
		if got := b.State(); got != Open {
			t.Errorf("the fifth, a minute after the first: %v, want open", got)
		}

		b = mustNew(t, Config{ConsecutiveFailures: 5, FailureRatio: -1, FailingFor: time.Minute})
		p = acquire(t, b)
		failApart(t, b, 3)
		undo = endStreak(t, p)
		time.Sleep(30 * time.Second)
		failApart(t, b, 1)
		time.Sleep(30 * time.Second)
		undo()
		p.Done(t.Context(), Failure)
		if got := b.State(); got != Open {
			t.Errorf("a failure after the sign of life, and the fifth a minute after the first: %v, want open", got)
		}

		b = mustNew(t, Config{ConsecutiveFailures: 5, FailureRatio: -1, FailingFor: time.Minute})
		p = acquire(t, b)
		failApart(t, b, 3)
		undo = endStreak(t, p)
		undo()
		p.Done(t.Context(), Failure)
		acquire(t, b).Done(t.Context(), Failure)
		wantStreak(t, "the last one before the sign of life is 20 ms ago", b, 4)
	})
}

// S13: a sign of life and its undo have no effect in another generation than that of the stream.
func TestS13_SignOfAnotherGeneration(t *testing.T) {
	b := mustNew(t, Config{FailureRatio: -1, FailingFor: -1})
	p := acquire(t, b)
	b.Reset(t.Context())
	report(t, b, 3, Failure)
	if endStreak(t, p) != nil {
		t.Error("a stream of an earlier generation ended a streak")
	}
	wantStreak(t, "sign of life from an earlier generation", b, 3)
	p = acquire(t, b)
	undo := endStreak(t, p)
	b.Reset(t.Context())
	undo()
	acquire(t, b).Done(t.Context(), Failure)
	wantStreak(t, "undo in another generation", b, 1)
	b.Trip(t.Context(), "test")
	if endStreak(t, p) != nil {
		t.Error("a sign of life ended a streak of an open breaker")
	}
}

// S14: the stream of a probe that stays open closes the breaker, whatever SuccessesToClose is, also if the probe has
// reported or is lost.
func TestS14_ProbeSignOfLife(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before func(t *testing.T, b *Breaker, p Permit)
	}{
		{"while its lease lasts", func(*testing.T, *Breaker, Permit) {}},
		{"after it has reported", func(t *testing.T, _ *Breaker, p Permit) {
			t.Helper()
			p.Done(t.Context(), Success)
		}},
		{"after its lease", func(*testing.T, *Breaker, Permit) { time.Sleep(time.Hour) }},
	} {
		synctest.Test(t, func(t *testing.T) {
			rec := new(recorder)
			b := mustNew(t, Config{SuccessesToClose: 3}, WithListener(rec.Transition))
			b.Trip(t.Context(), "test")
			time.Sleep(time.Hour)
			p := acquire(t, b)
			tt.before(t, b, p)
			if got := b.State(); got != HalfOpen {
				t.Fatalf("%s: %v, want half-open", tt.name, got)
			}
			if probeSignOfLife(t, p) {
				t.Errorf("%s: again is true", tt.name)
			}
			events := rec.events
			last := events[len(events)-1]
			if last.From != HalfOpen || last.To != Closed || last.Why != "the stream of a probe stayed open" || last.Rule != 0 {
				t.Errorf("%s: the event is %+v", tt.name, last)
			}
			if s := b.Snapshot(); s.State != Closed || s.Recoveries != 1 {
				t.Errorf("%s: %v after %d recoveries, want closed, 1", tt.name, s.State, s.Recoveries)
			}
			n := len(events)
			if probeSignOfLife(t, p) || len(rec.events) != n {
				t.Errorf("%s: the second sign of life has an effect", tt.name)
			}
		})
	}
}

// S14: it has no effect after the half-open generation of the probe, and for calls that are not probes. Under
// ForceClosed it may have an effect later.
func TestS14_ProbeSignOfLifeWithoutEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, Config{})
		if p := acquire(t, b); probeSignOfLife(t, p) || b.Snapshot().Generation != 1 {
			t.Error("a call that is not a probe changed the generation")
		}
		b.Trip(t.Context(), "test")
		time.Sleep(time.Hour)
		p := acquire(t, b)
		if err := b.SetOverride(t.Context(), Override{Mode: ForceClosed, Why: "test", By: "test"}); err != nil {
			t.Fatal(err)
		}
		if !probeSignOfLife(t, p) || b.Snapshot().Underlying != HalfOpen {
			t.Error("under ForceClosed: want no effect, and again")
		}
		b.ClearOverride(t.Context())
		b.Trip(t.Context(), "test")
		if probeSignOfLife(t, p) || b.State() != Open {
			t.Error("after its generation: want no effect")
		}
		time.Sleep(time.Hour)
		acquire(t, b)
		if probeSignOfLife(t, p) || b.State() != HalfOpen {
			t.Error("in another half-open generation: want no effect")
		}
	})
}

// S14: it has no effect on a removed breaker.
func TestS14_ProbeSignOfLifeAfterRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := mustGroup(t, Config{})
		b := g.Get(Key{})
		b.Trip(t.Context(), "test")
		time.Sleep(time.Hour)
		p := acquire(t, b)
		g.Remove(Key{})
		if probeSignOfLife(t, p) || g.Get(Key{}).State() != Closed {
			t.Error("the sign of life of a probe of a removed breaker has an effect")
		}
	})
}

// The streak that undo restores keeps the newest failure: one that ends within 10 ms of it does not count.
func TestUndoKeepsTheNewestFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, Config{ConsecutiveFailures: 100, FailingFor: time.Hour})
		stream := acquire(t, b)
		fail := func(after time.Duration, want uint64) {
			t.Helper()
			time.Sleep(after)
			report(t, b, 1, Failure)
			if got := b.Snapshot().Window.ConsecutiveFailures; got != want {
				t.Errorf("a streak of %d, want %d", got, want)
			}
		}
		fail(0, 1)
		fail(20*ms, 2)
		undo, _ := stream.SignOfLife(t.Context())
		fail(20*ms, 1)
		undo()
		fail(5*ms, 3)
		fail(20*ms, 4)
	})
}
