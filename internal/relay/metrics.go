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
	// Rerun: a future was lost with a worker, for the cause given, and is sent again
	// to another; attempt counts from 2.
	Rerun(worker, cause, other string, attempt int)
	// Lost: calls failed with their worker, and the session gets text as an R error,
	// or, where its stream does not allow that, the end of its connection.
	Lost(reason LossReason, text string)
}

// Metrics counts what all sessions relay.
type Metrics struct {
	bytes  [2]prometheus.Counter
	calls  map[bool]prometheus.Counter
	took   prometheus.Histogram
	opaque prometheus.Counter
	reruns prometheus.Counter
	lost   map[LossReason]prometheus.Counter
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
	lost := auto.NewCounterVec(prometheus.CounterOpts{
		Name: "rendezvous_lost_calls_total",
		Help: "Calls that failed with their worker, by why they were not sent again to another.",
	}, []string{"reason"})
	m := &Metrics{
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
		reruns: auto.NewCounter(prometheus.CounterOpts{
			Name: "rendezvous_reruns_total",
			Help: "Futures that were lost with their worker and sent again to another.",
		}),
		lost: make(map[LossReason]prometheus.Counter),
	}
	for _, reason := range LossReasons {
		m.lost[reason] = lost.WithLabelValues(string(reason))
	}
	return m
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

func (o observer) Rerun(worker, cause, other string, attempt int) {
	o.metrics.reruns.Inc()
	o.log.Info("future runs again", zap.String("lostWorker", worker), zap.String("cause", cause),
		zap.String("worker", other), zap.Int("attempt", attempt))
}

func (o observer) Lost(reason LossReason, text string) {
	o.metrics.lost[reason].Inc()
	o.log.Warn("call lost", zap.String("reason", string(reason)), zap.String("error", text))
}
