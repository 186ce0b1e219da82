package scratch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// What a restored folder has of ours: a folder with the list of what it held, copies of
// that, and what is on its way out. It is there and not in a folder of the program's, so
// that it lives as long as the volume that it is about.
const (
	stateDir = ".psock-scratch"
	listFile = stateDir + "/list.json"
	copyDir  = stateDir + "/copy"
	trashDir = stateDir + "/trash"
	// usedFile is there from the first use of the folder until that is restored. Without
	// it, what has changed since is someone's who has looked after the folder between two
	// runs of the program.
	usedFile = stateDir + "/used"
	// lockFile is locked (flock) as long as the program lives, however it ends.
	lockFile = stateDir + "/lock"
	// newFile is a file that is being put back.
	newFile = stateDir + "/new"
)

// stamp tells whether a file may have been written to: nobody but root can set the time of
// its last change back.
type stamp struct {
	Inode, Links uint64
	Size         int64
	Change       syscall.Timespec
}

// held is a file, link or folder that was there.
type held struct {
	Mode fs.FileMode
	File stamp  // of a file
	Sum  string // SHA-256 of a file that could be copied
	Link string // where a link leads
}

// place is one folder that is restored. All paths within are relative to it.
type place struct {
	dir   string
	lock  *os.File
	held  map[string]held
	trash int // entries that have been moved there
}

// view is a look at a place, for as long as something is done with it.
type view struct {
	*place
	root    *os.Root
	mounts  map[string]bool
	folders *Folders
	living  map[string]bool // what is a living worker's, and the folders on the way to that
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

// take locks the place.
func (p *place) take() error {
	root, err := os.OpenRoot(p.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for {
		if err := root.MkdirAll(stateDir, 0o700); err != nil {
			return err
		}
		file, err := root.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			continue // another program that ends has removed the folder meanwhile
		}
		if err != nil {
			return err
		}
		if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			if errors.Is(err, unix.EWOULDBLOCK) {
				err = fmt.Errorf("another agent restores it (%s is locked); give each agent a folder of its own", filepath.Join(p.dir, lockFile))
			}
			return errors.Join(err, file.Close())
		}
		// That other program may have removed the file that is locked now.
		ours, err := file.Stat()
		if err != nil {
			return errors.Join(err, file.Close())
		}
		if there, err := root.Lstat(lockFile); err == nil && os.SameFile(ours, there) {
			p.lock = file
			return nil
		}
		_ = file.Close() // it was not written to
	}
}

// finish removes what is ours, unless the place has yet to be restored, and ends the lock.
func (p *place) finish() error {
	defer p.lock.Close()
	root, err := os.OpenRoot(p.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := root.Lstat(usedFile); err == nil {
		return nil
	}
	if err := p.forget(); err != nil {
		return err
	}
	if err := root.Remove(lockFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err = root.Remove(stateDir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) { // of the next program
		return nil
	}
	return err
}

// forget removes all that is ours but the lock, the mark last.
func (p *place) forget() error {
	root, err := os.OpenRoot(p.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	names, err := namesIn(root, stateDir)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if name := filepath.Join(stateDir, name); name != lockFile && name != usedFile {
			errs = append(errs, remove(filepath.Join(p.dir, name)))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return p.unmark()
}

// mark says that the place may differ from what it held.
func (p *place) mark() error {
	root, err := os.OpenRoot(p.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return root.WriteFile(usedFile, nil, 0o600)
}

func (p *place) unmark() error {
	root, err := os.OpenRoot(p.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Remove(usedFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// recover restores what another program has kept and left in use.
func (p *place) recover(folders *Folders) error {
	root, err := os.OpenRoot(p.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := root.Lstat(usedFile); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	text, err := root.ReadFile(listFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if p.held, err = decode(text); err != nil {
		return fmt.Errorf("what it held is not known any more: %w", err)
	}
	if err := p.restore(folders, nil); err != nil {
		return err
	}
	return p.unmark()
}

// encode makes the list's text. Names need not be UTF-8, which JSON is.
func encode(all map[string]held) ([]byte, error) {
	quoted := make(map[string]held, len(all))
	for path, h := range all {
		h.Link = strconv.Quote(h.Link)
		quoted[strconv.Quote(path)] = h
	}
	return json.Marshal(quoted)
}

func decode(text []byte) (map[string]held, error) {
	var quoted map[string]held
	if err := json.Unmarshal(text, &quoted); err != nil {
		return nil, err
	}
	all := make(map[string]held, len(quoted))
	for name, h := range quoted {
		path, err := strconv.Unquote(name)
		if err == nil {
			h.Link, err = strconv.Unquote(h.Link)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all[path] = h
	}
	return all, nil
}

// spared reports whether path is not the place's to keep or to remove: another volume, a
// program's own folder of workers, and what is kept here.
func (v *view) spared(path string) bool {
	full := filepath.Join(v.dir, path)
	if path == stateDir || v.mounts[full] {
		return true
	}
	if !strings.Contains(filepath.Base(path), prefix) || !agents(full) {
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
	if err := p.forget(); err != nil {
		return err
	}
	if err := v.root.MkdirAll(copyDir, 0o700); err != nil {
		return err
	}
	p.held = make(map[string]held)
	if err := v.keepDir("."); err != nil {
		return err
	}
	text, err := encode(p.held)
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
	names, err := namesIn(v.root, dir)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return nil, err
	}
	for _, name := range names {
		if path := filepath.Join(dir, name); !v.spared(path) {
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
			h.Sum, err = v.copy(path, filepath.Join(copyDir, path), 0o600)
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

// changes are what the place has that it did not hold, or that is not what it was.
func (p *place) changes(folders *Folders) (map[string]stamp, error) {
	v, err := p.open(folders)
	if err != nil {
		return nil, err
	}
	defer v.root.Close()
	found := make(map[string]stamp)
	return found, v.addChanges(found, ".")
}

func (v *view) addChanges(found map[string]stamp, dir string) error {
	paths, err := v.read(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, path := range paths {
		info, err := v.root.Lstat(path)
		if err != nil {
			continue // others use the folder: it has gone
		}
		h, known := v.held[path]
		now := stampOf(info)
		if info.IsDir() {
			now = stamp{Inode: now.Inode} // the rest changes with what is in it
			if err := v.addChanges(found, path); err != nil {
				return err
			}
		}
		if known && info.Mode() == h.Mode && (info.IsDir() || now == h.File) {
			continue
		}
		found[path] = now
	}
	return nil
}

func stampOf(info fs.FileInfo) stamp {
	stat := info.Sys().(*syscall.Stat_t)
	return stamp{Inode: stat.Ino, Links: uint64(stat.Nlink), Size: stat.Size, Change: stat.Ctim}
}
