package psock

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// attributes put a process in a group of its own, and end it with the thread that
// starts it.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
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
