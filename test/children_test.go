package test

import (
	"strings"
	"testing"
)

// R processes that a session starts have all workers, although they do not read the site profile:
// callr, and so the children of targets, have another in its place. The last one starts a callr
// child from a future of a local worker, as nested pipelines do.
func TestPlansOfChildren(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 3)
	r.awaitWarm(3)
	for name, code := range map[string]string{
		"callr":               `callr::r(function() { library(future); plan(cluster, manual = TRUE, quiet = TRUE); c(nbrOfWorkers(), value(future(1))) })`,
		"callr, not attached": `callr::r(function() { future::plan(future::cluster, manual = TRUE, quiet = TRUE); c(future::nbrOfWorkers(), future::value(future::future(1))) })`,
		"callr from callr":    `callr::r(function(f) callr::r(f), list(ours))`,
		"callr, in two plans": `callr::r(function(f) { f(); future::plan(future::sequential); f() }, list(ours))`,
		"vanilla":             `{ f <- tempfile(); dump("ours", f); cat("library(future); cat(ours())", file = f, append = TRUE); scan(text = system2(file.path(R.home("bin"), "Rscript"), c("--vanilla", f), stdout = TRUE), quiet = TRUE) }`,
		"a fork":              `parallel::mccollect(parallel::mcparallel(ours()))[[1L]]`,
		"callr from multisession": `{ future::plan(future::multisession, workers = I(1)); future::value(future::future(callr::r(function() { library(future)
			plan(cluster, manual = TRUE, quiet = TRUE); c(nbrOfWorkers(), value(future(1))) }), packages = "callr", seed = NULL)) }`,
	} {
		out := r.R(`
ours <- function() { future::plan(future::cluster, manual = TRUE, quiet = TRUE); c(future::nbrOfWorkers(), future::value(future::future(1))) }
n <- suppressPackageStartupMessages(` + code + `)
cat(n, "\n")
`)
		if strings.TrimSpace(out) != "3 1" {
			t.Errorf("%s: R says %q", name, out)
		}
		r.awaitWarm(3)
	}
}
