// Package rendezvous puts the rendezvous together: agents' connections come in
// through the intake, park in the pool, and the broker pairs them with the nodes
// of R sessions.
package rendezvous

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/psock-runtime/psock-runtime/internal/admin"
	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/broker"
	"github.com/psock-runtime/psock-runtime/internal/journal"
	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/pods"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/internal/relay"
	"github.com/psock-runtime/psock-runtime/internal/scaler"
	"github.com/psock-runtime/psock-runtime/internal/sockdiag"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// Config is what a rendezvous needs. The listeners and the prober are open
// already, so that what is wrong with them was an error of the configuration; Run
// closes the listeners.
type Config struct {
	Log    *zap.Logger
	Build  string
	Agents net.Listener // agents dial it
	TLS    *tls.Config  // nil: plain TCP, on loopback for UIDs' and our own agents alone
	// WorkerName is the DNS name that agents' certificates need; mtls.WorkerName when "".
	WorkerName string
	// AgentCheck is how agents are compared with Pods; CheckAddress when "".
	AgentCheck AgentCheck
	// Register, if not nil, registers further metrics.
	Register func(prometheus.Registerer)

	API           net.Listener // R dials it, on loopback
	Admin         net.Listener // probes and metrics
	Prober        *sockdiag.Prober
	UIDs          []uint32
	DemandTimeout time.Duration
	Grace         time.Duration // see broker.Config
	MaxWorkers    int
	// SessionWorkers is how many workers one cluster may hold; 0: no bound.
	SessionWorkers int
	MaxAttempts    int // see broker.Config
	Journal        *journal.Budget
	Timing         link.Timing
	// Pods, if not nil, watches the worker pods; its metrics are registered by Run.
	Pods func(*pods.Metrics) (*pods.Watcher, error)
	// Scale are the groups of workers whose Deployments are scaled in Cluster. They want
	// Pods, too.
	Scale   []scaler.Group
	Cluster scaler.Cluster
}

// podNewsLimit is how long a session that has lost a worker waits for what Kubernetes
// knows about it: kubelet reports the end of a container within a second.
const podNewsLimit = 2 * time.Second

// reserveLimit is how long an agent may take to confirm that its worker is there:
// a round trip, and a second of patience for an agent on a busy machine.
const reserveLimit = time.Second

// Run serves until ctx ends.
func Run(ctx context.Context, config Config) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	if config.Register != nil {
		config.Register(registry)
	}
	group, ctx := errgroup.WithContext(ctx)
	poolConfig := pool.Config{
		Log: config.Log, Metrics: pool.NewMetrics(registry), Build: config.Build,
		MaxWorkers: config.MaxWorkers, ReserveLimit: reserveLimit,
	}
	refused := newRefusals(config.Log, registry)
	var missing func() []pods.Pod
	var watcher *pods.Watcher
	var watch worklist
	if config.Pods != nil {
		var err error
		if watcher, err = config.Pods(pods.NewMetrics(registry)); err != nil {
			return err
		}
		watch = watcher
		missing = func() []pods.Pod { return refused.explain(watcher.Missing()) }
		poolConfig.Why = func(ctx context.Context, agent string) string {
			ctx, cancel := context.WithTimeout(ctx, podNewsLimit)
			defer cancel()
			return watcher.Why(ctx, agent)
		}
		group.Go(func() error { return watcher.Run(ctx) })
	}
	guard := newGuard(config, watch, refused)
	poolConfig.Admit = guard.admit
	workers := pool.New(poolConfig)
	book := &leases{}
	brokerConfig := broker.Config{
		Log: config.Log, Metrics: broker.NewMetrics(registry), Relay: relay.NewMetrics(registry),
		Pool: workers, Listeners: config.Prober, PeerUID: config.Prober.PeerUID, UIDs: config.UIDs,
		Awaited: sockdiag.Awaited, Grace: config.Grace, DemandTimeout: config.DemandTimeout,
		MaxAttempts: config.MaxAttempts, Journal: config.Journal, Missing: missing, SessionWorkers: config.SessionWorkers,
		Leases: book,
	}
	var sessions *broker.Broker
	scaling := config.scaler(registry, watcher, workers, func() map[string]int { return sessions.Wanted() })
	if scaling != nil {
		brokerConfig.Scaling, brokerConfig.Groups = scaling, scaling.Groups()
	}
	sessions = broker.New(brokerConfig)
	book.Manager = newLeases(config, workers, sessions, registry)
	config.Journal.Register(registry)
	in := newIntake(config, workers, guard)
	source := config.source(workers, sessions, book, scaling)
	closed := admin.NewClosed("rendezvous", registry)
	config.Log.Info("rendezvous is up",
		zap.Stringer("agents", config.Agents.Addr()), zap.Bool("tls", config.TLS != nil),
		zap.Stringer("api", config.API.Addr()), zap.Stringer("admin", config.Admin.Addr()),
		zap.String("demandFrom", string(config.Prober.Backend())), zap.Uint32s("sessionUids", config.UIDs))

	group.Go(func() error { return guard.run(ctx) })
	group.Go(func() error { return in.run(ctx, config.Agents) })
	group.Go(func() error { return sessions.Run(ctx) })
	group.Go(func() error { return book.Run(ctx) })
	group.Go(func() error { return scaling.Run(ctx) })
	group.Go(func() error { return admin.Serve(ctx, config.API, api.Handler(source), closed.WithLabelValues("api")) })
	group.Go(func() error {
		return admin.Serve(ctx, config.Admin, admin.Handler(sessions.Ready, registry), closed.WithLabelValues("admin"))
	})
	return group.Wait()
}

// source is what R and people are told.
func (c Config) source(workers *pool.Pool, sessions *broker.Broker, book *leases, scaling *scaler.Scaler) api.Source {
	return api.Source{
		State: func() api.State {
			return api.State{
				Build: c.Build, Backend: string(c.Prober.Backend()),
				Workers: workers.Workers(), Pods: sessions.MissingPods(), Clusters: sessions.Clusters(),
				Leases: book.List(), Scaling: scaling.Snapshot(),
			}
		},
		Available: sessions.Available,
		Announce:  sessions.Announce,
		Hint:      sessions.Hint,
		Outlook:   sessions.PlanOutlook,
		Once:      sessions.Once,
		Nodes:     sessions.Nodes,
		Leases:    book,
		PeerUID:   c.Prober.PeerUID,
		UIDs:      c.UIDs,
	}
}

// scaler makes what scales the workers' Deployments, nil if nothing is to.
func (c Config) scaler(registry prometheus.Registerer, watcher *pods.Watcher, workers *pool.Pool, wanted func() map[string]int) *scaler.Scaler {
	if len(c.Scale) == 0 {
		return nil
	}
	return scaler.New(scaler.Config{
		Log: c.Log, Metrics: scaler.NewMetrics(registry), Groups: c.Scale, Cluster: c.Cluster, Pods: watcher, Pool: workers, Wanted: wanted,
	})
}
