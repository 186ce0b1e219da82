package rendezvous

import (
	"errors"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/psock-runtime/psock-runtime/internal/pods"
	"go.uber.org/zap"
)

// Reasons of a refused connection, the labels of the metric.
const (
	refusedTLS      = "tls"      // no TLS, no certificate, a foreign one
	refusedProtocol = "protocol" // TLS was right, what followed was not
	refusedUser     = "user"     // plain TCP, and its process is a stranger's
	refusedCrowded  = "crowded"  // it was the oldest of too many silent ones
	refusedAddress  = "address"  // too many of its address had not introduced themselves
	refusedName     = "name"     // its certificate is no worker agent's
	refusedPod      = "pod"      // it is not in the pod that it names
	refusedSlot     = "slot"     // its name is another's, or it has more slots than it said
)

var reasons = []string{refusedTLS, refusedProtocol, refusedUser, refusedCrowded, refusedAddress, refusedName, refusedPod, refusedSlot}

// complains reports whether a refusal for reason is worth a warning. The others are logged
// at debug: probes and scanners open the port and close it, and agents do when the
// network fails.
func complains(reason string) bool {
	switch reason {
	case refusedAddress, refusedName, refusedPod, refusedSlot:
		return true
	}
	return false
}

const (
	// complaintPace is how often the same of one address is logged: agents dial again
	// within a second.
	complaintPace = time.Minute
	// maxComplaints bounds what is remembered of addresses and of agents, each: strangers
	// choose their names.
	maxComplaints = 1024
)

// refusal is why an agent that has introduced itself may not take part.
type refusal struct {
	reason string
	agent  string // as it calls itself
	err    error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// refusals counts the connections that were refused, and says why they were.
type refusals struct {
	log   *zap.Logger
	count map[string]prometheus.Counter // by reason

	mu     sync.Mutex
	told   map[complaint]time.Time
	agents map[string]agentRefusal // by the agent's name
}

// complaint is what is logged once in a while.
type complaint struct {
	from   netip.Addr
	reason string
}

type agentRefusal struct {
	why string
	at  time.Time
}

func newRefusals(log *zap.Logger, register prometheus.Registerer) *refusals {
	r := &refusals{log: log, count: make(map[string]prometheus.Counter), told: make(map[complaint]time.Time), agents: make(map[string]agentRefusal)}
	refused := promauto.With(register).NewCounterVec(prometheus.CounterOpts{
		Name: "rendezvous_refused_connections_total",
		Help: "Connections to the agents' port that were refused: tls (no or a wrong certificate), protocol (no agent), user (a process of a user who is not served), crowded (silent while too many others were), address (too many silent ones of its address), name (the certificate is no worker agent's), pod (not in the worker pod that it names), slot (its name is another agent's, or more slots than it has said).",
	}, []string{"reason"})
	for _, reason := range reasons {
		r.count[reason] = refused.WithLabelValues(reason)
	}
	return r
}

// note counts and logs a refusal.
func (r *refusals) note(address net.Addr, reason string, err error) {
	r.count[reason].Inc()
	fields := []zap.Field{zap.Stringer("address", address), zap.String("reason", reason), zap.Error(err)}
	if r.remember(complaint{source(address), reason}, err) {
		r.log.Warn("connection refused", fields...)
		return
	}
	r.log.Debug("connection refused", fields...)
}

// remember reports whether a warning is due.
func (r *refusals) remember(what complaint, err error) (due bool) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	var refused *refusal
	if errors.As(err, &refused) {
		if len(r.agents) >= maxComplaints {
			maps.DeleteFunc(r.agents, func(_ string, a agentRefusal) bool { return now.Sub(a.at) > complaintPace })
		}
		if _, known := r.agents[refused.agent]; known || len(r.agents) < maxComplaints {
			r.agents[refused.agent] = agentRefusal{refused.Error(), now}
		}
	}
	if now.Sub(r.told[what]) < complaintPace || !complains(what.reason) {
		return false
	}
	if len(r.told) >= maxComplaints {
		maps.DeleteFunc(r.told, func(_ complaint, at time.Time) bool { return now.Sub(at) > complaintPace })
	}
	if len(r.told) >= maxComplaints {
		return false
	}
	r.told[what] = now
	return true
}

// explain adds to the pods that are missing why their agents are refused: without that a
// session would hear that they are "not ready yet".
func (r *refusals) explain(missing []pods.Pod) []pods.Pod {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, pod := range missing {
		if refused, ok := r.agents[pod.Name]; ok && time.Since(refused.at) < complaintPace {
			missing[i].Reason = pods.OneLine("its agent was refused: " + refused.why)
		}
	}
	return missing
}
