package test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// has reports whether a package of the stack has something by that name.
func (r *runtime) has(pkg, name string) bool {
	r.t.Helper()
	return strings.HasSuffix(r.R(`cat(exists("`+name+`", asNamespace("`+pkg+`")))`), "TRUE")
}

// Plans within plans, temporary plans, and the plan that R begins with.
func TestWaysToPlan(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 3)
	r.awaitWarm(3)
	r.R(`
library(future)
stopifnot(nbrOfWorkers() == 1)
ours <- tweak(cluster, manual = TRUE, quiet = TRUE)
# A future of a plan within a plan runs in R processes of its worker's.
plan(list(ours, tweak(multisession, workers = I(2))))
inner <- value(future({ c(future::nbrOfWorkers(), length(unique(unlist(future::value(lapply(1:2, function(i) future::future({ Sys.sleep(0.5); Sys.getpid() }))))))) }))
stopifnot(identical(as.integer(inner), c(2L, 2L)))
plan(list(ours, sequential))
stopifnot(identical(value(future(future::value(future::future(42)))), 42))
# Given back within a function.
f <- function() { old <- plan(ours); on.exit(plan(old)); c(nbrOfWorkers(), value(future(42))) }
plan(sequential)
stopifnot(identical(as.integer(f()), c(3L, 42L)), nbrOfWorkers() == 1)
if (exists("with.FutureStrategyList", asNamespace("future"))) {
	with(plan(ours), stopifnot(nbrOfWorkers() == 3, value(future(42)) == 42))
	stopifnot(nbrOfWorkers() == 1)
}
`)
	r.awaitWarm(3)
	// It names a strategy, without arguments.
	r.R(`
library(future)
plan(plan(), manual = TRUE, quiet = TRUE)
stopifnot(nbrOfWorkers() == 3, value(future(42)) == 42)
`, "R_FUTURE_PLAN=cluster")
	r.awaitWarm(3)
}

// parallel's functions on a cluster of futures, of which a worker dies: that future runs
// again.
func TestClusterOfFutures(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	if !r.has("future", "makeClusterFuture") { // future >= 1.58
		return
	}
	r.startAgent("pod-a", 2)
	r.awaitWarm(2)
	r.R(`
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
cl <- makeClusterFuture()
mark <- Sys.getenv("MARK")
dies <- function(i, mark) {
	if (i == 2 && !file.exists(mark)) {
		file.create(mark)
		tools::pskill(Sys.getpid(), tools::SIGKILL)
	}
	i^2
}
stopifnot(identical(unlist(parallel::parLapply(cl, 1:8, dies, mark)), (1:8)^2), file.exists(mark))
`, "MARK="+filepath.Join(t.TempDir(), "mark"))
	if got := r.metric("rendezvous_reruns_total"); got == "0" {
		t.Error("no future ran again")
	}
}

// An interrupt while R sends a large call to a worker that is slow to take it: R from 4.4 on
// stops sending in the middle. The next future gets its value; parallel's next call fails, or
// is right.
func TestInterruptedSend(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	if r.R(`cat(getRversion() >= "4.4.0")`) == "FALSE" {
		return
	}
	r.startAgent("pod-a", 1)
	for name, program := range map[string]string{
		"future": `
plan(cluster, manual = TRUE, quiet = TRUE)
big <- raw(4e8)
interrupted(future(length(big)))
stopifnot(identical(value(future(42)), 42), identical(value(future(43)), 43))
`,
		"parallel": `
cl <- parallelly::makeClusterPSOCK(1, manual = TRUE, quiet = TRUE)
interrupted(parallel::clusterCall(cl, sum, numeric(5e7)))
got <- tryCatch(parallel::clusterCall(cl, sum, rep(1, 1e5)), error = function(e) "an error")
cat("got:", unlist(got), "\n")
stopifnot(identical(got, "an error") || identical(got, list(1e5)))
try(parallel::stopCluster(cl), silent = TRUE)
cl <- parallelly::makeClusterPSOCK(1, manual = TRUE, quiet = TRUE)
stopifnot(identical(parallel::clusterCall(cl, sum, rep(1, 10)), list(10)))
`,
	} {
		t.Run(name, func(t *testing.T) {
			r.awaitWarm(1)
			gate := filepath.Join(t.TempDir(), "gate")
			s := r.startR(`
library(future)
options(future.globals.maxSize = Inf)
interrupted <- function(call) {
  cat("begins\n")
  stopifnot(identical(tryCatch({ call; "sent" }, interrupt = function(e) "interrupted"), "interrupted"))
  cat("interrupted\n")
  while (!file.exists(Sys.getenv("GATE"))) Sys.sleep(0.01)
}
`+program+`
cat("goes on\n")
`, "GATE="+gate)
			s.awaitText("begins")
			state := r.await("the worker to get data", func(s api.State) bool {
				return len(s.Clusters) == 1 && len(s.Clusters[0].Nodes) == 1 && s.Clusters[0].Nodes[0].Activity.UpBytes > 1<<20
			})
			worker := state.Workers[0].PID
			if err := syscall.Kill(worker, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			s.signal(syscall.SIGINT)
			s.awaitText("interrupted")
			if err := syscall.Kill(worker, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			openGate(t, gate)
			s.awaitText("goes on")
			if code := s.wait(); code != 0 {
				t.Errorf("R exited with %d", code)
			}
		})
	}
	r.awaitWarm(1)
}

// The same plan again has the workers that there are by then, and keeps its nodes when their
// number is as it was: beside what runs futures elsewhere, and beside a cluster of the session's own.
func TestPlanAgain(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 1)
	r.awaitWarm(1)
	gate := filepath.Join(t.TempDir(), "gate")
	const wait = `wait <- function(gate) while (!file.exists(gate)) Sys.sleep(0.01)
gate <- Sys.getenv("GATE")
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
`
	s := r.startR(wait+`
stopifnot(nbrOfWorkers() == 1)
# future has backends, and skips a plan that it has already, since 1.40 only.
nodes <- function() vapply(attr(plan("list")[[1L]], "backend", exact = TRUE)$workers, function(n) n$session_info$process$pid, 1L)
same <- function() {
  before <- nodes()
  plan(cluster, manual = TRUE, quiet = TRUE)
  identical(before, nodes())
}
stopifnot(same())
cat("planned\n")
wait(gate)
plan(cluster, manual = TRUE, quiet = TRUE)
stopifnot(nbrOfWorkers() == 3)
cat("planned three\n")
wait(paste0(gate, 2))
stopifnot(same(), nbrOfWorkers() == 3)
cat("planned beside another\n")
wait(paste0(gate, 3))
plan(sequential)
own <- parallelly::makeClusterPSOCK(1, manual = TRUE, quiet = TRUE)
plan(cluster, manual = TRUE, quiet = TRUE)
stopifnot(nbrOfWorkers() == 2, same())
parallel::stopCluster(own)
plan(cluster, workers = 2, manual = TRUE, quiet = TRUE)
plan(cluster, workers = 2, manual = TRUE, quiet = TRUE)
stopifnot(nbrOfWorkers() == 2, value(future(42)) == 42)
`, "GATE="+gate)
	open := func(gate string) {
		t.Helper()
		openGate(t, gate)
	}
	s.awaitText("planned")
	r.startAgent("pod-b", 2)
	r.await("three workers", func(s api.State) bool { return count(s, pool.Warm)+count(s, pool.Bound) == 3 })
	open(gate)
	s.awaitText("planned three")
	other := r.startR(wait+`
f <- future({ wait(gate); 42 })
cat("computes\n")
stopifnot(value(f) == 42)
plan(sequential)
`, "GATE="+gate+"3")
	other.awaitText("computes")
	open(gate + "2")
	s.awaitText("planned beside another")
	open(gate + "3")
	for _, s := range []*session{s, other} {
		if code := s.wait(); code != 0 {
			t.Errorf("R exited with %d", code)
		}
	}
}
