package sockdiag

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/testkit"
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
		if got := connectsTo(strings.Split(command, "\x00"), 11562); got != want {
			t.Errorf("%q: %v, want %v", command, got, want)
		}
	}
}

// Real processes are seen until they have connected, and what is no process is passed over.
func TestProcessesAreAwaitedUntilTheyConnect(t *testing.T) {
	listener := testkit.Listen(t)
	port := uint16(listener.Addr().(*net.TCPAddr).Port)
	const worker = `read x; exec 3<>"/dev/tcp/127.0.0.1/${2#PORT=}"; echo connected; read x`
	cmd := exec.Command("bash", "-c", worker, "worker", "MASTER=localhost", fmt.Sprintf("PORT=%d", port))
	in, out := testkit.Start(t, cmd)
	is := func(when string, port uint16, want bool) {
		t.Helper()
		if got, err := Awaited(port); err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", when, got, err, want)
		}
	}
	is("it is about to connect", port, true)
	is("to another port", port-1, false)
	if _, err := in.Write([]byte("go on\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	is("it has connected", port, false)
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // read fails at the end of its input
	is("it has ended", port, false)
	if _, err := awaited(filepath.Join(t.TempDir(), "none"), 1); err == nil {
		t.Error("no error without /proc")
	}
}
