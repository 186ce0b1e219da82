package elastic_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/internal/scaler"
	"go.uber.org/zap"
)

// look is how often the world is looked at.
const look = 250 * time.Millisecond

// world is a pool that is scaled, and the sessions that use it. It lives in a bubble of
// testing/synctest.
type world struct {
	t        *testing.T
	most     int // pods
	idle     time.Duration
	start    time.Time
	now      time.Time // of the scaler, where it is not run but takes steps
	ctx      context.Context
	stop     context.CancelFunc
	pool     *pool.Pool
	kube     *kubernetes
	scaler   *scaler.Scaler
	running  sync.WaitGroup
	sessions []*session
	samples  []sample
}

// sample is what is to be seen at one moment.
type sample struct {
	at     time.Duration
	wanted int   // workers, by sessions
	asked  int   // pods that the Deployment is to have
	ready  int   // pods
	busy   []int // workers that compute, by session
	fresh  int   // workers that sessions have had so far, other than from each other
}

func (s sample) allBusy() (sum int) {
	for _, n := range s.busy {
		sum += n
	}
	return sum
}

func newWorld(t *testing.T, most int, idle time.Duration) *world {
	registry := prometheus.NewRegistry()
	w := &world{t: t, most: most, idle: idle, start: time.Now(), now: time.Now()}
	w.ctx, w.stop = context.WithCancel(context.Background())
	w.pool = pool.New(pool.Config{
		Log: zap.NewNop(), Metrics: pool.NewMetrics(registry), Build: "bench", MaxWorkers: most, ReserveLimit: time.Minute,
	})
	w.kube = newKubernetes(t, w.ctx, w.pool)
	w.scaler = scaler.New(scaler.Config{
		Log: zap.NewNop(), Metrics: scaler.NewMetrics(registry), Cluster: w.kube, Pods: w.kube, Pool: w.pool, Wanted: w.pool.Wanted,
		Groups: []scaler.Group{{
			Name: pool.DefaultGroup, Deployment: "future-worker", Max: most, Slots: 1, Idle: idle, Start: 10 * time.Minute,
		}},
	})
	return w
}

// run lets the sessions do what they do, and ends the world.
func (w *world) run(loads []load, end time.Duration) {
	for i, l := range loads {
		s := &session{load: l, pool: w.pool, poke: w.scaler.Poke, start: w.start}
		w.sessions = append(w.sessions, s)
		w.running.Go(func() { s.run(w.ctx, i) })
	}
	w.running.Go(func() { w.kube.control(w.ctx) })
	w.running.Go(func() { _ = w.scaler.Run(w.ctx) }) // ends with the context
	for time.Since(w.start) < end {
		w.samples = append(w.samples, w.sample())
		pause(w.ctx, look)
	}
	w.stop()
	w.running.Wait()
	w.kube.running.Wait()
}

func (w *world) sample() sample {
	s := sample{at: time.Since(w.start)}
	for _, n := range w.pool.Wanted() {
		s.wanted += n
	}
	s.asked, _, s.ready = w.kube.count()
	for _, session := range w.sessions {
		s.busy = append(s.busy, int(session.busy.Load()))
		s.fresh += int(session.fresh.Load())
	}
	return s
}

// between are the samples of a stretch of time.
func (w *world) between(from, until time.Duration) []sample {
	at := func(s sample, d time.Duration) int { return int(s.at - d) }
	first, _ := slices.BinarySearchFunc(w.samples, from, at)
	last, _ := slices.BinarySearchFunc(w.samples, until, at)
	return w.samples[first:last]
}
