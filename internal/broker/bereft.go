package broker

import "time"

// bereft is what is known of the nodes of a cluster whose connections have ended and that have not been
// replaced. R replaces such a node by another of the cluster (parallelly::cloneNode()), and nothing
// tells which one. So while a node that had state is among them, each that comes is told that
// the state is lost: an error too many where some had none, but no result that differs silently.
type bereft struct {
	lost  []string // nodes that had state, and why it is lost, see relay.Session.Leaves
	plain int      // nodes that had none
	since time.Time
}

// mostBereft bounds the clusters without nodes of which that is known. A session that is killed
// replaces no node, and nobody says that it has gone.
const mostBereft = 10_000

// bury notes, once, that the node's connection has ended. Called with Broker.mu held.
func (n *node) bury() {
	if n.buried {
		return
	}
	n.buried = true
	lost, stopped := n.session.Leaves()
	switch known := n.cluster.bereft; {
	case stopped: // R does not replace it
	case lost == "":
		known.plain++
	default:
		known.lost = append(known.lost, lost)
	}
}

// replace is what a node is told that replaces one of those that have ended.
func (f *bereft) replace() (lost string) {
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

// inherit is why what was set on the node that n replaces is lost, "" if n replaces none or nothing
// is lost. R closes a connection before it listens for the node that replaces it: so the kernel knows
// of the end by now.
func (b *Broker) inherit(n *node) (lost string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := n.cluster
	if c.name == "" || !n.again && len(c.bereft.lost) == 0 {
		return ""
	}
	for other := range c.nodes {
		switch {
		case other == n || other.session == nil || other.buried:
		case other.client.HungUp():
			other.bury()
		default:
			// A process that R has started may have the connection of a node open that R has closed.
			if live, _ := other.session.Leaves(); live != "" {
				lost = live
			}
		}
	}
	if len(c.bereft.lost) > 0 || c.bereft.plain > 0 {
		return c.bereft.replace()
	}
	return lost
}

// remember keeps what is known of a cluster that has no node any more: R may replace them all.
// Called with the lock held.
func (b *Broker) remember(c *cluster) {
	if c.name == "" || len(c.bereft.lost) == 0 {
		return
	}
	if len(b.bereft) >= mostBereft {
		oldest := c.place
		for at, known := range b.bereft {
			if b.bereft[oldest] == nil || known.since.Before(b.bereft[oldest].since) {
				oldest = at
			}
		}
		delete(b.bereft, oldest)
	}
	c.bereft.since = time.Now()
	b.bereft[c.place] = c.bereft
}

// recall is what is known of the cluster's nodes that have ended. Called with the lock held.
func (b *Broker) recall(where place) *bereft {
	known := b.bereft[where]
	if known == nil {
		return &bereft{}
	}
	delete(b.bereft, where)
	return known
}
