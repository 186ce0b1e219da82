package psock

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"
)

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
// how it ended. On Linux the goroutine keeps its OS thread for all that time,
// because the process has the parent-death signal SIGKILL, and the kernel sends
// that when the *thread* ends which started the process. So the process outlives
// neither a program that is killed with SIGKILL, nor is it ended by the Go
// runtime giving up a thread. (An idle R notices the loss of its master by
// itself, one in the middle of a computation does not.)
//
// Only the process itself has the parent-death signal, its children do not; and
// a child that made a process group of its own, as daemons do, is beyond the
// reach of Stop: Spec.Ended may find and end it. In a container both end with
// PID 1.
//
// macOS has no parent-death signal: there, a process that computes outlives a
// program that is killed. On other systems [Start] fails.
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
// cannot be executed, naming it, and with [errors.ErrUnsupported] on systems other
// than Linux and macOS.
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
