package test

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// A plan with more nodes than there are workers: futures wait their turn, and a worker
// goes from node to node as it is.
func TestMoreNodesThanWorkers(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 2)
	r.awaitWarm(2)
	r.R(`
library(future)
plan(sequential)
want <- future.apply::future_lapply(1:60, function(i) c(i, rnorm(2)), future.seed = 42L, future.chunk.size = 1)
plan(cluster, manual = TRUE, quiet = TRUE)
stopifnot(nbrOfWorkers() == 10)
got <- future.apply::future_lapply(1:60, function(i) c(i, rnorm(2)), future.seed = 42L, future.chunk.size = 1)
stopifnot(identical(got, want))
pids <- unlist(future.apply::future_lapply(1:60, function(i) { Sys.sleep(0.01); Sys.getpid() }, future.chunk.size = 1))
print(table(pids))
stopifnot(length(unique(pids)) == 2)
e <- tryCatch(value(future(stop("mine"))), error = conditionMessage)
stopifnot(e == "mine", value(future(6 * 7)) == 42)
`, "NSLOTS=10")
	if n := r.metric("rendezvous_reruns_total"); n != "0" {
		t.Errorf("%s futures ran again", n)
	}
	if n := r.metric(`rendezvous_lost_calls_total{reason="no_worker"}`); n != "0" {
		t.Errorf("%s calls had no worker", n)
	}
}

// computing is a session that runs futures until there is a file at its gate, and
// compares every value with that of plan(sequential).
const computing = `
library(future)
gate <- Sys.getenv("GATE")
task <- function(n) future.apply::future_lapply(seq_len(n), function(i) { Sys.sleep(0.02); c(i, rnorm(1)) }, future.seed = 7L, future.chunk.size = 1)
plan(sequential)
want <- task(12)
plan(cluster, manual = TRUE, quiet = TRUE)
cat("planned", nbrOfWorkers(), "nodes\n")
for (round in 1:1000) {
	stopifnot(identical(task(12), want))
	cat("round", round, "done\n")
	if (file.exists(gate)) break
}
cat("all identical\n")
`

// Two sessions share a pool that either would use up: both get on, whoever came first.
func TestSessionsShare(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 3)
	r.awaitWarm(3)
	gate := filepath.Join(t.TempDir(), "gate")
	first := r.startR(computing, "GATE="+gate)
	first.awaitText("round 2 done")
	second := r.startR(computing, "GATE="+gate)
	second.awaitText("planned 3 nodes")
	for _, round := range []string{"round 2 done", "round 4 done", "round 6 done"} {
		second.awaitText(round)
	}
	before := strings.Count(first.text(), "round")
	eventually(t, "the first one to get on", func() bool { return strings.Count(first.text(), "round") > before+2 })
	openGate(t, gate)
	for _, s := range []*session{first, second} {
		s.awaitText("all identical")
		if code := s.wait(); code != 0 {
			t.Errorf("R exited with %d", code)
		}
	}
	if n := r.metric("rendezvous_reruns_total"); n != "0" {
		t.Errorf("%s futures ran again", n)
	}
	r.awaitWarm(3)
}

// Two sessions plan on one fixed port, which R leaves as soon as its nodes are connected:
// each has a cluster of its own, and nothing of the other's.
func TestSessionsOnOnePort(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 1)
	r.awaitWarm(1)
	plan := fmt.Sprintf(`
library(future)
plan(cluster, manual = TRUE, quiet = TRUE, port = %d)
`, r.first)
	gate := filepath.Join(t.TempDir(), "gate")
	first := r.startR(plan+`
pid <- value(future(Sys.getpid()))
cat("first", pid, "\n")
while (!file.exists(Sys.getenv("GATE"))) Sys.sleep(0.05)
cat("same value", value(future(6 * 7)), "\n")
`, "GATE="+gate, "NSLOTS=2")
	first.awaitText("first ")
	second := r.R(plan+`
cat("second", value(future(Sys.getpid())), "\n")
`, "NSLOTS=2")
	openGate(t, gate)
	first.awaitText("same value 42")
	if code := first.wait(); code != 0 {
		t.Errorf("R exited with %d", code)
	}
	if pids := regexp.MustCompile(`(?:first|second) (\d+)`).FindAllStringSubmatch(first.text()+second, -1); len(pids) != 2 || pids[0][1] == pids[1][1] {
		t.Errorf("the sessions had %q", pids)
	}
}

// A pool that grows is used at once by what computes already, and one that shrinks does
// not disturb it.
func TestPoolGrowsAndShrinks(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 1)
	r.awaitWarm(1)
	gate := filepath.Join(t.TempDir(), "gate")
	s := r.startR(computing, "GATE="+gate, "NSLOTS=4")
	s.awaitText("planned 4 nodes")
	s.awaitText("round 1 done")
	more := r.startAgent("pod-b", 3)
	r.await("four workers in use", func(s api.State) bool { return count(s, pool.Bound) == 4 })
	more.signal(15)
	if code := more.wait(); code != 0 {
		t.Errorf("the agent exited with %d", code)
	}
	before := strings.Count(s.text(), "round")
	eventually(t, "it to get on", func() bool { return strings.Count(s.text(), "round") > before+1 })
	openGate(t, gate)
	s.awaitText("all identical")
	if n := r.metric("rendezvous_reruns_total"); n != "0" {
		t.Errorf("%s futures ran again", n)
	}
}

// Without a worker a plan is the R error that says so.
func TestSharedPlanWithoutWorkers(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t, "--demand-timeout=1s")
	out := r.R(`
library(future)
e <- tryCatch(plan(cluster, manual = TRUE, quiet = TRUE), error = conditionMessage)
cat(e, "\n")
`)
	if !regexp.MustCompile(`0 of 0 workers are ready; a call waited \S+s for one; no worker agent is connected`).MatchString(out) {
		t.Error(out)
	}
}

// The workers of a cluster of the parallel package have state of their own: they are
// nobody else's, however long they idle and whoever waits.
func TestStateStays(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t, "--demand-timeout=15s")
	r.startAgent("pod-a", 2)
	r.awaitWarm(2)
	gate := filepath.Join(t.TempDir(), "gate")
	s := r.startR(`
library(parallel)
cl <- parallelly::makeClusterPSOCK(2, manual = TRUE, quiet = TRUE, validate = FALSE)
x <- clusterEvalQ(cl, x <- rnorm(1))
cat("set\n")
while (!file.exists(Sys.getenv("GATE"))) Sys.sleep(0.1)
stopifnot(identical(clusterEvalQ(cl, x), x))
cat("as it was\n")
`, "GATE="+gate)
	s.awaitText("set")
	// Longer than a worker may be idle that others could have.
	out := r.R(`
library(future)
e <- tryCatch(plan(cluster, manual = TRUE, quiet = TRUE), error = conditionMessage)
cat(e, "\n")
`)
	if !regexp.MustCompile(`2 of 2 workers are ready; a call waited \S+s for one \(0 in use by this cluster, 2 by others\)`).MatchString(out) {
		t.Error(out)
	}
	openGate(t, gate)
	s.awaitText("as it was")
}
