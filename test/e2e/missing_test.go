//go:build e2e

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestMissingWorkers is line 8: pods that cannot be pulled or scheduled are named in
// the R error, with Kubernetes' reason.
func TestMissingWorkers(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.sh(`cat > values.yaml <<'EOF'
scheduler: {rstudio: false}
rendezvous: {demandTimeout: 5s}
worker: {replicas: 1}
workerGroups:
- {name: typo, replicas: 1, image: {tag: no-such-tag}}
- {name: moon, replicas: 1, nodeSelector: {planet: moon}}
EOF`)
	n.sh("helm install test " + filepath.Join(root(t), "charts/future") + " -f values.yaml")
	t.Cleanup(func() {
		if t.Failed() {
			n.describe()
		}
		n.try("helm uninstall test --wait --timeout 2m")
	})
	n.sh("kubectl rollout status deployment/future-scheduler --timeout=2m")
	n.rollout()
	n.plan(1)
	n.eventually("kubelet has tried to pull the image", func() bool {
		return strings.Contains(n.sh("kubectl get pods -l group=typo"), "Image")
	})
	out, err := n.tryR(`
library(future)
plan(cluster, workers = 3, manual = TRUE, quiet = TRUE)
`)
	if err == nil {
		t.Fatalf("plan() with three workers of one worked:\n%s", out)
	}
	for _, want := range []string{"1 of 3 workers are ready", "; node 2 waited ", "future-worker-typo-", "ImagePull", "future-worker-moon-", "Unschedulable: 0/", "nodes are available"} {
		if !strings.Contains(out, want) {
			t.Errorf("the R error lacks %q:\n%s", want, out)
		}
	}
	if table := n.sh("kubectl exec deployment/future-scheduler -c rendezvous -- /rendezvous status"); !strings.Contains(table, "Unschedulable") {
		t.Errorf("rendezvous status does not say what is missing:\n%s", table)
	}
	n.plan(1)
}

// TestMemory is line 9: R's own error for a task that is too large, and a reason
// everywhere when R is killed for memory all the same.
func TestMemory(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.install(headless, "--set worker.replicas=1 --set worker.resources.limits.memory=512Mi")
	out := n.r(`
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
e <- tryCatch(value(future(length(numeric(2e8)))), error = identity)
cat(class(e), "\n", conditionMessage(e), "\n")
stopifnot(!inherits(e, "FutureError"), identical(value(future(6 * 7)), 42))
`)
	if !strings.Contains(out, "vector memory") && !strings.Contains(out, "cannot allocate") {
		t.Errorf("the error of a task that is too large:\n%s", out)
	}
	if restarts := n.restarts(); restarts != "" {
		t.Errorf("containers were restarted: %s", restarts)
	}

	// What is not a vector has no limit of R's own.
	out = n.r(`
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
e <- tryCatch(value(future({ l <- NULL; repeat l <- pairlist(l, as.pairlist(rep(list(NULL), 1e5))) })), error = identity)
stopifnot(inherits(e, "FutureError"))
cat(conditionMessage(e), "\n")
`)
	if !strings.Contains(out, "out of memory") && !strings.Contains(out, "OOMKilled") {
		t.Errorf("the R error does not say that memory was the reason:\n%s", out)
	}
	log := n.sh("kubectl logs deployment/future-scheduler -c rendezvous")
	if !strings.Contains(log, "out of memory") && !strings.Contains(log, "OOMKilled") {
		t.Errorf("the log does not say that memory was the reason")
	}
	if n.metric(`rendezvous_worker_deaths_total{reason="out_of_memory"}`) == "0" && n.metric(`rendezvous_worker_pod_ends_total{reason="OOMKilled"}`) == "0" {
		t.Error("no metric says that memory was the reason")
	}
	n.rollout()
	n.warm(1)
	n.plan(1)
}
