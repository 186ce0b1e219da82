//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// restingSession plans once, with two nodes. Each time that there is a file at its gate it runs
// futures, and compares their values with those of plan(sequential).
const restingSession = `
library(future)
task <- function() future.apply::future_lapply(1:4, function(i) { Sys.sleep(0.2); c(i, rnorm(2)) }, future.seed = 42L, future.chunk.size = 1)
want <- task()
%s
for (round in 0:99) {
	stopifnot(nbrOfWorkers() == 2, identical(task(), want))
	cat("values", round, "\n")
	while (!file.exists(paste0("/tmp/gate-", round))) Sys.sleep(0.1)
	if (file.exists("/tmp/end")) break
}
`

// waysToPlan are those of R code that has plans of the rendezvous' workers.
var waysToPlan = map[string]string{
	"plan":             `Sys.setenv(NSLOTS = 2); plan(cluster, manual = TRUE, quiet = TRUE)`,
	"makeClusterPSOCK": `plan(cluster, workers = parallelly::makeClusterPSOCK(2, manual = TRUE, quiet = TRUE))`,
	"lease":            `plan(cluster, workers = rendezvous::cluster(2, quiet = TRUE))`,
	"shared":           `plan(cluster, workers = rendezvous::cluster(2, share = TRUE, quiet = TRUE))`,
}

// resting are sessions of one release, a kind of plan each, which keep their plans.
type resting struct {
	n        *namespace
	sessions map[string]*script
	rounds   int
}

// startResting starts a session of each kind, on as many workers as their nodes need: two in
// each of four pods.
func (n *namespace) startResting() *resting {
	n.t.Helper()
	n.install(headless, "--set worker.replicas=4 --set worker.slots=2 --set worker.drainSeconds=5")
	n.warm(8)
	r := &resting{n: n, sessions: map[string]*script{}}
	for kind, plan := range waysToPlan {
		r.sessions[kind] = n.startR(fmt.Sprintf(restingSession, plan))
	}
	r.values()
	return r
}

// values waits for the values of this round, without which each session ends.
func (r *resting) values() {
	r.n.t.Helper()
	for _, s := range r.sessions {
		s.await(fmt.Sprintf("values %d ", r.rounds))
	}
}

// compute has all sessions run futures at the same time.
func (r *resting) compute() {
	r.n.t.Helper()
	r.n.open("/tmp/gate-" + strconv.Itoa(r.rounds))
	r.rounds++
	r.values()
}

// end ends the sessions, which must have said nothing else. No future ran when its worker was lost:
// none ran again.
func (r *resting) end() {
	r.n.t.Helper()
	r.n.open("/tmp/end /tmp/gate-" + strconv.Itoa(r.rounds))
	want := ""
	for round := range r.rounds + 1 {
		want += fmt.Sprintf("values %d \n", round)
	}
	for kind, s := range r.sessions {
		if out := s.wait(); out != want {
			r.n.t.Errorf("%s: R printed\n%s", kind, out)
		}
	}
	if reruns := r.n.metric("rendezvous_reruns_total"); reruns != "0" {
		r.n.t.Errorf("%s futures ran again", reruns)
	}
	r.n.warm(8)
}

// workers are those that can be used, as "POD SLOT TIME"; the time is that of their last
// change, so that a successor is another one.
func (n *namespace) workers() []string {
	n.t.Helper()
	out := n.rendezvous(scheduler, `status --json | jq -r '.workers[] | select(.state | IN("warm", "reserved", "bound")) | "\(.agent) \(.slot) \(.since)"'`)
	return strings.FieldsFunc(out, func(r rune) bool { return r == '\n' })
}

// idleLoss is a way to lose idle workers. Its lose returns the pods whose workers these were.
type idleLoss struct {
	name string
	lose func(n *namespace) []string
	left int                // workers that there are then
	mend func(n *namespace) // brings back eight, where Kubernetes does not
}

// lose goes through the losses: after each one, when the lost workers are out of the pool and there are as
// many as there should be, every session's next futures return their values.
func (r *resting) lose(t *testing.T, losses []idleLoss) {
	n := r.n
	for _, loss := range losses {
		t.Run(loss.name, func(t *testing.T) {
			n.t = t
			before := n.workers()
			lost := loss.lose(n)
			n.eventually(fmt.Sprintf("%d workers, and the lost ones are gone", loss.left), func() bool {
				now := n.workers()
				return len(now) == loss.left && !slices.ContainsFunc(now, func(w string) bool {
					pod, _, _ := strings.Cut(w, " ")
					return slices.Contains(lost, pod) && slices.Contains(before, w)
				})
			})
			r.compute()
			if loss.mend != nil {
				loss.mend(n)
				n.rollout()
				n.eventually("eight workers", func() bool { return len(n.workers()) == 8 })
				r.compute()
			}
		})
		n.t = t
		if t.Failed() {
			break // what follows would only say the same
		}
	}
}

// signalAll sends a signal to the processes of an executable in all worker pods: to process 1, or to
// all others.
func signalAll(signal, executable string, first bool) func(n *namespace) []string {
	return func(n *namespace) []string {
		pods := n.workerPods()
		which := "[ $p != 1 ] &&"
		if first {
			which = "[ $p = 1 ] &&"
		}
		for _, pod := range pods {
			// The container's end may end this shell: no error counts.
			n.try("kubectl exec " + pod + ` -- sh -c 'for d in /proc/[0-9]*; do p=${d#/proc/}; case $(readlink $d/exe) in */` + executable + `) ` + which + ` kill -` + signal + ` $p;; esac; done'`)
		}
		return pods
	}
}

// TestIdleWorkersLost: workers that are idle between two futures of a plan are lost, by all that
// ends them. Sessions keep their plans, of whatever kind, and their next futures return their values.
func TestIdleWorkersLost(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	r := n.startResting()
	all := func(command string) func(n *namespace) []string {
		return func(n *namespace) []string {
			pods := n.workerPods()
			n.sh(command)
			n.rollout()
			return pods
		}
	}
	deleted := all("kubectl delete --wait=false pod -l component=worker")
	losses := []idleLoss{
		{name: "R killed", lose: signalAll("KILL", "exec/R", false), left: 8},
		{name: "deleted", lose: deleted, left: 8},
		{name: "scaled", lose: func(n *namespace) []string {
			before := n.workerPods()
			n.sh("kubectl scale --replicas=1 deployment/future-worker")
			n.eventually("one worker pod", func() bool { return len(n.workerPods()) == 1 })
			left := n.workerPods()
			return slices.DeleteFunc(before, func(pod string) bool { return slices.Contains(left, pod) })
		}, left: 2, mend: func(n *namespace) { n.sh("kubectl scale --replicas=4 deployment/future-worker") }},
	}
	// To R all losses are one: the oldest has it in three.
	if !n.oldest {
		losses = append(losses,
			idleLoss{name: "agent terminated", lose: signalAll("TERM", "worker-agent", true), left: 8},
			idleLoss{name: "rollout", lose: all("kubectl rollout restart deployment/future-worker"), left: 8},
			idleLoss{name: "agent killed", lose: signalAll("KILL", "worker-agent", false), left: 8},
			idleLoss{name: "deleted again", lose: deleted, left: 8})
	}
	r.lose(t, losses)
	r.end()
}

// TestIdleNodeLost is the same for the node that the workers are on: it is drained, and cut off from the
// network. The cut needs the cluster of test/cluster.
func TestIdleNodeLost(t *testing.T) {
	n := newNamespace(t)
	r := n.startResting()
	cut := filepath.Join(root(t), "test/cluster/cut")
	_, other := n.nodes()
	t.Cleanup(func() { n.try("kubectl uncordon " + other) })
	there := func(n *namespace) []string {
		return strings.Fields(n.sh(`kubectl get pods -l component=worker -o json | jq -r '.items[] | select(.spec.nodeName == "` + other + `") | .metadata.name'`))
	}
	spread := func(n *namespace) {
		n.sh("kubectl rollout restart deployment/future-worker")
		n.rollout()
		n.eventually("workers are on both nodes", func() bool { pods := len(there(n)); return pods > 0 && pods < 4 })
	}
	r.lose(t, []idleLoss{
		{name: "drain", lose: func(n *namespace) []string {
			pods := there(n)
			n.sh("kubectl drain " + other + " --ignore-daemonsets --delete-emptydir-data --force --timeout=3m --pod-selector=component=worker,release=test")
			n.rollout()
			return pods
		}, left: 8, mend: func(n *namespace) { n.sh("kubectl uncordon " + other); spread(n) }},
		{name: "cut", lose: func(n *namespace) []string {
			pods := there(n)
			n.t.Cleanup(func() { n.try(cut + " --mend " + other) })
			n.sh(cut + " " + other)
			n.eventually("its workers are lost", func() bool { return len(n.workers()) == 8-2*len(pods) })
			r.compute() // on those that are left
			return pods // Kubernetes gives the node up and starts the pods elsewhere
		}, left: 8, mend: func(n *namespace) {
			n.sh(cut + " --mend " + other)
			n.sh("kubectl wait --for=condition=Ready --timeout=2m node/" + other)
			n.eventually("four pods again", func() bool { return len(n.workerPods()) == 4 })
		}},
	})
	r.end()
}
