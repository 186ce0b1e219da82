package relay

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"
)

// Direction is a direction of the relayed stream.
type Direction int

// Up is from the session to the worker, Down from the worker to the session.
const (
	Up Direction = iota
	Down
)

// Observer is told what passes. Its methods must be quick and must not block.
type Observer interface {
	Bytes(direction Direction, n int)
	Call(took time.Duration, success bool)
	Opaque(reason error)
}

// Metrics counts what all sessions relay.
type Metrics struct {
	bytes  [2]prometheus.Counter
	calls  map[bool]prometheus.Counter
	took   prometheus.Histogram
	opaque prometheus.Counter
}

// NewMetrics registers the relay's metrics with register.
func NewMetrics(register prometheus.Registerer) *Metrics {
	auto := promauto.With(register)
	bytes := auto.NewCounterVec(prometheus.CounterOpts{
		Name: "rendezvous_relayed_bytes_total",
		Help: "Bytes relayed between R sessions and workers.",
	}, []string{"direction"})
	calls := auto.NewCounterVec(prometheus.CounterOpts{
		Name: "rendezvous_calls_total",
		Help: "Calls that workers have answered, by whether R code raised an error.",
	}, []string{"result"})
	return &Metrics{
		bytes: [2]prometheus.Counter{bytes.WithLabelValues("to_worker"), bytes.WithLabelValues("to_session")},
		calls: map[bool]prometheus.Counter{true: calls.WithLabelValues("success"), false: calls.WithLabelValues("error")},
		took: auto.NewHistogram(prometheus.HistogramOpts{
			Name: "rendezvous_call_duration_seconds",
			Help: "Time from a call's first byte to the end of its answer, as the relay sees it; its sum is the workers' busy time.",
			// From a clusterCall round trip, below 1 ms, to an hour.
			Buckets: prometheus.ExponentialBucketsRange(0.001, 3600, 14),
		}),
		opaque: auto.NewCounter(prometheus.CounterOpts{
			Name: "rendezvous_opaque_streams_total",
			Help: "Sessions whose stream the message scanner could not follow; their bytes were relayed all the same.",
		}),
	}
}

// Observer counts for one session and logs with log.
func (m *Metrics) Observer(log *zap.Logger) Observer { return observer{m, log} }

type observer struct {
	metrics *Metrics
	log     *zap.Logger
}

func (o observer) Bytes(direction Direction, n int) { o.metrics.bytes[direction].Add(float64(n)) }

func (o observer) Call(took time.Duration, success bool) {
	o.metrics.calls[success].Inc()
	o.metrics.took.Observe(took.Seconds())
}

func (o observer) Opaque(reason error) {
	o.metrics.opaque.Inc()
	o.log.Warn("stream is not followed any more: it is relayed, but its calls are not known", zap.Error(reason))
}
