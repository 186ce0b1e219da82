//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// repository makes a repository with one R package, in a ConfigMap.
func (n *namespace) repository() {
	n.t.Helper()
	source := filepath.Join(n.dir, "psockdemo")
	for name, text := range map[string]string{
		"DESCRIPTION": "Package: psockdemo\nVersion: 1.0\nTitle: A Test\nDescription: Nothing.\nAuthor: nobody\nMaintainer: nobody <nobody@example.com>\nLicense: GPL-2\n",
		"NAMESPACE":   "export(answer)\n",
		"R/answer.R":  "answer <- function() 42\n",
	} {
		path := filepath.Join(source, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			n.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			n.t.Fatal(err)
		}
	}
	cmd := exec.Command("bash", "-ec", "R CMD build psockdemo && Rscript -e 'tools::write_PACKAGES(\".\", type = \"source\")'")
	cmd.Dir = n.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("%v\n%s", err, out)
	}
	n.sh("kubectl create configmap repository --from-file=PACKAGES --from-file=psockdemo_1.0.tar.gz")
}

// packagesValues has both sides install the package from there.
const packagesValues = `
scheduler:
  env: &env
  - {name: EXTRA_R_PACKAGES, value: psockdemo}
  - {name: WORKER_AGENT_R_REPOS, value: "file:///repository"}
  extraVolumes: &volumes [{name: repository, configMap: {name: repository}}]
  extraVolumeMounts: &mounts [{name: repository, mountPath: /repository/src/contrib}]
worker: {replicas: 2, env: *env, extraVolumes: *volumes, extraVolumeMounts: *mounts}
`

// TestExtraPackages: EXTRA_R_PACKAGES on both sides, with RStudio and without.
func TestExtraPackages(t *testing.T) {
	t.Parallel()
	for name, more := range map[string]string{"rstudio": "", "headless": headless} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNamespace(t)
			n.repository()
			if err := os.WriteFile(filepath.Join(n.dir, "values.yaml"), []byte(packagesValues), 0o644); err != nil {
				t.Fatal(err)
			}
			n.install("-f values.yaml", more)
			n.eventually("the session has the package", func() bool {
				out, _ := n.tryR(`cat(psockdemo::answer())`)
				return out == "42"
			})
			if log := n.sh("kubectl logs deployment/future-scheduler -c scheduler"); !strings.Contains(log, "R packages are installed") {
				t.Errorf("the log does not tell of the installation:\n%s", log)
			}
			out := n.r(`
library(future); library(future.apply)
plan(cluster, manual = TRUE, quiet = TRUE)
cat(future_sapply(1:2, function(i) psockdemo::answer()))
`)
			if out != "42 42" {
				t.Errorf("the workers: %s", out)
			}
		})
	}
}

// TestRestrictedNamespace: without RStudio everything runs where Kubernetes enforces
// the Pod Security Standard "restricted".
func TestRestrictedNamespace(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.sh("kubectl label namespace " + n.name + " pod-security.kubernetes.io/enforce=restricted")
	n.install(headless)
	n.plan(3)
	n.sh("helm test test")
	if warnings := n.sh("kubectl get events -o json | jq -r '.items[].message' | grep -i 'violates PodSecurity' || true"); warnings != "" {
		t.Error(warnings)
	}
}

// storageClass is one whose volumes several nodes can write to. Without
// E2E_STORAGE_CLASS it has one volume, of a directory that each node of test/cluster has,
// in the place of a network file system.
func (n *namespace) storageClass() string {
	n.t.Helper()
	t := n.t
	if class := os.Getenv("E2E_STORAGE_CLASS"); class != "" {
		return class
	}
	shared := filepath.Join(t.TempDir(), "shared")
	if err := os.MkdirAll(shared, 0o777); err != nil {
		t.Fatal(err)
	}
	for dir := shared; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	n.sh(`kubectl apply -f - <<'EOF'
apiVersion: v1
kind: PersistentVolume
metadata: {name: ` + n.name + `}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteMany]
  storageClassName: ` + n.name + `
  hostPath: {path: ` + shared + `}
EOF`)
	t.Cleanup(func() { n.try("kubectl delete --wait=false persistentvolume " + n.name) })
	return n.name
}

// TestSharedVolume: a volume that all pods share, and that goes with the release.
func TestSharedVolume(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.install(headless, "--set sharedVolume.enabled=true --set sharedVolume.size=1Gi --set sharedVolume.storageClassName="+n.storageClass())
	out := n.r(`
library(future); library(future.apply)
plan(cluster, manual = TRUE, quiet = TRUE)
writeLines("from the session", "~/shared/file")
read <- future_sapply(seq_len(nbrOfWorkers()), function(i) { cat(i, file = paste0("~/shared/", i)); readLines("~/shared/file") })
stopifnot(length(read) == 3, all(read == "from the session"), all(file.exists(paste0("~/shared/", 1:3))))
cat("shared")
`)
	if out != "shared" {
		t.Error(out)
	}
	n.uninstall()
}
