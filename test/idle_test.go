package test

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// idleSession plans once, and runs futures each time that it is told to: before and after
// its workers are lost. "untouched" loses them before its first future.
const idleSession = `
library(future)
dir <- Sys.getenv("GATES")
plans <- list(
	plan = function() plan(cluster, manual = TRUE, quiet = TRUE),
	makeClusterPSOCK = function() plan(cluster, workers = parallelly::makeClusterPSOCK(3, manual = TRUE, quiet = TRUE)),
	lease = function() plan(cluster, workers = rendezvous::cluster(3)),
	shared = function() plan(cluster, workers = rendezvous::cluster(3, share = TRUE))
)
plans[[Sys.getenv("PLAN")]]()
stopifnot(nbrOfWorkers() == 3)
futures <- function() {
	fs <- lapply(1:3, function(i) future({ Sys.sleep(0.2); c(i, Sys.getpid()) }))
	values <- value(fs)
	stopifnot(identical(vapply(values, function(v) as.integer(v[1]), 0L), 1:3))
	cat("values\n")
}
for (round in 0:2) {
	gate <- file.path(dir, round)
	cat("round", round, "\n")
	while (!file.exists(gate)) Sys.sleep(0.01)
	if (round > 0 || Sys.getenv("UNTOUCHED") == "") futures()
}
cat("as expected\n")
`

// Whatever idle workers of a plan are lost by, the next futures return their values, on the
// same plan, without a word.
func TestIdleLoss(t *testing.T) {
	t.Parallel()
	causes := map[string]func(t *testing.T, r *runtime, agent *process) *process{
		"R killed": func(t *testing.T, r *runtime, agent *process) *process {
			s, err := r.state()
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range s.Workers {
				if err := syscall.Kill(w.PID, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			return agent
		},
		"agent killed":     func(t *testing.T, r *runtime, agent *process) *process { return r.replaceAgent(agent, syscall.SIGKILL) },
		"agent terminated": func(t *testing.T, r *runtime, agent *process) *process { return r.replaceAgent(agent, syscall.SIGTERM) },
	}
	for _, plan := range []string{"plan", "makeClusterPSOCK", "lease", "shared"} {
		for cause, lose := range causes {
			for _, untouched := range []string{"", "yes"} {
				if untouched != "" && cause != "R killed" {
					continue // that is of the session, not of the cause
				}
				t.Run(fmt.Sprintf("%s/%s/untouched=%s", plan, cause, untouched), func(t *testing.T) {
					t.Parallel()
					r := startRendezvous(t)
					agent := r.startAgentElsewhere("pod-0", 3)
					r.awaitWarm(3)
					gates := t.TempDir()
					s := r.startR(idleSession, packageEnv(t), "PLAN="+plan, "GATES="+gates, "UNTOUCHED="+untouched)
					for round := range 3 {
						s.awaitText(fmt.Sprintf("round %d", round))
						if round > 0 {
							before, err := r.state()
							if err != nil {
								t.Fatal(err)
							}
							agent = lose(t, r, agent)
							r.awaitOthers(before)
						}
						openGate(t, filepath.Join(gates, strconv.Itoa(round)))
					}
					if code := s.wait(); code != 0 {
						t.Errorf("R exited with %d", code)
					}
					if got := r.metric("rendezvous_reruns_total"); got != "0" {
						t.Errorf("%s futures ran twice", got)
					}
				})
			}
		}
	}
}

// startAgentElsewhere starts an agent whose host has another name than the session's.
func (r *runtime) startAgentElsewhere(name string, workers int, args ...string) *process {
	r.t.Helper()
	return launch(r.t, nil, "unshare", append([]string{"--uts", "sh", "-c", `hostname "$0"; exec "$@"`, name,
		filepath.Join(bin, "worker-agent"), "--rendezvous", r.agents, "--tls-dir", filepath.Join(r.certs, "worker"), "--name", name,
		"--workers", fmt.Sprint(workers), "--admin-address", "127.0.0.1:0", "--no-limits",
	}, args...)...)
}

// replaceAgent ends an agent by a signal, and starts another in its place, as a Deployment
// does.
func (r *runtime) replaceAgent(agent *process, signal syscall.Signal) *process {
	r.t.Helper()
	agent.signal(signal)
	agent.wait()
	return r.startAgentElsewhere("pod-"+strconv.Itoa(agent.cmd.Process.Pid), 3)
}

// awaitOthers waits until there are as many workers as there were, none of them one of those,
// and each ready.
func (r *runtime) awaitOthers(before api.State) {
	r.t.Helper()
	gone := make(map[int]bool)
	for _, w := range before.Workers {
		gone[w.PID] = true
	}
	r.await("other workers", func(s api.State) bool {
		n := 0
		for _, w := range s.Workers {
			if gone[w.PID] {
				return false
			}
			if w.State == pool.Warm || w.State == pool.Reserved || w.State == pool.Bound {
				n++
			}
		}
		return n == len(before.Workers)
	})
}

// A plan has more nodes than there are workers, however many: its nodes take turns.
func TestManyNodes(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{40, 300} {
		t.Run(strconv.Itoa(nodes), func(t *testing.T) {
			t.Parallel()
			r := startRendezvous(t)
			r.startAgentElsewhere("pod-0", 4)
			r.awaitWarm(4)
			before, err := r.state()
			if err != nil {
				t.Fatal(err)
			}
			var options []string // R before 4.4 has 128 connections
			if nodes > 120 {
				if r.R(`cat(getRversion() >= "4.4.0")`) == "FALSE" {
					return
				}
				options = append(options, fmt.Sprintf("--max-connections=%d", nodes+64))
			}
			s := r.startRWith(options, `
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
stopifnot(nbrOfWorkers() == as.integer(Sys.getenv("NSLOTS")))
values <- future.apply::future_lapply(1:400, function(i) c(i, i^2, Sys.getpid()), future.chunk.size = 2)
stopifnot(identical(vapply(values, function(v) v[2], 0), (1:400)^2))
cat(unique(vapply(values, function(v) v[3], 0)), "\n")
`, fmt.Sprintf("NSLOTS=%d", nodes))
			if code := s.wait(); code != 0 {
				t.Fatalf("R exited with %d:\n%s", code, s.text())
			}
			pids := strings.Fields(strings.TrimSpace(s.text()))
			if len(pids) == 0 || len(pids) > 4 {
				t.Errorf("the futures ran in processes %v, want at most four", pids)
			}
			for _, pid := range pids {
				if !strings.Contains(fmt.Sprintf("%+v", before.Workers), "PID:"+pid+" ") {
					t.Errorf("a future ran in process %s, which was not warm before: %+v", pid, before.Workers)
				}
			}
		})
	}
}

// A future that cannot be started on its worker leaves the node free for the next one.
func TestLaunchError(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 1)
	r.awaitWarm(1)
	r.R(`
library(future)
cl <- parallelly::makeClusterPSOCK(1, manual = TRUE, quiet = TRUE)
plan(cluster, workers = cl)
for (i in 1:3) {
	f <- future(42, packages = "stats")
	f$packages <- "no.such.package"
	r <- tryCatch(value(f), error = identity)
	stopifnot(identical(value(future(i)), i))
}
r <- tryCatch(value(future(1, packages = "no.such.package")), error = identity)
stopifnot(inherits(r, "error"), grepl("no.such.package", conditionMessage(r)), identical(value(future("next")), "next"))
`)
	r.awaitWarm(1)
}
