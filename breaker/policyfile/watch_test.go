package policyfile

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/grpcircuit/grpcircuit/breaker"
)

// The tests named TestWatch use real files, real notices and real time, so they are few.

// watched is a watched file in its own directory.
type watched struct {
	*Watcher
	t       *testing.T
	path    string
	group   *breaker.Group
	reloads chan Reload
	took    []time.Duration // from a change to the reload
	slow    bool            // a change took so long that the watcher may have reported what was between its steps
}

func policyText(openFor time.Duration) string {
	return fmt.Sprintf("circuitBreaker: {openFor: %v}\n", openFor)
}

// newWatched watches path, which must exist.
func newWatched(t *testing.T, path string) *watched {
	t.Helper()
	g, err := breaker.NewGroup(breaker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{t: t, path: path, group: g, reloads: make(chan Reload, 100)}
	w.Watcher, err = Watch(path, WithGroups(g), WithLogger(slog.New(slog.DiscardHandler)),
		WithCallback(func(r Reload) { w.reloads <- r }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		// Without notices, each change would be found only by a poll, after up to two seconds. One change may be late on a
		// busy machine.
		slices.Sort(w.took)
		if len(w.took) > 0 && w.took[len(w.took)/2] > time.Second {
			t.Errorf("reloads took %v, want a second at most", w.took)
		}
	})
	return w
}

// inForce waits until a policy with openFor is in force.
func (w *watched) inForce(openFor time.Duration) {
	w.t.Helper()
	r := w.next(func(r Reload) bool { return r.Err == nil && r.File.Config.OpenFor == openFor })
	if got := w.group.Get(breaker.Key{Service: "a"}).Config().OpenFor; r.Err == nil && got != openFor {
		w.t.Errorf("OpenFor of the breaker is %v, want %v", got, openFor)
	}
}

// failed waits until a broken file is reported.
func (w *watched) failed() Reload {
	w.t.Helper()
	return w.next(func(r Reload) bool { return r.Err != nil })
}

func (w *watched) next(want func(Reload) bool) Reload {
	w.t.Helper()
	start := time.Now()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case r := <-w.reloads:
			if want(r) {
				w.took = append(w.took, time.Since(start))
				w.t.Logf("after %v: %v", time.Since(start).Round(time.Millisecond), r.Err)
				return r
			}
			if r.Err != nil && !w.slow {
				w.t.Errorf("unexpected error: %v", r.Err)
			}
		case <-deadline:
			w.t.Fatalf("not in force after 10s; stats are %+v", w.Stats())
		}
	}
}

// inSteps makes a change between whose steps the file is missing or empty.
func (w *watched) inSteps(change func()) {
	start := time.Now()
	change()
	w.slow = w.slow || time.Since(start) >= confirmAfter
}

// write truncates a file that is watched and writes it.
func (w *watched) write(path, text string) {
	w.t.Helper()
	w.inSteps(func() { write(w.t, path, text) })
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Editors write another file and rename it over the first, or truncate the file and write it in place.
func TestWatchEditors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, path, policyText(time.Second))
	w := newWatched(t, path)
	key := breaker.Key{Service: "a"}
	w.group.Get(key).Trip(t.Context(), "test")
	forced := breaker.Override{Mode: breaker.ForceOpen, Why: "test", By: "test"}
	check(t, w.group.Get(breaker.Key{Service: "b"}).SetOverride(t.Context(), forced))

	for i := range 3 {
		d := time.Duration(i+2) * time.Second
		write(t, path+".new", policyText(d))
		check(t, os.Rename(path+".new", path))
		w.inForce(d)
	}
	for i := range 3 { // as vim does with backupcopy=no
		d := time.Duration(i+12) * time.Second
		w.inSteps(func() {
			check(t, os.Rename(path, path+"~"))
			write(t, path, policyText(d))
		})
		w.inForce(d)
	}
	w.inSteps(func() {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
		check(t, err)
		time.Sleep(100 * time.Millisecond) // so that the watcher sees the empty file
		_, err = f.WriteString(policyText(22 * time.Second))
		check(t, err)
		check(t, f.Close())
	})
	w.inForce(22 * time.Second)

	if got := w.Stats(); got.Failed != 0 && !w.slow || got.Succeeded < 8 || time.Since(got.LastSuccess) > time.Minute {
		t.Errorf("stats are %+v", got)
	}
	if got := w.group.Get(key).State(); got != breaker.Open { // B34
		t.Errorf("state is %v, want open", got)
	}
	if got := w.group.Get(breaker.Key{Service: "b"}).Snapshot().Override.Mode; got != breaker.ForceOpen {
		t.Errorf("override is %v", got)
	}
}

func TestWatchDeletionAndReturn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, path, policyText(2*time.Second))
	w := newWatched(t, path)
	check(t, os.Remove(path))
	if r := w.failed(); !os.IsNotExist(r.Err) || r.File != nil {
		t.Errorf("reload is %+v, want an error that the file does not exist", r)
	}
	if got := w.group.Get(breaker.Key{}).Config().OpenFor; got != 2*time.Second {
		t.Errorf("OpenFor is %v without the file", got)
	}
	w.write(path, policyText(2*time.Second))
	w.inForce(2 * time.Second)

	w.write(path, "circuitBreaker: {openFor: 5}\n")
	want := path + `:1:27: openFor is 5, a number without a unit; write "5s" for seconds or "5ms" for milliseconds`
	if r := w.failed(); r.Err.Error() != want && !w.slow {
		t.Errorf("error is %v", r.Err)
	}
	if got := w.group.Get(breaker.Key{}).Config().OpenFor; got != 2*time.Second {
		t.Errorf("OpenFor is %v with a broken file", got)
	}
	if got := w.Stats(); got.Failed != 2 && !w.slow || got.Succeeded != 2 {
		t.Errorf("stats are %+v", got)
	}
}

// The kubelet writes a new directory, and renames a link to it over ..data. The file is a link through ..data.
func TestWatchConfigMap(t *testing.T) {
	volume := t.TempDir()
	path := filepath.Join(volume, "policy.yaml")
	swap := func(i int, d time.Duration) {
		dir := fmt.Sprintf("..2026_%d", i)
		check(t, os.Mkdir(filepath.Join(volume, dir), 0o700))
		write(t, filepath.Join(volume, dir, "policy.yaml"), policyText(d))
		check(t, os.Symlink(dir, filepath.Join(volume, "..data_tmp")))
		check(t, os.Rename(filepath.Join(volume, "..data_tmp"), filepath.Join(volume, "..data")))
		if i > 0 {
			check(t, os.RemoveAll(filepath.Join(volume, fmt.Sprintf("..2026_%d", i-1))))
		}
	}
	swap(0, time.Second)
	check(t, os.Symlink("..data/policy.yaml", path))
	w := newWatched(t, path)
	for i := 1; i <= 3; i++ {
		swap(i, time.Duration(i+1)*time.Second)
		w.inForce(time.Duration(i+1) * time.Second)
	}
	for i := 4; i <= 9; i++ { // without a pause
		swap(i, time.Duration(i+1)*time.Second)
	}
	w.inForce(10 * time.Second)
	if got := w.Stats(); got.Failed != 0 {
		t.Errorf("stats are %+v", got)
	}
}

// A link to a file in another directory, and a directory that is replaced.
func TestWatchLinks(t *testing.T) {
	root := t.TempDir()
	dir := func(name string) string { return filepath.Join(root, name) }
	check(t, os.Mkdir(dir("app"), 0o700))
	check(t, os.Mkdir(dir("etc"), 0o700))
	write(t, dir("etc/real.yaml"), policyText(time.Second))
	check(t, os.Symlink(dir("etc/real.yaml"), dir("app/policy.yaml")))
	w := newWatched(t, dir("app/policy.yaml"))

	w.write(dir("etc/real.yaml"), policyText(2*time.Second))
	w.inForce(2 * time.Second)

	w.inSteps(func() {
		check(t, os.Rename(dir("app"), dir("old")))
		check(t, os.Mkdir(dir("app"), 0o700))
		write(t, dir("app/policy.yaml"), policyText(3*time.Second))
	})
	w.inForce(3 * time.Second)
	w.write(dir("app/policy.yaml"), policyText(4*time.Second))
	w.inForce(4 * time.Second)
}

// Each link on the way may change, also one among the directories, and one in a directory that is neither that of the
// path nor that of the file.
func TestWatchChainOfLinks(t *testing.T) {
	root := t.TempDir()
	dir := func(name string) string { return filepath.Join(root, name) }
	link := func(to, at string) {
		check(t, os.Symlink(to, dir("new")))
		check(t, os.Rename(dir("new"), dir(at)))
	}
	for i, name := range []string{"app", "mid", "v1", "v2", "v2/sub"} {
		check(t, os.Mkdir(dir(name), 0o700))
		write(t, dir(name+"/real.yaml"), policyText(time.Duration(i+1)*time.Second))
	}
	link("v1", "current")
	link("../current/real.yaml", "mid/link.yaml")
	link(dir("mid/link.yaml"), "app/policy.yaml")
	w := newWatched(t, dir("app/policy.yaml"))
	link("v2", "current")
	w.inForce(4 * time.Second)
	link("../current/sub/real.yaml", "mid/link.yaml")
	w.inForce(5 * time.Second)
	check(t, os.RemoveAll(dir("v2")))
	w.failed()
	check(t, os.Mkdir(dir("v2"), 0o700))
	check(t, os.Mkdir(dir("v2/sub"), 0o700))
	write(t, dir("v2/sub/real.yaml"), policyText(6*time.Second))
	w.inForce(6 * time.Second)
}

// A program may change its working directory after Watch.
func TestWatchRelativePath(t *testing.T) {
	root := t.TempDir()
	t.Chdir(root)
	check(t, os.Mkdir("etc", 0o700))
	write(t, "etc/policy.yaml", policyText(time.Second))
	w := newWatched(t, "etc/policy.yaml")
	if got := w.File(); got.Rules != nil || w.Stats().Succeeded != 1 {
		t.Errorf("got %+v, %+v", got, w.Stats())
	}
	t.Chdir("/")
	write(t, filepath.Join(root, "etc", "policy.yaml"), policyText(2*time.Second))
	w.inForce(2 * time.Second)
}

// What is in the place of the file may be a directory for a time.
func TestWatchFileBecomesDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, path, policyText(time.Second))
	w := newWatched(t, path)
	check(t, os.Remove(path))
	check(t, os.Mkdir(path, 0o700))
	if got := w.failed().Err.Error(); got != path+": is not a regular file" {
		t.Errorf("got %s", got)
	}
	check(t, os.Remove(path))
	write(t, path, policyText(2*time.Second))
	w.inForce(2 * time.Second)
}

// An error of Watch leaves nothing behind: main_test.go looks for goroutines.
func TestWatchErrors(t *testing.T) {
	root := t.TempDir()
	loop := filepath.Join(root, "loop")
	check(t, os.Symlink("loop", loop))
	for _, path := range []string{"", root, filepath.Join(root, "no", "such", "policy.yaml"), loop, "\x00"} {
		if w, err := Watch(path, WithLogger(slog.New(slog.DiscardHandler))); err == nil || w != nil {
			t.Errorf("%q: got %v, %v", path, w, err)
		}
	}
}

// Without notices the file is read twice a second.
func TestWatchBlind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, path, policyText(time.Second))
	g, err := breaker.NewGroup(breaker.Config{})
	check(t, err)
	w := &watched{t: t, path: path, group: g, reloads: make(chan Reload, 100)}
	w.Watcher = &Watcher{
		path: path, groups: []*breaker.Group{g}, logger: slog.New(slog.DiscardHandler), dirs: new(dirs),
		callback: func(r Reload) { w.reloads <- r }, read: func() ([]byte, error) { return read(path) },
	}
	check(t, w.first())
	w.Watcher.start(nil, nil)
	defer w.Close()
	w.write(path, policyText(2*time.Second))
	w.inForce(2 * time.Second)
}

// The directory of the file and that of its link's target are watched, also after they are replaced.
func TestDirs(t *testing.T) {
	root := t.TempDir()
	dir := func(name string) string { return filepath.Join(root, name) }
	for _, name := range []string{"app", "etc", "srv"} {
		check(t, os.Mkdir(dir(name), 0o700))
		write(t, dir(name+"/real.yaml"), "{}")
	}
	path := dir("app/policy.yaml")
	check(t, os.Symlink(dir("etc/real.yaml"), path))
	notify, err := fsnotify.NewWatcher()
	check(t, err)
	d := &dirs{notify: notify}
	defer d.close()
	update := func(why string, added, blind bool, want ...string) {
		t.Helper()
		if got := d.update(path); got != added || d.blind() != blind {
			t.Errorf("%s: added %v, blind %v, want %v, %v", why, got, d.blind(), added, blind)
		}
		got := notify.WatchList()
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: watched directories are %q, want %q", why, got, want)
		}
	}
	update("first", true, false, dir("app"), dir("etc"))
	update("no change", false, false, dir("app"), dir("etc"))
	check(t, os.Remove(path))
	check(t, os.Symlink(dir("srv/real.yaml"), path))
	update("another link", true, false, dir("app"), dir("srv"))
	check(t, os.RemoveAll(dir("srv")))
	update("no target", true, false, root, dir("app"))
	check(t, os.Rename(dir("app"), dir("old")))
	update("no directory", false, false, root)
	check(t, os.Mkdir(dir("app"), 0o700))
	update("another directory", true, false, dir("app"))
	check(t, os.Rename(dir("app"), dir("older")))
	check(t, os.Mkdir(dir("app"), 0o700))
	update("another directory in its place", true, false, dir("app"))
}
