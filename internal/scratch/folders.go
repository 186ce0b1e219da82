// Package scratch keeps what workers write apart, and removes it after them: a folder
// for each worker, and whole folders that are brought back to what they held.
package scratch

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// prefix begins the names of agents' folders, and hidden those of such that are being
// made.
const (
	prefix = "psock-agent-"
	hidden = ".psock-agent-"
	// marker is a file in each that is complete: a folder that only has such a name is
	// someone else's.
	marker = ".psock-agent"
	// idLength is that of the random rest, 65 bits: no two are the same, and the paths of
	// sockets in these folders, of which Linux takes 107 bytes, have room.
	idLength = 13
)

// named is what their names look like: rand.Text is RFC 4648's base32.
var named = regexp.MustCompile(fmt.Sprintf(`^\.?psock-agent-[A-Z2-7]{%d}$`, idLength))

// Folders are the private folders of one program's workers, in a folder of its own. That
// is locked (flock) as long as the program lives, however it ends; the same lock keeps
// systemd-tmpfiles from tidying it up.
type Folders struct {
	parent string
	report func(error)

	mu   sync.Mutex
	own  string   // "" before the first worker
	lock *os.File // own, open
	next int

	removing sync.WaitGroup
	turns    chan struct{} // who removes: large folders do not take all the disk's time
}

// NewFolders returns folders in parent, where nothing is made yet. What cannot be
// removed is reported.
func NewFolders(parent string, report func(error)) *Folders {
	return &Folders{parent: parent, report: report, turns: make(chan struct{}, 2)}
}

// Make makes a worker's folder. Its path is unique for all time.
func (f *Folders) Make() (Folder, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	folder, err := f.make()
	if errors.Is(err, fs.ErrNotExist) { // somebody has tidied up
		f.unlock()
		folder, err = f.make()
	}
	if err != nil {
		return "", fmt.Errorf("make a worker's folder of temporary files in %s: %w; make room there, or set TMPDIR to a folder that can be written to", f.parent, err)
	}
	return folder, nil
}

func (f *Folders) make() (Folder, error) {
	if f.own == "" {
		if err := f.open(); err != nil {
			return "", err
		}
	}
	f.next++
	folder := Folder(filepath.Join(f.own, fmt.Sprint(f.next)))
	for _, dir := range []string{string(folder), folder.Temporary(), folder.Library()} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return "", err
		}
	}
	return folder, nil
}

// open makes the program's own folder. It has its final name once it is locked, so that
// nobody takes it for one of a program that has ended.
func (f *Folders) open() error {
	name := rand.Text()[:idLength]
	dir := filepath.Join(f.parent, hidden+name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	lock, err := locked(dir)
	if err != nil {
		return errors.Join(err, os.Remove(dir))
	}
	own := filepath.Join(f.parent, prefix+name)
	err = os.WriteFile(filepath.Join(dir, marker), nil, 0o600)
	if err == nil {
		err = os.Rename(dir, own)
	}
	if err != nil {
		return errors.Join(err, lock.Close(), os.RemoveAll(dir))
	}
	f.own, f.lock = own, lock
	return nil
}

// locked opens and locks a folder, and fails with EWOULDBLOCK when somebody has.
func locked(dir string) (*os.File, error) {
	file, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), file.Close())
	}
	return file, nil
}

func (f *Folders) unlock() {
	if f.lock != nil {
		_ = f.lock.Close() // it was read, and has nothing to lose
	}
	f.own, f.lock = "", nil
}

// Discard removes a folder in the background.
func (f *Folders) Discard(folder Folder) {
	if folder == "" {
		return
	}
	f.background(func() error { return remove(string(folder)) })
}

func (f *Folders) background(work func() error) {
	f.removing.Go(func() {
		f.turns <- struct{}{}
		defer func() { <-f.turns }()
		if err := work(); err != nil {
			f.report(err)
		}
	})
}

// RemoveLeft removes the folders of programs of this user's that have ended without
// doing so, in the background. ended is called with the path of each before: it ends the
// workers' processes that are left.
func (f *Folders) RemoveLeft(ended func(dir string) error) {
	f.background(func() error {
		entries, err := os.ReadDir(f.parent)
		if err != nil {
			return err
		}
		var errs []error
		for _, entry := range entries {
			dir := filepath.Join(f.parent, entry.Name())
			if !strings.HasPrefix(entry.Name(), prefix) || !agents(dir) {
				continue
			}
			lock := abandoned(dir)
			if lock == nil {
				continue
			}
			errs = append(errs, ended(dir), removeAgents(dir), lock.Close())
		}
		return errors.Join(errs...)
	})
}

// agents reports whether dir is a folder that an agent has made, or is making.
func agents(dir string) bool {
	name := filepath.Base(dir)
	if !named.MatchString(name) {
		return false
	}
	if strings.HasPrefix(name, hidden) {
		return true
	}
	info, err := os.Lstat(filepath.Join(dir, marker))
	return err == nil && info.Mode().IsRegular()
}

// removeAgents removes an agent's folder, the marker last: what is interrupted goes on with
// the next agent.
func removeAgents(dir string) error {
	entries, _ := os.ReadDir(dir) // without the right to read it, remove takes all
	var errs []error
	for _, entry := range entries {
		if entry.Name() != marker {
			errs = append(errs, remove(filepath.Join(dir, entry.Name())))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return remove(dir)
}

// abandoned locks the folder of a program that has ended, nil if dir is anything else.
func abandoned(dir string) *os.File {
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
		return nil
	}
	lock, err := locked(dir)
	if err != nil {
		return nil
	}
	return lock
}

// Close waits up to limit for what is being removed, and removes the rest. What it does
// not get to is left for the next program.
func (f *Folders) Close(limit time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.removing.Wait()
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.own == "" {
			return
		}
		if err := removeAgents(f.own); err != nil {
			f.report(err)
		}
		f.unlock()
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// Folder is the path of one worker's folder.
type Folder string

// Temporary is for its temporary files.
func (f Folder) Temporary() string { return filepath.Join(string(f), "tmp") }

// Library is for R packages that its session installs.
func (f Folder) Library() string { return filepath.Join(string(f), "library") }

// remove removes a tree. A session may have taken the rights to its own folders away,
// which root does not need and other users give themselves back. What is mounted in the
// tree stays, and is an error.
func remove(dir string) error {
	points, err := mountPoints()
	if err != nil {
		return err
	}
	for point := range points {
		if point == dir || strings.HasPrefix(point, dir+"/") {
			return fmt.Errorf("remove %s: something is mounted at %s; unmount it", dir, point)
		}
	}
	if err := os.RemoveAll(dir); err == nil {
		return nil
	}
	root, err := os.OpenRoot(filepath.Dir(dir)) // follows no link out of it
	if err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	defer root.Close()
	unlock(root, filepath.Base(dir))
	return os.RemoveAll(dir)
}

// unlock takes the right to all folders of a tree back. RemoveAll says what is wrong.
func unlock(root *os.Root, dir string) {
	if info, err := root.Lstat(dir); err != nil || !info.IsDir() {
		return
	}
	_ = root.Chmod(dir, 0o700)
	names, _ := namesIn(root, dir)
	for _, name := range names {
		unlock(root, filepath.Join(dir, name))
	}
}

// namesIn are the names of what is in a folder of root. fs.ReadDir of its FS refuses those
// that are not UTF-8.
func namesIn(root *os.Root, dir string) ([]string, error) {
	file, err := root.Open(dir)
	if err != nil {
		return nil, err
	}
	names, err := file.Readdirnames(-1)
	return names, errors.Join(err, file.Close())
}
