package scratch

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// restore brings the folder back to what it held, but for what is living workers'. What is
// in the way is moved aside, which takes no time, however large it is, and removed in the
// background.
func (p *place) restore(folders *Folders, living map[string]bool) error {
	v, err := p.open(folders)
	if err != nil {
		return err
	}
	defer v.root.Close()
	v.living = living
	p.trash = 0
	if err := v.check(); err != nil {
		return err
	}
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

// check looks, before anything is moved, whether what has to be put back can be.
func (v *view) check() error {
	for path, h := range v.held {
		if !h.Mode.IsRegular() || v.living[path] {
			continue
		}
		if info, err := v.root.Lstat(path); err == nil && v.unchanged(path, info) {
			continue
		}
		saved := filepath.Join(copyDir, path)
		sum, err := v.sum(saved)
		if err == nil && sum != h.Sum {
			err = errOverwritten
		}
		if err != nil {
			return v.cannot(path, err)
		}
	}
	return nil
}

// errOverwritten: a session has found what is kept.
var errOverwritten = errors.New("its copy has been written to, too")

func (v *view) cannot(path string, err error) error {
	return fmt.Errorf("a session has removed or changed %s, which cannot be put back: %w; start this worker elsewhere (on Kubernetes, delete its pod)",
		filepath.Join(v.dir, path), err)
}

// unchanged reports whether something other than a folder is what the place held. Sockets
// and pipes are not looked into.
func (v *view) unchanged(path string, info fs.FileInfo) bool {
	h, known := v.held[path]
	if !known || info.Mode().Type() != h.Mode.Type() {
		return false
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		link, err := v.root.Readlink(path)
		return err == nil && link == h.Link
	}
	if !info.Mode().IsRegular() {
		return true
	}
	now := stampOf(info)
	if now == h.File {
		return true
	}
	// A chmod that leaves the rights as they are changes the time, too.
	if h.Sum == "" || info.Mode() != h.Mode || now.Size != h.File.Size || now.Links != h.File.Links {
		return false
	}
	if sum, err := v.sum(path); err != nil || sum != h.Sum {
		return false
	}
	h.File = now
	v.held[path] = h
	return true
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
		known = known && info.IsDir() && h.Mode.IsDir()
		switch {
		case info.IsDir() && (known || v.living[path]):
			// Its rights first: a session may have taken that of reading it away.
			if known && info.Mode() != h.Mode && !v.living[path] {
				if err := v.root.Chmod(path, h.Mode); err != nil {
					return err
				}
			}
			if err := v.clear(path); err != nil {
				return err
			}
		case v.living[path] || !info.IsDir() && v.unchanged(path, info):
		default:
			if err := v.discard(path); err != nil {
				return err
			}
		}
	}
	return nil
}

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
		if _, err := v.root.Lstat(path); err == nil || len(v.living) > 0 && errors.Is(err, unix.ENOTDIR) {
			continue // there, or below what a living worker has put in a folder's place
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
			return v.cannot(path, err)
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
	if err := v.root.Remove(newFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	sum, err := v.copy(filepath.Join(copyDir, path), newFile, h.Mode)
	if err == nil && sum != h.Sum {
		err = errOverwritten
	}
	if err != nil {
		return err
	}
	return v.root.Rename(newFile, path)
}

// copy copies a file and returns the sum of what it has copied.
func (v *view) copy(from, to string, mode fs.FileMode) (sum string, err error) {
	in, err := v.root.Open(from)
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := v.root.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	_, err = io.Copy(io.MultiWriter(out, hash), in)
	if err := errors.Join(err, out.Chmod(mode), out.Close()); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// sum is a file's SHA-256.
func (v *view) sum(path string) (string, error) {
	in, err := v.root.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe in its place: no waiting
	if err != nil {
		return "", err
	}
	defer in.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, in); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
