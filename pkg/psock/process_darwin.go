package psock

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// attributes put a process in a group of its own.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

// waitRetry is the pause after an attempt to wait that failed for lack of file
// descriptors: short beside the seconds that R takes to start again.
const waitRetry = 100 * time.Millisecond

// waitUnreaped returns when the process has ended, and leaves it a zombie, so that
// its group can be signalled, as on Linux. It does so with kqueue(2): the waitid(2)
// of macOS returns for a process that is only stopped (Go issue 19314).
func waitUnreaped(pid int) {
	for waitExit(pid) != nil {
		time.Sleep(waitRetry)
	}
}

// waitExit returns nil when the process has ended.
func waitExit(pid int) error {
	queue, err := unix.Kqueue()
	if err != nil {
		return fmt.Errorf("kqueue: %w", err)
	}
	defer unix.Close(queue)
	changes, events := make([]unix.Kevent_t, 1), make([]unix.Kevent_t, 1)
	unix.SetKevent(&changes[0], pid, unix.EVFILT_PROC, unix.EV_ADD|unix.EV_ONESHOT)
	changes[0].Fflags = unix.NOTE_EXIT
	for {
		n, err := unix.Kevent(queue, changes, events, nil)
		if n > 0 && events[0].Flags&unix.EV_ERROR != 0 {
			err = syscall.Errno(events[0].Data)
		}
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ESRCH):
			return nil // it has ended before
		case err != nil:
			return fmt.Errorf("kevent: %w", err)
		case n > 0:
			return nil
		}
	}
}
