package broker_test

import (
	"net"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/broker"
)

// A session learns which of its connections are nodes: its user's, on the port, while they last.
func TestSessionLearnsItsNodes(t *testing.T) {
	s := start(t, patience)
	first := s.listenAs(broker.Announcement{Intent: broker.ForFutures})
	one := first.connect()
	two := s.listen(first.port, uid).connect()
	port := uint16(first.port)
	peer := func(conn *net.TCPConn) uint16 { return conn.RemoteAddr().(*net.TCPAddr).AddrPort().Port() }
	s.eventually("both nodes", func() bool { return s.Nodes(uid, port, nil) == 2 })
	for name, tc := range map[string]struct {
		uid   uint32
		port  uint16
		peers []uint16
		want  int
	}{
		"both":            {uid, port, []uint16{peer(one), peer(two)}, 2},
		"one of them":     {uid, port, []uint16{peer(two)}, 1},
		"another process": {uid, port, []uint16{1}, 0},
		"a mixture":       {uid, port, []uint16{peer(one), 1, 0}, 1},
		"another port":    {uid, port + 1, []uint16{peer(one)}, 0},
		"another user":    {uid + 1, port, []uint16{peer(one)}, 0},
	} {
		if got := s.Nodes(tc.uid, tc.port, tc.peers); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
	}
	one.Close()
	s.eventually("the first one's end", func() bool { return s.Nodes(uid, port, []uint16{peer(one), peer(two)}) == 1 })
}
