package test

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
)

// Workers that cannot start: the agent lives on and is not ready, its log and the
// rendezvous say why, and the attempts come further and further apart.
func TestWorkerThatCannotStart(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		launch func(t *testing.T, r *runtime) *process
		wants  string // in the log, in /readyz and at the rendezvous
	}{
		{"no Rscript", func(t *testing.T, r *runtime) *process {
			return r.startAgent("pod-a", 1, "--rscript", "/nowhere/Rscript")
		}, "/nowhere/Rscript"},
		{"R that fails", func(t *testing.T, r *runtime) *process {
			return r.startAgent("pod-a", 1, "--rscript", script(t, "echo this R is broken >&2; exit 3"))
		}, "this R is broken"},
		{"a startup expression that fails", func(t *testing.T, r *runtime) *process {
			return r.startAgent("pod-a", 1, "--startup", `stop("no such data")`)
		}, "no such data"},
		{"full disk", func(t *testing.T, r *runtime) *process {
			return r.startOnFullDisk(t)
		}, "temporary file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := startRendezvous(t, "--demand-timeout", "1s")
			agent := tc.launch(t, r)
			admin := agent.field("worker agent is up", "admin")
			s := r.await("a failed worker", func(s api.State) bool { return count(s, pool.Failed) == 1 })
			if reason := s.Workers[0].Reason; !strings.Contains(reason, tc.wants) {
				t.Errorf("the rendezvous knows %q, want %q in it", reason, tc.wants)
			}
			if status, why := get(t, admin, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(why, tc.wants) {
				t.Errorf("/readyz: %d %q, want 503 and %q", status, why, tc.wants)
			}
			if status, _ := get(t, admin, "/livez"); status != http.StatusOK {
				t.Errorf("/livez: %d: an agent that tries on is alive", status)
			}
			growingWaits(t, agent, "worker cannot start", tc.wants)
			out := r.R(`e <- tryCatch(parallelly::makeClusterPSOCK(1, manual = TRUE, quiet = TRUE), error = identity); cat(conditionMessage(e))`)
			if !strings.Contains(out, "0 of 1 workers are ready") || !strings.Contains(out, "pod-a/0 is failed") {
				t.Errorf("the R error does not say why: %s", out)
			}
		})
	}
}

// A package that cannot be installed is a reason not to be ready, too.
func TestPackageThatFails(t *testing.T) {
	t.Parallel()
	repository := t.TempDir()
	contrib := filepath.Join(repository, "src", "contrib")
	if err := os.MkdirAll(contrib, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(contrib, "PACKAGES"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	r := startRendezvous(t)
	agent := r.startAgent("pod-a", 1, "--r-packages", "nosuchpackage", "--r-library", t.TempDir(), "--r-repos", "file://"+repository)
	admin := agent.field("worker agent is up", "admin")
	s := r.await("a failed worker", func(s api.State) bool { return count(s, pool.Failed) == 1 })
	if reason := s.Workers[0].Reason; !strings.Contains(reason, "nosuchpackage") {
		t.Errorf("the rendezvous knows %q, want the package's name in it", reason)
	}
	if status, why := get(t, admin, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(why, "nosuchpackage") {
		t.Errorf("/readyz: %d %q, want 503 and the package's name", status, why)
	}
	growingWaits(t, agent, "installing R packages failed", "nosuchpackage")
}

// growingWaits waits for three failures in the agent's log, each with the reason
// and a longer wait until the next attempt.
func growingWaits(t *testing.T, agent *process, message, reason string) {
	t.Helper()
	var waits []time.Duration
	eventually(t, "three failures: "+message, func() bool {
		waits = nil
		for line := range strings.Lines(agent.text()) {
			var entry struct{ Msg, Error, RetryIn string }
			if json.Unmarshal([]byte(line), &entry) != nil || entry.Msg != message {
				continue
			}
			if !strings.Contains(entry.Error, reason) {
				t.Fatalf("the log says %q, want %q in it", entry.Error, reason)
			}
			wait, err := time.ParseDuration(entry.RetryIn)
			if err != nil {
				t.Fatal(err)
			}
			waits = append(waits, wait)
		}
		return len(waits) >= 3
	})
	// Each is twice the last, give or take 30 %.
	if !(waits[0] < waits[1] && waits[1] < waits[2]) {
		t.Errorf("waits of %v do not grow", waits[:3])
	}
}

// startOnFullDisk starts an agent whose TMPDIR is a file system without room.
func (r *runtime) startOnFullDisk(t *testing.T) *process {
	t.Helper()
	dir := t.TempDir()
	agent := []string{
		filepath.Join(bin, "worker-agent"), "--rendezvous", r.agents, "--tls-dir", filepath.Join(r.certs, "worker"),
		"--name", "pod-a", "--admin-address", "127.0.0.1:0", "--no-limits",
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Fatal(err)
	}
	// One inode is the root directory itself.
	setUp := `mount -t tmpfs -o size=4k,nr_inodes=1 tmpfs "$1" && export TMPDIR="$1" && shift && exec "$@"`
	args := append([]string{"--user", "--map-root-user", "--mount", "sh", "-c", setUp, "sh", dir}, agent...)
	return launch(t, nil, unshare, args...)
}

// get asks an admin address.
func get(t *testing.T, address, path string) (status int, body string) {
	t.Helper()
	return testkit.Get(t, http.DefaultClient, "http://"+address+path)
}

// What a worker is: its machine, R's version, and its memory, which follows what it does
// with the heartbeats.
func TestWhatAWorkerIs(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 1, "--node", "node-1")
	version, err := exec.Command("Rscript", "-e", "cat(as.character(getRversion()))").Output()
	if err != nil {
		t.Fatal(err)
	}
	const mib = 1 << 20
	idle := r.await("a worker with its memory", func(s api.State) bool { return count(s, pool.Warm) == 1 && s.Workers[0].MemoryBytes > 0 }).Workers[0]
	if idle.Node != "node-1" || idle.RVersion != string(version) || idle.MemoryBytes < 10*mib || idle.MemoryBytes > 500*mib {
		t.Errorf("%+v, want node-1 and R %s", idle, version)
	}
	table, err := exec.Command(filepath.Join(bin, "rendezvous"), "status", "--api-address", r.api).CombinedOutput()
	if err != nil || !strings.Contains(string(table), "node-1") || !strings.Contains(string(table), "MiB") {
		t.Errorf("%v: the table is\n%s", err, table)
	}
	gate := filepath.Join(t.TempDir(), "gate")
	session := r.startR(`
library(future)
plan(cluster, workers = 1, manual = TRUE, quiet = TRUE)
f <- future({ x <- rep(1, 5e7); while (!file.exists("` + gate + `")) Sys.sleep(0.05); length(x) })
stopifnot(value(f) == 5e7)
`)
	r.await("400 MB more", func(s api.State) bool { return s.Workers[0].MemoryBytes > idle.MemoryBytes+300*mib })
	openGate(t, gate)
	if code := session.wait(); code != 0 {
		t.Errorf("R exited with %d:\n%s", code, session.text())
	}
}
