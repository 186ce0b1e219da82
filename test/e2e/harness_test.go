//go:build e2e

// Package e2e does on a real Kubernetes cluster what users do: with kubectl and
// helm, and real R in the pods. `make e2e` brings a cluster and the images.
package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/testkit"
)

// patience is how long a test waits for what Kubernetes has to do.
const patience = 5 * time.Minute

// namespace is a user's place on the cluster: a namespace of its own, and a
// kubeconfig whose context points to it, so that commands are what users type.
type namespace struct {
	t          *testing.T
	name       string
	kubeconfig string
	dir        string // where the commands run
	oldest     bool   // releases are of the oldest R, see TestOldest
}

// newNamespace makes one that goes with the test.
func newNamespace(t *testing.T) *namespace {
	t.Helper()
	config := os.Getenv("KUBECONFIG")
	if config == "" {
		t.Fatal("KUBECONFIG is not set: run `make e2e`")
	}
	n := &namespace{t: t, dir: t.TempDir(), oldest: strings.HasPrefix(t.Name(), "TestOldest/")}
	n.name = fmt.Sprintf("e2e-%s-%d", strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(t.Name(), "Test"), "/", "-")), time.Now().UnixMilli()%1e6)
	n.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(n.kubeconfig, text, 0o600); err != nil {
		t.Fatal(err)
	}
	n.sh("kubectl create namespace " + n.name)
	n.sh("kubectl config set-context --current --namespace=" + n.name)
	t.Cleanup(func() {
		n.sh("kubectl delete namespace --wait=false " + n.name)
	})
	return n
}

// describe logs what there is to see after a failure.
func (n *namespace) describe() {
	for _, command := range []string{
		"kubectl get pods -o wide",
		"kubectl get events --sort-by=.lastTimestamp | tail -40",
		"kubectl logs -l component=scheduler --all-containers --prefix --tail=60",
		"kubectl logs -l component=worker --all-containers --prefix --tail=25",
		"kubectl logs prometheus --ignore-errors --tail=10 2>/dev/null",
	} {
		out, _ := n.try(command)
		n.t.Logf("$ %s\n%s", command, out)
	}
}

// try runs a shell command and returns all that it wrote.
func (n *namespace) try(command string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-o", "pipefail", "-c", command)
	cmd.Dir = n.dir
	cmd.Env = append(os.Environ(), "KUBECONFIG="+n.kubeconfig)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	return strings.TrimSpace(out.String()), err
}

// sh is try, for commands that must work.
func (n *namespace) sh(command string) string {
	n.t.Helper()
	out, err := n.try(command)
	if err != nil {
		n.t.Fatalf("$ %s\n%s\n%v", command, out, err)
	}
	return out
}

// terminal is what a command shows at a terminal, which script(1) makes, when this is
// typed.
func (n *namespace) terminal(command, typed string) string {
	n.t.Helper()
	file := filepath.Join(n.t.TempDir(), "command")
	if err := os.WriteFile(file, []byte(command+"\n"), 0o644); err != nil {
		n.t.Fatal(err)
	}
	out := n.sh("script -qec 'bash " + file + "' /dev/null <<'TYPED'\n" + typed + "TYPED\n")
	return regexp.MustCompile(`\x1b\[[?0-9;]*[a-zA-Z]|\r`).ReplaceAllString(out, "")
}

// root is the top of the repository.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// install installs the chart as release "test" and waits for it, as users do; more
// is further arguments of helm.
func (n *namespace) install(more ...string) {
	n.t.Helper()
	if n.oldest {
		more = append(more, "--set scheduler.image.tag=oldest --set worker.image.tag=oldest")
	}
	n.sh("helm install --wait --timeout 3m test " + filepath.Join(root(n.t), "charts/future") + " " + strings.Join(more, " "))
	n.t.Cleanup(func() {
		if n.t.Failed() {
			n.describe()
		}
		n.try("helm uninstall test --wait --timeout 2m")
	})
}

// setting is an environment variable of test/e2e/README.md.
func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

// rImage is an image with R that has nothing of ours.
func (n *namespace) rImage() string {
	if n.oldest {
		return "kube.local/r-oldest:1"
	}
	return setting("E2E_R_IMAGE", "kube.local/r:1")
}

// split is an image's name as the chart's values have it.
func split(image string) (repository, tag string) {
	colon := strings.LastIndex(image, ":")
	return image[:colon], image[colon+1:]
}

// nodes are the scheduler's node and another one.
func (n *namespace) nodes() (home, other string) {
	n.t.Helper()
	home = n.sh("kubectl get pod -l component=scheduler -o jsonpath='{.items[0].spec.nodeName}'")
	for _, node := range strings.Fields(n.sh(`kubectl get nodes -o json | jq -r '.items[] | select(.spec.unschedulable | not) | .metadata.name'`)) {
		if node != home {
			return home, node
		}
	}
	n.t.Fatalf("there is no second node beside %s", home)
	return "", ""
}

// headless are the values of a release whose scheduler has R alone.
const headless = "--set scheduler.rstudio=false"

// r runs R code in the scheduler's R container and returns what it printed.
func (n *namespace) r(code string) string {
	n.t.Helper()
	out, err := n.tryR(code)
	if err != nil {
		n.t.Fatalf("R: %s\n%s\n%v", code, out, err)
	}
	return out
}

func (n *namespace) tryR(code string) (string, error) {
	return n.try("kubectl exec -i deployment/future-scheduler -- Rscript - <<'R'\n" + code + "\nR")
}

// script is an R session that goes on while the test does something else.
type script struct {
	n    *namespace
	out  bytes.Buffer
	mu   sync.Mutex
	done chan error
}

func (s *script) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(p)
}

func (s *script) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.String()
}

// startR starts R code in the scheduler's R container.
func (n *namespace) startR(code string) *script {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	n.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "kubectl", "exec", "-i", "deployment/future-scheduler", "--", "Rscript", "-")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+n.kubeconfig)
	s := &script{n: n, done: make(chan error, 1)}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(code), s, s
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	go func() { s.done <- cmd.Wait() }()
	return s
}

// await waits until R has printed text.
func (s *script) await(text string) {
	s.n.t.Helper()
	s.n.eventually("R prints "+text, func() bool {
		if strings.Contains(s.text(), text) {
			return true
		}
		select {
		case err := <-s.done:
			s.done <- err
			if !strings.Contains(s.text(), text) {
				s.n.t.Fatalf("R ended (%v) without %q:\n%s", err, text, s.text())
			}
			return true
		default:
			return false
		}
	})
}

// wait waits for the end of R, which must be a good one.
func (s *script) wait() string {
	s.n.t.Helper()
	select {
	case err := <-s.done:
		s.done <- err
		if err != nil {
			s.n.t.Fatalf("R: %v\n%s", err, s.text())
		}
	case <-time.After(patience):
		s.n.t.Fatalf("R does not end:\n%s", s.text())
	}
	return s.text()
}

// planned is R code that makes the plan and prints, on a line each, the pods that
// futures ran on.
const planned = `
library(future); library(future.apply)
plan(cluster, manual = TRUE, quiet = TRUE)
pods <- future_sapply(seq_len(nbrOfWorkers()), function(i) Sys.info()[["nodename"]])
cat(paste0("pod=", pods), sep = "\n")
`

// pods are the names of the pods that planned printed.
func pods(out string) []string {
	var names []string
	for line := range strings.Lines(out) {
		if name, found := strings.CutPrefix(strings.TrimSpace(line), "pod="); found {
			names = append(names, name)
		}
	}
	return names
}

// distinct returns the number of different strings.
func distinct(names []string) int {
	set := map[string]bool{}
	for _, name := range names {
		set[name] = true
	}
	return len(set)
}

// plan makes a plan and fails unless it has exactly this many workers, each in a pod
// of its own.
func (n *namespace) plan(workers int) []string {
	n.t.Helper()
	out := n.r(planned)
	names := pods(out)
	if len(names) != workers || distinct(names) != workers {
		n.t.Fatalf("want %d workers in as many pods, got %d in %d:\n%s", workers, len(names), distinct(names), out)
	}
	return names
}

// eventually waits until what is true, asking again and again.
func (n *namespace) eventually(description string, what func() bool) {
	n.t.Helper()
	testkit.EventuallyWithin(n.t, patience, 300*time.Millisecond, description, what)
}

// warm waits until so many workers are ready for the next plan: those of the last one
// have been replaced, and what was lost as well.
func (n *namespace) warm(workers int) {
	n.t.Helper()
	n.eventually(fmt.Sprintf("%d warm workers", workers), func() bool {
		return n.metric(`rendezvous_workers{state="warm"}`) == strconv.Itoa(workers)
	})
}

// rollout waits until the workers' Deployment is as it is meant to be.
func (n *namespace) rollout() {
	n.t.Helper()
	n.sh("kubectl rollout status deployment/future-worker --timeout=3m")
}

// metric is the value of one series of the rendezvous, as its metrics have it.
func (n *namespace) metric(series string) string {
	n.t.Helper()
	// Not by R, whose start takes so long that what is measured may be over.
	out := n.sh(`kubectl exec deployment/future-scheduler -- bash -c 'exec 3<>/dev/tcp/127.0.0.1/7462; printf "GET /metrics HTTP/1.0\r\n\r\n" >&3; cat <&3'`)
	return testkit.Series(n.t, out, series)
}

// workerPods are the names of the worker pods that are not about to go.
func (n *namespace) workerPods() []string {
	n.t.Helper()
	return strings.Fields(n.sh(`kubectl get pods -l component=worker -o json | jq -r '.items[] | select(.metadata.deletionTimestamp == null) | .metadata.name'`))
}

// restarts is how often containers of this release's pods were restarted.
func (n *namespace) restarts() string {
	n.t.Helper()
	return strings.TrimSpace(strings.ReplaceAll(n.sh(`kubectl get pods -o jsonpath='{range .items[*]}{range .status.containerStatuses[*]}{.restartCount} {end}{range .status.initContainerStatuses[*]}{.restartCount} {end}{end}'`), "0", ""))
}
