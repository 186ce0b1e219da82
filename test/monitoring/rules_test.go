package monitoring_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/psock-runtime/psock-runtime/test/monitoring"
)

const root = "../.."

func promtool(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Fatalf("this test needs promtool ('make deps' installs it): %v", err)
	}
	if out, err := exec.Command("promtool", args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestRulesPassPromtool(t *testing.T) {
	promtool(t, "check", "rules", filepath.Join(root, monitoring.AlertsFile))
	promtool(t, "test", "rules", filepath.Join(root, monitoring.TestsFile))
}

func readAlerts(t *testing.T) []monitoring.Alert {
	t.Helper()
	alerts, err := monitoring.Alerts(root)
	if err != nil || len(alerts) == 0 {
		t.Fatalf("%d alerts: %v", len(alerts), err)
	}
	return alerts
}

// Whoever is woken by an alert reads what it means and what to do.
func TestAlertsSayWhatToDo(t *testing.T) {
	guide, err := os.ReadFile(filepath.Join(root, "docs/troubleshooting.md"))
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, a := range readAlerts(t) {
		if seen[a.Alert] {
			t.Errorf("%s is there twice", a.Alert)
		}
		seen[a.Alert] = true
		if summary := a.Annotations["summary"]; summary == "" || len(summary) > 100 || strings.HasSuffix(summary, ".") {
			t.Errorf("%s: summary %q, want a line without a full stop", a.Alert, summary)
		}
		if description := a.Annotations["description"]; len(description) < 50 {
			t.Errorf("%s: description %q", a.Alert, description)
		}
		if !slices.Contains([]string{"critical", "warning", "info"}, a.Labels["severity"]) {
			t.Errorf("%s: severity %q", a.Alert, a.Labels["severity"])
		}
		const page = "https://github.com/psock-runtime/psock-runtime/blob/main/docs/troubleshooting.md#"
		if url := a.Annotations["runbook_url"]; url != page+strings.ToLower(a.Alert) {
			t.Errorf("%s: runbook_url %q", a.Alert, url)
		}
		if !bytes.Contains(guide, []byte("\n### "+a.Alert+"\n")) {
			t.Errorf("docs/troubleshooting.md has no section %s", a.Alert)
		}
	}
	for _, section := range regexp.MustCompile(`(?m)^### (Psock\w+)$`).FindAllSubmatch(guide, -1) {
		if !seen[string(section[1])] {
			t.Errorf("docs/troubleshooting.md has a section %s, and there is no such alert", section[1])
		}
	}
}

// Each alert has been seen to fire, and to stay silent.
func TestAlertsAreTested(t *testing.T) {
	tests, err := monitoring.Tests(root)
	if err != nil {
		t.Fatal(err)
	}
	fires, silent := make(map[string]bool), make(map[string]bool)
	for _, test := range tests {
		for _, check := range test.Checks {
			match := regexp.MustCompile(`ALERTS\{alertname="(\w+)"`).FindStringSubmatch(check.Expr)
			if match == nil {
				t.Fatalf("%s: %s is about no alert", test.Name, check.Expr)
			}
			name := match[1]
			switch test.Name {
			case name + " stays silent":
				silent[name] = silent[name] || len(check.Samples) == 0 && strings.HasPrefix(check.Expr, "count_over_time(")
			default:
				fires[name] = fires[name] || len(check.Samples) > 0 && strings.HasPrefix(test.Name, name+" fires")
			}
		}
	}
	for _, a := range readAlerts(t) {
		if !fires[a.Alert] || !silent[a.Alert] {
			t.Errorf("%s: fires in a test: %v, stays silent in one: %v", a.Alert, fires[a.Alert], silent[a.Alert])
		}
	}
}

func TestDashboardCanBeImported(t *testing.T) {
	d, err := monitoring.ReadDashboard(root)
	if err != nil {
		t.Fatal(err)
	}
	if d.SchemaVersion < 36 || d.UID == "" { // 36: data sources are objects
		t.Errorf("schema version %d, uid %q", d.SchemaVersion, d.UID)
	}
	var variables []string
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name+" "+v.Type)
		if v.Type == "query" && (v.AllValue != ".*" || *v.Datasource != source) {
			t.Errorf("variable %s: all is %q, of %v; want .*, which matches series without the label, too", v.Name, v.AllValue, v.Datasource)
		}
	}
	if got := strings.Join(variables, ", "); got != "datasource datasource, namespace query, release query" {
		t.Errorf("variables %s", got)
	}
	ids := make(map[int]bool)
	for i, p := range d.Panels {
		if ids[p.ID] || p.ID == 0 || p.Title == "" {
			t.Errorf("panel %d %q: its id is there twice, or it has no title", p.ID, p.Title)
		}
		ids[p.ID] = true
		if p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("%s: wider than the page", p.Title)
		}
		for _, other := range d.Panels[:i] {
			if overlap(p, other) {
				t.Errorf("%s lies on %s", p.Title, other.Title)
			}
		}
		if p.Type != "row" {
			checkPanel(t, p)
		}
	}
}

// source is the data source that the reader has chosen.
var source = monitoring.Datasource{Type: "prometheus", UID: "${datasource}"}

var selector = regexp.MustCompile(`\b(?:rendezvous|worker_agent|process)_\w+(\{[^}]*\})?`)

func checkPanel(t *testing.T, p monitoring.Panel) {
	t.Helper()
	if len(p.Description) < 40 || !strings.HasSuffix(p.Description, ".") || p.FieldConfig.Defaults.Unit == "" {
		t.Errorf("%s: unit %q, description %q", p.Title, p.FieldConfig.Defaults.Unit, p.Description)
	}
	if p.Datasource == nil || *p.Datasource != source || len(p.Targets) == 0 {
		t.Errorf("%s: data source %v, %d queries", p.Title, p.Datasource, len(p.Targets))
	}
	for _, target := range p.Targets {
		if target.Datasource == nil || *target.Datasource != source {
			t.Errorf("%s: data source %v of a query", p.Title, target.Datasource)
		}
		series := selector.FindAllStringSubmatch(target.Expr, -1)
		if len(series) == 0 {
			t.Errorf("%s: no metric in %s", p.Title, target.Expr)
		}
		for _, s := range series {
			if !strings.HasPrefix(s[1], `{namespace=~"$namespace",release=~"$release"`) {
				t.Errorf("%s: %s is not that of the chosen release", p.Title, s[0])
			}
		}
	}
}

func overlap(a, b monitoring.Panel) bool {
	p, q := a.GridPos, b.GridPos
	return p.X < q.X+q.W && q.X < p.X+p.W && p.Y < q.Y+q.H && q.Y < p.Y+p.H
}
