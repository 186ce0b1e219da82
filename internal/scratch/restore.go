package scratch

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// restore brings the folder back to what it held. What is in the way is moved aside, which
// takes no time, however large it is, and removed in the background.
func (p *place) restore(folders *Folders) error {
	v, err := p.open(folders)
	if err != nil {
		return err
	}
	defer v.root.Close()
	p.trash = 0
	if err := v.clear("."); err != nil {
		return err
	}
	if err := v.putBack(); err != nil {
		return err
	}
	if p.trash > 0 {
		return v.empty()
	}
	return nil
}

// clear moves everything out of a folder that it did not hold, or that is not what it was.
func (v *view) clear(dir string) error {
	entries, err := v.read(dir)
	if err != nil {
		return err
	}
	for _, path := range entries {
		info, err := v.root.Lstat(path)
		if err != nil {
			return err
		}
		h, known := v.held[path]
		switch {
		case known && info.IsDir() && h.Mode.IsDir():
			// Its rights first: a session may have taken that of reading it away.
			if info.Mode() != h.Mode {
				if err := v.root.Chmod(path, h.Mode); err != nil {
					return err
				}
			}
			if err := v.clear(path); err != nil {
				return err
			}
		case known && info.Mode().Type() == h.Mode.Type() && (!copied(h.Mode) || stampOf(info) == h.File):
			// As it was. Sockets and pipes are not looked into.
		default:
			if err := v.discard(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// copied reports whether a file or link can be put back.
func copied(mode fs.FileMode) bool { return mode.IsRegular() || mode&fs.ModeSymlink != 0 }

// discard moves path to the trash.
func (v *view) discard(path string) error {
	if err := v.root.MkdirAll(trashDir, 0o700); err != nil {
		return err
	}
	for {
		v.trash++
		target := filepath.Join(trashDir, fmt.Sprint(v.trash))
		if _, err := v.root.Lstat(target); err == nil {
			continue // of the last time, and being removed
		}
		err := v.root.Rename(path, target)
		if errors.Is(err, fs.ErrPermission) {
			// The rights to a folder's parents are those that it had: it is the folder
			// itself that cannot be moved without the right to write to it.
			if err := v.root.Chmod(path, 0o700); err != nil {
				return err
			}
			err = v.root.Rename(path, target)
		}
		return err
	}
}

// empty has the trash removed, under a name that is not used again.
func (v *view) empty() error {
	dir, err := os.MkdirTemp(filepath.Join(v.dir, stateDir), "old-")
	if err != nil {
		return err
	}
	if err := v.root.Rename(trashDir, filepath.Join(stateDir, filepath.Base(dir), "trash")); err != nil {
		return err
	}
	v.folders.background(func() error { return remove(dir) })
	return nil
}

// putBack puts back what is missing: folders before what is in them.
func (v *view) putBack() (err error) {
	paths := make([]string, 0, len(v.held))
	for path := range v.held {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	// Their rights come last: some forbid to put anything into them.
	var made []string
	defer func() {
		for _, path := range slices.Backward(made) {
			err = errors.Join(err, v.root.Chmod(path, v.held[path].Mode))
		}
	}()
	for _, path := range paths {
		if _, err := v.root.Lstat(path); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		h := v.held[path]
		err := error(nil)
		switch {
		case h.Mode.IsDir():
			err = v.root.Mkdir(path, 0o700)
			made = append(made, path)
		case h.Mode.IsRegular():
			err = v.putBackFile(path, h)
		case h.Mode&fs.ModeSymlink != 0:
			err = v.root.Symlink(h.Link, path)
		}
		if err != nil {
			return fmt.Errorf("a session has removed or changed %s, which cannot be put back: %w; start this worker elsewhere (on Kubernetes, delete its pod)",
				filepath.Join(v.dir, path), err)
		}
		if info, err := v.root.Lstat(path); err == nil {
			h.File = stampOf(info)
			v.held[path] = h
		}
	}
	return nil
}

// putBackFile puts a file's copy back, unless somebody has written to that.
func (v *view) putBackFile(path string, h held) error {
	saved := filepath.Join(copyDir, path)
	info, err := v.root.Lstat(saved)
	if err != nil {
		return err
	}
	if stampOf(info) != h.Copy {
		return errors.New("its copy has been written to, too")
	}
	_, err = v.copy(saved, path, h.Mode)
	return err
}

// copy copies a file.
func (v *view) copy(from, to string, mode fs.FileMode) (stamp, error) {
	in, err := v.root.Open(from)
	if err != nil {
		return stamp{}, err
	}
	defer in.Close()
	out, err := v.root.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return stamp{}, err
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Chmod(mode), out.Close()); err != nil {
		return stamp{}, err
	}
	info, err := v.root.Lstat(to)
	if err != nil {
		return stamp{}, err
	}
	return stampOf(info), nil
}
