package pool

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/psock-runtime/psock-runtime/internal/link"
)

// Metrics are the pool's metrics.
type Metrics struct {
	register prometheus.Registerer
	deaths   map[link.ExitKind]prometheus.Counter
}

// exitLost is the death of a worker together with its agent, or of the network in
// between, in the middle of a session.
const exitLost link.ExitKind = "connection_lost"

// NewMetrics registers the pool's metrics with register.
func NewMetrics(register prometheus.Registerer) *Metrics {
	deaths := promauto.With(register).NewCounterVec(prometheus.CounterOpts{
		Name: "rendezvous_worker_deaths_total",
		Help: "Workers that ended without having been told to by their session, by how: exited by itself, signal, out_of_memory, drained in the middle of a call, connection_lost with a session.",
	}, []string{"reason"})
	m := &Metrics{register: register, deaths: make(map[link.ExitKind]prometheus.Counter)}
	for _, kind := range []link.ExitKind{link.ExitStatus, link.ExitSignal, link.ExitNoMemory, link.ExitDrained, exitLost} {
		m.deaths[kind] = deaths.WithLabelValues(string(kind))
	}
	return m
}

func (m *Metrics) died(kind link.ExitKind) {
	counter, known := m.deaths[kind]
	if !known { // an agent of another release
		counter = m.deaths[link.ExitStatus]
	}
	counter.Inc()
}

// attach registers what is read from p at each scrape.
func (m *Metrics) attach(p *Pool) {
	m.register.MustRegister(&collector{
		pool: p,
		workers: prometheus.NewDesc("rendezvous_workers",
			"Worker slots connected to the rendezvous, by what their worker is doing.", []string{"state"}, nil),
		waiting: prometheus.NewDesc("rendezvous_nodes_waiting",
			"Nodes of R sessions that wait for a warm worker.", nil, nil),
		busy: prometheus.NewDesc("rendezvous_worker_busy_seconds_total",
			"Time that a slot's workers have spent in calls which they have finished.", []string{"worker"}, nil),
		memory: prometheus.NewDesc("rendezvous_workers_memory_bytes",
			"Resident memory of all workers together, as their agents have told.", nil, nil),
		largest: prometheus.NewDesc("rendezvous_largest_worker_memory_bytes",
			"Resident memory of the worker that takes most.", nil, nil),
	})
}

type collector struct {
	pool                                    *Pool
	workers, waiting, busy, memory, largest *prometheus.Desc
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.workers
	ch <- c.waiting
	ch <- c.busy
	ch <- c.memory
	ch <- c.largest
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	states, waiting := c.pool.Counts()
	for _, state := range States {
		ch <- prometheus.MustNewConstMetric(c.workers, prometheus.GaugeValue, float64(states[state]), string(state))
	}
	ch <- prometheus.MustNewConstMetric(c.waiting, prometheus.GaugeValue, float64(waiting))
	busy, memory, largest := c.pool.figures()
	for worker, busy := range busy {
		ch <- prometheus.MustNewConstMetric(c.busy, prometheus.CounterValue, busy.Seconds(), worker)
	}
	ch <- prometheus.MustNewConstMetric(c.memory, prometheus.GaugeValue, memory)
	ch <- prometheus.MustNewConstMetric(c.largest, prometheus.GaugeValue, largest)
}
