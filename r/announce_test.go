package r_test

import (
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"
)

// said are the announcements, once so many of them have ended.
func (r *rendezvous) said(t *testing.T, ends int) []string {
	t.Helper()
	for {
		r.mu.Lock()
		said, changed := slices.Clone(r.announced), r.changed
		r.mu.Unlock()
		n := 0
		for _, text := range said {
			if text == "end" {
				n++
			}
		}
		if n >= ends {
			return said
		}
		select {
		case <-changed:
		case <-t.Context().Done():
			t.Fatalf("announced so far: %q", said)
		}
	}
}

// What a session is about to listen for is announced before it does, by how it makes its
// cluster, once for all nodes, and no longer than it lasts; whatever becomes of it.
func TestAnnouncements(t *testing.T) {
	const quick = `timeout = 1, tries = 1`
	for name, tc := range map[string]struct {
		code string
		want []string
	}{
		"parallelly":           {`parallel::stopCluster(parallelly::makeClusterPSOCK(2))`, []string{"POST own ", "end"}},
		"parallelly, attached": {`library(parallelly); parallel::stopCluster(makeClusterPSOCK(1))`, []string{"POST own ", "end"}},
		"parallelly, in turns": {`parallel::stopCluster(parallelly::makeClusterPSOCK(2, setup_strategy = "sequential"))`, []string{"POST own ", "end"}},
		"by hand":              {`try(parallelly::makeClusterPSOCK(2, port = 11567, manual = TRUE, quiet = TRUE, ` + quick + `), silent = TRUE)`, []string{"POST workers 11567", "end"}},
		"by hand, elsewhere":   {`try(parallelly::makeClusterPSOCK("192.0.2.1", port = 11567, master = "127.0.0.1", manual = TRUE, quiet = TRUE, ` + quick + `), silent = TRUE)`, []string{"POST own 11567", "end"}},
		"a plan":               {`suppressMessages(library(future)); try(plan(cluster, port = 11567, manual = TRUE, quiet = TRUE, ` + quick + `), silent = TRUE)`, []string{"POST futures 11567", "end"}},
		"a plan of a number": {`suppressMessages(library(future)); try(plan(cluster, workers = 2, port = 11567, manual = TRUE, quiet = TRUE, ` + quick + `), silent = TRUE)
			try(parallelly::makeClusterPSOCK(1, port = 11568, manual = TRUE, quiet = TRUE, ` + quick + `), silent = TRUE)`, []string{"POST workers 11567", "end", "POST workers 11568", "end"}},
		"a local plan":          {`suppressMessages(library(future)); plan(cluster, workers = 1); plan(sequential)`, []string{"POST own ", "end"}},
		"parallel":              {`parallel::stopCluster(parallel::makeCluster(2))`, []string{"POST own ", "end"}},
		"parallel, one by one":  {`parallel::stopCluster(parallel::makeCluster(2, setup_strategy = "sequential"))`, []string{"POST own ", "end"}},
		"parallel, elsewhere":   {`try(parallel::makeCluster("192.0.2.1", rshcmd = "true", timeout = 1), silent = TRUE)`, []string{"POST own ", "end"}},
		"parallel, by hand":     {`invisible(capture.output(try(parallel::makeCluster(1, manual = TRUE, port = 11567, timeout = 1), silent = TRUE)))`, []string{"POST workers 11567", "end"}},
		"forks":                 {`parallel::stopCluster(parallel::makeForkCluster(2))`, []string{"POST own ", "end"}},
		"forks, by makeCluster": {`library(parallel); stopCluster(makeCluster(1, type = "FORK"))`, []string{"POST own ", "end"}},
		"printed only":          {`sink(nullfile()); cl <- parallelly::makeClusterPSOCK(1, port = 11567, manual = TRUE, dryrun = TRUE); sink()`, nil},
		"in a local worker":     {`cl <- parallel::makeCluster(1); x <- parallel::clusterEvalQ(cl, parallel::stopCluster(parallel::makeForkCluster(1))); parallel::stopCluster(cl)`, []string{"POST own ", "end", "POST own ", "end"}},
		"and they live": {`cl <- list(parallel::makeCluster(1), parallelly::makeClusterPSOCK(1), parallel::makeForkCluster(1))
			while (sum(readLines(paste0("http://", Sys.getenv("PSOCK_RENDEZVOUS_API"), "/announced")) == "end") < 3) Sys.sleep(0.02)
			for (c in cl) parallel::stopCluster(c)`, []string{"POST own ", "end", "POST own ", "end", "POST own ", "end"}},
		"nothing of a cluster": {`invisible(loadNamespace("parallel")); invisible(loadNamespace("parallelly"))`, nil},
		"switched off later":   {`Sys.setenv(PSOCK_RENDEZVOUS_API = "off"); parallel::stopCluster(parallel::makeCluster(1))`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := serve(t, "2")
			got, messages := run(t, r.address(), "options(warn = -1); "+tc.code+`; out(nrow(showConnections()), "psock" %in% ls(globalenv()))`)
			wantFields(t, got, "0", "FALSE")
			if messages != "" {
				t.Errorf("R says %q", messages)
			}
			ends := 0
			for _, text := range tc.want {
				if text == "end" {
					ends++
				}
			}
			said := r.said(t, ends)
			slices.Sort(said) // the end of one may be noted late
			slices.Sort(tc.want)
			if !slices.Equal(said, tc.want) {
				t.Errorf("announced %q, want %q", said, tc.want)
			}
		})
	}
}

// A node that is made again says of which cluster it is; one whose options are another session's,
// as when they were saved, does not.
func TestAnnouncedAgain(t *testing.T) {
	r := serve(t, "2")
	run(t, r.address(), `o <- parallelly::makeNodePSOCK("localhost", port = 11567L, rank = 1L, manual = TRUE, quiet = TRUE, timeout = 1, action = "options")
		o$psock <- list(session = "another", cluster = 7, intent = "futures")
		try(parallelly::makeNodePSOCK(o), silent = TRUE)`)
	if said := r.said(t, 1); !slices.Equal(said, []string{"POST workers 11567", "end"}) {
		t.Errorf("a node of another session's cluster is announced as %q", said)
	}
}

// Arguments that a worker which runs already cannot have are told of, once.
func TestUnmetArguments(t *testing.T) {
	r := serve(t, "2")
	_, messages := run(t, r.address(), `try(parallelly::makeClusterPSOCK(2, port = 11567, manual = TRUE, quiet = TRUE, timeout = 1, tries = 1,
		rscript_envs = c(A = "1"), outfile = "", rscript_libs = .libPaths()), silent = TRUE); out(1)`)
	const want = "psock-runtime: workers that run already do not get rscript_envs, outfile."
	if len(messages) == 0 || messages[:min(len(messages), len(want))] != want {
		t.Errorf("R says %q, want %q", messages, want)
	}
	_, messages = run(t, r.address(), `parallel::stopCluster(parallelly::makeClusterPSOCK(1, rscript_envs = c(A = "1"))); out(1)`)
	if messages != "" {
		t.Errorf("of a local worker: %q", messages)
	}
}

// A rendezvous that does not answer is waited for once for a cluster, not for each node.
func TestUnansweredAnnouncement(t *testing.T) {
	var asked atomic.Int32
	api := accept(t, func(c net.Conn) { asked.Add(1); _, _ = io.Copy(io.Discard, c) })
	run(t, api, withWorkers+`cl <- parallelly::makeClusterPSOCK(2, port = 11567, manual = TRUE, quiet = TRUE, setup_strategy = "sequential"); parallel::stopCluster(cl)`)
	if n := asked.Load(); n != 1 {
		t.Errorf("the rendezvous was asked %d times, want once", n)
	}
}

// withWorkers starts two workers by hand, which connect to a port once something listens there.
const withWorkers = `for (i in 1:2) system2(file.path(R.home("bin"), "Rscript"), c("--default-packages=NULL", "-e", shQuote("parallel:::.workRSOCK()"),
	"MASTER=localhost", "PORT=11567", "OUT=/dev/null", "SETUPTIMEOUT=60", "TIMEOUT=60", "XDR=TRUE", "SETUPSTRATEGY=sequential"), wait = FALSE)
	`

// A connection that got the number of the announcement's is the user's.
func TestAnnouncementWhoseNumberIsTaken(t *testing.T) {
	r := serve(t, "2")
	got, _ := run(t, r.address(), `users <- tempfile(); con <- NULL
		take <- function(...) { closeAllConnections(); con <<- file(users, "wb"); stop("enough") }
		try(parallelly::makeClusterPSOCK(1, makeNode = take), silent = TRUE); out(isOpen(con)); close(con); out(file.size(users))`)
	wantFields(t, got, "TRUE", "0")
}

// The arguments of a cluster are evaluated as ever: once, when R wants them, and so that they can be interrupted.
func TestArgumentsOfClusters(t *testing.T) {
	got, messages := run(t, serve(t, "2").address(), `options(warn = 1); seen <- character(); see <- function(name, value) { seen <<- c(seen, name); value }
		for (make in list(parallelly::makeClusterPSOCK, parallel::makePSOCKcluster)) {
			parallel::stopCluster(make(see("workers", 1), manual = see("manual", FALSE), outfile = see("outfile", "/dev/null")))
			for (bad in c("workers", "manual", "outfile")) try(make(if (bad == "workers") see(bad, stop("enough")) else 1,
				manual = if (bad == "manual") { see(bad); stop("enough") } else FALSE, outfile = if (bad == "outfile") { see(bad); stop("enough") } else "/dev/null"), silent = TRUE)
		}
		out(seen)`)
	want := []string{"workers", "manual", "outfile", "workers", "manual", "outfile"}
	slices.Sort(got)
	want = append(want, want...)
	slices.Sort(want)
	wantFields(t, got, want...)
	if messages != "" {
		t.Errorf("R says %q", messages)
	}
}

// A cluster that fits without an announcement fits: it is announced only if a connection is left for that.
func TestLastConnections(t *testing.T) {
	for name, make := range map[string]string{"parallelly": "parallelly::makeClusterPSOCK(2)", "parallel": "parallel::makeCluster(2)"} {
		r := serve(t, "2")
		got, messages := run(t, r.address(), `free <- parallelly::freeConnections
			# With a connection for parallelly's own use.
			cons <- lapply(seq_len(free() - 3), function(i) rawConnection(raw(0))); cl <- `+make+`
			out(length(cl), free()); parallel::stopCluster(cl); close(cons[[1L]]); cl <- `+make+`; parallel::stopCluster(cl)`)
		wantFields(t, got, "2", "1")
		if said := r.said(t, 1); len(said) != 2 || messages != "" {
			t.Errorf("%s: announced %q, R says %q", name, said, messages)
		}
	}
}

// A worker that the user has started by hand on this host is parallelly's affair, whatever becomes of the rendezvous.
func TestNodeByHandWithoutRendezvous(t *testing.T) {
	got, messages := run(t, nobody(t), `cl <- parallelly::makeClusterPSOCK(1); node <- cl[[1L]]
		attr(node, "options") <- c(list(manual = TRUE, localMachine = TRUE), attr(node, "options")[setdiff(names(attr(node, "options")), c("manual", "localMachine"))])
		alive <- parallelly::isNodeAlive(node); killed <- parallelly::killNode(node); out(alive, killed)`)
	wantFields(t, got, "TRUE", "TRUE")
	if messages != "" {
		t.Errorf("R says %q", messages)
	}
}
