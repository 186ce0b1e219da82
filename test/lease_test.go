package test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/lease"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
)

// installPackage installs the R package once for all tests.
var installPackage = sync.OnceValues(func() (library string, err error) {
	library = filepath.Join(bin, "R")
	if err := os.Mkdir(library, 0o755); err != nil {
		return "", err
	}
	out, err := exec.Command("R", "CMD", "INSTALL", "--no-test-load", "--library="+library, "../r/rendezvous").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("installing the R package rendezvous ('make deps' installs what it needs): %w\n%s", err, out)
	}
	return library, nil
})

// packageEnv is the environment of an R session that has the package.
func packageEnv(t *testing.T) string {
	t.Helper()
	library, err := installPackage()
	if err != nil {
		t.Fatal(err)
	}
	return "R_LIBS=" + library
}

// ask sends a request to the interface for R.
func (r *runtime) ask(method, path, body string) (status int, answer string) {
	r.t.Helper()
	status, answer = testkit.Ask(r.t, http.DefaultClient, method, "http://"+r.api+path, body)
	return status, strings.TrimSpace(answer)
}

// live are the leases that hold or wait for something.
func live(s api.State) (leases []lease.Snapshot) {
	for _, l := range s.Leases {
		if slices.Contains(lease.States, l.State) {
			leases = append(leases, l)
		}
	}
	return leases
}

// A leased cluster serves future, parallel and foreach, and its end ends the lease.
func TestLease(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 2)
	r.startAgent("pod-b", 2)
	r.awaitWarm(4)
	out := r.R(`
cl <- rendezvous::cluster(3, label = "three")
stopifnot(identical(class(cl), c("SOCKcluster", "cluster")), length(cl) == 3)
print(cl)

library(future)
plan(cluster, workers = cl)
stopifnot(nbrOfWorkers() == 3)
pids <- value(lapply(1:3, function(k) future({ Sys.sleep(0.2); Sys.getpid() })))
stopifnot(length(unique(unlist(pids))) == 3)
stopifnot(identical(future.apply::future_sapply(1:20, sqrt), sqrt(1:20)))
plan(sequential)

parallel::clusterExport(cl, "pids")
stopifnot(identical(parallel::parLapply(cl, 1:20, function(i) length(pids) + i), as.list(3L + 1:20)))

library(doParallel)
registerDoParallel(cl)
stopifnot(getDoParWorkers() == 3, identical(foreach(i = 1:20, .combine = c) %dopar% sqrt(i), sqrt(1:20)))

w <- rendezvous::workers()
stopifnot(nrow(w) == 4, sum(w$state == "bound") == 3, all(w$pod %in% c("pod-a", "pod-b")), all(w$group == "default"), all(w$deaths == 0))
l <- rendezvous::leases()
stopifnot(l$label == "three", l$state == "connected", l$workers == 3, l$ready == 3)
parallel::stopCluster(cl)

# All there are, the three that were given up in this moment included.
all <- rendezvous::cluster()
stopifnot(length(all) == 4)
cat("all fine\n")
`, packageEnv(t))
	if !strings.Contains(out, "all fine") {
		t.Fatal(out)
	}
	r.awaitWarm(4)
	r.await("no lease left", func(s api.State) bool { return len(live(s)) == 0 && len(s.Clusters) == 0 })
	for _, state := range lease.States {
		if n := r.metric(`rendezvous_leases{state="` + string(state) + `"}`); n != "0" {
			t.Errorf("%s leases are %s", n, state)
		}
	}
}

// Each of two groups has a cluster of its own, on its own workers; with one worker of a
// group in use, the next lease for it waits although others are free.
func TestLeaseGroups(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t, "--demand-timeout", "2s")
	r.startAgent("pod-a", 2)
	r.startAgent("pod-big", 1, "--group", "big")
	r.awaitWarm(3)
	out := r.R(`
library(future)
bound <- function() sort(with(rendezvous::workers(), group[state %in% c("reserved", "bound")]))
big <- rendezvous::cluster(group = "big")
stopifnot(length(big) == 1, identical(bound(), "big"))
rest <- rendezvous::cluster(2, group = "default")
stopifnot(identical(bound(), c("big", "default", "default")))
plan(cluster, workers = big)
pid <- value(future(Sys.getpid()))
# A plan cancels the futures of the one before, with future 1.49 and newer.
plan(cluster, workers = rest)
stopifnot(value(future(Sys.getpid())) != pid)
plan(sequential)
parallel::stopCluster(rest)
e <- tryCatch(rendezvous::cluster(1, group = "big"), error = identity)
stopifnot(inherits(e, "rendezvous_refused"))
cat(conditionMessage(e), "\n")
parallel::stopCluster(big)
`, packageEnv(t))
	if want := "1 of 1 workers are ready; a lease of 1 waited "; !strings.Contains(out, want) || !strings.Contains(out, "1 in use by others") {
		t.Errorf("R says %q, want %q", out, want)
	}
}

// What cannot be had is an R error that says why, at once or when it is known, and
// nothing stays reserved.
func TestLeaseRefused(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t, "--demand-timeout", "5s", "--max-workers", "10")
	r.startAgent("pod-a", 2)
	r.awaitWarm(2)
	out := r.R(`
why <- function(...) {
  e <- tryCatch(rendezvous::cluster(...), error = identity)
  stopifnot(inherits(e, "rendezvous_error"))
  cat(class(e)[1], ": ", conditionMessage(e), "\n", sep = "")
}
why(1, group = "gpu")
why(11)
why(3)
why(3, timeout = 1)
why(100000)
cl <- rendezvous::cluster(2)
stopifnot(identical(parallel::clusterCall(cl, function() 1), list(1, 1)))
parallel::stopCluster(cl)
others <- lapply(seq_len(128 - nrow(showConnections(all = TRUE)) - 1), function(i) rawConnection(raw(0)))
why()
why(1, share = TRUE)
close(others[[1]])
while (sum(rendezvous::workers()$state == "warm") < 2) Sys.sleep(0.1) # the next lease waits 5 s at most
cl <- rendezvous::cluster()
stopifnot(length(cl) == 1)
`, packageEnv(t))
	for _, want := range []string{
		`rendezvous_refused: there is no worker group "gpu"; there are: default`,
		`rendezvous_refused: 11 workers can never be had: --max-workers is 10`,
		`rendezvous_refused: 2 of 2 workers are ready; a lease of 3 waited `,
		`start more workers or ask for at most 2`,
		`rendezvous_timeout: timed out after 1 s: 2 of 3 workers are ready`,
		`rendezvous_refused: 100000 workers do not fit`,
		`rendezvous_refused: no worker fits: of the 128 connections that this R can have, 0 are left, and each worker takes one; close others, or `,
		`rendezvous_refused: 1 workers do not fit`,
		`rendezvous: there are 2 workers, but only 1 fit: R has 128 connections; close others, or `,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("R's output lacks %q:\n%s", want, out)
		}
	}
	r.awaitWarm(2)
	for reason, want := range map[string]string{"group": "1", "max_workers": "1", "no_workers": "1", "crowded": "0"} {
		if got := r.metric(`rendezvous_leases_refused_total{reason="` + reason + `"}`); got != want {
			t.Errorf("%s refusals for %s, want %s", got, reason, want)
		}
	}
}

// A session that is interrupted or killed while it waits, or once it is connected,
// gives back what it has; so does a lease that nobody uses, and a thousand of them.
func TestForgottenLeases(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 3)
	r.awaitWarm(3)

	interrupted := r.startR(`tryCatch(rendezvous::cluster(4), interrupt = function(c) cat("interrupted\n"))`, packageEnv(t))
	interrupted.awaitText("3 of 4 workers are ready")
	interrupted.signal(syscall.SIGINT)
	interrupted.awaitText("interrupted")
	interrupted.wait()
	r.awaitWarm(3)

	connected := r.startR(`cl <- rendezvous::cluster(3); cat("connected\n"); Sys.sleep(3600)`, packageEnv(t))
	connected.awaitText("connected")
	connected.signal(syscall.SIGKILL)
	connected.wait()
	r.awaitWarm(3)
	r.await("the lease's end", func(s api.State) bool { return len(live(s)) == 0 })

	// Sessions that have loaded the package before it begins: a lease that nobody asks for
	// ends after 30 s.
	gate := func(name string) (path string, open func()) {
		path = filepath.Join(t.TempDir(), name)
		return path, func() {
			openGate(t, path)
		}
	}
	atGate := func(path, code string) *session {
		s := r.startR(fmt.Sprintf(`
loadNamespace("rendezvous")
cat("loaded\n")
while (!file.exists(%q)) Sys.sleep(0.01)
%s
`, path, code), packageEnv(t))
		s.awaitText("loaded")
		return s
	}
	first, wait := gate("first")
	last, ask := gate("last")
	waiting := atGate(first, `rendezvous::cluster(4, label = "killed")`)
	late := atGate(last, `e <- tryCatch(rendezvous::cluster(1), error = identity); cat("R hears:", conditionMessage(e), "\n")`)

	unused := r.lease(`{"workers":1,"label":"unused"}`)
	wait()
	waiting.awaitText("2 of 4 workers are ready")
	waiting.signal(syscall.SIGKILL)
	waiting.wait()
	accepted, refused := 0, ""
	for range 1000 {
		switch status, answer := r.ask(http.MethodPost, "/v1/leases", `{"workers":1}`); status {
		case http.StatusCreated:
			accepted++
		case http.StatusTooManyRequests:
			refused = answer
		default:
			t.Fatalf("a lease more: %d %s", status, answer)
		}
	}
	if want := lease.MaxLeases - 2; accepted != want || !strings.HasPrefix(refused, "there are 100 leases, which is as many as there may be") {
		t.Errorf("%d of 1000 leases were accepted, want %d; the others were told %q", accepted, want, refused)
	}
	if n := len(r.await("the leases", func(s api.State) bool { return true }).Leases); n > 2*lease.MaxLeases {
		t.Errorf("%d leases are kept", n)
	}
	ask()
	late.wait()
	if out := late.text(); !strings.Contains(out, "R hears: there are 100 leases") {
		t.Error(out)
	}
	s := r.await("the end of all", func(s api.State) bool { return len(live(s)) == 0 })
	for _, l := range s.Leases {
		if l.ID == unused.ID && l.Message != "nobody asked for it for 30s" {
			t.Errorf("the unused one ended since %q", l.Message)
		}
	}
	r.awaitWarm(3)
	r.R(`stopifnot(length(rendezvous::cluster()) == 3)`, packageEnv(t))
}

// lease asks for one, as a session that then does nothing.
func (r *runtime) lease(body string) (l lease.Snapshot) {
	r.t.Helper()
	status, answer := r.ask(http.MethodPost, "/v1/leases", body)
	if err := json.Unmarshal([]byte(answer), &l); status != http.StatusCreated || err != nil {
		r.t.Fatalf("%s: %d %s", body, status, answer)
	}
	return l
}

// A pool that is empty at first: the session waits, is shown what for, and has its
// workers as soon as they are there. A worker that dies meanwhile is replaced.
func TestLeaseBeforeItsWorkers(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	s := r.startR(`
cl <- rendezvous::cluster(2)
stopifnot(length(unique(unlist(parallel::clusterCall(cl, Sys.getpid)))) == 2)
cat("has both\n")
`, packageEnv(t))
	s.awaitText("rendezvous: 0 of 2 workers are ready; no worker agent is connected")
	first := r.startAgent("pod-a", 1)
	r.await("one reserved worker", func(s api.State) bool { return count(s, pool.Reserved) == 1 })
	first.signal(syscall.SIGKILL)
	first.wait()
	r.startAgent("pod-b", 2)
	s.awaitText("has both")
	if code := s.wait(); code != 0 {
		t.Errorf("R exited with %d:\n%s", code, s.text())
	}
}

// Another user's process has no part in it.
func TestLeasesOfOtherUsers(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	library := packageEnv(t)
	r.startAgent("pod-a", 1)
	r.awaitWarm(1)
	cmd := exec.Command("Rscript", "--vanilla", "-e", `cat(tryCatch(rendezvous::cluster(1), error = conditionMessage))`)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), library, "PSOCK_RENDEZVOUS_API="+r.api, "HOME=/", "TMPDIR="+publicDir(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	p := launchCommand(t, cmd)
	p.wait()
	if !strings.Contains(p.text(), "this process belongs to user 65534") {
		t.Errorf("R says %q", p.text())
	}
	r.awaitWarm(1)
}

// publicDir is a directory that every user may write to.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "psock-runtime-public-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A session gets no more workers than it may have, by whatever means, and hears why.
func TestSessionWorkers(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t, "--demand-timeout", "5s", "--session-workers", "2")
	r.startAgent("pod-a", 3)
	r.awaitWarm(3)
	out := r.R(`
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
stopifnot(nbrOfWorkers() == 2)
plan(sequential)
cl <- rendezvous::cluster()
stopifnot(length(cl) == 2)
parallel::stopCluster(cl)
cat(tryCatch(rendezvous::cluster(3), error = conditionMessage), "\n")
cat(tryCatch(parallelly::makeClusterPSOCK(3, manual = TRUE, quiet = TRUE), error = conditionMessage), "\n")
`, packageEnv(t))
	for _, want := range []string{
		"3 workers can never be had: --session-workers is 2",
		"(2 in use by this cluster, 0 by others); --session-workers is 2: ask for at most 2",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("R's output lacks %q:\n%s", want, out)
		}
	}
	r.awaitWarm(3)
}
