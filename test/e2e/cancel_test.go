//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// TestCancel: a future that is cancelled ends in its pod, with its finally code, and nowhere else. Others
// are untouched, futures go on, and those of future_lapply() end when one of them fails.
func TestCancel(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	// What has run where is told by files in the pods, which have to outlive the workers.
	n.install(headless, "--set-json 'worker.scratch=[]'")
	s := n.startR(`
library(future)
begun <- function(what) cat("begun\n", file = paste0("/tmp/begun-", what), append = TRUE)
await <- function(gate) while (!file.exists(gate)) Sys.sleep(0.1)
plan(cluster, manual = TRUE, quiet = TRUE, interrupts = TRUE)
others <- future({ begun("others"); while (!file.exists("/tmp/go-on")) Sys.sleep(0.1); Sys.info()[["nodename"]] })
f <- future(tryCatch({ begun("cancelled"); Sys.sleep(3600) }, finally = file.create("/tmp/finally")))
cat("computing\n")
await("/tmp/cancel")
cancel(f)
cat(class(tryCatch(value(f), error = identity))[1], "\n")
cat("next", value(future(6 * 7)), "\n")
await("/tmp/others")
cat("others on", value(others), "\n")
fail <- function(i) { begun(paste0("lapply-", i)); if (i == 1) { Sys.sleep(5); stop("boom") } else Sys.sleep(3600) }
cat("future_lapply:", tryCatch(suppressWarnings(future.apply::future_lapply(1:3, fail)), error = conditionMessage), "\n")
await("/tmp/replaced")
stopifnot(nbrOfWorkers() == 3)
cat("three more:", length(unique(future.apply::future_sapply(1:3, function(i) { Sys.sleep(2); Sys.info()[["nodename"]] }))), "\n")
`)
	s.await("computing")
	// lines is what the worker pods have of a file, with the pods' names.
	lines := func(file string) map[string]string {
		found := map[string]string{}
		for _, pod := range n.workerPods() {
			if out := n.sh("kubectl exec " + pod + " -- sh -c 'test ! -e " + file + " || echo there; cat " + file + " 2>/dev/null || true'"); out != "" {
				found[pod] = strings.TrimSpace(strings.TrimPrefix(out, "there"))
			}
		}
		return found
	}
	n.eventually("both futures run", func() bool { return len(lines("/tmp/begun-cancelled")) == 1 && len(lines("/tmp/begun-others")) == 1 })
	n.open("/tmp/cancel")
	s.await("next 42")
	if !strings.Contains(s.text(), "FutureCanceledError") {
		t.Errorf("the cancelled future is no FutureCanceledError:\n%s", s.text())
	}
	n.eventually("the finally code has run", func() bool { return len(lines("/tmp/finally")) == 1 })
	for pod := range lines("/tmp/finally") {
		if lines("/tmp/begun-cancelled")[pod] == "" {
			t.Errorf("it ran in %s, and the future in %v", pod, lines("/tmp/begun-cancelled"))
		}
	}
	n.eventually("the worker is replaced", func() bool { return len(n.workers()) == 3 })
	for pod := range lines("/tmp/begun-others") {
		n.sh("kubectl exec " + pod + " -- touch /tmp/go-on")
		n.open("/tmp/others")
		if s.await("others on "); !strings.Contains(s.text(), "others on "+pod) {
			t.Errorf("the other future was on %s:\n%s", pod, s.text())
		}
	}
	s.await("future_lapply: ")
	n.eventually("workers are replaced once more", func() bool { return len(n.workers()) == 3 })
	n.open("/tmp/replaced")
	out := s.wait()
	for _, want := range []string{"future_lapply: boom", "three more: 3"} {
		if !strings.Contains(out, want) {
			t.Errorf("want %q:\n%s", want, out)
		}
	}
	// Nothing ran again. Those of future_lapply() may have ended before they began.
	for _, file := range []string{"cancelled", "others", "lapply-1", "lapply-2", "lapply-3"} {
		runs := 0
		for _, text := range lines("/tmp/begun-" + file) {
			runs += strings.Count(text, "begun")
		}
		if runs > 1 {
			t.Errorf("%s ran %d times", file, runs)
		}
	}
	if reruns := n.metric("rendezvous_reruns_total"); reruns != "0" {
		t.Errorf("%s futures ran again", reruns)
	}
	if restarts := n.restarts(); restarts != "" {
		t.Errorf("containers were restarted: %s", restarts)
	}
	n.warm(3)
	n.plan(3)
}
