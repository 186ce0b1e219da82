package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/psock-runtime/psock-runtime/internal/admin"
	"github.com/psock-runtime/psock-runtime/internal/agent"
	"github.com/psock-runtime/psock-runtime/internal/limits"
	"github.com/psock-runtime/psock-runtime/internal/mtls"
	"github.com/psock-runtime/psock-runtime/internal/pid1"
	"github.com/psock-runtime/psock-runtime/internal/program"
	"github.com/psock-runtime/psock-runtime/internal/rpackages"
	"github.com/psock-runtime/psock-runtime/internal/scratch"
	"github.com/psock-runtime/psock-runtime/internal/sockdiag"
	"github.com/psock-runtime/psock-runtime/pkg/discovery"
	"github.com/psock-runtime/psock-runtime/pkg/discovery/kube"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// agentCommand is the configuration of a worker agent. Every flag can be given as
// an environment variable too.
type agentCommand struct {
	Rendezvous string `help:"Where the rendezvous is: IP:PORT[,IP:PORT], dns:NAME:PORT (each address of NAME), srv:NAME, or kubernetes:SERVICE:PORT (the EndpointSlices of a Service in this namespace, from the API server)." default:"127.0.0.1:7460" env:"WORKER_AGENT_RENDEZVOUS" placeholder:"SOURCE"`
	TLSDir     string `name:"tls-dir" help:"Directory with ca.crt, tls.crt and tls.key, as a kubernetes.io/tls secret has them; read again when they change. Needed unless --rendezvous is on loopback." env:"WORKER_AGENT_TLS_DIR" placeholder:"DIR"`
	Plaintext  bool   `help:"Dial without TLS although --rendezvous is not on loopback: anyone in between can read the sessions' data and pose as either side." env:"WORKER_AGENT_PLAINTEXT"`

	Workers int    `help:"Worker slots: how many R processes to keep." default:"1" env:"WORKER_AGENT_WORKERS"`
	Name    string `help:"Name of this agent in tables, logs and R errors (default: the host name, on Kubernetes the pod's)." env:"WORKER_AGENT_NAME"`
	Group   string `help:"Worker group that the slots belong to." env:"WORKER_AGENT_GROUP"`
	Node    string `help:"Name of the machine in tables; on Kubernetes the node's, from the downward API's spec.nodeName." env:"WORKER_AGENT_NODE"`

	installation
	Startup []string `help:"R expression that each worker evaluates before it is ready; can be given more than once." sep:"none" env:"WORKER_AGENT_STARTUP" placeholder:"EXPR"`
	Preload string   `help:"R packages, separated by spaces, whose namespaces each worker loads before it is ready, if it has them; empty: none. They are not attached." default:"future" env:"WORKER_AGENT_PRELOAD" placeholder:"NAMES"`
	Dir     string   `help:"Working directory of the workers (default: the agent's)." env:"WORKER_AGENT_DIR"`
	Scratch []string `help:"Folders to bring back, after each session and at the agent's end, to what they held when the agent started, before --startup: what is new in them IS DELETED, whoever has put it there, once no session uses a worker and none starts. What a living worker has made while it started stays until it ends. An agent that is killed leaves the files and .psock-scratch in them; the next one restores them if a session had used them. For folders that are the workers' alone, as in a container, and one agent's: it locks them." env:"WORKER_AGENT_SCRATCH" placeholder:"DIR,..."`

	StartTimeout time.Duration `help:"How long R may take to start." default:"60s" env:"WORKER_AGENT_START_TIMEOUT"`
	StopGrace    time.Duration `help:"How long R may take to end when its session is over, by itself or interrupted, and again after SIGTERM." default:"2s" env:"WORKER_AGENT_STOP_GRACE"`
	DrainBudget  time.Duration `help:"How long busy workers may finish their call when the agent is told to end; on Kubernetes, terminationGracePeriodSeconds less 2 x --stop-grace and 2s." default:"20s" env:"WORKER_AGENT_DRAIN_BUDGET"`
	NoLimits     bool          `help:"Leave R_MAX_VSIZE and the thread counts as they are, whatever the container grants." env:"WORKER_AGENT_NO_LIMITS"`

	AdminAddress   string `help:"HOST:PORT of /livez, /readyz and /metrics." default:"127.0.0.1:7463" env:"WORKER_AGENT_ADMIN_ADDRESS" placeholder:"ADDRESS"`
	AdminPlaintext bool   `help:"Serve --admin-address in plain text although it is not on loopback: anyone who reaches it can read the metrics." env:"WORKER_AGENT_ADMIN_PLAINTEXT"`

	program.Logging
}

// Validate checks what a look at the flags alone can tell.
func (c *agentCommand) Validate() error {
	if c.TLSDir != "" && c.Plaintext {
		return errors.New("--tls-dir and --plaintext contradict each other: give one of them")
	}
	source, err := c.source(zap.NewNop())
	if err != nil {
		return fmt.Errorf("--rendezvous: %w", err)
	}
	if c.TLSDir == "" && !c.Plaintext && !onLoopback(source) {
		return fmt.Errorf("--rendezvous: %s is not on loopback; give --tls-dir ('rendezvous certs --dir DIR' makes one), or --plaintext to do without", c.Rendezvous)
	}
	if c.Workers < 1 || c.Workers > 1024 {
		return fmt.Errorf("--workers: %d, give 1 to 1024", c.Workers)
	}
	for flag, d := range map[string]time.Duration{"--start-timeout": c.StartTimeout, "--stop-grace": c.StopGrace, "--drain-budget": c.DrainBudget} {
		if d <= 0 {
			return fmt.Errorf("%s: %s, give a positive duration such as 30s", flag, d)
		}
	}
	if err := c.checkNames(); err != nil {
		return err
	}
	if err := rpackages.CheckNames(strings.Fields(c.Preload)); err != nil {
		return fmt.Errorf("--preload: %w", err)
	}
	loopback, err := admin.Loopback(c.AdminAddress)
	if err != nil {
		return fmt.Errorf("--admin-address: %w", err)
	}
	if !loopback && !c.AdminPlaintext {
		return fmt.Errorf("--admin-address: %s is not on loopback; give --admin-plaintext to serve it in plain text", c.AdminAddress)
	}
	return nil
}

// source finds the rendezvous.
func (c *agentCommand) source(log *zap.Logger) (discovery.Source, error) {
	report := func(err error) { log.Warn("looking for the rendezvous failed, trying on", zap.Error(err)) }
	return discovery.Parse(c.Rendezvous, discovery.WithKind(kube.Kind()), discovery.WithReport(report))
}

// onLoopback reports whether source names loopback addresses only.
func onLoopback(source discovery.Source) bool {
	for _, address := range strings.Split(strings.TrimPrefix(source.String(), "static:"), ",") {
		if loopback, err := admin.Loopback(address); err != nil || !loopback {
			return false
		}
	}
	return true
}

// Run opens what the flags name and supervises the workers.
func (c *agentCommand) Run(ctx context.Context) error {
	log, err := c.New()
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	config, err := c.agentConfig(log, registry)
	if err != nil {
		return program.ConfigError{Err: err}
	}
	// R's connections to its loopback ports: any port, they are ephemeral.
	prober, err := sockdiag.Open(sockdiag.Range{First: 1, Last: 65535})
	if err != nil {
		return program.ConfigError{Err: err}
	}
	defer prober.Close()
	config.PeerUID = prober.PeerUID
	listener, err := program.Listen("--admin-address", c.AdminAddress)
	if err != nil {
		return err
	}
	defer listener.Close()
	// Last, since it logs: what is wrong with the configuration is one line.
	if err := c.limit(&config); err != nil {
		return program.ConfigError{Err: err}
	}
	c.packages(&config)

	log.Info("worker agent is up", zap.String("name", config.Name), zap.Int("slots", config.Slots),
		zap.Stringer("rendezvous", config.Source), zap.Bool("tls", config.TLS != nil), zap.Stringer("admin", listener.Addr()))
	a, err := agent.New(config)
	if err != nil {
		return program.ConfigError{Err: err}
	}
	// Probes and metrics stay up through the drain.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	group, serving := errgroup.WithContext(serving)
	closed := admin.NewClosed("worker_agent", registry).WithLabelValues("admin")
	group.Go(func() error { return admin.Serve(serving, listener, admin.Handler(a.Ready, registry), closed) })
	group.Go(func() error {
		defer stopServing()
		running, stop := context.WithCancel(ctx)
		defer context.AfterFunc(serving, stop)()
		return a.Run(running)
	})
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	log.Info("worker agent has ended")
	return nil
}

// agentConfig turns the flags into an agent's configuration.
func (c *agentCommand) agentConfig(log *zap.Logger, registry prometheus.Registerer) (agent.Config, error) {
	config := agent.Config{
		Log: log, Metrics: agent.NewMetrics(registry), Name: c.Name, Instance: rand.Text(), Group: c.Group, Node: c.Node,
		Build: program.Version(), Slots: c.Workers,
		Command: psock.Command{Rscript: c.Rscript, Startup: c.Startup, Preload: strings.Fields(c.Preload)},
		Env:     append(os.Environ(), agent.NoStartupFiles(os.Environ())...), Dir: c.Dir,
		Container:  pid1.Owned(),
		StartLimit: c.StartTimeout, StopGrace: c.StopGrace, DrainBudget: c.DrainBudget,
	}
	var err error
	if config.Name == "" {
		if config.Name, err = os.Hostname(); err != nil {
			return config, fmt.Errorf("--name is not given and the host has none: %w", err)
		}
	}
	if config.Source, err = c.source(log); err != nil {
		return config, fmt.Errorf("--rendezvous: %w", err)
	}
	if c.Dir != "" {
		if info, err := os.Stat(c.Dir); err != nil {
			return config, fmt.Errorf("--dir: give a directory that is there: %w", err)
		} else if !info.IsDir() {
			return config, fmt.Errorf("--dir: %s is no directory", c.Dir)
		}
	}
	if config.Scratch, err = scratch.Resolve(c.Scratch); err != nil {
		return config, fmt.Errorf("--scratch: %w", err)
	}
	if c.TLSDir != "" {
		material, err := mtls.Load(c.TLSDir, mtls.WithRole(mtls.ClientRole), mtls.WithReport(program.ReportReload(log)))
		if err != nil {
			return config, fmt.Errorf("--tls-dir: %w", err)
		}
		config.TLS = material.ClientConfig()
		material.Register(registry, "worker_agent_tls_certificate_expiry_timestamp_seconds")
	}
	return config, nil
}

// limit gives each worker its share of what the container grants.
func (c *agentCommand) limit(config *agent.Config) error {
	config.OOMKills = limits.OOMKills
	if c.NoLimits {
		return nil
	}
	granted, err := limits.Read()
	if err != nil {
		return err
	}
	share, err := granted.Share(c.Workers)
	if err != nil {
		config.Log.Warn("little memory for this many workers", zap.Error(err))
	}
	config.Env = append(config.Env, share.Env(config.Env)...)
	config.Log.Info("each worker's share", zap.Int64("memoryBytes", share.MemoryBytes), zap.Int("threads", share.Threads))
	return nil
}

// packages arranges the installation of R packages.
func (c *agentCommand) packages(config *agent.Config) {
	if c.RLibrary != "" {
		libs := c.RLibrary
		if old := os.Getenv("R_LIBS"); old != "" {
			libs += ":" + old
		}
		config.Env = append(config.Env, "R_LIBS="+libs)
	}
	install := c.config(config.Log, config.Env)
	if len(install.Packages) > 0 {
		config.Install = func(ctx context.Context) error { return rpackages.Install(ctx, install) }
	}
}
