//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestInstallAndPlan is line 1: install, and at once a plan with all workers.
func TestInstallAndPlan(t *testing.T) {
	n := newNamespace(t)
	n.install()
	names := n.plan(3)
	nodes := n.sh("kubectl get pods -l component=worker -o jsonpath='{range .items[*]}{.spec.nodeName}{\"\\n\"}{end}'")
	if distinct(strings.Fields(nodes)) < 2 {
		t.Errorf("the workers are on one node: %s", nodes)
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "future-worker-") {
			t.Errorf("a future ran on %s, which is no worker pod", name)
		}
	}
	out := n.sh("helm test test --logs")
	if !strings.Contains(out, "3 workers; futures ran on future-worker-") {
		t.Errorf("helm test ran no future:\n%s", out)
	}
}

// TestScale is line 3: the next plan has as many workers as there are pods.
func TestScale(t *testing.T) {
	n := newNamespace(t)
	n.install(headless)
	for _, replicas := range []int{6, 2} {
		n.sh(fmt.Sprintf("kubectl scale --replicas=%d deployment/future-worker", replicas))
		n.rollout()
		n.eventually(fmt.Sprintf("%d worker pods", replicas), func() bool {
			return len(strings.Fields(n.sh("kubectl get pods -l component=worker -o name"))) == replicas
		})
		n.plan(replicas)
	}
	out := n.r(`
		library(future)
		for (i in 1:10) {
			plan(cluster, manual = TRUE, quiet = TRUE)
			stopifnot(nbrOfWorkers() == 2, value(future(6 * 7)) == 42)
		}
		cat("ten plans")`)
	if !strings.Contains(out, "ten plans") {
		t.Error(out)
	}
	if restarts := n.restarts(); restarts != "" {
		t.Errorf("containers were restarted: %s", restarts)
	}
}
