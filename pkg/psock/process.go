package psock

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// drainTimeout bounds the wait for output after the process has ended. What it
// wrote is in the pipe already (64 KB on Linux) and is read in microseconds;
// the wait is only ever used up when something outside the process group, such
// as a daemon that called setsid(2) and that Spec.Ended has not ended, still
// holds the pipe open.
const drainTimeout = time.Second

// Spec says what [Start] runs.
type Spec struct {
	// Args is the command line; Args[0] is a path or a name to look up in
	// PATH. No shell is involved.
	Args []string
	// Env is the whole environment, "NAME=value" each. nil inherits.
	Env []string
	// Dir is the working directory. "" inherits.
	Dir string
	// Output is called once per line that the process group writes to stdout
	// or stderr, never concurrently. The order within each stream is kept, the
	// order between the two is not known. A slow Output slows the process, and
	// one that never returns keeps the process from being Done. nil discards.
	Output func(Line)
	// OOMKills returns how many processes the kernel has killed for lack of
	// memory in the control group of the process, ever. It is called before
	// the start, and again when the process was killed by somebody else. nil,
	// or an error: Exit.OutOfMemory stays false.
	OOMKills func() (int64, error)
	// Ended is called once when the process and its group have ended, before the
	// rest of its output is read: whoever ends the daemons that it has left ends
	// those that hold the output open. The process is Done after Ended returns.
	// nil does nothing.
	Ended func()
}

// Process is a running process, the leader of a process group of its own.
//
// One goroutine owns it: that goroutine starts it, waits for it, kills what it
// left behind in its group, waits until its output is read, and then publishes
// how it ended. The goroutine keeps its OS thread for all that time, because
// the process has the parent-death signal SIGKILL, and the kernel sends that
// when the *thread* ends which started the process. So the process outlives
// neither a program that is killed with SIGKILL, nor is it ended by the Go
// runtime giving up a thread. (An idle R notices the loss of its master by
// itself, one in the middle of a computation does not.)
//
// Only the process itself has the parent-death signal, its children do not; and
// a child that made a process group of its own, as daemons do, is beyond the
// reach of Stop: Spec.Ended may find and end it. In a container both end with
// PID 1.
type Process struct {
	pid     int
	started time.Time
	done    chan struct{}
	exit    Exit // written by the owner before done is closed
	output  *output

	mu     sync.Mutex
	reaped bool                    // the process id may be somebody else's from here on
	sent   map[syscall.Signal]bool // what Interrupt and Stop have sent
}

// Start starts a process and returns once it runs. It fails when the program
// cannot be executed, naming it.
func Start(spec Spec) (*Process, error) {
	if len(spec.Args) == 0 {
		return nil, errors.New("start process: no command line given")
	}
	p := &Process{done: make(chan struct{}), output: &output{emit: spec.Output}, sent: make(map[syscall.Signal]bool)}
	started := make(chan error, 1)
	go p.own(spec, started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start process %q: %w", spec.Args[0], err)
	}
	return p, nil
}

// PID returns the process id, which is the id of the process group as well.
func (p *Process) PID() int { return p.pid }

// Done returns a channel that is closed when the process has ended and has been
// waited for, its group has been killed, and its output has been passed on.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit returns how the process ended. It is valid after Done; before, it is the
// zero Exit.
func (p *Process) Exit() Exit {
	select {
	case <-p.done:
		return p.exit
	default:
		return Exit{}
	}
}

// Interrupt sends SIGINT to the process and everything in its group, once, as a
// terminal does for Ctrl-C. An R that computes gives up what it is doing and runs
// its on.exit() and finally code; R code may catch the interrupt and go on. A
// program that does not handle it ends. Interrupt does not wait, and does nothing
// after Stop.
func (p *Process) Interrupt() { p.signalGroup(syscall.SIGINT) }

// Stop ends the process and everything in its group: SIGTERM, up to grace for
// the process to end, then SIGKILL. When the process itself ends, what is left
// of its group is killed at once. Stop returns when the process is Done. It may
// be called at any time, more than once, and concurrently; the shortest grace
// wins.
func (p *Process) Stop(grace time.Duration) {
	p.signalGroup(syscall.SIGTERM)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return
	case <-timer.C:
	}
	p.signalGroup(syscall.SIGKILL)
	<-p.done
}

// signalGroup sends a signal to the group: SIGINT at most once and not after
// another, SIGTERM at most once, SIGKILL whenever Stop asks for it.
func (p *Process) signalGroup(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.reaped,
		sig == syscall.SIGINT && len(p.sent) > 0,
		sig == syscall.SIGTERM && p.sent[sig]:
		return
	}
	p.sent[sig] = true
	// ESRCH cannot happen before the leader is reaped, and a group that may
	// not be signalled (EPERM, it changed its user) has nobody to tell.
	_ = syscall.Kill(-p.pid, sig)
}

// own is the goroutine that owns the process, see [Process].
func (p *Process) own(spec Spec, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	oomBefore, oomErr := oomKills(spec)
	cmd, drain, err := p.start(spec)
	started <- err
	if err != nil {
		return
	}
	waitUnreaped(p.pid)
	state := p.reap(cmd)
	uptime := time.Since(p.started)
	if spec.Ended != nil {
		spec.Ended()
	}
	drain()

	p.mu.Lock()
	p.exit = Exit{Stopped: len(p.sent) > 0, Uptime: uptime, LastLines: p.output.lastLines()}
	killed := p.sent[syscall.SIGKILL]
	p.mu.Unlock()
	if state.Signaled() {
		p.exit.Code, p.exit.Signal = -1, state.Signal()
	} else {
		p.exit.Code = state.ExitStatus()
	}
	if !killed && p.exit.sigkilled() && oomErr == nil {
		after, err := oomKills(spec)
		p.exit.OutOfMemory = err == nil && after > oomBefore
	}
	close(p.done)
}

// start starts the process with its output in two pipes, and returns a function
// that waits until these are read. The pipes are the package's own rather than
// those of exec.Cmd: its Wait goes on until the last holder of a pipe has closed
// it, and a background child of R's system("... &") may hold one for hours.
func (p *Process) start(spec Spec) (cmd *exec.Cmd, drain func(), err error) {
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("pipe for its output: %w", err)
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("pipe for its output: %w", err), outR.Close(), outW.Close())
	}
	cmd = exec.Command(spec.Args[0], spec.Args[1:]...)
	cmd.Env, cmd.Dir = spec.Env, spec.Dir
	cmd.Stdout, cmd.Stderr = outW, errW
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.started = time.Now()
	err = cmd.Start()
	closeErr := errors.Join(outW.Close(), errW.Close())
	if err != nil {
		return nil, nil, errors.Join(err, closeErr, outR.Close(), errR.Close())
	}
	p.pid = cmd.Process.Pid

	var readers sync.WaitGroup
	readers.Go(func() { p.output.read(outR, false) })
	readers.Go(func() { p.output.read(errR, true) })
	return cmd, func() {
		deadline := time.Now().Add(drainTimeout)
		// Both are pipes, which always take a deadline, and read ends, whose
		// Close has nothing to lose.
		_ = outR.SetReadDeadline(deadline)
		_ = errR.SetReadDeadline(deadline)
		readers.Wait()
		_ = outR.Close()
		_ = errR.Close()
	}, nil
}

// waitUnreaped returns when the process has ended, and leaves it a zombie: as
// long as it is one, its id is no other process's nor group's, so that its group
// can be signalled without a doubt about who is in it.
func waitUnreaped(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return // nil, or ECHILD: somebody else has waited for it
		}
	}
}

// reap kills what the process left behind in its group, and takes its status.
func (p *Process) reap(cmd *exec.Cmd) syscall.WaitStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = syscall.Kill(-p.pid, syscall.SIGKILL) // see signalGroup
	// An error here is a status other than 0, or that there is no such child
	// (a program that also waits for "any child" took it): the state is nil
	// then, and what ended the process is unknown.
	_ = cmd.Wait()
	p.reaped = true
	if cmd.ProcessState == nil {
		return syscall.WaitStatus(unknownStatus << 8)
	}
	return cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// unknownStatus is the exit code of a process whose status was lost.
const unknownStatus = 255

func oomKills(spec Spec) (int64, error) {
	if spec.OOMKills == nil {
		return 0, errors.ErrUnsupported
	}
	return spec.OOMKills()
}
