package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The agent's image has no program but the agent, which brings itself into another.
func TestInject(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	agent := filepath.Join(bin, "worker-agent")
	for range 2 { // a container that is restarted finds the file there
		if out, err := exec.Command(agent, "inject", dir).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Fatalf("%d files in the directory, want one (%v)", len(files), err)
	}
	want, err := exec.Command(agent, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	got, err := exec.Command(filepath.Join(dir, "worker-agent"), "--version").Output()
	if err != nil || string(got) != string(want) {
		t.Errorf("the copy's version is %q, want %q (%v)", got, want, err)
	}

	out, err := exec.Command(agent, "inject", filepath.Join(dir, "nowhere")).CombinedOutput()
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 2 || !strings.Contains(string(out), "give a directory that is there") {
		t.Errorf("inject into nowhere: %v\n%s", err, out)
	}
}

// Packages that are there are not installed again; what cannot be is said, and the
// exit code tells.
func TestPackagesCommand(t *testing.T) {
	t.Parallel()
	agent := filepath.Join(bin, "worker-agent")
	cmd := exec.Command(agent, "packages", "--log-format", "console")
	cmd.Env = append(os.Environ(), "EXTRA_R_PACKAGES=stats  parallel")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "R packages are installed") {
		t.Errorf("%v\n%s", err, out)
	}
	for args, want := range map[string]struct {
		code int
		says string
	}{
		"":                        {2, "--r-packages: name at least one, or set EXTRA_R_PACKAGES"},
		"--r-packages=not/a/name": {2, `"not/a/name" is not the name of an R package`},
		"--r-packages=notthere1 --r-repos=file:///nowhere": {1, "notthere1"},
	} {
		out, err := exec.Command(agent, append([]string{"packages"}, strings.Fields(args)...)...).CombinedOutput()
		exit, ok := err.(*exec.ExitError)
		if !ok || exit.ExitCode() != want.code || !strings.Contains(string(out), want.says) {
			t.Errorf("packages %s: %v, want code %d and %q:\n%s", args, err, want.code, want.says, out)
		}
	}
}
