package pool_test

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/internal/testkit/agents"
)

func TestRejected(t *testing.T) {
	t.Parallel()
	version := hello("agent")
	version.Version = link.Version + 1
	nameless := hello("agent")
	nameless.Instance = ""
	slot := hello("agent")
	slot.Slot = 1
	for _, test := range []struct {
		name   string
		hello  link.HelloMessage
		reason string
	}{
		{"version", version, "the agent speaks protocol 2, this rendezvous 1"},
		{"no instance", nameless, "hello without the agent's name or instance"},
		{"slot out of range", slot, "hello for slot 1 of 1"},
		{"full", hello("agent"), "the pool is full: 2 workers, the limit of --max-workers"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, func(c *pool.Config) { c.MaxWorkers = 2 })
			r.park(t, "first")
			second := r.park(t, "second")
			a := r.dial(t, test.hello)
			reject, err := link.Decode[link.RejectMessage](link.Reject, a.expect(link.Reject).Payload)
			if err != nil || !strings.Contains(reject.Reason, test.reason) {
				t.Errorf("got %q, %v, want %q", reject.Reason, err, test.reason)
			}
			a.ends()
			if err := want(t, r.served, "Serve"); err == nil || !strings.Contains(err.Error(), test.reason) {
				t.Errorf("Serve returned %v", err)
			}
			r.expectCounts(t, map[pool.State]int{pool.Warm: 2})

			// Room that was made is used.
			if second.Close(); test.name == "full" {
				eventually(t, "room", func() bool { return r.count(pool.Warm) == 1 })
				r.join(t, "third")
			}
		})
	}
}

// strange is a connection that begins with something else than a Hello.
func (r *rendezvous) strange(t *testing.T, send func(*link.Conn) error) *agent {
	t.Helper()
	conn := agents.Dial(t, r.listener.Addr(), nil)
	if err := send(conn); err != nil {
		t.Fatal(err)
	}
	return &agent{t, conn}
}

func TestNoHello(t *testing.T) {
	t.Parallel()
	for name, send := range map[string]func(*link.Conn) error{
		"another frame": func(c *link.Conn) error { return c.Send(link.State, link.StateMessage{State: link.Warm}) },
		"data":          func(c *link.Conn) error { return c.SendData(dataFrame("GET /")) },
		"eof":           func(c *link.Conn) error { return c.SendEOF() },
		"nothing":       func(c *link.Conn) error { return c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, nil)
			a := r.strange(t, send)
			a.ends()
			err := want(t, r.served, "Serve")
			if err == nil || name != "nothing" && !errors.Is(err, link.ErrProtocol) {
				t.Errorf("Serve returned %v", err)
			}
			r.expectCounts(t, nil)
		})
	}
}

// What an agent must not send ends its connection, and nobody else's.
func TestViolations(t *testing.T) {
	t.Parallel()
	for name, send := range map[string]func(a *agent) error{
		"hello twice":    func(a *agent) error { return a.Send(link.Hello, hello("agent")) },
		"welcome":        func(a *agent) error { return a.Send(link.Welcome, link.WelcomeMessage{}) },
		"reject":         func(a *agent) error { return a.Send(link.Reject, link.RejectMessage{}) },
		"reserve":        func(a *agent) error { return a.SendNumber(link.Reserve, 1) },
		"release":        func(a *agent) error { return a.SendNumber(link.Release, 1) },
		"unknown state":  func(a *agent) error { return a.Send(link.State, link.StateMessage{State: "bound"}) },
		"state as text":  func(a *agent) error { return a.Send(link.State, "warm") },
		"exit as number": func(a *agent) error { return a.Send(link.Exit, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, nil)
			good := r.park(t, "good")
			bad := r.park(t, "bad")
			bad.check(send(bad))
			bad.ends()
			if err := want(t, r.served, "Serve"); err != nil {
				t.Errorf("Serve returned %v for a slot that had been introduced", err)
			}
			r.expectCounts(t, map[pool.State]int{pool.Warm: 1})
			r.hold(t, good)
		})
	}
}

// A confirmation that nobody waits for is no violation: its caller may just have gone.
func TestStrayConfirmation(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.park(t, "agent")
	a.check(a.SendNumber(link.Reserved, 12345))
	w, _ := r.bind(t, a)
	a.check(a.SendNumber(link.Reserved, 54321))
	w.End()
	a.expect(link.EOF)
}

// The end of ctx ends every connection, the introduced and the other.
func TestServeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.park(t, "agent")
	w, s := r.bind(t, a)
	stranger, err := net.Dial("tcp", r.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	r.join(t, "after the stranger, so that it has been accepted")
	r.stop()
	a.ends()
	want(t, w.Over(), "the worker to be over")
	if event := want(t, s.events, "the session's end"); !strings.HasPrefix(event, "ended: its connection was lost") {
		t.Errorf("the sink was told %q", event)
	}
	failed := 0
	for range 3 {
		if err := want(t, r.served, "Serve"); err != nil {
			failed++
		}
	}
	if failed != 1 {
		t.Errorf("Serve returned %d errors, want one: of the slot that was never introduced", failed)
	}
	r.expectCounts(t, nil)
}
