package chart

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// TestRendered is what values do to a template, where a golden would be much for little.
func TestRendered(t *testing.T) {
	for _, c := range []struct {
		name, template, set string
		has, lacks          string // regular expressions
	}{
		{"a port of each node", "services", "scheduler.serviceType=NodePort", `(?m)^  type: NodePort$`, `loadBalancerSourceRanges`},
		{"names of certain peers", "networkpolicy", "", `(?m)port: 53, protocol: UDP.*\n    to:\n    - namespaceSelector`, `^$`},
		{"names of everybody", "networkpolicy", "networkPolicy.nameService=null", `(?m)port: 53, protocol: UDP.*\n  - to:\n    - podSelector`, `namespaceSelector`},
		{"room for the journal", "scheduler", "rendezvous.journal.memory=448", `--journal-memory=448`, `^$`},
		{"room for the journal in bytes", "scheduler", "rendezvous.resources.limits.memory=268435456", `--journal-memory=64`, `^$`},
		{"a journal without a limit", "scheduler", "rendezvous.resources.limits=null,rendezvous.journal.memory=5000", `--journal-memory=5000`, `^$`},
		{"a sidecar without resources", "scheduler", "rendezvous.resources=null", `(?m)resources:\n          null`, `^$`},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := render(t, "--show-only", "templates/"+c.template+".yaml", "--set", c.set)
			if err != nil {
				t.Fatalf("%v\n%s", err, last(out))
			}
			if !regexp.MustCompile(c.has).MatchString(out) || regexp.MustCompile(c.lacks).MatchString(out) {
				t.Errorf("--set %s: want %s and not %s in\n%s", c.set, c.has, c.lacks, out)
			}
		})
	}
}

var jobName = regexp.MustCompile(`(?m)^kind: Job\nmetadata:\n  name: (\S+)$`)

// job is the name of the Job that a program runs as.
func job(t *testing.T, args ...string) string {
	t.Helper()
	out, err := render(t, append([]string{"-f", "profiles/job.yaml"}, args...)...)
	match := jobName.FindStringSubmatch(out)
	if err != nil || match == nil {
		t.Fatalf("%v\n%s", err, last(out))
	}
	return match[1]
}

// TestAnotherJob: Kubernetes takes no change of a Job's template, and does not run one
// that is done again. What changes either has to be another Job.
func TestAnotherJob(t *testing.T) {
	first := job(t)
	if !regexp.MustCompile(`^future-scheduler-[0-9a-f]{8}$`).MatchString(first) {
		t.Errorf("the Job is called %s", first)
	}
	seen := map[string]string{first: "nothing"}
	for _, set := range []string{
		"scheduler.script=1+1", "scheduler.image.tag=2", "rendezvous.image.tag=2", "rendezvous.demandTimeout=9s",
		"scheduler.env[0].value=sf", "scheduler.scriptRetries=1", "worker.replicas=9", "workerGroups=null",
	} {
		name := job(t, "--set", set)
		if other, same := seen[name]; same {
			t.Errorf("%s and %s make the same Job %s", set, other, name)
		}
		seen[name] = set
	}
	for _, set := range []string{"worker.image.tag=2", "worker.drainSeconds=9", "monitoring.rules=true"} {
		if name := job(t, "--set", set); name != first {
			t.Errorf("%s makes another Job, though nothing of it has changed", set)
		}
	}
}

// notes are the NOTES, which helm template leaves out: a template of a copy of the
// chart includes them.
func notes(t *testing.T, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(chart)); err != nil {
		t.Fatal(err)
	}
	const shown = "kind: ConfigMap\ndata:\n  notes: |\n{{ include \"future/templates/NOTES.txt\" . | indent 4 }}\n"
	if err := os.WriteFile(filepath.Join(dir, "templates/shown.yaml"), []byte(shown), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := tool(t, append([]string{"helm", "template", "test", dir, "--namespace", "team", "--kube-version", "1.34.0",
		"--show-only", "templates/shown.yaml"}, args...)...)
	if err != nil {
		t.Fatalf("%v\n%s", err, last(out))
	}
	return out
}

// TestNotes: what a user is told to type next, for each way to reach the release.
func TestNotes(t *testing.T) {
	const (
		password = "kubectl get secret --namespace team future-rstudio"
		open     = "the load balancer lets everybody reach"
		plan     = "plan(cluster, manual = TRUE, quiet = TRUE)"
	)
	for name, c := range map[string]struct {
		args  []string
		has   []string
		lacks []string
	}{
		"ClusterIP": {
			has:   []string{"RStudio, user rstudio, with 3 worker pods", password, "kubectl port-forward --namespace team svc/future-scheduler 8787:8787", "/rendezvous status", plan},
			lacks: []string{"NODE_PORT", open, "has changed"},
		},
		"without workers": {
			args: []string{"--set", "worker.replicas=0"},
			has:  []string{"with 0 worker pods"},
		},
		"NodePort": {
			args:  []string{"--set", "scheduler.serviceType=NodePort"},
			has:   []string{password, "NODE_PORT=$(kubectl get --namespace team -o jsonpath='{.spec.ports[0].nodePort}' svc/future-scheduler)", plan},
			lacks: []string{"port-forward", open},
		},
		"LoadBalancer": {
			args:  []string{"--set", "scheduler.serviceType=LoadBalancer"},
			has:   []string{password, "kubectl wait --namespace team --for=jsonpath='{.status.loadBalancer.ingress}'", ":8787' svc/future-scheduler", open, plan},
			lacks: []string{"port-forward", "NODE_PORT"},
		},
		"LoadBalancer with ranges": {
			args:  []string{"-f", "profiles/loadbalancer.yaml"},
			has:   []string{password, ":80' svc/future-scheduler"},
			lacks: []string{"port-forward", open},
		},
		"headless": {
			args:  []string{"-f", "profiles/headless.yaml"},
			has:   []string{"kubectl exec --namespace team -it deployment/future-scheduler -- R\n", "-- Rscript -e", "/rendezvous status", plan},
			lacks: []string{"password", "8787"},
		},
		"Job": {
			args:  []string{"-f", "profiles/job.yaml"},
			has:   []string{"--follow job/" + job(t) + "\n", "--timeout=1h job/" + job(t) + "\n", "helm uninstall --namespace team test"},
			lacks: []string{"password", "8787", "deployment/"},
		},
		"names of their own": {
			args:  []string{"-f", "profiles/platform.yaml"},
			has:   []string{"secret --namespace team rstudio-password", "svc/test-future-scheduler", "worker.aptPackages: the worker pods run as root"},
			lacks: []string{" future-"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			out := notes(t, c.args...)
			for _, want := range c.has {
				if !strings.Contains(out, want) {
					t.Errorf("lacks %q:\n%s", want, out)
				}
			}
			for _, unwanted := range c.lacks {
				if strings.Contains(out, unwanted) {
					t.Errorf("has %q:\n%s", unwanted, out)
				}
			}
		})
	}
}

// TestNumbers: those of a values file are floating-point, those of --set are not; either is
// its digits, also where Kubernetes wants a text.
func TestNumbers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(`
scheduler:
  RStudioPassword: 12345678
  image: {tag: 20240101}
  env: [{name: SEED, value: 20240101}, {name: SHARE, value: 0.5}, {name: LOUD, value: false}, {name: ID, value: "007"}]
rendezvous: {sessionUIDs: [0, 1000660000]}
worker:
  image: {tag: 4.5}
  drainSeconds: 1000000
  startSeconds: 1000000
  env: [{name: SEED, value: 20240102}]
`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		has  []string
	}{
		{[]string{"-f", file}, []string{
			"password: MTIzNDU2Nzg=\n", "/r-scheduler:20240101\n", "/r-worker:4.5\n", "--session-uids=0,1000660000\n",
			"--drain-budget=1000000s\n", "--start-timeout=1000000s\n",
			"- name: SEED\n          value: \"20240101\"\n", "- name: SHARE\n          value: \"0.5\"\n",
			"- name: LOUD\n          value: \"false\"\n", "- name: ID\n          value: \"007\"\n", "- name: SEED\n          value: \"20240102\"\n",
		}},
		{[]string{"--set", "scheduler.RStudioPassword=12345678,scheduler.image.tag=20240101,rendezvous.sessionUIDs={0,1000660000}"}, []string{
			"password: MTIzNDU2Nzg=\n", "/r-scheduler:20240101\n", "--session-uids=0,1000660000\n",
		}},
	} {
		out, err := render(t, c.args...)
		if err != nil {
			t.Fatalf("%v\n%s", err, last(out))
		}
		for _, want := range c.has {
			if !strings.Contains(out, want) {
				t.Errorf("%s: want %q", c.args[0], want)
			}
		}
	}
}

// TestProgram: R gets a program as it was written.
func TestProgram(t *testing.T) {
	file := filepath.Join(t.TempDir(), "run.R")
	for name, program := range map[string]string{
		"indented":      "  if (TRUE)\n# not indented\n\tprint(1)\n",
		"empty lines":   "\n\n  x <- 1 \n\n",
		"no last line":  "x <- \"{{ a & b }}\" # 'c': \\d",
		"documents":     "---\na: 1\n---\n",
		"of Windows":    "x <- 1\r\nprint(x)\r\n",
		"not all ASCII": "\"\u00e4\u2028\U0001f600\"\n",
	} {
		if err := os.WriteFile(file, []byte(program), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := render(t, "--set", "scheduler.rstudio=false", "--set-file", "scheduler.script="+file, "--show-only", "templates/profile.yaml")
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, last(out))
		}
		var profile struct{ Data map[string]string }
		if err := yaml.Unmarshal([]byte(out), &profile); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := profile.Data["script.R"]; got != program {
			t.Errorf("%s: %q, want %q", name, got, program)
		}
	}
}
