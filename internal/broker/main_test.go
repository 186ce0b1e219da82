package broker_test

import (
	"cmp"
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/psock-runtime/psock-runtime/internal/broker"
	"github.com/psock-runtime/psock-runtime/internal/journal"
	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/internal/relay"
	"github.com/psock-runtime/psock-runtime/internal/sockdiag"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"github.com/psock-runtime/psock-runtime/internal/testkit/agents"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = testkit.Patience

// short is a demand timeout that runs out in tests, and not before a worker that is there
// has been reserved.
const short = 500 * time.Millisecond

// uid is the user whose sessions are served.
const uid = 1000

// table is what the kernel would say: the sockets that listen.
type table struct {
	mu     sync.Mutex
	list   []sockdiag.Listener
	cookie uint64
	err    error
	looks  int
}

func (f *table) Listeners(dst []sockdiag.Listener) ([]sockdiag.Listener, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	return append(dst, f.list...), f.err
}

func (f *table) add(port, uid int) (remove func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cookie++
	cookie := f.cookie
	f.list = append(f.list, sockdiag.Listener{Cookie: cookie, Port: uint16(port), UID: uint32(uid)})
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for i, l := range f.list {
			if l.Cookie == cookie {
				f.list = append(f.list[:i], f.list[i+1:]...)
				return
			}
		}
	}
}

// announce says what a session is about to do, until the end of the test or of retract.
func (s *system) announce(a broker.Announcement) (retract func()) {
	s.t.Helper()
	a.UID = cmp.Or(a.UID, uid)
	a.Session = cmp.Or(a.Session, "session")
	retract, err := s.Announce(a)
	if err != nil {
		s.t.Fatal(err)
	}
	return retract
}

// announced listens as a session that has announced it, until retract is called.
func (s *system) announced(a broker.Announcement) (retract func(), listener *session) {
	s.t.Helper()
	listener = s.bind(int(a.Port))
	a.UID, a.Port, a.Cluster = cmp.Or(a.UID, uid), uint16(listener.port), cmp.Or(a.Cluster, "1")
	retract = s.announce(a)
	listener.unlist = s.table.add(listener.port, int(a.UID))
	return retract, listener
}

// listenAs does so until the end of the test.
func (s *system) listenAs(a broker.Announcement) *session {
	s.t.Helper()
	_, listener := s.announced(a)
	return listener
}

// looked is how often the broker has asked.
func (s *system) looked() int {
	s.table.mu.Lock()
	defer s.table.mu.Unlock()
	return s.table.looks
}

func (f *table) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// system is a broker, its pool and the listeners that it sees.
type system struct {
	*broker.Broker
	t        *testing.T
	pool     *pool.Pool
	table    *table
	registry *prometheus.Registry
	log      *observer.ObservedLogs
	agents   net.Listener
	plans    int // that were made
}

func start(t *testing.T, demandTimeout time.Duration) *system {
	t.Helper()
	return startWith(t, func(c *broker.Config) { c.DemandTimeout = demandTimeout })
}

func startWith(t *testing.T, change func(*broker.Config)) *system {
	t.Helper()
	log, logs := testkit.Logger()
	s := &system{t: t, table: &table{}, registry: prometheus.NewRegistry(), log: logs}
	s.pool = pool.New(pool.Config{
		Log: zap.NewNop(), Metrics: pool.NewMetrics(s.registry), MaxWorkers: 100, ReserveLimit: patience,
	})
	config := broker.Config{
		Log: log, Metrics: broker.NewMetrics(s.registry), Relay: relay.NewMetrics(s.registry),
		Pool: s.pool, Listeners: s.table, UIDs: []uint32{uid}, Grace: 0, DemandTimeout: patience,
		MaxAttempts: 3, Journal: journal.NewBudget(t.TempDir(), journal.Limits{Each: 1 << 20, Memory: 1 << 20}),
	}
	change(&config)
	s.Broker = broker.New(config)
	s.agents, _ = agents.Serve(t, "127.0.0.1:0", func(ctx context.Context, conn *link.Conn) { _ = s.pool.Serve(ctx, conn, func() {}) })
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = s.Run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })
	return s
}

// agent parks one warm worker that echoes what its sessions send.
func (s *system) agent(name string) *link.Conn {
	s.t.Helper()
	return s.agentOf(name, "")
}

// agentOf parks one of a group.
func (s *system) agentOf(name, group string) *link.Conn {
	s.t.Helper()
	before := s.count(pool.Warm)
	conn := s.park(name, group, func(conn *link.Conn, p []byte) error {
		return conn.SendData(append(make([]byte, link.HeaderSize), p...))
	})
	s.eventually("a warm worker", func() bool { return s.count(pool.Warm) == before+1 })
	return conn
}

// park parks a worker that has data do with what its sessions send.
func (s *system) park(name, group string, data func(*link.Conn, []byte) error) *link.Conn {
	s.t.Helper()
	return s.parkWorkers(name, group, data, func() {})
}

// parkWorkers parks one after the other: ended is called between two.
func (s *system) parkWorkers(name, group string, data func(*link.Conn, []byte) error, ended func()) *link.Conn {
	s.t.Helper()
	conn := agents.Dial(s.t, s.agents.Addr(), nil)
	if err := conn.Send(link.Hello, link.HelloMessage{Version: link.Version, Agent: name, Instance: name, Slots: 1, Group: group}); err != nil {
		s.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for serveFrame(conn, data, ended) == nil {
		}
		conn.Close()
	}()
	s.t.Cleanup(func() { conn.Close(); <-done })
	return conn
}

// serveFrame does what an agent does with one frame.
func serveFrame(conn *link.Conn, data func(*link.Conn, []byte) error, ended func()) error {
	frame, err := conn.Next()
	if err != nil {
		return err
	}
	warm := link.StateMessage{State: link.Warm}
	switch frame.Type {
	case link.Welcome:
		return conn.Send(link.State, warm)
	case link.Reserve:
		return conn.SendNumber(link.Reserved, frame.Number())
	case link.Data:
		return data(conn, frame.Payload)
	case link.EOF:
		ended()
		return errors.Join(conn.Send(link.Exit, link.ExitMessage{Cause: "its session ended", Expected: true}),
			conn.Send(link.State, warm))
	}
	return nil
}

func (s *system) count(state pool.State) int {
	states, _ := s.pool.Counts()
	return states[state]
}

// eventually waits for what shows only when asked for.
func (s *system) eventually(what string, condition func() bool) {
	s.t.Helper()
	testkit.Eventually(s.t, what, condition)
}

// metric is the value of a metric, of the labels' values given.
func (s *system) metric(name string, labels ...string) float64 {
	s.t.Helper()
	return testkit.Metric(s.t, s.registry, name, labels...)
}

// session is R with a listening socket for one node.
type session struct {
	t        *testing.T
	listener *net.TCPListener
	port     int
	unlist   func() // takes the listener out of the kernel's table
}

func (s *system) listen(port, uid int) *session {
	s.t.Helper()
	session := s.bind(port)
	session.unlist = s.table.add(session.port, uid)
	return session
}

// bind opens a listening socket that the broker does not see yet.
func (s *system) bind(port int) *session {
	s.t.Helper()
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { listener.Close() })
	port = listener.Addr().(*net.TCPAddr).Port
	return &session{t: s.t, listener: listener, port: port}
}

// accept accepts, as R does, and goes on listening.
func (r *session) accept() *net.TCPConn {
	r.t.Helper()
	if err := r.listener.SetDeadline(time.Now().Add(patience)); err != nil {
		r.t.Fatal(err)
	}
	conn, err := r.listener.AcceptTCP()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		r.t.Fatal(err)
	}
	return conn
}

// connect accepts and stops listening: a session that wants a worker.
func (r *session) connect() *net.TCPConn {
	r.t.Helper()
	conn := r.accept()
	r.listener.Close()
	r.unlist()
	return conn
}
