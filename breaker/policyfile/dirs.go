package policyfile

import (
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/fsnotify/fsnotify"
)

// dirs are the directories that are watched: that of the file, and that of the file that a symbolic link leads to. The
// file itself is not watched: a file that is replaced is another file.
type dirs struct {
	notify  *fsnotify.Watcher // nil if the system gives no notices
	watched map[string]os.FileInfo
	missing bool // a directory is not watched, so a notice may be missed
}

// update watches the directories that path needs now, and reports whether one was added. A directory that was replaced
// by another one of the same name is added again.
func (d *dirs) update(path string) (added bool) {
	if d.notify == nil {
		return false
	}
	needed := map[string]os.FileInfo{filepath.Dir(path): nil}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		needed[filepath.Dir(target)] = nil
	}
	d.missing = false
	// A directory that was removed is no longer in this list. Another one may have its inode, and os.SameFile is true.
	still := d.notify.WatchList()
	for dir := range needed {
		info, err := os.Stat(dir)
		if err == nil && slices.Contains(still, dir) && os.SameFile(info, d.watched[dir]) {
			needed[dir] = info
			continue
		}
		if slices.Contains(still, dir) {
			_ = d.notify.Remove(dir) // which fails if the directory is gone
		}
		if err != nil || d.notify.Add(dir) != nil {
			delete(needed, dir)
			d.missing = true
			continue
		}
		needed[dir], added = info, true
	}
	for dir := range d.watched {
		if _, ok := needed[dir]; !ok {
			_ = d.notify.Remove(dir)
		}
	}
	d.watched = needed
	return added
}

// blind reports whether notices may be missed.
func (d *dirs) blind() bool { return d.notify == nil || d.missing }

func (d *dirs) close() error {
	if d.notify == nil {
		return nil
	}
	return d.notify.Close()
}

// joinClose closes d because of err.
func joinClose(err error, d *dirs) error { return errors.Join(err, d.close()) }
