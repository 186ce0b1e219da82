package psock

import (
	"fmt"
	"strings"
	"syscall"
	"time"
)

// maxReason bounds the part of an exit's description that the process wrote, in
// bytes: it goes into one log line and one Kubernetes event (1,024 bytes).
const maxReason = 500

// Exit is how a process ended.
type Exit struct {
	// Code is the exit code, -1 when a signal ended the process.
	Code int
	// Signal is the signal that ended the process, 0 for none.
	Signal syscall.Signal
	// OutOfMemory says that the kernel killed it for lack of memory: it got a
	// SIGKILL that Stop did not send, and its control group counted such a
	// kill since it was started. When several processes share the group, a
	// SIGKILL from elsewhere is taken for one if another process was out of
	// memory in the meantime.
	OutOfMemory bool
	// Stopped says that Stop or Interrupt was called while it ran.
	Stopped bool
	// LastLines are the last lines it wrote, at most 10, without empty ones,
	// each cut to 512 bytes.
	LastLines []string
	// Uptime is how long it ran.
	Uptime time.Duration
}

// String describes the exit in one line, with the last error that the process
// reported if it failed by itself.
func (e Exit) String() string {
	switch {
	case e.OutOfMemory:
		return "killed by the kernel: out of memory"
	case e.Signal != 0 && e.Stopped:
		return "stopped with " + signalName(e.Signal)
	case e.Signal != 0:
		return withReason("killed by "+signalName(e.Signal), e.crashReason())
	case e.Code != 0:
		return withReason(fmt.Sprintf("exit status %d", e.Code), e.reason())
	}
	return "exit status 0"
}

// sigkilled reports whether a SIGKILL ended the process, or the child of the
// shell script that it may be: a shell then exits with 128+9.
func (e Exit) sigkilled() bool {
	return e.Signal == syscall.SIGKILL || e.Code == 128+int(syscall.SIGKILL)
}

// reason returns the last error that R reported, or else the last line.
func (e Exit) reason() string {
	for i := len(e.LastLines) - 1; i >= 0; i-- {
		line := e.LastLines[i]
		if !strings.HasPrefix(line, "Error") && !strings.HasPrefix(line, "Fatal error") {
			continue
		}
		// R breaks a long message after the call and indents the rest.
		for _, next := range e.LastLines[i+1:] {
			if !strings.HasPrefix(next, " ") {
				break
			}
			line = strings.TrimRight(line, " ") + " " + strings.TrimSpace(next)
		}
		return line
	}
	if n := len(e.LastLines); n > 0 {
		return strings.TrimSpace(e.LastLines[n-1])
	}
	return ""
}

// crashReason returns R's own announcement of a crash, such as
// " *** caught segfault ***", "" if there is none: a process that a signal ended
// from outside wrote nothing about it, and its last line would mislead.
func (e Exit) crashReason() string {
	for _, line := range e.LastLines {
		if strings.HasPrefix(line, " *** caught") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

func withReason(what, reason string) string {
	if reason == "" {
		return what
	}
	if cut := cutRunes(reason, maxReason); cut != reason {
		reason = cut + "..."
	}
	return what + ": " + reason
}
