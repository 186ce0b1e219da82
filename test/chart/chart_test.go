// Package chart tests the Helm chart without a cluster: what it renders for the
// documented profiles, what it refuses, and that what is made from its values is
// up to date. `go test ./test/chart -update` writes the goldens anew.
package chart

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the goldens anew")

const chart = "../../charts/future"

// paths are where go has built the tools: asked once, since go looks at all sources of
// one each time, which takes longer than the tool.
var paths = map[string]string{}

// tool runs one of the pinned tools of tools/go.mod.
func tool(t *testing.T, args ...string) (string, error) {
	t.Helper()
	if paths[args[0]] == "" {
		path, err := exec.Command("go", "tool", "-modfile=../../tools/go.mod", "-n", args[0]).Output()
		if err != nil {
			t.Fatalf("go tool -n %s: %v", args[0], err)
		}
		paths[args[0]] = strings.TrimSpace(string(path))
	}
	cmd := exec.Command(paths[args[0]], args[1:]...)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		return out.String() + complaints.String(), err
	}
	return out.String(), nil
}

func render(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return tool(t, append([]string{"helm", "template", "test", chart, "--namespace", "default", "--kube-version", "1.34.0"}, args...)...)
}

func TestLint(t *testing.T) {
	profiles, err := filepath.Glob("profiles/*.yaml")
	if err != nil || len(profiles) == 0 {
		t.Fatalf("no profiles: %v", err)
	}
	for _, profile := range profiles {
		if out, err := tool(t, "helm", "lint", "--strict", "--kube-version", "1.34.0", "-f", profile, chart); err != nil {
			t.Errorf("%s: %v\n%s", profile, err, out)
		}
	}
}

// secrets matches what is made anew with each rendering, and the files that have
// tests of their own.
var secrets = regexp.MustCompile(`(?m)^(\s*(?:ca\.crt|tls\.crt|tls\.key|password)): .*$`)

func TestGolden(t *testing.T) {
	for _, name := range []string{"rstudio", "headless", "job", "platform", "elastic", "loadbalancer"} {
		t.Run(name, func(t *testing.T) {
			out, err := render(t, "-f", "profiles/"+name+".yaml")
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			out = secrets.ReplaceAllString(out, "$1: (secret)")
			for _, file := range []string{"Rprofile.site", "alerts.yaml", "dashboard.json"} {
				out = withoutFile(t, out, file)
			}
			golden := "golden/" + name + ".yaml"
			if *update {
				if err := os.WriteFile(golden, []byte(out), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(out, "\n")); diff != "" {
				t.Errorf("%s differs; if it is meant to, go test ./test/chart -update:\n%s", golden, diff)
			}
		})
	}
}

// withoutFile replaces the text of a file of the chart, indented in whatever way,
// by its name.
func withoutFile(t *testing.T, rendered, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(chart, "files", name))
	if err != nil {
		t.Fatal(err)
	}
	for _, indent := range []string{"  ", "    "} {
		// Each line of the file is there, with the indent; of the end of a document helm
		// trims white space.
		indented := indent + strings.ReplaceAll(strings.TrimRight(string(text), "\n"), "\n", "\n"+indent)
		rendered = strings.ReplaceAll(rendered, indented, indent+"# "+name)
	}
	return rendered
}

const (
	elastic = "worker.autoscaling.enabled=true,"
	long    = "machines-with-a-great-deal-of-memory"
)

func TestBadValuesAreRefused(t *testing.T) {
	for set, want := range map[string]string{
		"rendezvous.agentCheck=maybe":                                                "/rendezvous/agentCheck",
		"tls.workerName=":                                                            "/tls/workerName",
		"scheduler.replica=2":                                                        "additional properties 'replica' not allowed",
		"worker.replicas=many":                                                       "/worker/replicas",
		"workerGroups[0].name=a,workerGroups[0].slotz=2":                             "additional properties 'slotz' not allowed",
		"workerGroups[0].slots=2":                                                    "missing property 'name'",
		"scheduler.serviceType=Loadbalancer":                                         "must be one of 'ClusterIP', 'NodePort', 'LoadBalancer'",
		"scheduler.RfuturePort=8000":                                                 "scheduler.RfuturePort: 8000 is not within rendezvous.ports (11000-11999)",
		"scheduler.script=1+1":                                                       "set scheduler.rstudio to false",
		"tls.source=existing,tls.workerSecret=x":                                     "tls.rendezvousSecret: with tls.source existing, name the Secret",
		"agent.discovery=consul":                                                     "/agent/discovery",
		"rendezvous.demandTimeout=60":                                                "/rendezvous/demandTimeout",
		"workerGroups[0].name=Big_Ones":                                              "/workerGroups/0/name",
		"sharedVolume.accessModes[0]=ReadWriteEverybody":                             "/sharedVolume/accessModes/0",
		"workerGroups[0].name=default":                                               "workerGroups: \"default\" is the name of the group that worker describes",
		"workerGroups[0].name=a,workerGroups[1].name=a":                              "workerGroups: two are called \"a\"",
		"worker.autoscaling.enabld=true":                                             "additional properties 'enabld' not allowed",
		"worker.autoscaling.idle=5":                                                  "/worker/autoscaling/idle",
		"worker.autoscaling.max=0":                                                   "/worker/autoscaling/max",
		"workerGroups[0].name=a,workerGroups[0].autoscaling.rate=-1":                 "/workerGroups/0/autoscaling/rate",
		elastic + "worker.autoscaling.min=11":                                        `autoscaling of the group "default": max (10) is less than min (11)`,
		elastic + "worker.slots=1024":                                                `autoscaling of the group "default": 10240 workers (max times slots) are more than rendezvous.maxWorkers (10000)`,
		elastic + "scheduler.replicas=2":                                             "scheduler.replicas: 2 schedulers would scale the same workers",
		"workerGroups[0].name=" + long + ",workerGroups[0].autoscaling.enabled=true": `autoscaling of the group "` + long + `": Deployment future-worker-` + long + " would have pods whose names are no host names",
		"rendezvous.journal.memory=500":                                              "500 MiB want 1128 MiB in rendezvous.resources.limits.memory, which is 1Gi",
		"rendezvous.resources.limits.memory=250M":                                    "64 MiB want 256 MiB in rendezvous.resources.limits.memory, which is 250M",
		"rendezvous.resources.limits.memory=268435455":                               "64 MiB want 256 MiB in rendezvous.resources.limits.memory",
	} {
		out, err := render(t, "--set", set)
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("--set %s: want an error with %q, got %v\n%s", set, want, err, last(out))
		}
	}
}

func last(s string) string { return s[max(0, len(s)-600):] }

// TestRightsOfTheTest: what helm test may do ends with it, also when it fails and when helm
// does not end it: the test deletes the RoleBinding, and may delete nothing else.
func TestRightsOfTheTest(t *testing.T) {
	out, err := render(t, "--set", "fullnameOverride=mine")
	if err != nil {
		t.Fatalf("%v\n%s", err, last(out))
	}
	_, out, _ = strings.Cut(out, "# Source: future/templates/tests/plan.yaml")
	for _, kind := range []string{"ServiceAccount", "Role", "RoleBinding"} {
		object := regexp.MustCompile(`(?m)^kind: ` + kind + `$[^§]*?^---$`).FindString(out)
		for _, want := range []string{"name: mine-test", "helm.sh/hook: test", "before-hook-creation,hook-succeeded,hook-failed"} {
			if !strings.Contains(object, want) {
				t.Errorf("%s lacks %q:\n%s", kind, want, object)
			}
		}
	}
	for _, want := range []string{
		"- --role-binding=mine-test\n",
		"  resources: [rolebindings]\n  resourceNames: [mine-test]\n  verbs: [delete]\n",
	} {
		if strings.Count(out, want) != 1 {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// TestNameOfAgents: the certificates are for the name that the rendezvous asks for, which is
// also that of the charts before it did.
func TestNameOfAgents(t *testing.T) {
	for set, want := range map[string]string{"tls.source=helm": "worker", "tls.workerName=mine": "mine"} {
		out, err := render(t, "--set", set)
		if err != nil {
			t.Fatalf("%v\n%s", err, last(out))
		}
		if !strings.Contains(out, "- --worker-name="+want+"\n") {
			t.Errorf("--set %s: the rendezvous does not ask for %q", set, want)
		}
		_, secret, _ := strings.Cut(out, "name: future-worker-tls\n")
		encoded := regexp.MustCompile(`tls\.crt: (\S+)`).FindStringSubmatch(secret)
		if encoded == nil {
			t.Fatalf("no certificate in\n%s", last(secret))
		}
		text, err := base64.StdEncoding.DecodeString(encoded[1])
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if err := cert.VerifyHostname(want); err != nil {
			t.Errorf("--set %s: %v", set, err)
		}
	}
	out, err := render(t, "--set", "tls.source=cert-manager,tls.workerName=mine")
	if err != nil || !strings.Contains(out, "dnsNames: [mine]\n") || !strings.Contains(out, "dnsNames: [rendezvous]\n") {
		t.Errorf("%v\n%s", err, last(out))
	}
}

// TestReusedValues: an upgrade with --reuse-values has none of the values that the earlier
// chart did not know.
func TestReusedValues(t *testing.T) {
	out, err := render(t, "--set", "rendezvous.grace=null,rendezvous.agentCheck=null,tls.workerName=null,worker.scratch=null")
	if err != nil {
		t.Fatalf("%v\n%s", err, last(out))
	}
	for _, want := range []string{"- --grace=5s\n", "- --agent-check=address\n", "- --worker-name=worker\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q", want)
		}
	}
	if empty := regexp.MustCompile(`(?m)^ *- --[a-z-]+=\s*$`).FindString(out); empty != "" || strings.Contains(out, "--scratch") {
		t.Errorf("an empty option %q, or --scratch without folders", empty)
	}
}

// TestAutoscaledJob: how many workers the program of a Job asks for.
func TestAutoscaledJob(t *testing.T) {
	for set, want := range map[string]string{
		"worker.replicas=2": `{name: NSLOTS, value: "4"}`, // two more in the profile's gpu
		"worker.autoscaling.enabled=true,workerGroups[0].name=gpu":                                                           "",
		"workerGroups[0].name=gpu,workerGroups[0].slots=3,workerGroups[0].autoscaling.enabled=true":                          `{name: NSLOTS, value: "2"}`,
		"workerGroups[0].name=gpu,workerGroups[0].slots=3,workerGroups[0].autoscaling.enabled=true,worker.autoscaling.min=1": `{name: NSLOTS, value: "5"}`,
	} {
		out, err := render(t, "-f", "profiles/job.yaml", "--set", set)
		if err != nil {
			t.Fatalf("%v\n%s", err, last(out))
		}
		if got := regexp.MustCompile(`\{name: NSLOTS.*\}`).FindString(out); got != want {
			t.Errorf("--set %s: %q, want %q", set, got, want)
		}
	}
}

// TestOldValues: a values file of the 2021 chart is taken as it stands.
func TestOldValues(t *testing.T) {
	if out, err := render(t, "-f", "../e2e/testdata/values-2021.yaml"); err != nil {
		t.Errorf("%v\n%s", err, last(out))
	}
}

// TestGenerated: README, schema and profile are those that `make generate` makes.
func TestGenerated(t *testing.T) {
	same := func(made, file string) {
		t.Helper()
		want, err := os.ReadFile(filepath.Join(chart, file))
		if err != nil {
			t.Fatal(err)
		}
		if made != string(want) {
			t.Errorf("charts/future/%s is not up to date: run make generate", file)
		}
	}
	profile, err := os.ReadFile("../../r/Rprofile.site")
	if err != nil {
		t.Fatal(err)
	}
	same(string(profile), "files/Rprofile.site")

	cmd := exec.Command("go", "-C", "../../tools", "run", "./values-schema", "../charts/future/values.yaml")
	schema, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	same(string(schema), "values.schema.json")
	if !json.Valid(schema) {
		t.Error("the schema is no JSON")
	}

	readme, err := tool(t, "helm-docs", "--chart-search-root="+chart, "--template-files=README.md.gotmpl", "--log-level=warning", "--dry-run")
	if err != nil {
		t.Fatal(readme)
	}
	same(strings.TrimRight(readme, "\n")+"\n", "README.md")
}
