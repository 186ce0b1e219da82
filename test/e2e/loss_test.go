//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDeletedWorkers is line 4 for worker pods, deleted idle and busy.
func TestDeletedWorkers(t *testing.T) {
	n := newNamespace(t)
	n.install(headless)
	n.sh("kubectl delete --wait=false pod/" + n.workerPods()[0])
	n.rollout()
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
	n.plan(3)

	// Busy, all of a sudden: that future fails and says why, the others go on.
	s = n.startR(`
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
f <- lapply(1:3, function(i) future({ if (i == 1) Sys.sleep(600); i }))
stopifnot(identical(value(f[[2]]), 2L), identical(value(f[[3]]), 3L))
pod <- NULL
cat("computing\n")
e <- tryCatch(value(f[[1]]), error = identity)
stopifnot(inherits(e, "FutureError"))
cat(conditionMessage(e), "\n")
stopifnot(identical(value(future("goes on")), "goes on"))
`)
	s.await("computing")
	busy := n.sh(`kubectl exec deployment/future-scheduler -c rendezvous -- /rendezvous status --json | jq -r '.clusters[0].nodes[] | select(.activity.busy) | .worker'`)
	pod, _, _ := strings.Cut(busy, "/")
	n.sh("kubectl delete --force --grace-period=0 pod/" + pod)
	if out := s.wait(); !strings.Contains(out, "worker "+busy+" was lost in this call: ") {
		t.Errorf("the R error does not say why:\n%s", out)
	}
	n.rollout()
	n.plan(3)
}

// TestSchedulerReplaced is line 4 for the scheduler's side: its pod, and the
// rendezvous' container alone.
func TestSchedulerReplaced(t *testing.T) {
	for name, discovery := range map[string]string{"dns": "dns", "endpoints": "kubernetes"} {
		t.Run(name, func(t *testing.T) {
			n := newNamespace(t)
			n.install(headless, "--set agent.discovery="+discovery)
			n.plan(3)
			n.sh("kubectl delete pod -l component=scheduler")
			n.sh("kubectl rollout status deployment/future-scheduler --timeout=2m")
			n.sh("kubectl wait --for=condition=ready pod -l component=worker --timeout=60s")
			n.plan(3)

			// SIGTERM, since process 1 cannot be killed from within its container.
			debug := `{"securityContext": {"runAsUser": 65532, "runAsNonRoot": true}}`
			if err := os.WriteFile(filepath.Join(n.dir, "debug.json"), []byte(debug), 0o644); err != nil {
				t.Fatal(err)
			}
			pod := n.sh("kubectl get pod -l component=scheduler -o name")
			n.sh("kubectl debug --profile=general --custom=debug.json --image=kube.local/r:1 --image-pull-policy=IfNotPresent --target=rendezvous " + pod + " -- sh -c 'kill 1'")
			n.eventually("the rendezvous was restarted", func() bool {
				return n.sh(`kubectl get `+pod+` -o jsonpath='{.status.initContainerStatuses[?(@.name=="rendezvous")].restartCount}'`) == "1"
			})
			n.sh("kubectl wait --for=condition=ready --timeout=60s " + pod)
			n.sh("kubectl wait --for=condition=ready pod -l component=worker --timeout=60s")
			n.plan(3)
		})
	}
}

// TestNodeCutOff is line 4 for a whole node. It needs the cluster of test/cluster.
func TestNodeCutOff(t *testing.T) {
	n := newNamespace(t)
	n.install(headless)
	cut := filepath.Join(root(t), "test/cluster/cut")
	home := n.sh("kubectl get pod -l component=scheduler -o jsonpath='{.items[0].spec.nodeName}'")
	other := map[string]string{"n1": "n2", "n2": "n1"}[home]
	if other == "" {
		t.Fatalf("the scheduler is on node %q, want n1 or n2 of test/cluster", home)
	}
	near := len(strings.Fields(n.sh("kubectl get pods -l component=worker -o json | jq -r '.items[] | select(.spec.nodeName == \"" + home + "\") | .metadata.name'")))
	if near == 0 || near == 3 {
		t.Fatalf("%d of 3 workers are on the scheduler's node", near)
	}
	n.sh(cut + " " + other)
	t.Cleanup(func() { n.try(cut + " --mend " + other) })
	n.eventually("the lost workers are out of the pool", func() bool { return n.metric(`rendezvous_workers{state="warm"}`) != "3" })
	n.plan(near)
	// Kubernetes gives the node up and starts the pods elsewhere.
	n.eventually("three workers", func() bool { return n.metric(`rendezvous_workers{state="warm"}`) == "3" })
	n.plan(3)
	n.sh(cut + " --mend " + other)
	n.sh("kubectl wait --for=condition=Ready --timeout=2m node/" + other)
	n.rollout()
	n.eventually("three workers again", func() bool { return len(n.workerPods()) == 3 && n.metric(`rendezvous_workers{state="warm"}`) == "3" })
	n.plan(3)
}
