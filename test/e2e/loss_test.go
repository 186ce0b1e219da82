//go:build e2e

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestDeletedWorkers is line 4 for worker pods, deleted idle and busy.
func TestDeletedWorkers(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.install(headless)
	n.sh("kubectl delete --wait=false pod/" + n.workerPods()[0])
	n.rollout()
	n.warm(3)
	n.plan(3)

	// Busy, in good order: the call is finished before its pod ends.
	s := n.startR(`
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
f <- future({ Sys.sleep(6); Sys.info()[["nodename"]] })
cat("on", value(future(Sys.info()[["nodename"]])), "\n")
cat("computing\n")
cat("finished on", value(f), "\n")
`)
	s.await("computing")
	n.sh("kubectl delete --wait=false pod -l component=worker")
	if out := s.wait(); !strings.Contains(out, "finished on future-worker-") {
		t.Error(out)
	}
	n.rollout()
	n.warm(3)
	n.plan(3)

	// Busy, all of a sudden: the future runs again in another pod. A call that is no
	// future fails and says why.
	s = n.startR(`
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
cat("on", value(future(Sys.info()[["nodename"]])), "\n")
f <- future({ Sys.sleep(20); Sys.info()[["nodename"]] })
cat("computing\n")
cat("finished on", value(f), "\n")
plan(sequential)
cl <- parallelly::makeClusterPSOCK(1, manual = TRUE, quiet = TRUE)
cat("calling\n")
e <- tryCatch(parallel::clusterCall(cl, Sys.sleep, 600), error = identity)
cat(conditionMessage(e), "\n")
`)
	busy := func() string {
		return n.sh(`kubectl exec deployment/future-scheduler -c rendezvous -- /rendezvous status --json | jq -r '.clusters[].nodes[] | select(.activity.busy) | .worker'`)
	}
	s.await("computing")
	first := busy()
	pod, _, _ := strings.Cut(first, "/")
	n.sh("kubectl delete --force --grace-period=0 pod/" + pod)
	s.await("calling")
	if strings.Contains(s.text(), "finished on "+pod) {
		t.Errorf("the future did not run again:\n%s", s.text())
	}
	if reruns := n.metric("rendezvous_reruns_total"); reruns != "1" {
		t.Errorf("%s reruns", reruns)
	}
	n.eventually("the call", func() bool { return busy() != "" })
	second := busy()
	pod, _, _ = strings.Cut(second, "/")
	n.sh("kubectl delete --force --grace-period=0 pod/" + pod)
	if out := s.wait(); !strings.Contains(out, "worker "+second+" was lost in this call: ") {
		t.Errorf("the R error does not say why:\n%s", out)
	}
	n.rollout()
	n.warm(3)
	n.plan(3)
}

// futures is a session that computes for as long as there is no file at its gate, and
// compares every value with that of plan(sequential). A future takes longer than a worker
// that goes is given.
const futures = `
library(future)
gate <- "/tmp/gate"
unlink(gate)
plan(sequential)
want <- future.apply::future_lapply(1:30, function(i) c(i, rnorm(2)), future.seed = 42L)
plan(cluster, manual = TRUE, quiet = TRUE)
rounds <- 0
while (!file.exists(gate)) {
	got <- future.apply::future_lapply(1:30, function(i) { Sys.sleep(1.2); c(i, rnorm(2)) }, future.seed = 42L, future.chunk.size = 10)
	stopifnot(identical(got, want))
	rounds <- rounds + 1
	cat("round", rounds, "\n")
}
cat("all identical\n")
`

// TestFuturesGoOn: worker pods are replaced, drained from their node, and cut off from
// the network while futures run. R sees no error. The cut needs the cluster of test/cluster.
func TestFuturesGoOn(t *testing.T) {
	n := newNamespace(t)
	n.install(headless, "--set worker.drainSeconds=1")
	cut := filepath.Join(root(t), "test/cluster/cut")
	_, other := n.nodes()
	for _, loss := range []struct {
		name        string
		begin, mend func()
	}{
		// In this order: a rollout spreads the pods over the nodes again.
		{"cut", func() { n.sh(cut + " " + other) }, func() {
			n.sh(cut + " --mend " + other)
			n.sh("kubectl wait --for=condition=Ready --timeout=2m node/" + other)
		}},
		{"rollout", func() { n.sh("kubectl rollout restart deployment/future-worker") }, func() {}},
		{"drain",
			func() {
				n.sh("kubectl drain " + other + " --ignore-daemonsets --delete-emptydir-data --force --timeout=3m --pod-selector=component=worker,release=test")
			},
			func() { n.sh("kubectl uncordon " + other) }},
	} {
		t.Run(loss.name, func(t *testing.T) {
			defer func() {
				if loss.name == "cut" {
					n.try(cut + " --mend " + other)
				}
				n.try("kubectl uncordon " + other)
			}()
			s := n.startR(futures)
			s.await("round 1 ")
			before := n.metric("rendezvous_reruns_total")
			loss.begin()
			n.eventually("a future runs again", func() bool { return n.metric("rendezvous_reruns_total") != before })
			loss.mend()
			n.rollout()
			n.eventually("three workers", func() bool { return len(n.workerPods()) == 3 })
			n.sh("kubectl exec deployment/future-scheduler -c scheduler -- touch /tmp/gate")
			if out := s.wait(); !strings.Contains(out, "all identical") {
				t.Error(out)
			}
		})
	}
}

// TestSchedulerReplaced is line 4 for the scheduler's side: its pod, and the
// rendezvous' container alone.
func TestSchedulerReplaced(t *testing.T) {
	t.Parallel()
	for name, discovery := range map[string]string{"dns": "dns", "endpoints": "kubernetes"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNamespace(t)
			n.install(headless, "--set agent.discovery="+discovery)
			n.plan(3)
			n.sh("kubectl delete pod -l component=scheduler")
			n.sh("kubectl rollout status deployment/future-scheduler --timeout=2m")
			n.warm(3)
			n.plan(3)

			n.endRendezvous()
			n.warm(3)
			n.plan(3)
		})
	}
}

// TestNodeCutOff is line 4 for a whole node. It needs the cluster of test/cluster.
func TestNodeCutOff(t *testing.T) {
	n := newNamespace(t)
	n.install(headless)
	cut := filepath.Join(root(t), "test/cluster/cut")
	home, other := n.nodes()
	near := len(strings.Fields(n.sh("kubectl get pods -l component=worker -o json | jq -r '.items[] | select(.spec.nodeName == \"" + home + "\") | .metadata.name'")))
	if near == 0 || near == 3 {
		t.Fatalf("%d of 3 workers are on the scheduler's node", near)
	}
	n.sh(cut + " " + other)
	t.Cleanup(func() { n.try(cut + " --mend " + other) })
	n.warm(near)
	n.plan(near)
	// Kubernetes gives the node up and starts the pods elsewhere.
	n.warm(3)
	n.plan(3)
	n.sh(cut + " --mend " + other)
	n.sh("kubectl wait --for=condition=Ready --timeout=2m node/" + other)
	n.rollout()
	n.eventually("three pods again", func() bool { return len(n.workerPods()) == 3 })
	n.warm(3)
	n.plan(3)
}
