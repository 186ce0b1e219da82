package test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// R is stopped for a while at some moment of a plan: it completes, and meanwhile no worker is
// kept from another session.
func TestStoppedWhilePlanning(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t)
	r.startAgent("pod-a", 2)
	r.awaitWarm(2)
	for name, nodes := range map[string]int{"before its nodes": 0, "at the first node": 1, "at the last node": 2} {
		t.Run(name, func(t *testing.T) {
			gate := filepath.Join(t.TempDir(), "gate")
			s := r.startR(`library(future); cat("planning\n"); plan(cluster, manual = TRUE, quiet = TRUE)
while (!file.exists(Sys.getenv("GATE"))) Sys.sleep(0.05)
cat(nbrOfWorkers(), value(future(1)), "\n")`, "GATE="+gate)
			s.awaitText("planning\n")
			r.await("its nodes", func(a api.State) bool {
				return nodes == 0 || len(a.Clusters) == 1 && len(a.Clusters[0].Nodes) >= nodes
			})
			s.signal(syscall.SIGSTOP)
			if out := r.R(`library(future); plan(cluster, manual = TRUE, quiet = TRUE); cat("sum", value(future(1)) + value(future(2)))`); !strings.Contains(out, "sum 3") {
				t.Errorf("meanwhile another session says %q", out)
			}
			s.signal(syscall.SIGCONT)
			openGate(t, gate)
			if code := s.wait(); code != 0 || !strings.Contains(s.text(), "2 1") {
				t.Errorf("R exited with %d and says %q", code, s.text())
			}
			r.await("its end", func(a api.State) bool { return len(a.Clusters) == 0 })
		})
	}
}

// R is stopped at a random moment of its plan and its first futures, for two seconds, and with
// PSOCK_SOAK for half a minute: it completes.
func TestStoppedAtAnyMoment(t *testing.T) {
	t.Parallel()
	lasts := soak(t, 0)
	sessions, stopped := 3, 2*time.Second
	if lasts > 0 {
		sessions, stopped = 8, 30*time.Second
	}
	r := startRendezvous(t)
	r.startAgent("pod-a", 2*sessions)
	seen := map[int]int{} // how many nodes a session had when it was stopped
	gate := filepath.Join(t.TempDir(), "gate")
	start := func(port int) *session {
		s := r.startR(`library(future); cat("planning\n"); plan(cluster, workers = 2, manual = TRUE, quiet = TRUE)
cat("sum", sum(unlist(value(lapply(1:4, function(i) future(i))))), "\n")
while (!file.exists(Sys.getenv("GATE"))) Sys.sleep(0.05)`, "GATE="+gate, fmt.Sprintf("R_PARALLELLY_RANDOM_PORTS=%d:%d", port, port))
		s.awaitText("planning\n")
		return s
	}
	openGate(t, gate)
	s, began := start(r.first), time.Now()
	s.awaitText("sum")
	whole := time.Since(began) // of what a session does
	s.wait()
	for end, once := time.Now().Add(lasts), true; once || time.Now().Before(end) && !t.Failed(); once = false {
		r.awaitWarm(2 * sessions)
		started := make([]*session, sessions)
		if err := os.RemoveAll(gate); err != nil {
			t.Fatal(err)
		}
		for i := range started {
			port := r.first + i
			s := start(port)
			started[i] = s
			time.Sleep(rand.N(whole)) // the random moment
			s.signal(syscall.SIGSTOP)
			state, err := r.state()
			if err != nil {
				t.Fatal(err)
			}
			nodes := 0
			for _, c := range state.Clusters {
				if int(c.Port) == port {
					nodes += len(c.Nodes)
				}
			}
			seen[nodes]++
			time.AfterFunc(stopped, func() { s.signal(syscall.SIGCONT) })
		}
		for _, s := range started {
			s.awaitText("sum")
		}
		openGate(t, gate)
		for _, s := range started {
			if code := s.wait(); code != 0 || !strings.Contains(s.text(), "sum 10") {
				t.Errorf("R exited with %d and says %q", code, s.text())
			}
		}
	}
	r.await("their end", func(s api.State) bool { return count(s, pool.Warm) == 2*sessions && len(s.Clusters) == 0 })
	if lasts > 0 && (seen[0] == 0 || seen[1]+seen[2] == 0) {
		t.Errorf("sessions were stopped with as many nodes: %v, want some before and some in their plan", seen)
	}
	t.Log("sessions stopped, by the nodes that they had: ", fmt.Sprint(seen))
}
