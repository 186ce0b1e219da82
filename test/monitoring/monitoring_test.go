// Package monitoring tests the alert rules and the dashboard without a cluster: the
// rules with promtool, and that everything has what an operator needs. Whether their
// queries find real series is for test/e2e.
package monitoring

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

const files = "../../charts/future/files/"

type rules struct {
	Groups []struct {
		Rules []struct {
			Alert, Expr string
			Labels      map[string]string
			Annotations map[string]string
		}
	}
}

func readRules(t *testing.T) (all rules, text string) {
	t.Helper()
	b, err := os.ReadFile(files + "alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	return all, string(b)
}

func TestRules(t *testing.T) {
	for _, args := range [][]string{{"check", "rules", files + "alerts.yaml"}, {"test", "rules", "alerts_test.yaml"}} {
		if out, err := exec.Command("promtool", args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// Each alert says what is the matter and what to do, has a section in the
// documentation, and a test that fires and one that does not.
func TestEveryAlert(t *testing.T) {
	tests, err := os.ReadFile("alerts_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	document, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	all, _ := readRules(t)
	n := 0
	for _, group := range all.Groups {
		for _, rule := range group.Rules {
			n++
			for _, key := range []string{"summary", "description", "runbook_url"} {
				if rule.Annotations[key] == "" {
					t.Errorf("%s has no %s", rule.Alert, key)
				}
			}
			if !strings.HasSuffix(rule.Annotations["runbook_url"], "docs/troubleshooting.md#"+strings.ToLower(rule.Alert)) {
				t.Errorf("%s: runbook_url %s", rule.Alert, rule.Annotations["runbook_url"])
			}
			if !strings.Contains(string(document), "\n### "+rule.Alert+"\n") {
				t.Errorf("docs/troubleshooting.md has no section ### %s", rule.Alert)
			}
			for _, kind := range []string{" fires", " is silent"} {
				if !strings.Contains(string(tests), "- name: "+rule.Alert+kind+"\n") {
					t.Errorf("alerts_test.yaml has no case %q", rule.Alert+kind)
				}
			}
		}
	}
	if n == 0 {
		t.Error("no alert")
	}
}

func TestDashboard(t *testing.T) {
	b, err := os.ReadFile(files + "dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			ID                       int
			Title, Description, Type string
			Datasource               struct{ UID string }
			Targets                  []struct{ Expr string }
			FieldConfig              struct{ Defaults struct{ Unit string } }
		}
	}
	if err := json.Unmarshal(b, &dashboard); err != nil {
		t.Fatal(err)
	}
	ids := map[int]bool{}
	for _, p := range dashboard.Panels {
		if p.Title == "" || p.Description == "" || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 || ids[p.ID] {
			t.Errorf("panel %d %q lacks a title, a description, a unit, a query or an id of its own", p.ID, p.Title)
		}
		ids[p.ID] = true
		if p.Datasource.UID != "${datasource}" {
			t.Errorf("panel %q has data source %q", p.Title, p.Datasource.UID)
		}
		for _, target := range p.Targets {
			if !strings.Contains(target.Expr, `namespace=~"$namespace"`) {
				t.Errorf("panel %q is not limited to the chosen namespaces: %s", p.Title, target.Expr)
			}
		}
	}
	if len(ids) == 0 {
		t.Error("no panel")
	}
}
