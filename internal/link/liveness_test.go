package link_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"golang.org/x/sync/errgroup"
)

// A peer that says nothing, or stops in the middle of something, is noticed.
func TestSilentPeerIsNoticed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, bytes string }{
		{"from the start", ""},
		{"after a heartbeat", "\x0b\x00\x00\x00"},
		{"in a header", "\x04\x00"},
		{"in a payload", "\x05\x00\x00\x04a"},
		{"in data", "\x08\x00\x00\x04a"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			conn, raw := rawPair(t, link.Timing{Silence: 50 * time.Millisecond})
			write(t, raw, test.bytes)
			var err error
			for err == nil {
				_, err = conn.Next()
			}
			var timeout net.Error
			if !errors.As(err, &timeout) || !timeout.Timeout() || !strings.Contains(err.Error(), "nothing heard from 127.0.0.1") {
				t.Fatalf("got %v, want a timeout that names the peer", err)
			}
		})
	}
	t.Run("tls", func(t *testing.T) {
		t.Parallel()
		// The agent is alive and well; it only does not beat.
		_, rendezvous := pair(t, newConfigs(t), link.Timing{Silence: 50 * time.Millisecond})
		_, err := rendezvous.Next()
		if err == nil || !strings.Contains(err.Error(), "nothing heard") {
			t.Fatalf("got %v, want a timeout", err)
		}
	})
}

// Heartbeats alone keep a connection up. They are counted on their way, since so
// many of them cannot take less than three silence limits.
func TestHeartbeatsKeepAnIdleConnection(t *testing.T) {
	t.Parallel()
	const every, silence = 20 * time.Millisecond, 600 * time.Millisecond
	plainAndTLS(t, func(t *testing.T, c configs) {
		beats := 0
		enough := make(chan struct{})
		p := newProxy(t, func(to net.Conn, chunk []byte) error {
			if beats++; beats == 3*int(silence/every) {
				close(enough)
			}
			_, err := to.Write(chunk)
			return err
		}, c.agent == nil)
		agent, rendezvous := via(t, p.address(), p.backend, c, link.Timing{Heartbeat: every, Silence: silence})
		agent.StartHeartbeat()
		ended := make(chan error, 1)
		go func() {
			frame, err := rendezvous.Next()
			if err == nil && frame.Type != link.EOF {
				err = errors.New("got " + frame.Type.String())
			}
			ended <- err
		}()
		select {
		case <-enough:
		case err := <-ended:
			t.Fatalf("the idle connection ended: %v", err)
		case <-time.After(testkit.Patience):
			t.Fatal("no heartbeats")
		}
		if err := agent.SendEOF(); err != nil {
			t.Fatal(err)
		}
		if err := testkit.Receive(t, ended, "the frame after the heartbeats"); err != nil {
			t.Fatal(err)
		}
	})
}

// A paced connection is kept up by the answers to the Pacer's heartbeats alone: the
// agent's own are an hour apart.
func TestPacedConnection(t *testing.T) {
	t.Parallel()
	const every, silence = 20 * time.Millisecond, 600 * time.Millisecond
	plainAndTLS(t, func(t *testing.T, c configs) {
		answers := 0
		enough := make(chan struct{})
		p := newProxy(t, func(to net.Conn, chunk []byte) error {
			if answers++; answers == 3*int(silence/every) {
				close(enough)
			}
			_, err := to.Write(chunk)
			return err
		}, c.agent == nil)
		pacer := link.NewPacer(every)
		ctx, stop := context.WithCancel(context.Background())
		var running errgroup.Group
		running.Go(func() error { pacer.Run(ctx); return nil })
		defer func() { stop(); _ = running.Wait() }()
		waiting := accept(p.backend, c.rendezvous, link.Timing{Silence: silence, Pacer: pacer})
		agent, err := link.Dial(context.Background(), p.address(), c.agent, link.Timing{Heartbeat: time.Hour, Silence: testkit.Patience})
		if err != nil {
			t.Fatal(err)
		}
		defer agent.Close()
		accepted := testkit.Receive(t, waiting, "the connection")
		if accepted.err != nil {
			t.Fatal(accepted.err)
		}
		rendezvous := accepted.conn
		defer rendezvous.Close()
		agent.StartHeartbeat()
		rendezvous.Bears(time.Minute)
		rendezvous.StartHeartbeat()
		heard := make(chan error, 1)
		running.Go(func() error { _, err := agent.Next(); heard <- err; return nil })
		ended := make(chan error, 1)
		running.Go(func() error { _, err := rendezvous.Next(); ended <- err; return nil })
		select {
		case <-enough:
		case err := <-ended:
			t.Fatalf("the connection ended: %v", err)
		case <-time.After(testkit.Patience):
			t.Fatal("no answers")
		}
		if err := rendezvous.SendEOF(); err != nil {
			t.Fatal(err)
		}
		if err := testkit.Receive(t, heard, "the frame after the heartbeats"); err != nil {
			t.Fatal(err)
		}
		agent.Close()
		testkit.Receive(t, ended, "the end")
	})
}

// An agent that does not bear silence is not paced: the Pacer, which does not even
// run here, would be too slow.
func TestImpatientPeerIsNotPaced(t *testing.T) {
	t.Parallel()
	listener := testkit.Listen(t)
	waiting := accept(listener, nil, link.Timing{Heartbeat: 20 * time.Millisecond, Silence: testkit.Patience, Pacer: link.NewPacer(time.Hour)})
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	accepted := testkit.Receive(t, waiting, "the connection")
	if accepted.err != nil {
		t.Fatal(accepted.err)
	}
	defer accepted.conn.Close()
	accepted.conn.Bears(link.SilenceLimit)
	accepted.conn.StartHeartbeat()
	if err := raw.SetReadDeadline(time.Now().Add(testkit.Patience)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := io.ReadFull(raw, make([]byte, link.HeaderSize)); err != nil {
			t.Fatal(err)
		}
	}
}

// Who has dialled bears twice the silence when what it says is acknowledged, and no more.
func TestPatience(t *testing.T) {
	t.Parallel()
	const every, silence = 100 * time.Millisecond, 3 * time.Second
	listener := testkit.Listen(t)
	dial := func(timing link.Timing) (*link.Conn, net.Conn) {
		t.Helper()
		conn, err := link.Dial(context.Background(), listener.Addr().String(), nil, timing)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		raw, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { raw.Close() })
		return conn, raw
	}
	patient, raw := dial(link.Timing{Heartbeat: every, Silence: silence})
	patient.StartHeartbeat()
	heard := make(chan error, 1)
	go func() { _, err := patient.Next(); heard <- err }()
	// So many heartbeats take longer than the silence limit.
	if _, err := io.ReadFull(raw, make([]byte, link.HeaderSize*(5+int(silence/every)))); err != nil {
		t.Fatal(err)
	}
	write(t, raw, "\x09\x00\x00\x00")
	if err := testkit.Receive(t, heard, "the frame after the silence"); err != nil {
		t.Fatal(err)
	}

	impatient, _ := dial(link.Timing{Silence: 20 * time.Millisecond})
	if _, err := impatient.Next(); err == nil || !strings.Contains(err.Error(), "nothing heard") {
		t.Fatalf("got %v, want a timeout", err)
	}
}

// The handshake ends with its context, whatever the other side does not do.
func TestHandshakeIsBounded(t *testing.T) {
	t.Parallel()
	c := newConfigs(t)
	listener := testkit.Listen(t)
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	taken, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := link.Accept(ctx, taken, c.rendezvous, link.Timing{}); err == nil {
		t.Fatal("a silent stranger was accepted")
	}
	if _, err := io.Copy(io.Discard, raw); err != nil {
		t.Fatalf("the stranger's connection is not closed: %v", err)
	}
	cancel()
	if _, err := link.Dial(ctx, listener.Addr().String(), c.agent, link.Timing{}); err == nil {
		t.Fatal("dialled without time to do so")
	}
}

// What can wait is not sent to a side that does not read.
func TestTrySend(t *testing.T) {
	t.Parallel()
	conn, far := rawPair(t, link.Timing{})
	if err := far.SetReadBuffer(4 << 10); err != nil { // full soon
		t.Fatal(err)
	}
	full := make(chan error, 1)
	go func() {
		for conn.TrySend(link.Usage, link.UsageMessage{MemoryBytes: 1}) {
		}
		full <- conn.Check()
	}()
	if err := testkit.Receive(t, full, "it not to be sent"); err != nil {
		t.Errorf("the connection has ended: %v", err)
	}
}
