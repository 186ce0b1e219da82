package link_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
)

// proxy stands between an agent and a rendezvous and passes on the agent's bytes
// as pass sees fit: a whole TLS record, or the frames of one read without TLS. The
// other direction is copied. An error of pass closes both connections.
type proxy struct {
	front, backend net.Listener
	pass           func(to net.Conn, chunk []byte) error
	plain          bool
}

func newProxy(t *testing.T, pass func(to net.Conn, chunk []byte) error, plain bool) *proxy {
	t.Helper()
	p := &proxy{front: testkit.Listen(t), backend: testkit.Listen(t), pass: pass, plain: plain}
	var running sync.WaitGroup
	running.Go(p.run)
	t.Cleanup(func() { p.front.Close(); running.Wait() })
	return p
}

func (p *proxy) address() string { return p.front.Addr().String() }

func (p *proxy) run() {
	agent, err := p.front.Accept()
	if err != nil {
		return
	}
	rendezvous, err := net.Dial("tcp", p.backend.Addr().String())
	if err != nil {
		agent.Close()
		return
	}
	var back sync.WaitGroup
	back.Go(func() { _, _ = io.Copy(agent, rendezvous) })
	for err == nil {
		var chunk []byte
		if chunk, err = p.read(agent); err == nil {
			err = p.pass(rendezvous, chunk)
		}
	}
	agent.Close()
	rendezvous.Close()
	back.Wait()
}

// read reads one frame, or one TLS record: both have their length in their header.
func (p *proxy) read(from io.Reader) ([]byte, error) {
	size, length := 5, func(h []byte) int { return int(h[3])<<8 | int(h[4]) }
	if p.plain {
		size, length = link.HeaderSize, func(h []byte) int { return int(h[1])<<16 | int(h[2])<<8 | int(h[3]) }
	}
	chunk := make([]byte, size)
	if _, err := io.ReadFull(from, chunk); err != nil {
		return nil, err
	}
	body := make([]byte, length(chunk))
	_, err := io.ReadFull(from, body)
	return append(chunk, body...), err
}

// Bytes that come one by one make the same frames.
func TestSingleBytes(t *testing.T) {
	t.Parallel()
	plainAndTLS(t, func(t *testing.T, c configs) {
		p := newProxy(t, func(to net.Conn, chunk []byte) error {
			for i := range chunk {
				if _, err := to.Write(chunk[i : i+1]); err != nil {
					return err
				}
			}
			return nil
		}, c.agent == nil)
		agent, rendezvous := via(t, p.address(), p.backend, c, link.Timing{})
		const size = 20 << 10
		sent := make(chan error, 1)
		go func() {
			err := agent.SendNumber(link.Reserved, 7)
			if err == nil {
				err = agent.SendData(dataFrame(size, 3))
			}
			if err == nil {
				err = agent.SendEOF()
			}
			sent <- err
		}()
		if got := mustNext(t, rendezvous, link.Reserved).Number(); got != 7 {
			t.Fatalf("got number %d, want 7", got)
		}
		got, err := take(rendezvous, size)
		if err != nil || string(got) != string(dataFrame(size, 3)[link.HeaderSize:]) {
			t.Fatalf("%d bytes came as %d others: %v", size, len(got), err)
		}
		mustNext(t, rendezvous, link.EOF)
		if err := testkit.Receive(t, sent, "the frames to leave"); err != nil {
			t.Fatal(err)
		}
	})
}

var errCut = errors.New("cut")

// A TLS connection that is cut says where: a peer that went between two records
// may have ended, one that went within one has been lost.
func TestCutRecords(t *testing.T) {
	t.Parallel()
	c := newConfigs(t)
	for _, test := range []struct {
		at   int64 // bytes of the record that arrive
		want error
	}{
		{0, io.EOF}, {1, io.ErrUnexpectedEOF}, {4, io.ErrUnexpectedEOF}, {5, io.ErrUnexpectedEOF}, {6, io.ErrUnexpectedEOF}, {20, io.ErrUnexpectedEOF},
	} {
		t.Run(fmt.Sprintf("after %d bytes", test.at), func(t *testing.T) {
			t.Parallel()
			var cutting atomic.Bool
			p := newProxy(t, func(to net.Conn, chunk []byte) error {
				cut := cutting.Load()
				if cut {
					chunk = chunk[:test.at]
				}
				if _, err := to.Write(chunk); err != nil || !cut {
					return err
				}
				return errCut
			}, false)
			agent, rendezvous := via(t, p.address(), p.backend, c, link.Timing{})
			if err := agent.SendEOF(); err != nil {
				t.Fatal(err)
			}
			mustNext(t, rendezvous, link.EOF)
			cutting.Store(true)
			if err := agent.SendNumber(link.Reserved, 1); err != nil {
				t.Fatal(err)
			}
			if _, err := rendezvous.Next(); !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
		})
	}
}

// Strangers at a port that wants TLS.
func TestStrangersAtATLSPort(t *testing.T) {
	t.Parallel()
	c := newConfigs(t)
	for _, test := range []struct{ name, bytes string }{
		{"nothing", ""},
		{"plain HTTP", "GET / HTTP/1.1\r\nHost: rendezvous\r\n\r\n"},
		{"an agent without TLS", "\x01\x00\x00\x02{}"},
		{"zeros", strings.Repeat("\x00", 40000)},
		{"ones", strings.Repeat("\xff", 100000)},
		{"half a record", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc"},
		{"half a header", "\x16\x03\x01"},
		{"an oversized record", "\x16\x03\x01\xff\xff" + strings.Repeat("x", 70000)},
		{"an alert", "\x15\x03\x01\x00\x02\x02\x28"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			listener := testkit.Listen(t)
			waiting := accept(listener, c.rendezvous, link.Timing{})
			raw, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			// A refusal may come before everything is sent.
			_, _ = io.WriteString(raw, test.bytes)
			_ = raw.(*net.TCPConn).CloseWrite()
			if got := testkit.Receive(t, waiting, "the refusal"); got.err == nil {
				t.Fatal("a stranger was let in")
			}
		})
	}
	t.Run("a rendezvous without TLS", func(t *testing.T) {
		t.Parallel()
		listener := testkit.Listen(t)
		waiting := accept(listener, nil, link.Timing{})
		dialled := make(chan error, 1)
		go func() {
			_, err := link.Dial(context.Background(), listener.Addr().String(), c.agent, link.Timing{})
			dialled <- err
		}()
		got := testkit.Receive(t, waiting, "the connection")
		if got.err != nil {
			t.Fatal(got.err)
		}
		if _, err := got.conn.Next(); !errors.Is(err, link.ErrProtocol) {
			t.Errorf("a TLS client is %v, want a protocol error", err)
		}
		got.conn.Close()
		if err := testkit.Receive(t, dialled, "the agent to give up"); err == nil {
			t.Error("the agent takes this for TLS")
		}
	})
}
