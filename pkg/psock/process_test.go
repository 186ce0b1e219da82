package psock

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what must happen, on a slow machine.
const patience = 30 * time.Second

// startLines starts a process and returns it with a channel of its lines.
func startLines(t *testing.T, args ...string) (*Process, <-chan Line) {
	t.Helper()
	lines := make(chan Line, 1000)
	p, err := Start(Spec{Args: args, Output: func(l Line) { lines <- l }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop(0) })
	return p, lines
}

func nextLine(t *testing.T, lines <-chan Line) string {
	t.Helper()
	select {
	case l := <-lines:
		return l.Text
	case <-time.After(patience):
		t.Fatal("no line came")
		return ""
	}
}

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

func waitDone(t *testing.T, p *Process) Exit {
	t.Helper()
	select {
	case <-p.Done():
		return p.Exit()
	case <-time.After(patience):
		t.Fatal("the process is not done")
		return Exit{}
	}
}

func TestProcessExit(t *testing.T) {
	for _, tc := range []struct {
		name, script, want string
		code               int
		signal             syscall.Signal
	}{
		{"success", "echo bye", "exit status 0", 0, 0},
		{"code", "echo no such luck >&2; exit 3", "exit status 3: no such luck", 3, 0},
		{"silent", "exit 7", "exit status 7", 7, 0},
		{"signal", "echo busy; kill -USR1 $$", "killed by SIGUSR1", -1, syscall.SIGUSR1},
		{"SIGKILL", "kill -9 $$", "killed by SIGKILL", -1, syscall.SIGKILL},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, _ := startLines(t, "sh", "-c", tc.script)
			e := waitDone(t, p)
			if e.Code != tc.code || e.Signal != tc.signal || e.String() != tc.want || e.Uptime <= 0 || e.Stopped {
				t.Errorf("got %+v %q, want code %d, signal %v, %q", e, e, tc.code, tc.signal, tc.want)
			}
		})
	}
}

func TestProcessOfR(t *testing.T) {
	p, _ := startLines(t, "Rscript", "-e", "library(foo)")
	e := waitDone(t, p)
	if got := e.String(); !strings.HasPrefix(got, "exit status 1: Error in library(foo) : there is no package called ") {
		t.Errorf("got %q", got)
	}
	p, _ = startLines(t, "Rscript", "-e", "f <- function(x) stop(strrep('long ', 20)); f(strrep('a', 1)); ")
	e = waitDone(t, p)
	if got, want := e.String(), "exit status 1: Error in f(strrep(\"a\", 1)) : long long"; !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want %q...", got, want)
	}
}

func TestStartFails(t *testing.T) {
	for _, args := range [][]string{nil, {"/does/not/exist"}, {"does-not-exist"}, {os.DevNull}} {
		_, err := Start(Spec{Args: args})
		if err == nil {
			t.Fatalf("%q started", args)
		}
		if len(args) > 0 && !strings.Contains(err.Error(), args[0]) {
			t.Errorf("error %q does not name %q", err, args[0])
		}
	}
	if _, err := Start(Spec{Args: []string{"/does/not/exist"}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want one that wraps fs.ErrNotExist", err)
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

func TestStopIsGentleFirst(t *testing.T) {
	p, lines := startLines(t, "sh", "-c", "trap 'echo ending; exit 0' TERM; echo ready; sleep 1000 & wait")
	nextLine(t, lines)
	if e := p.Exit(); e.Uptime != 0 {
		t.Errorf("Exit before Done: got %+v, want the zero Exit", e)
	}
	p.Stop(patience)
	if e := p.Exit(); e.Code != 0 || !e.Stopped || e.LastLines[len(e.LastLines)-1] != "ending" {
		t.Errorf("got %+v", e)
	}
	p.Stop(0) // Stopping what has ended does nothing.
}

func TestStopKillsWhatIgnoresTerm(t *testing.T) {
	p, lines := startLines(t, "sh", "-c", "trap '' TERM; echo ready; exec sleep 1000")
	nextLine(t, lines)
	p.Stop(10 * time.Millisecond)
	if e := p.Exit(); e.Signal != syscall.SIGKILL || !e.Stopped || e.String() != "stopped with SIGKILL" {
		t.Errorf("got %+v %q", e, e)
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

func TestStopConcurrently(t *testing.T) {
	p, lines := startLines(t, "sh", "-c", "trap '' TERM; echo ready; exec sleep 1000")
	nextLine(t, lines)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { p.Stop(5 * time.Millisecond) })
	}
	wg.Wait()
	if e := p.Exit(); e.Signal != syscall.SIGKILL {
		t.Errorf("got %+v", e)
	}
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

func TestOutOfMemory(t *testing.T) {
	for _, tc := range []struct {
		name, script string
		rises, stop  bool
		fails        bool
		want         bool
	}{
		{name: "killed, counter rises", script: "kill -9 $$", rises: true, want: true},
		{name: "killed below a shell", script: "exit 137", rises: true, want: true},
		{name: "killed, counter stays", script: "kill -9 $$"},
		{name: "failed, counter rises", script: "exit 1", rises: true},
		{name: "killed by Stop", script: "trap '' TERM; echo ready; exec sleep 1000", rises: true, stop: true},
		{name: "no counter", script: "kill -9 $$", rises: true, fails: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var calls int64
			ready := make(chan struct{}, 1)
			p, err := Start(Spec{
				Args:   []string{"sh", "-c", tc.script},
				Output: func(Line) { ready <- struct{}{} },
				OOMKills: func() (int64, error) {
					if tc.fails {
						return 0, errors.New("no such file")
					}
					if tc.rises {
						calls++
					}
					return 41 + calls, nil
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			if tc.stop {
				<-ready
				p.Stop(time.Millisecond)
			}
			e := waitDone(t, p)
			if e.OutOfMemory != tc.want || (e.String() == "killed by the kernel: out of memory") != tc.want {
				t.Errorf("got %+v %q, want OutOfMemory %v", e, e, tc.want)
			}
		})
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
