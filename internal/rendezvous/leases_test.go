package rendezvous

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/psock-runtime/psock-runtime/internal/broker"
	"github.com/psock-runtime/psock-runtime/internal/lease"
	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/sockdiag"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"go.uber.org/zap"
)

// served is a whole rendezvous with agents, and a client of its interface.
type served struct {
	*system
	t      *testing.T
	api    string
	client *http.Client
}

// serveLeases runs a rendezvous that hands out the ports given.
func serveLeases(t *testing.T, ports sockdiag.Range, change func(*Config)) *served {
	t.Helper()
	config := configuration(t, ports)
	change(&config)
	client, _ := serve(t, config)
	return &served{
		system: &system{listener: config.Agents}, t: t, api: "http://" + config.API.Addr().String(),
		client: client,
	}
}

// agent parks a worker of a group, which answers reservations and echoes what it is
// sent.
func (s *served) agent(name, group string) *link.Conn {
	s.t.Helper()
	conn := s.link(s.t, nil)
	hello := agentHello(name)
	hello.Group = group
	if err := errors.Join(conn.Send(link.Hello, hello), conn.Send(link.State, link.StateMessage{State: link.Warm})); err != nil {
		s.t.Fatal(err)
	}
	conn.StartHeartbeat()
	done := make(chan struct{})
	s.t.Cleanup(func() { conn.Close(); <-done })
	go func() {
		defer close(done)
		for {
			frame, err := conn.Next()
			if err != nil {
				return
			}
			switch frame.Type {
			case link.Reserve:
				err = conn.SendNumber(link.Reserved, frame.Number())
			case link.Data:
				err = conn.SendData(append(make([]byte, link.HeaderSize), frame.Payload...))
			case link.EOF:
				err = errors.Join(conn.Send(link.Exit, link.ExitMessage{Expected: true}), conn.Send(link.State, link.StateMessage{State: link.Warm}))
			}
			if err != nil {
				return
			}
		}
	}()
	return conn
}

// ask sends a request and returns the status and the body.
func (s *served) ask(method, path, body string) (int, string) {
	s.t.Helper()
	return testkit.Ask(s.t, s.client, method, s.api+path, body)
}

// lease asks for one.
func (s *served) lease(body string) (l lease.Snapshot) {
	s.t.Helper()
	status, answer := s.ask(http.MethodPost, "/v1/leases", body)
	if err := json.Unmarshal([]byte(answer), &l); status != http.StatusCreated || err != nil {
		s.t.Fatalf("%s: %d %s", body, status, answer)
	}
	return l
}

// until asks for the lease until it is in the state.
func (s *served) until(l lease.Snapshot, state lease.State) lease.Snapshot {
	s.t.Helper()
	limit := time.After(patience)
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for l.State != state {
		status, answer := s.ask(http.MethodGet, fmt.Sprintf("/v1/leases/%s?wait=5&version=%d", l.ID, l.Version), "")
		if err := json.Unmarshal([]byte(answer), &l); status != http.StatusOK || err != nil {
			s.t.Fatalf("waiting for %s: %d %s", state, status, answer)
		}
		select {
		case <-look.C:
		case <-limit:
			s.t.Fatalf("the lease does not become %s: %+v", state, l)
		}
	}
	return l
}

// connect does what R does: it listens, accepts one connection and listens no more.
func (s *served) connect(port uint16) net.Conn {
	s.t.Helper()
	return s.accept(s.listen(port))
}

func (s *served) listen(port uint16) *net.TCPListener {
	s.t.Helper()
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{Port: int(port)})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { listener.Close() })
	return listener
}

func (s *served) accept(listener *net.TCPListener) net.Conn {
	s.t.Helper()
	defer listener.Close()
	if err := listener.SetDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	conn, err := listener.Accept()
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	return conn
}

// A lease from the request to its cluster's end, of one group of two.
func TestLease(t *testing.T) {
	t.Parallel()
	s := serveLeases(t, sockdiag.Range{First: 17010, Last: 17019}, func(*Config) {})
	s.agent("plain", "")
	s.agent("big-1", "big")
	await(t, s.client, s.api+"/v1/workers", "2\n")
	l := s.lease(`{"workers":2,"group":"big","label":"test"}`)
	if l.Port < 17010 || l.Port > 17019 || l.UID != uint32(os.Getuid()) {
		t.Errorf("got %+v", l)
	}
	l = s.until(l, lease.Waiting)
	s.agent("big-2", "big")
	l = s.until(l, lease.Ready)
	if l.Ready != 2 {
		t.Errorf("ready, and it is %+v", l)
	}
	conns := []net.Conn{s.connect(l.Port), s.connect(l.Port)}
	await(t, s.client, s.api+"/v1/state", `"share":false,"state":"connected"`)
	// Neither is bound before the session says something, and both are of the group.
	if status, answer := s.ask(http.MethodGet, "/v1/state", ""); status != http.StatusOK ||
		!strings.Contains(answer, `"worker":"big-1/0"`) || !strings.Contains(answer, `"worker":"big-2/0"`) || strings.Contains(answer, `"worker":"plain/0"`) {
		t.Errorf("the state is %d %s", status, answer)
	}
	for _, conn := range conns {
		conn.Close()
	}
	l = s.until(l, lease.Ended)
	if l.Message != "its cluster has ended" {
		t.Errorf("ended, and it is %+v", l)
	}
	await(t, s.client, s.api+"/v1/workers", "3\n")
	if status, _ := s.ask(http.MethodDelete, "/v1/leases/"+l.ID, ""); status != http.StatusNoContent {
		t.Errorf("given back: %d", status)
	}
	if status, _ := s.ask(http.MethodGet, "/v1/leases/"+l.ID, ""); status != http.StatusNotFound {
		t.Errorf("asked for after that: %d", status)
	}
}

// A leased worker dies before its session connects: the next one is the node's.
func TestLeasedWorkerDies(t *testing.T) {
	t.Parallel()
	s := serveLeases(t, sockdiag.Range{First: 17030, Last: 17039}, func(*Config) {})
	lost := s.agent("lost", "")
	l := s.until(s.lease(`{"workers":1}`), lease.Ready)
	lost.Close()
	await(t, s.client, s.api+"/v1/state", `"workers":[]`)
	listener := s.listen(l.Port)
	await(t, s.client, s.api+"/v1/state", `"state":"waiting"`)
	s.agent("next", "")
	s.accept(listener)
	await(t, s.client, s.api+"/v1/state", `"state":"connected","since":`)
	if _, answer := s.ask(http.MethodGet, "/v1/state", ""); !strings.Contains(answer, `"worker":"next/0"`) {
		t.Errorf("the state is %s", answer)
	}
}

// What can never be met is refused at once, what is not met in time then.
func TestRefusedLease(t *testing.T) {
	t.Parallel()
	s := serveLeases(t, sockdiag.Range{First: 17020, Last: 17029}, func(c *Config) { c.DemandTimeout = time.Second })
	s.agent("plain", "")
	s.agent("big-1", "big")
	await(t, s.client, s.api+"/v1/workers", "2\n")
	for body, want := range map[string]string{
		`{"workers":11}`:                "11 workers can never be had: --max-workers is 10",
		`{"workers":1,"group":"small"}`: `there is no worker group "small"; there are: big, default`,
	} {
		if status, answer := s.ask(http.MethodPost, "/v1/leases", body); status != http.StatusConflict || strings.TrimSpace(answer) != want {
			t.Errorf("%s: %d %q, want %q", body, status, answer, want)
		}
	}
	// Without a number it is as many as there are of the group; nodes that take turns
	// are no workers.
	if usual, turns := s.lease(`{"group":"big"}`), s.lease(`{"workers":500,"share":true,"group":"default"}`); usual.Workers != 1 || turns.Workers != 500 {
		t.Errorf("got %+v and %+v", usual, turns)
	}
	l := s.until(s.lease(`{"workers":3,"group":"default"}`), lease.Refused)
	if want := "of 1 workers are ready; a lease of 3 waited "; !strings.Contains(l.Message, want) {
		t.Errorf("refused with %q, want %q", l.Message, want)
	}
}

// A session has no more than its cap, whatever there is: not by a lease, and not by
// nodes that follow it.
func TestSessionWorkers(t *testing.T) {
	t.Parallel()
	s := serveLeases(t, sockdiag.Range{First: 17040, Last: 17049}, func(c *Config) { c.DemandTimeout, c.SessionWorkers = time.Second, 1 })
	s.agent("a", "")
	s.agent("b", "")
	await(t, s.client, s.api+"/v1/workers", "1\n")
	if status, answer := s.ask(http.MethodPost, "/v1/leases", `{"workers":2}`); status != http.StatusConflict || answer != "2 workers can never be had: --session-workers is 1\n" {
		t.Errorf("a lease for two: %d %q", status, answer)
	}
	l := s.until(s.lease(`{}`), lease.Ready)
	if l.Workers != 1 {
		t.Errorf("a lease without a number: %+v", l)
	}
	s.connect(l.Port)
	s.connect(l.Port)
	await(t, s.client, s.api+"/v1/state", "--session-workers is 1: ask for at most 1")
}

// maximum is the scaler's for every group.
type maximum int

func (maximum) Poke()                          {}
func (m maximum) Max(string) int               { return int(m) }
func (maximum) Starting(string) (bool, string) { return false, "" }

// What there is may be asked for, although the scaler would not start as many.
func TestMoreThanTheMaximum(t *testing.T) {
	t.Parallel()
	s := start(t, nil, nil)
	sessions := broker.New(broker.Config{
		Log: zap.NewNop(), Metrics: broker.NewMetrics(prometheus.NewRegistry()), Pool: s.pool, Scaling: maximum(2),
	})
	l := limits{sessions: sessions, maxWorkers: 10}
	for _, name := range []string{"a", "b", "c"} {
		s.join(t, nil, name)
	}
	if n := l.Usual(0, "", nil); n != 3 {
		t.Errorf("%d workers are usual, want 3", n)
	}
	for n, refused := range []bool{3: false, 4: true} {
		if err := l.Check(0, "", n, false); (err != nil) != refused {
			t.Errorf("%d workers: %v", n, err)
		}
	}
	if err := l.Check(0, "", 4, false); err == nil || err.Error() != "4 workers can never be had: the group has 3 at most" {
		t.Errorf("refused with %v", err)
	}
}
