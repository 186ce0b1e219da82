package sockdiag

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/testkit"
)

// What R opens must be what this package reports, in a table of the two ways in
// which R listens.
func TestRealRListens(t *testing.T) {
	for name, code := range map[string]string{
		// Prints once the socket listens: nothing else can, since
		// socketConnection blocks until somebody connects.
		"socketConnection": `con <- socketConnection("localhost", PORT, server = TRUE, blocking = TRUE, open = "a+b", timeout = 20)`,
		"serverSocket":     `s <- serverSocket(PORT); con <- socketAccept(s, blocking = TRUE, open = "a+b", timeout = 20)`,
	} {
		t.Run(name, func(t *testing.T) {
			port := uint16(testkit.Port(t))
			code := strings.ReplaceAll(code, "PORT", fmt.Sprint(port)) + `; writeLines("met", con); close(con)`
			cmd := exec.CommandContext(t.Context(), "Rscript", "--vanilla", "-e", code)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			backends(t, Range{port, port}, func(t *testing.T, p *Prober) {
				waitListening(t, p)
				if got := ss(t, port); !strings.Contains(got, fmt.Sprintf(" 0.0.0.0:%d ", port)) {
					t.Errorf("ss shows %q, want it on 0.0.0.0", got)
				}
			})
			meet(t, port)
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// waitListening asks until there is a listener. Asking is the event here: the
// rendezvous has no other way to learn of it either.
func waitListening(t *testing.T, p *Prober) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		ls, err := p.Listeners(nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(ls) == 1 {
			return
		}
	}
	t.Fatal("R does not listen after 30 s")
}

func ss(t *testing.T, port uint16) string {
	t.Helper()
	out, err := exec.Command("ss", "-Hltne", fmt.Sprintf("sport = %d", port)).CombinedOutput()
	if err != nil {
		t.Fatalf("ss: %v: %s", err, out)
	}
	return string(out)
}

func meet(t *testing.T, port uint16) {
	t.Helper()
	conn := dial(t, fmt.Sprintf("127.0.0.1:%d", port))
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "met\n" {
		t.Errorf("R says %q, %v", line, err)
	}
}
