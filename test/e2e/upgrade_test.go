//go:build e2e

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestUpgrade is lines 5 and 7: other values and another image while workers
// compute; certificates and password survive; nothing is left in the end.
func TestUpgrade(t *testing.T) {
	n := newNamespace(t)
	n.install()
	secrets := func() string {
		return n.sh("kubectl get secret future-rendezvous-tls future-worker-tls future-rstudio -o jsonpath='{.items[*].data}'")
	}
	before := secrets()
	s := n.startR(`
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
f <- lapply(1:3, function(i) future({ Sys.sleep(8); i }))
cat("computing\n")
stopifnot(identical(value(f), list(1L, 2L, 3L)))
cat("computed\n")
`)
	s.await("computing")
	// Any image with R: Debian's, which has nothing of ours.
	colon := strings.LastIndex(rImage(), ":")
	repository, tag := rImage()[:colon], rImage()[colon+1:]
	n.sh("helm upgrade --wait --timeout 3m --reuse-values test " + filepath.Join(root(t), "charts/future") +
		" --set worker.image.repository=" + repository + " --set-string worker.image.tag=" + tag + " --set worker.slots=2 --set worker.replicas=2")
	if out := s.wait(); !strings.Contains(out, "computed") {
		t.Error(out)
	}
	if secrets() != before {
		t.Error("the upgrade changed the certificates or the password")
	}
	n.rollout()
	n.eventually("two worker pods", func() bool { return len(n.workerPods()) == 2 })
	n.eventually("four workers", func() bool { return n.metric(`rendezvous_workers{state="warm"}`) == "4" })
	if names := pods(n.r(planned)); len(names) != 4 || distinct(names) != 2 {
		t.Errorf("want 4 workers in 2 pods, got %v", names)
	}
	if image := n.sh("kubectl get pods -l component=worker -o jsonpath='{.items[*].spec.containers[0].image}'"); image != rImage()+" "+rImage() {
		t.Errorf("the workers' image is %s", image)
	}

	n.sh("helm uninstall --wait test")
	n.eventually("nothing is left", func() bool {
		left := n.sh("kubectl get all,secret,configmap,serviceaccount,role,rolebinding,networkpolicy,poddisruptionbudget,pvc,ingress,endpointslice -o name | grep -v -e kube-root-ca.crt -e serviceaccount/default || true")
		t.Log("left: " + left)
		return left == ""
	})
}

// TestScriptAsJob runs an R program with two groups of workers, and ends.
func TestScriptAsJob(t *testing.T) {
	n := newNamespace(t)
	n.sh(`cat > values.yaml <<'EOF'
scheduler:
  rstudio: false
  script: |
    library(future); library(future.apply)
    plan(cluster, manual = TRUE, quiet = TRUE)
    pods <- future_sapply(seq_len(nbrOfWorkers()), function(i) Sys.info()[["nodename"]])
    cat("workers:", length(unique(pods)), "\n", sort(unique(sub("-[^-]*-[^-]*$", "", pods))), "\n")
worker: {replicas: 2}
workerGroups:
- {name: big, replicas: 1}
EOF`)
	n.sh("helm install test " + filepath.Join(root(t), "charts/future") + " -f values.yaml")
	t.Cleanup(func() {
		if t.Failed() {
			n.describe()
		}
		n.try("helm uninstall test --wait --timeout 2m")
	})
	n.sh("kubectl wait --for=condition=complete --timeout=2m job/future-scheduler")
	if out := n.sh("kubectl logs job/future-scheduler -c scheduler"); !strings.Contains(out, "workers: 3") || !strings.Contains(out, "future-worker future-worker-big") {
		t.Errorf("the program printed:\n%s", out)
	}
}
