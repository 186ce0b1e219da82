package r_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestAvailableWorkersIsTheLiveNumber(t *testing.T) {
	r := serve(t, "7")
	got, messages := run(t, r.address(), `w <- parallelly::availableWorkers(); out(length(w), unique(w))`)
	wantFields(t, got, "7", "localhost")
	wantQuestions(t, r, "GET /v1/workers?ports=")
	if messages != "" {
		t.Errorf("R says %q, want nothing", messages)
	}
}

func TestLeavesNothingBehind(t *testing.T) {
	r := serve(t, "7")
	got, _ := run(t, r.address(), `rm(out, n); invisible(parallelly::freeConnections())
		before <- c(search(), rownames(showConnections())); w <- parallelly::availableWorkers()
		cat(identical(before, c(search(), rownames(showConnections()))), setdiff(ls(globalenv(), all.names = TRUE), c("before", "w")))`)
	wantFields(t, got, "TRUE")
}

// Nothing but base is attached when the profile runs, and nothing else may be
// needed later.
func TestNeedsBaseOnly(t *testing.T) {
	r := serve(t, "7")
	got, messages := run(t, r.address(), `out(length(getOption("parallelly.availableWorkers.custom")()), "package:utils" %in% search())`,
		"R_DEFAULT_PACKAGES=NULL")
	wantFields(t, got, "7", "FALSE")
	if messages != "" {
		t.Errorf("R says %q, want nothing", messages)
	}
}

func TestNSLOTSWins(t *testing.T) {
	r := serve(t, "7")
	got, messages := run(t, r.address(), `a <- n(); Sys.setenv(NSLOTS = 8); b <- n(); Sys.unsetenv("NSLOTS"); c <- n(); out(a, b, c)`)
	wantFields(t, got, "7", "8", "7")
	wantQuestions(t, r, "GET /v1/workers?ports=", "GET /v1/workers?ports=")
	if messages != "" {
		t.Errorf("R says %q, want nothing", messages)
	}
}

// parallelly reads NSLOTS before it asks the profile, versions from 1.43 on once only: what
// counts then is told, and the profile's advice has it read.
func TestNSLOTSThatIsNoted(t *testing.T) {
	got, messages := run(t, serve(t, "7").address(), `noted <- packageVersion("parallelly") >= "1.43"
		a <- n(); Sys.setenv(NSLOTS = 8); b <- n(); Sys.unsetenv("NSLOTS"); c <- n(); out(a, identical(c(b, c), if (noted) c(3L, 3L) else c(8L, 7L)))
		options(parallelly.availableWorkers.methods = "custom"); d <- n(); Sys.setenv(NSLOTS = 8); e <- n(); out(d, e, noted)`, "NSLOTS=3")
	if len(got) != 5 {
		t.Fatalf("R says %q", got)
	}
	wantFields(t, got[:4], "3", "TRUE", "7", "8")
	for _, text := range []string{"and not 8", "and not the workers there are", `options(parallelly.availableWorkers.methods = "custom")`} {
		if told := strings.Contains(messages, text); told != (got[4] == "TRUE") {
			t.Errorf("R says %q, about %q; NSLOTS is noted: %s", messages, text, got[4])
		}
	}
}

func TestNoWorkerAsksForOne(t *testing.T) {
	got, _ := run(t, serve(t, "0").address(), `out(n())`)
	wantFields(t, got, "1")
}

// seconds returns a field that is a duration, and checks it.
func seconds(t *testing.T, field string) float64 {
	t.Helper()
	s, err := strconv.ParseFloat(field, 64)
	if err != nil || s > within {
		t.Errorf("took %q s (%v), want less than %v", field, err, within)
	}
	return s
}

// unreachable asks twice, and checks the time, the one message, and that the
// machine's cores are counted.
func unreachable(t *testing.T, api string, want ...string) {
	t.Helper()
	got, messages := run(t, api, `options(warn = 2); t <- system.time(a <- n())[["elapsed"]]; b <- n()
		cores <- length(parallelly::availableWorkers(methods = c("system", "nproc", "cgroups.cpuset", "cgroups.cpuquota", "cgroups2.cpu.max", "fallback")))
		out(t, a == cores && b == cores, nrow(showConnections()))`)
	if len(got) != 3 {
		t.Fatalf("R says %q", got)
	}
	seconds(t, got[0])
	wantFields(t, got[1:], "TRUE", "0")
	for _, text := range append(want, api, "plan(cluster, manual = TRUE) will wait", "or set PSOCK_RENDEZVOUS_API") {
		if strings.Count(messages, text) != 1 {
			t.Errorf("R says %q, want %q in it once", messages, text)
		}
	}
}

func TestRefused(t *testing.T) { unreachable(t, nobody(t), "cannot connect") }

func TestBadAddress(t *testing.T) { unreachable(t, "somewhere", "not of the form HOST:PORT") }

func TestNeverAnswers(t *testing.T) {
	unreachable(t, accept(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }), "no answer within 2 s")
}

// One that sends a byte at a time never makes a single read time out.
func TestDripFeed(t *testing.T) {
	unreachable(t, accept(t, func(c net.Conn) {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := c.Write([]byte{'7'}); err != nil {
				return
			}
		}
	}), "no answer within 2 s")
}

func TestEndlessAnswer(t *testing.T) {
	unreachable(t, accept(t, func(c net.Conn) {
		for {
			if _, err := c.Write(bytes.Repeat([]byte{'x', 0}, 1<<16)); err != nil {
				return
			}
		}
	}), "does not speak HTTP")
}

func TestGarbage(t *testing.T) {
	for _, answer := range []string{"", "many", "-3", "1e9", "3 4", "<html>7</html>", "0x7", "\xff\xfe"} {
		t.Run(answer, func(t *testing.T) { unreachable(t, serve(t, answer).address(), "not a number") })
	}
	t.Run("not HTTP", func(t *testing.T) {
		unreachable(t, accept(t, func(c net.Conn) { _, _ = c.Write([]byte("SSH-2.0-x\r\n\r\n7\n")) }), "does not speak HTTP")
	})
	t.Run("closed at once", func(t *testing.T) { unreachable(t, accept(t, func(net.Conn) {}), "rendezvous at") })
	t.Run("an error", func(t *testing.T) {
		r := serve(t, "the pool is on fire")
		r.mu.Lock()
		r.status = http.StatusInternalServerError
		r.mu.Unlock()
		unreachable(t, r.address(), "500 Internal Server Error the pool is on fire")
	})
}

// The rendezvous' container may start a moment after R's.
func TestLateRendezvous(t *testing.T) {
	addr := nobody(t)
	cmd := rscript(t, addr, `loadNamespace("parallelly"); cat("asking\n"); cat(length(parallelly::availableWorkers()), "\n")`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "asking" {
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, 9) })}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(ln) })
	defer serving.Wait()
	defer server.Close()
	lines.Scan()
	wantFields(t, strings.Fields(lines.Text()), "9")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestConnectionsLimitTheNumber(t *testing.T) {
	for _, answer := range []string{"500", "99999999999999999999999"} {
		got, messages := run(t, serve(t, answer).address(), `a <- n(); b <- n(); free <- parallelly::freeConnections()
			cons <- lapply(1:20, function(i) rawConnection(raw(0))); out(a == free - 1, a == b, n() == a - 20)`)
		wantFields(t, got, "TRUE", "TRUE", "TRUE")
		for text, times := range map[string]int{
			"psock-runtime:": 2, // each number of free connections is told once
			"only 124 fit":   1, "only 104 fit": 1, "--max-connections": 2,
		} {
			if strings.Count(messages, text) != times {
				t.Errorf("R says %q, want %q in it %d times", messages, text, times)
			}
		}
	}
}

func TestNoConnectionLeft(t *testing.T) {
	r := serve(t, "7")
	// parallelly itself opens files the first time that it counts.
	got, messages := run(t, r.address(), `invisible(c(parallelly::availableConnections(), parallelly::availableCores())); cons <- list()
		try(repeat cons[[length(cons) + 1L]] <- rawConnection(as.raw(42)), silent = TRUE)
		out(n() >= 1); same <- vapply(cons, function(c) { r <- readBin(c, "raw", 9L); close(c); r == 42 }, NA); out(all(same), length(same) > 100, n())`)
	wantFields(t, got, "TRUE", "TRUE", "TRUE", "7")
	if !strings.Contains(messages, "connections are in use") {
		t.Errorf("R says %q", messages)
	}
}

func TestPortsOfOwnClusters(t *testing.T) {
	r := serve(t, "7")
	got, _ := run(t, r.address(), `cl <- parallelly::makeClusterPSOCK(2); p <- unique(sub(".*:", "", showConnections()[, "description"]))
		other <- serverSocket(20000L + Sys.getpid() %% 10000L); out(n(), p); parallel::stopCluster(cl); close(other)`)
	if len(got) != 2 || got[0] != "7" {
		t.Fatalf("R says %q", got)
	}
	wantQuestions(t, r, "GET /v1/workers?ports="+got[1])
}

// Before 1.40, the future package asks for the workers again with each future,
// and starts the cluster anew if their number has changed. plan() alone may
// change it.
func TestPlanKeepsItsNumber(t *testing.T) {
	r := serve(t, "2")
	got, messages := run(t, r.address(), `suppressMessages(library(future))
		api <- Sys.getenv("PSOCK_RENDEZVOUS_API"); at <- strsplit(api, ":")[[1]]
		scale <- function(n) { con <- socketConnection(at[1], as.integer(at[2]), open = "a+b", blocking = TRUE)
			writeBin(charToRaw(sprintf("GET /set?n=%d HTTP/1.0\r\n\r\n", n)), con); readBin(con, "raw", 1000); close(con) }
		port <- function() unique(sub(".*:", "", showConnections()[, "description"]))
		own <- parallelly::makeClusterPSOCK(1); mine <- port()
		plan(cluster); first <- setdiff(port(), mine); pids <- unique(unlist(lapply(1:2, function(i) value(future(Sys.getpid())))))
		invisible(scale(3)); again <- value(future(Sys.getpid()))
		out(nbrOfWorkers(), again %in% pids, identical(setdiff(port(), mine), first))
		plan(sequential); plan(cluster); out(nbrOfWorkers(), first); plan(sequential); parallel::stopCluster(own)`)
	if len(got) != 5 {
		t.Fatalf("R says %q, %s", got, messages)
	}
	wantFields(t, got[:4], "2", "TRUE", "TRUE", "3")
	// The cluster that the user made is not given back, the plan's is.
	// Neither is announced: these workers are R's own.
	wantQuestions(t, r, "GET /v1/workers?ports=", "GET /v1/workers?ports="+got[4])
}

// A plan is announced if its workers come from elsewhere, or if it does not tell; only then
// no R is started to try whether its workers can be ended by their pid.
func TestAnnouncesPlansByHand(t *testing.T) {
	for name, tc := range map[string]struct {
		plan    string
		planned bool
		kill    string
	}{
		"by hand":             {`cluster, manual = TRUE, quiet = TRUE`, true, "FALSE"},
		"tweaked":             {`tweak(tweak(cluster, manual = TRUE), quiet = TRUE), verbose = FALSE`, true, "FALSE"},
		"a list":              {`list(tweak(cluster, manual = TRUE), sequential)`, true, "FALSE"},
		"not by hand":         {`cluster, manual = FALSE`, false, "NULL"},
		"not by hand, no say": {`cluster`, false, "NULL"},
	} {
		t.Run(name, func(t *testing.T) {
			r := serve(t, "7")
			// parallelly is kept from making a cluster: the error goes through plan().
			got, messages := run(t, r.address(), `suppressMessages(library(future)); during <- "not asked"
				answer <- getOption("parallelly.availableWorkers.custom")
				options(parallelly.availableWorkers.custom = function() { answer(); during <<- deparse(getOption("parallelly.makeNodePSOCK.autoKill")); stop("enough") })
				plan(sequential); e <- tryCatch({ plan(`+tc.plan+`); "none" }, error = conditionMessage)
				out(e, during, is.null(getOption("parallelly.makeNodePSOCK.autoKill")))`)
			wantFields(t, got, "enough", tc.kill, "TRUE")
			if questions := strings.Join(r.questions(), " "); strings.Contains(questions, "&plan=true") != tc.planned {
				t.Errorf("asked %q, %s", questions, messages)
			}
		})
	}
}

// What the user says of autoKill stays.
func TestAutoKillIsTheUsers(t *testing.T) {
	const ask = `ask <- getOption("parallelly.availableWorkers.custom"); invisible(loadNamespace("parallelly"))
		plan_init <- function(evaluator) { w <- ask(); deparse(getOption("parallelly.makeNodePSOCK.autoKill")) }
		out(plan_init(structure(function(..., manual = TRUE) NULL, class = c("cluster", "function"))), deparse(getOption("parallelly.makeNodePSOCK.autoKill")))`
	for name, tc := range map[string]struct {
		code, env string
		want      []string
	}{
		"nothing":  {"", "A=1", []string{"FALSE", "NULL"}},
		"option":   {"options(parallelly.makeNodePSOCK.autoKill = TRUE);", "A=1", []string{"TRUE", "TRUE"}},
		"variable": {"", "R_PARALLELLY_MAKENODEPSOCK_AUTOKILL=true", []string{"TRUE", "TRUE"}},
	} {
		got, _ := run(t, serve(t, "7").address(), tc.code+ask, tc.env)
		for i := range got {
			got[i] = strings.ToUpper(strings.Trim(got[i], `"`)) // the variable's text, as parallelly keeps it
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: R says %q, want %q", name, got, tc.want)
		}
	}
}

// A collection of garbage takes a second in a session with data, and versions of future
// before 1.40 ask for each future: there is one when plan() may have clusters to give back.
func TestNoGarbageCollection(t *testing.T) {
	got, _ := run(t, serve(t, "7").address(), `collections <- 0
		unlockBinding("gc", baseenv()); assign("gc", function(...) collections <<- collections + 1, baseenv())
		ask <- getOption("parallelly.availableWorkers.custom"); w <- ask(); out(length(w), collections)
		plan_init <- function() ask(); w <- plan_init(); out(collections)
		own <- parallel::makePSOCKcluster(1); w <- plan_init(); out(collections); parallel::stopCluster(own)`)
	wantFields(t, got, "7", "0", "0", "1")
}

// A fork is a session of its own, which nothing of its parent's concerns: two may plan at
// the same moment, and each is told what is wrong.
func TestForks(t *testing.T) {
	r := serve(t, "7")
	got, messages := run(t, r.address(), `ask <- getOption("parallelly.availableWorkers.custom"); plan_init <- function() ask()
		w <- plan_init(); x <- parallel::mclapply(1:2, function(i) length(plan_init()), mc.cores = 2); out(unlist(x))
		Sys.setenv(PSOCK_RENDEZVOUS_API = "`+nobody(t)+`"); w <- ask(); x <- parallel::mclapply(1:2, function(i) ask(), mc.cores = 2)`)
	wantFields(t, got, "7", "7")
	r.mu.Lock()
	if len(r.sessions) != 3 {
		t.Errorf("%v have asked, want three sessions", r.sessions)
	}
	r.mu.Unlock()
	if n := strings.Count(messages, "cannot connect"); n != 3 {
		t.Errorf("%d messages, want one of each process: %q", n, messages)
	}
}

func TestUsersOptionsAreKept(t *testing.T) {
	text, err := os.ReadFile(profile(t))
	if err != nil {
		t.Fatal(err)
	}
	both := filepath.Join(t.TempDir(), "Rprofile.site")
	before := "options(parallelly.availableWorkers.custom = function() c('a', 'b'), parallelly.maxWorkers.localhost = c(1, 2))\n"
	if err := os.WriteFile(both, append([]byte(before), text...), 0o600); err != nil {
		t.Fatal(err)
	}
	const show = `out(n(), getOption("parallelly.maxWorkers.localhost"))`
	r := serve(t, "7")
	got, _ := run(t, r.address(), show, "R_PROFILE="+both)
	wantFields(t, got, "2", "1", "2")
	got, _ = run(t, r.address(), show)
	wantFields(t, got, "7", "Inf", "Inf")
	got, _ = run(t, r.address(), `out(is.null(getOption("parallelly.maxWorkers.localhost")))`, "R_PARALLELLY_MAXWORKERS_LOCALHOST=4")
	wantFields(t, got, "TRUE")
	got, _ = run(t, r.address(), `options(parallelly.availableWorkers.custom = NULL); w <- n(); out(w == length(parallelly::availableWorkers(methods = "system")) || w >= 1)`)
	wantFields(t, got, "TRUE")
	wantQuestions(t, r, "GET /v1/workers?ports=")
}

func TestOff(t *testing.T) {
	got, messages := run(t, "off", `out(n() >= 1)`)
	wantFields(t, got, "TRUE")
	if messages != "" {
		t.Errorf("R says %q, want nothing", messages)
	}
}

// R in a worker may read the same profile; nobody answers there.
func TestWorkersAreLeftAlone(t *testing.T) {
	cmd := rscript(t, nobody(t), `cat(is.null(getOption("parallelly.availableWorkers.custom")), is.null(getOption("parallelly.maxWorkers.localhost")))`)
	cmd.Args = append(cmd.Args, "MASTER=127.0.0.1", "PORT=11562", "OUT=", "SETUPSTRATEGY=sequential")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	wantFields(t, strings.Fields(string(out)), "TRUE", "TRUE")
}

// What it costs each R to start, and one that has it already, told and not judged: 1.3 ms when it was written, half
// as much again since it looks for its own file, in R that starts.
func TestStartupCost(t *testing.T) {
	got, _ := run(t, nobody(t), fmt.Sprintf(`cost <- function(before) 1000 * system.time(for (i in 1:20) { before(); sys.source(%q, new.env()) })[["elapsed"]] / 20
		out(cost(function() { options(psock.once = NULL); Sys.unsetenv("PSOCK_PROFILE") }), cost(function() NULL))`, profile(t)))
	t.Logf("the profile takes %s ms at startup, and then", strings.Join(got, " ms and "))
}
