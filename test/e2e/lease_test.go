//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// twoGroups are values with a second worker group, of another image: Debian's R as it
// is, into which the agent is put.
const twoGroups = `
worker: {replicas: 2}
workerGroups:
- {name: bare, replicas: 2, image: {repository: %s, tag: %q}}
`

// TestWorkerGroups: a session has a cluster of each of two groups.
func TestWorkerGroups(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	repository, tag := split(n.rImage())
	if err := os.WriteFile(filepath.Join(n.dir, "values.yaml"), fmt.Appendf(nil, twoGroups, repository, tag), 0o644); err != nil {
		t.Fatal(err)
	}
	n.install("-f values.yaml", headless)
	// The image of the default group has the agent in another place than where it is put.
	out := n.r(`
library(future)
bare <- rendezvous::cluster(2, group = "bare", quiet = TRUE)
rest <- rendezvous::cluster(2, group = "default", quiet = TRUE)
# One after the other: a plan cancels the futures of the one before, with future 1.49 and newer.
run <- function(cl) {
  plan(cluster, workers = cl)
  unlist(value(lapply(1:2, function(i) future({
    Sys.sleep(1)
    paste(Sys.info()[["nodename"]], file.exists("/usr/local/bin/worker-agent"))
  }))))
}
cat(paste("bare", run(bare)), paste("rest", run(rest)), sep = "\n")
w <- rendezvous::workers()
stopifnot(nrow(w) == 4, identical(sort(w$group), c("bare", "bare", "default", "default")))
`)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	slices.Sort(lines)
	if len(slices.Compact(slices.Clone(lines))) != 4 {
		t.Fatalf("want four pods:\n%s", out)
	}
	for i, line := range lines {
		name, image, pod := "bare ", " FALSE", "future-worker-bare-"
		if i >= 2 {
			name, image, pod = "rest ", " TRUE", "future-worker-"
		}
		if !strings.HasPrefix(line, name+pod) || !strings.HasSuffix(line, image) {
			t.Errorf("a future of %sran as %q, want a pod %s…%s", name, line, pod, image)
		}
	}
	// Without workers the group is a lease's error, not a wait for others' workers.
	out = n.r(`cat(tryCatch(rendezvous::cluster(1, group = "gpu"), error = conditionMessage))`)
	if want := `there is no worker group "gpu"; there are: bare, default`; !strings.Contains(out, want) {
		t.Errorf("R says %q, want %q", out, want)
	}
}

// TestForgottenLeases is line 6: the lease of a session that dies, one that nobody uses,
// and a thousand in a loop hold nothing for long.
func TestForgottenLeases(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.install(headless, "--set worker.replicas=2")
	out, err := n.tryR(`
cl <- rendezvous::cluster(2, quiet = TRUE)
cat("connected to", length(cl), "\n")
tools::pskill(Sys.getpid(), 9)
`)
	if err == nil || !strings.Contains(out, "connected to 2") {
		t.Fatalf("the session did not die connected: %v\n%s", err, out)
	}
	out = n.r(`
ask <- function() curl::curl_fetch_memory("http://127.0.0.1:7461/v1/leases", handle = curl::handle_setheaders(curl::new_handle(postfields = '{"workers":1}'), "Content-Type" = "application/json"))
answers <- replicate(1000, ask(), simplify = FALSE)
status <- vapply(answers, function(a) a$status_code, 0L)
cat("accepted", sum(status == 201L), "refused", sum(status == 429L), "\n")
cat(rawToChar(answers[[1000]]$content), "\n")
cat("R says", tryCatch(rendezvous::cluster(1), error = conditionMessage), "\n")
`)
	for _, want := range []string{"accepted 100 refused 900", "R says there are 100 leases, which is as many as there may be"} {
		if !strings.Contains(out, want) {
			t.Errorf("want %q:\n%s", want, out)
		}
	}
	n.eventually("they expire", func() bool {
		out, err := n.tryR(`cat("has", length(rendezvous::cluster(2, quiet = TRUE)))`)
		return err == nil && strings.Contains(out, "has 2")
	})
}

// TestMoreNodesThanWorkers is line 4: forty nodes take turns on four workers, each of
// which has its part of the work.
func TestMoreNodesThanWorkers(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.install(headless, "--set worker.replicas=4")
	out := n.r(`
library(future)
cl <- rendezvous::cluster(40, share = TRUE, quiet = TRUE)
large <- as.numeric(1:1e5)
parallel::clusterExport(cl, "large")
plan(cluster, workers = cl)
stopifnot(nbrOfWorkers() == 40)
got <- future.apply::future_lapply(1:120, function(i) { Sys.sleep(0.1); list(i, Sys.info()[["nodename"]]) }, future.chunk.size = 1)
stopifnot(identical(vapply(got, "[[", 0L, 1), 1:120))
cat(paste0("pod=", unique(vapply(got, "[[", "", 2))), sep = "\n")
`)
	if names := pods(out); len(names) != 4 {
		t.Errorf("the futures ran in %d pods, want 4:\n%s", len(names), out)
	}
	if n := n.metric("rendezvous_reruns_total"); n != "0" {
		t.Errorf("%s futures ran again", n)
	}
}
