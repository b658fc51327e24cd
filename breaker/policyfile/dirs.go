package policyfile

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fsnotify/fsnotify"
)

// dirs are the directories that are watched, as dirsOf returns them. The file itself is not watched, because editors
// replace it by another file.
type dirs struct {
	notify  *fsnotify.Watcher // nil if the system sends no notices
	watched map[string]os.FileInfo
	missing bool // a directory is not watched, so a notice may be missed
}

// maxLinks is how many symbolic links dirsOf follows. Linux follows 40.
const maxLinks = 64

// dirsOf returns the directories in which a change can make the absolute path lead to another file: the directory of
// the file, and the directories of all symbolic links on the path. If a part of the path is missing, the last directory
// is the one that it is missing from. The directories have no links in their paths, so each has one name only.
func dirsOf(path string) (dirs []string) {
	const separator = string(filepath.Separator)
	root := func(path string) (dir string, parts []string) {
		volume := filepath.VolumeName(path)
		return volume + separator, strings.Split(path[len(volume):], separator)
	}
	at, parts := root(filepath.Clean(path))
	for links := 0; len(parts) > 0; {
		part := parts[0]
		parts = parts[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, part)
		info, err := os.Lstat(next)
		if err != nil || links > maxLinks {
			return append(dirs, at)
		}
		if info.Mode()&os.ModeSymlink == 0 {
			if len(parts) == 0 || !info.IsDir() {
				return append(dirs, at)
			}
			at = next
			continue
		}
		links++
		dirs = append(dirs, at)
		target, err := os.Readlink(next)
		if err != nil {
			return dirs
		}
		target = filepath.Clean(target)
		var way []string
		if filepath.IsAbs(target) {
			at, way = root(target)
		} else {
			way = strings.Split(target, separator)
		}
		parts = append(way, parts...)
	}
	return dirs
}

// update watches the directories that the absolute path needs now, and reports whether it added one. It also adds a
// directory that was replaced by another one of the same name.
func (d *dirs) update(path string) (added bool) {
	if d.notify == nil {
		return false
	}
	needed := make(map[string]os.FileInfo)
	for _, dir := range dirsOf(path) {
		needed[dir] = nil
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
