package test

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// pids are the process ids of the workers in a state, by agent and slot.
func pids(s api.State, state pool.State) map[string]int {
	found := make(map[string]int)
	for _, w := range s.Workers {
		if w.State == state {
			found[w.Agent] = w.PID
		}
	}
	return found
}

// awaitEnd waits until there is no process pid any more.
func awaitEnd(t *testing.T, pid int) {
	t.Helper()
	eventually(t, "the end of a worker", func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH })
}

// An agent that is killed takes its R with it; the session loses that node alone,
// and the agent's successor has a warm worker parked.
func TestKilledAgent(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t, "--max-attempts", "1")
	first := r.startAgent("pod-a", 1)
	r.awaitWarm(1)
	r.startAgent("pod-b", 1)
	r.awaitWarm(2)
	s := r.startR(`
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
f <- lapply(1:2, function(i) future({ if (i == 1) Sys.sleep(3600); i }))
stopifnot(identical(value(f[[2]]), 2L))
cat("one computes\n")
e <- tryCatch(value(f[[1]]), error = identity)
stopifnot(inherits(e, "FutureError"), grepl("worker pod-a/0 was lost in this call: its connection was lost", conditionMessage(e), fixed = TRUE))
cat("lost one\n")
stopifnot(identical(value(future("goes on")), "goes on"))
`)
	s.awaitText("one computes")
	bound := pids(r.await("two bound workers", func(s api.State) bool { return count(s, pool.Bound) == 2 }), pool.Bound)
	// future gave the first future to the first node, and pod-a was the first that
	// was warm.
	first.signal(syscall.SIGKILL)
	first.wait()
	s.awaitText("lost one")
	if code := s.wait(); code != 0 {
		t.Fatalf("R exited with %d", code)
	}
	awaitEnd(t, bound["pod-a"])
	r.startAgent("pod-a", 1)
	r.awaitWarm(2)
}

// A rendezvous that is killed: its sessions' nodes are lost, their workers do not
// compute for nobody, the others stay as they are, and all are back after its
// return.
func TestKilledRendezvous(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	a := r.startAgent("pod-a", 1)
	b := r.startAgent("pod-b", 1)
	r.awaitWarm(2)
	s := r.startR(`
library(future)
plan(cluster, workers = 1, manual = TRUE, quiet = TRUE)
f <- future(Sys.sleep(3600))
cat("computing\n")
e <- tryCatch(value(f), error = identity)
stopifnot(inherits(e, "FutureError"))
cat("noticed\n")
`)
	s.awaitText("computing")
	before := r.await("one bound worker", func(s api.State) bool { return count(s, pool.Bound) == 1 && count(s, pool.Warm) == 1 })
	r.signal(syscall.SIGKILL)
	r.process.wait()
	s.awaitText("noticed")
	if code := s.wait(); code != 0 {
		t.Fatalf("R exited with %d", code)
	}
	for _, pid := range pids(before, pool.Bound) {
		awaitEnd(t, pid)
	}
	r.start()
	r.awaitWarm(2)
	after, err := r.state()
	if err != nil {
		t.Fatal(err)
	}
	for agent, pid := range pids(before, pool.Warm) {
		if now := pids(after, pool.Warm)[agent]; now != pid {
			t.Errorf("the idle worker of %s was %d and is %d: it was not to be touched", agent, pid, now)
		}
	}
	for _, agent := range []*process{a, b} {
		if lines := strings.Count(agent.text(), "no connection to the rendezvous, trying on"); lines > 4 {
			t.Errorf("%d lines about a rendezvous that was away for a moment", lines)
		}
	}
	r.R(`library(future); plan(cluster, manual = TRUE, quiet = TRUE); stopifnot(nbrOfWorkers() == 2, value(future(1)) == 1)`)
}

// Redialling is never further apart than a second, however long a rendezvous was
// away: what the log says of the waits.
func TestRedialPace(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 1, "--log-level", "debug")
	r.awaitWarm(1)
	r.signal(syscall.SIGKILL)
	r.process.wait()
	agent := r.startAgent("pod-b", 1, "--log-level", "debug")
	var waits []time.Duration
	eventually(t, "eight attempts", func() bool {
		waits = nil
		for line := range strings.Lines(agent.text()) {
			var entry struct {
				Msg     string
				RetryIn string
			}
			if json.Unmarshal([]byte(line), &entry) != nil || entry.Msg != "redialling" {
				continue
			}
			wait, err := time.ParseDuration(entry.RetryIn)
			if err != nil {
				t.Fatal(err)
			}
			waits = append(waits, wait)
		}
		return len(waits) >= 8
	})
	for _, wait := range waits {
		if wait > time.Second || wait <= 0 {
			t.Errorf("waits for %s before it dials again, want at most a second", wait)
		}
	}
}

// Ctrl-C in a session that waits: the session goes on, and so do its futures.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 2)
	r.awaitWarm(2)
	s := r.startR(`
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
gate <- tempfile()
f <- future({ while (!file.exists(gate)) Sys.sleep(0.01); "result" })
how <- tryCatch({ cat("waiting\n"); value(f) }, interrupt = function(i) "interrupted")
cat(how, "\n")
invisible(file.create(gate))
stopifnot(identical(value(f), "result"))
stopifnot(identical(value(future(42)), 42))
plan(sequential)
cl <- parallelly::makeClusterPSOCK(2, manual = TRUE, quiet = TRUE)
how <- tryCatch({ cat("calling\n"); parallel::clusterCall(cl, Sys.sleep, 3600) }, interrupt = function(i) "stopped")
cat(how, "\n")
parallel::stopCluster(cl)
cat("done\n")
`)
	for _, step := range [][2]string{{"waiting\n", "interrupted"}, {"calling\n", "stopped"}} {
		s.awaitText(step[0])
		s.signal(syscall.SIGINT)
		s.awaitText(step[1])
	}
	if code := s.wait(); code != 0 {
		t.Fatalf("R exited with %d", code)
	}
	r.awaitWarm(2)
}

// future and what builds on it: each way to a value says why the worker is lost, at
// once and every time it is asked, and the next plan works.
func TestKilledWorkerOfFuture(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 2)
	r.awaitWarm(2)
	r.R(`
library(future)
dies <- function(i) { if (i == 1) tools::pskill(Sys.getpid(), tools::SIGKILL); i }
fails <- function(expr) {
	e <- tryCatch(expr, error = identity)
	stopifnot(inherits(e, "FutureError"))
	stopifnot(grepl("3 workers were lost with this future, the limit of --max-attempts: worker pod-a/[01]: killed by SIGKILL(; worker pod-a/[01]: killed by SIGKILL){2}", conditionMessage(e)))
}
for (call in list(
	function() { f <- future(dies(1)); fails(value(f)); fails(value(f)) },
	function() { f <- lapply(1:2, function(i) future(dies(i))); fails(value(f)); stopifnot(identical(value(f[[2]]), 2L)) },
	function() { f <- future(dies(1)); repeat if (!identical(tryCatch(resolved(f), error = identity), FALSE)) break; fails(value(f)) },
	function() fails(future.apply::future_lapply(1:4, dies)),
	function() fails(furrr::future_map(1:4, dies))
)) {
	plan(cluster, workers = 2, manual = TRUE, quiet = TRUE)
	call()
	# The plan is whole: its nodes get other workers.
	stopifnot(nbrOfWorkers() == 2, identical(value(lapply(1:2, function(i) future(i))), list(1L, 2L)))
	plan(sequential)
}
plan(cluster, workers = 2, manual = TRUE, quiet = TRUE)
stopifnot(identical(value(lapply(1:2, function(i) future(i))), list(1L, 2L)))
`)
}

// parallel's functions: a worker that dies in a call is an R error that says why, at
// once, and never a result; a node that is lost stays lost.
func TestKilledWorkerOfParallel(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 2)
	r.awaitWarm(2)
	r.R(`
library(parallel)
dies <- function(i) if (i == 1) tools::pskill(Sys.getpid(), tools::SIGKILL) else i
for (call in list(
	function(cl) clusterApply(cl, 1:2, dies),
	function(cl) parLapply(cl, 1:2, dies),
	function(cl) clusterMap(cl, dies, 1:2),
	function(cl) clusterApplyLB(cl, 1:20, dies),
	function(cl) parSapplyLB(cl, 1:20, dies)
)) {
	cl <- makePSOCKcluster(2, manual = TRUE)
	e <- tryCatch(call(cl), error = identity)
	stopifnot(inherits(e, "error"))
	cat(conditionMessage(e), "\n")
	for (node in cl) try(close(node$con), silent = TRUE)
}
cl <- makePSOCKcluster(2, manual = TRUE)
e <- tryCatch(clusterApply(cl, 1:2, dies), error = identity)
stopifnot(grepl("worker pod-a/[01] was lost in this call: killed by SIGKILL", conditionMessage(e)))
stopifnot(inherits(try(clusterCall(cl[1], identity, 1), silent = TRUE), "try-error"))
# The other node's answer was read with the error: what it says now is no old one.
stopifnot(identical(clusterCall(cl[2], identity, "new"), list("new")))
`, r.classic())
	r.awaitWarm(2)
}
