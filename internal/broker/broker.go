// Package broker pairs the nodes of R sessions with workers. It watches for
// listening sockets of R sessions in the PSOCK port range (demand), takes a worker
// out of the pool for each, connects to the session and hands both to the relay.
// Demand that cannot be met is answered with an R error.
package broker

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/journal"
	"github.com/psock-runtime/psock-runtime/internal/pods"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/internal/relay"
	"github.com/psock-runtime/psock-runtime/internal/sockdiag"
	"go.uber.org/zap"
)

// Polling for demand. Nothing announces a new listener without privileges, so the
// broker asks. A look costs about 30 us under netlink, milliseconds under procfs.
const (
	// idlePoll bounds how long the first node of a cluster waits: half of it on
	// average, while ten looks a second cost 0.5 % of a core (docs/decisions.md).
	idlePoll = 100 * time.Millisecond
	// busyPoll is the pace while a cluster forms: R opens the next node's
	// listener within 2 ms of the last one's connection.
	busyPoll = 500 * time.Microsecond
	// lookShare bounds the polling's share of a core, however dear a look is: it is
	// followed by a rest of as many times its duration.
	lookShare = 4
	// longestPause bounds that rest: a look that took seconds was held up, by other processes
	// or by who changes the kernel's network, and sessions must not wait four times as long.
	longestPause = 500 * time.Millisecond
	// busyFor is how long the pace stays up after the last sign of a cluster.
	busyFor = 250 * time.Millisecond
	// hintFor is the same after a session asked for the number of workers, which
	// plan(cluster) does just before it listens.
	hintFor = 2 * time.Second
)

// Listeners lists listening sockets, as sockdiag.Prober does.
type Listeners interface {
	Listeners(dst []sockdiag.Listener) ([]sockdiag.Listener, error)
}

// Config is what a Broker needs.
type Config struct {
	Log       *zap.Logger
	Metrics   *Metrics
	Relay     *relay.Metrics
	Pool      *pool.Pool
	Listeners Listeners
	// PeerUID is the owner of the process at the other end of a loopback connection,
	// given its addresses, as sockdiag.Prober tells; nil trusts every process.
	PeerUID func(local, remote net.Addr) (uint32, error)
	// UIDs are the users whose sessions are served.
	UIDs []uint32
	// Awaited reports whether a process that can be seen is a worker which connects to the
	// port, as sockdiag.Awaited does. May be nil.
	Awaited func(port uint16) (bool, error)
	// Grace is how long a listener that no session has announced is left to others before
	// it gets a worker; negative: for ever.
	Grace time.Duration
	// DemandTimeout is how long a node waits for a worker before its session gets
	// an R error.
	DemandTimeout time.Duration
	// MaxAttempts is how many workers one future may be lost with before its session
	// gets an R error.
	MaxAttempts int
	// Journal bounds what is kept of sessions' calls to be sent again.
	Journal *journal.Budget
	// Missing are the worker pods that do not work, and why. May be nil.
	Missing func() []pods.Pod
	// SessionWorkers is how many workers one cluster may hold at a time; 0: no bound.
	SessionWorkers int
	// Leases are the ports and workers that sessions have asked for. May be nil.
	Leases Leases
	// Scaling starts workers for what is wanted. May be nil.
	Scaling Scaling
	// Groups are the groups of workers that are known before an agent announces them.
	Groups []string
}

// Broker serves the R sessions of this network namespace.
type Broker struct {
	config Config
	served map[uint32]bool
	hints  chan struct{}

	mu          sync.Mutex
	clusters    map[*cluster]bool
	latest      map[place]*cluster // the one that began last
	nextID      int
	said        map[*announced]bool
	saidChanged chan struct{}         // closed when said changes, and then replaced
	blind       error                 // why sessions are not seen at present
	remembered  map[place]*unreplaced // of clusters that have no nodes
}

// New makes a Broker.
func New(config Config) *Broker {
	b := &Broker{
		config: config, served: make(map[uint32]bool),
		hints: make(chan struct{}, 1), clusters: make(map[*cluster]bool), latest: make(map[place]*cluster),
		said: make(map[*announced]bool), saidChanged: make(chan struct{}), remembered: make(map[place]*unreplaced),
	}
	for _, uid := range config.UIDs {
		b.served[uid] = true
	}
	config.Metrics.attach(b)
	return b
}

// demand is one listening socket that wants a worker.
type demand struct {
	sockdiag.Listener
	seen time.Time
	gone chan struct{} // closed when the socket listens no more
}

// Run watches and serves until ctx ends; it returns when the last session's
// connection is closed.
func (b *Broker) Run(ctx context.Context) error {
	var nodes sync.WaitGroup
	defer nodes.Wait()
	known := make(map[uint64]*demand)
	var found []sockdiag.Listener
	timer := time.NewTimer(0)
	defer timer.Stop()
	var busyUntil time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-b.hints:
			busyUntil = time.Now().Add(hintFor)
		case <-timer.C:
		}
		var err error
		began := time.Now()
		found, err = b.config.Listeners.Listeners(found[:0])
		now := time.Now()
		b.looked(err)
		if err == nil && b.reconcile(known, found, func(d *demand) {
			nodes.Go(func() { b.serve(ctx, d) })
		}) {
			if until := now.Add(busyFor); until.After(busyUntil) {
				busyUntil = until
			}
		}
		pause := idlePoll
		if now.Before(busyUntil) {
			pause = busyPoll
		}
		timer.Reset(pauseAfter(pause, now.Sub(began)))
	}
}

// pauseAfter is how long to wait before the next look after one that took so long.
func pauseAfter(pause, took time.Duration) time.Duration {
	return max(pause, min(lookShare*took, longestPause))
}

// looked notes whether the last look at the listening sockets failed.
func (b *Broker) looked(err error) {
	b.mu.Lock()
	before := b.blind
	b.blind = err
	b.mu.Unlock()
	if err != nil && before == nil {
		b.config.Log.Error("cannot list listening sockets, R sessions are not seen", zap.Error(err))
	}
}

// Ready says why sessions are not served at present, nil when they are.
func (b *Broker) Ready() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.blind != nil {
		return fmt.Errorf("no R session is seen: %w", b.blind)
	}
	return nil
}

// reconcile brings known up to date with found and starts a node for each new
// listener; it reports whether anything changed.
func (b *Broker) reconcile(known map[uint64]*demand, found []sockdiag.Listener, start func(*demand)) (changed bool) {
	now := time.Now()
	listening := 0
	for _, l := range found {
		if !b.served[l.UID] {
			continue
		}
		listening++
		if known[l.Cookie] == nil {
			d := &demand{Listener: l, seen: now, gone: make(chan struct{})}
			known[l.Cookie] = d
			changed = true
			start(d)
		}
	}
	if listening == len(known) {
		return changed
	}
	alive := make(map[uint64]bool, listening)
	for _, l := range found {
		alive[l.Cookie] = true
	}
	for cookie, d := range known {
		if !alive[cookie] {
			close(d.gone)
			delete(known, cookie)
			changed = true
		}
	}
	return changed
}

// Once says whether the futures of the session's clusters on ports are to run once at most.
// It returns how many nodes that concerns.
func (b *Broker) Once(uid uint32, session string, ports []uint16, once bool) (nodes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for n := range b.nodes() {
		if n.session != nil && n.cluster.isOf(uid, session, ports) {
			n.session.Once(once)
			nodes++
		}
	}
	return nodes
}

// Hint says that a session is about to listen.
func (b *Broker) Hint() {
	select {
	case b.hints <- struct{}{}:
	default:
	}
}

// listening asks afresh whether d still listens.
func (b *Broker) listening(d *demand) bool {
	now, err := b.config.Listeners.Listeners(nil)
	if err != nil {
		return false
	}
	for _, l := range now {
		if l.Cookie == d.Cookie {
			return true
		}
	}
	return false
}

// Available is the number of workers that a session may ask for now: those that
// work or are about to, without those that other clusters hold than its own on these
// ports, whose workers the session gives back before it takes new ones. For a
// plan, what runs futures elsewhere counts as well, since it is shared, and what can be
// started for it.
func (b *Broker) Available(uid uint32, session string, ports []uint16, plan bool) int {
	n := b.available("", uid, session, ports, func(n *node) bool { return n.holds() && !(plan && n.shares()) })
	if plan {
		n = max(n, b.Most(""))
	}
	if most := b.config.SessionWorkers; most > 0 {
		n = min(n, most)
	}
	return n
}

// AvailableIn is Available for a lease in one group.
func (b *Broker) AvailableIn(group string, uid uint32, ports []uint16) int {
	return max(b.available(group, uid, "", ports, (*node).holds), b.Most(group))
}

// available counts the workers of a group, "" for any, that work or are about to, without
// those that leases have or that nodes of other clusters hold than the session's on these
// ports.
func (b *Broker) available(group string, uid uint32, session string, ports []uint16, holds func(*node) bool) int {
	available := make(map[string]bool)
	for _, s := range b.config.Pool.Workers() {
		switch s.State {
		case pool.Starting, pool.Warm, pool.Reserved, pool.Bound, pool.Ending:
			if pool.InGroup(s.Group, group) {
				available[s.Name()] = true
			}
		}
	}
	if b.config.Leases != nil {
		for _, name := range b.config.Leases.Held() {
			delete(available, name)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for n := range b.nodes() {
		if !n.cluster.isOf(uid, session, ports) && holds(n) {
			delete(available, n.held())
		}
	}
	return len(available)
}

// unmet says, in one line, why a node of c got no worker.
func (b *Broker) unmet(c *cluster, waited time.Duration) string {
	b.mu.Lock()
	held, number, unread, kept := c.workers(), len(c.nodes), 0, 0
	if c.shared { // any of them
		number = 0
	}
	for n := range b.nodes() {
		if n.session != nil && n.session.Activity().Unread {
			unread++
		}
		if n.cluster == c && n.session != nil && n.session.Keeps() {
			kept++
		}
	}
	b.mu.Unlock()
	e := b.survey(c.group(), held)
	e.node, e.waited, e.most, e.unread, e.kept = number, waited, b.config.SessionWorkers, unread, kept
	return explain(e)
}

// shortcoming is why a slot is not ready.
func shortcoming(s pool.Snapshot) string {
	text := fmt.Sprintf("%s is %s", s.Name(), s.State)
	if s.Reason != "" {
		text += ": " + s.Reason
	}
	return text
}

// missingPods are the worker pods that have no slot in slots: their agents are not
// there to say what is wrong.
func (b *Broker) missingPods(slots []pool.Snapshot) []pods.Pod {
	if b.config.Missing == nil {
		return nil
	}
	connected := make(map[string]bool, len(slots))
	for _, s := range slots {
		connected[s.Agent] = true
	}
	return slices.DeleteFunc(b.config.Missing(), func(p pods.Pod) bool { return connected[p.Name] })
}

// MissingPods are the worker pods that have no slot here, and why.
func (b *Broker) MissingPods() []pods.Pod { return b.missingPods(b.config.Pool.Workers()) }
