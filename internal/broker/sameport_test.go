package broker_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/broker"
	"github.com/psock-runtime/psock-runtime/internal/facts"
	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// marked begins what a call says of who has sent it.
const marked = "session "

// used is a worker that fails the test when calls of two sessions reach it.
func (s *system) used(name string) {
	s.t.Helper()
	by := byte(0)
	s.parkWorkers(name, "", func(conn *link.Conn, p []byte) error {
		for rest := p; ; {
			_, after, found := bytes.Cut(rest, []byte(marked))
			if !found || len(after) == 0 {
				break
			}
			if by != 0 && by != after[0] {
				s.t.Errorf("worker %s was used by session %c, and is by %c", name, by, after[0])
			}
			by, rest = after[0], after
		}
		return conn.SendData(answerOf(string(p)))
	}, func() { by = 0 })
}

// answerOf is a worker's answer, as an error that R may have met.
func answerOf(call string) []byte {
	return append(make([]byte, link.HeaderSize), psock.AppendError(nil, fmt.Sprintf("to %d bytes", len(call)), false)...)
}

// tenant is a session of the test below, with at most one cluster.
type tenant struct {
	name    byte
	plans   int
	intent  broker.Intent // "" for a cluster that is not announced
	conns   []net.Conn
	calls   int
	cluster string
}

// listen makes nodes of the session's cluster, as R does.
func (a *tenant) listen(s *system, port uint16, nodes int) {
	for range nodes {
		session := s.bind(int(port))
		retract := func() {}
		if a.intent != "" {
			retract = s.announce(broker.Announcement{Session: string(a.name), Port: port, Cluster: a.cluster, Intent: a.intent})
		}
		session.unlist = s.table.add(session.port, uid)
		a.conns = append(a.conns, session.connect())
		retract()
	}
}

// call makes a call on a node that says whose it is, with words by which the node may move
// to another worker afterwards, or not.
func (a *tenant) call(s *system, random *rand.Rand) {
	a.calls++
	text := fmt.Sprintf("%s%c %d", marked, a.name, a.calls)
	if random.IntN(4) > 0 {
		for _, f := range facts.All {
			if f.Call == facts.Load {
				text = string(bytes.Join(f.Words, nil)) + text
			}
		}
	}
	conn := a.conns[random.IntN(len(a.conns))]
	call(s.t, conn, execOf(text))
	readMessage(s.t, conn)
}

func (a *tenant) end() {
	for _, conn := range a.conns {
		conn.Close()
	}
	a.conns = nil
}

// Sessions of one user on one port, in every order of plan(), makeClusterPSOCK(), cloneNode(),
// calls and ends, announced or not: none ever gets a process that another one has used.
func TestSamePort(t *testing.T) {
	for seed := range uint64(samePortSeeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 0))
			s := start(t, 20*time.Millisecond) // what gets no worker is an error, and goes on
			for i := range workers {
				s.used(fmt.Sprint("w", i))
			}
			s.eventually("the workers", func() bool { return s.count(pool.Warm) == workers })
			free := s.bind(0)
			port := uint16(free.port)
			free.listener.Close()
			sessions := []*tenant{{name: 'A'}, {name: 'B'}, {name: 'C'}}
			for range 60 {
				a := sessions[random.IntN(len(sessions))]
				switch {
				case len(a.conns) == 0:
					a.plans++
					a.cluster = fmt.Sprint(a.plans)
					a.intent = []broker.Intent{broker.ForFutures, broker.ForWorkers, ""}[random.IntN(3)]
					a.listen(s, port, 1+random.IntN(mostNodes))
				case random.IntN(8) == 0:
					a.end()
				case random.IntN(8) == 0 && len(a.conns) < mostNodes:
					a.listen(s, port, 1) // cloneNode()
				default:
					a.call(s, random)
				}
			}
			for _, a := range sessions {
				a.end()
			}
		})
	}
}

const (
	workers       = 3  // fewer than there may be nodes, so that these take turns
	mostNodes     = 3  // of a cluster
	samePortSeeds = 40 // thousands were tried by hand
)
