package test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/psock-runtime/psock-runtime/internal/pods"
	"github.com/psock-runtime/psock-runtime/internal/scaler"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"github.com/psock-runtime/psock-runtime/test/monitoring"
	"go.uber.org/zap"
)

// prometheusServer is a real Prometheus that scrapes real programs.
type prometheusServer struct {
	*process
	address string
}

// startPrometheus scrapes targets, by the pod that each is said to be, every second,
// and evaluates the chart's alerts.
func startPrometheus(t *testing.T, targets map[string]string) *prometheusServer {
	t.Helper()
	alerts, err := filepath.Abs("../" + monitoring.AlertsFile)
	if err != nil {
		t.Fatal(err)
	}
	type group struct {
		Targets []string          `json:"targets"`
		Labels  map[string]string `json:"labels"`
	}
	var groups []group
	for pod, address := range targets {
		groups = append(groups, group{[]string{address}, map[string]string{"namespace": "stats", "release": "future", "pod": pod}})
	}
	config, err := json.Marshal(map[string]any{ // which is YAML
		"global":         map[string]any{"scrape_interval": "1s", "evaluation_interval": "1s"},
		"rule_files":     []string{alerts},
		"scrape_configs": []any{map[string]any{"job_name": "any", "static_configs": groups}},
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "prometheus.yaml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", testkit.Port(t))
	if _, err := exec.LookPath("prometheus"); err != nil {
		t.Fatalf("this test needs prometheus ('make deps' installs it): %v", err)
	}
	p := &prometheusServer{launch(t, nil, "prometheus", "--config.file", file,
		"--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", address), address}
	eventually(t, "prometheus", func() bool {
		response, err := http.Get("http://" + address + "/-/ready")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	return p
}

// ask asks Prometheus' HTTP interface; data is what it answered.
func (p *prometheusServer) ask(data any, path string, form url.Values) error {
	response, err := http.PostForm("http://"+p.address+path, form)
	if form == nil {
		response, err = http.Get("http://" + p.address + path)
	}
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("%w: %s", err, body)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", answer.Status, answer.Error)
	}
	return nil
}

// query returns how many series a query has.
func (p *prometheusServer) query(expr string) (int, error) {
	var data struct{ Result []any }
	err := p.ask(&data, "/api/v1/query", url.Values{"query": {expr}})
	return len(data.Result), err
}

// The dashboard and the alerts are about metrics that there are, of real sessions:
// every query has a result, every alert can be evaluated, every metric is documented.
func TestMonitoring(t *testing.T) {
	t.Parallel()
	r := startRendezvous(t, "--max-attempts", "2")
	targets := map[string]string{"scheduler": r.admin}
	agents := map[string]*process{
		"worker-a": r.startAgent("worker-a", 2),
		"worker-b": r.startAgent("worker-b", 1, "--rscript", "false"),
	}
	for pod, agent := range agents {
		targets[pod] = agent.field("worker agent is up", "admin")
	}
	p := startPrometheus(t, targets)
	r.awaitWarm(2)
	eventually(t, "a scrape before there is anything to count", func() bool {
		n, err := p.query(`rendezvous_calls_total + on() group_left() worker_agent_slots_connected{pod="worker-a"}`)
		return err == nil && n == 2
	})
	r.R(`
library(future)
plan(cluster, manual = TRUE, quiet = TRUE)
stopifnot(identical(value(lapply(1:4, function(k) future(k))), as.list(1:4)))
stopifnot(inherits(tryCatch(value(future(stop("an error of mine"))), error = identity), "simpleError"))
stopifnot(inherits(tryCatch(value(future(tools::pskill(Sys.getpid(), tools::SIGKILL))), error = identity), "FutureError"))
plan(sequential)
cl <- parallelly::makeClusterPSOCK(1, manual = TRUE, quiet = TRUE)
stopifnot(inherits(try(parallel::clusterCall(cl, stop, "mine, too"), silent = TRUE), "try-error"))
parallel::stopCluster(cl)
`)
	if got := r.metric(`rendezvous_calls_total{result="error"}`); got != "1" {
		t.Errorf("%s calls were errors, want 1: future's do not count", got)
	}
	if reruns, lost := r.metric("rendezvous_reruns_total"), r.metric(`rendezvous_lost_calls_total{reason="attempts"}`); reruns != "1" || lost != "1" {
		t.Errorf("%s reruns and %s lost calls, want 1 of each", reruns, lost)
	}
	eventually(t, "the scrape of all that", func() bool {
		n, err := p.query(`increase(rendezvous_worker_deaths_total{reason="signal"}[1m]) > 0 and on() increase(worker_agent_start_failures_total{pod="worker-b"}[1m]) > 0`)
		return err == nil && n == 1
	})

	names := p.names(t)
	t.Run("dashboard", func(t *testing.T) { checkDashboard(t, p, names) })
	t.Run("alerts", func(t *testing.T) { checkAlerts(t, p, names) })
	t.Run("documentation", func(t *testing.T) { checkDocumented(t, names) })
	for pod, address := range targets {
		t.Run("metrics of "+pod, func(t *testing.T) { checkMetrics(t, address) })
	}
}

// names are the metrics that Prometheus knows, and those that there are on Kubernetes
// only.
func (p *prometheusServer) names(t *testing.T) []string {
	t.Helper()
	var names []string
	if err := p.ask(&names, "/api/v1/label/__name__/values", nil); err != nil {
		t.Fatal(err)
	}
	return append(names, podMetrics(t)...)
}

func podMetrics(t *testing.T) (names []string) {
	t.Helper()
	registry := prometheus.NewRegistry()
	pods.NewMetrics(registry)
	scaler.New(scaler.Config{Log: zap.NewNop(), Metrics: scaler.NewMetrics(registry), Groups: []scaler.Group{{Name: "default"}}})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		names = append(names, family.GetName())
	}
	return names
}

func checkDashboard(t *testing.T, p *prometheusServer, names []string) {
	d, err := monitoring.ReadDashboard("..")
	if err != nil {
		t.Fatal(err)
	}
	kubernetes := podMetrics(t)
	for _, panel := range d.Panels {
		for _, target := range panel.Targets {
			used := monitoring.Metrics(target.Expr)
			known(t, panel.Title, used, names)
			for _, choice := range [][2]string{{"stats", "future"}, {".*", ".*"}, {"(stats|other)", "future"}} {
				n, err := p.query(monitoring.Query(target.Expr, choice[0], choice[1]))
				if err != nil || n == 0 && !slices.Contains(kubernetes, used[0]) {
					t.Errorf("%s, of %s: %s has %d results: %v", panel.Title, choice, target.Expr, n, err)
				}
			}
			n, err := p.query(monitoring.Query(target.Expr, "other", "future"))
			if err != nil || n != 0 && !strings.HasSuffix(target.Expr, "or vector(0)") {
				t.Errorf("%s, of a namespace where there is nothing: %s has %d results: %v", panel.Title, target.Expr, n, err)
			}
		}
	}
	for _, v := range d.Templating.List {
		if v.Type == "query" {
			known(t, "variable "+v.Name, monitoring.Metrics(v.Definition), names)
		}
	}
}

func checkAlerts(t *testing.T, p *prometheusServer, names []string) {
	alerts, err := monitoring.Alerts("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range alerts {
		known(t, a.Alert, monitoring.Metrics(a.Expr), names)
	}
	tests, err := monitoring.Tests("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range tests {
		for _, input := range test.Inputs {
			known(t, test.Name, monitoring.Metrics(input.Series), names)
		}
	}
	// R that cannot be started is an alert that is pending; the others are silent, once a
	// scrape has seen that the node of a moment ago has its worker.
	want := make(map[string]string)
	for _, a := range alerts {
		want[a.Alert] = "inactive"
	}
	want["PsockWorkersFailing"] = "pending"
	states := make(map[string]string)
	defer func() {
		if t.Failed() {
			t.Logf("the alerts: %v", states)
		}
	}()
	eventually(t, "the alerts' states", func() bool {
		var data struct {
			Groups []struct {
				Rules []struct{ Name, LastError, State string }
			}
		}
		if err := p.ask(&data, "/api/v1/rules", nil); err != nil {
			t.Fatal(err)
		}
		for _, group := range data.Groups {
			for _, rule := range group.Rules {
				states[rule.Name] = rule.State + rule.LastError
				if rule.State == "firing" || rule.LastError != "" {
					t.Fatalf("%s is %s: %s", rule.Name, rule.State, rule.LastError)
				}
			}
		}
		return maps.Equal(states, want)
	})
}

// known fails for metrics that no program exports.
func known(t *testing.T, where string, used, names []string) {
	t.Helper()
	if len(used) == 0 {
		t.Errorf("%s: no metric", where)
	}
	for _, name := range used {
		if !slices.Contains(names, name) {
			t.Errorf("%s: nobody exports %s", where, name)
		}
	}
}

// checkDocumented compares the programs' own metrics with the tables.
func checkDocumented(t *testing.T, names []string) {
	page, err := os.ReadFile("../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	histogram := regexp.MustCompile(`_seconds_(bucket|sum|count)$`)
	for _, name := range names {
		name = histogram.ReplaceAllString(name, "_seconds")
		own := strings.HasPrefix(name, "rendezvous_") || strings.HasPrefix(name, "worker_agent_")
		if own && !regexp.MustCompile("`"+name+"[`{]").Match(page) {
			t.Errorf("docs/operating.md does not have %s", name)
		}
	}
	for _, match := range regexp.MustCompile("`((?:rendezvous|worker_agent)_\\w+)[`{]").FindAllSubmatch(page, -1) {
		name := string(match[1])
		if !slices.Contains(names, name) && !slices.Contains(names, name+"_count") {
			t.Errorf("docs/operating.md has %s, which nobody exports", name)
		}
	}
}

// checkMetrics has promtool's opinion of an endpoint.
func checkMetrics(t *testing.T, address string) {
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lint := exec.Command("promtool", "check", "metrics")
	lint.Stdin = response.Body
	if out, err := lint.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
