package scratch

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what must happen, on a slow machine.
const patience = 30 * time.Second

func newFolders(t *testing.T, parent string) *Folders {
	t.Helper()
	f := NewFolders(parent, func(err error) { t.Error(err) })
	t.Cleanup(func() { f.Close(patience) })
	return f
}

// keep returns one folder that is restored, of a program with several slots.
func keep(t *testing.T, dir string, folders *Folders) *Restored {
	t.Helper()
	r, err := NewRestored([]string{dir}, true, folders)
	do(t, err, r.Keep())
	t.Cleanup(func() { _ = r.places[0].lock.Close() }) // a test may have
	return r
}

// warm is a worker that has started.
func warm(t *testing.T, r *Restored) *User {
	t.Helper()
	u, err := r.Start()
	do(t, err, u.Warm())
	return u
}

// use is one that a session uses.
func use(t *testing.T, r *Restored) *User {
	t.Helper()
	u := warm(t, r)
	do(t, u.Use())
	return u
}

// afterCrash is the next program, after that of r was killed.
func afterCrash(t *testing.T, r *Restored) *Restored {
	t.Helper()
	do(t, r.places[0].lock.Close())
	next, err := NewRestored([]string{r.places[0].dir}, true, r.folders)
	do(t, err)
	t.Cleanup(func() { _ = next.places[0].lock.Close() })
	return next
}

func do(t *testing.T, steps ...error) {
	t.Helper()
	if err := errors.Join(steps...); err != nil {
		t.Fatal(err)
	}
}

// tree is what a folder holds, apart from what is kept there.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name := strings.TrimPrefix(path, dir+"/")
		if name == stateDir {
			return fs.SkipDir
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		text := name + " " + info.Mode().String()
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += " " + string(content)
		} else if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " " + target
		}
		found = append(found, text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(found)
	return found
}

// furnished returns a folder with something of each kind in it.
func furnished(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	do(t,
		os.MkdirAll(filepath.Join(dir, "lib/pkg/R"), 0o755),
		os.WriteFile(filepath.Join(dir, "lib/pkg/DESCRIPTION"), []byte("one"), 0o644),
		os.WriteFile(filepath.Join(dir, "lib/pkg/R/code"), []byte("two"), 0o755),
		os.WriteFile(filepath.Join(dir, ".bashrc"), []byte("three"), 0o600),
		os.Mkdir(filepath.Join(dir, "caf\xe9"), 0o700),
		os.WriteFile(filepath.Join(dir, "caf\xe9/m\xfcll"), []byte("five"), 0o600),
		os.Symlink("caf\xe9", filepath.Join(dir, "l\xefen")),
		os.Symlink("lib/pkg", filepath.Join(dir, "link")),
		os.Mkdir(filepath.Join(dir, "empty"), 0o700),
		os.Mkdir(filepath.Join(dir, "readonly"), 0o700),
		os.WriteFile(filepath.Join(dir, "readonly/file"), []byte("four"), 0o400),
		os.Chmod(filepath.Join(dir, "readonly"), 0o500),
		unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600),
	)
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "readonly"), 0o700) })
	return dir
}

// mess is what sessions do to a folder.
var mess = map[string]func(dir string) error{
	"new files": func(dir string) error {
		return errors.Join(os.MkdirAll(filepath.Join(dir, "new/deep/er"), 0o755),
			os.WriteFile(filepath.Join(dir, "new/deep/er/file"), nil, 0o644),
			os.WriteFile(filepath.Join(dir, ".Rprofile"), []byte("stop()"), 0o644),
			os.WriteFile(filepath.Join(dir, "lib/pkg/R/more"), nil, 0o644))
	},
	"a locked folder": func(dir string) error {
		return errors.Join(os.MkdirAll(filepath.Join(dir, "new/locked/x"), 0o755), os.Chmod(filepath.Join(dir, "new/locked"), 0), os.Chmod(filepath.Join(dir, "new"), 0))
	},
	"written in place": func(dir string) error {
		name := filepath.Join(dir, "lib/pkg/DESCRIPTION")
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		// The same size, and the time of before.
		return errors.Join(os.WriteFile(name, []byte("ONE"), 0o644), os.Chtimes(name, info.ModTime(), info.ModTime()))
	},
	"other rights": func(dir string) error {
		return errors.Join(os.Chmod(filepath.Join(dir, ".bashrc"), 0o777), os.Chmod(filepath.Join(dir, "lib"), 0))
	},
	"all removed": func(dir string) error {
		entries, err := os.ReadDir(dir)
		for _, entry := range entries {
			if entry.Name() != stateDir && entry.Name() != "pipe" {
				err = errors.Join(err, remove(filepath.Join(dir, entry.Name())))
			}
		}
		return err
	},
	"another kind": func(dir string) error {
		return errors.Join(os.Remove(filepath.Join(dir, "link")), os.Mkdir(filepath.Join(dir, "link"), 0o755),
			os.Remove(filepath.Join(dir, "empty")), os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600),
			os.RemoveAll(filepath.Join(dir, "lib")), os.Symlink("/", filepath.Join(dir, "lib")))
	},
	"the same rights again": func(dir string) error {
		// As chmod -R does, of what is kept, too.
		return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.Type()&fs.ModeSymlink != 0 {
				return err
			}
			info, err := entry.Info()
			return errors.Join(err, os.Chmod(path, info.Mode()))
		})
	},
	"a name that is not UTF-8": func(dir string) error {
		return errors.Join(os.WriteFile(filepath.Join(dir, "new\xff"), nil, 0o600), os.MkdirAll(filepath.Join(dir, "lo\xe9/cked"), 0o700),
			os.Remove(filepath.Join(dir, "caf\xe9/m\xfcll")), os.Chmod(filepath.Join(dir, "lo\xe9/cked"), 0))
	},
	"nothing": func(string) error { return nil },
}

func TestRestoreUndoesAnyMess(t *testing.T) {
	for name, change := range mess {
		t.Run(name, func(t *testing.T) {
			dir := furnished(t)
			want := tree(t, dir)
			folders := newFolders(t, t.TempDir())
			r := keep(t, dir, folders)
			for range 3 {
				u := use(t, r)
				do(t, change(dir), u.Leave(), r.Restore())
				if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
					t.Fatalf("-before +after:\n%s", diff)
				}
			}
			// A program that ends without restoring: the next one does.
			use(t, r)
			do(t, change(dir))
			next := afterCrash(t, r)
			do(t, next.Recover(), next.Keep())
			if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
				t.Fatalf("-before +after the next program's start:\n%s", diff)
			}
			folders.removing.Wait()
			if trash, _ := filepath.Glob(filepath.Join(dir, stateDir, "old-*")); len(trash) > 0 {
				t.Errorf("%v has not been removed", trash)
			}
		})
	}
}

// Nothing is restored while somebody uses the folders, nor before.
func TestRestoreWaitsForUsers(t *testing.T) {
	dir := t.TempDir()
	r := keep(t, dir, newFolders(t, t.TempDir()))
	file := filepath.Join(dir, "file")
	do(t, os.WriteFile(file, nil, 0o600), r.Restore())
	one, two := use(t, r), use(t, r)
	do(t, one.Leave(), r.Restore())
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	do(t, two.Leave(), r.Restore())
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want the file to be gone", err)
	}
}

// What cannot be put back is an error that says what and why, and not a guess.
func TestCannotRestore(t *testing.T) {
	dir := furnished(t)
	r := keep(t, dir, newFolders(t, t.TempDir()))
	u := use(t, r)
	do(t, os.WriteFile(filepath.Join(dir, ".bashrc"), []byte("mine"), 0o600), os.Symlink("x", filepath.Join(dir, "new")),
		os.WriteFile(filepath.Join(dir, copyDir, ".bashrc"), []byte("evil!"), 0o600), u.Leave())
	before := tree(t, dir)
	defer func() {
		if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
			t.Errorf("something was moved before all copies were looked at:\n%s", diff)
		}
	}()
	if err := r.Restore(); err == nil || !strings.Contains(err.Error(), ".bashrc") || !strings.Contains(err.Error(), "delete its pod") {
		t.Errorf("got %v", err)
	}
}

// Other volumes, and folders of workers that live, are left alone wherever they are.
func TestRestoreSparesOthers(t *testing.T) {
	dir, volume := t.TempDir(), t.TempDir()
	point := filepath.Join(dir, "shared")
	do(t, os.Mkdir(point, 0o755))
	if err := unix.Mount(volume, point, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("this test needs the right to mount: %v", err)
	}
	t.Cleanup(func() { do(t, unix.Unmount(point, 0)) })
	folders := newFolders(t, dir)
	r := keep(t, dir, folders)
	folder, err := folders.Make()
	dead := filepath.Join(dir, prefix+"DEAD")
	do(t, err, os.Mkdir(dead, 0o700))
	// Nor is it an agent's because somebody has locked it.
	lock, err := locked(dead)
	do(t, err)
	defer lock.Close()
	u := use(t, r)
	do(t, os.WriteFile(filepath.Join(point, "result"), nil, 0o600), os.WriteFile(filepath.Join(folder.Temporary(), "file"), nil, 0o600))
	do(t, u.Leave(), r.Restore())
	for _, path := range []string{filepath.Join(volume, "result"), filepath.Join(folder.Temporary(), "file"), folder.Library()} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(dead); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s, which is no agent's, is still there", dead)
	}
	// Nor is it removed, where it is found in something else's way.
	if err := remove(dir); err == nil || !strings.Contains(err.Error(), point) {
		t.Errorf("remove: got %v, want the mount point named", err)
	}
}

// Folders go when their worker has ended, and all with the program; those of one that was
// killed go with the next one's start, those of one that lives stay.
func TestFolders(t *testing.T) {
	parent := t.TempDir()
	living, killed := newFolders(t, parent), NewFolders(parent, nil)
	one, err := living.Make()
	do(t, err)
	two, err := killed.Make()
	do(t, err)
	locked := filepath.Join(two.Temporary(), "locked")
	do(t, os.Mkdir(locked, 0o700), os.WriteFile(filepath.Join(locked, "file"), nil, 0), os.Chmod(locked, 0), killed.lock.Close())

	// Someone else's: one whose name is too long, and one that has no marker.
	others := []string{filepath.Join(parent, prefix+"results-of-may"), filepath.Join(parent, prefix+"ABCDEFGHIJKLM")}
	for _, dir := range others {
		do(t, os.Mkdir(dir, 0o700))
	}
	do(t, os.WriteFile(filepath.Join(others[0], marker), nil, 0o600))
	next := newFolders(t, parent)
	var ended []string
	next.RemoveLeft(func(dir string) error { ended = append(ended, dir); return nil })
	next.removing.Wait()
	if diff := cmp.Diff([]string{killed.own}, ended); diff != "" {
		t.Errorf("programs that have ended:\n%s", diff)
	}
	three, err := living.Make()
	do(t, err)
	living.Discard(one)
	living.removing.Wait()
	if diff := cmp.Diff(sorted(append(others, living.own)), entries(t, parent)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{filepath.Join(living.own, marker), string(three)}, entries(t, living.own)); diff != "" {
		t.Error(diff)
	}
	living.Close(patience)
	if diff := cmp.Diff(sorted(others), entries(t, parent)); diff != "" {
		t.Error(diff)
	}
}

// A folder that somebody has tidied up is made again.
func TestFoldersAreMadeAgain(t *testing.T) {
	f := newFolders(t, t.TempDir())
	one, err := f.Make()
	do(t, err, os.RemoveAll(f.own))
	two, err := f.Make()
	do(t, err)
	if info, err := os.Stat(two.Temporary()); err != nil || one == two || info.Mode().Perm() != 0o700 {
		t.Errorf("%s after %s: %v", two, one, err)
	}
}

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }

func entries(t *testing.T, dir string) (paths []string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestResolveRefusesBadFolders(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	do(t, err)
	file, a, ab, root, link := filepath.Join(dir, "file"), filepath.Join(dir, "a"), filepath.Join(dir, "ab"), filepath.Join(dir, "root"), filepath.Join(dir, "link")
	do(t, os.WriteFile(file, nil, 0o600), os.Mkdir(a, 0o700), os.Mkdir(ab, 0o700), os.Symlink("/", root), os.Symlink("a", link))
	got, err := Resolve([]string{link, ab})
	do(t, err)
	if diff := cmp.Diff([]string{a, ab}, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range [][]string{{"/"}, {"//"}, {"tmp"}, {""}, {file}, {filepath.Join(dir, "none")}, {dir, a}, {dir, dir}, {root}, {a, link}, {dir, link}} {
		if _, err := Resolve(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
