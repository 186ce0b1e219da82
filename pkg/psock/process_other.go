//go:build !linux && !darwin

package psock

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
)

// own refuses: without process groups, nothing here could end what a process has
// started.
func (p *Process) own(_ Spec, started chan<- error) {
	started <- fmt.Errorf("only on Linux and macOS, this is %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func (p *Process) signalGroup(syscall.Signal) {}

func signalName(sig syscall.Signal) string { return sig.String() }
