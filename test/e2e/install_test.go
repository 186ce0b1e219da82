//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// TestInstallAndPlan is line 1: install, and at once a plan with all workers.
func TestInstallAndPlan(t *testing.T) {
	t.Parallel()
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
	plans := func() int {
		return strings.Count(n.sh("kubectl logs deployment/future-scheduler -c rendezvous"), "cluster ready")
	}
	before := plans()
	if out := n.sh("helm test test"); !strings.Contains(out, "Succeeded") || plans() != before+1 {
		t.Errorf("helm test made %d plans:\n%s", plans()-before, out)
	}
	n.eventually("nothing of helm test is left", func() bool {
		return n.sh("kubectl get job,pod,role,rolebinding,serviceaccount -o name | grep test || true") == ""
	})
	// It fails when there is reason to.
	n.sh("kubectl scale --replicas=0 deployment/future-worker")
	n.eventually("no worker", func() bool { return n.sh("kubectl get pods -l component=worker -o name") == "" })
	if out, err := n.try("helm upgrade test --reuse-values --set rendezvous.demandTimeout=2s --set worker.replicas=0 " + filepath.Join(root(t), "charts/future") + " --wait && helm test test"); err == nil {
		t.Errorf("helm test succeeds without workers:\n%s", out)
	}
	if out := n.sh("kubectl logs job/future-test"); !strings.Contains(out, "0 of 0 workers are ready") {
		t.Errorf("helm test's pod does not say why it failed:\n%s", out)
	}
	if rights := n.sh("kubectl get role,rolebinding,serviceaccount -o name | grep test || true"); rights != "" {
		t.Errorf("the test that failed left its rights: %s", rights)
	}
	if seconds := n.sh("kubectl get job/future-test -o jsonpath='{.spec.ttlSecondsAfterFinished}'"); seconds != "600" {
		t.Errorf("the test that failed goes after %s s", seconds)
	}
}

// TestScale is line 3: the next plan has as many workers as there are pods.
func TestScale(t *testing.T) {
	t.Parallel()
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
