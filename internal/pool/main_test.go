package pool_test

import (
	"bytes"
	"context"
	"net"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"github.com/psock-runtime/psock-runtime/internal/testkit/agents"
	"go.uber.org/goleak"
	"go.uber.org/zap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = testkit.Patience

// rendezvous is a pool behind a listener on loopback.
type rendezvous struct {
	*pool.Pool
	listener net.Listener
	registry *prometheus.Registry
	ctx      context.Context // of the test
	stop     context.CancelFunc
	served   chan error // what Serve returned, for each connection

	mu      sync.Mutex
	tenants map[int]*pool.Tenant // by rank
}

// want is the tenant's of a rank: rank 0 wants what there is, the others all they ask
// for, in the order in which they were first named.
func (r *rendezvous) want(rank int) pool.Want {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tenants[rank] == nil {
		r.tenants[rank] = r.NewTenant("cluster", 0)
	}
	return pool.Want{Tenant: r.tenants[rank], Whole: rank > 0}
}

func start(t *testing.T, change func(*pool.Config)) *rendezvous {
	t.Helper()
	r := &rendezvous{registry: prometheus.NewRegistry(), served: make(chan error, 10000), tenants: make(map[int]*pool.Tenant)}
	config := pool.Config{
		Log: zap.NewNop(), Metrics: pool.NewMetrics(r.registry), Build: "test", MaxWorkers: 100, ReserveLimit: patience,
	}
	if change != nil {
		change(&config)
	}
	r.Pool = pool.New(config)
	r.ctx, r.stop = context.WithCancel(context.Background())
	r.listener, _ = agents.Serve(t, "127.0.0.1:0", func(_ context.Context, conn *link.Conn) { r.served <- r.Serve(r.ctx, conn, func() {}) })
	t.Cleanup(r.stop)
	return r
}

// agent is a hand-written agent's end of one slot's connection.
type agent struct {
	t *testing.T
	*link.Conn
}

func hello(name string) link.HelloMessage {
	return link.HelloMessage{Version: link.Version, Agent: name, Instance: "of-" + name, Slots: 1, Group: "group", Build: "1.0", Node: "node"}
}

// dial connects and says hello, no more.
func (r *rendezvous) dial(t *testing.T, hello link.HelloMessage) *agent {
	t.Helper()
	a := &agent{t, agents.Dial(t, r.listener.Addr(), nil)}
	a.send(link.Hello, hello)
	return a
}

// join is a slot that has been welcomed.
func (r *rendezvous) join(t *testing.T, name string) *agent {
	t.Helper()
	a := r.dial(t, hello(name))
	a.expect(link.Welcome)
	return a
}

// park is a slot whose worker the pool knows to be warm.
func (r *rendezvous) park(t *testing.T, name string) *agent {
	t.Helper()
	before := r.count(pool.Warm)
	a := r.join(t, name)
	a.state(link.Warm)
	eventually(t, "a warm worker", func() bool { return r.count(pool.Warm) == before+1 })
	return a
}

func (r *rendezvous) count(state pool.State) int {
	states, _ := r.Counts()
	return states[state]
}

func (a *agent) send(kind link.Type, message any) {
	a.t.Helper()
	a.check(a.Send(kind, message))
}

func (a *agent) check(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

func (a *agent) state(state link.WorkerState) {
	a.t.Helper()
	a.send(link.State, link.StateMessage{State: state, PID: 17})
}

func (a *agent) data(s string) {
	a.t.Helper()
	a.check(a.SendData(dataFrame(s)))
}

func dataFrame(s string) []byte { return append(make([]byte, link.HeaderSize), s...) }

// expect reads the next frame, of the given type. The wait is bounded by the
// connection's silence limit: the pool beats less often than that only when dead.
func (a *agent) expect(kind link.Type) link.Frame {
	a.t.Helper()
	frame, err := a.Next()
	if err != nil {
		a.t.Fatalf("waiting for %s: %v", kind, err)
	}
	if frame.Type != kind {
		a.t.Fatalf("got %s, want %s", frame.Type, kind)
	}
	return link.Frame{Type: kind, Payload: bytes.Clone(frame.Payload)}
}

// ends reads the end of the connection.
func (a *agent) ends() {
	a.t.Helper()
	if frame, err := a.Next(); err == nil {
		a.t.Fatalf("got %s, want the end of the connection", frame.Type)
	}
}

// grant answers the next reservation.
func (a *agent) grant() {
	a.t.Helper()
	a.check(a.SendNumber(link.Reserved, a.expect(link.Reserve).Number()))
}

// result is Acquire's.
type result struct {
	worker *pool.Worker
	err    error
}

// acquire calls Acquire in the background.
func (r *rendezvous) acquire(ctx context.Context) <-chan result {
	return r.acquireWanted(ctx, r.want(0))
}

func (r *rendezvous) acquireRanked(rank int) <-chan result {
	return r.acquireWanted(r.ctx, r.want(rank))
}

func (r *rendezvous) acquireWanted(ctx context.Context, want pool.Want) <-chan result {
	c := make(chan result, 1)
	go func() {
		w, err := r.Acquire(ctx, want)
		c <- result{w, err}
	}()
	return c
}

// queue is an acquire that is known to wait.
func (r *rendezvous) queue(ctx context.Context, t *testing.T) <-chan result {
	t.Helper()
	return r.waits(t, func() <-chan result { return r.acquire(ctx) })
}

func (r *rendezvous) queueRanked(t *testing.T, rank int) <-chan result {
	t.Helper()
	return r.waits(t, func() <-chan result { return r.acquireRanked(rank) })
}

func (r *rendezvous) queueWanted(t *testing.T, want pool.Want) <-chan result {
	t.Helper()
	return r.waits(t, func() <-chan result { return r.acquireWanted(r.ctx, want) })
}

func (r *rendezvous) waits(t *testing.T, acquire func() <-chan result) <-chan result {
	t.Helper()
	_, before := r.Counts()
	c := acquire()
	eventually(t, "Acquire to wait", func() bool { _, n := r.Counts(); return n == before+1 })
	return c
}

// hold is the worker of a, reserved; it must be the longest waiting.
func (r *rendezvous) hold(t *testing.T, a *agent) *pool.Worker {
	t.Helper()
	c := r.acquire(context.Background())
	a.grant()
	return mustGet(t, c)
}

func mustGet(t *testing.T, c <-chan result) *pool.Worker {
	t.Helper()
	got := want(t, c, "Acquire")
	if got.err != nil {
		t.Fatal(got.err)
	}
	return got.worker
}

// bind is the worker of a in a session.
func (r *rendezvous) bind(t *testing.T, a *agent) (*pool.Worker, *sink) {
	t.Helper()
	return r.bindWanted(t, a, r.want(0))
}

func (r *rendezvous) bindWanted(t *testing.T, a *agent, want pool.Want) (*pool.Worker, *sink) {
	t.Helper()
	c := r.acquireWanted(r.ctx, want)
	a.grant()
	w, s := mustGet(t, c), newSink()
	if err := w.Bind(s); err != nil {
		t.Fatal(err)
	}
	return w, s
}

// sink notes what it is told.
type sink struct {
	events  chan string
	explain func() string // of its worker's end
}

func newSink() *sink { return &sink{events: make(chan string, 100)} }

func (s *sink) Data(p []byte) { s.events <- "data " + string(p) }
func (s *sink) EOF()          { s.events <- "eof" }
func (s *sink) Drain()        { s.events <- "drain" }
func (s *sink) Ended(cause string, explain func() string) {
	s.explain = explain
	s.events <- "ended: " + cause
}

// expect waits for exactly these events.
func (s *sink) expect(t *testing.T, events ...string) {
	t.Helper()
	for _, event := range events {
		if got := want(t, s.events, event); got != event {
			t.Fatalf("the sink was told %q, want %q", got, event)
		}
	}
	if len(s.events) > 0 {
		t.Fatalf("the sink was also told %q", <-s.events)
	}
}

// want receives from c.
func want[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	return testkit.Receive(t, c, what)
}

// eventually waits for what the pool shows only when asked.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	testkit.Eventually(t, what, condition)
}

// counts fails unless exactly these states have workers, and nobody waits.
func (r *rendezvous) expectCounts(t *testing.T, wanted map[pool.State]int) {
	t.Helper()
	states, waiting := r.Counts()
	for _, state := range pool.States {
		if states[state] != wanted[state] {
			t.Errorf("%d workers are %s, want %d", states[state], state, wanted[state])
		}
	}
	if waiting != 0 || len(states) != len(pool.States) {
		t.Errorf("%d wait, %d states", waiting, len(states))
	}
}

// snapshot describes the one slot that there is.
func (r *rendezvous) snapshot(t *testing.T) pool.Snapshot {
	t.Helper()
	all := r.Workers()
	if len(all) != 1 {
		t.Fatalf("%d slots, want 1", len(all))
	}
	return all[0]
}

// metric is the value of a metric, of the labels' values given.
func (r *rendezvous) metric(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	return testkit.Metric(t, r.registry, name, labels...)
}
