//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var codeBlock = regexp.MustCompile("(?ms)^```(sh|r)\n(.*?)^```$")

// quickStart are the code blocks of the README's section on Kubernetes: those that
// bring a cluster, install, are R, and look around.
func quickStart(t *testing.T) (cluster, install, r, look string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## On Kubernetes\n")
	section, _, ends := strings.Cut(section, "\n## ")
	blocks := codeBlock.FindAllStringSubmatch(section, -1)
	var languages []string
	for _, block := range blocks {
		languages = append(languages, block[1])
	}
	if !found || !ends || strings.Join(languages, " ") != "sh sh r sh" {
		t.Fatalf("the README's section on Kubernetes has blocks of %v: this test is to know each", languages)
	}
	return blocks[0][2], blocks[1][2], blocks[2][2], blocks[3][2]
}

// TestReadme is what a new user types, as the README has it, line by line.
func TestReadme(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.dir = root(t)
	_, install, r, look := quickStart(t)
	t.Cleanup(func() {
		if t.Failed() {
			n.describe()
			n.try("helm uninstall test --wait --timeout 2m")
		}
	})
	// inR types the block into R, at a terminal.
	inR := func() []string {
		t.Helper()
		out := n.terminal("kubectl exec -it deployment/future-scheduler -- R", r+"q(\"no\")\n")
		return regexp.MustCompile(`future-worker-[a-z0-9]+-[a-z0-9]+`).FindAllString(out, -1)
	}
	for line := range strings.Lines(install + look) {
		line = strings.TrimSpace(line)
		command, _, _ := strings.Cut(line, " #")
		if strings.HasPrefix(command, "kubectl port-forward") {
			if page := n.forwarded(line, "http://127.0.0.1:8787/"); !strings.Contains(page, "Sign in to RStudio") && !strings.Contains(page, "Sign In") {
				t.Errorf("$ %s\nthe page:\n%s", line, page)
			}
			if names := inR(); len(names) != 3 || distinct(names) != 3 {
				t.Errorf("R on three workers:\n%s\n%v", r, names)
			}
			continue
		}
		out := n.sh(line)
		t.Logf("$ %s\n%s", line, out)
		want := ""
		switch {
		case strings.HasPrefix(command, "kubectl get pods"):
			want = "future-worker-"
		case strings.HasPrefix(command, "kubectl get secret"):
			if len(out) != 20 {
				t.Errorf("the password is %q", out)
			}
		case strings.HasPrefix(command, "kubectl scale"):
			n.rollout()
			if names := inR(); len(names) != 10 || distinct(names) != 10 {
				t.Errorf("R on ten workers:\n%v", names)
			}
		case strings.Contains(command, "rendezvous status"):
			want = "future-worker-"
		case strings.HasPrefix(command, "helm test"):
			want = "Succeeded"
		}
		if !strings.Contains(out, want) {
			t.Errorf("$ %s\n%s\nlacks %q", line, out, want)
		}
	}
	n.eventually("nothing runs any more", func() bool { return n.sh("kubectl get pods -o name") == "" })
}

// forwarded is the page of an address while a command runs that forwards to it.
func (n *namespace) forwarded(command, url string) string {
	n.t.Helper()
	return n.sh(fmt.Sprintf(`log=$(mktemp)
%s
forward=$!
trap 'kill $forward; rm $log' EXIT
tail -n +1 -f $log --pid=$forward | grep -m1 -q 'Forwarding from'
curl -sSL --max-time 20 %s`, regexp.MustCompile(`( #.*)?$`).ReplaceAllLiteralString(command, " >$log 2>&1 &"), url))
}

// TestReadmeCluster: the README's way to a cluster of this machine. `make cluster` is
// how test/e2e/run has brought it; what follows makes a shell ready for it.
func TestReadmeCluster(t *testing.T) {
	cluster, _, _, _ := quickStart(t)
	use, found := strings.CutPrefix(cluster, "make cluster\n")
	if !found {
		t.Fatalf("the first block is\n%s\nwant make cluster, and how to use it", cluster)
	}
	cmd := exec.Command("bash", "-ec", use+"kubectl get nodes -o name; helm version --short; bash -c 'kubectl version --client'")
	cmd.Dir = root(t)
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "KUBECONFIG=") && !strings.HasPrefix(variable, "PATH=") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Env = append(cmd.Env, "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "node/n1\nnode/n2\nv3.") {
		t.Errorf("%s\n%v\n%s", use, err, out)
	}
}
