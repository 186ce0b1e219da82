package broker_test

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/broker"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// Sessions of other users are never connected to.
func TestOtherUsers(t *testing.T) {
	s := start(t, patience)
	s.agent("a")
	other := s.listen(0, uid+1)
	echo(t, s.listen(0, uid).connect(), exec)
	if err := other.listener.SetDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := other.listener.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("another user's listener was connected to: %v", err)
	}
}

// What is no session that wants a worker is told from one, and costs no worker.
func TestForeignListeners(t *testing.T) {
	s := start(t, patience)
	s.agent("a")
	for reason, behave := range map[string]func(*net.TCPConn){
		"own_workers": func(conn *net.TCPConn) { _, _ = io.WriteString(conn, exec) },
		"hung_up":     func(conn *net.TCPConn) { conn.Close() },
	} {
		listener := s.listen(0, uid)
		behave(listener.accept())
		s.eventually(reason, func() bool { return s.metric("rendezvous_foreign_listeners_total", reason) == 1 })
		s.eventually("the worker's return", func() bool { return s.count(pool.Warm) == 1 })
		listener.unlist()
	}
	if n := s.metric("rendezvous_binds_total"); n != 0 {
		t.Errorf("%g binds, want none", n)
	}
}

// A cluster that starts its own workers is not answered, although there is no worker.
func TestForeignListenersWithoutAWorker(t *testing.T) {
	s := start(t, short)
	listener := s.listen(0, uid)
	conn := listener.accept()
	if _, err := io.WriteString(conn, exec); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, conn); n != 0 {
		t.Errorf("answered with %d bytes (%v)", n, err)
	}
	s.eventually("the reason", func() bool { return s.metric("rendezvous_foreign_listeners_total", "own_workers") == 1 })
	if n := s.metric("rendezvous_unmet_demand_total"); n != 0 {
		t.Errorf("unmet demand is %g, want none", n)
	}
}

// The port changes hands between the look and the connection: the other user gets
// nothing.
func TestPortThatChangesHands(t *testing.T) {
	s := startWith(t, func(c *broker.Config) {
		c.PeerUID = func(local, remote net.Addr) (uint32, error) { return uid + 1, nil }
	})
	s.agent("a")
	conn := s.listen(0, uid).connect()
	if _, err := io.WriteString(conn, exec); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, conn); n != 0 {
		t.Errorf("answered with %d bytes (%v)", n, err)
	}
	s.eventually("the refusal", func() bool { return s.metric("rendezvous_foreign_listeners_total", "other_user") == 1 })
	s.eventually("the worker's return", func() bool { return s.count(pool.Warm) == 1 })
}
