package policyfile

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/grpcircuit/grpcircuit/breaker"
)

// A Watcher keeps a policy file in force: it applies the file when it changes. See Watch.
//
// A Watcher is safe for concurrent use. It owns two goroutines, a timer and file descriptors until Close.
type Watcher struct {
	path     string // as given to Watch
	groups   []*breaker.Group
	callback func(Reload)
	logger   *slog.Logger
	read     func() ([]byte, error) // read(path), except in tests
	absolute string                 // path at the time of Watch: the program may change its working directory
	dirs     *dirs

	close   func()
	stopped sync.WaitGroup

	// Only the goroutine of the watcher, and Watch before it starts, use these.
	seen     observation   // the last one that was reported
	broken   time.Time     // since when the file has been broken without a report; zero otherwise
	policies []fingerprint // of the groups, at the last check

	mu    sync.Mutex
	file  *File // guarded by mu; the file in force
	stats Stats // guarded by mu
}

// A Reload is the result of reading a changed file. See WithCallback.
type Reload struct {
	Path string
	File *File // now in force; nil if Err is not
	Err  error // why the file is not in force: the error of Load or of File.Apply
}

// Stats are the figures of a Watcher, for metrics.
type Stats struct {
	Succeeded   uint64    // how often the file was put in force, including the first time by Watch
	Failed      uint64    // how often a changed file was broken or missing
	LastSuccess time.Time // when the file was last put in force
}

// observation is the result of one attempt to read the file.
type observation struct {
	made         bool // distinguishes the observation of an empty file from the zero observation
	content, err string
}

// Watch loads a policy file and applies it to the groups of WithGroups. It does so again whenever the file changes,
// until Close. If the first load fails, Watch returns the error and watches nothing.
//
// A changed file is in force within a second, in all groups or in none, as with File.Apply. If the file is broken or
// missing, the last policy stays in force. After 0.3 seconds this is reported to the callback, in the log, and in
// Stats. The delay is there because editors write files in steps. A file that comes back is applied again.
//
// Watch watches the directory of the file, and the directories of all symbolic links on the path to it. So it notices a
// file that is replaced by a rename, as editors do, and a change of symbolic links, as Kubernetes makes for a volume of
// a ConfigMap. It also reads the file every 2 seconds. This finds changes that cause no notice: those on network file
// systems, and the renaming of a directory above the file. If there are no notices at all, for example because the
// limit of inotify is reached, it reads the file twice a second. A relative path is resolved when Watch is called. It
// does not matter if the program changes its working directory later.
//
// A ConfigMap that is mounted with subPath never changes in the container, so Watch cannot notice a change. Mount the
// volume as a directory.
//
// Do not truncate the file and write it in place: Watch may read it in between, and the first half of a YAML file may
// be a valid file. Write another file and rename it.
//
// If somebody calls Group.Apply for one of the groups, that policy is in force until the file changes. The log has a
// warning within 2 seconds. Overrides of breakers are not part of the policy and stay.
func Watch(path string, opts ...WatchOption) (*Watcher, error) {
	o := watchOptions{logger: slog.Default()}
	for i, opt := range opts {
		if opt == nil {
			return nil, fmt.Errorf("policyfile: Watch: option %d is nil", i)
		}
		if err := opt(&o); err != nil {
			return nil, fmt.Errorf("policyfile: Watch: %w", err)
		}
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("policyfile: Watch: the working directory is not known: %w", err)
	}
	w := &Watcher{
		path: path, groups: o.groups, callback: o.callback, logger: o.logger,
		read: func() ([]byte, error) { return read(absolute) }, absolute: absolute,
		dirs: new(dirs),
	}
	w.logger = w.logger.With("file", path)

	// The directories are watched before the file is read, so that no change between the two is missed.
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		w.log(slog.LevelWarn, "policy file: no notices of changes, so the file is read twice a second", "error", err)
		notify = new(fsnotify.Watcher) // whose channels are nil
	} else {
		w.dirs.notify = notify
	}
	w.dirs.update(absolute)
	if err := w.first(); err != nil {
		return nil, joinClose(err, w.dirs)
	}
	w.start(notify.Events, notify.Errors)
	return w, nil
}

// first loads and applies the file for Watch.
func (w *Watcher) first() error {
	file, obs, err := w.load()
	if err != nil {
		return err
	}
	w.seen = obs
	w.succeeded(file)
	return nil
}

// start starts the goroutines.
func (w *Watcher) start(events <-chan fsnotify.Event, errs <-chan error) {
	done, notices := make(chan struct{}), make(chan struct{}, 1)
	w.close = sync.OnceFunc(func() { close(done) })
	w.stopped.Go(func() { forward(done, events, errs, notices) })
	w.stopped.Go(func() { w.run(done, notices) })
}

// forward sends a notice for each event, and for each error, because an error means that events were lost. It never
// waits for the other goroutine, which may be in a callback or in a call of fsnotify. On Windows, fsnotify adds and
// removes directories on the goroutine that sends the events.
func forward(done <-chan struct{}, events <-chan fsnotify.Event, errs <-chan error, notices chan<- struct{}) {
	for events != nil || errs != nil {
		var ok bool
		select {
		case <-done:
			return
		case _, ok = <-events:
			if !ok {
				events = nil
				continue
			}
		case _, ok = <-errs:
			if !ok {
				errs = nil
				continue
			}
		}
		select {
		case notices <- struct{}{}:
		default: // one is waiting
		}
	}
}

// File returns the file in force.
func (w *Watcher) File() *File {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.file
}

// Stats returns the figures of the watcher.
func (w *Watcher) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stats
}

// Reloads returns the figures of Stats in the form that WithPolicyReloads of packages prombridge and otelbridge take:
//
//	prombridge.NewCollector(group, prombridge.WithPolicyReloads(watcher.Reloads))
func (w *Watcher) Reloads() (succeeded, failed uint64, lastSuccess time.Time) {
	s := w.Stats()
	return s.Succeeded, s.Failed, s.LastSuccess
}

// Close stops the watcher. The policy stays in force. Close waits for a callback that is running, so a callback must
// not call it. It returns nil, or an error of the operating system. It may be called more than once.
func (w *Watcher) Close() error {
	w.close()
	w.stopped.Wait()
	return w.dirs.close()
}

// run checks the file when the schedule demands it. If a callback ends its goroutine, another one continues.
func (w *Watcher) run(done <-chan struct{}, notices chan struct{}) {
	closed := false
	defer func() {
		if !closed {
			w.stopped.Go(func() { w.run(done, notices) })
		}
	}()
	var s schedule
	timer := time.NewTimer(0)
	defer timer.Stop()
	s.checked(time.Now(), w.dirs.blind(), w.broken)
	for {
		timer.Reset(time.Until(s.next()))
		select {
		case <-done:
			closed = true
			return
		case <-notices:
			s.notice(time.Now())
		case <-timer.C:
			if now := time.Now(); !now.Before(s.next()) {
				w.checkDrift() // before check, which may replace what somebody applied
				w.check(now)
				moved := w.dirs.update(w.absolute)
				s.checked(now, w.dirs.blind(), w.broken)
				if moved { // changes in the new directory before it was watched caused no notice
					s.notice(now)
				}
			}
		}
	}
}

// load reads, parses and applies the file.
func (w *Watcher) load() (*File, observation, error) {
	data, err := w.read()
	if err != nil {
		return nil, observation{made: true, err: err.Error()}, err
	}
	obs := observation{made: true, content: string(data)}
	if obs == w.seen {
		return nil, obs, nil
	}
	file, err := Parse(w.path, data)
	if err == nil {
		err = file.Apply(w.groups...)
	}
	return file, obs, err
}

// check reads the file. If it has changed, check applies it and reports that. A broken file is reported only after it
// has been broken for confirmAfter.
func (w *Watcher) check(now time.Time) {
	file, obs, err := w.load()
	switch {
	case obs == w.seen:
		w.broken = time.Time{}
		return
	case err == nil:
	case w.broken.IsZero():
		w.broken = now
		return
	case now.Sub(w.broken) < confirmAfter:
		return
	}
	w.broken, w.seen = time.Time{}, obs
	if err != nil {
		w.failed(err)
		return
	}
	w.succeeded(file)
	w.log(slog.LevelInfo, "policy file: a new policy is in force", "rules", len(file.Rules))
	w.report(Reload{Path: w.path, File: file})
}

func (w *Watcher) succeeded(file *File) {
	w.policies = slices.Repeat([]fingerprint{fingerprintOf(file)}, len(w.groups))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.file = file
	w.stats.Succeeded++
	w.stats.LastSuccess = time.Now()
}

func (w *Watcher) failed(err error) {
	w.mu.Lock()
	w.stats.Failed++
	w.mu.Unlock()
	// docs/runbooks.md quotes this text.
	w.log(slog.LevelError, "policy file: broken, so the last policy stays in force", "error", err)
	w.report(Reload{Path: w.path, Err: err})
}

// log writes a line. A handler that panics must not end the program.
func (w *Watcher) log(level slog.Level, text string, args ...any) {
	defer func() { _ = recover() }()
	w.logger.Log(context.Background(), level, text, args...)
}

// report calls the callback. A panic must not end the program.
func (w *Watcher) report(r Reload) {
	if w.callback == nil {
		return
	}
	defer func() {
		if v := recover(); v != nil {
			w.log(slog.LevelError, "policy file: the callback panicked", "panic", v, "stack", string(debug.Stack()))
		}
	}()
	w.callback(r)
}
