package scaler

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are the metrics of scaling.
type Metrics struct {
	pods, conditions  *prometheus.GaugeVec
	changes, failures *prometheus.CounterVec
}

// Kinds of rendezvous_scale_pods, and directions of rendezvous_scale_changes_total.
const (
	wanted = "wanted"
	spec   = "spec"
	ready  = "ready"
	least  = "min"
	most   = "max"

	up   = "up"
	down = "down"
)

// NewMetrics registers the metrics with register.
func NewMetrics(register prometheus.Registerer) *Metrics {
	auto := promauto.With(register)
	return &Metrics{
		pods: auto.NewGaugeVec(prometheus.GaugeOpts{
			Name: "rendezvous_scale_pods",
			Help: "Worker pods of a scaled group: wanted by sessions, within the bounds; spec, that its Deployment is told to have; ready; and the bounds min and max.",
		}, []string{"group", "kind"}),
		conditions: auto.NewGaugeVec(prometheus.GaugeOpts{
			Name: "rendezvous_scale_condition",
			Help: "1 while something is in the way of a group's scaling, by what it is; rendezvous status has the reason.",
		}, []string{"group", "type"}),
		changes: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "rendezvous_scale_changes_total",
			Help: "Times that a group's Deployment was told to have more pods, or fewer.",
		}, []string{"group", "direction"}),
		failures: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "rendezvous_scale_errors_total",
			Help: "Requests to the API server for a group's scaling that failed, by reason.",
		}, []string{"group", "reason"}),
	}
}

// of has every series of a group there from the start.
func (m *Metrics) of(g Group) {
	m.pods.WithLabelValues(g.Name, least).Set(float64(g.Min))
	m.pods.WithLabelValues(g.Name, most).Set(float64(g.Max))
	for _, kind := range []string{wanted, spec, ready} {
		m.pods.WithLabelValues(g.Name, kind).Set(0)
	}
	for _, t := range conditionTypes {
		m.conditions.WithLabelValues(g.Name, string(t)).Set(0)
	}
	for _, direction := range []string{up, down} {
		m.changes.WithLabelValues(g.Name, direction)
	}
	for _, reason := range failures {
		m.failures.WithLabelValues(g.Name, reason)
	}
}

// show takes over a snapshot.
func (m *Metrics) show(s Snapshot) {
	m.pods.WithLabelValues(s.Group, wanted).Set(float64(s.Need))
	m.pods.WithLabelValues(s.Group, spec).Set(float64(s.Pods))
	m.pods.WithLabelValues(s.Group, ready).Set(float64(s.Ready))
	there := make(map[ConditionType]bool)
	for _, c := range s.Conditions {
		there[c.Type] = true
	}
	for _, t := range conditionTypes {
		value := 0.0
		if there[t] {
			value = 1
		}
		m.conditions.WithLabelValues(s.Group, string(t)).Set(value)
	}
}
