// Package rpackage checks the R package as those who install it do: it is built, with
// its vignette, and passes R CMD check.
package rpackage

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// patience is for a slow machine: the check takes half a minute.
const patience = 10 * time.Minute

// r runs an R command in dir, without a network and with nothing of the user's.
func r(t *testing.T, dir string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "R", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "LC_ALL=C.UTF-8", "R_PROFILE_USER=", "R_ENVIRON_USER=",
		"_R_CHECK_FORCE_SUGGESTS_=false", "_R_CHECK_CRAN_INCOMING_=false",
		"_R_CHECK_XREFS_REPOSITORIES_=file://"+repository(t))
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("R %s: %v\n%s%s", strings.Join(args, " "), err, out, failures(dir))
	}
	return string(out)
}

// repository is an empty one: the check asks for what packages there are.
func repository(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	contrib := filepath.Join(dir, "src/contrib")
	if err := os.MkdirAll(contrib, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(contrib, "PACKAGES"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// failures is what the package's tests wrote that failed.
func failures(dir string) string {
	var all strings.Builder
	logs, _ := filepath.Glob(filepath.Join(dir, "*.Rcheck/tests/*.fail"))
	for _, log := range logs {
		text, _ := os.ReadFile(log)
		all.WriteString("--- " + log + "\n" + string(text))
	}
	return all.String()
}

func TestPackagePassesRCheck(t *testing.T) {
	source, err := filepath.Abs("../../r/rendezvous")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r(t, dir, "CMD", "build", source)
	built, err := filepath.Glob(filepath.Join(dir, "rendezvous_*.tar.gz"))
	if err != nil || len(built) != 1 {
		t.Fatalf("R CMD build made %v, %v", built, err)
	}
	out := r(t, dir, "CMD", "check", "--no-manual", built[0])
	if bad := regexp.MustCompile(`(?m)^.*(ERROR|WARNING)$`).FindAllString(out, -1); len(bad) > 0 {
		t.Errorf("R CMD check: %q\n%s", bad, out)
	}
	if !strings.Contains(out, "\nStatus: OK") && !regexp.MustCompile(`(?m)^Status: \d+ NOTEs?$`).MatchString(out) {
		t.Errorf("R CMD check did not end well:\n%s", out)
	}
	vignette := filepath.Join(dir, "rendezvous.Rcheck/rendezvous/doc/rendezvous.html")
	if page, err := os.ReadFile(vignette); err != nil || !strings.Contains(string(page), "rendezvous::cluster(20)") {
		t.Errorf("the vignette: %v, %d bytes", err, len(page))
	}
}
