// Package monitoring reads the chart's dashboard and alerts for the tests: those of
// this package, which need promtool, and one beside real programs and a real
// Prometheus, in the package above.
package monitoring

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// Files, from the root of the repository.
const (
	DashboardFile = "charts/future/files/dashboard.json"
	AlertsFile    = "charts/future/files/alerts.yaml"
	TestsFile     = "test/monitoring/alerts_test.yaml"
)

// Alert is an alerting rule.
type Alert struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

// Alerts reads the alerts.
func Alerts(root string) ([]Alert, error) {
	var file struct {
		Groups []struct {
			Rules []Alert `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := readYAML(filepath.Join(root, AlertsFile), &file); err != nil {
		return nil, err
	}
	var all []Alert
	for _, group := range file.Groups {
		all = append(all, group.Rules...)
	}
	return all, nil
}

// Test is one test of the alerts, as promtool takes it.
type Test struct {
	Name   string `yaml:"name"`
	Inputs []struct {
		Series string `yaml:"series"`
	} `yaml:"input_series"`
	Checks []struct {
		Expr    string `yaml:"expr"`
		Samples []any  `yaml:"exp_samples"`
	} `yaml:"promql_expr_test"`
}

// Tests reads the tests of the alerts.
func Tests(root string) ([]Test, error) {
	var file struct {
		Tests []Test `yaml:"tests"`
	}
	err := readYAML(filepath.Join(root, TestsFile), &file)
	return file.Tests, err
}

func readYAML(path string, into any) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := yaml.Unmarshal(content, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// Dashboard is what the tests look at of a Grafana dashboard.
type Dashboard struct {
	UID           string  `json:"uid"`
	SchemaVersion int     `json:"schemaVersion"`
	Panels        []Panel `json:"panels"`
	Templating    struct {
		List []struct {
			Name       string      `json:"name"`
			Type       string      `json:"type"`
			Definition string      `json:"definition"`
			AllValue   string      `json:"allValue"`
			Datasource *Datasource `json:"datasource"`
		} `json:"list"`
	} `json:"templating"`
}

// Panel is a panel, or a row of them.
type Panel struct {
	ID          int         `json:"id"`
	Type        string      `json:"type"`
	Title       string      `json:"title"`
	Description string      `json:"description"`
	Datasource  *Datasource `json:"datasource"`
	Targets     []struct {
		Expr       string      `json:"expr"`
		Datasource *Datasource `json:"datasource"`
	} `json:"targets"`
	FieldConfig struct {
		Defaults struct {
			Unit string `json:"unit"`
		} `json:"defaults"`
	} `json:"fieldConfig"`
	GridPos struct{ H, W, X, Y int } `json:"gridPos"`
}

// Datasource is where a panel has its data from.
type Datasource struct{ Type, UID string }

// ReadDashboard reads the dashboard.
func ReadDashboard(root string) (Dashboard, error) {
	var d Dashboard
	content, err := os.ReadFile(filepath.Join(root, DashboardFile))
	if err != nil {
		return d, err
	}
	if err := json.Unmarshal(content, &d); err != nil {
		return d, fmt.Errorf("%s: %w", DashboardFile, err)
	}
	return d, nil
}

// Query is expr as Grafana sends it for a choice of its variables.
func Query(expr, namespace, release string) string {
	return strings.NewReplacer("$namespace", namespace, "$release", release, "$__rate_interval", "1m", "$__range", "1h").Replace(expr)
}

var (
	quoted = regexp.MustCompile(`"[^"]*"`)
	metric = regexp.MustCompile(`\b(rendezvous|worker_agent|process|go)_[a-z0-9_]+`)
)

// Metrics are the names of the metrics in a PromQL expression. One with another
// beginning than ours and those of client libraries is not found; such an expression
// has no result.
func Metrics(expr string) []string {
	names := metric.FindAllString(quoted.ReplaceAllString(expr, ""), -1)
	slices.Sort(names)
	return slices.Compact(names)
}
