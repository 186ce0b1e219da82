package test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// startAgentAsInit starts an agent as process 1 of a PID namespace of its own, as
// it is in a pod.
func (r *runtime) startAgentAsInit(t *testing.T, args ...string) *process {
	t.Helper()
	const setUp = `mount --make-rprivate / && mount -t proc proc /proc && exec "$@"`
	cmd := exec.Command("sh", append([]string{"-c", setUp, "sh", filepath.Join(bin, "worker-agent"),
		"--rendezvous", r.agents, "--tls-dir", filepath.Join(r.certs, "worker"), "--name", "pod-a",
		"--admin-address", "127.0.0.1:0", "--no-limits"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	return launchCommand(t, cmd)
}

// running lists the processes whose command line has text in it.
func running(t *testing.T, text string) (found []string) {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || !strings.Contains(strings.ReplaceAll(string(line), "\x00", " "), text) {
			continue // it has ended meanwhile
		}
		found = append(found, dir)
	}
	return found
}

// children lists the children of process pid, with what proc(5) says of each.
func children(t *testing.T, pid int) map[string]string {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	for _, dir := range dirs {
		status, err := os.ReadFile(filepath.Join(dir, "status"))
		if err != nil {
			continue // it has ended meanwhile
		}
		if strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", pid)) {
			found[dir] = string(status)
		}
	}
	return found
}

// zombies counts the children of process pid that have ended and were not waited
// for.
func zombies(t *testing.T, pid int) (n int) {
	t.Helper()
	for _, status := range children(t, pid) {
		if strings.Contains(status, "\nState:\tZ") {
			n++
		}
	}
	return n
}

// What R code leaves behind in the background ends with its worker, long before
// the agent does, and whoever becomes an orphan is waited for by process 1.
func TestOrphans(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	agent := r.startAgentAsInit(t)
	r.awaitWarm(1)
	r.R(`
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
f <- value(future({ system("sleep 86401 &"); system("setsid sleep 0.05 &"); 1 }))
plan(sequential)
`)
	r.awaitWarm(1)
	eventually(t, "the end of what R had left in the background", func() bool { return len(running(t, "sleep 86401")) == 0 })
	eventually(t, "process 1 to wait for every orphan", func() bool {
		return len(running(t, "sleep 0.05")) == 0 && zombies(t, agent.cmd.Process.Pid) == 0
	})
}

// SIGTERM to process 1: idle workers leave the pool at once, a session's idle node
// ends, a call that is under way is finished and its result arrives; then the
// agent ends with 0 and leaves nothing behind.
func TestDrain(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	agent := r.startAgentAsInit(t, "--workers", "3", "--drain-budget", "10m")
	admin := agent.field("worker agent is up", "admin")
	r.awaitWarm(3)
	gate := filepath.Join(t.TempDir(), "gate")
	s := r.startR(`
library(future)
plan(cluster, workers = 2, manual = TRUE, quiet = TRUE)
gate <- Sys.getenv("GATE")
f <- future({ system("setsid sleep 86402 &"); while (!file.exists(gate)) Sys.sleep(0.01); "finished" })
cat("computing\n")
stopifnot(identical(value(f), "finished"))
cat("and the worker has gone\n")
`, "GATE="+gate)
	s.awaitText("computing")
	eventually(t, "the background process", func() bool { return len(running(t, "sleep 86402")) == 1 })
	agent.signal(syscall.SIGTERM)
	r.await("one bound worker and no other", func(s api.State) bool {
		return count(s, pool.Warm) == 0 && count(s, pool.Bound) == 1
	})
	if status, why := get(t, admin, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(why, "draining") {
		t.Errorf("/readyz of a draining agent: %d %q", status, why)
	}
	openGate(t, gate)
	s.awaitText("and the worker has gone")
	if code := s.wait(); code != 0 {
		t.Errorf("R exited with %d", code)
	}
	if code := agent.wait(); code != 0 {
		t.Errorf("the agent exited with %d", code)
	}
	if left := running(t, "sleep 86402"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	r.await("no worker left", func(s api.State) bool { return len(s.Workers) == 0 })
}

// A future that takes longer than the drain budget is handed back, and runs again on
// the next worker that there is.
func TestDrainBudget(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	agent := r.startAgentAsInit(t, "--drain-budget", "1s")
	r.awaitWarm(1)
	mark, second := filepath.Join(t.TempDir(), "mark"), filepath.Join(t.TempDir(), "second")
	s := r.startR(`
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
mark <- Sys.getenv("MARK"); second <- Sys.getenv("SECOND")
f <- future({ if (file.create(mark) && !file.exists(second)) Sys.sleep(3600); "elsewhere" })
stopifnot(identical(value(f), "elsewhere"))
`, "MARK="+mark, "SECOND="+second)
	eventually(t, "the task", func() bool { _, err := os.Stat(mark); return err == nil })
	agent.signal(syscall.SIGTERM)
	if code := agent.wait(); code != 0 {
		t.Errorf("the agent exited with %d", code)
	}
	openGate(t, second)
	r.startAgent("pod-b", 1)
	if code := s.wait(); code != 0 {
		t.Errorf("R exited with %d", code)
	}
}
