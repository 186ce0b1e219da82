//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// endRendezvous ends the rendezvous' container alone, and waits for the next one.
// SIGTERM, since process 1 cannot be killed from within its container.
func (n *namespace) endRendezvous() {
	n.t.Helper()
	debug := `{"securityContext": {"runAsUser": 65532, "runAsNonRoot": true}}`
	if err := os.WriteFile(filepath.Join(n.dir, "debug.json"), []byte(debug), 0o644); err != nil {
		n.t.Fatal(err)
	}
	pod := n.sh("kubectl get pod -l component=scheduler -o name")
	n.sh("kubectl debug --profile=general --custom=debug.json --image=" + n.rImage() + " --image-pull-policy=IfNotPresent --target=rendezvous " + pod + " -- sh -c 'kill 1'")
	n.eventually("the rendezvous was restarted", func() bool {
		return n.sh(`kubectl get `+pod+` -o jsonpath='{.status.initContainerStatuses[?(@.name=="rendezvous")].restartCount}'`) == "1"
	})
	n.sh("kubectl wait --for=condition=ready --timeout=60s " + pod)
}

// busy is a session whose workers all compute, for longer than any test waits.
const busy = `
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
f <- lapply(1:3, function(i) future(Sys.sleep(3600)))
cat("computing\n")
`

// TestSchedulerSideLostBusy is line 4 for the scheduler's side while all workers compute.
func TestSchedulerSideLostBusy(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.install(headless)

	// The rendezvous alone: the session lives on, and has an error of each future. future 1.49 and later
	// connect a node again for its next future, older ones want another plan.
	s := n.startR(busy + `
for (each in f) {
	e <- tryCatch(value(each), error = identity)
	cat(class(e), "\n")
	stopifnot(inherits(e, "FutureError"))
}
while (length(suppressMessages(parallelly::availableWorkers())) != 3 || file.access("/tmp/back") != 0) Sys.sleep(0.2)
if (utils::packageVersion("future") < "1.49") {
	plan(sequential)
	while (length(parallelly::availableWorkers()) != 3) Sys.sleep(0.2)
	plan(cluster, manual = TRUE, quiet = TRUE)
}
stopifnot(value(future(6 * 7)) == 42)
stopifnot(nbrOfWorkers() == 3)
repeat { # until all compute at once
	pods <- future.apply::future_sapply(1:3, function(i) { Sys.sleep(2); Sys.info()[["nodename"]] })
	if (length(unique(pods)) == 3) break
}
cat("computes again\n")
`)
	s.await("computing")
	n.endRendezvous()
	n.open("/tmp/back")
	if out := s.wait(); !strings.Contains(out, "computes again") {
		t.Error(out)
	}
	// The session has ended: workers that are still between two are not missing.
	n.warm(3)
	n.plan(3)

	// The whole pod: the session is lost with it, and its workers do not compute on.
	s = n.startR(busy + "Sys.sleep(3600)")
	s.await("computing")
	n.sh("kubectl delete pod -l component=scheduler")
	n.sh("kubectl rollout status deployment/future-scheduler --timeout=2m")
	n.warm(3)
	n.plan(3)
	if restarts := n.sh("kubectl get pods -l component=worker -o jsonpath='{.items[*].status.containerStatuses[*].restartCount}'"); restarts != "0 0 0" {
		t.Errorf("the workers' containers were restarted: %s", restarts)
	}
}

// TestWorkerContainerKilled is line 4 for a worker's container that is killed, idle and
// busy: every process of it but the first gets SIGKILL, which that one does not survive.
func TestWorkerContainerKilled(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.install(headless)
	// The shell does not kill itself, but its container's end may end it: no error counts.
	kill := func(pod string) { n.try("kubectl exec pod/" + pod + " -- sh -c 'kill -9 -1'") }
	idle := n.workerPods()[0]
	kill(idle)
	n.eventually("the container was started anew", func() bool {
		return n.sh("kubectl get pod/"+idle+" -o jsonpath='{.status.containerStatuses[0].restartCount}'") == "1"
	})
	n.rollout()
	n.warm(3)
	n.plan(3)

	// The future that it computes runs again, elsewhere or in the container's successor.
	s := n.startR(`
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
f <- future({ Sys.sleep(20); Sys.info()[["nodename"]] })
cat("computing\n")
cat("finished on", value(f), "\n")
`)
	s.await("computing")
	worker := ""
	n.eventually("a worker computes", func() bool {
		worker = n.sh(`kubectl exec deployment/future-scheduler -c rendezvous -- /rendezvous status --json | jq -r '.clusters[].nodes[] | select(.activity.busy) | .worker'`)
		return worker != ""
	})
	pod, _, _ := strings.Cut(worker, "/")
	kill(pod)
	if out := s.wait(); !strings.Contains(out, "finished on future-worker-") {
		t.Errorf("%s was killed:\n%s", pod, out)
	}
	if reruns := n.metric("rendezvous_reruns_total"); reruns != "1" {
		t.Errorf("%s reruns", reruns)
	}
	n.warm(3)
	n.plan(3)
}
