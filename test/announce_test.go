package test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// busy keeps processors busy until the test ends, or it is called.
func busy(t *testing.T, loops int) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for range loops {
		loop := exec.CommandContext(ctx, "sh", "-c", "while :; do :; done")
		if err := loop.Start(); err != nil {
			t.Fatal(err)
		}
		running.Go(func() { _ = loop.Wait() }) // it is killed
	}
	stop = func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	return stop
}

// soak is how long a test of random trouble lasts: PSOCK_SOAK, as Go writes durations, or
// what it is by default.
func soak(t *testing.T, unset time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv("PSOCK_SOAK")
	if text == "" {
		return unset
	}
	lasts, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal("PSOCK_SOAK: ", err)
	}
	return lasts
}

// ownClusters makes every kind of cluster that starts its own workers, for SECONDS and at least
// once, and fails if one of them has others.
const ownClusters = `
library(parallel); library(future)
Sys.setenv(MARK = "mine"); x <- 1:3
check <- function(marks, n) if (!identical(as.character(unlist(marks)), rep("mine", n))) stop("the workers are others: ", toString(marks))
mine <- function(cl, n) { marks <- clusterCall(cl, Sys.getenv, "MARK"); stopCluster(cl); check(marks, n) }
fork <- function() {
  cl <- parallel::makeForkCluster(2)
  on.exit(parallel::stopCluster(cl))
  parallel::clusterCall(cl, Sys.getenv, "MARK")
}
end <- Sys.time() + as.numeric(Sys.getenv("SECONDS")); rounds <- 0
while (rounds == 0 || Sys.time() < end) {
  cl <- makeForkCluster(3)
  sums <- unlist(clusterEvalQ(cl, sum(x)))
  stopCluster(cl)
  if (!identical(sums, c(6L, 6L, 6L))) stop("the forks are others: ", toString(sums))
  mine(makeCluster(2, setup_strategy = "sequential"), 2)
  mine(makeCluster(2), 2)
  mine(parallelly::makeClusterPSOCK(2), 2)
  mine(parallelly::makeClusterPSOCK(2, setup_strategy = "sequential"), 2)
  check(callr::r(fork), 2)
  plan(list(tweak(multisession, workers = 2), tweak(multisession, workers = I(2))))
  f <- future({ inner <- future(Sys.getenv("MARK")); c(Sys.getenv("MARK"), value(inner), unlist(fork())) })
  check(value(f), 4)
  plan(sequential)
  rounds <- rounds + 1
}
cat("all mine,", rounds, "rounds\n")
`

// Clusters that start their own workers have them, next to an idle pool, on a busy machine and
// then, with PSOCK_SOAK for a third of the time, on an idle one; and no worker of the pool is touched.
func TestOwnClusters(t *testing.T) {
	t.Parallel()
	lasts := soak(t, 0)
	r := startRendezvous(t, "--grace", "0s") // with it, a socket that is not announced is served at once
	r.startAgent("pod-a", 3)
	before := r.await("the workers", func(s api.State) bool { return count(s, pool.Warm) == 3 })
	type stage struct {
		loops int
		lasts time.Duration
	}
	stages := []stage{{4, lasts * 2 / 3}}
	if lasts > 0 {
		stages = append(stages, stage{0, lasts / 3})
	}
	for _, stage := range stages {
		stop := busy(t, stage.loops)
		s := r.startR(ownClusters, fmt.Sprintf("SECONDS=%.0f", stage.lasts.Seconds()), r.classic())
		if code := s.waitFor(stage.lasts); code != 0 || !strings.Contains(s.text(), "all mine") {
			t.Errorf("R exited with %d and says %q", code, s.text())
		}
		stop()
		t.Log("beside ", stage.loops, " busy loops: ", s.text())
	}
	after := r.await("the workers, idle", func(s api.State) bool { return count(s, pool.Warm) == 3 && len(s.Clusters) == 0 })
	for i, w := range after.Workers {
		if w.PID != before.Workers[i].PID {
			t.Errorf("worker %d was process %d and is %d", i, before.Workers[i].PID, w.PID)
		}
	}
	if n := r.metric("rendezvous_binds_total"); n != "0" {
		t.Errorf("%s nodes were bound, want none", n)
	}
}

// A session that listens for a program of its own, which nothing announces, gets it although it
// comes later than the grace, since it can be seen; so does a cluster of a session that does not
// read the profile.
func TestUnannouncedListener(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t, "--grace", "100ms")
	r.startAgent("pod-a", 1)
	r.awaitWarm(1)
	s := r.startR(`
port <- as.integer(Sys.getenv("R_PARALLEL_PORT"))
worker <- 'Sys.sleep(2); con <- socketConnection(port = as.integer(Sys.getenv("R_PARALLEL_PORT")), blocking = TRUE, open = "a+b"); serialize("mine", con)'
system2(file.path(R.home("bin"), "Rscript"), c("-e", shQuote(worker), "MASTER=localhost", paste0("PORT=", port)), wait = FALSE)
con <- socketConnection(port = port, server = TRUE, blocking = TRUE, open = "a+b", timeout = 300)
cat(unserialize(con), "\n")
library(parallel)
Sys.setenv(MARK = "mine")
cl <- makeCluster(2, setup_strategy = "sequential")
cat(unlist(clusterCall(cl, Sys.getenv, "MARK")), "\n")
stopCluster(cl)`, "R_PROFILE=/dev/null", r.classic())
	if code := s.wait(); code != 0 || !strings.Contains(s.text(), "mine \nmine mine \n") {
		t.Errorf("R exited with %d and says %q", code, s.text())
	}
	r.awaitWarm(1)
}

// A session that does not read the profile, and has no workers of its own, gets the pool's.
func TestSessionWithoutProfile(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t, "--grace", "100ms")
	r.startAgent("pod-a", 2)
	r.awaitWarm(2)
	if out := r.R(`library(future); plan(cluster, workers = 2, manual = TRUE, quiet = TRUE); cat("sum", sum(unlist(value(lapply(1:4, function(i) future(i))))))`,
		"R_PROFILE=/dev/null"); !strings.Contains(out, "sum 10") {
		t.Errorf("R says %q", out)
	}
}
