package broker

import "time"

// unreplaced counts the nodes of a cluster whose connections have ended and that have not been
// replaced. R replaces such a node by another of the cluster (parallelly::cloneNode()), and nothing
// tells which one. So while a node that had state is among them, each that comes is told that
// the state is lost: an error too many where some had none, but no result that differs silently.
type unreplaced struct {
	lost  int       // nodes that had state
	why   string    // it is lost, of the last of these
	plain int       // nodes that had none
	since time.Time // when the cluster had no node any more
}

const (
	// mostRemembered bounds the clusters without nodes of which that is known. A session that is killed
	// replaces no node, and nobody says that it has gone.
	mostRemembered = 10_000
	// rememberFor is for how long it is known. R replaces a node when its next future begins.
	rememberFor = time.Hour
)

// noteEnd notes, once, that the node's connection has ended. Called with Broker.mu held.
func (n *node) noteEnd() {
	if n.endNoted {
		return
	}
	n.endNoted = true
	if lost, done := n.session.StateIfEnded(); !done { // else R does not replace it
		n.cluster.unreplaced.note(lost)
	}
}

// note counts a node whose state is lost, "" if it had none.
func (u *unreplaced) note(lost string) {
	if lost == "" {
		u.plain++
		return
	}
	u.lost, u.why = u.lost+1, lost
}

// missed is what a node is told that replaces one of these.
func (u *unreplaced) missed() (lost string) {
	if u.lost > 0 {
		lost = u.why
	}
	switch {
	case u.plain > 0:
		u.plain--
	case u.lost > 0:
		u.lost--
	}
	return lost
}

// missedBy is why what was set on the node that n replaces is lost, "" if n replaces none or nothing
// is lost. R closes a connection before it listens for the node that replaces it: so the kernel knows
// of the end by now. It is decided once: n replaces one node, however many workers it tries.
func (b *Broker) missedBy(n *node) (lost string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !n.placed {
		n.placed, n.missed = true, b.decideMissed(n)
	}
	return n.missed
}

// decideMissed is called with Broker.mu held.
func (b *Broker) decideMissed(n *node) (lost string) {
	c := n.cluster
	if c.name == "" || !n.again && c.unreplaced.lost == 0 {
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
	if c.unreplaced.lost > 0 || c.unreplaced.plain > 0 {
		return c.unreplaced.missed()
	}
	return lost
}

// remember keeps what is known of a cluster that has no node any more: R may replace them all.
// Called with the lock held.
func (b *Broker) remember(c *cluster, now time.Time) {
	if c.name == "" || c.unreplaced.lost == 0 {
		return
	}
	oldest := c.place
	for at, known := range b.remembered {
		if now.Sub(known.since) >= rememberFor {
			delete(b.remembered, at)
			continue
		}
		if b.remembered[oldest] == nil || known.since.Before(b.remembered[oldest].since) {
			oldest = at
		}
	}
	if len(b.remembered) >= mostRemembered {
		delete(b.remembered, oldest)
	}
	c.unreplaced.since = now
	b.remembered[c.place] = c.unreplaced
}

// recall is what is known of the cluster's nodes that have ended. Called with the lock held.
func (b *Broker) recall(where place, now time.Time) *unreplaced {
	known := b.remembered[where]
	delete(b.remembered, where)
	if known == nil || now.Sub(known.since) >= rememberFor {
		return &unreplaced{}
	}
	return known
}
