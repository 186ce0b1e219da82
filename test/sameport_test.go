package test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

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
	openGate(t, gate)
	if code := first.wait(); code != 0 || !strings.Contains(first.text(), "done") {
		t.Errorf("the first session exited with %d: %s", code, first.text())
	}
}

// randomClusters makes clusters in random order for a random time, up to SECONDS, and fails if
// one of their processes has been used by another cluster.
const randomClusters = `
library(parallel); library(future)
set.seed(as.integer(Sys.getenv("SEED")))
rest <- function() Sys.sleep(rexp(1, 10))
note <- function(...) cat(format(Sys.time(), "%H:%M:%OS3"), ..., "\n")
end <- Sys.time() + min(as.numeric(Sys.getenv("SECONDS")), rexp(1, 1 / 10))
n <- 0
name <- function() { n <<- n + 1; paste("session", Sys.getpid(), "cluster", n) }
check <- function(seen, may) for (tenant in unlist(seen)) if (!tenant %in% may) stop("a process of ", tenant, " is used by one of ", toString(may))
# A process that the cluster has not used before, and then a process of its own.
take <- function(cl, who) {
  check(clusterCall(cl, getOption, "tenant", ""), "")
  invisible(clusterCall(cl, function(who) { options(tenant = who); NULL }, who))
}
# Of two sessions that listen on one port at the same moment, R has one fail.
listening <- function(makes) repeat {
  taken <- FALSE
  made <- tryCatch(makes(), error = function(e) {
    if (!grepl("port [0-9]+ cannot be opened", conditionMessage(e))) stop(e)
    note(conditionMessage(e))
    taken <<- TRUE
  })
  if (!taken) return(made)
  rest()
}
# future keeps the cluster when the same plan is made again.
standing <- ""
planned <- function() {
  who <- name()
  standing <<- c(standing, who)
  note("plan", who)
  listening(function() plan(cluster, workers = 2, manual = TRUE, quiet = TRUE))
  for (i in seq_len(sample(3, 1))) {
    check(value(lapply(1:2, function(j) future({ was <- getOption("tenant", ""); options(tenant = who); was }))), standing)
    rest()
  }
  if (runif(1) < 0.5) { note("end", who); plan(sequential); standing <<- "" } # else the nodes rest
}
made <- function() {
  gc() # a session that has more clusters than it uses takes all workers
  who <- name()
  note("make", who)
  cl <- listening(function() parallelly::makeClusterPSOCK(2, manual = TRUE, quiet = TRUE))
  take(cl, who)
  rest()
  if (exists("cloneNode", asNamespace("parallelly")) && runif(1) < 0.5) {
    i <- sample(2, 1)
    note("clone node", i)
    clone <- listening(function() parallelly::cloneNode(cl[[i]]))
    stopCluster(cl[i])
    cl[[i]] <- clone
    take(cl[i], who)
    rest()
  }
  check(clusterCall(cl, getOption, "tenant", ""), who)
  if (runif(1) < 0.7) { note("stop", who); stopCluster(cl) } # else R's collector or its end closes it
}
while (Sys.time() < end) { if (runif(1) < 0.5) planned() else made(); rest() }
cat("clusters:", n, "\n")
`

// Two sessions of one user on one port make clusters in random order and end at random moments:
// no process is ever used by two clusters.
func TestSamePortAtRandom(t *testing.T) {
	t.Parallel()
	const workers = 8 // each session has up to three that calls have set something on, and a plan
	end := time.Now().Add(soak(t, 15*time.Second))
	hangs := time.After(time.Until(end) + patience)
	r := startRendezvous(t)
	r.startAgent("pod-a", workers)
	r.awaitWarm(workers)
	start := func() *session {
		return r.startR(randomClusters, r.classic(), fmt.Sprintf("SECONDS=%.0f", max(1, time.Until(end).Seconds())), fmt.Sprint("SEED=", rand.Int32()))
	}
	ended, made := 0, 0
	check := func(s *session) {
		if code := s.wait(); code != 0 {
			t.Errorf("R exited with %d", code)
		}
		_, text, _ := strings.Cut(s.text(), "clusters: ")
		n := 0
		if _, err := fmt.Sscan(text, &n); err != nil {
			t.Errorf("R says %q", s.text())
		}
		ended, made = ended+1, made+n
	}
	for one, other := start(), start(); one != nil; {
		select {
		case <-one.done:
		case <-other.done:
			one, other = other, one
		case <-hangs:
			t.Fatalf("the sessions do not end; one says %q, the other %q", one.text(), other.text())
		}
		check(one)
		if time.Now().Before(end) && !t.Failed() {
			one = start()
			continue
		}
		check(other)
		one = nil
	}
	r.await("all workers, idle", func(s api.State) bool { return count(s, pool.Warm) == workers && len(s.Clusters) == 0 })
	if made < ended {
		t.Errorf("%d sessions made %d clusters", ended, made)
	}
	t.Logf("%d sessions made %d clusters", ended, made)
}
