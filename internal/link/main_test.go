package link_test

import (
	"context"
	"crypto/tls"
	"net"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// configs are the two ends' TLS configurations, of one CA; both nil without TLS.
type configs struct{ agent, rendezvous *tls.Config }

func newConfigs(t testing.TB) configs {
	t.Helper()
	rendezvous, agent := testkit.Certificates(t)
	return configs{agent, rendezvous}
}

// plainAndTLS runs test once over each.
func plainAndTLS(t *testing.T, test func(t *testing.T, c configs)) {
	t.Run("plain", func(t *testing.T) { t.Parallel(); test(t, configs{}) })
	t.Run("tls", func(t *testing.T) { t.Parallel(); test(t, newConfigs(t)) })
}

// accepted is what became of an accepted connection.
type accepted struct {
	conn *link.Conn
	err  error
}

// accept takes the next connection of listener, in the background: a TLS handshake
// needs both ends at once.
func accept(listener net.Listener, config *tls.Config, timing link.Timing) <-chan accepted {
	done := make(chan accepted, 1)
	go func() {
		raw, err := listener.Accept()
		if err != nil {
			done <- accepted{nil, err}
			return
		}
		conn, err := link.Accept(context.Background(), raw, config, timing)
		done <- accepted{conn, err}
	}()
	return done
}

// via is a connection from an agent that dials address to a rendezvous at listener.
func via(t testing.TB, address string, listener net.Listener, c configs, timing link.Timing) (agent, rendezvous *link.Conn) {
	t.Helper()
	waiting := accept(listener, c.rendezvous, timing)
	agent, err := link.Dial(context.Background(), address, c.agent, timing)
	if err != nil {
		listener.Close()
		<-waiting
		t.Fatal(err)
	}
	t.Cleanup(func() { agent.Close() })
	got := <-waiting
	if got.err != nil {
		t.Fatal(got.err)
	}
	t.Cleanup(func() { got.conn.Close() })
	return agent, got.conn
}

func pair(t testing.TB, c configs, timing link.Timing) (agent, rendezvous *link.Conn) {
	t.Helper()
	listener := testkit.Listen(t)
	return via(t, listener.Addr().String(), listener, c, timing)
}

// rawPair is a Conn without TLS and the bare socket at its other end.
func rawPair(t testing.TB, timing link.Timing) (*link.Conn, *net.TCPConn) {
	t.Helper()
	listener := testkit.Listen(t)
	waiting := accept(listener, nil, timing)
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		listener.Close()
		<-waiting
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	got := <-waiting
	if got.err != nil {
		t.Fatal(got.err)
	}
	t.Cleanup(func() { got.conn.Close() })
	return got.conn, raw.(*net.TCPConn)
}

// mustNext reads the next frame of the wanted type.
func mustNext(t testing.TB, conn *link.Conn, wanted link.Type) link.Frame {
	t.Helper()
	frame, err := conn.Next()
	if err != nil {
		t.Fatalf("waiting for %s: %v", wanted, err)
	}
	if frame.Type != wanted {
		t.Fatalf("got %s, want %s", frame.Type, wanted)
	}
	return frame
}

// take reads Data pieces until n bytes are there.
func take(conn *link.Conn, n int) ([]byte, error) {
	var got []byte
	for len(got) < n {
		frame, err := conn.Next()
		if err != nil {
			return got, err
		}
		if frame.Type == link.Data {
			got = append(got, frame.Payload...)
		}
	}
	return got, nil
}

// dataFrame is a Data frame of n bytes that differ from those of other seeds.
func dataFrame(n int, seed byte) []byte {
	frame := make([]byte, link.HeaderSize+n)
	for i := range frame[link.HeaderSize:] {
		frame[link.HeaderSize+i] = byte(i) ^ byte(i>>8) ^ seed
	}
	return frame
}
