package psock

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestImportersGetNoMore: a module that requires this one gets what this one requires into
// its module graph, and nothing else: not client-go, which the programs of this repository
// require. That is why this package is a module of its own.
func TestImportersGetNoMore(t *testing.T) {
	const path = "github.com/psock-runtime/psock-runtime/pkg/psock"
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	importer := t.TempDir()
	file := fmt.Sprintf("module example.org/importer\n\ngo 1.26.0\n\nrequire %s v0.0.0\n\nreplace %[1]s => %q\n", path, filepath.ToSlash(here))
	if err := os.WriteFile(filepath.Join(importer, "go.mod"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "mod", "graph")
	cmd.Dir = importer
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go mod graph: %v", err)
	}
	var got []string
	for line := range strings.Lines(string(out)) {
		_, required, _ := strings.Cut(strings.TrimSpace(line), " ")
		module, _, _ := strings.Cut(required, "@")
		if module != "go" && module != "toolchain" {
			got = append(got, module)
		}
	}
	slices.Sort(got)
	// Of these, the package itself needs x/sys alone, and the others are its tests'.
	want := []string{"github.com/google/go-cmp", path, "go.uber.org/goleak", "golang.org/x/sys"}
	if diff := cmp.Diff(want, slices.Compact(got)); diff != "" {
		t.Errorf("modules in an importer's graph (-want +got):\n%s", diff)
	}
}
