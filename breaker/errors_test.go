package breaker

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestRejectedError(t *testing.T) {
	e := &RejectedError{Key: Key{Service: "shop.Orders", Method: "Get"}, State: HalfOpen, Reason: ReasonHalfOpen}
	wrapped := fmt.Errorf("placing the order: %w", e)
	if !errors.Is(wrapped, ErrRejected) {
		t.Error("a wrapped rejection is not ErrRejected")
	}
	if got, ok := errors.AsType[*RejectedError](wrapped); !ok || got != e {
		t.Errorf("AsType finds %v", got)
	}
	if errors.Is(e, errors.ErrUnsupported) {
		t.Error("a rejection matches any error")
	}
}

func TestRejectedErrorRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, steady())
		b.Trip(t.Context(), "test")
		tripped := time.Now()
		e := mustReject(t, b)
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
		if e := mustReject(t, b); !e.Until.IsZero() || e.RetryAfter() != 0 {
			t.Errorf("half-open: Until %v, RetryAfter %v, want neither", e.Until, e.RetryAfter())
		}
	})
}

// All calls that a breaker rejects for one reason in one generation share one error. The next generation has another.
func TestRejectionsOfOneGenerationShareTheirError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, steady())
		b.Trip(t.Context(), "test")
		first := mustReject(t, b)
		if mustReject(t, b) != first {
			t.Error("two rejections of one generation have two errors")
		}
		setOverride(t, b, ForceOpen, 0)
		forced := mustReject(t, b)
		if forced == first || mustReject(t, b) != forced {
			t.Error("forced rejections do not share one error, or share that of the generation")
		}
		wantRejection(t, forced, Open, ReasonForced)
		b.ClearOverride(t.Context())
		if mustReject(t, b) != first {
			t.Error("an override that was cleared changed the error of the generation")
		}
		setOverride(t, b, ForceOpen, time.Second)
		time.Sleep(time.Second)
		if mustReject(t, b) != first {
			t.Error("an override whose TTL is over changed the error of the generation")
		}
		time.Sleep(4 * time.Second)
		acquire(t, b)
		half := mustReject(t, b)
		wantRejection(t, half, HalfOpen, ReasonHalfOpen)
		if mustReject(t, b) != half {
			t.Error("two rejections of one half-open generation have two errors")
		}
		b.Trip(t.Context(), "again")
		if mustReject(t, b) == first {
			t.Error("two open generations share an error")
		}
	})
}

func wantRejection(t *testing.T, e *RejectedError, s State, r Reason) {
	t.Helper()
	if e.State != s || e.Reason != r {
		t.Errorf("rejected in state %v for reason %v, want %v, %v", e.State, e.Reason, s, r)
	}
}

// rejectedWith rejects a call of b and returns the text of the error.
func rejectedWith(t *testing.T, b *Breaker) string {
	t.Helper()
	return mustReject(t, b).Error()
}

// A rejection names the key, the reason, what opened the breaker or forced it open, and when the next call may be
// admitted.
func TestRejectedErrorText(t *testing.T) {
	key := Key{Target: "dns:///orders:443", Service: "shop.Orders", Method: "Get"}
	const name = "shop.Orders/Get at dns:///orders:443"
	want := func(t *testing.T, b *Breaker, text string) {
		t.Helper()
		if got := rejectedWith(t, b); got != text {
			t.Errorf("got  %s\nwant %s", got, text)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		b, err := New(key, Config{Jitter: -1, OpenFor: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			acquire(t, b).Report(t.Context(), Report{Outcome: Failure, Cause: "UNAVAILABLE"})
			time.Sleep(300 * ms)
		}
		const why = "5 failures in a row over 1.2s, last UNAVAILABLE"
		time.Sleep(1350 * ms)
		want(t, b, "circuit breaker open for "+name+": "+why+"; next probe in 3.4s")
		time.Sleep(time.Second)
		open := mustReject(t, b)
		time.Sleep(time.Hour)
		if got, want := open.Error(), "circuit breaker open for "+name+": "+why+"; the next call is a probe"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		probe := acquire(t, b)
		want(t, b, "circuit breaker half-open for "+name+": no further probe is admitted yet; it opened because of: "+why)
		probe.Report(t.Context(), Report{Outcome: Failure, Cause: "INTERNAL"})
		want(t, b, "circuit breaker open for "+name+": "+why+"; a probe failed, last INTERNAL; next probe in 10s")

		if err := b.SetOverride(t.Context(), Override{
			Mode: ForceOpen, TTL: 90 * time.Second, Why: "deploy",
			By: "alice",
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(29500 * ms)
		want(t, b, "circuit breaker forced open for "+name+" by alice: deploy; for another 1m1s")
		if got, want := mustReject(t, b).RetryAfter(), 60500*ms; got != want {
			t.Errorf("RetryAfter of an override with a TTL: got %v, want %v", got, want)
		}
		if err := b.SetOverride(t.Context(), Override{Mode: ForceOpen, Why: "dep\nloy", By: "al\x1bice"}); err != nil {
			t.Fatal(err)
		}
		want(t, b, "circuit breaker forced open for "+name+` by "al\x1bice": "dep\nloy"; until it is cleared`)
		if got := mustReject(t, b).RetryAfter(); got != 0 {
			t.Errorf("RetryAfter of an override without a TTL: got %v, want 0", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		b, err := New(key, Config{MaxConcurrent: 1, Ramp: time.Minute, SuccessesToClose: 1})
		if err != nil {
			t.Fatal(err)
		}
		p := acquire(t, b)
		want(t, b, "circuit breaker at its concurrency limit for "+name+": MaxConcurrent is 1, and that many calls are in flight")
		p.Done(t.Context(), Success)
		b.Trip(t.Context(), "test")
		time.Sleep(time.Minute)
		acquire(t, b).Done(t.Context(), Success)
		acquire(t, b).Done(t.Context(), Success)
		want(t, b, "circuit breaker ramping up for "+name+": it has closed recently, and admits only a part of the calls "+
			"for 1m0s")
	})
	g := mustGroup(t, Config{}, WithMaxBreakers(1))
	setOverride(t, g.Get(key), ForceClosed, 0)
	shared := g.Get(Key{Method: "other"})
	shared.Trip(t.Context(), "test")
	if got, want := rejectedWith(t, shared), "circuit breaker open for the keys that share a breaker because the group "+
		"is full: test"; !strings.HasPrefix(got, want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := (&RejectedError{Key: key}).Error(), "circuit breaker rejected a call for "+name+": "; got != want {
		t.Errorf("without a reason: got %q, want %q", got, want)
	}
}

// The name of a key in a sentence. It is quoted if a log would not show it as it is.
func TestKeyPhrase(t *testing.T) {
	for _, tt := range []struct {
		key  Key
		want string
	}{
		{Key{}, "default"},
		{Key{Target: "dns:///orders"}, "dns:///orders"},
		{Key{Service: "shop.Orders"}, "shop.Orders"},
		{Key{Method: "Get"}, "/Get"},
		{Key{Tag: "gold"}, "tag gold"},
		{Key{Target: "t", Service: "s", Method: "m", Tag: "g"}, "s/m at t, tag g"},
		{Key{Target: "t\n", Service: "s", Tag: "\xff"}, `s at "t\n", tag "\xff"`},
		{Key{Service: "s\x00", Method: "m"}, `"s\x00/m"`},
		{overflowKey, "the keys that share a breaker because the group is full"},
	} {
		if got := tt.key.phrase(); got != tt.want {
			t.Errorf("%#v: got %q, want %q", tt.key, got, tt.want)
		}
	}
}

func TestRough(t *testing.T) {
	for d, want := range map[time.Duration]string{
		1: "1ms", ms: "1ms", 999*ms + 1: "1s", 3400 * ms: "3.4s", 3400*ms + 1: "3.5s", time.Minute + 1: "1m1s",
		time.Hour: "1h0m0s",
	} {
		if got := rough(d); got != want {
			t.Errorf("%d: got %s, want %s", d, got, want)
		}
	}
}

// Keys, events, snapshots and rejections in a structured log.
func TestLogValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorder
		b, err := New(Key{Service: "shop.Orders", Method: "Get"}, Config{Jitter: -1, ConsecutiveFailures: 1},
			WithListener(rec.Transition))
		if err != nil {
			t.Fatal(err)
		}
		acquire(t, b).Report(t.Context(), Report{Outcome: Failure, Cause: "UNAVAILABLE"})
		opened := mustReject(t, b)
		logged := func(v any) string {
			var out strings.Builder
			slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey {
					return slog.Attr{}
				}
				return a
			}})).Info("", "x", v)
			return strings.TrimSpace(out.String())
		}
		why := `rule=consecutive why="1 failure" cause=UNAVAILABLE`
		openedAs := `x.opened.rule=consecutive x.opened.why="1 failure" x.opened.cause=UNAVAILABLE ` +
			`x.opened.at=2000-01-01T00:00:00.000Z`
		for _, tt := range []struct {
			v    any
			want string
		}{
			{b.Key(), "x=shop.Orders/Get"},
			{opened, `x.text="circuit breaker open for shop.Orders/Get: 1 failure, last UNAVAILABLE; next probe in 1s" ` +
				"x.key=shop.Orders/Get x.state=open x.reason=open " + openedAs + " x.retry_after=1s"},
			{rec.events[0], "x.key=shop.Orders/Get x.from=closed x.to=open x." +
				strings.ReplaceAll(strings.ReplaceAll(why, " why", " x.why"), " cause", " x.cause") +
				" x.open_for=1s x.failed_recoveries=0"},
			{
				Event{From: Open, To: Open, Why: overrideCleared, OverrideChanged: true},
				`x.key=default x.from=open x.to=open x.why="override cleared"`,
			},
			{b.Snapshot(), "x.key=shop.Orders/Get x.state=open x.since=2000-01-01T00:00:00.000Z x.ready=false x.admitted=1 " +
				"x.rejected=1 " +
				openedAs + " x.retry_after=1s"},
		} {
			if got := logged(tt.v); got != tt.want {
				t.Errorf("%T\ngot  %s\nwant %s", tt.v, got, tt.want)
			}
		}
		time.Sleep(time.Second)
		probe := acquire(t, b)
		halfOpen := logged(mustReject(t, b))
		if want := " x.state=half_open x.reason=half_open " + openedAs; !strings.HasSuffix(halfOpen, want) {
			t.Errorf("half-open\ngot  %s\nwant …%s", halfOpen, want)
		}
		probe.Report(t.Context(), Report{Outcome: Failure, Cause: "INTERNAL"})
		again := logged(mustReject(t, b))
		want := ` x.opened.rule=probe x.opened.why="a probe failed" x.opened.cause=INTERNAL x.opened.at=2000-01-01T00:00:01.000Z ` +
			strings.ReplaceAll(openedAs, "x.opened", "x.outage") + " x.retry_after=2s"
		if !strings.HasSuffix(again, want) {
			t.Errorf("after a failed probe\ngot  %s\nwant …%s", again, want)
		}
		setOverride(t, b, ForceOpen, 0)
		forced := logged(mustReject(t, b))
		want = `x.text="circuit breaker forced open for shop.Orders/Get by TestLogValue: test; until it is cleared" ` +
			"x.key=shop.Orders/Get x.state=open x.reason=forced x.override.mode=force_open x.override.by=TestLogValue " +
			"x.override.why=test"
		if forced != want {
			t.Errorf("forced\ngot  %s\nwant %s", forced, want)
		}
		if got, want := logged(b.Snapshot()), " x.underlying=open x.override.mode=force_open "; !strings.Contains(got, want) {
			t.Errorf("a snapshot under an override\ngot  %s\nwant …%s…", got, want)
		}
	})
}
