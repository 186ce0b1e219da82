package broker

import (
	"fmt"
	"iter"
	"slices"
	"sort"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/lease"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/internal/relay"
	"go.uber.org/zap"
)

// place is where the nodes of one cluster listen, one after the other, and how it was announced:
// "" if it was not.
type place struct {
	uid           uint32
	port          uint16
	session, name string
}

// isOf reports whether the cluster is the session's, which has it on one of the ports: for all
// that is known, if it was not announced.
func (p place) isOf(uid uint32, session string, ports []uint16) bool {
	return p.uid == uid && (p.session == "" || p.session == session) && slices.Contains(ports, p.port)
}

// cluster is the nodes of one makeClusterPSOCK() call, told by the place that they
// share. Guarded by Broker.mu.
type cluster struct {
	place
	id     int
	tenant *pool.Tenant
	// shared: its nodes are for futures, and take turns on what workers there are. Each is
	// connected without one and holds one only while it has use for it. The nodes of other
	// clusters have one each from the beginning.
	shared bool
	// answers are what its nodes were told by workers and need not be told again: of a
	// cluster whose nodes take turns; nil for any other.
	answers    *relay.Answers
	since      time.Time
	nodes      map[*node]bool
	unreplaced *unreplaced   // nodes that have ended
	most       int           // nodes it had at once
	ready      chan struct{} // closed when a call has been sent: all nodes are connected
	calls      int64
	busy       time.Duration
	// refusal is the answer that a node got in the place of a worker; the nodes
	// that follow get it at once.
	refusal   string
	refusedAt time.Time
	lease     *lease.Terms // nil for a session without one
}

// refusalHolds is how long a refusal covers the nodes that follow it. R opens the
// next listener within milliseconds; a session that makes a new cluster on the
// same port later is to be tried afresh.
const refusalHolds = 2 * time.Second

// workers counts the workers that the cluster holds.
func (c *cluster) workers() int {
	n := 0
	for node := range c.nodes {
		if node.holds() {
			n++
		}
	}
	return n
}

// want is what a node of the cluster that has no worker asks of the pool. While the
// cluster forms it needs all that it asks for. One that is ready comes before all: the
// others are in use and its session waits for this one; promoted is closed when it
// becomes so, nil when it is.
func (c *cluster) want() (want pool.Want, promoted <-chan struct{}) {
	want = pool.Want{Tenant: c.tenant, Group: c.group()}
	if c.isReady() {
		want.Urgent = true
		return want, nil
	}
	want.Whole = true
	return want, c.ready
}

func (c *cluster) isReady() bool {
	select {
	case <-c.ready:
		return true
	default:
		return false
	}
}

// label is how logs and tables call the cluster.
func (c *cluster) label() string { return fmt.Sprintf("cluster %d (port %d)", c.id, c.port) }

// join makes n a node of its owner's cluster.
func (b *Broker) join(n *node, o owner) *cluster {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.clusterOf(n.demand, o)
	c.nodes[n], n.again = true, c.isReady()
	c.most = max(c.most, len(c.nodes))
	b.poke()
	return c
}

// clusterOf is the cluster that d is of. One that was announced is told by its name, whenever
// a node of it is made again. One that was not is complete with its first call, and what listens
// on its port then is another session's for all that is known. Called with the lock held.
func (b *Broker) clusterOf(d *demand, o owner) *cluster {
	where := place{uid: d.UID, port: d.Port, session: o.session, name: o.cluster}
	if latest := b.latest[where]; latest != nil && (o.cluster != "" || !latest.isReady()) {
		return latest
	}
	b.nextID++
	c := &cluster{
		place: where, id: b.nextID, lease: o.lease, shared: o.shared,
		since: d.seen, nodes: make(map[*node]bool), unreplaced: b.recall(where, d.seen), ready: make(chan struct{}),
	}
	if o.lease != nil {
		c.tenant = o.lease.Tenant
	} else {
		c.tenant = b.config.Pool.NewTenant(c.label(), b.config.SessionWorkers)
	}
	if c.shared {
		c.answers = relay.NewAnswers()
	}
	b.clusters[c], b.latest[where] = true, c
	return c
}

// nodes are those of all clusters. Called with the lock held.
func (b *Broker) nodes() iter.Seq[*node] {
	return func(yield func(*node) bool) {
		for c := range b.clusters {
			for n := range c.nodes {
				if !yield(n) {
					return
				}
			}
		}
	}
}

// leave removes n, and its cluster with the last node.
func (b *Broker) leave(n *node) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := n.cluster
	if n.session != nil {
		a := n.session.Activity()
		c.calls += a.Calls
		c.busy += a.BusyTime
		n.noteEnd()
	}
	delete(c.nodes, n)
	if len(c.nodes) > 0 {
		return
	}
	delete(b.clusters, c)
	if b.latest[c.place] == c {
		delete(b.latest, c.place)
	}
	b.remember(c, time.Now())
	b.leaseEnded(c)
	if c.isReady() {
		b.config.Log.Info("cluster ended", zap.Int("cluster", c.id), zap.Uint16("port", c.port),
			zap.Int("nodes", c.most), zap.Int64("calls", c.calls), zap.Duration("busy", c.busy),
			zap.Duration("lasted", time.Since(c.since)))
	}
}

// start notes that the cluster's session has sent its first call: all its nodes
// are connected.
func (b *Broker) start(c *cluster) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.isReady() {
		return
	}
	close(c.ready)
	b.config.Pool.Complete(c.tenant)
	b.config.Metrics.clusters.Inc()
	b.config.Log.Info("cluster ready", zap.Int("cluster", c.id), zap.Uint16("port", c.port), zap.Uint32("uid", c.uid),
		zap.Int("nodes", len(c.nodes)), zap.Duration("took", time.Since(c.since)))
}

// size is how many workers c has use for when one of its nodes waits: a session that
// waits for one worker cannot ask for more, but its user has.
func (b *Broker) size(c *cluster) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !c.shared {
		return 0
	}
	return len(c.nodes)
}

// standing is the refusal of c's last node, while it holds and nothing has changed.
func (b *Broker) standing(c *cluster) string {
	b.mu.Lock()
	refusal := c.holding()
	b.mu.Unlock()
	if refusal == "" || slices.ContainsFunc(b.config.Pool.Workers(), func(s pool.Snapshot) bool {
		return s.State == pool.Warm && pool.InGroup(s.Group, c.group())
	}) {
		return ""
	}
	return refusal
}

// holding is the refusal of c's last node, while it holds. Called with the lock held.
func (c *cluster) holding() string {
	if time.Since(c.refusedAt) > refusalHolds {
		return ""
	}
	return c.refusal
}

// refusal returns the answer that c's nodes get at present, "" for none.
func (b *Broker) refusal(c *cluster) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	refusal := c.holding()
	if refusal != "" {
		c.refusedAt = time.Now()
	}
	return refusal
}

// ClusterSnapshot describes one cluster at one moment.
type ClusterSnapshot struct {
	ID    int            `json:"id"`
	Port  uint16         `json:"port"`
	UID   uint32         `json:"uid"`
	Since time.Time      `json:"since"`
	Nodes []NodeSnapshot `json:"nodes"`
	// Refusal is the R error that its last unmet node got.
	Refusal string `json:"refusal,omitempty"`
}

// NodeSnapshot describes one node.
type NodeSnapshot struct {
	State    string         `json:"state"` // waiting, connected, bound, vacant, refused
	Since    time.Time      `json:"since"`
	Worker   string         `json:"worker,omitempty"`
	Activity relay.Activity `json:"activity"`
}

// Clusters describes every cluster, oldest first.
func (b *Broker) Clusters() []ClusterSnapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]ClusterSnapshot, 0, len(b.clusters))
	for c := range b.clusters {
		s := ClusterSnapshot{ID: c.id, Port: c.port, UID: c.uid, Since: c.since, Refusal: c.refusal}
		for n := range c.nodes {
			s.Nodes = append(s.Nodes, n.snapshot())
		}
		sort.Slice(s.Nodes, func(i, j int) bool { return s.Nodes[i].Since.Before(s.Nodes[j].Since) })
		all = append(all, s)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].ID < all[j].ID })
	return all
}
