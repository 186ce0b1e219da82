package psock

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func nextPID(t *testing.T, lines <-chan Line) *pidfd {
	t.Helper()
	text := nextLine(t, lines)
	pid, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("line %q is not a process id", text)
	}
	return watch(t, pid)
}

// pidfd tells when a process that is not the test's child has ended.
type pidfd struct{ fd, pid int }

func watch(t *testing.T, pid int) *pidfd {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatalf("pidfd of process %d: %v", pid, err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return &pidfd{fd, pid}
}

// ended waits up to d for the process to end.
func (p *pidfd) ended(t *testing.T, d time.Duration) bool {
	t.Helper()
	deadline := time.Now().Add(d)
	for {
		fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, max(0, int(time.Until(deadline).Milliseconds())))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return n == 1
	}
}

func TestProcessEnvAndDir(t *testing.T) {
	dir := t.TempDir()
	var got []string
	p, err := Start(Spec{
		Args: []string{"sh", "-c", `echo "$A-$HOME"; pwd; cat; grep flags /proc/self/fdinfo/1`}, Env: []string{"A=b", "PATH=" + os.Getenv("PATH")}, Dir: dir,
		Output: func(l Line) { got = append(got, l.Text) },
	})
	if err != nil {
		t.Fatal(err)
	}
	waitDone(t, p)
	if len(got) != 3 || got[0] != "b-" || got[1] != dir {
		t.Fatalf("got %q, want the environment, %q and the flags", got, dir)
	}
	// R writes to a pipe that must block, or it loses what does not fit.
	flags, err := strconv.ParseInt(strings.TrimSpace(strings.TrimPrefix(got[2], "flags:")), 8, 64)
	if err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("flags of the child's stdout: %q (%v), want a blocking pipe", got[2], err)
	}
}

// TestInterrupt: what computes is interrupted, with all that it runs, and ends in
// its own way; what does not handle that is ended by it.
func TestInterrupt(t *testing.T) {
	p, lines := startLines(t, "Rscript", "-e", "tryCatch({cat('ready\n'); Sys.sleep(1000)}, interrupt = function(e) cat('interrupted\n'), finally = cat('finally\n'))")
	nextLine(t, lines)
	p.Interrupt()
	for _, want := range []string{"interrupted", "finally"} {
		if got := nextLine(t, lines); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if e := waitDone(t, p); e.Code != 0 || !e.Stopped {
		t.Errorf("got %+v", e)
	}

	p, lines = startLines(t, "sh", "-c", "trap 'echo interrupted' INT; sh -c 'echo $$; exec sleep 1000'; echo going on; exec sleep 1000")
	child := nextPID(t, lines)
	p.Interrupt()
	if !child.ended(t, patience) {
		t.Error("the child was not interrupted")
	}
	for _, want := range []string{"interrupted", "going on"} {
		if got := nextLine(t, lines); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	p.Interrupt() // The second time it does nothing.
	p.Stop(patience)
	if e := p.Exit(); e.Signal != syscall.SIGTERM {
		t.Errorf("got %+v", e)
	}

	p, lines = startLines(t, "sh", "-c", "echo ready; exec sleep 1000")
	nextLine(t, lines)
	p.Interrupt()
	if e := waitDone(t, p); e.String() != "stopped with SIGINT" {
		t.Errorf("got %+v %q", e, e)
	}
	p.Interrupt() // Interrupting what has ended does nothing.
}

// TestGroupEndsWithLeader: an R that ends takes its background processes along,
// although they hold its output open and ignore SIGTERM.
func TestGroupEndsWithLeader(t *testing.T) {
	p, lines := startLines(t, "Rscript", "-e", `system("trap '' TERM; sh -c 'echo $$; exec sleep 1000' &")`)
	child := nextPID(t, lines)
	if e := waitDone(t, p); e.Code != 0 {
		t.Errorf("got %+v", e)
	}
	if !child.ended(t, patience) {
		t.Error("the background process outlived its R")
	}
}

// TestDaemonDoesNotHoldDone: a process outside the group that holds the output
// open cannot keep the process from being done.
func TestDaemonDoesNotHoldDone(t *testing.T) {
	p, lines := startLines(t, "sh", "-c", "setsid sh -c 'echo $$; exec sleep 1000' & wait")
	daemon := nextPID(t, lines)
	defer func() { _ = syscall.Kill(daemon.pid, syscall.SIGKILL) }()
	p.Stop(patience)
	if e := waitDone(t, p); !e.Stopped {
		t.Errorf("got %+v", e)
	}
	if daemon.ended(t, 0) {
		t.Error("the daemon is gone: the test did not test anything")
	}
}

// TestKilledParentTakesTheProcessAlong kills -9 a program whose R computes: the
// kernel must end the R.
func TestKilledParentTakesTheProcessAlong(t *testing.T) {
	cmd := exec.Command(os.Args[0], "Rscript", "-e", `cat(Sys.getpid(), "\n", sep = ""); repeat {}`)
	cmd.Env = append(os.Environ(), helperEnv+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	text, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		t.Fatal(err)
	}
	r := watch(t, pid)
	if r.ended(t, 0) {
		t.Fatal("R has ended by itself")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if !r.ended(t, patience) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		t.Error("R outlived the program that started it")
	}
}

// TestThreadOfCallerMayEnd ends the OS thread that called Start: the
// parent-death signal must not be bound to it.
func TestThreadOfCallerMayEnd(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	type result struct {
		p   *Process
		tid int
		err error
	}
	results := make(chan result)
	lines := make(chan Line, 10)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		p, err := Start(Spec{Args: []string{"sh", "-c", "read x < " + fifo + "; echo alive $x"}, Output: func(l Line) { lines <- l }})
		results <- result{p, unix.Gettid(), err}
	}()
	r := <-results
	if r.err != nil {
		t.Fatal(r.err)
	}
	defer r.p.Stop(0)
	if r.tid != os.Getpid() { // the main thread is never ended by Go
		for unix.Tgkill(os.Getpid(), r.tid, 0) == nil {
			runtime.Gosched()
		}
	}
	if err := os.WriteFile(fifo, []byte("and well\n"), 0); err != nil {
		t.Fatal(err)
	}
	if got := nextLine(t, lines); got != "alive and well" {
		t.Errorf("got %q", got)
	}
	if e := waitDone(t, r.p); e.Code != 0 || e.Signal != 0 {
		t.Errorf("got %+v", e)
	}
}
