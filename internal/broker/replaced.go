package broker

import "time"

// endedNodes is what is known of the nodes of a cluster whose connections have ended and that have not been
// replaced. R replaces such a node by another of the cluster (parallelly::cloneNode()), and nothing
// tells which one. So while a node that had state is among them, each that comes is told that
// the state is lost: an error too many where some had none, but no result that differs silently.
type endedNodes struct {
	lost  []string // nodes that had state, and why it is lost, see relay.Session.Leaves
	plain int      // nodes that had none
	since time.Time
}

// maxEndedClusters bounds the clusters without nodes of which that is known. A session that is killed
// replaces no node, and nobody says that it has gone.
const maxEndedClusters = 10_000

// noteEnd notes, once, that the node's connection has ended. Called with Broker.mu held.
func (n *node) noteEnd() {
	if n.endNoted {
		return
	}
	n.endNoted = true
	lost, stopped := n.session.Leaves()
	switch known := n.cluster.endedNodes; {
	case stopped: // R does not replace it
	case lost == "":
		known.plain++
	default:
		known.lost = append(known.lost, lost)
	}
}

// missed is what a node is told that replaces one of those that have ended.
func (f *endedNodes) missed() (lost string) {
	if len(f.lost) > 0 {
		lost = f.lost[0]
	}
	switch {
	case f.plain > 0:
		f.plain--
	case lost != "":
		f.lost = f.lost[1:]
	}
	return lost
}

// missedBy is why what was set on the node that n replaces is lost, "" if n replaces none or nothing
// is lost. R closes a connection before it listens for the node that replaces it: so the kernel knows
// of the end by now.
func (b *Broker) missedBy(n *node) (lost string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := n.cluster
	if c.name == "" || !n.again && len(c.endedNodes.lost) == 0 {
		return ""
	}
	for other := range c.nodes {
		switch {
		case other == n || other.session == nil || other.endNoted:
		case other.client.HungUp():
			other.noteEnd()
		default:
			// R ends a worker, as cancel() does, before it closes the connection, which a process that it
			// has started may hold open. A node whose worker lives is taken for one that R still has.
			if already := other.session.StateLost(); already != "" {
				lost = already
			}
		}
	}
	if len(c.endedNodes.lost) > 0 || c.endedNodes.plain > 0 {
		return c.endedNodes.missed()
	}
	return lost
}

// remember keeps what is known of a cluster that has no node any more: R may replace them all.
// Called with the lock held.
func (b *Broker) remember(c *cluster) {
	if c.name == "" || len(c.endedNodes.lost) == 0 {
		return
	}
	if len(b.endedNodes) >= maxEndedClusters {
		oldest := c.place
		for at, known := range b.endedNodes {
			if b.endedNodes[oldest] == nil || known.since.Before(b.endedNodes[oldest].since) {
				oldest = at
			}
		}
		delete(b.endedNodes, oldest)
	}
	c.endedNodes.since = time.Now()
	b.endedNodes[c.place] = c.endedNodes
}

// recall is what is known of the cluster's nodes that have ended. Called with the lock held.
func (b *Broker) recall(where place) *endedNodes {
	known := b.endedNodes[where]
	if known == nil {
		return &endedNodes{}
	}
	delete(b.endedNodes, where)
	return known
}
