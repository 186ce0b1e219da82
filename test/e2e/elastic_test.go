//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// fromZero are the values of a release with no worker while nobody wants one, and up to
// six, which go when nobody has wanted them for ten seconds.
const fromZero = headless + " --set worker.autoscaling.enabled=true --set worker.autoscaling.max=6 --set worker.autoscaling.idle=10s --set worker.drainSeconds=5"

// awaitNoWorkers waits until there is no worker pod.
func (n *namespace) awaitNoWorkers() {
	n.t.Helper()
	n.eventually("no worker pod", func() bool { return len(n.workerPods()) == 0 })
}

// TestFromZero is line 1 and line 2: pods start for what is asked, by the package and by
// the post's line, without a number, and go when they are idle, though a session keeps
// its plan; and again.
func TestFromZero(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.install(fromZero)
	n.awaitNoWorkers()
	for round := range 2 {
		out := n.r(`
library(future)
plan(cluster, workers = rendezvous::cluster(6))
pods <- future.apply::future_sapply(1:6, function(i) Sys.info()[["nodename"]], future.chunk.size = 1)
cat(paste0("pod=", pods), sep = "\n")
`)
		if names := pods(out); distinct(names) != 6 {
			t.Errorf("round %d: futures ran in %d pods, want 6:\n%s", round, distinct(names), out)
		}
		if !strings.Contains(out, "of 6 workers are ready") {
			t.Errorf("round %d: no progress while pods start:\n%s", round, out)
		}
		n.awaitNoWorkers()
	}

	// The post's line asks for as many as there may be, and computes as soon as one is there.
	s := n.startR(`
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
stopifnot(nbrOfWorkers() == 6)
compute <- function() future.apply::future_sapply(1:60, function(i) { Sys.sleep(0.5); Sys.info()[["nodename"]] }, future.chunk.size = 1)
cat("first", length(unique(compute())), "\n")
while (!file.exists("/tmp/gate")) Sys.sleep(0.1)
cat("second", length(unique(compute())), "\n")
`)
	s.await("first ")
	if !strings.Contains(s.text(), "no worker is ready yet, plan() waits for the first one: 0 of ") {
		t.Errorf("R does not say for what it waits:\n%s", s.text())
	}
	// Its plan is there, and holds nobody.
	n.awaitNoWorkers()
	n.open("/tmp/gate")
	if out := s.wait(); strings.Contains(out, "first 1 ") || strings.Contains(out, "second 1 ") {
		t.Errorf("the pool did not grow while it computed:\n%s", out)
	}
	if n := n.metric("rendezvous_reruns_total"); n != "0" {
		t.Errorf("%s futures ran again", n)
	}
}

// elasticSession runs long and short futures, and compares their values with those of
// plan(sequential).
const elasticSession = `
library(future)
task <- function(n, scale) future.apply::future_lapply(seq_len(n), function(i) { Sys.sleep(scale * (i %% 10)); c(i, rnorm(1)) }, future.seed = 3L, future.chunk.size = 1)
plan(sequential)
want <- task(50, 0)
plan(cluster, manual = TRUE, quiet = TRUE)
cat("planned\n")
stopifnot(identical(task(50, 0.2), want))
cat("done\n")
`

// TestElasticSessions is line 3: two sessions on a pool that grows from one to six and
// shrinks again; every value is right, no future runs twice, and both get on.
func TestElasticSessions(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.install(fromZero, "--set worker.autoscaling.min=1")
	first, second := n.startR(elasticSession), n.startR(elasticSession)
	n.eventually("six worker pods", func() bool { return len(n.workerPods()) == 6 })
	for _, s := range []*script{first, second} {
		if out := s.wait(); !strings.Contains(out, "done") {
			t.Error(out)
		}
	}
	// A long future goes on while the others' pods go.
	s := n.startR(`
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
f <- future({ Sys.sleep(60); Sys.info()[["nodename"]] })
cat("computing\n")
cat("on", value(f), "\n")
`)
	s.await("computing")
	n.eventually("one worker pod", func() bool { return len(n.workerPods()) == 1 })
	if strings.Contains(s.text(), "on ") {
		t.Fatal("the future was done before its pod could be ended")
	}
	last := n.workerPods()[0]
	if out := s.wait(); !strings.Contains(out, "on "+last) {
		t.Errorf("want it to run on %s:\n%s", last, out)
	}
	if n := n.metric("rendezvous_reruns_total"); n != "0" {
		t.Errorf("%s futures ran again", n)
	}
}
