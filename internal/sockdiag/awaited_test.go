package sockdiag

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestConnectsTo(t *testing.T) {
	for command, want := range map[string]bool{
		"/usr/lib/R/bin/exec/R\x00--no-echo\x00-e\x00parallel:::.workRSOCK()\x00--args\x00MASTER=localhost\x00PORT=11562\x00OUT=/dev/null\x00": true,
		"sh\x00-c\x00'/usr/bin/Rscript' -e 'parallel:::.workRSOCK()' MASTER=localhost PORT=11562 OUT=/dev/null & \x00":                         true,
		"R\x00MASTER=localhost\x00PORT=11562":                    true,
		"R\x00MASTER=localhost\x00PORT=115620\x00PORT=11562\x00": true,
		"R\x00MASTER=localhost\x00PORT=115620\x00":               false,
		"R\x00MASTER=localhost\x00PORT=11563\x00":                false,
		"R\x00PORT=11562\x00":                                    false,
		"":                                                       false,
	} {
		if got := connectsTo([]byte(command), 11562); got != want {
			t.Errorf("%q: %v, want %v", command, got, want)
		}
	}
}

// Real processes are seen, and what is no process is passed over.
func TestAwaited(t *testing.T) {
	cmd := exec.Command("sh", "-c", "read x", "worker", "MASTER=localhost", "PORT=64999")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for port, want := range map[uint16]bool{64999: true, 64998: false} {
		if got, err := Awaited(port); err != nil || got != want {
			t.Errorf("port %d: %v, %v; want %v", port, got, err, want)
		}
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // read fails at the end of its input
	if got, err := Awaited(64999); err != nil || got {
		t.Errorf("of a process that has ended: %v, %v", got, err)
	}
	if _, err := awaited(filepath.Join(t.TempDir(), "none"), 1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without /proc: %v", err)
	}
}
