package agent_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/psock-runtime/psock-runtime/internal/agent"
	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"github.com/psock-runtime/psock-runtime/internal/testkit/agents"
	"github.com/psock-runtime/psock-runtime/pkg/discovery"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
	"go.uber.org/goleak"
	"go.uber.org/zap"
)

const patience = testkit.Patience

// behaviour makes the test binary pose as Rscript, and says what it does.
const behaviour = "AGENT_TEST_R"

func TestMain(m *testing.M) {
	if how := os.Getenv(behaviour); how != "" {
		os.Exit(poseAsR(how, os.Args))
	}
	goleak.VerifyTestMain(m)
}

// versions is what Rscript --version says, before R 4.2 and after.
var versions = map[string]string{
	"echo": "Rscript (R) version 4.5.1 Patched (2025-06-13 r88315)",
	"deaf": "R scripting front-end version 4.1.2 (2021-11-01)",
}

// interruptedFile is where an R that computes leaves word of its interrupt.
const interruptedFile = "AGENT_TEST_INTERRUPTED"

// compute is what R does with a future that sleeps: an interrupt ends that, is noted,
// and is the answer. A stubborn one computes on.
func compute(how string, conn net.Conn) error {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGINT)
	if _, err := conn.Write([]byte("computing")); err != nil {
		return err
	}
	<-told
	if err := os.WriteFile(os.Getenv(interruptedFile), nil, 0o600); err != nil {
		return err
	}
	if how == "stubborn" {
		<-told
	}
	_, err := conn.Write([]byte("interrupted"))
	return err
}

// ballast is what poseAsR takes when it is sent "grow".
var ballast []byte

// poseAsR connects as R does and sends back what it is sent, until the connection
// ends or it is sent "die". Sent "compute", it reads no further before an interrupt.
func poseAsR(how string, args []string) int {
	if slices.Contains(args, "--version") {
		if how == "reticent" { // until it is ended
			told := make(chan os.Signal, 1)
			signal.Notify(told, syscall.SIGTERM)
			<-told
		}
		fmt.Fprintln(os.Stderr, versions[how])
		return 0
	}
	if how == "broken" {
		fmt.Fprintln(os.Stderr, "this R is broken")
		return 3
	}
	host, port := "", ""
	for _, arg := range args {
		if value, found := strings.CutPrefix(arg, "MASTER="); found {
			host = value
		}
		if value, found := strings.CutPrefix(arg, "PORT="); found {
			port = value
		}
	}
	conn, err := net.Dial("tcp", net.JoinHostPort(host, port))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 4
	}
	if how == "deaf" {
		select {} // computes, and does not read
	}
	p := make([]byte, 4096)
	for {
		n, err := conn.Read(p)
		if err != nil {
			return 0
		}
		if bytes.Contains(p[:n], []byte("grow")) {
			ballast = bytes.Repeat([]byte{1}, 100<<20)
		}
		if bytes.Contains(p[:n], []byte("compute")) {
			if err := compute(how, conn); err != nil {
				return 6
			}
			continue
		}
		if bytes.Contains(p[:n], []byte("die")) {
			fmt.Fprintln(os.Stderr, "last words")
			return 9
		}
		if _, err := conn.Write(p[:n]); err != nil {
			return 5
		}
	}
}

// system is an agent and the pool that it parks its workers at.
type system struct {
	t testing.TB
	*pool.Pool
	agents   net.Listener
	shutDown func() // ends the pool
	agent    *agent.Agent
	stop     context.CancelFunc   // of the agent
	ended    chan error           // Run's result
	registry *prometheus.Registry // of the pool
}

func start(t testing.TB, how string, change func(*agent.Config)) *system {
	t.Helper()
	s := &system{t: t, ended: make(chan error, 1)}
	s.shutDown = s.serve("127.0.0.1:0")
	source, err := discovery.Parse(s.agents.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	config := agent.Config{
		Log: zap.NewNop(), Metrics: agent.NewMetrics(prometheus.NewRegistry()), Name: "agent", Instance: "instance",
		Slots: 1, Command: psock.Command{Rscript: self}, Env: append(os.Environ(), behaviour+"="+how),
		Source: source, StartLimit: patience, StopGrace: patience, DrainBudget: patience,
	}
	if change != nil {
		change(&config)
	}
	if s.agent, err = agent.New(config); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ended <- s.agent.Run(ctx)
	}()
	t.Cleanup(func() { s.stop(); <-done })
	return s
}

// serve is a new rendezvous' pool at address.
func (s *system) serve(address string) (stop func()) {
	s.t.Helper()
	s.registry = prometheus.NewRegistry()
	workers := pool.New(pool.Config{
		Log: zap.NewNop(), Metrics: pool.NewMetrics(s.registry), MaxWorkers: 10, ReserveLimit: patience,
	})
	s.Pool = workers
	s.agents, stop = agents.Serve(s.t, address, func(ctx context.Context, conn *link.Conn) { _ = workers.Serve(ctx, conn, func() {}) })
	return stop
}

// eventually waits for what shows only when asked for.
func (s *system) eventually(what string, condition func() bool) {
	s.t.Helper()
	testkit.Eventually(s.t, what, condition, func() string { return fmt.Sprintf("%+v", s.Workers()) })
}

// expectDeaths compares what the pool has counted.
func (s *system) expectDeaths(reason string, want float64) {
	s.t.Helper()
	if got := testkit.Metric(s.t, s.registry, "rendezvous_worker_deaths_total", reason); got != want {
		s.t.Errorf("%v workers died with the reason %s, want %v", got, reason, want)
	}
}

// await waits until n slots are in a state.
func (s *system) await(state pool.State, n int) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("%d %s workers", n, state), func() bool {
		states, _ := s.Counts()
		return states[state] == n
	})
}

// pid is that of the one worker.
func (s *system) pid() int {
	s.t.Helper()
	all := s.Workers()
	if len(all) != 1 {
		s.t.Fatalf("%d slots, want 1", len(all))
	}
	return all[0].PID
}

// session holds a worker and what it says.
type session struct {
	t testing.TB
	*pool.Worker
	events chan string
}

func (s *session) Data(p []byte)                       { s.events <- string(p) }
func (s *session) EOF()                                { s.events <- "(eof)" }
func (s *session) Drain()                              { s.events <- "(drain)" }
func (s *session) Ended(cause string, _ func() string) { s.events <- "(ended) " + cause }

func (s *system) want() pool.Want { return pool.Want{Tenant: s.NewTenant("cluster", 0)} }

// bind takes a worker.
func (s *system) bind() *session {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w, err := s.Acquire(ctx, s.want())
	if err != nil {
		s.t.Fatal(err)
	}
	bound := &session{s.t, w, make(chan string, 100)}
	if err := w.Bind(bound); err != nil {
		s.t.Fatal(err)
	}
	return bound
}

func (s *session) send(text string) {
	s.t.Helper()
	if err := s.SendData(append(make([]byte, link.HeaderSize), text...)); err != nil {
		s.t.Fatal(err)
	}
}

// expect waits for these events, in this order; each is the beginning of one.
func (s *session) expect(events ...string) {
	s.t.Helper()
	for _, want := range events {
		select {
		case got := <-s.events:
			if !strings.HasPrefix(got, want) {
				s.t.Fatalf("got %q, want %q", got, want)
			}
		case <-time.After(patience):
			s.t.Fatalf("waited in vain for %q", want)
		}
	}
}
