package testkit

import (
	"net"
	"sync"
	"testing"
)

// Listen listens on a port of loopback that the kernel chooses, until the test ends.
func Listen(t testing.TB) *net.TCPListener {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

// Pair is the two ends of a TCP connection on loopback. near has dialled; both are closed when
// the test ends.
func Pair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	listener := Listen(t)
	defer listener.Close()
	near, err := net.DialTCP("tcp", nil, listener.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	if far, err = listener.AcceptTCP(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	return near, far
}

// Accept gives each connection of listener to handle, in a goroutine of its own. stop closes the
// listener and waits for them all.
func Accept(listener net.Listener, handle func(net.Conn)) (stop func()) {
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { handle(conn) })
		}
	})
	return func() { listener.Close(); running.Wait() }
}
