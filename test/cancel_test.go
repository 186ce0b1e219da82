package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// A worker whose session is killed gives up what it computes: its finally and on.exit
// code runs, also that of what it has started, long before it would be terminated.
func TestInterruptedWorkers(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 3, "--stop-grace", "1h")
	r.awaitWarm(3)
	dir := t.TempDir()
	session := r.startR(fmt.Sprintf(`
library(future)
plan(cluster, workers = 3, manual = TRUE, quiet = TRUE)
note <- function(name) file.create(file.path(%q, name))
a <- future(tryCatch({ note("begun1"); Sys.sleep(1e5) }, finally = note("end1")))
f <- function() { on.exit(note("end2")); note("begun2"); repeat {} }
b <- future(f())
c <- future(tryCatch(system("echo > %[1]s/begun3; exec sleep 100000"), finally = note("end3")))
value(list(a, b, c))
`, dir))
	there := func(prefix string, n int) func() bool {
		return func() bool {
			found, err := filepath.Glob(filepath.Join(dir, prefix+"*"))
			return err == nil && len(found) == n
		}
	}
	eventually(t, "three futures to begin", there("begun", 3))
	session.signal(syscall.SIGKILL)
	eventually(t, "their ends", there("end", 3))
	r.awaitWarm(3)
}

// A warm worker has loaded future, which nobody can see; one that cannot starts all the
// same.
func TestPreload(t *testing.T) {
	t.Parallel()
	const look = `
cl <- parallelly::makeClusterPSOCK(1, manual = TRUE, quiet = TRUE)
cat(unlist(parallel::clusterCall(cl, eval, quote(c(
  "future" %in% loadedNamespaces(), "package:future" %in% search(),
  exists(".Random.seed", globalenv()), length(setdiff(ls(globalenv(), all.names = TRUE), "workRSOCK")))), .GlobalEnv)), "\n")
parallel::stopCluster(cl)
`
	for _, tc := range []struct{ name, preload, want string }{
		{"future", "future", "1 0 0 0"},
		{"none", "", "0 0 0 0"},
		{"missing", "notThere", "0 0 0 0"},
		{"missing, and future", "notThere future", "1 0 0 0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := startRendezvous(t)
			args := []string{"--preload", tc.preload}
			if tc.name == "future" {
				args = nil // the default
			}
			agent := r.startAgent("pod-a", 1, args...)
			r.await("a warm worker", func(s api.State) bool { return count(s, pool.Warm) == 1 })
			if out := r.R(look); !strings.Contains(out, tc.want) {
				t.Errorf("got %q, want %q", out, tc.want)
			}
			if text := agent.text(); strings.Contains(text, "notThere") {
				t.Errorf("the log mentions what is missing:\n%s", text)
			}
		})
	}
}

// What future's start-up script in the user's home does is for whoever attaches future,
// not for a worker that waits.
func TestPreloadRunsNoScript(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ".future.R"), []byte(`file.create("ran")`), 0o600); err != nil {
		t.Fatal(err)
	}
	r := startRendezvous(t)
	r.startAgent("pod-a", 1, "--dir", dir)
	r.awaitWarm(1)
	if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
		t.Error("a warm worker has run .future.R")
	}
}
