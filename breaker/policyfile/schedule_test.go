package policyfile

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"
	"github.com/grpcircuit/grpcircuit/breaker"
)

func TestSchedule(t *testing.T) {
	const ms = time.Millisecond
	start := time.Unix(1_000_000_000, 0)
	for _, tt := range []struct {
		name    string
		blind   bool
		broken  time.Duration // before the check
		notices []time.Duration
		want    time.Duration
	}{
		{name: "no notice", want: 2 * time.Second},
		{name: "no notices at all", blind: true, want: 500 * ms},
		{name: "broken", broken: 1, want: 300*ms - 1},
		{name: "broken since a while", broken: 100 * ms, want: 200 * ms},
		{name: "one", notices: []time.Duration{100 * ms}, want: 150 * ms},
		{name: "several settle", notices: []time.Duration{100 * ms, 140 * ms, 180 * ms}, want: 230 * ms},
		{
			name: "no end of notices", want: 250 * ms,
			notices: []time.Duration{0, 40 * ms, 80 * ms, 120 * ms, 160 * ms, 200 * ms, 240 * ms},
		},
		{name: "late", notices: []time.Duration{1990 * ms}, want: 2 * time.Second},
	} {
		var s schedule
		s.notice(start.Add(-time.Hour)) // before the check
		var broken time.Time
		if tt.broken > 0 {
			broken = start.Add(-tt.broken)
		}
		s.checked(start, tt.blind, broken)
		for _, d := range tt.notices {
			s.notice(start.Add(d))
		}
		if got := s.next().Sub(start); got != tt.want {
			t.Errorf("%s: the next check is after %v, want %v", tt.name, got, tt.want)
		}
	}
}

// fakeFile is a watcher without a file, in a bubble of testing/synctest.
type fakeFile struct {
	*Watcher
	start  time.Time
	events chan fsnotify.Event

	mu    sync.Mutex
	text  string // "-": there is no file
	reads int
	got   []string // reloads, with the time since the start
}

// newFakeFile returns a watcher whose file has the text. It gets only the notices that a test sends to events.
func newFakeFile(t *testing.T, text string, groups ...*breaker.Group) *fakeFile {
	t.Helper()
	f := &fakeFile{start: time.Now(), events: make(chan fsnotify.Event), text: text}
	f.Watcher = &Watcher{
		path: "p.yaml", groups: groups, logger: slog.New(slog.DiscardHandler),
		dirs:     &dirs{notify: nil},
		callback: f.reloaded,
		read:     f.readText,
	}
	if err := f.first(); err != nil {
		t.Fatal(err)
	}
	f.Watcher.start(f.events, nil)
	t.Cleanup(func() { f.Close() })
	return f
}

func (f *fakeFile) readText() ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	if f.text == "-" {
		return nil, os.ErrNotExist
	}
	return []byte(f.text), nil
}

func (f *fakeFile) reloaded(r Reload) {
	f.mu.Lock()
	defer f.mu.Unlock()
	what := "ok"
	if r.Err != nil {
		what, _, _ = strings.Cut(r.Err.Error(), ";")
	} else {
		what += " " + r.File.Config.OpenFor.String()
	}
	f.got = append(f.got, time.Since(f.start).String()+" "+what)
}

// write changes the text, after d.
func (f *fakeFile) write(d time.Duration, text string, notice bool) {
	time.Sleep(d)
	f.mu.Lock()
	f.text = text
	f.mu.Unlock()
	if notice {
		f.events <- fsnotify.Event{}
	}
}

// Here the file is polled each half second, because the watcher has no fsnotify.
func TestReloads(t *testing.T) {
	const ms = time.Millisecond
	text := func(openFor string) string { return "circuitBreaker: {openFor: " + openFor + "}" }
	for _, tt := range []struct {
		name  string
		play  func(f *fakeFile)
		want  []string
		stats Stats
	}{
		{"no change", func(f *fakeFile) {
			f.write(0, text("1s"), true)
			f.write(10*ms, text("1s"), true)
		}, nil, Stats{Succeeded: 1}},
		{"a change", func(f *fakeFile) { f.write(0, text("2s"), true) }, []string{"50ms ok 2s"}, Stats{Succeeded: 2}},
		{"a change without a notice", func(f *fakeFile) {
			f.write(0, text("2s"), false)
		}, []string{"500ms ok 2s"}, Stats{Succeeded: 2}},
		{"several in a row", func(f *fakeFile) {
			f.write(0, text("2s"), true)
			f.write(20*ms, text("3s"), true)
			f.write(20*ms, text("4s"), true)
			f.write(200*ms, text("5s"), true)
		}, []string{"90ms ok 4s", "290ms ok 5s"}, Stats{Succeeded: 3}},
		{"a file that is never quiet", func(f *fakeFile) {
			for range 20 {
				f.write(30*ms, text("2s"), true)
			}
		}, []string{"280ms ok 2s"}, Stats{Succeeded: 2}},
		{"truncated, then written", func(f *fakeFile) {
			f.write(0, "", true)
			f.write(200*ms, text("2s"), true)
		}, []string{"250ms ok 2s"}, Stats{Succeeded: 2}},
		{"truncated, then as before", func(f *fakeFile) {
			f.write(0, "", true)
			f.write(200*ms, text("1s"), true)
		}, nil, Stats{Succeeded: 1}},
		{"broken", func(f *fakeFile) {
			f.write(0, "", true)
		}, []string{"350ms p.yaml:1:1: the file is empty"}, Stats{Succeeded: 1, Failed: 1}},
		{"broken in several ways", func(f *fakeFile) {
			f.write(0, "", true)
			f.write(100*ms, "[", true)
			f.write(100*ms, "[]", true)
			f.write(300*ms, text("1s"), true)
		}, []string{
			"350ms p.yaml:1:1: the file is a list, want a mapping with methodConfig, circuitBreaker or presets", "550ms ok 1s",
		}, Stats{Succeeded: 2, Failed: 1}},
		{"removed and back", func(f *fakeFile) {
			f.write(0, "-", true)
			f.write(5*time.Second, text("1s"), true)
		}, []string{"350ms file does not exist", "5.05s ok 1s"}, Stats{Succeeded: 2, Failed: 1}},
	} {
		// A bubble may have no subtest, so the name is in the messages.
		synctest.Test(t, func(t *testing.T) {
			f := newFakeFile(t, text("1s"))
			tt.play(f)
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if diff := cmp.Diff(f.got, tt.want); diff != "" {
				t.Errorf("%s: reloads (-got +want):\n%s", tt.name, diff)
			}
			got := f.Stats()
			got.LastSuccess = time.Time{}
			if got != tt.stats {
				t.Errorf("%s: stats are %+v, want %+v", tt.name, got, tt.stats)
			}
		})
	}
}

func TestLastSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeFile(t, "{}")
		if got := f.Stats().LastSuccess; !got.Equal(f.start) {
			t.Errorf("last success is %v after the start", got.Sub(f.start))
		}
		f.write(time.Minute, "", true)
		f.write(time.Minute, "circuitBreaker: {}", true)
		time.Sleep(time.Minute)
		if got := f.Stats().LastSuccess.Sub(f.start); got != 2*time.Minute+settleAfter {
			t.Errorf("last success is %v after the start", got)
		}
	})
}

func TestCallbackPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeFile(t, "{}")
		var buf bytes.Buffer
		f.logger = slog.New(slog.NewTextHandler(&buf, nil))
		f.callback = func(Reload) { panic("at the disco") }
		f.write(0, "circuitBreaker: {}", true)
		f.write(time.Second, "{}", true)
		time.Sleep(time.Second)
		synctest.Wait()
		if got := f.Stats().Succeeded; got != 3 {
			t.Errorf("%d successes, want 3", got)
		}
		if got := strings.Count(buf.String(), `the callback panicked" panic="at the disco"`); got != 2 {
			t.Errorf("%d log lines of the panic in %s", got, &buf)
		}
	})
}

// A callback that ends its goroutine, and a handler that panics, do not end the watching or the program.
func TestCallbackEndsItsGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeFile(t, "{}")
		f.logger = slog.New(panicHandler{})
		f.callback = func(Reload) { runtime.Goexit() }
		f.write(0, "circuitBreaker: {}", true)
		f.write(time.Second, "{", true)
		f.write(time.Second, "{}", false)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if got := f.Stats(); got.Succeeded != 3 || got.Failed != 1 {
			t.Errorf("stats are %+v, want 3 successes and a failure", got)
		}
	})
}

type panicHandler struct{ slog.Handler }

func (panicHandler) Enabled(context.Context, slog.Level) bool  { return true }
func (panicHandler) Handle(context.Context, slog.Record) error { panic("handler") }

// A call of Group.Apply by somebody else is reported once. The next change of the file replaces its policy.
func TestDrift(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		apply := func(g *breaker.Group, cfg breaker.Config, rules ...breaker.PolicyRule) {
			if err := g.Apply(cfg, rules...); err != nil {
				t.Fatal(err)
			}
		}
		var groups []*breaker.Group
		for range 2 {
			g, err := breaker.NewGroup(breaker.Config{})
			if err != nil {
				t.Fatal(err)
			}
			groups = append(groups, g)
		}
		f := newFakeFile(t, "{circuitBreaker: {openFor: 1s}, "+
			"methodConfig: [{name: [{service: a}], circuitBreaker: {}}]}", groups...)
		var buf bytes.Buffer
		onlyMessage := func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
				return slog.Attr{}
			}
			return a
		}
		f.logger = slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{ReplaceAttr: onlyMessage}))
		want := func(why, want string) {
			t.Helper()
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if got := buf.String(); got != want {
				t.Errorf("%s: the log is %q, want %q", why, got, want)
			}
			buf.Reset()
		}
		warning := func(group string) string {
			return `msg="policy file: somebody has called Group.Apply for a group of this file; that policy is in force until ` +
				`the file changes" group=` + group + "\n"
		}
		want("nothing", "")
		apply(groups[1], breaker.Config{OpenFor: 2 * time.Second}, f.File().Rules...)
		want("another Config", warning("1"))
		want("it is reported once", "")
		apply(groups[0], breaker.Config{OpenFor: time.Second})
		want("other rules", warning("0"))
		apply(groups[0], f.File().Config, f.File().Rules...)
		want("back to the file", warning("0"))
		f.write(0, "circuitBreaker: {openFor: 3s}", true)
		want("reload", "msg=\"policy file: a new policy is in force\" rules=0\n")
		for i, g := range groups {
			if got := g.PolicyFor(breaker.Key{}).Config.OpenFor; got != 3*time.Second {
				t.Errorf("group %d has OpenFor %v", i, got)
			}
		}
		apply(groups[1], breaker.Config{OpenFor: 2 * time.Second})
		f.write(0, "circuitBreaker: {openFor: 4s}", true)
		want("replaced before it was noticed", warning("1")+"msg=\"policy file: a new policy is in force\" rules=0\n")
	})
}

// If one group cannot accept the file, it is applied to none.
func TestApplyErrors(t *testing.T) {
	g, err := breaker.NewGroup(breaker.Config{OpenFor: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	good := &File{Config: breaker.Config{OpenFor: 7 * time.Second}}
	if err := good.Apply(g, nil); err == nil || err.Error() != "policyfile: Apply: group 1 is nil" {
		t.Errorf("error is %v", err)
	}
	bad := &File{Config: breaker.Config{OpenFor: -1}}
	if err := bad.Apply(g); !errors.As(err, new(*breaker.ConfigError)) {
		t.Errorf("error is %v", err)
	}
	if err := bad.Apply(); err == nil {
		t.Error("a bad file applies to no group")
	}
	if got := g.PolicyFor(breaker.Key{}).Config.OpenFor; got != 5*time.Second {
		t.Errorf("OpenFor is %v", got)
	}
}

func TestWatchOptions(t *testing.T) {
	path := t.TempDir() + "/p.yaml"
	for want, opt := range map[string]WatchOption{
		"policyfile: Watch: option 0 is nil":                   nil,
		"policyfile: Watch: WithGroups: group 0 is nil":        WithGroups(nil),
		"policyfile: Watch: WithCallback: the function is nil": WithCallback(nil),
		"policyfile: Watch: WithLogger: the logger is nil":     WithLogger(nil),
		"stat " + path + ": no such file or directory":         WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil))),
	} {
		if _, err := Watch(path, opt); err == nil || err.Error() != want {
			t.Errorf("error is %v, want %s", err, want)
		}
	}
}
