//go:build e2e

package e2e

import (
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/psock-runtime/psock-runtime/test/monitoring"
)

// prometheus asks the Prometheus of the namespace, by way of the API server.
func (n *namespace) prometheus(path string, into any) {
	n.t.Helper()
	out := n.sh("kubectl get --raw '/api/v1/namespaces/" + n.name + "/pods/prometheus:9090/proxy/api/v1/" + path + "'")
	if err := json.Unmarshal([]byte(out), into); err != nil {
		n.t.Fatalf("%s: %v\n%s", path, err, out)
	}
}

// query returns how many series an expression finds.
func (n *namespace) query(expr string) int {
	n.t.Helper()
	var answer struct {
		Status string
		Data   struct{ Result []json.RawMessage }
	}
	n.prometheus("query?query="+strings.ReplaceAll(url.QueryEscape(expr), "'", "%27"), &answer)
	if answer.Status != "success" {
		n.t.Errorf("%s: %s", expr, answer.Status)
	}
	return len(answer.Data.Result)
}

// TestMonitoring is line 10: a real Prometheus scrapes both programs, and each query of
// the dashboard and of the alerts finds real series.
func TestMonitoring(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.install(headless, "--set rendezvous.demandTimeout=20s --set rendezvous.journal.memory=1 --set rendezvous.journal.disk=0 --set worker.autoscaling.enabled=true --set worker.autoscaling.min=2 --set worker.autoscaling.max=2")
	chart := filepath.Join(root(t), "charts/future/files")
	// Debian's Prometheus is built without the discovery of pods: the test does what the
	// scrape annotations say in its place.
	n.sh(`{
echo 'global: {scrape_interval: 2s, evaluation_interval: 2s}'
echo 'rule_files: [/etc/prometheus/alerts.yaml]'
echo 'scrape_configs: [{job_name: pods, static_configs: ['
kubectl get pods -o json | jq -r '.items[] | .metadata.annotations as $a | select($a["prometheus.io/scrape"] == "true")
  | "{targets: [\(.status.podIP):\($a["prometheus.io/port"])], labels: {__metrics_path__: \($a["prometheus.io/path"]), namespace: \(.metadata.namespace), pod: \(.metadata.name)}},"'
echo ']}]'
} > prometheus.yml`)
	n.sh("kubectl create configmap prometheus --from-file=prometheus.yml --from-file=" + chart + "/alerts.yaml")
	n.sh("sed 's|kube.local/prometheus:1|" + setting("E2E_PROMETHEUS_IMAGE", "kube.local/prometheus:1") + "|' " +
		filepath.Join(root(t), "test/e2e/testdata/prometheus.yaml") + " | kubectl apply -f -")
	n.sh("kubectl wait --for=condition=ready --timeout=90s pod/prometheus")
	n.eventually("all pods are scraped", func() bool { return n.query("up == 1") == 3 })

	// Something to see: calls, an error, three deaths of a future, one of another that is too
	// large to keep, unmet demand.
	n.r(`
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
f <- lapply(1:6, function(i) future({ Sys.sleep(1); i }))
stopifnot(length(value(f)) == 6)
stopifnot(inherits(try(value(future(stop("on purpose"))), silent = TRUE), "try-error"))
stopifnot(inherits(tryCatch(value(future(tools::pskill(Sys.getpid(), 9))), error = identity), "FutureError"))
large <- numeric(1e6)
stopifnot(inherits(tryCatch(value(future({ large; tools::pskill(Sys.getpid(), 9) })), error = identity), "FutureError"))
stopifnot(inherits(tryCatch(plan(cluster, workers = 9, manual = TRUE, quiet = TRUE), error = identity), "error"))
`)
	for alert, labels := range map[string]string{"PsockUnmetDemand": "", "PsockWorkerDeaths": `,reason="signal"`, "PsockLostCalls": `,reason="not_kept"`} {
		n.eventually(alert+" fires", func() bool {
			return n.query(`ALERTS{alertname="`+alert+`",alertstate="firing"`+labels+`}`) == 1
		})
	}

	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	text, err := os.ReadFile(chart + "/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			// After a scrape that was late there is nothing for a moment.
			expr := monitoring.Query(target.Expr, n.name, ".*")
			n.eventually("panel "+panel.Title+" shows something: "+expr, func() bool { return n.query(expr) > 0 })
		}
	}

	var rules struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Query, Health, LastError string }
			}
		}
	}
	n.prometheus("rules", &rules)
	metric := regexp.MustCompile(`(rendezvous|worker_agent)_[a-z_]+`)
	count := 0
	for _, group := range rules.Data.Groups {
		for _, rule := range group.Rules {
			count++
			if rule.Health != "ok" {
				t.Errorf("%s: %s %s", rule.Name, rule.Health, rule.LastError)
			}
			for _, name := range metric.FindAllString(rule.Query, -1) {
				n.eventually(name+" is exported, which "+rule.Name+" asks for", func() bool { return n.query(name) > 0 })
			}
		}
	}
	if count == 0 {
		t.Error("Prometheus has no rule")
	}

	for _, url := range []string{"127.0.0.1:7462", "$(kubectl get pod -l component=worker -o jsonpath='{.items[0].status.podIP}'):7463"} {
		// The worker's are read from the scheduler's pod, as any Prometheus could.
		metrics := n.sh(`kubectl exec deployment/future-scheduler -- Rscript -e "writeLines(readLines('http://` + url + `/metrics'))"`)
		cmd := exec.Command("promtool", "check", "metrics")
		cmd.Stdin = strings.NewReader(metrics + "\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool check metrics, %s: %v\n%s", url, err, out)
		}
	}
}

// TestManifests is the part of line 11 that only an API server can tell: it takes what
// the chart renders for every documented profile.
func TestManifests(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	profiles, err := filepath.Glob("../chart/profiles/*.yaml")
	if err != nil || len(profiles) == 0 {
		t.Fatal("no profiles")
	}
	for _, profile := range profiles {
		profile, err := filepath.Abs(profile)
		if err != nil {
			t.Fatal(err)
		}
		// The kinds of cert-manager and of the Prometheus operator are not there.
		n.sh("helm template test " + filepath.Join(root(t), "charts/future") + " --no-hooks --namespace " + n.name + " -f " + profile + " > all.yaml")
		n.sh("rm -f known.json; kubectl create --dry-run=client -o json -f all.yaml > known.json 2> unknown.txt || true")
		n.sh(`if grep -v -e 'no matches for kind "\(Certificate\|Issuer\|PodMonitor\|PrometheusRule\)"' -e 'ensure CRDs are installed first' -e '^resource mapping not found' unknown.txt | grep .; then exit 1; fi`)
		n.sh("kubectl apply --dry-run=server --validate=strict -f known.json")
	}
}
