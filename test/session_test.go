package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// The code of the 2021 post, as users type it, and the same values as sequential.
func TestPost(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 2)
	r.startAgent("pod-b", 2)
	r.awaitWarm(4)
	out := r.R(`
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
stopifnot(nbrOfWorkers() == 4)
library(future.apply)
set.seed(1)
output <- future_sapply(1:40, function(i) mean(rnorm(1e5)), future.seed = TRUE)
pids <- future_sapply(seq_len(nbrOfWorkers()), function(i) Sys.getpid())
stopifnot(length(unique(pids)) == 4, !Sys.getpid() %in% pids)
plan(sequential)
set.seed(1)
expected <- future_sapply(1:40, function(i) mean(rnorm(1e5)), future.seed = TRUE)
stopifnot(identical(output, expected))
cat("same values\n")
`)
	if !strings.Contains(out, "same values") {
		t.Fatal(out)
	}
	r.awaitWarm(4)
	if got := r.metric(`rendezvous_calls_total{result="success"}`); got == "0" {
		t.Error("no call was counted")
	}
	for _, worker := range []string{"pod-a/0", "pod-a/1", "pod-b/0", "pod-b/1"} {
		if busy := r.number(`rendezvous_worker_busy_seconds_total{worker="` + worker + `"}`); busy <= 0 {
			t.Errorf("%s was busy for %g s", worker, busy)
		}
	}
	if got := r.metric("rendezvous_opaque_streams_total"); got != "0" {
		t.Errorf("%s streams of real R were not followed", got)
	}
}

// Twenty plans in a row, some with a plan(sequential) between them.
func TestPlansInARow(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	agent := r.startAgent("pod-a", 3)
	r.awaitWarm(3)
	s := r.startR(`
library(future)
for (i in 1:20) {
  plan(cluster, manual = TRUE, quiet = TRUE)
  stopifnot(nbrOfWorkers() == 3)
  begun <- tempfile()
  dir.create(begun)
  f <- lapply(1:3, function(k) future({
    file.create(file.path(begun, k))
    while (length(dir(begun)) < 3) Sys.sleep(0.01) # or one that is done has the next, too
    Sys.getpid()
  }))
  stopifnot(length(unique(unlist(value(f)))) == 3)
  if (i %% 3 == 0) plan(sequential)
  cat("round", i, "is over\n")
}
`)
	for i := range 20 { // one by one: all of them take minutes on a machine that is busy
		s.awaitText(fmt.Sprintf("round %d is over", i+1))
	}
	if code := s.wait(); code != 0 {
		t.Fatalf("R exited with %d:\n%s", code, s.text())
	}
	r.awaitWarm(3)
	r.await("no cluster left", func(s api.State) bool { return len(s.Clusters) == 0 })
	eventually(t, "three R processes and no more", func() bool { return len(children(t, agent.cmd.Process.Pid)) == 3 })
}

// A task that is too large for its worker's share of the container's memory gets
// R's own error, and the worker lives.
func TestTooLargeTask(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	group := memoryGroup(t, 1<<30)
	agent := launch(t, nil, "sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, group, filepath.Join(bin, "worker-agent"),
		"--workers", "2", "--rendezvous", r.agents, "--tls-dir", filepath.Join(r.certs, "worker"), "--admin-address", "127.0.0.1:0")
	r.awaitWarm(2)
	out := r.R(`
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
pid <- value(future(Sys.getpid()))
cat("limit:", value(future(mem.maxVSize())), "MB\n")
e <- tryCatch(value(future(sum(numeric(1e8)))), error = identity)
cat(conditionMessage(e), "\n")
stopifnot(!inherits(e, "FutureError"), identical(value(future(Sys.getpid())), pid))
`)
	for _, want := range []string{"limit: 332.8 MB", "memory"} { // ((1024 - 64) / 2 - 64) * 0.8
		if !strings.Contains(out, want) {
			t.Errorf("R's output lacks %q:\n%s", want, out)
		}
	}
	agent.signal(syscall.SIGTERM)
	if code := agent.wait(); code != 0 {
		t.Errorf("the agent exited with %d", code)
	}
}

// memoryGroup makes a control group with a memory limit, as a container has one.
func memoryGroup(t *testing.T, limit int64) string {
	t.Helper()
	name := fmt.Sprintf("psock-runtime-test-%d", os.Getpid())
	group, file := filepath.Join("/sys/fs/cgroup/memory", name), "memory.limit_in_bytes"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil { // version 2
		group, file = filepath.Join("/sys/fs/cgroup", name), "memory.max"
		if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+memory"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// It can be removed when its last process is gone.
		eventually(t, "an empty control group", func() bool { return os.Remove(group) == nil })
	})
	if err := os.WriteFile(filepath.Join(group, file), fmt.Append(nil, limit), 0o644); err != nil {
		t.Fatal(err)
	}
	return group
}

// Two sessions at once; one is killed and gives its workers back.
func TestTwoSessions(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 4)
	r.awaitWarm(4)
	code := `
library(future)
plan(cluster, workers = 2, manual = TRUE, quiet = TRUE)
f <- lapply(1:2, function(k) future(Sys.getpid()))
stopifnot(length(unique(unlist(value(f)))) == 2)
cat("have both\n")
x <- value(future(Sys.sleep(3600)))
`
	a, b := r.startR(code), r.startR(code)
	a.awaitText("have both")
	b.awaitText("have both")
	s := r.await("two clusters", func(s api.State) bool { return len(s.Clusters) == 2 })
	for _, c := range s.Clusters {
		if len(c.Nodes) != 2 {
			t.Errorf("cluster %d has %d nodes, want 2", c.ID, len(c.Nodes))
		}
	}
	a.signal(syscall.SIGKILL)
	a.wait()
	r.awaitWarm(2)
	b.signal(syscall.SIGKILL)
	b.wait()
	r.awaitWarm(4)
}

// Two sessions plan at the same moment, each for all workers there are: one has
// them first, then the other, and neither sees an error.
func TestTwoPlansAtOnce(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 4)
	r.awaitWarm(4)
	start := filepath.Join(t.TempDir(), "start")
	code := fmt.Sprintf(`
library(future)
cat("waiting\n")
while (!file.exists(%q)) Sys.sleep(0.001)
for (i in 1:5) {
  plan(cluster, workers = 4, manual = TRUE, quiet = TRUE)
  f <- lapply(1:4, function(k) future(k))
  stopifnot(identical(value(f), as.list(1:4)))
  plan(sequential)
}
cat("had all each time\n")
`, start)
	a, b := r.startR(code), r.startR(code)
	a.awaitText("waiting")
	b.awaitText("waiting")
	openGate(t, start)
	a.awaitText("had all each time")
	b.awaitText("had all each time")
	r.awaitWarm(4)
	if got := r.metric("rendezvous_unmet_demand_total"); got != "0" {
		t.Errorf("%s nodes got an R error", got)
	}
}

// A session is killed while it sends to a worker that computes: the worker is ended
// and replaced, long before its call is done.
func TestKilledWhileSending(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 1)
	r.awaitWarm(1)
	s := r.startR(`
cl <- parallelly::makeClusterPSOCK(1, manual = TRUE, quiet = TRUE)
parallel:::sendCall(cl[[1]], Sys.sleep, list(3600))
cat("sending\n")
parallel:::sendCall(cl[[1]], length, list(raw(4e8)))
cat("sent\n")
`)
	s.awaitText("sending")
	r.await("a session that is blocked", func(s api.State) bool {
		return len(s.Clusters) == 1 && s.Clusters[0].Nodes[0].Activity.UpBytes > 1<<20
	})
	bound := pids(r.await("a bound worker", func(s api.State) bool { return count(s, pool.Bound) == 1 }), pool.Bound)
	s.signal(syscall.SIGKILL)
	s.wait()
	awaitEnd(t, bound["pod-a"])
	r.awaitWarm(1)
	if strings.Contains(s.text(), "sent\n") {
		t.Error("R was not blocked: the test shows nothing")
	}
}

// More nodes than workers: an R error that says what is missing and why, and the
// workers are free again.
func TestTooManyNodes(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t, "--demand-timeout", "2s")
	r.startAgent("pod-a", 3)
	r.awaitWarm(3)
	code := `
library(future)
e <- tryCatch(plan(cluster, workers = 5, manual = TRUE, quiet = TRUE), error = identity)
stopifnot(inherits(e, "error"))
cat(conditionMessage(e), "\n")
`
	out := r.R(code)
	for _, want := range []string{"3 of 3 workers are ready", "waited 2", "ask for at most 3"} {
		if !strings.Contains(out, want) {
			t.Errorf("the R error lacks %q:\n%s", want, out)
		}
	}
	r.awaitWarm(3)
	if got := r.metric("rendezvous_unmet_demand_total"); got != "2" {
		t.Errorf("rendezvous_unmet_demand_total is %s, want 2 (nodes 4 and 5)", got)
	}
	// The rest are missing for a reason.
	r.startAgent("pod-b", 2, "--rscript", "/nowhere/Rscript")
	r.await("failed workers", func(s api.State) bool { return count(s, pool.Failed) == 2 })
	out = r.R(code)
	for _, want := range []string{"3 of 5 workers are ready", "pod-b/0 is failed", "pod-b/1 is failed", "/nowhere/Rscript"} {
		if !strings.Contains(out, want) {
			t.Errorf("the R error lacks %q:\n%s", want, out)
		}
	}
	r.awaitWarm(3)
}

// A cluster that starts its own workers keeps them, whatever the pool holds.
func TestLocalClustersAreLeftAlone(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 2)
	r.awaitWarm(2)
	r.R(`
cl <- parallelly::makeClusterPSOCK(2)
pids <- unlist(parallel::clusterCall(cl, function() c(Sys.getpid(), parallelly:::pid_exists)[[1]]))
ppids <- unlist(parallel::clusterCall(cl, function() Sys.getenv("WORKER_AGENT_TEST", "own")))
stopifnot(all(ppids == "own"), length(unique(pids)) == 2)
parallel::stopCluster(cl)
cl <- parallel::makePSOCKcluster(2)
stopifnot(all(unlist(parallel::clusterCall(cl, Sys.getenv, "WORKER_AGENT_TEST", "own")) == "own"))
parallel::stopCluster(cl)
`, r.classic())
	r.awaitWarm(2)
	if got := r.metric("rendezvous_binds_total"); got != "0" {
		t.Errorf("%s nodes of local clusters were given workers", got)
	}
}

// A worker that is killed: idle, nobody notices; by its own task, each time, that
// future fails and the others go on.
func TestKilledWorker(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 3)
	r.awaitWarm(3)
	s, err := r.state()
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(s.Workers[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.R(`
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
stopifnot(nbrOfWorkers() == 3)
f <- lapply(1:3, function(k) future(k))
stopifnot(identical(value(f), as.list(1:3)))
plan(cluster, workers = 3, manual = TRUE, quiet = TRUE)
killed <- future(tools::pskill(Sys.getpid(), tools::SIGKILL))
other <- future({ Sys.sleep(1); "goes on" })
e <- tryCatch(value(killed), error = identity)
stopifnot(inherits(e, "FutureError"), identical(value(other), "goes on"))
stopifnot(grepl("worker pod-a/[0-2] was lost in this call: killed by SIGKILL", conditionMessage(e)))
`)
	r.awaitWarm(3)
	if got := r.metric(`rendezvous_worker_deaths_total{reason="signal"}`); got != "4" {
		t.Errorf("%s workers died of a signal, want 4: the idle one, and three of one future", got)
	}
}

// The classics: parallel, foreach, furrr, progress, a large object.
func TestParallelPackages(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 2)
	r.awaitWarm(2)
	for name, code := range map[string]string{
		"parallel": `
library(parallel)
cl <- makePSOCKcluster(rep("localhost", 2), manual = TRUE)
y <- 10
clusterExport(cl, "y")
invisible(clusterEvalQ(cl, library(stats)))
stopifnot(identical(parLapply(cl, 1:10, function(x) x + y), lapply(1:10, function(x) x + y)))
stopCluster(cl)`,
		"foreach": `
library(doParallel)
cl <- parallelly::makeClusterPSOCK(2, manual = TRUE, quiet = TRUE)
registerDoParallel(cl)
stopifnot(identical(foreach(i = 1:10, .combine = c) %dopar% sqrt(i), sqrt(1:10)))
parallel::stopCluster(cl)`,
		"furrr": `
library(furrr)
plan(cluster, manual = TRUE, quiet = TRUE)
stopifnot(identical(future_map_dbl(1:10, sqrt), sqrt(1:10)))`,
		"progress": `
library(future.apply); library(progressr)
plan(cluster, manual = TRUE, quiet = TRUE)
seen <- 0
withCallingHandlers(with_progress({
  p <- progressor(10)
  x <- future_lapply(1:10, function(i) { p(); i })
}, handlers = handler_void(), enable = TRUE), progression = function(c) seen <<- seen + 1)
stopifnot(identical(x, as.list(1:10)), seen >= 10)`,
		"large object": `
cl <- parallelly::makeClusterPSOCK(1, manual = TRUE, quiet = TRUE)
x <- runif(300e6 / 8)
stopifnot(identical(parallel::clusterCall(cl, identity, x)[[1]], x))
parallel::stopCluster(cl)`,
	} {
		t.Run(name, func(t *testing.T) {
			r.awaitWarm(2)
			inner := *r
			inner.t = t
			inner.R(code, r.classic())
		})
	}
	r.awaitWarm(2)
	if got := r.metric("rendezvous_opaque_streams_total"); got != "0" {
		t.Errorf("%s streams of real R were not followed", got)
	}
}
