package scratch

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What somebody does in the folder between two runs of the program stays, unless the first
// was killed while sessions had used it.
func TestBetweenTwoRuns(t *testing.T) {
	edit := func(dir string) error { return os.WriteFile(filepath.Join(dir, "mine"), []byte("edited"), 0o600) }
	for name, tc := range map[string]struct {
		run      func(*testing.T, *Restored)
		reverted bool
	}{
		"killed before a session":       {func(t *testing.T, r *Restored) { warm(t, r) }, false},
		"killed in a session":           {func(t *testing.T, r *Restored) { use(t, r) }, true},
		"killed after a session":        {func(t *testing.T, r *Restored) { do(t, use(t, r).Leave()) }, true},
		"killed once that was restored": {func(t *testing.T, r *Restored) { do(t, use(t, r).Leave(), r.Restore()) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			r := keep(t, dir, newFolders(t, t.TempDir()))
			tc.run(t, r)
			do(t, edit(dir))
			next := afterCrash(t, r)
			do(t, next.Recover(), next.Keep())
			if _, err := os.Stat(filepath.Join(dir, "mine")); (err != nil) != tc.reverted {
				t.Errorf("got %v, want it reverted: %v", err, tc.reverted)
			}
		})
	}
}

// A program that ends as it should restores the folders and leaves nothing of its own.
func TestCloseLeavesNothing(t *testing.T) {
	dir := furnished(t)
	want := tree(t, dir)
	folders := newFolders(t, t.TempDir())
	r := keep(t, dir, folders)
	u := use(t, r)
	do(t, mess["new files"](dir), mess["written in place"](dir), u.Leave(), r.Close())
	folders.removing.Wait()
	if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
		t.Errorf("-before +after:\n%s", diff)
	}
	if _, err := os.Lstat(filepath.Join(dir, stateDir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: got %v, want it to be gone", stateDir, err)
	}
	// What it cannot restore it leaves to the next one.
	r = keep(t, dir, folders)
	u = use(t, r)
	do(t, os.Remove(filepath.Join(dir, ".bashrc")), os.Rename(filepath.Join(dir, copyDir, ".bashrc"), filepath.Join(dir, copyDir, "away")), u.Leave())
	if err := r.Close(); err == nil {
		t.Error("no error although a file cannot be put back")
	}
	folders.removing.Wait()
	do(t, os.Rename(filepath.Join(dir, copyDir, "away"), filepath.Join(dir, copyDir, ".bashrc")))
	next, err := NewRestored([]string{dir}, true, folders)
	do(t, err, next.Recover(), next.Close())
	if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
		t.Errorf("-before +after the next one:\n%s", diff)
	}
}

// A folder is one program's.
func TestOneProgram(t *testing.T) {
	free, dir := t.TempDir(), t.TempDir()
	folders := newFolders(t, t.TempDir())
	r := keep(t, dir, folders)
	for range 2 {
		_, err := NewRestored([]string{free, dir}, true, folders)
		if err == nil || !strings.Contains(err.Error(), "scratch folder "+dir+": another agent") {
			t.Fatalf("got %v, want an error that names %s and no other folder", err, dir)
		}
	}
	do(t, r.Close())
	folders.removing.Wait()
	next, err := NewRestored([]string{dir}, true, folders)
	do(t, err, next.Close())
}

// What a worker makes while it starts is not removed below it, but once it has ended; what
// sessions make is, as soon as none uses a worker and none starts.
func TestStartup(t *testing.T) {
	dir := furnished(t)
	want := tree(t, dir)
	r := keep(t, dir, newFolders(t, t.TempDir()))
	path := func(name string) string { return filepath.Join(dir, name) }
	expect := func(there bool, names ...string) {
		t.Helper()
		for _, name := range names {
			if _, err := os.Lstat(path(name)); (err == nil) != there {
				t.Errorf("%s: got %v, want it to be there: %v", name, err, there)
			}
		}
	}
	busy := use(t, r)
	do(t, os.WriteFile(path("of-the-session"), nil, 0o600), os.Mkdir(path("shared"), 0o700))
	starting, err := r.Start()
	do(t, err, os.Mkdir(path("cache"), 0o700), os.WriteFile(path("cache/model"), nil, 0o600), os.WriteFile(path("lib/pkg/cache"), nil, 0o600),
		os.WriteFile(path("shared/own"), nil, 0o600), os.WriteFile(path(".bashrc"), []byte("of the startup"), 0o600))
	do(t, busy.Leave(), r.Restore())
	expect(true, "of-the-session", "cache/model", "lib/pkg/cache") // another worker starts
	do(t, starting.Warm())
	expect(false, "of-the-session")
	expect(true, "cache/model", "lib/pkg/cache", "shared/own")
	if text, err := os.ReadFile(path(".bashrc")); string(text) != "of the startup" {
		t.Errorf("%q, %v: changed below the worker", text, err)
	}
	for range 2 {
		busy = use(t, r)
		do(t, os.WriteFile(path("cache/of-the-session"), nil, 0o600), os.WriteFile(path("shared/of-the-session"), nil, 0o600))
		do(t, busy.Leave(), r.Restore())
		expect(false, "cache/of-the-session", "shared/of-the-session")
		expect(true, "cache/model", "lib/pkg/cache", "shared/own")
	}
	do(t, starting.Leave(), r.Restore())
	if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
		t.Errorf("-before +after:\n%s", diff)
	}
}
