package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/lease"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// Leases is the book of leases, just what this package needs of it. Take may give
// nothing although Lease knows the port: a node then gets a worker as any other does.
type Leases interface {
	Lease(port uint16) (lease.Terms, bool)
	Take(port uint16) (*pool.Worker, bool)
	Connected(port uint16)
	Ended(port uint16)
	Held() []string
}

// leaseOf is the lease that d's session may connect to, nil for none. Another user's
// session that listens on its port has a cluster without one.
func (b *Broker) leaseOf(d *demand) *lease.Terms {
	if b.config.Leases == nil {
		return nil
	}
	terms, ok := b.config.Leases.Lease(d.Port)
	if !ok || terms.UID != d.UID {
		return nil
	}
	return &terms
}

// group is the worker group of the cluster, "" for any.
func (c *cluster) group() string {
	if c.lease == nil {
		return ""
	}
	return c.lease.Group
}

// leaseConnected tells the book that a node of c is connected.
func (b *Broker) leaseConnected(c *cluster) {
	if c.lease != nil {
		b.config.Leases.Connected(c.port)
	}
}

// leaseEnded tells the book that c has no node any more.
func (b *Broker) leaseEnded(c *cluster) {
	if c.lease != nil {
		b.config.Leases.Ended(c.port)
	}
}

// reserve takes over a worker of the cluster's lease, or reserves one of the pool.
func (n *node) reserve(ctx context.Context, want pool.Want) (*pool.Worker, error) {
	if n.cluster.lease != nil {
		if w, ok := n.broker.config.Leases.Take(n.cluster.port); ok {
			return w, nil
		}
	}
	return n.broker.config.Pool.Acquire(ctx, want)
}

// Occupied are the ports that are listened on or have a cluster.
func (b *Broker) Occupied() (map[uint16]bool, error) {
	listeners, err := b.config.Listeners.Listeners(nil)
	if err != nil {
		return nil, err
	}
	occupied := make(map[uint16]bool, len(listeners))
	for _, l := range listeners {
		occupied[l.Port] = true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.clusters {
		occupied[c.port] = true
	}
	return occupied, nil
}

// Groups are the worker groups that are known: those of the agents that are connected,
// and those that are scaled.
func (b *Broker) Groups() []string {
	groups := slices.Clone(b.config.Groups)
	seen := make(map[string]bool)
	for _, group := range groups {
		seen[group] = true
	}
	for _, s := range b.config.Pool.Workers() {
		if !seen[s.Group] {
			seen[s.Group] = true
			groups = append(groups, s.Group)
		}
	}
	return groups
}

// Lacking is why a lease for so many workers of the group, of which it holds some,
// waits in vain.
func (b *Broker) Lacking(group string, held, wanted int, waited time.Duration) string {
	e := b.survey(group, held)
	e.wanted, e.waited = wanted, waited
	return explain(e)
}

// Outlook is what keeps a lease of the group waiting, and whether that is about to
// change: agents that install packages will have workers, and one whose nodes take turns,
// as share says, has its turn on what is in use.
func (b *Broker) Outlook(group string, share bool) (text string, coming bool) {
	busy := 0
	coming = share && b.inUse(group, nil)
	for _, s := range b.config.Pool.Workers() {
		if !pool.InGroup(s.Group, group) {
			continue
		}
		coming = coming || s.State == pool.Installing
		if s.State == pool.Bound {
			busy++
		}
	}
	scaling, starting := b.scaling(group)
	coming = coming || starting
	if scaling != "" {
		return scaling, coming
	}
	e := b.survey(group, 0)
	parts := e.missing[:min(len(e.missing), missingShown)]
	if more := len(e.missing) - len(parts); more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	if busy > 0 {
		parts = append(parts, fmt.Sprintf("%d in use", busy))
	}
	if e.total == 0 {
		parts = append(parts, "no worker agent is connected")
	}
	return strings.Join(parts, "; "), coming
}

// PlanOutlook is what a plan will wait for, "" if a worker is ready or nobody starts any.
func (b *Broker) PlanOutlook() string {
	states, _ := b.config.Pool.Counts()
	if states[pool.Warm]+states[pool.Reserved]+states[pool.Bound] > 0 || b.Most("") == 0 {
		return ""
	}
	text, _ := b.scaling("")
	return text
}

// survey is what there is of a group, for somebody who holds that many of it.
func (b *Broker) survey(group string, held int) explanation {
	e := explanation{held: held}
	slots := b.config.Pool.Workers()
	for _, s := range slots {
		if !pool.InGroup(s.Group, group) {
			continue
		}
		e.total++
		switch s.State {
		case pool.Warm:
			e.ready++
		case pool.Reserved, pool.Bound:
			e.ready++
			e.others++
		default:
			e.missing = append(e.missing, shortcoming(s))
		}
	}
	e.others = max(0, e.others-held)
	e.scaling, _ = b.scaling(group)
	for _, pod := range b.missingPods(slots) {
		e.total++
		if !strings.Contains(e.scaling, pod.Name+": ") {
			e.missing = append(e.missing, pod.Name+": "+pod.Reason)
		}
	}
	return e
}
