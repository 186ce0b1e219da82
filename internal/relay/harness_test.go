package relay_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/psock-runtime/psock-runtime/internal/journal"
	"github.com/psock-runtime/psock-runtime/internal/relay"
	"github.com/psock-runtime/psock-runtime/internal/socket"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"go.uber.org/goleak"
	"go.uber.org/zap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = testkit.Patience

// worker is the relay's other end: it keeps what it is sent.
type worker struct {
	fails   bool
	forgets bool          // keeps nothing of what it is sent
	deaf    bool          // takes nothing until it is aborted
	gone    bool          // has ended before it is bound
	slow    chan struct{} // what it was sent it has taken when that is closed, if there is one
	name    string

	sink  relay.Sink
	bound chan struct{} // closed by Bind

	setUp    relay.SetUp      // by others
	offers   chan relay.SetUp // of Offer
	kept     chan struct{}    // closed by Keep
	released chan struct{}    // closed by Release
	recalled chan struct{}    // closed by the test
	failed   chan struct{}    // closed by a SendData that fails

	mu    sync.Mutex
	sent  int
	got   bytes.Buffer
	news  chan struct{}
	ended chan struct{} // closed by End

	aborted chan struct{} // closed by Abort
}

func (w *worker) SendData(frame []byte) error {
	if w.fails {
		w.once(w.failed)
		return errors.New("the worker has gone")
	}
	if w.deaf {
		<-w.aborted
		return errors.New("aborted")
	}
	if w.slow != nil {
		defer func() { <-w.slow }()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent += len(frame) - relay.Headroom
	if !w.forgets {
		w.got.Write(frame[relay.Headroom:])
	}
	close(w.news)
	w.news = make(chan struct{})
	return nil
}

func newWorker(name string) *worker { return (&worker{name: name}).init() }

func (w *worker) init() *worker {
	w.news, w.ended, w.aborted = make(chan struct{}), make(chan struct{}), make(chan struct{})
	w.bound, w.offers, w.recalled = make(chan struct{}), make(chan relay.SetUp, 100), make(chan struct{})
	w.kept, w.released = make(chan struct{}), make(chan struct{})
	w.failed = make(chan struct{})
	return w
}

func (w *worker) Name() string { return w.name }

func (w *worker) Bind(sink relay.Sink) error {
	if w.gone {
		return errors.New("the worker has gone")
	}
	w.sink = sink
	close(w.bound)
	return nil
}

func (w *worker) Release() { w.once(w.released) }

func (w *worker) SetUp() relay.SetUp { return w.setUp }

func (w *worker) Recalled() <-chan struct{} { return w.recalled }

func (w *worker) Offer(setUp relay.SetUp, _ bool) { w.offers <- setUp }

func (w *worker) Keep() { w.once(w.kept) }

func (w *worker) Yield() bool { return true }

func (w *worker) Busy(time.Duration) {}

func (w *worker) End() { w.once(w.ended) }

func (w *worker) Abort() { w.once(w.aborted) }

func (w *worker) once(c chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-c:
	default:
		close(c)
	}
}

// await returns what the worker was sent once it is n bytes.
func (w *worker) await(t testing.TB, n int) []byte {
	t.Helper()
	limit := time.After(patience)
	for {
		w.mu.Lock()
		news, got := w.news, w.sent
		if got >= n {
			defer w.mu.Unlock()
			return bytes.Clone(w.got.Bytes())
		}
		w.mu.Unlock()
		select {
		case <-news:
		case <-limit:
			t.Fatalf("the worker was sent %d bytes, want %d", got, n)
		}
	}
}

// session is a Session that runs, R's end of its connection, and its worker.
type session struct {
	*relay.Session
	r        *net.TCPConn
	worker   *worker
	registry *prometheus.Registry
	budget   *journal.Budget
	cause    chan string     // Run's result
	spare    chan *worker    // for Recovery.Acquire; nil is an error
	needs    chan relay.Need // what it was asked for
	gone     atomic.Bool     // nobody has R's end open
	scarce   atomic.Bool     // somebody waits for a worker
}

func (s *session) Data(p []byte)      { s.worker.sink.Data(p) }
func (s *session) EOF()               { s.worker.sink.EOF() }
func (s *session) Drain()             { s.worker.sink.Drain() }
func (s *session) Ended(cause string) { s.worker.sink.Ended(cause, nil) }

// acquire waits for a spare worker.
func (s *session) acquire(ctx context.Context, need relay.Need) (relay.Worker, error) {
	s.needs <- need
	select {
	case w := <-s.spare:
		if w == nil {
			return nil, errors.New("0 of 1 workers are ready")
		}
		return w, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func start(t testing.TB, w *worker, opening []byte) *session {
	t.Helper()
	return startIn(t, w, opening, someRoom)
}

// startWithin starts one whose journal has these limits.
func startWithin(t testing.TB, limits journal.Limits) *session {
	t.Helper()
	return startIn(t, &worker{}, nil, limits)
}

// someRoom is what a journal has in most tests.
var someRoom = journal.Limits{Each: 1 << 20, Memory: 1 << 20, Disk: 100 << 20}

func startIn(t testing.TB, w *worker, opening []byte, limits journal.Limits) *session {
	t.Helper()
	return startWith(t, relay.Recovery{}, w, opening, limits)
}

func startWith(t testing.TB, recovery relay.Recovery, w *worker, opening []byte, limits journal.Limits) *session {
	t.Helper()
	w.name = "worker-a/0"
	s := newSession(t, recovery, limits)
	s.worker = w.init()
	s.run(t, func() (string, error) { return s.Run(w, opening) })
	receive(t, w.bound, "the worker to be bound")
	return s
}

// newSession has not begun to run.
func newSession(t testing.TB, recovery relay.Recovery, limits journal.Limits) *session {
	t.Helper()
	client, r := connect(t)
	s := &session{r: r, registry: prometheus.NewRegistry(), cause: make(chan string, 1), spare: make(chan *worker, 10), needs: make(chan relay.Need, 100)}
	s.budget = journal.NewBudget(t.TempDir(), limits)
	recovery.Acquire, recovery.Attempts, recovery.Budget, recovery.Scarce = s.acquire, cmp.Or(recovery.Attempts, 3), s.budget, s.scarce.Load
	s.Session = relay.New(client, relay.NewMetrics(s.registry).Observer(zap.NewNop()), recovery, s.gone.Load)
	return s
}

// connect returns both ends of a connection.
func connect(t testing.TB) (client *socket.Conn, r *net.TCPConn) {
	t.Helper()
	near, r := testkit.Pair(t)
	client, err := socket.New(near)
	if err != nil {
		t.Fatal(err)
	}
	return client, r
}

// run runs the session until the end of the test.
func (s *session) run(t testing.TB, run func() (cause string, err error)) {
	go func() {
		cause, err := run()
		if err != nil {
			cause = err.Error()
		}
		s.cause <- cause
	}()
	t.Cleanup(func() {
		s.r.Close()
		if s.worker != nil && s.worker.sink != nil {
			s.Ended("the test is over")
		}
		receive(t, s.cause, "Run to return")
		if memory, disk := s.budget.Used(); memory != 0 || disk != 0 {
			t.Errorf("%d bytes of journal in memory and %d on disk are left", memory, disk)
		}
	})
}

func receive[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	return testkit.Receive(t, c, what)
}

// eventually waits for what shows only when asked for.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	testkit.Eventually(t, what, condition)
}

// read reads n bytes at R's end.
func (s *session) read(t testing.TB, n int) []byte {
	t.Helper()
	p := make([]byte, n)
	if err := s.r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s.r, p); err != nil {
		t.Fatal(err)
	}
	return p
}

// readEnd reads the end of the stream at R's end.
func (s *session) readEnd(t testing.TB) {
	t.Helper()
	if err := s.r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if n, err := s.r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("R reads %d bytes, %v; want the end of the stream", n, err)
	}
}

func (s *session) write(t testing.TB, p []byte) {
	t.Helper()
	if _, err := s.r.Write(p); err != nil {
		t.Fatal(err)
	}
}

// startShared starts a session of a shared cluster.
func startShared(t *testing.T, recovery relay.Recovery, limits journal.Limits) *session {
	t.Helper()
	recovery.Shared = true
	s := newSession(t, recovery, limits)
	s.run(t, func() (string, error) { return s.Run(nil, nil) })
	return s
}
