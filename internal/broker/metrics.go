package broker

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are the broker's metrics.
type Metrics struct {
	register prometheus.Registerer
	clusters prometheus.Counter
	binds    prometheus.Counter
	latency  prometheus.Histogram
	unmet    prometheus.Counter
	foreign  map[string]prometheus.Counter
}

// Why a listener in the port range is left alone.
const (
	ownWorkers = "own_workers" // its cluster starts its own workers
	hungUp     = "hung_up"     // it closed our connection
	otherUser  = "other_user"  // the port changed hands while we connected
)

// NewMetrics registers the broker's metrics with register.
func NewMetrics(register prometheus.Registerer) *Metrics {
	auto := promauto.With(register)
	m := &Metrics{
		register: register,
		clusters: auto.NewCounter(prometheus.CounterOpts{
			Name: "rendezvous_clusters_total",
			Help: "PSOCK clusters of R sessions that were set up.",
		}),
		binds: auto.NewCounter(prometheus.CounterOpts{
			Name: "rendezvous_binds_total",
			Help: "Nodes of R sessions that were paired with a worker.",
		}),
		latency: auto.NewHistogram(prometheus.HistogramOpts{
			Name:    "rendezvous_bind_duration_seconds",
			Help:    "Time from a session's listening socket being seen to a worker being connected to it.",
			Buckets: prometheus.ExponentialBucketsRange(0.0005, 60, 12),
		}),
		unmet: auto.NewCounter(prometheus.CounterOpts{
			Name: "rendezvous_unmet_demand_total",
			Help: "Nodes that got an R error because no worker became ready in time.",
		}),
		foreign: make(map[string]prometheus.Counter),
	}
	foreign := auto.NewCounterVec(prometheus.CounterOpts{
		Name: "rendezvous_foreign_listeners_total",
		Help: "Listening sockets in the PSOCK port range that wanted no worker.",
	}, []string{"reason"})
	for _, reason := range []string{ownWorkers, hungUp, otherUser} {
		m.foreign[reason] = foreign.WithLabelValues(reason)
	}
	return m
}

func (m *Metrics) attach(b *Broker) {
	m.register.MustRegister(newWantedCollector(b))
	promauto.With(m.register).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rendezvous_clusters",
		Help: "PSOCK clusters of R sessions at present.",
	}, func() float64 {
		b.mu.Lock()
		defer b.mu.Unlock()
		return float64(len(b.clusters))
	})
}
