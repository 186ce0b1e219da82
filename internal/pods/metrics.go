package pods

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are the metrics of the worker pods.
type Metrics struct{ ends map[string]prometheus.Counter }

// other stands for every reason that is not in reasons.
const other = "other"

// reasons are Kubernetes' words for how a pod or a container of it ends.
var reasons = []string{"OOMKilled", "Evicted", "Error", "Completed", "NodeLost", "Preempting", other}

// NewMetrics registers the metrics with register.
func NewMetrics(register prometheus.Registerer) *Metrics {
	ends := promauto.With(register).NewCounterVec(prometheus.CounterOpts{
		Name: "rendezvous_worker_pod_ends_total",
		Help: "Worker pods, or containers of theirs, that ended, by Kubernetes' reason.",
	}, []string{"reason"})
	m := &Metrics{ends: make(map[string]prometheus.Counter)}
	for _, reason := range reasons {
		m.ends[reason] = ends.WithLabelValues(reason)
	}
	return m
}

func (m *Metrics) ended(reason string) {
	counter, known := m.ends[reason]
	if !known {
		counter = m.ends[other]
	}
	counter.Inc()
}
