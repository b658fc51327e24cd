package policyfile

import (
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/fsnotify/fsnotify"
)

// dirs are the directories that are watched: the directory of the file and, if the file is a symbolic link, the
// directory of its target. The file itself is not watched, because editors replace it by another file.
type dirs struct {
	notify  *fsnotify.Watcher // nil if the system sends no notices
	watched map[string]os.FileInfo
	missing bool // a directory is not watched, so a notice may be missed
}

// update watches the directories that path needs now, and reports whether it added one. It also adds a directory that
// was replaced by another one of the same name.
func (d *dirs) update(path string) (added bool) {
	if d.notify == nil {
		return false
	}
	needed := map[string]os.FileInfo{filepath.Dir(path): nil}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		needed[filepath.Dir(target)] = nil
	}
	d.missing = false
	// A directory that was removed is no longer in this list. os.SameFile alone is not enough, because a new directory may
	// have the same inode.
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

// joinClose closes d after err has occurred, and joins the errors.
func joinClose(err error, d *dirs) error { return errors.Join(err, d.close()) }
