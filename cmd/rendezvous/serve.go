package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/psock-runtime/psock-runtime/internal/admin"
	"github.com/psock-runtime/psock-runtime/internal/journal"
	"github.com/psock-runtime/psock-runtime/internal/limits"
	"github.com/psock-runtime/psock-runtime/internal/mtls"
	"github.com/psock-runtime/psock-runtime/internal/pods"
	"github.com/psock-runtime/psock-runtime/internal/program"
	"github.com/psock-runtime/psock-runtime/internal/rendezvous"
	"github.com/psock-runtime/psock-runtime/internal/sockdiag"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/labels"
)

// journalShare is how many futures with much data share the memory for journals.
const journalShare = 8

// serve is the configuration of a rendezvous. Every flag can be given as an
// environment variable too.
type serve struct {
	AgentsAddress string `help:"HOST:PORT on which worker agents dial in." default:"127.0.0.1:7460" env:"RENDEZVOUS_AGENTS_ADDRESS" placeholder:"ADDRESS"`
	TLSDir        string `name:"tls-dir" help:"Directory with ca.crt, tls.crt and tls.key, as a kubernetes.io/tls secret has them; read again when they change. Needed unless --agents-address is on loopback." env:"RENDEZVOUS_TLS_DIR" placeholder:"DIR"`
	WorkerName    string `help:"DNS name that the certificate of a worker agent must have. With a CA that serves more than this rendezvous, give each a name of its own." default:"worker" env:"RENDEZVOUS_WORKER_NAME" placeholder:"NAME"`
	Plaintext     bool   `help:"Let agents dial in without TLS although --agents-address is not on loopback: anyone who reaches it can take part, and read the sessions' data." env:"RENDEZVOUS_PLAINTEXT"`

	APIAddress     string `name:"api-address" help:"HOST:PORT, on loopback, on which R asks for the live number of workers and 'rendezvous status' for the state." default:"127.0.0.1:7461" env:"RENDEZVOUS_API_ADDRESS" placeholder:"ADDRESS"`
	AdminAddress   string `help:"HOST:PORT of /livez, /readyz and /metrics." default:"127.0.0.1:7462" env:"RENDEZVOUS_ADMIN_ADDRESS" placeholder:"ADDRESS"`
	AdminPlaintext bool   `help:"Serve --admin-address in plain text although it is not on loopback: anyone who reaches it can read the metrics." env:"RENDEZVOUS_ADMIN_PLAINTEXT"`

	Ports         string        `help:"FIRST-LAST: the ports on which R sessions listen for workers." default:"11000-11999" env:"RENDEZVOUS_PORTS"`
	SessionUIDs   []int64       `name:"session-uids" help:"User ids whose R sessions are served (default: the user who runs this)." env:"RENDEZVOUS_SESSION_UIDS" placeholder:"UID,..."`
	Grace         grace         `help:"How long a socket in --ports that no session has announced is left to others: it may belong to a cluster that starts its own workers. Then it gets workers of the pool. never: it gets none, and only sessions that read the site profile, or use the R package, do." default:"5s" env:"RENDEZVOUS_GRACE"`
	DemandTimeout time.Duration `help:"How long a session waits for a worker before it gets an R error that says what is missing." default:"60s" env:"RENDEZVOUS_DEMAND_TIMEOUT"`
	MaxAttempts   int           `help:"How many workers one future may be lost with before its session gets an R error that names them. With 1, no future runs twice." default:"3" env:"RENDEZVOUS_MAX_ATTEMPTS"`
	JournalMemory int64         `help:"MiB of memory for what running futures were sent, to send it again when a worker is lost, and for answers that R does not read while somebody waits for a worker." default:"64" env:"RENDEZVOUS_JOURNAL_MEMORY" placeholder:"MIB"`
	JournalDisk   int64         `help:"MiB of files in --journal-dir for what is over --journal-memory. What is over both cannot run again, or waits in its worker." default:"2048" env:"RENDEZVOUS_JOURNAL_DISK" placeholder:"MIB"`
	JournalDir    string        `help:"Directory of these files (default: the system's for temporary files). They are deleted while they are open: nothing is left over." env:"RENDEZVOUS_JOURNAL_DIR" placeholder:"DIR"`
	WorkerPods    string        `help:"Label selector of the worker pods in this pod's namespace, for instance release=test,component=worker: errors then say what Kubernetes knows of those that are missing. Needs a service account that may get, list and watch pods." env:"RENDEZVOUS_WORKER_PODS" placeholder:"SELECTOR"`
	AgentCheck    string        `help:"With --worker-pods: what an agent is checked for. address: its name is that of such a pod, its group the pod's label group, and it connects from the pod's address; name: without the address, where the network changes addresses (NAT, a service mesh); none: agents outside of these pods may dial in, too." default:"address" enum:"address,name,none" env:"RENDEZVOUS_AGENT_CHECK"`
	Scale         []string      `help:"A Deployment of worker pods to scale with what sessions want, as deployment=NAME,max=PODS and, if others than these, group=default,min=0,slots=1 (workers in a pod), idle=5m (until pods go that nobody needs), rate=0 (pods added in a minute at most; 0: no bound), start=10m (how long sessions wait for pods that start). Can be given more than once. Needs --worker-pods, and a service account that may get the Deployment, update its scale, and patch pods." sep:";" env:"RENDEZVOUS_SCALE" placeholder:"GROUP"`
	MaxWorkers    int           `help:"Most worker slots that may be connected." default:"10000" env:"RENDEZVOUS_MAX_WORKERS"`

	SessionWorkers int `help:"Most workers that one cluster of a session may have at a time; 0 is no bound. Without one, sessions share what there is evenly." default:"0" env:"RENDEZVOUS_SESSION_WORKERS"`

	program.Logging
}

// grace is a time, or never, which is negative.
type grace time.Duration

// UnmarshalText reads a time such as 5s, or never.
func (g *grace) UnmarshalText(text []byte) error {
	if string(text) == "never" {
		*g = -1
		return nil
	}
	d, err := time.ParseDuration(string(text))
	if err != nil || d < 0 {
		return fmt.Errorf("%q, give a time such as 5s, or never", text)
	}
	*g = grace(d)
	return nil
}

// Validate checks what a look at the flags alone can tell.
func (s *serve) Validate() error {
	if err := checkAddress("--agents-address", s.AgentsAddress, s.TLSDir != "" || s.Plaintext,
		"give --tls-dir ('rendezvous certs --dir DIR' makes one), or --plaintext to do without"); err != nil {
		return err
	}
	if s.TLSDir != "" && s.Plaintext {
		return errors.New("--tls-dir and --plaintext contradict each other: give one of them")
	}
	if err := checkAddress("--api-address", s.APIAddress, false, "it must be on loopback: R sessions reach it there, others must not"); err != nil {
		return err
	}
	if err := checkAddress("--admin-address", s.AdminAddress, s.AdminPlaintext, "give --admin-plaintext to serve it in plain text"); err != nil {
		return err
	}
	if _, err := s.portRange(); err != nil {
		return err
	}
	if s.WorkerName == "" {
		return errors.New("--worker-name: it is empty, give the DNS name of the agents' certificates such as worker")
	}
	for _, uid := range s.SessionUIDs {
		if uid < 0 || uid > 1<<32-2 {
			return fmt.Errorf("--session-uids: %d is no user id, give numbers from 0 to %d", uid, uint32(1<<32-2))
		}
	}
	if s.DemandTimeout < time.Second {
		return fmt.Errorf("--demand-timeout: %s is too short, give 1s or more", s.DemandTimeout)
	}
	if _, err := labels.Parse(s.WorkerPods); err != nil {
		return fmt.Errorf("--worker-pods: %q is no label selector such as app=future,component=worker: %w", s.WorkerPods, err)
	}
	if _, err := s.scale(); err != nil {
		return fmt.Errorf("--scale: %w", err)
	}
	if s.MaxAttempts < 1 {
		return fmt.Errorf("--max-attempts: %d, give 1 or more", s.MaxAttempts)
	}
	for flag, mib := range map[string]int64{"--journal-memory": s.JournalMemory, "--journal-disk": s.JournalDisk} {
		if mib < 0 || mib > 1<<30 {
			return fmt.Errorf("%s: %d MiB, give 0 to %d", flag, mib, 1<<30)
		}
	}
	if s.MaxWorkers < 1 {
		return fmt.Errorf("--max-workers: %d, give 1 or more", s.MaxWorkers)
	}
	if s.SessionWorkers < 0 {
		return fmt.Errorf("--session-workers: %d, give 1 or more, or 0 for no bound", s.SessionWorkers)
	}
	return nil
}

func checkAddress(flag, address string, exposed bool, advice string) error {
	loopback, err := admin.Loopback(address)
	if err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	if !loopback && !exposed {
		return fmt.Errorf("%s: %s is not on loopback; %s", flag, address, advice)
	}
	return nil
}

func (s *serve) portRange() (sockdiag.Range, error) {
	bad := fmt.Errorf("--ports: %q, want FIRST-LAST with 1 <= FIRST <= LAST <= 65535", s.Ports)
	first, last, found := strings.Cut(s.Ports, "-")
	if !found {
		return sockdiag.Range{}, bad
	}
	a, errA := strconv.ParseUint(first, 10, 16)
	b, errB := strconv.ParseUint(last, 10, 16)
	if errA != nil || errB != nil || a == 0 || a > b {
		return sockdiag.Range{}, bad
	}
	return sockdiag.Range{First: uint16(a), Last: uint16(b)}, nil
}

// Run opens what the flags name and serves.
func (s *serve) Run(ctx context.Context) error {
	log, err := s.New()
	if err != nil {
		return err
	}
	if err := limits.BoundHeap(); err != nil {
		log.Warn("the memory that the container grants is not known", zap.Error(err))
	}
	config := s.config(log)
	if err := s.secure(log, &config); err != nil {
		return program.Configf("--tls-dir: %w", err)
	}
	if s.WorkerPods != "" {
		if config.Pods, err = s.watcher(log); err != nil {
			return program.Configf("--worker-pods: %w", err)
		}
	}
	if err := s.scaling(&config); err != nil {
		return program.Configf("--scale: %w", err)
	}
	ports, err := s.portRange()
	if err != nil {
		return program.ConfigError{Err: err}
	}
	if config.Prober, err = sockdiag.Open(ports); err != nil {
		return program.ConfigError{Err: err}
	}
	defer config.Prober.Close()
	for _, l := range []struct {
		flag, address string
		listener      *net.Listener
	}{
		{"--agents-address", s.AgentsAddress, &config.Agents},
		{"--api-address", s.APIAddress, &config.API},
		{"--admin-address", s.AdminAddress, &config.Admin},
	} {
		listener, err := program.Listen(l.flag, l.address)
		if err != nil {
			return err
		}
		defer listener.Close()
		*l.listener = listener
		if port := listener.Addr().(*net.TCPAddr).Port; ports.Contains(uint16(port)) {
			return program.Configf("%s: port %d of %s is one of --ports %s, where R sessions listen: give another", l.flag, port, l.address, ports)
		}
	}
	if err := rendezvous.Run(ctx, config); ctx.Err() == nil {
		return err
	}
	log.Info("rendezvous has ended")
	return nil
}

// config has what the flags say that needs nothing to be opened.
func (s *serve) config(log *zap.Logger) rendezvous.Config {
	config := rendezvous.Config{
		Log: log, Build: program.Version(), Grace: time.Duration(s.Grace), DemandTimeout: s.DemandTimeout, MaxWorkers: s.MaxWorkers,
		MaxAttempts: s.MaxAttempts, SessionWorkers: s.SessionWorkers,
		WorkerName: s.WorkerName, AgentCheck: rendezvous.AgentCheck(s.AgentCheck),
		Journal: journal.NewBudget(s.JournalDir, journal.Limits{
			Each: s.JournalMemory << 20 / journalShare, Memory: s.JournalMemory << 20, Disk: s.JournalDisk << 20,
		}),
	}
	if len(s.SessionUIDs) == 0 {
		config.UIDs = []uint32{uint32(os.Getuid())}
	}
	for _, uid := range s.SessionUIDs {
		config.UIDs = append(config.UIDs, uint32(uid))
	}
	return config
}

// secure loads the certificates, if there are to be any.
func (s *serve) secure(log *zap.Logger, config *rendezvous.Config) error {
	if s.TLSDir == "" {
		return nil
	}
	material, err := mtls.Load(s.TLSDir, mtls.WithRole(mtls.ServerRole), mtls.WithReport(program.ReportReload(log)))
	if err != nil {
		return err
	}
	config.TLS = material.ServerConfig()
	config.Register = func(r prometheus.Registerer) {
		material.Register(r, "rendezvous_tls_certificate_expiry_timestamp_seconds")
	}
	return nil
}

// watcher prepares the watch of the worker pods.
func (s *serve) watcher(log *zap.Logger) (func(*pods.Metrics) (*pods.Watcher, error), error) {
	api, namespace, err := pods.InCluster()
	if err != nil {
		return nil, err
	}
	selector, err := labels.Parse(s.WorkerPods)
	if err != nil {
		return nil, err
	}
	return func(metrics *pods.Metrics) (*pods.Watcher, error) {
		return pods.New(pods.Config{Log: log, Metrics: metrics, API: api, Namespace: namespace, Selector: selector})
	}, nil
}
