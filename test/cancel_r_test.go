package test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// bystander stands before code that ends nodes. Each node gets the pid of a process of this host that
// has nothing to do with it, as a stale pid may be, and stands() fails unless that process lives.
const bystander = `
library(future)
pid <- as.integer(system("sleep 3600 >/dev/null 2>&1 & echo $!", intern = TRUE))
lives <- function(pid) { stat <- suppressWarnings(tryCatch(readLines(sprintf("/proc/%d/stat", pid)), error = function(e) "x) Z")); !grepl("[)] [ZX]", stat) }
wronged <- function(node) { node$session_info$process$pid <- pid; node$session_info$system$nodename <- Sys.info()[["nodename"]]; node }
stands <- function() stopifnot(lives(pid))
newer <- exists("cancel", asNamespace("future"))
# as_wronged has the plan's nodes carry that pid, where the plan keeps its nodes in a backend.
as_wronged <- function() { b <- plan("backend"); w <- b[["workers"]]; for (i in seq_along(w)) w[[i]] <- wronged(w[[i]]); b[["workers"]] <- w; b }
done <- function() { stands(); tools::pskill(pid, 9L); cat("all", if (newer) "newer" else "older", "fine\n") }
`

// sayDone fails unless the session came to its end, with the packages' assertions.
func sayDone(t *testing.T, out string) {
	t.Helper()
	if !strings.Contains(out, "all newer fine") && !strings.Contains(out, "all older fine") {
		t.Fatal(out)
	}
}

// A future that is canceled is an error at once, and others are untouched, as is every process
// beside the session. Before future had cancel(), the same holds of parallelly's killNode().
func TestCancel(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{2, 6} {
		t.Run(fmt.Sprint(nodes, " nodes"), func(t *testing.T) {
			t.Parallel()
			r := startRendezvous(t)
			r.startAgent("pod-a", 2)
			r.awaitWarm(2)
			file := t.TempDir() + "/begun"
			sayDone(t, r.R(bystander+fmt.Sprintf(`
if (newer) {
  plan(cluster, manual = TRUE, quiet = TRUE, interrupts = TRUE)
  as_wronged()
  others <- future({ Sys.sleep(4); "untouched" })
  f <- future({ cat("begun\n", file = %[1]q, append = TRUE); Sys.sleep(3600); 1 })
  while (!file.exists(%[1]q)) Sys.sleep(0.05)
  cancel(f)
  stopifnot(inherits(tryCatch(value(f), error = identity), "FutureCanceledError"))
  stands()
  stopifnot(value(others) == "untouched", value(future("next")) == "next")
  as_wronged()
  e <- tryCatch(suppressWarnings(future.apply::future_lapply(1:8, function(i) if (i == 1) stop("boom") else Sys.sleep(6), future.scheduling = Inf)), error = conditionMessage)
  stopifnot(identical(e, "boom"), value(future("after")) == "after", nbrOfWorkers() == %[2]d)
} else {
  plan(cluster, manual = TRUE, quiet = TRUE)
  stopifnot(nbrOfWorkers() == %[2]d)
  others <- future({ Sys.sleep(4); "untouched" })
  f <- future({ cat("begun\n", file = %[1]q, append = TRUE); Sys.sleep(3600); 1 })
  while (!file.exists(%[1]q)) Sys.sleep(0.05)
  node <- wronged(f$workers[[f$node]])
  stopifnot(isTRUE(parallelly::isNodeAlive(node)), isTRUE(parallelly::killNode(node)), identical(parallelly::isNodeAlive(node), FALSE))
  stopifnot(inherits(tryCatch(value(f), error = identity), "FutureError"), value(others) == "untouched")
}
plan(sequential)
stopifnot(length(readLines(%[1]q)) == 1) # nothing ran again
done()
`, file, nodes), fmt.Sprintf("NSLOTS=%d", nodes)))
			r.awaitWarm(2)
		})
	}
}

// Nodes tell the truth: those of the rendezvous, and of this session's own workers, whose processes are
// ended as ever. A node that has ended is made again.
func TestNodesTellTheTruth(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 2)
	r.awaitWarm(2)
	s := r.startR(bystander + `
suppressMessages(library(parallelly))
cl <- makeClusterPSOCK(2, manual = TRUE, quiet = TRUE)
for (i in 1:2) cl[[i]] <- wronged(cl[[i]])
stopifnot(identical(isNodeAlive(cl), c(TRUE, TRUE)))
warned <- tryCatch(killNode(cl[[1]], signal = 10L), warning = conditionMessage)
stopifnot(grepl("signal 10 cannot be sent", warned), isTRUE(isNodeAlive(cl[[1]])))
stopifnot(isTRUE(killNode(cl[[1]])), identical(isNodeAlive(cl), c(FALSE, TRUE)), identical(killNode(cl[[1]]), FALSE))
other <- rawConnection(raw(1)) # its number was the node's
stopifnot(identical(killNode(cl[[1]]), FALSE), identical(readBin(other, "raw"), raw(1)))
close(other)
stands()
if (exists("cloneNode", asNamespace("parallelly"))) {
  stopifnot(newer)
  cl[[1]] <- cloneNode(cl[[1]])
  stopifnot(identical(isNodeAlive(cl), c(TRUE, TRUE)), identical(parallel::clusterCall(cl, function() 42), list(42, 42)))
} else stopifnot(!newer)
stopifnot(isTRUE(killNode(cl[[2]])), is.logical(killNode(cl))) # its workers are free again

own <- makeClusterPSOCK(1)
process <- own[[1]]$session_info$process$pid
stopifnot(isTRUE(isNodeAlive(own[[1]])), lives(process), isTRUE(killNode(own[[1]])))
while (lives(process)) Sys.sleep(0.05)

# While the rendezvous is down nobody knows. When it is back, its nodes are not: they are made again.
cl <- makeClusterPSOCK(2, manual = TRUE, quiet = TRUE)
for (i in 1:2) cl[[i]] <- wronged(cl[[i]])
cat("connected\n")
while (!is.na(isNodeAlive(cl[[1]]))) Sys.sleep(0.05)
said <- character()
state <- withCallingHandlers(killNode(cl[[2]]), message = function(m) said <<- c(said, conditionMessage(m)))
stopifnot(identical(state, NA), grepl("does not tell whether a worker lives", said), identical(isNodeAlive(cl[[2]]), FALSE), is.na(isNodeAlive(cl[[1]])))
cat("nobody knows\n")
while (is.na(isNodeAlive(cl[[1]]))) Sys.sleep(0.05)
stopifnot(identical(isNodeAlive(cl[[1]]), FALSE), identical(killNode(cl[[1]]), FALSE))
if (newer) {
  cl[[1]] <- cloneNode(cl[[1]])
  stopifnot(isTRUE(isNodeAlive(cl[[1]])))
}
done()
`)
	s.awaitText("connected")
	r.signal(syscall.SIGKILL)
	r.wait()
	s.awaitText("nobody knows")
	r.start()
	s.wait()
	sayDone(t, s.text())
}

// The same by the R package, with and without turns.
func TestLeasedNodes(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 2)
	r.awaitWarm(2)
	sayDone(t, r.R(bystander+`
suppressMessages(library(parallelly))
answers <- function(cl) stopifnot(identical(parallel::clusterCall(cl, function() 42), list(42, 42)))
for (share in c(FALSE, TRUE)) {
  cl <- rendezvous::cluster(2, share = share)
  answers(cl)
  stopifnot(all(isNodeAlive(cl)), isTRUE(killNode(wronged(cl[[2]]))), identical(isNodeAlive(cl), c(TRUE, FALSE)), identical(killNode(cl[[2]]), FALSE))
  if (exists("cloneNode", asNamespace("parallelly"))) {
    cl[[2]] <- cloneNode(cl[[2]])
    e <- tryCatch(answers(cl), error = conditionMessage) # what the first calls may have set is lost
    stopifnot(grepl("is lost with it, and this node has replaced it", e))
    answers(cl)
    stopifnot(all(isNodeAlive(cl)), all(killNode(cl)))
    cl <- cloneNode(cl) # nothing of it was left
    answers(cl)
    plan(cluster, workers = cl, interrupts = TRUE)
    f <- future(Sys.sleep(3600))
    cancel(f)
    stopifnot(inherits(tryCatch(value(f), error = identity), "FutureCanceledError"), value(future("next")) == "next")
    plan(sequential)
  } else stopifnot(!newer)
  closeAllConnections()
}
done()
`, packageEnv(t)))
}

// A cluster of R processes that the session starts itself stays that: a node that is made
// again, as after future::cancel(), is no worker of the pool.
func TestLocalClusterIsMadeAgain(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	if !r.has("parallelly", "cloneNode") {
		return
	}
	r.startAgentElsewhere("pod-0", 2)
	r.awaitWarm(2)
	r.R(`
cl <- parallelly::makeClusterPSOCK(2)
here <- Sys.info()[["nodename"]]
for (i in 1:3) {
	stopifnot(isTRUE(parallelly::killNode(cl[[1]])))
	cl[[1]] <- parallelly::cloneNode(cl[[1]])
	stopifnot(identical(unlist(parallel::clusterCall(cl, function() Sys.info()[["nodename"]])), c(here, here)))
}
`)
	r.awaitWarm(2)
}
