package broker_test

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/broker"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// untouched makes sure that nobody has connected to the listener.
func (r *session) untouched() {
	r.t.Helper()
	if err := r.listener.SetDeadline(time.Now()); err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.listener.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		r.t.Errorf("the listener was connected to: %v", err)
	}
}

// Not one listener of a session that starts its own workers is touched, whether it has named
// its port or not; one that another session has announced on a port of its own is served
// meanwhile.
func TestOwnWorkers(t *testing.T) {
	for name, named := range map[string]bool{"on a port": true, "on any port": false} {
		t.Run(name, func(t *testing.T) {
			s := start(t, patience)
			s.agent("a")
			listener := s.bind(0)
			announcement := broker.Announcement{Session: "own", Cluster: "1", Intent: broker.ForOwn}
			if named {
				announcement.Port = uint16(listener.port)
			}
			retract := s.announce(announcement)
			unlist := s.table.add(listener.port, uid)
			echo(t, s.listenAs(broker.Announcement{Session: "other", Intent: broker.ForWorkers}).connect(), exec)
			listener.untouched()
			unlist()
			s.eventually("the end of the listener", func() bool { return s.metric("rendezvous_foreign_listeners_total", "own_workers") == 1 })
			retract()
		})
	}
}

// A listener that nobody has announced is served after the grace; never, when it is negative;
// and not while a process is there that connects to it.
func TestUnannouncedListenerIsServedAfterTheGrace(t *testing.T) {
	var awaited atomic.Bool
	asked := make(chan uint16, 100)
	awaited.Store(true)
	s := startWith(t, func(c *broker.Config) {
		c.Grace = time.Millisecond
		c.Awaited = func(port uint16) (bool, error) {
			asked <- port
			return awaited.Load(), nil
		}
	})
	s.agent("a")
	listener := s.listen(0, uid)
	if port := <-asked; int(port) != listener.port {
		t.Errorf("asked for %d, want %d", port, listener.port)
	}
	<-asked // and again
	listener.untouched()
	if err := listener.listener.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	awaited.Store(false)
	echo(t, listener.connect(), exec)

	never := startWith(t, func(c *broker.Config) { c.Grace = -1 })
	never.agent("a")
	listener = never.listen(0, uid)
	echo(t, never.listenAs(broker.Announcement{Intent: broker.ForWorkers}).connect(), exec)
	listener.untouched()
}

// Of two sessions that say that they will listen on one port, one does; it is served as soon as
// the other has given up. One that listened before the announcement is not what was announced.
func TestOnePortTwice(t *testing.T) {
	s := start(t, patience)
	s.agent("a")
	listener := s.bind(0)
	port := uint16(listener.port)
	one := s.announce(broker.Announcement{Session: "one", Port: port, Cluster: "1", Intent: broker.ForWorkers})
	two := s.announce(broker.Announcement{Session: "two", Port: port, Cluster: "1", Intent: broker.ForOwn})
	listener.unlist = s.table.add(listener.port, uid)
	s.Hint()
	before := s.looked()
	s.eventually("more looks", func() bool { return s.looked() > before+2 })
	listener.untouched()
	if err := listener.listener.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	two()
	// It comes too late to be for what listens.
	s.announce(broker.Announcement{Session: "three", Port: port, Cluster: "1", Intent: broker.ForFutures})
	conn := listener.connect()
	echo(t, conn, exec)
	one()
	if n := s.Available(uid, "one", []uint16{port}, false); n != 1 {
		t.Errorf("the cluster is not the first session's: %d workers are available to it", n)
	}
	if n := s.Available(uid, "three", []uint16{port}, false); n != 0 {
		t.Errorf("%d workers are available to another session, want none", n)
	}
}

// The nodes of a cluster that was not announced come at once when the first one has shown that
// it wants our workers.
func TestGraceIsForTheFirstNode(t *testing.T) {
	asked := make(chan struct{}, 100)
	s := startWith(t, func(c *broker.Config) {
		c.Grace = time.Millisecond
		c.Awaited = func(uint16) (bool, error) {
			asked <- struct{}{}
			return false, nil
		}
	})
	s.agent("a")
	s.agent("b")
	first := s.listen(0, uid)
	one := first.connect()
	s.eventually("it to be connected", func() bool {
		clusters := s.Clusters()
		return len(clusters) == 1 && clusters[0].Nodes[0].State == "connected"
	})
	two := s.listen(first.port, uid).connect()
	echo(t, one, exec)
	echo(t, two, exec)
	if n := len(asked); n != 1 {
		t.Errorf("%d nodes waited for the grace, want the first", n)
	}
}

// A user's announcements are bounded, another user's are not counted.
func TestMostAnnouncements(t *testing.T) {
	s := start(t, patience)
	var err error
	n := 0
	for ; err == nil; n++ {
		_, err = s.Announce(broker.Announcement{UID: uid, Session: "s", Cluster: "1", Intent: broker.ForOwn})
	}
	if !errors.Is(err, broker.ErrAnnouncements) || n < 100 {
		t.Errorf("after %d: %v", n, err)
	}
	s.announce(broker.Announcement{UID: uid + 1, Cluster: "1", Intent: broker.ForOwn})
}

// R that stands still before it closes its listener is waited for, for as long as it takes.
// No worker stands by meanwhile, and it gets one when it goes on.
func TestStoppedBeforeItCloses(t *testing.T) {
	for _, intent := range []broker.Intent{broker.ForWorkers, broker.ForFutures} {
		t.Run(string(intent), func(t *testing.T) {
			s := start(t, patience)
			s.agent("a")
			stopped := s.listenAs(broker.Announcement{Session: "stopped", Intent: intent})
			conn := stopped.accept()
			other := s.listenAs(broker.Announcement{Session: "other", Intent: broker.ForWorkers}).connect()
			echo(t, other, exec) // the only worker
			other.Close()
			s.eventually("its return", func() bool { return s.count(pool.Warm) == 1 })
			stopped.listener.Close()
			stopped.unlist()
			echo(t, conn, exec)
		})
	}
}

// A listener that accepts and says nothing costs a connection and no worker, until it closes it.
func TestNoR(t *testing.T) {
	s := start(t, patience)
	s.agent("a")
	listener := s.listen(0, uid)
	conn := listener.accept()
	s.eventually("no worker for it", func() bool { return len(s.Clusters()) == 1 && s.count(pool.Warm) == 1 })
	conn.Close()
	s.eventually("its end", func() bool { return s.metric("rendezvous_foreign_listeners_total", "hung_up") == 1 })
}

// A node made again by a cluster that starts its own workers is left alone.
func TestNodeOfALocalCluster(t *testing.T) {
	s := start(t, patience)
	s.agent("a")
	retract, first := s.announced(broker.Announcement{Session: "own", Intent: broker.ForOwn})
	first.listener.Close()
	first.unlist()
	retract()
	again := s.listenAs(broker.Announcement{Session: "own", Port: uint16(first.port), Intent: broker.ForOwn})
	var conn net.Conn = s.listenAs(broker.Announcement{Session: "other", Intent: broker.ForWorkers}).connect()
	if _, err := io.WriteString(conn, exec); err != nil {
		t.Fatal(err)
	}
	again.untouched()
}
