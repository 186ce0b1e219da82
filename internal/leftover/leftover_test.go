package leftover

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// worker is a process group that a Tracker knows, in a worker's place.
type worker struct {
	t    *testing.T
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	left *Worker
}

// begin starts a shell as a worker with the given mark; it runs what it is told.
func begin(t *testing.T, tracker *Tracker, mark string) *worker {
	t.Helper()
	w := &worker{t: t, left: tracker.Start(mark)}
	w.cmd = exec.Command("sh")
	w.cmd.Env = append(os.Environ(), Variable+"="+mark)
	var err error
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	w.out = bufio.NewReader(out)
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.end() })
	return w
}

// run runs a line that writes the process ids of what it starts, and opens these.
func (w *worker) run(line string) (fds []int) {
	w.t.Helper()
	if _, err := io.WriteString(w.in, line+"\n"); err != nil {
		w.t.Fatal(err)
	}
	text, err := w.out.ReadString('\n')
	if err != nil {
		w.t.Fatal(err)
	}
	for _, field := range strings.Fields(text) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			w.t.Fatal(err)
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			w.t.Fatalf("process %d: %v", pid, err)
		}
		w.t.Cleanup(func() {
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			_ = unix.Close(fd)
		})
		fds = append(fds, fd)
	}
	return fds
}

// end ends the worker's own process, as psock does before it looks for more.
func (w *worker) end() {
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait()
}

// lives reports whether a process has not ended.
func lives(t *testing.T, fd int) bool {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n == 0
}

// ends waits for a process to end that was killed.
func ends(t *testing.T, fd int) bool {
	t.Helper()
	const patience = 30_000 // milliseconds, on a slow machine
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, patience)
	if err != nil {
		t.Fatal(err)
	}
	return n == 1
}

func newTracker(t *testing.T) *Tracker {
	t.Helper()
	tracker, err := New(false)
	if err != nil {
		t.Fatal(err)
	}
	return tracker
}

// Daemons, by setsid and by a double fork, end with their worker; another worker's, and
// those that nobody has marked, do not.
func TestDaemonsEndWithTheirWorker(t *testing.T) {
	tracker := newTracker(t)
	const daemon = `setsid sh -c 'sleep 1000 & echo $!'`
	one, other := begin(t, tracker, "/one"), begin(t, tracker, "/other")
	left := append(one.run(daemon), one.run(`sh -c '(setsid sleep 1000 & echo $!) &'`)...)
	others := other.run(daemon)
	strangers := one.run(`env -i PATH="$PATH" ` + daemon) // to be known by process 1 only
	one.end()
	if err := one.left.End(); err != nil {
		t.Fatal(err)
	}
	for i, fd := range left {
		if !ends(t, fd) {
			t.Errorf("daemon %d outlives its worker", i)
		}
	}
	if !lives(t, others[0]) {
		t.Error("the other worker's daemon has ended")
	}
	if !lives(t, strangers[0]) {
		t.Error("a process that nobody has marked was ended")
	}
	other.end()
	if err := other.left.End(); err != nil {
		t.Fatal(err)
	}
	if !ends(t, others[0]) {
		t.Error("the other worker's daemon outlives it")
	}
}

// A child that has wiped its environment is known while its parents live.
func TestRemember(t *testing.T) {
	tracker := newTracker(t)
	w := begin(t, tracker, "/one")
	hidden := w.run(`env -i setsid -w sleep 1000 & sleep 0; echo $!`)
	w.left.Remember(w.cmd.Process.Pid)
	w.end()
	if !lives(t, hidden[0]) {
		t.Fatal("it has ended with its worker: the test does not test anything")
	}
	if err := w.left.End(); err != nil {
		t.Fatal(err)
	}
	if !ends(t, hidden[0]) {
		t.Error("a child without the variable outlives its worker")
	}
}

// The number of a worker's process that has ended is another's: its children are that one's.
func TestRememberNobodyElse(t *testing.T) {
	tracker := newTracker(t)
	w, other := begin(t, tracker, "/one"), begin(t, tracker, "/other")
	child := other.run(`env -i sleep 1000 & echo $!`)
	w.left.Remember(other.cmd.Process.Pid)
	w.end()
	if err := w.left.End(); err != nil {
		t.Fatal(err)
	}
	if !lives(t, child[0]) {
		t.Error("somebody else's child was ended")
	}
}

// What a program has left that was killed itself is known by the beginning of the marks.
func TestEndOf(t *testing.T) {
	tracker := newTracker(t)
	one, two := begin(t, tracker, "/a/1"), begin(t, tracker, "/ab/1")
	a, ab := one.run(`setsid sleep 1000 & echo $!`), two.run(`setsid sleep 1000 & echo $!`)
	if err := tracker.EndOf("/a/"); err != nil {
		t.Fatal(err)
	}
	if !ends(t, a[0]) || !lives(t, ab[0]) {
		t.Error("want the daemon of /a/1 to end, and only that one")
	}
}
