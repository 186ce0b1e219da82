//go:build linux || darwin

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
	cmd.SysProcAttr = attributes()
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

// signalName is the name that the signal has in C and in shells.
func signalName(sig syscall.Signal) string { return unix.SignalName(sig) }
