package lease

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are the book's metrics.
type Metrics struct {
	register prometheus.Registerer
	refused  map[Reason]prometheus.Counter
}

// NewMetrics registers the book's metrics with register.
func NewMetrics(register prometheus.Registerer) *Metrics {
	refused := promauto.With(register).NewCounterVec(prometheus.CounterOpts{
		Name: "rendezvous_leases_refused_total",
		Help: "Leases that were refused, by why: group (there is no such worker group), maximum (more than the group's), max_workers (more than --max-workers), cap (more than one session may have), crowded (too many leases), no_port, no_workers (they did not become ready in time).",
	}, []string{"reason"})
	m := &Metrics{register: register, refused: make(map[Reason]prometheus.Counter)}
	for _, reason := range Reasons {
		m.refused[reason] = refused.WithLabelValues(string(reason))
	}
	return m
}

func (m *Metrics) refuse(reason Reason) { m.refused[reason].Inc() }

// attach registers what is read from book at each scrape.
func (m *Metrics) attach(book *Manager) {
	m.register.MustRegister(&collector{book: book, leases: prometheus.NewDesc("rendezvous_leases",
		"Leases that sessions have asked for, by what has become of them.", []string{"state"}, nil)})
}

type collector struct {
	book   *Manager
	leases *prometheus.Desc
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) { ch <- c.leases }

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	counts := make(map[State]int)
	c.book.mu.Lock()
	for _, l := range c.book.ports {
		counts[l.state]++
	}
	c.book.mu.Unlock()
	for _, state := range States {
		ch <- prometheus.MustNewConstMetric(c.leases, prometheus.GaugeValue, float64(counts[state]), string(state))
	}
}
