package test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// rerunSession is one future on one worker, with gates at its moments. Its value is
// large both ways, depends on its seed, and is compared with that of plan(sequential).
const rerunSession = `
library(future)
dir <- Sys.getenv("GATES")
pass <- function(gate) while (!file.exists(file.path(dir, gate))) Sys.sleep(0.01)
big <- seq_len(if (Sys.getenv("MOMENT") == "request") 25e6 else 6.5e6) + 0.5
waits <- Sys.getenv("MOMENT") == "computing"
task <- function() future({
	mark <- file.path(dir, "computing")
	if (waits && !file.exists(mark)) { file.create(mark); Sys.sleep(3600) }
	list(big + 1, rnorm(3))
}, seed = 42L)
plan(cluster, workers = 1, manual = TRUE, quiet = TRUE)
cat("planned\n")
pass("begin")
f <- task()
pass("read")
v <- tryCatch(value(f), error = identity)
waits <- FALSE
plan(sequential)
if (Sys.getenv("MOMENT") == "answer") {
	stopifnot(inherits(v, "FutureError"))
} else {
	if (inherits(v, "error")) stop(v)
	stopifnot(identical(v, value(task())))
}
cat("as expected\n")
`

// Whatever a future's worker is lost by, at every moment of the future: another one
// takes its place and R does not notice, but where it has part of the answer.
func TestRerun(t *testing.T) {
	t.Parallel()
	for _, victim := range []string{"worker", "agent"} {
		for _, moment := range []string{"before", "request", "computing", "answer"} {
			t.Run(victim+" killed "+moment, func(t *testing.T) {
				t.Parallel()
				testRerun(t, victim, moment)
			})
		}
	}
}

func testRerun(t *testing.T, victim, moment string) {
	r := startRendezvous(t)
	agent := r.startAgent("pod-a", 1)
	r.awaitWarm(1)
	r.startAgent("pod-b", 1)
	r.awaitWarm(2)
	lossAt{
		t: t, moment: moment, await: r.await,
		start: func(env ...string) *process { return r.startR(rerunSession, env...).process },
		fail: func(pid int) {
			if victim == "agent" {
				agent.signal(syscall.SIGKILL)
			} else if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		},
	}.run()
	want := map[string]string{"before": "0", "request": "1", "computing": "1", "answer": "0"}[moment]
	if got := r.metric("rendezvous_reruns_total"); got != want {
		t.Errorf("%s reruns, want %s", got, want)
	}
}

// lossAt is the loss of the worker of rerunSession, which is on pod-a, at one moment.
type lossAt struct {
	t      *testing.T
	moment string
	await  func(what string, ok func(api.State) bool) api.State
	start  func(env ...string) *process // of the session
	fail   func(pid int)                // how the worker is lost
	unseen bool                         // the future begins before the loss is noticed
}

func (l lossAt) run() {
	l.t.Helper()
	gates := l.t.TempDir()
	open := func(gate string) { openGate(l.t, filepath.Join(gates, gate)) }
	s := l.start("GATES="+gates, "MOMENT="+l.moment)
	s.awaitText("planned")
	pid := pids(l.await("a bound worker", func(s api.State) bool { return count(s, pool.Bound) == 1 }), pool.Bound)["pod-a"]
	if pid == 0 {
		l.t.Fatal("the worker that was warm first is not the one that is bound")
	}
	relayed := func(enough func(up, down int64) bool) {
		l.await("enough bytes", func(s api.State) bool {
			if len(s.Clusters) == 0 || len(s.Clusters[0].Nodes) == 0 {
				l.t.Fatal("the session has ended")
			}
			a := s.Clusters[0].Nodes[0].Activity
			return enough(a.UpBytes, a.DownBytes)
		})
	}
	switch l.moment {
	case "before":
		l.fail(pid)
		if !l.unseen {
			l.await("a vacant node", func(s api.State) bool { return s.Clusters[0].Nodes[0].State == "vacant" })
		}
		open("begin")
		open("read")
	case "request":
		open("begin")
		open("read")
		relayed(func(up, _ int64) bool { return up > 1<<20 })
		// What is on its way from here on stays there.
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			l.t.Fatal(err)
		}
		relayed(func(up, _ int64) bool { return up < 190<<20 })
		l.fail(pid)
	case "computing":
		open("begin")
		open("read")
		eventually(l.t, "the task", func() bool { _, err := os.Stat(filepath.Join(gates, "computing")); return err == nil })
		l.fail(pid)
	case "answer":
		open("begin")
		relayed(func(_, down int64) bool { return down > 1<<20 })
		l.fail(pid)
		// R reads when no more of it can come.
		awaitEnd(l.t, pid)
		open("read")
	}
	s.awaitText("as expected")
	if code := s.wait(); code != 0 {
		l.t.Errorf("R exited with %d", code)
	}
}

// What futures do is the same when each of them has lost its first worker: nested
// futures, conditions, output, resolved(), errors, lazy futures.
func TestRerunLikeSequential(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 4)
	r.awaitWarm(4)
	r.R(`
library(future)
dir <- ""
once <- function(name) {
	mark <- file.path(dir, name)
	if (nzchar(dir) && !file.exists(mark)) { file.create(mark); tools::pskill(Sys.getpid(), tools::SIGKILL); Sys.sleep(60) }
}
conditions <- function(expr) {
	seen <- character()
	out <- capture.output(value <- withCallingHandlers(expr,
		warning = function(w) { seen <<- c(seen, paste("warning", conditionMessage(w))); invokeRestart("muffleWarning") },
		message = function(m) { seen <<- c(seen, paste("message", conditionMessage(m))); invokeRestart("muffleMessage") }))
	list(value, seen, out)
}
suite <- function() list(
	nested = value(future({ once("nested"); value(future({ once("inner"); 6 * 7 })) })),
	relayed = conditions(value(future({ once("relayed"); cat("out\n"); message("m"); warning("w"); print(1:3); 1 }))),
	error = { e <- tryCatch(value(future({ once("error"); stop("mine") })), error = identity); list(class(e), conditionMessage(e)) },
	lazy = { f <- future({ once("lazy"); rnorm(2) }, lazy = TRUE, seed = 42L); value(f) },
	polled = { f <- future({ once("polled"); "polled" }); while (!resolved(f)) Sys.sleep(0.01); value(f) },
	applied = future.apply::future_sapply(1:6, function(i) { once(paste0("applied", i)); rnorm(1) }, future.seed = 7L, future.chunk.size = 1),
	mapped = furrr::future_map_dbl(1:3, function(i) { once(paste0("mapped", i)); i^2 }, .options = furrr::furrr_options(chunk_size = 1))
)
plan(sequential)
want <- suite()
plan(cluster, workers = 3, manual = TRUE, quiet = TRUE)
dir <- tempfile()
dir.create(dir)
got <- suite()
print(all.equal(got, want))
stopifnot(identical(got, want), length(list.files(dir)) == 15)
`)
	if got := r.metric("rendezvous_reruns_total"); got != "15" {
		t.Errorf("%s futures ran again, want 15", got)
	}
}

// State that only a worker has: no call runs again elsewhere, and the loss is an error
// at once and ever after.
func TestNoRerun(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 3)
	r.awaitWarm(3)
	r.R(`
library(parallel)
dies <- function(...) tools::pskill(Sys.getpid(), tools::SIGKILL)
cl <- makePSOCKcluster(2, manual = TRUE)
x <- 42
clusterExport(cl, "x")
stopifnot(identical(parLapply(cl, 1:2, function(i) x), list(42, 42)))
e <- tryCatch(parLapply(cl, 1:2, function(i) if (i == 1) tools::pskill(Sys.getpid(), 9) else x), error = identity)
stopifnot(inherits(e, "error"))
for (i in 1:3) {
	e <- tryCatch(clusterCall(cl[1], function() exists("x")), error = identity)
	stopifnot(inherits(e, "error"), grepl("worker pod-a/[0-2] was lost before this call: killed by SIGKILL", conditionMessage(e)))
}
stopifnot(identical(clusterEvalQ(cl[2], x), list(42)))
stopCluster(cl)
# Newer ones clear the worker for each future, whatever persistent is.
if (packageVersion("future") < "1.40") {
	library(future)
	plan(cluster, workers = 1, persistent = TRUE, manual = TRUE, quiet = TRUE)
	e <- tryCatch(value(future(dies())), error = identity)
	stopifnot(inherits(e, "FutureError"), grepl("was lost in this call: killed by SIGKILL", conditionMessage(e)))
}
`, r.classic())
	if got := r.metric("rendezvous_reruns_total"); got != "0" {
		t.Errorf("%s calls ran again", got)
	}
	if got := r.metric(`rendezvous_lost_calls_total{reason="no_reset"}`); got == "0" {
		t.Error("no call was lost")
	}
}

// A user may have the futures of a plan run once at most.
func TestOnce(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 3)
	r.awaitWarm(3)
	r.R(`
library(future)
plan(cluster, workers = 2, manual = TRUE, quiet = TRUE)
mark <- tempfile()
task <- function() future({ cat("ran\n", file = mark, append = TRUE); if (length(readLines(mark)) == 1) tools::pskill(Sys.getpid(), tools::SIGKILL); "done" })
stopifnot(getOption("psock.once")() == 2)
e <- tryCatch(value(task()), error = identity)
stopifnot(inherits(e, "FutureError"), length(readLines(mark)) == 1, identical(value(task()), "done"))
unlink(mark)
stopifnot(getOption("psock.once")(FALSE) == 2)
stopifnot(identical(value(task()), "done"), length(readLines(mark)) == 2)
`)
	if got := r.metric("rendezvous_reruns_total"); got != "1" {
		t.Errorf("%s futures ran again, want 1", got)
	}
}

// Connections that a session has lost sight of do not hold workers that somebody waits
// for; and a session whose idle workers went to another computes on.
func TestLeakedConnections(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 2)
	r.awaitWarm(2)
	gate := filepath.Join(t.TempDir(), "gate")
	first := r.startR(`
library(future)
leak <- parallelly::makeClusterPSOCK(2, manual = TRUE, quiet = TRUE)
cl <- parallelly::makeClusterPSOCK(2, manual = TRUE, quiet = TRUE) # waits for those
plan(cluster, workers = cl)
stopifnot(identical(value(lapply(1:2, function(i) future(i))), list(1L, 2L)))
cat("idle\n")
while (!file.exists(Sys.getenv("GATE"))) Sys.sleep(0.01)
stopifnot(identical(value(lapply(1:2, function(i) future(i))), list(1L, 2L)))
`, "GATE="+gate)
	first.awaitText("idle")
	second := r.startR(`
library(future)
plan(cluster, workers = 2, manual = TRUE, quiet = TRUE)
stopifnot(identical(value(lapply(1:2, function(i) future(i))), list(1L, 2L)))
`)
	if code := second.wait(); code != 0 {
		t.Errorf("the second session exited with %d", code)
	}
	openGate(t, gate)
	if code := first.wait(); code != 0 {
		t.Errorf("the first session exited with %d", code)
	}
	if got := r.metric("rendezvous_reruns_total"); got != "0" {
		t.Errorf("%s futures ran twice", got)
	}
}

// A worker is killed every second while futures run on three or more, and while the session
// rests between them: every value is there and right.
func TestChaos(t *testing.T) {
	t.Parallel()
	lasts := soak(t, 30*time.Second)
	// One task in some hundred thousand would die three times.
	r := startRendezvous(t, "--max-attempts", "20")
	r.startAgent("pod-a", 3)
	r.startAgent("pod-b", 3)
	r.awaitWarm(6)
	s := r.startR(`
library(future)
end <- Sys.time() + as.numeric(Sys.getenv("SECONDS"))
task <- function(i) { Sys.sleep(0.2); c(i, rnorm(2)) }
fast <- function(i) c(i, rnorm(2))
plan(sequential)
want <- future.apply::future_lapply(1:200, fast, future.seed = 42L)
plan(cluster, workers = 4, manual = TRUE, quiet = TRUE)
rounds <- 0
while (rounds == 0 || Sys.time() < end) {
	got <- future.apply::future_lapply(1:200, task, future.seed = 42L, future.chunk.size = 1)
	stopifnot(identical(got, want))
	rounds <- rounds + 1
	cat(rounds, "rounds\n")
	Sys.sleep(2.5)
}
cat("all identical\n")
`, fmt.Sprintf("SECONDS=%.0f", lasts.Seconds()))
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	kills := 0
	for running := true; running; {
		select {
		case <-s.done:
			running = false
		case <-tick.C:
			state, err := r.state()
			if err != nil {
				t.Fatal(err)
			}
			var bound []int
			for _, w := range state.Workers {
				if w.State == pool.Bound {
					bound = append(bound, w.PID)
				}
			}
			if len(bound) >= 3 && syscall.Kill(bound[random.IntN(len(bound))], syscall.SIGKILL) == nil {
				kills++
			}
		}
	}
	if code := s.wait(); code != 0 {
		t.Errorf("R exited with %d", code)
	}
	reruns, err := strconv.Atoi(r.metric("rendezvous_reruns_total"))
	if err != nil || reruns < kills/4 {
		t.Errorf("%d kills, and %d futures ran again (%v)", kills, reruns, err)
	}
	r.field("future runs again", "worker")
	r.awaitWarm(6)
	t.Logf("%d kills, %d futures ran again; %s", kills, reruns, s.text())
}
