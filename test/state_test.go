package test

import (
	"path/filepath"
	"syscall"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// stateSession sets an option on the workers of a plan between two futures, or, with BEFORE,
// before the first one, and asks for it in futures: before the gate is open and after it. What
// TOLD has is what R is told first after the gate.
const stateSession = `
library(future)
pass <- function(gate) while (!file.exists(file.path(Sys.getenv("GATES"), gate))) Sys.sleep(0.01)
cl <- parallelly::makeClusterPSOCK(2, manual = TRUE, quiet = TRUE)
set <- function() invisible(parallel::clusterEvalQ(cl, options(k = 42)))
if (Sys.getenv("BEFORE") == "yes") set()
plan(cluster, workers = cl)
ask <- function() unlist(value(lapply(1:2, function(i) future({ Sys.sleep(0.3); getOption("k", 0) }))))
invisible(ask())
if (Sys.getenv("BEFORE") != "yes") set()
stopifnot(identical(ask(), c(42, 42)))
cat("set\n")
pass("gate")
if (Sys.getenv("TOLD") == "yes") {
	one <- function() future(getOption("k", 0))
	fails <- function() {
		e <- tryCatch(value(one()), error = identity)
		cat(conditionMessage(e), "\n")
		stopifnot(inherits(e, "FutureError"), grepl("worker pod-0/[01] was lost before this call: .*; what calls that are no futures have set on it, .* is lost with it: set it again", conditionMessage(e)))
	}
	fails()
	stopifnot(identical(value(one()), 0)) # the same node
	end <- tempfile()
	busy <- future(while (!file.exists(end)) Sys.sleep(0.01)) # it has no time
	fails()
	stopifnot(identical(value(one()), 0)) # the other one
	file.create(end)
	value(busy)
	set()
}
stopifnot(identical(ask(), c(42, 42)))
cat("as it was\n")
`

// startState starts such a session; open lets it pass its gate, and waits for its end.
func (r *runtime) startState(t *testing.T, env ...string) (open func()) {
	t.Helper()
	gates := t.TempDir()
	s := r.startR(stateSession, append(env, "GATES="+gates)...)
	s.awaitText("set\n")
	return func() {
		openGate(t, filepath.Join(gates, "gate"))
		if code := s.wait(); code != 0 {
			t.Errorf("R exited with %d", code)
		}
	}
}

// What is set on the workers of a plan, between two futures or before the first, is there for as
// long as the workers live, although another session wants them.
func TestStateBetweenFutures(t *testing.T) {
	t.Parallel()
	for _, before := range []string{"no", "yes"} {
		t.Run("before="+before, func(t *testing.T) {
			t.Parallel()
			r := startRendezvous(t, "--demand-timeout=15s")
			r.startAgentElsewhere("pod-0", 2)
			r.awaitWarm(2)
			open := r.startState(t, "BEFORE="+before)
			// Longer than a worker may be idle that others could have.
			r.R(`
library(future)
e <- tryCatch({ plan(cluster, manual = TRUE, quiet = TRUE); value(future(1)) }, error = conditionMessage)
cat(e, "\n")
stopifnot(grepl("2 of 2 workers are ready; a call waited \\S+s for one \\(0 in use by this cluster, 2 by others\\)", e))
`)
			open()
		})
	}
}

// When those workers are lost while the session rests, each node's next future is one error that
// says what is lost, and the node goes on with another worker.
func TestStateLost(t *testing.T) {
	t.Parallel()
	for _, before := range []string{"no", "yes"} {
		t.Run("before="+before, func(t *testing.T) {
			t.Parallel()
			r := startRendezvous(t)
			r.startAgentElsewhere("pod-0", 2)
			r.awaitWarm(2)
			open := r.startState(t, "BEFORE="+before, "TOLD=yes")
			s, err := r.state()
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range s.Workers {
				if err := syscall.Kill(w.PID, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			r.await("other workers", func(s api.State) bool { return count(s, pool.Warm) == 2 })
			open()
			if got := r.metric(`rendezvous_lost_calls_total{reason="state"}`); got != "2" {
				t.Errorf("R was told %s times, want once for each node", got)
			}
		})
	}
}

// A call that sets something on more nodes than there are workers is an R error that says so;
// with as many nodes it works.
func TestStateOnTooManyNodes(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t, "--demand-timeout=3s")
	r.startAgentElsewhere("pod-0", 2)
	r.awaitWarm(2)
	r.R(`
library(future)
cl <- rendezvous::cluster(6, share = TRUE)
plan(cluster, workers = cl)
stopifnot(identical(unlist(value(lapply(1:12, function(i) future(i)))), 1:12))
e <- tryCatch(parallel::clusterEvalQ(cl, options(k = 42)), error = conditionMessage)
cat(e, "\n")
stopifnot(grepl("2 of 2 workers are ready; a call waited \\S+s for one \\(2 in use by this cluster, 0 by others\\); 2 of them stay with nodes on which calls that are no futures, as of clusterEvalQ\\(\\), have set something; start more workers or ask for at most 2", e))
plan(sequential)
parallel::stopCluster(cl)
while (sum(rendezvous::workers()$state == "warm") < 2) Sys.sleep(0.1) # the next lease waits 3 s at most
plan(cluster, workers = cl <- rendezvous::cluster(2, share = TRUE))
ask <- function() unlist(value(lapply(1:2, function(i) future({ Sys.sleep(0.3); getOption("k", 0) }))))
stopifnot(identical(ask(), c(0, 0)))
invisible(parallel::clusterEvalQ(cl, options(k = 42)))
stopifnot(identical(ask(), c(42, 42)))
`, packageEnv(t))
}

// What future itself calls between two futures keeps no worker: four nodes take turns on two.
func TestFuturesKeepNoWorker(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t, "--demand-timeout=3s")
	r.startAgentElsewhere("pod-0", 2)
	r.awaitWarm(2)
	r.R(`
library(future)
cl <- rendezvous::cluster(4, share = TRUE)
for (arguments in list(list(gc = TRUE), list(earlySignal = TRUE))) {
	do.call(plan, c(list(cluster, workers = cl), arguments))
	for (round in 1:3) {
		fs <- lapply(1:4, function(i) future({ Sys.sleep(0.1); median(c(i, i)) }, packages = "stats"))
		stopifnot(identical(as.numeric(unlist(value(fs))), as.numeric(1:4)))
	}
	stopifnot(identical(future.apply::future_sapply(1:8, sqrt), sqrt(1:8)), identical(furrr::future_map_dbl(1:8, sqrt), sqrt(1:8)))
	plan(sequential)
}
`, packageEnv(t))
	for _, reason := range []string{"no_worker", "state"} {
		if n := r.metric(`rendezvous_lost_calls_total{reason="` + reason + `"}`); n != "0" {
			t.Errorf("%s calls were lost: %s", n, reason)
		}
	}
}

// A package that is attached on all nodes before the first future is attached on the next worker, too.
func TestAttachedPackage(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgentElsewhere("pod-0", 1)
	r.awaitWarm(1)
	gates := t.TempDir()
	session := r.startR(`
library(future)
cl <- parallelly::makeClusterPSOCK(1, manual = TRUE, quiet = TRUE)
invisible(parallel::clusterEvalQ(cl, library(splines)))
plan(cluster, workers = cl)
ask <- function() value(future(c("package:splines" %in% search(), Sys.getpid())))
first <- ask()
stopifnot(first[1] == 1)
cat("attached\n")
while (!file.exists(file.path(Sys.getenv("GATES"), "gate"))) Sys.sleep(0.01)
second <- ask()
stopifnot(second[1] == 1, second[2] != first[2])
`, "GATES="+gates)
	session.awaitText("attached\n")
	s, err := r.state()
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(s.Workers[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.awaitOthers(s)
	openGate(t, filepath.Join(gates, "gate"))
	if code := session.wait(); code != 0 {
		t.Errorf("R exited with %d", code)
	}
}
