package scratch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// What a restored folder has of ours: a folder with the list of what it held, copies of
// that, and what is on its way out. It is there and not in a folder of the program's, so
// that it lives as long as the volume that it is about.
const (
	stateDir = ".psock-scratch"
	listFile = stateDir + "/list.json"
	copyDir  = stateDir + "/copy"
	trashDir = stateDir + "/trash"
)

// stamp tells whether a file has been written to: nobody but root can set the time of its
// last change back.
type stamp struct {
	Inode  uint64
	Size   int64
	Change syscall.Timespec
}

// held is a file, link or folder that was there.
type held struct {
	Mode fs.FileMode
	File stamp  // of a file or link
	Copy stamp  // of a file's copy
	Link string // where a link leads
}

// place is one folder that is restored. All paths within are relative to it.
type place struct {
	dir   string
	held  map[string]held
	trash int // entries that have been moved there
}

// view is a look at a place, for as long as something is done with it.
type view struct {
	*place
	root    *os.Root
	mounts  map[string]bool
	folders *Folders
}

func (p *place) open(folders *Folders) (*view, error) {
	mounts, err := mountPoints()
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(p.dir)
	if err != nil {
		return nil, err
	}
	return &view{place: p, root: root, mounts: mounts, folders: folders}, nil
}

// load reads the list that was kept.
func (p *place) load() (found bool, err error) {
	text, err := os.ReadFile(filepath.Join(p.dir, listFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	p.held = nil
	if err := json.Unmarshal(text, &p.held); err != nil {
		return false, fmt.Errorf("what it held is not known any more: %w", err)
	}
	return true, nil
}

// spared reports whether path is not the place's to keep or to remove: another volume, a
// program's own folder of workers, and what is kept here.
func (v *view) spared(path string) bool {
	full := filepath.Join(v.dir, path)
	if path == stateDir || v.mounts[full] {
		return true
	}
	name := filepath.Base(path)
	if !strings.HasPrefix(name, prefix) && !strings.HasPrefix(name, hidden) {
		return false
	}
	// One that nobody has locked a session has made, or a program left that has ended.
	lock, err := locked(full)
	if err == nil {
		_ = lock.Close()
	}
	return err != nil && errors.Is(err, syscall.EWOULDBLOCK)
}

// keep makes the list and the copies.
func (p *place) keep(folders *Folders) error {
	v, err := p.open(folders)
	if err != nil {
		return err
	}
	defer v.root.Close()
	if err := remove(filepath.Join(p.dir, stateDir)); err != nil {
		return err
	}
	if err := v.root.MkdirAll(copyDir, 0o700); err != nil {
		return err
	}
	p.held = make(map[string]held)
	if err := v.keepDir("."); err != nil {
		return err
	}
	text, err := json.Marshal(p.held)
	if err != nil {
		return err
	}
	if err := v.root.WriteFile(listFile+".new", text, 0o600); err != nil {
		return err
	}
	return v.root.Rename(listFile+".new", listFile)
}

// read returns the paths of what is in a folder and is the place's. One that may not be
// read has nothing: no session can look into it either.
func (v *view) read(dir string) (paths []string, err error) {
	entries, err := fs.ReadDir(v.root.FS(), dir)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return nil, err
	}
	for _, entry := range entries {
		if path := filepath.Join(dir, entry.Name()); !v.spared(path) {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

func (v *view) keepDir(dir string) error {
	paths, err := v.read(dir)
	if err != nil {
		return err
	}
	for _, path := range paths {
		info, err := v.root.Lstat(path)
		if err != nil {
			return err
		}
		h := held{Mode: info.Mode(), File: stampOf(info)}
		switch {
		case info.IsDir():
			if err := errors.Join(v.root.Mkdir(filepath.Join(copyDir, path), 0o700), v.keepDir(path)); err != nil {
				return err
			}
		case info.Mode().IsRegular():
			h.Copy, err = v.copy(path, filepath.Join(copyDir, path), 0o600)
			if err != nil && !errors.Is(err, fs.ErrPermission) { // see read
				return err
			}
		case info.Mode()&fs.ModeSymlink != 0:
			if h.Link, err = v.root.Readlink(path); err != nil {
				return err
			}
		}
		v.held[path] = h
	}
	return nil
}

func stampOf(info fs.FileInfo) stamp {
	stat := info.Sys().(*syscall.Stat_t)
	return stamp{Inode: stat.Ino, Size: stat.Size, Change: stat.Ctim}
}
