package broker_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/broker"
	"github.com/psock-runtime/psock-runtime/internal/facts"
	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// computer is a worker whose calls last until they are answered.
type computer struct {
	*link.Conn
	calls chan string
}

// computer parks one, which may be somebody's at once.
func (s *system) computer(name string) *computer {
	s.t.Helper()
	c := &computer{calls: make(chan string, 10)}
	c.Conn = s.park(name, "", func(_ *link.Conn, p []byte) error {
		c.calls <- string(p)
		return nil
	})
	return c
}

// called is the call that the worker has got.
func (c *computer) called(t *testing.T) string {
	t.Helper()
	select {
	case call := <-c.calls:
		return call
	case <-time.After(patience):
		t.Fatal("waited in vain for a call")
		return ""
	}
}

// answer ends the call, with an error that R may have met in it.
func (c *computer) answer(t *testing.T, text string) {
	t.Helper()
	if err := c.SendData(psock.AppendError(make([]byte, link.HeaderSize), text, false)); err != nil {
		t.Fatal(err)
	}
}

// plan connects the nodes of a plan.
func (s *system) plan(nodes int) []net.Conn {
	s.t.Helper()
	conns := make([]net.Conn, nodes)
	port := uint16(0)
	s.plans++
	for i := range conns {
		listener := s.listenAs(broker.Announcement{Port: port, Cluster: fmt.Sprint(s.plans), Intent: broker.ForFutures})
		port = uint16(listener.port)
		conns[i] = listener.connect()
	}
	return conns
}

// The calls that a plan makes: it asks each new node who it is, and begins a future by
// erasing what the last one left.
var introduction, future = asking(0), execOf(facts.ResetText)

// asking is the i-th way to ask a node who it is: what one node was told another need not
// ask.
func asking(i int) string {
	for _, f := range facts.All {
		if f.Call == facts.Introduction {
			return execOf(string(append(bytes.Join(f.Words, nil), byte(i))))
		}
	}
	panic("nothing tells an introduction")
}

// execOf is exec with something to do.
func execOf(what string) string {
	return exec[:len(exec)-4] + string(binary.LittleEndian.AppendUint32(nil, uint32(len(what)))) + what
}

func call(t *testing.T, conn net.Conn, what string) {
	t.Helper()
	if _, err := io.WriteString(conn, what); err != nil {
		t.Fatal(err)
	}
}

// read reads the answer to a call.
func read(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	if answer := readMessage(t, conn); !strings.Contains(answer, want) {
		t.Errorf("the answer is %q, want %q", answer, want)
	}
}

// outlast returns when that has run out so many times, of nodes elsewhere that wait in vain.
func outlast(t *testing.T, times int) {
	t.Helper()
	for range times {
		conn := start(t, short).plan(1)[0]
		call(t, conn, introduction)
		read(t, conn, "0 of 0 workers are ready; a call waited ")
	}
}

// A node waits for as long as the worker that it is to have is in use, however short the
// demand timeout.
func TestNodeWaitsForAWorkerInUse(t *testing.T) {
	s := start(t, short)
	a := s.computer("a")
	s.eventually("it to be warm", func() bool { return s.count(pool.Warm) == 1 })
	conns := s.plan(2)
	call(t, conns[0], asking(0))
	a.called(t)
	call(t, conns[1], asking(1))
	s.eventually("the other node to wait", func() bool { _, n := s.pool.Counts(); return n == 1 })
	outlast(t, 3)
	if _, n := s.pool.Counts(); n != 1 {
		t.Error("it waits no longer")
	}
	for i, conn := range conns {
		if i > 0 {
			a.called(t)
		}
		a.answer(t, "done")
		read(t, conn, "done")
	}
}

// Nodes that take turns have no more workers together than their session may have.
func TestTurnsOfACappedSession(t *testing.T) {
	s := startWith(t, func(c *broker.Config) { c.DemandTimeout, c.SessionWorkers = short, 1 })
	a, b := s.computer("a"), s.computer("b")
	s.eventually("both to be warm", func() bool { return s.count(pool.Warm) == 2 })
	conns := s.plan(2)
	for i, conn := range conns {
		call(t, conn, asking(i))
	}
	for i := range conns {
		var c *computer
		select {
		case <-a.calls:
			c = a
		case <-b.calls:
			c = b
		case <-time.After(patience):
			t.Fatal("waited in vain for a call")
		}
		outlast(t, 2)
		if n := s.count(pool.Bound); n != 1 {
			t.Errorf("call %d: %d workers are in use, want 1", i, n)
		}
		c.answer(t, "done")
	}
	for _, conn := range conns {
		read(t, conn, "done")
	}
}

// Where nobody uses a worker that could be the node's, its call is an R error, and so are
// those of the cluster's other nodes, until there is one.
func TestTurnsInVain(t *testing.T) {
	s := start(t, short)
	conns := s.plan(3)
	call(t, conns[0], introduction)
	read(t, conns[0], "0 of 0 workers are ready; a call waited ")
	call(t, conns[1], introduction)
	read(t, conns[1], "no worker agent is connected")
	if n := s.metric("rendezvous_unmet_demand_total"); n != 1 {
		t.Errorf("unmet demand is %g, want 1: the second one waited", n)
	}
	a := s.computer("a")
	s.eventually("it to be warm", func() bool { return s.count(pool.Warm) == 1 })
	call(t, conns[2], introduction)
	a.called(t)
	a.answer(t, "done")
	read(t, conns[2], "done")
}

// A node does not wait for a worker that another node of its cluster keeps for good, in use though
// it is: it would wait for ever, and R with it.
func TestTurnsOnWorkersWithState(t *testing.T) {
	s := start(t, short)
	a := s.computer("a")
	s.eventually("it to be warm", func() bool { return s.count(pool.Warm) == 1 })
	conns := s.plan(2)
	call(t, conns[0], execOf("options(k = 42)"))
	a.called(t)
	call(t, conns[1], introduction)
	read(t, conns[1], "(1 in use by this cluster, 0 by others); 1 of them stay with nodes on which calls that are no futures")
	a.answer(t, "done")
	read(t, conns[0], "done")
}

// starting starts workers for as long as it is told to.
type starting struct {
	scaling
	under atomic.Bool
}

func (s *starting) Starting(string) (bool, string) { return s.under.Load(), "1 of 6 pods run" }

// A node waits while workers are being started.
func TestTurnsOfWorkersThatStart(t *testing.T) {
	scaler := &starting{}
	scaler.under.Store(true)
	s := startWith(t, func(c *broker.Config) { c.DemandTimeout, c.Scaling = short, scaler })
	if text := s.PlanOutlook(); text != "1 of 6 pods run" {
		t.Errorf("the outlook of a plan is %q", text)
	}
	conn := s.plan(1)[0]
	call(t, conn, introduction)
	s.eventually("it to wait", func() bool { _, n := s.pool.Counts(); return n == 1 })
	outlast(t, 3)
	if _, n := s.pool.Counts(); n != 1 {
		t.Error("it waits no longer")
	}
	scaler.under.Store(false)
	read(t, conn, "scaling: 1 of 6 pods run")
}

// A session that has lost its worker in a call has the next one before others, and does
// not wait for what others use.
func TestTurnsOfWhoHasLost(t *testing.T) {
	s := start(t, 4*short)
	a := s.computer("a")
	lost := s.plan(1)[0]
	call(t, lost, future)
	a.called(t)
	b := s.computer("b")
	other := s.plan(2)
	call(t, other[0], introduction)
	b.called(t)
	call(t, other[1], introduction)
	s.eventually("the other's second node to wait", func() bool { _, n := s.pool.Counts(); return n == 1 })
	a.Close()
	s.eventually("it to wait as well", func() bool { _, n := s.pool.Counts(); return n == 2 })
	c := s.computer("c")
	if got := c.called(t); got != future {
		t.Errorf("the next worker was sent %q", got)
	}
	c.Close()
	read(t, lost, "(0 in use by this cluster, 1 by others)")
	if _, n := s.pool.Counts(); n != 1 {
		t.Errorf("%d nodes wait, want the other's second one", n)
	}
}

// A session that goes while it waits waits no longer.
func TestTurnsOfWhoGoes(t *testing.T) {
	s := start(t, patience)
	conn := s.plan(1)[0]
	call(t, conn, introduction)
	s.eventually("it to wait", func() bool { _, n := s.pool.Counts(); return n == 1 })
	conn.Close()
	s.eventually("its end", func() bool { _, n := s.pool.Counts(); return n == 0 && len(s.Clusters()) == 0 })
	if n := s.metric("rendezvous_unmet_demand_total"); n != 0 {
		t.Errorf("unmet demand is %g, want none", n)
	}
}
