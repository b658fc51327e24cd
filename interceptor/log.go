package interceptor

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// LogHooks returns Hooks that write to logger what a person must correct: panics in functions of the user (level ERROR,
// with the value and the stack), and calls that pass the same breaker twice (level WARN). It complements
// breaker.LogTransitions, which writes transitions and overrides.
//
// Each kind of panic, and each key that is guarded twice, has at most one line in 10 s. The next line after that says
// how many there were in between. A nil logger panics.
func LogHooks(logger *slog.Logger) *Hooks {
	if logger == nil {
		panic("interceptor: LogHooks: the logger is nil")
	}
	l := &hookLog{logger: logger, lines: make(map[string]*hookLine)}
	return &Hooks{Panicked: l.panicked, GuardedTwice: l.guardedTwice}
}

const (
	hookLogEvery = 10 * time.Second
	// maxHookLines limits the memory for keys. Beyond it, the log forgets all of them and begins again.
	maxHookLines = 1000
)

type hookLog struct {
	logger *slog.Logger

	mu    sync.Mutex
	lines map[string]*hookLine // guarded by mu: by what the line is about
}

type hookLine struct {
	last       time.Time
	suppressed int
}

// due reports whether a line about what may be written now, and how many were suppressed since the last one.
func (l *hookLog) due(what string) (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := l.lines[what]
	if line == nil {
		if len(l.lines) >= maxHookLines {
			clear(l.lines)
		}
		l.lines[what] = &hookLine{last: time.Now()}
		return 0, true
	}
	if time.Since(line.last) < hookLogEvery {
		line.suppressed++
		return 0, false
	}
	suppressed = line.suppressed
	*line = hookLine{last: time.Now()}
	return suppressed, true
}

func (l *hookLog) panicked(ctx context.Context, p PanicInfo) {
	if suppressed, ok := l.due(p.Func); ok {
		l.logger.LogAttrs(ctx, slog.LevelError, "circuit breaker: the "+p.Func+" panicked",
			slog.Any("panic", p.Value), slog.String("method", methodOf(p.Call)), slog.Int("suppressed", suppressed),
			slog.String("stack", string(p.Stack)))
	}
}

func (l *hookLog) guardedTwice(ctx context.Context, g GuardedTwiceInfo) {
	if suppressed, ok := l.due("twice " + g.Key.String()); ok {
		l.logger.LogAttrs(ctx, slog.LevelWarn, "circuit breaker: a call passes the same breaker twice, and counts twice",
			slog.Any("key", g.Key), slog.String("method", methodOf(g.Call)), slog.Int("suppressed", suppressed))
	}
}

// methodOf returns the full method name, or "" if the call is not known.
func methodOf(c Call) string {
	if c.Service == "" && c.Method == "" {
		return ""
	}
	return c.FullMethod()
}
