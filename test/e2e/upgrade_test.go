//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestUpgrade is lines 5 and 7: other values and another image while workers
// compute; certificates and password survive; nothing is left in the end.
func TestUpgrade(t *testing.T) {
	t.Parallel()
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
	repository, tag := split(n.rImage())
	n.sh("helm upgrade --wait --timeout 3m --reuse-values test " + filepath.Join(root(t), "charts/future") +
		" --set worker.image.repository=" + repository + " --set-string worker.image.tag=" + tag + " --set worker.slots=2 --set worker.replicas=2")
	if out := s.wait(); !strings.Contains(out, "computed") {
		t.Error(out)
	}
	if secrets() != before {
		t.Error("the upgrade changed the certificates or the password")
	}
	// A new password: the session goes on, and the notes say how RStudio gets to know it.
	session := n.sh("kubectl get pod -l component=scheduler -o name")
	upgrade := "helm upgrade --wait --reuse-values test " + filepath.Join(root(t), "charts/future") + " --set scheduler.RStudioPassword=changed"
	restart := regexp.MustCompile(`kubectl rollout restart .*`).FindString(n.sh(upgrade))
	if now := n.sh("kubectl get pod -l component=scheduler -o name"); now != session || restart == "" {
		t.Errorf("the session was in %s and is in %s; the notes say %q", session, now, restart)
	}
	if again := n.sh(upgrade); strings.Contains(again, "rollout restart") {
		t.Errorf("the password has not changed this time:\n%s", again)
	}
	n.sh(restart)
	n.sh("kubectl rollout status deployment/future-scheduler --timeout=2m")
	if password := n.sh("kubectl exec deployment/future-scheduler -- printenv PASSWORD"); password != "changed" {
		t.Errorf("RStudio's password is %q", password)
	}
	n.rollout()
	n.eventually("two worker pods", func() bool { return len(n.workerPods()) == 2 })
	n.warm(4)
	if names := pods(n.r(planned)); len(names) != 4 || distinct(names) != 2 {
		t.Errorf("want 4 workers in 2 pods, got %v", names)
	}
	if image := n.sh("kubectl get pods -l component=worker -o jsonpath='{.items[*].spec.containers[0].image}'"); image != n.rImage()+" "+n.rImage() {
		t.Errorf("the workers' image is %s", image)
	}

	n.uninstall()
}

// uninstall ends the release and waits until nothing is left of it.
func (n *namespace) uninstall() {
	n.t.Helper()
	n.sh("helm uninstall --wait test")
	n.eventually("nothing is left", func() bool {
		left := n.sh("kubectl get all,secret,configmap,serviceaccount,role,rolebinding,networkpolicy,poddisruptionbudget,pvc,ingress,endpointslice -o name | grep -v -e kube-root-ca.crt -e serviceaccount/default || true")
		n.t.Log("left: " + left)
		return left == ""
	})
}

// TestUpgradeScheduler is line 5 for the session's side: other images of R and of the
// rendezvous. The workers stay, and park at the new one.
func TestUpgradeScheduler(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.install(headless)
	n.plan(3)
	workers := n.workerPods()
	next := setting("E2E_RENDEZVOUS_IMAGE", "kube.local/rendezvous:next")
	set := ""
	for key, name := range map[string]string{"scheduler": n.rImage(), "rendezvous": next} {
		repository, tag := split(name)
		set += fmt.Sprintf(" --set %s.image.repository=%s --set-string %s.image.tag=%s", key, repository, key, tag)
	}
	n.sh("helm upgrade --wait --timeout 3m --reuse-values test " + filepath.Join(root(t), "charts/future") + set)
	n.warm(3)
	n.plan(3)
	images := n.sh(`kubectl get pods -l component=scheduler -o json | jq -r '.items[] | select(.metadata.deletionTimestamp == null) | .spec | .initContainers[0].image, .containers[0].image'`)
	if images != next+"\n"+n.rImage() {
		t.Errorf("the images are %s", images)
	}
	if now := n.workerPods(); !slices.Equal(now, workers) || n.restarts() != "" {
		t.Errorf("the workers were %v and are %v; restarts: %q", workers, now, n.restarts())
	}
}

// TestScriptAsJob runs an R program with two groups of workers, and ends.
func TestScriptAsJob(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.sh(`cat > values.yaml <<'EOF'
scheduler:
  rstudio: false
  script: |
    library(future); library(future.apply)
    plan(cluster, manual = TRUE, quiet = TRUE)
    stopifnot(nbrOfWorkers() == 3)
    repeat { # it begins with whichever worker is ready first
      pods <- future_sapply(seq_len(nbrOfWorkers()), function(i) { Sys.sleep(1); Sys.info()[["nodename"]] })
      if (length(unique(pods)) == 3) break
    }
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
	// ended is what the program printed, by the commands of the notes.
	ended := func() string {
		t.Helper()
		notes := n.sh("helm get notes test")
		n.sh(regexp.MustCompile(`kubectl wait .*`).FindString(notes))
		return n.sh(regexp.MustCompile(`kubectl logs .*`).FindString(notes))
	}
	job := func() string {
		return n.sh("kubectl get job -l component=scheduler -o jsonpath='{.items[*].metadata.uid}'")
	}
	if out := ended(); !strings.Contains(out, "workers: 3") || !strings.Contains(out, "future-worker future-worker-big") {
		t.Errorf("the program printed:\n%s", out)
	}
	n.sh("helm test test") // nothing to do, and no failure

	// An upgrade that does not change the program leaves it; another program is run.
	first := job()
	upgrade := "helm upgrade test " + filepath.Join(root(t), "charts/future") + " --reuse-values"
	n.sh(upgrade + " --set worker.drainSeconds=5")
	if now := job(); now != first {
		t.Errorf("the Job was %s and is %s", first, now)
	}
	n.sh(`echo 'cat("another program")' > other.R`)
	n.sh(upgrade + " --set-file scheduler.script=other.R")
	if out := ended(); !strings.Contains(out, "another program") {
		t.Errorf("the other program printed:\n%s", out)
	}
	n.eventually("the first Job is gone", func() bool { return !strings.Contains(job(), first) })
	// So does one that changes its pod.
	n.sh(upgrade + " --set worker.replicas=1 --set rendezvous.logLevel=debug")
	if out := ended(); !strings.Contains(out, "another program") {
		t.Errorf("the program printed:\n%s", out)
	}
}
