package breaker

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
)

// logLines records the lines of a text handler, without the time and the stack of a panic.
type logLines struct {
	mu    sync.Mutex
	lines []string
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

// take returns the lines so far and forgets them.
func (l *logLines) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := l.lines
	l.lines = nil
	return lines
}

func (l *logLines) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey || a.Key == "stack" && strings.Contains(a.Value.String(), "log_test.go") {
			return slog.Attr{}
		}
		return a
	}}))
}

func TestB43_LogTransitions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logLines
		g, err := NewGroup(Config{Jitter: -1, ConsecutiveFailures: 1, SuccessesToClose: 1, FailureRatio: -1, OpenFor: 11 * time.Second},
			LogTransitions(log.logger()))
		if err != nil {
			t.Fatal(err)
		}
		b := g.Get(Key{Service: "shop.Orders", Method: "Get"})
		acquire(t, b).Report(t.Context(), Report{Outcome: Failure, Cause: "UNAVAILABLE"})
		wantSame(t, "open", log.take(), []string{
			`level=WARN msg="circuit breaker open" key=shop.Orders/Get from=closed to=open rule=consecutive why="1 failure" ` +
				`cause=UNAVAILABLE open_for=11s failed_recoveries=0 counts.consecutive_failures=1`,
		})
		time.Sleep(11 * time.Second)
		p := acquire(t, b)
		wantSame(t, "half-open", log.take(), []string{
			`level=INFO msg="circuit breaker half_open" key=shop.Orders/Get from=open to=half_open why="open period over"`,
		})
		p.Done(t.Context(), Success) // less than 10 s later: the line comes with the summary
		wantSame(t, "closed at once", log.take(), []string(nil))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		wantSame(t, "closed", log.take(), []string{
			`level=INFO msg="circuit breaker closed" key=shop.Orders/Get from=half_open to=closed why="probes succeeded" ` +
				`at=2000-01-01T00:00:11.000Z`, // the line is written at 21 s
		})
		time.Sleep(time.Hour) // so that the timers are over
	})
}

// A breaker that flaps writes one line each 10 s, with the number of changes. That does not delay the lines of other
// breakers.
func TestB43_FlappingIsOneLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logLines
		g, err := NewGroup(Config{}, LogTransitions(log.logger()))
		if err != nil {
			t.Fatal(err)
		}
		b, other := g.Get(Key{Tag: "flaps"}), g.Get(Key{Tag: "other"})
		for range 160 { // 48 s
			b.Trip(t.Context(), "test")
			b.Reset(t.Context())
			time.Sleep(300 * ms)
		}
		other.Trip(t.Context(), "test")
		lines := log.take()
		if len(lines) < 5 || len(lines) > 7 {
			t.Errorf("%d lines in 48 s, want one each 10 s and one of the other breaker:\n%s", len(lines), strings.Join(lines, "\n"))
		}
		if want := `level=WARN msg="circuit breaker changed state several times, now closed" transitions=67 openings=33 within=9.9s at=2000-01-01T00:00:09.900Z last.key="tag=flaps"`; !strings.Contains(lines[1], want) {
			t.Errorf("the second line is\n%s\nwant …%s…", lines[1], want)
		}
		if last := lines[len(lines)-1]; !strings.Contains(last, `key="tag=other"`) {
			t.Errorf("the last line is\n%s\nwant one of the other breaker", last)
		}
		time.Sleep(time.Hour)
	})
}

// Overrides, shadow mode and panics.
func TestB43_OverridesShadowPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logLines
		g, err := NewGroup(Config{Jitter: -1, FailureRatio: -1}, LogTransitions(log.logger()),
			WithListener(func(_ context.Context, e Event) { panic(fmt.Sprint("listener at ", e.Seq)) }),
			WithTrip(func(Counts) bool { panic("custom") }))
		if err != nil {
			t.Fatal(err)
		}
		b := g.Get(Key{Method: "m"})
		if err := b.SetOverride(t.Context(), Override{Mode: Shadow, TTL: time.Minute, Why: "trial", By: "alice"}); err != nil {
			t.Fatal(err)
		}
		wantSame(t, "set", log.take(), []string{
			`level=WARN msg="circuit breaker override set" key=/m mode=shadow by=alice why=trial ttl=1m0s`,
			`level=ERROR msg="circuit breaker: a listener panicked" key=/m panic="listener at 1"`,
		})
		b.Trip(t.Context(), "test")
		wantSame(t, "shadow", log.take(), []string{
			`level=INFO msg="circuit breaker open in shadow mode, no call is rejected" key=/m from=closed to=open rule=manual why=test ` +
				`open_for=1s failed_recoveries=0 override.mode=shadow override.by=alice override.why=trial override.ttl=1m0s`,
			`level=ERROR msg="circuit breaker: a listener panicked" key=/m panic="listener at 2"`,
		})
		b.ClearOverride(t.Context())
		b.ClearOverride(t.Context()) // nothing to clear, no line
		wantSame(t, "cleared", log.take(), []string{
			`level=WARN msg="circuit breaker override cleared" key=/m state=open`,
			`level=ERROR msg="circuit breaker: a listener panicked" key=/m panic="listener at 3"`,
		})
		time.Sleep(time.Hour)
		b.Reset(t.Context())
		log.take()
		acquire(t, b).Done(t.Context(), Failure)
		wantSame(t, "custom rule", log.take(), []string{`level=ERROR msg="circuit breaker: a custom rule panicked" key=/m panic=custom`})
		time.Sleep(time.Hour)
	})
}

// A transition that changes nothing for calls is no warning.
func TestB43_ForcedBreakersDoNotWarn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			cfg  Config
			mode Mode
			want string
		}{
			{Config{}, 0, `level=WARN msg="circuit breaker open"`},
			{Config{}, ForceClosed, `level=INFO msg="circuit breaker open while it is forced closed, no call is rejected"`},
			{Config{}, ForceOpen, `level=INFO msg="circuit breaker open while it is forced open, all calls are rejected"`},
			{
				Config{Enforcement: EnforcementOff},
				0,
				`level=INFO msg="circuit breaker open while it is forced closed, no call is rejected"`,
			},
			{Config{Enforcement: EnforcementShadow}, 0, `level=INFO msg="circuit breaker open in shadow mode, no call is rejected"`},
		} {
			var log logLines
			b, err := New(Key{}, tt.cfg, LogTransitions(log.logger()))
			if err != nil {
				t.Fatal(err)
			}
			if tt.mode != 0 {
				setOverride(t, b, tt.mode, 0)
				log.take()
			}
			b.Trip(t.Context(), "test")
			for range 2 { // the line, and then that of two transitions that were held back
				lines := log.take()
				if len(lines) != 1 || !strings.HasPrefix(lines[0], tt.want) {
					t.Errorf("%+v, %v: got\n%s\nwant\n%s…", tt.cfg, tt.mode, strings.Join(lines, "\n"), tt.want)
				}
				b.Reset(t.Context())
				b.Trip(t.Context(), "test")
				time.Sleep(10 * time.Second)
				synctest.Wait()
				tt.want = strings.Replace(tt.want, "breaker open", "breaker changed state several times, now open", 1)
			}
			time.Sleep(time.Hour)
		}
	})
}

// If a policy is enforced while a breaker is not closed, that breaker begins to reject calls without a transition.
func TestB43_EnforcedWhileOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logLines
		cfg := Config{FailingFor: -1, OpenFor: time.Minute, Enforcement: EnforcementShadow}
		g, err := NewGroup(cfg, LogTransitions(log.logger()), LogTransitions(slog.New(panicHandler{})))
		if err != nil {
			t.Fatal(err)
		}
		apply := func(e Enforcement) []string {
			cfg.Enforcement = e
			if err := g.Apply(cfg); err != nil {
				t.Fatal(err)
			}
			return log.take()
		}
		open, forced := g.Get(Key{Service: "s"}), g.Get(Key{Service: "forced"})
		g.Get(Key{Service: "closed"})
		for range 5 {
			acquire(t, open).Done(t.Context(), Failure)
		}
		forced.Trip(t.Context(), "test")
		setOverride(t, forced, Shadow, 0)
		log.take()

		since := time.Now().Format("2006-01-02T15:04:05.000Z07:00")
		time.Sleep(time.Second)
		want := `level=WARN msg="circuit breaker open, and the policy enforces that now" key=s since=` + since +
			` opened.rule=consecutive `
		lines := append(apply(EnforcementOn), apply(EnforcementOn)...)
		if len(lines) != 1 || !strings.HasPrefix(lines[0], want) {
			t.Errorf("got\n%s\nwant one line\n%s…", strings.Join(lines, "\n"), want)
		}
		if _, err := open.Acquire(t.Context()); err == nil {
			t.Error("the breaker admits a call")
		}
		if lines := apply(EnforcementOff); len(lines) != 0 {
			t.Errorf("a policy that is not enforced: %q", lines)
		}
		if lines := apply(EnforcementOn); len(lines) != 1 || !strings.HasPrefix(lines[0], want) {
			t.Errorf("off, and then enforced: %q", lines)
		}
		time.Sleep(time.Hour)
	})
}

// A log handler that panics has no effect on calls.
func TestLogTransitions_HandlerThatPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := New(Key{}, Config{}, LogTransitions(slog.New(panicHandler{})))
		if err != nil {
			t.Fatal(err)
		}
		setOverride(t, b, Shadow, 0)
		b.ClearOverride(t.Context())
		b.Trip(t.Context(), "test")
		b.Reset(t.Context())
		b.Trip(t.Context(), "test")
		time.Sleep(time.Hour) // the summary
		if got := b.State(); got != Open {
			t.Errorf("%v, want open", got)
		}
	})
}

type panicHandler struct{ slog.Handler }

func (panicHandler) Enabled(context.Context, slog.Level) bool  { return true }
func (panicHandler) Handle(context.Context, slog.Record) error { panic("handler") }

func TestLogOptions(t *testing.T) {
	logger := slog.New(slog.DiscardHandler)
	for want, opt := range map[string]Option{
		"breaker: LogTransitions: the logger is nil":                                LogTransitions(nil),
		"breaker: LogTransitions: option 1 is nil":                                  LogTransitions(logger, LogEvery(time.Second), nil),
		"breaker: LogEvery: d is 0s, want from 1ms to 100 years":                    LogTransitions(logger, LogEvery(0)),
		"breaker: LogEvery: d is -1s, want from 1ms to 100 years":                   LogTransitions(logger, LogEvery(-time.Second)),
		"breaker: LogEvery: d is 876000h0m0.000000001s, want from 1ms to 100 years": LogTransitions(logger, LogEvery(maxDuration+1)),
	} {
		if _, err := New(Key{}, Config{}, opt); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// A key with line breaks and control characters makes one line without control characters, in text and in JSON.
func TestB43_HostileKeys(t *testing.T) {
	keys := []string{"<script>\"'", "line\nbreak\r\x00\x1b[31m", "\xff\xfe", strings.Repeat("k", 10_000), "\u202egnp"}
	for _, name := range keys {
		for format, handler := range map[string]func(io.Writer) slog.Handler{
			"text": func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, nil) },
			"JSON": func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, nil) },
		} {
			synctest.Test(t, func(t *testing.T) {
				var log logLines
				b, err := New(Key{Tag: name}, Config{}, LogTransitions(slog.New(handler(&log))))
				if err != nil {
					t.Fatal(err)
				}
				b.Trip(t.Context(), "test")
				lines := log.take()
				if len(lines) != 1 || strings.ContainsFunc(lines[0], unicode.IsControl) || !strings.Contains(lines[0], "manual") {
					t.Errorf("%s of %.20q: got %q, want one line without control characters", format, name, lines)
				}
				time.Sleep(time.Hour)
			})
		}
	}
}
