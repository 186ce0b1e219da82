package rpackages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// repository is a repository of source packages in a directory.
type repository struct {
	t   *testing.T
	dir string
}

func newRepository(t *testing.T) *repository {
	t.Helper()
	r := &repository{t, t.TempDir()}
	if err := os.MkdirAll(filepath.Join(r.dir, "src/contrib"), 0o755); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *repository) url() string { return "file://" + r.dir }

// add adds a package with the given R code, and fields of its DESCRIPTION.
func (r *repository) add(name, code string, fields ...string) {
	r.t.Helper()
	src := filepath.Join(r.t.TempDir(), name)
	description := append([]string{"Package: " + name, "Version: 1.0", "Title: T", "Description: D.", "License: MIT", "Author: A", "Maintainer: A <a@example.org>"}, fields...)
	for file, content := range map[string]string{
		"DESCRIPTION": strings.Join(description, "\n") + "\n",
		"NAMESPACE":   "",
		"R/code.R":    code + "\n",
	} {
		file = filepath.Join(src, file)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
	tarball := filepath.Join(r.dir, "src/contrib", name+"_1.0.tar.gz")
	if out, err := exec.Command("tar", "-czf", tarball, "-C", filepath.Dir(src), name).CombinedOutput(); err != nil {
		r.t.Fatalf("tar: %v: %s", err, out)
	}
	r.index()
}

func (r *repository) index() {
	r.t.Helper()
	cmd := exec.Command("Rscript", "-e", "invisible(tools::write_PACKAGES('src/contrib', type = 'source'))")
	cmd.Dir = r.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("write_PACKAGES: %v: %s", err, out)
	}
}

// config installs from r into a library that is yet to be made.
func config(t *testing.T, r *repository, packages ...string) (Config, *[]string) {
	t.Helper()
	lines := new([]string)
	return Config{
		Packages: packages, Library: filepath.Join(t.TempDir(), "new/library"), Repos: []string{r.url()},
		Output:   func(l string) { *lines = append(*lines, l) },
		Attempts: 2, RetryWait: time.Millisecond,
	}, lines
}

// installing is the line that R CMD INSTALL starts each package with.
var installing = regexp.MustCompile(`^\* installing \*\w+\* package`)

func installations(lines []string) (n int) {
	for _, l := range lines {
		if installing.MatchString(l) {
			n++
		}
	}
	return n
}

func TestInstallWithDependencies(t *testing.T) {
	r := newRepository(t)
	r.add("pkgbase", "f <- function() 1")
	r.add("pkg.top", "g <- function() pkgbase:::f()", "Imports: pkgbase")
	cfg, lines := config(t, r, "pkg.top", "stats")
	if err := Install(t.Context(), cfg); err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(*lines, "\n"))
	}
	if n := installations(*lines); n != 2 {
		t.Errorf("%d installations, want the package and its dependency", n)
	}
	cmd := exec.Command("Rscript", "-e", "cat(pkg.top:::g())")
	cmd.Env = append(os.Environ(), "R_LIBS="+cfg.Library)
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "1" {
		t.Errorf("use of the package: %v, %q", err, out)
	}

	*lines = nil
	cfg.Repos = []string{"file:///does/not/exist"} // not needed any more
	if err := Install(t.Context(), cfg); err != nil || installations(*lines) != 0 {
		t.Errorf("second run: %v, %d installations", err, installations(*lines))
	}
}

func TestInstallAfterOneThatWasKilled(t *testing.T) {
	r := newRepository(t)
	r.add("pkgone", "x <- 1")
	cfg, lines := config(t, r, "pkgone")
	if err := os.MkdirAll(filepath.Join(cfg.Library, "00LOCK-pkgone"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Install(t.Context(), cfg); err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(*lines, "\n"))
	}
}

func TestInstallFails(t *testing.T) {
	r := newRepository(t)
	r.add("pkggood", "x <- 1")
	r.add("pkgsyntax", "f <- function( {")
	// R CMD INSTALL loads the package too; this one fails only later.
	r.add("pkgload", `.onLoad <- function(...) if (Sys.getenv("R_PACKAGE_NAME") == "" && Sys.getenv("R_INSTALL_PKG") == "") stop("libfoo.so is not there")`)
	r.add("pkgneedy", "x <- 1", "Imports: pkgnowhere")
	for _, tc := range []struct {
		name     string
		packages []string
		failing  string
		want     string
		absent   bool
		attempts int // how often R tries to install something
	}{
		{"no such package", []string{"pkggood", "pkgnone"}, "pkgnone", "not in file://", true, 1},
		{"does not install", []string{"pkgsyntax"}, "pkgsyntax", "ERROR: unable to collate and parse R files", false, 2},
		{"does not load", []string{"pkgload"}, "pkgload", "libfoo.so is not there", false, 1},
		{"dependency missing", []string{"pkgneedy"}, "pkgneedy", "pkgnowhere", false, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg, lines := config(t, r, tc.packages...)
			err := Install(t.Context(), cfg)
			var pe *PackageError
			if !errors.As(err, &pe) || pe.Package != tc.failing || pe.Absent != tc.absent || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %s and %q\n%s", err, tc.failing, tc.want, strings.Join(*lines, "\n"))
			}
			if n := installations(*lines); n != tc.attempts {
				t.Errorf("%d installations, want %d", n, tc.attempts)
			}
		})
	}
}

func TestInstallSetupErrors(t *testing.T) {
	r := newRepository(t)
	r.add("pkgone", "x <- 1")
	profile := filepath.Join(t.TempDir(), "Rprofile")
	if err := os.WriteFile(profile, []byte(`options(repos = c(CRAN = "@CRAN@"))`), 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		change func(*Config)
		want   string
		is     error
	}{
		{"no repository", func(c *Config) {
			c.Repos, c.Env = nil, append(os.Environ(), "R_PROFILE="+profile)
		}, `"@CRAN@": set --r-repos`, ErrNoRepository},
		{"repository out of reach", func(c *Config) { c.Repos = []string{"file:///does/not/exist"} }, "/does/not/exist", nil},
		{"library is a file", func(c *Config) { c.Library = file }, "no writable R library: " + file, nil},
		{"no Rscript", func(c *Config) { c.Rscript = "/does/not/Rscript" }, "/does/not/Rscript", os.ErrNotExist},
		{"R fails", func(c *Config) {
			c.Rscript = filepath.Join(t.TempDir(), "Rscript")
			if err := os.WriteFile(c.Rscript, []byte("#!/bin/sh\nexit 3\n"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, "pkgone: exit status 3", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg, lines := config(t, r, "pkgone")
			tc.change(&cfg)
			err := Install(t.Context(), cfg)
			if err == nil || !strings.Contains(err.Error(), tc.want) || (tc.is != nil && !errors.Is(err, tc.is)) {
				t.Errorf("got %v, want %q\n%s", err, tc.want, strings.Join(*lines, "\n"))
			}
		})
	}
}

func TestBadNames(t *testing.T) {
	for _, name := range []string{"", "a", "1a", "a.", ".ab", "a_b", "a b", "a-b", "pkg'); system('id", "päckage", "a\nb", "ab\n", "-e"} {
		err := Install(t.Context(), Config{Packages: []string{"stats", name}, Rscript: "/does/not/exist"})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q is not the name", name)) {
			t.Errorf("name %q: got %v", name, err)
		}
	}
	if err := Install(t.Context(), Config{Rscript: "/does/not/exist"}); err != nil {
		t.Errorf("no packages: %v", err)
	}
}

// TestCancelEndsRAndItsChildren ends the context in the middle of an installation: R and what it
// started must be gone when Install returns, and not be started again.
func TestCancelEndsRAndItsChildren(t *testing.T) {
	r := newRepository(t)
	r.add("pkgslow", `Sys.sleep(1000)`)
	cfg, lines := config(t, r, "pkgslow")
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the pod is going away")
	keep := cfg.Output
	cfg.Output = func(l string) {
		keep(l)
		if installing.MatchString(l) {
			cancel(why)
		}
	}
	cfg.Attempts = 5
	if err := Install(ctx, cfg); !errors.Is(err, why) {
		t.Errorf("got %v, want %v\n%s", err, why, strings.Join(*lines, "\n"))
	}
	if n := installations(*lines); n != 1 {
		t.Errorf("%d installations, want 1", n)
	}
	if left := processesWith(t, cfg.Library); left != "" {
		t.Errorf("left running: %s", left)
	}
}

// processesWith returns the command lines of processes that mention a word.
func processesWith(t *testing.T, word string) string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range files {
		line, _ := os.ReadFile(f) // a process may end meanwhile
		if strings.Contains(string(line), word) {
			found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return strings.Join(found, "\n")
}
