package breaker

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
)

// LogOption configures LogTransitions.
type LogOption interface{ applyLog(*logOptions) error }

type logOption func(*logOptions) error

func (f logOption) applyLog(o *logOptions) error { return f(o) }

type logOptions struct {
	every time.Duration // at most one line for each breaker in that time
}

const defaultLogEvery = 10 * time.Second

// LogEvery sets how often a breaker may write a line: at most once in d. d is from 1 ms to 100 years; anything else is
// an error. Default: 10 s.
func LogEvery(d time.Duration) LogOption {
	return logOption(func(o *logOptions) error {
		if !validDuration(d) {
			return errorf("LogEvery: d is %v, want from 1ms to 100 years%s", d, missingUnit(d))
		}
		o.every = d
		return nil
	})
}

// LogTransitions writes transitions, overrides and panics to logger.
//
//   - A transition is one line with the key, both states, the rule, the reason, the cause, the counts and the open
//     period. A transition to open has level WARN, all others INFO. If an override or Config.Enforcement decides the
//     calls, all have level INFO, and the message says so, for example that no call is rejected in shadow mode.
//   - If Group.Apply makes a breaker that is not closed begin to reject calls, because Config.Enforcement was shadow or
//     off, that is a line of level WARN with the key, the time the outage began, and what opened the breaker.
//   - Setting an override is a line of level WARN with the mode, the author, the reason and the time to live. Clearing
//     one is a line too, of level WARN if the breaker below it is not closed.
//   - A panic of a listener or of the custom rule is a line of level ERROR with the value and the stack.
//
// A breaker writes at most one line for transitions in 10 s (see LogEvery). If more transitions follow, they are
// counted, and after that time one line says how many there were and what state the breaker is in. It has level WARN if
// one of them was to open. The attribute "at" of such a line is when the last of them happened. A timer runs for that
// time after each line.
//
// A nil logger and a nil option are errors. Default: no log.
func LogTransitions(logger *slog.Logger, opts ...LogOption) Option {
	return option(func(o *options) error {
		if logger == nil {
			return errorf("LogTransitions: the logger is nil")
		}
		lo := logOptions{every: defaultLogEvery}
		for i, opt := range opts {
			if f, ok := opt.(logOption); opt == nil || (ok && f == nil) {
				return errorf("LogTransitions: option %d is nil", i)
			}
			if err := opt.applyLog(&lo); err != nil {
				return err
			}
		}
		l := &transitionLog{logger: logger, every: lo.every, recent: make(map[Key]*recentLog)}
		o.listeners = append(o.listeners, l.transition)
		o.logs = append(o.logs, l)
		return nil
	})
}

// transitionLog writes the lines of LogTransitions for the breakers of a group.
type transitionLog struct {
	logger *slog.Logger
	every  time.Duration

	mu     sync.Mutex
	recent map[Key]*recentLog // guarded by mu: breakers that wrote a line less than every ago
}

// recentLog is what a breaker has not written since its last line.
type recentLog struct {
	suppressed int
	openings   int       // transitions to Open
	enforced   int       // of these, the ones without a mode, so that calls were rejected from then on
	first      time.Time // of the suppressed transitions
	last       Event
	ctx        context.Context //nolint:containedctx // of last, for a handler that reads a trace from it
}

// transition is a listener.
func (l *transitionLog) transition(ctx context.Context, e Event) {
	if e.OverrideChanged {
		l.override(ctx, e)
		return
	}
	l.mu.Lock()
	if r := l.recent[e.Key]; r != nil {
		if r.suppressed == 0 {
			r.first = e.At
		}
		r.suppressed++
		if e.To == Open {
			r.openings++
			if e.Override.Mode == 0 {
				r.enforced++
			}
		}
		r.last, r.ctx = e, context.WithoutCancel(ctx)
		l.mu.Unlock()
		return
	}
	l.recent[e.Key] = new(recentLog)
	l.mu.Unlock()
	l.summarizeLater(e.Key)
	l.write(ctx, e)
}

// summarizeLater calls summarize after the time between two lines. A handler that panics must not end the program.
func (l *transitionLog) summarizeLater(key Key) {
	time.AfterFunc(l.every, func() { //nolint:forbidigo // for lines that were held back; no decision depends on it
		defer func() { _ = recover() }()
		l.summarize(key)
	})
}

// summarize writes the line for the transitions that were suppressed, and waits again. If there were none, the breaker
// may write its next transition at once.
func (l *transitionLog) summarize(key Key) {
	l.mu.Lock()
	r := l.recent[key]
	if r.suppressed == 0 {
		delete(l.recent, key)
		l.mu.Unlock()
		return
	}
	l.recent[key] = new(recentLog)
	l.mu.Unlock()
	l.summarizeLater(key)
	at := slog.Time("at", r.last.At) // the time of the record is that of the line
	if r.suppressed == 1 {
		l.write(r.ctx, r.last, at)
		return
	}
	level, note := transitionLevel(r.last)
	if r.enforced > 0 {
		level = slog.LevelWarn // as the lines would have been, also if the breaker has closed since
	}
	l.logger.LogAttrs(r.ctx, level, "circuit breaker changed state several times, now "+r.last.To.String()+note,
		slog.Int("transitions", r.suppressed), slog.Int("openings", r.openings),
		slog.Duration("within", r.last.At.Sub(r.first)), at, slog.Any("last", r.last))
}

func (l *transitionLog) write(ctx context.Context, e Event, more ...slog.Attr) {
	level, note := transitionLevel(e)
	attrs := append(e.LogValue().Group(), more...)
	if e.Counts != (Counts{}) {
		attrs = append(attrs, slog.Any("counts", e.Counts))
	}
	l.logger.LogAttrs(ctx, level, "circuit breaker "+e.To.String()+note, attrs...)
}

// transitionLevel returns the level of a line, and what the message adds if calls are not admitted and rejected as the
// new state says.
func transitionLevel(e Event) (level slog.Level, note string) {
	switch e.Override.Mode {
	case Shadow:
		return slog.LevelInfo, " in shadow mode, no call is rejected"
	case ForceClosed:
		return slog.LevelInfo, " while it is forced closed, no call is rejected"
	case ForceOpen:
		return slog.LevelInfo, " while it is forced open, all calls are rejected"
	}
	if e.To == Open {
		return slog.LevelWarn, ""
	}
	return slog.LevelInfo, ""
}

// override writes that an override was set or cleared. A breaker that is not closed may reject calls once its override
// is cleared, so that is a warning too.
func (l *transitionLog) override(ctx context.Context, e Event) {
	level, attrs := slog.LevelInfo, []slog.Attr{slog.Any("key", e.Key)}
	switch {
	case e.Why == overrideSet:
		level = slog.LevelWarn
		attrs = append(attrs, e.Override.LogValue().Group()...)
	case e.To != Closed && e.Override.Mode == 0:
		level = slog.LevelWarn
		attrs = append(attrs, slog.String("state", e.To.String()))
	}
	l.logger.LogAttrs(ctx, level, "circuit breaker "+e.Why, attrs...)
}

// enforced writes that a breaker rejects calls from now on, because a new policy enforces its state. There is no event,
// because the state is the same as before.
func (l *transitionLog) enforced(s Snapshot) {
	defer func() { _ = recover() }() // of a handler
	l.logger.LogAttrs(context.Background(), slog.LevelWarn,
		"circuit breaker "+s.Underlying.String()+", and the policy enforces that now",
		slog.Any("key", s.Key), slog.Time("since", s.Outage.At), slog.Any("opened", s.Opened))
}

// logEnforced writes the lines for a breaker that began to reject calls when a policy was applied. A breaker that has
// closed since, or that another mode is in force for, has none.
func (s *shared) logEnforced(snapshot Snapshot) {
	if snapshot.Underlying == Closed || snapshot.Mode != 0 {
		return
	}
	for _, l := range s.logs {
		l.enforced(snapshot)
	}
}

// panicked writes that a function of the user has panicked. It is called while the panic is recovered.
func (l *transitionLog) panicked(ctx context.Context, key Key, what string, v any) {
	defer func() { _ = recover() }() // of a handler
	l.logger.LogAttrs(ctx, slog.LevelError, "circuit breaker: a "+what+" panicked",
		slog.Any("key", key), slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
}

func (s *shared) logPanic(ctx context.Context, key Key, what string, v any) {
	for _, l := range s.logs {
		l.panicked(ctx, key, what, v)
	}
}
