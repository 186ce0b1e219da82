package broker

import "slices"

// Nodes is how many connections of nodes of the user's clusters on port the rendezvous has,
// by their ports on its side: those among peers, or all if peers is empty.
func (b *Broker) Nodes(uid uint32, port uint16, peers []uint16) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	count := 0
	for n := range b.nodes() {
		if n.peer != 0 && n.cluster.uid == uid && n.cluster.port == port && (len(peers) == 0 || slices.Contains(peers, n.peer)) {
			count++
		}
	}
	return count
}

// connectedFrom notes the rendezvous' port of the node's connection, 0 once it is closed.
func (n *node) connectedFrom(port uint16) {
	n.broker.mu.Lock()
	defer n.broker.mu.Unlock()
	n.peer = port
}
