package test

import (
	"path/filepath"
	"syscall"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// againSession sets an option on the workers of a plan, loses the connection of one by WAY, and asks
// for the option in futures. future from 1.49 on makes that node again, and each such node tells once
// what is lost. Older ones never use it again: for them it is busy with the future that was lost.
const againSession = `
library(future)
newer <- exists("cancel", asNamespace("future"))
pass <- function(gate) while (!file.exists(file.path(Sys.getenv("GATES"), gate))) Sys.sleep(0.01)
how <- Sys.getenv("WAY")
cl <- if (how == "lease") rendezvous::cluster(2, share = TRUE) else parallelly::makeClusterPSOCK(2, manual = TRUE, quiet = TRUE)
if (newer) plan(cluster, workers = cl, interrupts = TRUE) else plan(cluster, workers = cl)
ask <- function() value(future(getOption("k", 0)))
stopifnot(identical(ask(), 0))
invisible(parallel::clusterEvalQ(cl, options(k = 42)))
stopifnot(identical(ask(), 42))
if (how == "answer") {
	f <- future(runif(2e7))
	cat("computing\n")
	pass("gate")
	e <- tryCatch(value(f), error = identity)
	cat(conditionMessage(e), "\n")
	stopifnot(inherits(e, "FutureError"))
} else {
	begun <- file.path(Sys.getenv("GATES"), "begun")
	f <- future({ file.create(begun); Sys.sleep(3600) })
	pass("begun")
	if (newer) cancel(f) else parallelly::killNode(f$workers[[f$node]])
	stopifnot(inherits(tryCatch(value(f), error = identity), "FutureError"))
}
if (newer) {
	e <- tryCatch(ask(), error = identity)
	cat(conditionMessage(e), "\n")
	stopifnot(inherits(e, "FutureError"), grepl("worker pod-0/[01] was lost before this call: .*; what calls that are no futures have set on it, .*, is lost with it, and this node has replaced it: ", conditionMessage(e)))
	stopifnot(identical(ask(), 0), identical(ask(), 0))
	end <- tempfile()
	busy <- future(while (!file.exists(end)) Sys.sleep(0.01))
	stopifnot(identical(ask(), 42)) # the other node
	file.create(end)
	value(busy)
} else stopifnot(identical(ask(), 42), identical(ask(), 42)) # on the other node
cat("as expected\n")
`

// A node with state whose connection ends, and that future makes again, is one error that says what is
// lost, and then a node without state.
func TestStateOfNodeMadeAgain(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"cancel", "lease", "answer"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			r := startRendezvous(t)
			r.startAgentElsewhere("pod-0", 2)
			r.awaitWarm(2)
			gates := t.TempDir()
			s := r.startR(againSession, "WAY="+way, "GATES="+gates, packageEnv(t))
			if way == "answer" {
				s.awaitText("computing\n")
				// R does not read: some of the answer is in its kernel's buffers.
				state := r.await("a part of an answer", func(s api.State) bool { return answering(s) >= 0 })
				if err := syscall.Kill(answering(state), syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				openGate(t, filepath.Join(gates, "gate"))
			}
			if code := s.wait(); code != 0 {
				t.Errorf("R exited with %d", code)
			}
		})
	}
}

// answering is the process of the worker that has answered more than a megabyte, -1 for none.
func answering(s api.State) int {
	for _, c := range s.Clusters {
		for _, n := range c.Nodes {
			if n.Activity.DownBytes < 1<<20 {
				continue
			}
			for _, w := range s.Workers {
				if w.State == pool.Bound && w.Name() == n.Worker {
					return w.PID
				}
			}
		}
	}
	return -1
}
