package scratch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Restored are folders that are brought back to what they held, while nobody uses them:
// what is new goes, what was changed or removed comes back. Whoever begins to use them
// waits for that. The zero value has no folders.
type Restored struct {
	places  []*place
	folders *Folders

	mu        sync.Mutex
	restored  sync.Cond // of mu: restoring has become false
	restoring bool
	users     int
	dirty     bool
}

// Check says what is wrong with a list of folders to restore.
func Check(dirs []string) error {
	for i, dir := range dirs {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) == "/" {
			return fmt.Errorf("%q, give the absolute path of a folder other than /", dir)
		}
		if info, err := os.Stat(dir); err != nil {
			return fmt.Errorf("give a folder that is there: %w", err)
		} else if !info.IsDir() {
			return fmt.Errorf("%s is not a folder", dir)
		}
		for j, other := range dirs {
			if i != j && strings.HasPrefix(filepath.Clean(dir)+"/", filepath.Clean(other)+"/") {
				return fmt.Errorf("%s is in %s, give the latter alone", dir, other)
			}
		}
	}
	return nil
}

// NewRestored returns the folders with these paths. What is taken out of them is removed
// in the background of folders, whose own stay.
func NewRestored(dirs []string, folders *Folders) (*Restored, error) {
	r := &Restored{folders: folders}
	r.restored.L = &r.mu
	for _, dir := range dirs {
		// Mount points and the folders of workers are known by their real paths.
		dir, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return nil, err
		}
		r.places = append(r.places, &place{dir: dir})
	}
	return r, nil
}

// Recover restores what a program has kept that ended before this one, in the folders
// that still hold that.
func (r *Restored) Recover() error {
	return r.each(func(p *place) error {
		if found, err := p.load(); err != nil || !found {
			return err
		}
		return p.restore(r.folders)
	})
}

// Keep notes what the folders hold, with a copy of it.
func (r *Restored) Keep() error {
	return r.each(func(p *place) error { return p.keep(r.folders) })
}

func (r *Restored) each(do func(*place) error) error {
	var errs []error
	for _, p := range r.places {
		if err := do(p); err != nil {
			errs = append(errs, fmt.Errorf("scratch folder %s: %w", p.dir, err))
		}
	}
	return errors.Join(errs...)
}

// Enter says that somebody begins to use the folders, and waits while they are restored.
func (r *Restored) Enter() {
	if len(r.places) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users++
	for r.restoring {
		r.restored.Wait()
	}
	r.dirty = true
}

// Leave says that somebody who has entered is gone, with all processes.
func (r *Restored) Leave() {
	if len(r.places) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users--
}

// Restore restores the folders, if they have been used and nobody uses them.
func (r *Restored) Restore() error {
	if len(r.places) == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.restoring {
		r.restored.Wait()
	}
	if r.users > 0 || !r.dirty {
		return nil
	}
	r.restoring = true
	r.mu.Unlock()
	err := r.each(func(p *place) error { return p.restore(r.folders) })
	r.mu.Lock()
	r.restoring = false
	r.restored.Broadcast()
	r.dirty = err != nil
	return err
}
