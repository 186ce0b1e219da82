package testkit

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Port returns a TCP port on which nothing listens, and which nobody is given who asks the
// kernel for a free one, until the test ends. A program that sets SO_REUSEADDR, as R and Go
// do, can listen there. A port that is merely free can be another program's a moment later:
// then a test talks to a stranger.
func Port(t testing.TB) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{}); err != nil {
		t.Fatal(err)
	}
	address, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return address.(*unix.SockaddrInet4).Port
}
