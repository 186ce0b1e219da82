package rendezvous

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/internal/sockdiag"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"github.com/psock-runtime/psock-runtime/internal/testkit/agents"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = testkit.Patience

// system is an intake that runs, and its pool.
type system struct {
	*intake
	listener net.Listener
	logs     *observer.ObservedLogs
	ended    chan error // run's result
}

func start(t *testing.T, config *tls.Config, change func(*pool.Config)) *system {
	t.Helper()
	return startOn(t, config, change, func(l net.Listener) net.Listener { return l })
}

// startOn runs an intake on what wrap makes of a loopback listener.
func startOn(t *testing.T, config *tls.Config, change func(*pool.Config), wrap func(net.Listener) net.Listener) *system {
	t.Helper()
	return startWith(t, Config{TLS: config}, nil, change, wrap)
}

// startWith runs an intake and its guard, of a watch of pods that may be nil.
func startWith(t *testing.T, config Config, watch worklist, change func(*pool.Config), wrap func(net.Listener) net.Listener) *system {
	t.Helper()
	listener := testkit.Listen(t)
	registry := prometheus.NewRegistry()
	workers := pool.Config{
		Log: zap.NewNop(), Metrics: pool.NewMetrics(registry), MaxWorkers: 100, ReserveLimit: patience,
	}
	prober, err := sockdiag.Open(nowhere)
	if err != nil {
		t.Fatal(err)
	}
	log, logs := testkit.Logger()
	config.Log, config.Prober = log, prober
	workers.Log = config.Log
	guard := newGuard(config, watch, newRefusals(config.Log, registry))
	workers.Admit = guard.admit
	if change != nil {
		change(&workers)
	}
	s := &system{listener: listener, logs: logs, ended: make(chan error, 1), intake: newIntake(config, pool.New(workers), guard)}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.ended <- s.run(ctx, wrap(listener)) })
	running.Go(func() {
		if err := guard.run(ctx); err != nil && ctx.Err() == nil {
			t.Errorf("the guard: %v", err)
		}
	})
	t.Cleanup(func() { stop(); listener.Close(); running.Wait(); prober.Close() })
	return s
}

// dial is a connection that has said nothing yet.
func (s *system) dial(t *testing.T) net.Conn {
	t.Helper()
	return s.dialFrom(t, "127.0.0.1")
}

// dialFrom is that of a host with the address.
func (s *system) dialFrom(t *testing.T, host string) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(host)}}
	conn, err := dialer.Dial("tcp", s.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// link is an agent's connection that has not said hello.
func (s *system) link(t *testing.T, client *tls.Config) *link.Conn {
	t.Helper()
	return agents.Dial(t, s.listener.Addr(), client)
}

func agentHello(name string) link.HelloMessage {
	return link.HelloMessage{Version: link.Version, Agent: name, Instance: "of-" + name, Slots: 1}
}

// join is an honest agent, which has to be welcomed.
func (s *system) join(t *testing.T, client *tls.Config, name string) *link.Conn {
	t.Helper()
	conn := s.link(t, client)
	if err := conn.Send(link.Hello, agentHello(name)); err != nil {
		t.Fatal(err)
	}
	frame, err := conn.Next()
	if err != nil || frame.Type != link.Welcome {
		t.Fatalf("the agent %s got %v, %v; want welcome", name, frame.Type, err)
	}
	return conn
}

func (s *system) count(state pool.State) int {
	states, _ := s.pool.Counts()
	return states[state]
}

// pending is how many connections have not introduced themselves.
func (s *system) pending() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.intake.pending.Len()
}

// refused is the metric's value for one reason, refusals that for all.
func (s *system) refused(t *testing.T, reason string) float64 {
	t.Helper()
	return testutil.ToFloat64(s.intake.refused.count[reason])
}

func (s *system) refusals(t *testing.T) (sum float64) {
	t.Helper()
	for _, reason := range reasons {
		sum += s.refused(t, reason)
	}
	return sum
}

// eventually waits for what shows only when asked for.
func (s *system) eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	testkit.Eventually(t, what, condition, func() string {
		return fmt.Sprintf("%d pending, %d workers", s.pending(), len(s.pool.Workers()))
	})
}

// await does so without a limit, but that of go test: what takes the whole machine takes
// as long as that needs.
func (s *system) await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for !condition() {
		select {
		case <-look.C:
		case <-t.Context().Done():
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
