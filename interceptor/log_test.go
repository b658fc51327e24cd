package interceptor

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// LogHooks writes a line for a panic of a user's function and for a call that is guarded twice, at most one in 10 s.
func TestLogHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == "stack" && strings.Contains(a.Value.String(), "log_test.go") {
				return slog.Attr{}
			}
			return a
		}}))
		take := func() string {
			defer out.Reset()
			return out.String()
		}
		want := func(what, text string) {
			t.Helper()
			if got := take(); got != text {
				t.Errorf("%s\ngot  %swant %s", what, got, text)
			}
		}
		hooks := LogHooks(logger)
		g := newGuard(t, breaker.Config{}, WithHooks(hooks), WithClassifier(func(context.Context, Result) breaker.Outcome {
			panic("no outcome")
		}))
		c := &calls{guard: g}
		_ = c.call(t.Context(), nil)
		const line = `level=ERROR msg="circuit breaker: the classifier panicked" panic="no outcome" method=/pkg.Service/Method suppressed=`
		want("the first panic", line+"0\n")
		for range 5 {
			_ = c.call(t.Context(), nil)
		}
		want("more panics", "")
		time.Sleep(10 * time.Second)
		_ = c.call(t.Context(), nil)
		want("10 s later", line+"5\n")

		twice := GuardedTwiceInfo{Key: methodKey}
		hooks.GuardedTwice(t.Context(), twice)
		hooks.GuardedTwice(t.Context(), twice)
		want("guarded twice", `level=WARN msg="circuit breaker: a call passes the same breaker twice, and counts twice" `+
			"key=pkg.Service/Method method=\"\" suppressed=0\n")
		for i := range maxHookLines + 1 { // other keys: the memory is bounded, and each has its line
			twice.Key = breaker.Key{Tag: fmt.Sprint(i)}
			hooks.GuardedTwice(t.Context(), twice)
		}
		if n := strings.Count(take(), "\n"); n != maxHookLines+1 {
			t.Errorf("%d lines for %d keys", n, maxHookLines+1)
		}
	})
}

func TestLogHooks_Nil(t *testing.T) {
	defer func() {
		if got, want := recover(), "interceptor: LogHooks: the logger is nil"; got != want {
			t.Errorf("the panic is %v, want %s", got, want)
		}
	}()
	LogHooks(nil)
}
