package scratch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Restored are folders that are brought back to what they held, while no session uses them:
// what is new goes, what was changed or removed comes back. Who begins to use them waits for
// that. What a living worker has made while it started stays until it ends. The zero value
// has no folders.
type Restored struct {
	places  []*place
	folders *Folders
	several bool

	mu        sync.Mutex
	restored  sync.Cond // of mu: restoring has become false
	restoring bool
	users     map[*User]bool
	dirty     bool // what has been used is not restored; each place has its usedFile
}

// User is a worker, from before its start until it and all its processes have ended.
type User struct {
	r      *Restored
	before []map[string]stamp // the places' changes when it began to start

	// Guarded by r.mu.
	starting, used bool
	made           []map[string]bool // by place: what it has made since, and the folders on the way to that
}

// Resolve returns the real paths of folders to restore, or says what is wrong with the
// list. Mount points and the folders of workers are known by their real paths.
func Resolve(dirs []string) (real []string, err error) {
	for _, dir := range dirs {
		if !filepath.IsAbs(dir) {
			return nil, fmt.Errorf("%q, give the absolute path of a folder", dir)
		}
		path, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return nil, fmt.Errorf("give a folder that is there: %w", err)
		}
		if path == "/" {
			return nil, fmt.Errorf("%q is /, give another folder", dir)
		}
		if info, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("give a folder that is there: %w", err)
		} else if !info.IsDir() {
			return nil, fmt.Errorf("%s is not a folder", dir)
		}
		real = append(real, path)
	}
	for i, path := range real {
		for j, other := range real {
			if i != j && strings.HasPrefix(path+"/", other+"/") {
				return nil, fmt.Errorf("%s is in %s, give the latter alone", dirs[i], dirs[j])
			}
		}
	}
	return real, nil
}

// NewRestored returns the folders with these paths, as Resolve returns them, locked until
// Close. several says that workers start and live beside each other. What is taken out of the
// folders is removed in the background of folders, whose own stay.
func NewRestored(dirs []string, several bool, folders *Folders) (*Restored, error) {
	r := &Restored{folders: folders, several: several, users: make(map[*User]bool)}
	r.restored.L = &r.mu
	for _, dir := range dirs {
		r.places = append(r.places, &place{dir: dir})
	}
	for i, p := range r.places {
		if err := p.take(); err != nil {
			for _, taken := range r.places[:i] {
				_ = taken.lock.Close()
			}
			return nil, fmt.Errorf("scratch folder %s: %w", p.dir, err)
		}
	}
	return r, nil
}

// Recover restores what a program that ended before this one has kept, in the folders that
// it has not restored after their use.
func (r *Restored) Recover() error {
	return r.each(func(_ int, p *place) error { return p.recover(r.folders) })
}

// Keep notes what the folders hold, with a copy of it.
func (r *Restored) Keep() error {
	return r.each(func(_ int, p *place) error { return p.keep(r.folders) })
}

func (r *Restored) each(do func(int, *place) error) error {
	var errs []error
	for i, p := range r.places {
		if err := do(i, p); err != nil {
			errs = append(errs, fmt.Errorf("scratch folder %s: %w", p.dir, err))
		}
	}
	return errors.Join(errs...)
}

// Start says that a worker is about to start, and waits while the folders are restored.
func (r *Restored) Start() (*User, error) {
	u := &User{r: r, starting: true}
	if len(r.places) == 0 {
		return u, nil
	}
	r.mu.Lock()
	r.await()
	r.users[u] = true
	r.mu.Unlock()
	var err error
	if u.before, err = r.changes(); err != nil {
		return nil, errors.Join(err, u.Leave())
	}
	return u, nil
}

// changes are those of each place, where another worker may need what this one has not
// made.
func (r *Restored) changes() (all []map[string]stamp, err error) {
	if !r.several {
		return nil, nil
	}
	err = r.each(func(_ int, p *place) error {
		found, err := p.changes(r.folders)
		all = append(all, found)
		return err
	})
	return all, err
}

// Warm says that the worker has started: until it is used, it makes nothing more. Then the
// folders are restored, if that had to wait for it.
func (u *User) Warm() error {
	r := u.r
	if len(r.places) == 0 {
		return nil
	}
	after, err := r.changes()
	if err != nil {
		return err
	}
	made := make([]map[string]bool, len(after))
	for i := range after {
		made[i] = make(map[string]bool)
		for path, now := range after[i] {
			if before, there := u.before[i][path]; there && before == now {
				continue
			}
			for ; path != "."; path = filepath.Dir(path) {
				made[i][path] = true
			}
		}
	}
	r.mu.Lock()
	u.starting, u.made, u.before = false, made, nil
	r.mu.Unlock()
	return r.Restore()
}

// Use says that a session begins to use the worker, and waits while the folders are
// restored. An error says that the next program will not restore them if this one is killed.
func (u *User) Use() error {
	r := u.r
	if len(r.places) == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.await()
	u.used = true
	return r.soil()
}

// Leave says that the worker is gone, with all its processes. An error is Use's.
func (u *User) Leave() error {
	r := u.r
	if len(r.places) == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.await()
	delete(r.users, u)
	return r.soil()
}

// await waits until nothing is restored. Called with the lock held.
func (r *Restored) await() {
	for r.restoring {
		r.restored.Wait()
	}
}

// soil notes that the folders have to be restored. Called with the lock held.
func (r *Restored) soil() error {
	if r.dirty {
		return nil
	}
	r.dirty = true
	return r.each(func(_ int, p *place) error { return p.mark() })
}

// Restore restores the folders if they have been used, no session uses them, and no worker
// starts.
func (r *Restored) Restore() error {
	if len(r.places) == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.await()
	if !r.dirty {
		return nil
	}
	living := make([]map[string]bool, len(r.places))
	spares := false
	for u := range r.users {
		if u.starting || u.used {
			return nil
		}
		for i, made := range u.made {
			if living[i] == nil {
				living[i] = make(map[string]bool)
			}
			for path := range made {
				living[i][path], spares = true, true
			}
		}
	}
	r.restoring = true
	r.mu.Unlock()
	err := r.each(func(i int, p *place) error { return p.restore(r.folders, living[i]) })
	if err == nil && !spares {
		err = r.each(func(_ int, p *place) error { return p.unmark() })
	}
	r.mu.Lock()
	r.restoring = false
	r.restored.Broadcast()
	r.dirty = err != nil || spares
	return err
}

// Close restores the folders after the last worker, and has what is kept of them removed in
// the background. Of one that could not be restored it stays, for the next program.
func (r *Restored) Close() error {
	err := r.Restore()
	for _, p := range r.places {
		r.folders.background(p.finish)
	}
	return err
}
