package pid1

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what must happen, on a slow machine.
const patience = 60 * time.Second

// container is the test binary as process 1 of a process namespace of its own.
type container struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines *bufio.Reader
	in    io.WriteCloser
}

// start runs one of the children of helper_test.go below a process 1.
func start(t *testing.T, child string, args ...string) *container {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), childEnv+"="+child)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Whatever hangs ends the test with the output it has.
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() {
		timer.Stop()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &container{t, cmd, bufio.NewReader(out), in}
}

func (c *container) line() string {
	c.t.Helper()
	s, err := c.lines.ReadString('\n')
	if err != nil {
		c.t.Fatalf("read a line of the child: %v, got %q", err, s)
	}
	return strings.TrimSuffix(s, "\n")
}

// end waits for process 1 and returns its exit code, and what was written last.
func (c *container) end() (int, string) {
	c.t.Helper()
	rest, err := io.ReadAll(c.lines)
	if err != nil {
		c.t.Fatal(err)
	}
	err = c.cmd.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	return c.cmd.ProcessState.ExitCode(), string(rest)
}

func TestRunDoesNothingElsewhere(t *testing.T) {
	t.Setenv(ownedEnv, "1") // inherited, by some way
	if code, ended := Run(); ended || code != 0 || Owned() {
		t.Errorf("got %d, %v, owned %v", code, ended, Owned())
	}
}

// TestOwned: the child of process 1 has the container to itself, and the same program
// again as somebody's child has not.
func TestOwned(t *testing.T) {
	c := start(t, "owned")
	if code, out := c.end(); code != 0 || out != "true true\nfalse false\n" {
		t.Errorf("exit code %d, got %q", code, out)
	}
}

func TestExitCodes(t *testing.T) {
	for _, tc := range []struct {
		child, arg string
		want       int
	}{
		{"exit", "0", 0},
		{"exit", "1", 1},
		{"exit", "77", 77},
		{"exit", "255", 255},
		{"die", "15", 128 + 15},
		{"die", "9", 128 + 9},
	} {
		c := start(t, tc.child, tc.arg)
		if code, _ := c.end(); code != tc.want {
			t.Errorf("%s %s: exit code %d, want %d", tc.child, tc.arg, code, tc.want)
		}
	}
}

func TestCannotStart(t *testing.T) {
	c := start(t, "unstartable")
	if code, _ := c.end(); code != cannotStart {
		t.Errorf("exit code %d, want %d", code, cannotStart)
	}
}

// TestChildIsTheSameProgram: arguments, environment, directory, stdin.
func TestChildIsTheSameProgram(t *testing.T) {
	c := start(t, "show", "one", "", "t w o")
	if _, err := io.WriteString(c.in, "from stdin"); err != nil {
		t.Fatal(err)
	}
	if err := c.in.Close(); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	code, out := c.end()
	if want := `parent 1, args ["one" "" "t w o"], dir "` + dir + `", stdin "from stdin"` + "\n"; code != 0 || out != want {
		t.Errorf("exit code %d, got %q, want %q", code, out, want)
	}
}

func TestSignalsAreForwarded(t *testing.T) {
	c := start(t, "signals")
	if got := c.line(); got != "ready" {
		t.Fatalf("got %q", got)
	}
	for _, sig := range forwarded() {
		if sig == syscall.SIGTERM {
			continue
		}
		if err := c.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if want := strconv.Itoa(int(sig.(syscall.Signal))); c.line() != want {
			t.Errorf("the child did not get signal %s (%v)", want, sig)
		}
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code, out := c.end(); code != 42 || out != "15\n" {
		t.Errorf("exit code %d, got %q, want 42 and the last signal", code, out)
	}
}

// TestOrphansAreReaped: 500 processes lose their parent and end while the child
// runs 500 commands of its own, each of which must have its own exit status.
func TestOrphansAreReaped(t *testing.T) {
	c := start(t, "orphans")
	if code, out := c.end(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

// TestOrphansEndWithTheChild: those that obey SIGTERM get it, those that do not
// are killed, and neither keeps the container up.
func TestOrphansEndWithTheChild(t *testing.T) {
	for _, tc := range []struct {
		name, trap, want string
		min              time.Duration
	}{
		{"obey", "trap 'echo told; exit' TERM", "told\n", 0},
		{"ignore", "trap '' TERM", "", termWait},
	} {
		t.Run(tc.name, func(t *testing.T) {
			// The orphan is in a session of its own, as a daemon is.
			fifo := filepath.Join(t.TempDir(), "fifo") // of which nothing can be read
			if err := unix.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
			c := start(t, "shell", "setsid sh -c \""+tc.trap+"; echo up; read x < "+fifo+"\" & read x; exit 3")
			if got := c.line(); got != "up" {
				t.Fatalf("got %q", got)
			}
			began := time.Now()
			if err := c.in.Close(); err != nil {
				t.Fatal(err)
			}
			code, out := c.end()
			took := time.Since(began)
			if code != 3 || out != tc.want || took < tc.min {
				t.Errorf("exit code %d, out %q, took %v; want 3, %q, %v at least", code, out, took, tc.want, tc.min)
			}
		})
	}
}

// TestKilledParent: with process 1 everything ends, which closes the pipe.
func TestKilledParent(t *testing.T) {
	c := start(t, "shell", "echo up; sleep 1000")
	c.line()
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if code, _ := c.end(); code != -1 {
		t.Errorf("exit code %d", code)
	}
}

// TestParentIsSmall: the process that only waits must cost little beside the
// child. Counted is memory of its own, as the pages of the program file are
// shared with the child.
func TestParentIsSmall(t *testing.T) {
	c := start(t, "sizes")
	const limitKB = 4 << 10 // measured: 1.3 to 1.6 MB
	code, out := c.end()
	size, err := strconv.Atoi(strings.TrimSpace(out))
	if code != 0 || err != nil || size > limitKB && !raceEnabled {
		t.Errorf("exit code %d, process 1 has %q kB of its own, want at most %d", code, out, limitKB)
	}
	t.Logf("process 1 has %d kB of its own", size)
}

func mountProc() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount("proc", "/proc", "proc", 0, "")
}
