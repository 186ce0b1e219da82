//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestCommandsOf2021 is line 2: what users of the 2021 chart type, as they type it.
func TestCommandsOf2021(t *testing.T) {
	n := newNamespace(t)
	if err := os.CopyFS(filepath.Join(n.dir, "charts/future"), os.DirFS(filepath.Join(root(t), "charts/future"))); err != nil {
		t.Fatal(err)
	}
	values, err := os.ReadFile("testdata/values-2021.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"values.yaml":    string(values),
		"my_laptop_file": "some data\n",
		"run.R": `library(future)
library(future.apply)
plan(cluster, manual = TRUE, quiet = TRUE)
output <- future_sapply(1:40, function(i) mean(rnorm(1e5)), future.seed = TRUE)
cat("workers:", nbrOfWorkers(), "results:", length(output), "\n")
cat(readLines("/home/rstudio/my_laptop_file"), "\n")
`,
	} {
		if err := os.WriteFile(filepath.Join(n.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	n.sh("tar -czf future-helm.tgz -C charts/future .")
	n.sh("helm install --wait test ./future-helm.tgz")
	if out := n.sh("kubectl get pods"); strings.Count(out, "future-worker-") != 3 || strings.Count(out, "future-scheduler-") != 1 {
		t.Errorf("kubectl get pods:\n%s", out)
	}
	// The page that a browser would open, behind the command that users leave running.
	page := n.forwarded("kubectl port-forward svc/future-scheduler 8787:8787", "http://127.0.0.1:8787/")
	if !strings.Contains(strings.ToLower(page), "sign in") {
		t.Errorf("the page of port 8787:\n%s", page)
	}
	const scheduler = `export SCHEDULER=$(kubectl get pod -o jsonpath='{.items[?(@.metadata.labels.component=="scheduler")].metadata.name}')` + "\n"
	n.sh(scheduler + "kubectl cp my_laptop_file ${SCHEDULER}:home/rstudio/")
	shell := n.terminal(scheduler+"kubectl exec -it ${SCHEDULER} -- /bin/bash", "command -v R\ncat /home/rstudio/my_laptop_file\nexit\n")
	if !regexp.MustCompile(`(?m)^\S*/R$`).MatchString(shell) || !regexp.MustCompile(`(?m)^some data$`).MatchString(shell) {
		t.Errorf("kubectl exec does not land in the R container: %s", shell)
	}
	n.sh("kubectl scale --replicas=10 deployment/future-worker")
	n.rollout()
	n.sh(scheduler + "kubectl cp run.R ${SCHEDULER}:run.R")
	n.sh(scheduler + "kubectl exec $SCHEDULER -- R CMD BATCH --no-save run.R run.Rout")
	if out := n.sh(scheduler + "kubectl exec $SCHEDULER -- cat run.Rout"); !strings.Contains(out, "workers: 10 results: 40") || !strings.Contains(out, "some data") {
		t.Errorf("run.Rout:\n%s", out)
	}
	n.sh(scheduler + "kubectl cp ${SCHEDULER}:run.Rout run.Rout") // and back to the laptop
	if out, err := os.ReadFile(filepath.Join(n.dir, "run.Rout")); err != nil || !strings.Contains(string(out), "workers: 10") {
		t.Errorf("run.Rout by kubectl cp: %v\n%s", err, out)
	}
	if out := n.r(`Sys.setenv(NSLOTS = 2)` + planned); distinct(pods(out)) != 2 {
		t.Errorf("NSLOTS is not honoured:\n%s", out)
	}
	n.sh("helm uninstall test")

	// The same with a values file of theirs, unchanged, and the image that it names.
	n.eventually("the first release is gone", func() bool { return n.sh("kubectl get pods -o name") == "" })
	n.sh("helm install --wait test ./future-helm.tgz -f values.yaml")
	t.Cleanup(func() { n.try("helm uninstall test --wait --timeout 2m") })
	n.plan(3)
	if out := n.sh("kubectl get secret future-rstudio -o jsonpath='{.data.password}' | base64 -d"); out != "future" {
		t.Errorf("RStudio's password is %q", out)
	}
	if out := n.r(`cat(Sys.getenv("R_PARALLEL_PORT"))`); out != "11562" {
		t.Errorf("RfuturePort: R_PARALLEL_PORT is %q", out)
	}
}
