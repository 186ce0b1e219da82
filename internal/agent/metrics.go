package agent

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/psock-runtime/psock-runtime/internal/link"
)

// Metrics are the agent's metrics.
type Metrics struct {
	register      prometheus.Registerer
	ends          map[bool]prometheus.Counter
	startFailures prometheus.Counter
	disconnects   prometheus.Counter
}

// NewMetrics registers the agent's metrics with register.
func NewMetrics(register prometheus.Registerer) *Metrics {
	auto := promauto.With(register)
	ends := auto.NewCounterVec(prometheus.CounterOpts{
		Name: "worker_agent_worker_ends_total",
		Help: "R workers that ended, by whether that was expected: their session was over, or the agent stops.",
	}, []string{"expected"})
	return &Metrics{
		register: register,
		ends:     map[bool]prometheus.Counter{true: ends.WithLabelValues("true"), false: ends.WithLabelValues("false")},
		startFailures: auto.NewCounter(prometheus.CounterOpts{
			Name: "worker_agent_start_failures_total",
			Help: "Attempts to start an R worker that failed.",
		}),
		disconnects: auto.NewCounter(prometheus.CounterOpts{
			Name: "worker_agent_disconnects_total",
			Help: "Connections to the rendezvous that failed or ended.",
		}),
	}
}

func (m *Metrics) ended(expected bool) { m.ends[expected].Inc() }

func (m *Metrics) attach(a *Agent) {
	m.register.MustRegister(&collector{a, prometheus.NewDesc("worker_agent_slots",
		"Slots of this agent, by what their worker is doing, as the rendezvous is told.", []string{"state"}, nil)})
	promauto.With(m.register).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "worker_agent_slots_connected",
		Help: "Slots of this agent that are connected to the rendezvous.",
	}, func() float64 {
		n := 0
		for _, s := range a.slots {
			s.mu.Lock()
			if s.conn != nil {
				n++
			}
			s.mu.Unlock()
		}
		return float64(n)
	})
}

type collector struct {
	agent *Agent
	slots *prometheus.Desc
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) { ch <- c.slots }

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	counts := make(map[link.WorkerState]int)
	for _, s := range c.agent.slots {
		s.mu.Lock()
		counts[s.state.State]++
		s.mu.Unlock()
	}
	for _, state := range []link.WorkerState{link.Installing, link.Starting, link.Warm, link.Failed, link.Draining} {
		ch <- prometheus.MustNewConstMetric(c.slots, prometheus.GaugeValue, float64(counts[state]), string(state))
	}
}
