package broker_test

import (
	"net"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/broker"
	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// says fails unless the answer to a message says text.
func says(t *testing.T, conn net.Conn, message, text string) {
	t.Helper()
	call(t, conn, message)
	read(t, conn, text)
}

// A node that replaces one with state, which only R knows, is told once that the state is lost, by
// the first call that may depend on it; one that replaces none with state is not.
func TestReplacedNodes(t *testing.T) {
	state := execOf("options(k = 42)")
	const lost, fine = "is lost with it, and this node has replaced it", " bytes"
	for _, intent := range []broker.Intent{broker.ForWorkers, broker.ForFutures} {
		for name, test := range map[string]func(t *testing.T, one, two net.Conn, again func() net.Conn){
			"one of two": func(t *testing.T, one, two net.Conn, again func() net.Conn) {
				says(t, one, state, fine)
				one.Close()
				clone := again()
				says(t, clone, introduction, fine)
				says(t, clone, state, lost)
				says(t, clone, introduction, fine)
				clone.Close()
				says(t, again(), state, fine)
				says(t, two, state, fine)
			},
			"before it is told": func(t *testing.T, one, _ net.Conn, again func() net.Conn) {
				says(t, one, state, fine)
				one.Close()
				clone := again()
				says(t, clone, introduction, fine)
				clone.Close()
				says(t, again(), state, lost)
			},
			"without state": func(t *testing.T, one, two net.Conn, again func() net.Conn) {
				says(t, one, introduction, fine)
				says(t, two, state, fine)
				one.Close()
				says(t, again(), state, fine)
			},
			"no matter which": func(t *testing.T, one, two net.Conn, again func() net.Conn) {
				says(t, one, introduction, fine)
				says(t, two, state, fine)
				one.Close()
				two.Close()
				says(t, again(), state, lost)
				says(t, again(), state, lost)
				says(t, again(), state, fine)
			},
			"all that there were": func(t *testing.T, one, two net.Conn, again func() net.Conn) {
				says(t, one, state, fine)
				says(t, two, state, fine)
				one.Close()
				two.Close()
				says(t, again(), state, lost)
				says(t, again(), state, lost)
				says(t, again(), state, fine)
			},
		} {
			t.Run(string(intent)+", "+name, func(t *testing.T) {
				s := start(t, patience)
				for _, worker := range []string{"a", "b", "c"} {
					s.used(worker)
				}
				s.eventually("the workers", func() bool { return s.count(pool.Warm) == 3 })
				port := 0
				again := func() net.Conn {
					retract, listener := s.announced(broker.Announcement{Port: uint16(port), Intent: intent})
					defer retract()
					port = listener.port
					return listener.connect()
				}
				one, two := again(), again()
				test(t, one, two, again)
			})
		}
	}
}

// A node that is made again beside the living ones replaces none of them, unless the state of one is lost
// already: R has killed its worker, and a process that R has started holds the connection open.
func TestReplacedWhileConnected(t *testing.T) {
	state := execOf("options(k = 42)")
	for _, intent := range []broker.Intent{broker.ForWorkers, broker.ForFutures} {
		t.Run(string(intent), func(t *testing.T) {
			s := start(t, patience)
			agents := make(map[string]*link.Conn)
			for _, name := range []string{"a", "b", "c", "d"} {
				agents[name+"/0"] = s.park(name, "", func(conn *link.Conn, p []byte) error {
					return conn.SendData(answerOf(string(p)))
				})
			}
			s.eventually("the workers", func() bool { return s.count(pool.Warm) == 4 })
			port := 0
			again := func() net.Conn {
				retract, listener := s.announced(broker.Announcement{Port: uint16(port), Intent: intent})
				defer retract()
				port = listener.port
				return listener.connect()
			}
			one, two := again(), again()
			says(t, one, state, " bytes")
			says(t, two, state, " bytes")
			says(t, again(), state, " bytes")
			killed := s.Clusters()[0].Nodes[0].Worker
			agents[killed].Close()
			s.eventually("the node to have no worker", func() bool { return s.Clusters()[0].Nodes[0].Worker == "" })
			says(t, again(), state, "worker "+killed+" was lost before this call")
		})
	}
}
