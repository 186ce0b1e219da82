package test

import (
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// busy keeps processors busy until the test ends.
func busy(t *testing.T, loops int) {
	t.Helper()
	stop := make(chan struct{})
	ended := make(chan struct{})
	for range loops {
		go func() {
			for {
				select {
				case <-stop:
					ended <- struct{}{}
					return
				default:
					goruntime.Gosched()
				}
			}
		}()
	}
	t.Cleanup(func() {
		close(stop)
		for range loops {
			<-ended
		}
	})
}

// ownClusters makes every kind of cluster that starts its own workers, TIMES times, and fails
// if one of them has others.
const ownClusters = `
library(parallel)
Sys.setenv(MARK = "mine"); x <- 1:3
mine <- function(cl, n) {
  marks <- unlist(clusterCall(cl, Sys.getenv, "MARK"))
  stopCluster(cl)
  if (!identical(marks, rep("mine", n))) stop("the workers are others: ", toString(marks))
}
for (i in seq_len(as.integer(Sys.getenv("TIMES")))) {
  cl <- makeForkCluster(3)
  sums <- unlist(clusterEvalQ(cl, sum(x)))
  stopCluster(cl)
  if (!identical(sums, c(6L, 6L, 6L))) stop("the forks are others: ", toString(sums))
  mine(makeCluster(2, setup_strategy = "sequential"), 2)
  mine(makeCluster(2), 2)
  mine(parallelly::makeClusterPSOCK(2), 2)
  mine(parallelly::makeClusterPSOCK(2, setup_strategy = "sequential"), 2)
}
cat("all mine\n")
`

// Clusters that start their own workers have them, next to an idle pool and on a busy machine,
// and no worker of the pool is touched.
func TestOwnClusters(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t, "--grace", "0s") // with it, a socket that is not announced is served at once
	r.startAgent("pod-a", 3)
	before := r.await("the workers", func(s api.State) bool { return count(s, pool.Warm) == 3 })
	busy(t, 2)
	if out := r.R(ownClusters, "TIMES=2", r.classic()); !strings.Contains(out, "all mine") {
		t.Errorf("R says %q", out)
	}
	if out := r.R(`
library(future)
Sys.setenv(MARK = "mine")
plan(multisession, workers = 2)
stopifnot(identical(value(future(Sys.getenv("MARK"))), "mine"))
plan(list(tweak(multisession, workers = 2), tweak(multisession, workers = 2)))
f <- future({ a <- future(Sys.getenv("MARK")); value(a) })
stopifnot(identical(value(f), "mine"))
cat("mine\n")`); !strings.Contains(out, "mine") {
		t.Errorf("R says %q", out)
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

// open lets a session go on that waits for the file.
func open(t *testing.T, gate string) {
	t.Helper()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Two sessions of one user on one port: neither ever gets a process that the other has used.
func TestSamePort(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 4)
	r.awaitWarm(4)
	gate := filepath.Join(t.TempDir(), "gate")
	first := r.startR(`
library(future)
plan(cluster, workers = 2, manual = TRUE, quiet = TRUE)
set <- function() invisible(value(lapply(1:2, function(i) future({ options(tenant = "A"); Sys.setenv(DB_URL = "secret of A"); Sys.sleep(0.3) }))))
set()
cat("resting\n")
while (!file.exists(Sys.getenv("GATE"))) Sys.sleep(0.05)
set()
cat("done\n")`, r.classic(), "GATE="+gate)
	first.awaitText("resting\n")
	for _, code := range []string{
		`cl <- parallelly::makeClusterPSOCK(2, manual = TRUE, quiet = TRUE)
print(unlist(parallel::clusterCall(cl, function() c(getOption("tenant", "nobody"), Sys.getenv("DB_URL", "nothing")))))`,
		`library(future); plan(cluster, workers = 2, manual = TRUE, quiet = TRUE)
print(unlist(value(lapply(1:2, function(i) future({ Sys.sleep(0.3); c(getOption("tenant", "nobody"), Sys.getenv("DB_URL", "nothing")) })))))`,
	} {
		if out := r.R(code, r.classic()); strings.Count(out, "nobody") != 2 || strings.Count(out, "nothing") != 2 {
			t.Errorf("the second session sees the first one's state: %q", out)
		}
	}
	open(t, gate)
	if code := first.wait(); code != 0 || !strings.Contains(first.text(), "done") {
		t.Errorf("the first session exited with %d: %s", code, first.text())
	}
}

// R is stopped for a while at some moment of a plan: it completes, and meanwhile no worker is
// kept from another session.
func TestStoppedWhilePlanning(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 2)
	r.awaitWarm(2)
	for name, nodes := range map[string]int{"before its nodes": 0, "at the first node": 1, "at the last node": 2} {
		t.Run(name, func(t *testing.T) {
			gate := filepath.Join(t.TempDir(), "gate")
			s := r.startR(`library(future); cat("planning\n"); plan(cluster, manual = TRUE, quiet = TRUE)
while (!file.exists(Sys.getenv("GATE"))) Sys.sleep(0.05)
cat(nbrOfWorkers(), value(future(1)), "\n")`, "GATE="+gate)
			s.awaitText("planning\n")
			r.await("its nodes", func(a api.State) bool {
				return nodes == 0 || len(a.Clusters) == 1 && len(a.Clusters[0].Nodes) >= nodes
			})
			s.signal(syscall.SIGSTOP)
			if out := r.R(`library(future); plan(cluster, manual = TRUE, quiet = TRUE); cat("sum", value(future(1)) + value(future(2)))`); !strings.Contains(out, "sum 3") {
				t.Errorf("meanwhile another session says %q", out)
			}
			s.signal(syscall.SIGCONT)
			open(t, gate)
			if code := s.wait(); code != 0 || !strings.Contains(s.text(), "2 1") {
				t.Errorf("R exited with %d and says %q", code, s.text())
			}
			r.await("its end", func(a api.State) bool { return len(a.Clusters) == 0 })
		})
	}
}
