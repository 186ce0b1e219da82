// Package pid1 does the duties of process 1 in a container, so that the program
// itself does not have to.
//
// Process 1 inherits every process whose parent has ended, and must wait for
// it, or it stays a zombie. A program that starts processes of its own cannot
// do both: a loop around wait4(-1) takes the exit statuses away from os/exec
// (measured: 159 of 500 were lost). So as process 1 the program starts itself
// once more as its child, and becomes a parent that does nothing but forward
// signals and wait.
//
// Call [Run] first thing in main, before anything is set up that costs memory:
//
//	func main() {
//		if code, ended := pid1.Run(); ended {
//			os.Exit(code)
//		}
//		...
//	}
package pid1

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

// The end of the container, once the child has ended: processes that are left
// get SIGTERM and termWait to end, then SIGKILL. Both waits are short, because
// the child has used the time of the pod's grace period (30 s by default) that
// was worth spending; and the second is only to collect the processes, since
// the kernel kills what is left when process 1 exits.
const (
	termWait = 2 * time.Second
	killWait = time.Second
)

// cannotStart is the exit code when the program cannot start itself: 126, a
// shell's for a program that is there and does not run.
const cannotStart = 126

// ownedEnv tells the child of process 1 that it is that, see [Owned].
const ownedEnv = "PSOCK_CHILD_OF_PID1"

// owned is what Owned returns.
var owned bool

// Owned reports whether Run has started this process as the child of process 1.
// Then every process of the container that has lost its parent becomes a child of
// process 1, and none of them is process 1's own. A program that "docker exec"
// or the like starts in the container is not owned, nor is one in a pod that
// shares its process namespace.
func Owned() bool { return owned }

// Run returns at once, with ended == false, in any process but process 1. In
// process 1 it starts this program again with the same arguments, environment,
// working directory and files, forwards every signal to it, and waits for every
// process that comes its way, until that child ends. Then it ends all other
// processes of the container and returns the code to exit with: the child's,
// 128 plus the signal's number if a signal ended it, or 126 when it could not
// be started (which is written to stderr).
//
// In a pod that shares its process namespace process 1 is the pod's own, which
// does all of this, and Run does nothing.
func Run() (code int, ended bool) {
	if os.Getpid() != 1 {
		owned = os.Getenv(ownedEnv) != "" && os.Getppid() == 1
		// Not for this program's children, which may run it again.
		_ = os.Unsetenv(ownedEnv)
		return 0, false
	}
	code, err := parent()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code, true
}

// parent is what process 1 does. It allocates next to nothing, and so costs
// 1.5 MB of memory of its own. Giving memory back with debug.FreeOSMemory, or a
// lower GC percentage, costs 0.5 MB more, as either first runs a collection.
func parent() (int, error) {
	// The parent-death signal below is bound to the thread which starts the child.
	runtime.LockOSThread()
	// Before the child starts, so that no signal is missed. The first channel
	// has room for one: however many children have ended, one look suffices.
	// The second has room for each signal there is.
	childEnded := make(chan os.Signal, 1)
	signal.Notify(childEnded, syscall.SIGCHLD)
	forward := make(chan os.Signal, 64)
	signal.Notify(forward, forwarded()...)

	child, err := startSelf()
	if err != nil {
		return cannotStart, fmt.Errorf("start %s as a child of process 1: %w", os.Args[0], err)
	}
	// All in one goroutine: a process id is never signalled after it has been
	// waited for, when it may be another process's.
	for {
		select {
		case sig := <-forward:
			// The only error is ESRCH, for a child that has just ended.
			_ = syscall.Kill(child, sig.(syscall.Signal))
		case <-childEnded:
			status, ended, _ := reap(child)
			if !ended {
				continue
			}
			endOthers(childEnded)
			return exitCode(status), nil
		}
	}
}

// forwarded returns the signals to forward: all that can be caught but SIGCHLD,
// which is about this process's own children, SIGURG, which the Go runtime
// sends to itself all the time, and the ones that os/signal does not deliver:
// SIGPROF, and 32 to 34, which belong to C libraries.
func forwarded() []os.Signal {
	var sigs []os.Signal
	for s := syscall.Signal(1); s <= 64; s++ {
		switch s {
		case syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPROF, 32, 33, 34:
		default:
			sigs = append(sigs, s)
		}
	}
	return sigs
}

// startSelf starts this program again and returns its process id. It does not
// use os.StartProcess, which keeps a handle that nobody would ever wait on.
func startSelf() (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	return syscall.ForkExec(self, os.Args, &syscall.ProcAttr{
		Env:   append(os.Environ(), ownedEnv+"=1"),
		Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{
			// A group of its own: with a terminal (docker run -it) a Ctrl-C
			// would otherwise reach the child twice, from the terminal and
			// forwarded, and a second one means "at once" to many programs.
			Setpgid: true,
			// The kernel ends a whole process namespace with its process 1;
			// this is for a process 1 of which that is not true.
			Pdeathsig: syscall.SIGKILL,
		},
	})
}

// reap waits for every child that has ended, without blocking. It returns the
// status of the one process with the id main, if it was among them, and whether
// any children are left.
func reap(main int) (mainStatus syscall.WaitStatus, mainEnded, left bool) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil: // ECHILD
			return mainStatus, mainEnded, false
		case pid == 0:
			return mainStatus, mainEnded, true
		case pid == main:
			mainStatus, mainEnded = status, true
		}
	}
}

// endOthers ends all processes but this one, and waits for them.
func endOthers(childEnded <-chan os.Signal) {
	for _, step := range []struct {
		sig  syscall.Signal
		wait time.Duration
	}{{syscall.SIGTERM, termWait}, {syscall.SIGKILL, killWait}} {
		// -1 is every process but process 1 itself; ESRCH: there is none.
		_ = syscall.Kill(-1, step.sig)
		timeout := time.After(step.wait)
		for waiting := true; waiting; {
			if _, _, left := reap(0); !left {
				return
			}
			select {
			case <-childEnded:
			case <-timeout:
				waiting = false
			}
		}
	}
}

func exitCode(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}
