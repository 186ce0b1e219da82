//go:build e2e

package e2e

import (
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
- {name: bare, replicas: 2, image: {repository: kube.local/r, tag: "1"}}
`

// TestWorkerGroups: a cluster of futures on each of two groups, at the same time.
func TestWorkerGroups(t *testing.T) {
	n := newNamespace(t)
	if err := os.WriteFile(filepath.Join(n.dir, "values.yaml"), []byte(twoGroups), 0o644); err != nil {
		t.Fatal(err)
	}
	n.install("-f values.yaml", headless)
	// The image of the default group has the agent in another place than where it is put.
	out := n.r(`
library(future)
bare <- rendezvous::cluster(2, group = "bare", quiet = TRUE)
rest <- rendezvous::cluster(2, group = "default", quiet = TRUE)
start <- function(cl) {
  plan(cluster, workers = cl)
  lapply(1:2, function(i) future({
    Sys.sleep(1)
    paste(Sys.info()[["nodename"]], file.exists("/usr/local/bin/worker-agent"))
  }))
}
futures <- list(bare = start(bare), rest = start(rest))
for (name in names(futures)) cat(paste(name, unlist(value(futures[[name]]))), sep = "\n")
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
