package lease

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"go.uber.org/goleak"
	"go.uber.org/zap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	uid           = 1000
	demandTimeout = 2 * time.Minute
)

// worker is one of the fake pool.
type worker struct {
	pool           *workers
	name           string
	over, recalled chan struct{}
}

func (w *worker) Name() string              { return w.name }
func (w *worker) Over() <-chan struct{}     { return w.over }
func (w *worker) Recalled() <-chan struct{} { return w.recalled }

func (w *worker) Release() {
	select {
	case <-w.over:
	default:
		close(w.over)
		w.pool.add(w.name)
	}
}

// die ends a worker, whoever has it.
func (w *worker) die() { close(w.over) }

// workers is a pool.
type workers struct {
	free chan *worker

	mu       sync.Mutex
	asking   int
	most     int // callers of Acquire at once
	asked    []pool.Want
	complete []*pool.Tenant
	reserved map[string]*worker
}

func newWorkers() *workers {
	return &workers{free: make(chan *worker, 10000), reserved: make(map[string]*worker)}
}

func (p *workers) add(names ...string) {
	for _, name := range names {
		p.free <- &worker{pool: p, name: name, over: make(chan struct{}), recalled: make(chan struct{})}
	}
}

func (p *workers) NewTenant(string) *pool.Tenant { return new(pool.Tenant) }

func (p *workers) Complete(t *pool.Tenant) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.complete = append(p.complete, t)
}

func (p *workers) Acquire(ctx context.Context, want pool.Want) (Worker, error) {
	p.mu.Lock()
	p.asking++
	p.most = max(p.most, p.asking)
	p.asked = append(p.asked, want)
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.asking--
	}()
	select {
	case w := <-p.free:
		p.mu.Lock()
		defer p.mu.Unlock()
		p.reserved[w.name] = w
		return w, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// get is the worker of that name, as it was reserved last.
func (p *workers) get(name string) *worker {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reserved[name]
}

// limits are those of the tests.
type limits struct {
	mu     sync.Mutex
	never  error
	coming bool
	inUse  bool // what a lease that takes turns waits for
	news   string
}

func (l *limits) Check(uint32, string, int, bool) error { return l.never }
func (l *limits) Usual(uint32, string, []uint16) int    { return 4 }

func (l *limits) Coming(_ string, share bool) (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.news, l.coming || share && l.inUse
}

func (l *limits) set(news string, coming bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.news, l.coming = news, coming
}

func (l *limits) Missing(group string, held, wanted int, waited time.Duration) string {
	return fmt.Sprintf("%d of %d workers are ready; waited %s; start more", held, wanted, waited.Truncate(time.Minute))
}

// book is a Manager that runs in a bubble of fake time.
type book struct {
	*Manager
	t        *testing.T
	workers  *workers
	limits   *limits
	registry *prometheus.Registry

	mu       sync.Mutex
	occupied map[uint16]bool
	blind    error
}

func (b *book) occupy(ports ...uint16) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.occupied = make(map[uint16]bool)
	for _, port := range ports {
		b.occupied[port] = true
	}
}

func (b *book) seen() (map[uint16]bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.occupied, b.blind
}

// run gives test a book of a hundred and fifty ports that runs until it returns.
func run(t *testing.T, test func(*testing.T, *book)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &book{t: t, workers: newWorkers(), limits: &limits{}, registry: prometheus.NewRegistry()}
		b.Manager = New(Config{
			Log: zap.NewNop(), Metrics: NewMetrics(b.registry), Workers: b.workers, Limits: b.limits,
			First: 11000, Last: 11149, Occupied: b.seen, DemandTimeout: demandTimeout,
		})
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- b.Run(ctx) }()
		test(t, b)
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
		for _, s := range b.List() {
			if s.State != Ended && s.State != Refused {
				t.Errorf("after Run there is %+v", s)
			}
		}
	})
}

// pass lets time pass.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (b *book) open(r Request) Snapshot {
	b.t.Helper()
	s, err := b.Open(uid, r)
	if err != nil {
		b.t.Fatal(err)
	}
	synctest.Wait()
	return s
}

// look is how the lease is at present; it does not renew it.
func (b *book) look(id string) Snapshot {
	b.t.Helper()
	synctest.Wait()
	for _, s := range b.List() {
		if s.ID == id {
			return s
		}
	}
	return Snapshot{}
}

func (b *book) renew(id string) {
	b.t.Helper()
	if _, err := b.Wait(b.t.Context(), uid, id, -1, 0); err != nil {
		b.t.Fatal(err)
	}
}

// want compares what matters of a lease.
func (b *book) want(id string, state State, ready int, message string) {
	b.t.Helper()
	s := b.look(id)
	if s.State != state || s.Ready != ready || s.Message != message {
		b.t.Errorf("the lease is %s with %d, %q; want %s with %d, %q", s.State, s.Ready, s.Message, state, ready, message)
	}
}

// free is how many workers nobody has.
func (b *book) free() int {
	synctest.Wait()
	return len(b.workers.free)
}

func (b *book) refusals(reason Reason) float64 {
	return testutil.ToFloat64(b.config.Metrics.refused[reason])
}
