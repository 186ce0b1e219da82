package testkit

import (
	"os/exec"
	"strings"
	"testing"
)

// TestOnlyTestsImportTestkit: what is built for users, or imported by them, has nothing of it.
func TestOnlyTestsImportTestkit(t *testing.T) {
	const kit = "github.com/psock-runtime/psock-runtime/internal/testkit"
	cmd := exec.Command("go", "list", "-f", `{{.ImportPath}}:{{range .Imports}} {{.}}{{end}}`, "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		importer, imports, _ := strings.Cut(line, ":")
		if importer == kit || strings.HasPrefix(importer, kit+"/") {
			continue
		}
		if strings.Contains(imports, " "+kit) {
			t.Errorf("%s imports internal/testkit outside its tests", importer)
		}
	}
}
