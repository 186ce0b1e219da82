package rendezvous

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/psock-runtime/psock-runtime/internal/broker"
	"github.com/psock-runtime/psock-runtime/internal/lease"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// leases is the book as the broker knows it. The broker is there before the book,
// which asks it what is in use.
type leases struct {
	*lease.Manager
}

// Take hands over a worker of the lease on port.
func (l *leases) Take(port uint16) (*pool.Worker, bool) {
	w, ok := l.Manager.Take(port)
	if !ok {
		return nil, false
	}
	return w.(*pool.Worker), true
}

// newLeases makes the book; sessions has been made with the same leases.
func newLeases(config Config, workers *pool.Pool, sessions *broker.Broker, register prometheus.Registerer) *lease.Manager {
	ports := config.Prober.Ports()
	return lease.New(lease.Config{
		Log: config.Log, Metrics: lease.NewMetrics(register), Workers: reserver{workers, config.SessionWorkers},
		Limits: limits{sessions, config.MaxWorkers, config.SessionWorkers}, First: ports.First, Last: ports.Last,
		Occupied: sessions.Occupied, DemandTimeout: config.DemandTimeout,
	})
}

// reserver is the pool as leases know it.
type reserver struct {
	*pool.Pool
	sessionWorkers int
}

// NewTenant makes a tenant that may hold as many workers as a session.
func (r reserver) NewTenant(name string) *pool.Tenant {
	return r.Pool.NewTenant(name, r.sessionWorkers)
}

// Acquire waits for a worker.
func (r reserver) Acquire(ctx context.Context, want pool.Want) (lease.Worker, error) {
	w, err := r.Pool.Acquire(ctx, want)
	if err != nil {
		return nil, err
	}
	return w, nil
}

// limits are those of the pool.
type limits struct {
	sessions       *broker.Broker
	maxWorkers     int
	sessionWorkers int // 0: no bound
}

// Check says why workers can never be had. A group is unknown when agents are there,
// but none of it; before the first has come nobody can tell.
func (l limits) Check(_ uint32, group string, workers int, share bool) error {
	if workers > l.maxWorkers && !share {
		return &lease.Refusal{Kind: lease.ErrNever, Reason: lease.OverPool,
			Text: fmt.Sprintf("%d workers can never be had: --max-workers is %d", workers, l.maxWorkers)}
	}
	if most := l.sessionWorkers; most > 0 && workers > most && !share {
		return &lease.Refusal{Kind: lease.ErrNever, Reason: lease.OverCap,
			Text: fmt.Sprintf("%d workers can never be had: --session-workers is %d", workers, most)}
	}
	if most := l.sessions.Bound(group); most > 0 && workers > most && !share {
		return &lease.Refusal{Kind: lease.ErrNever, Reason: lease.TooMany,
			Text: fmt.Sprintf("%d workers can never be had: the group has %d at most", workers, most)}
	}
	groups := l.sessions.Groups()
	if group != "" && len(groups) > 0 && !slices.Contains(groups, group) {
		slices.Sort(groups)
		return &lease.Refusal{Kind: lease.ErrNever, Reason: lease.NoGroup,
			Text: fmt.Sprintf("there is no worker group %q; there are: %s", group, strings.Join(groups, ", "))}
	}
	return nil
}

// Usual is as many as there are.
func (l limits) Usual(uid uint32, group string, returned []uint16) int {
	n := min(l.sessions.AvailableIn(group, uid, returned), l.maxWorkers)
	if l.sessionWorkers > 0 {
		n = min(n, l.sessionWorkers)
	}
	return n
}

// Coming says whether workers are on their way.
func (l limits) Coming(group string, share bool) (string, bool) {
	return l.sessions.Outlook(group, share)
}

// Missing is the text of a refusal.
func (l limits) Missing(group string, held, wanted int, waited time.Duration) string {
	return l.sessions.Lacking(group, held, wanted, waited)
}
