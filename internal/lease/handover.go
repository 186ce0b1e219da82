package lease

// Lease is the lease on port, if its session may connect. A listener on the port of a
// lease that is not ready is some other session's.
func (m *Manager) Lease(port uint16) (Terms, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.ports[port]
	if l == nil || l.state == Waiting {
		return Terms{}, false
	}
	return l.Terms, true
}

// Take hands over one of the workers reserved for the lease on port; the caller
// releases it, or uses it. There may be none left, since some have ended just now: the
// caller then acquires one itself, as do those that come after it. Where the lease did so
// too, they would compete.
func (m *Manager) Take(port uint16) (Worker, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.ports[port]
	if l == nil || l.state == Waiting {
		return nil, false
	}
	for i, p := range l.held {
		select {
		case <-p.worker.Over():
			continue // its place is about to find that out
		default:
		}
		l.held = append(l.held[:i], l.held[i+1:]...)
		l.taken++
		close(p.taken)
		return p.worker, true
	}
	l.leaveOff()
	return nil, false
}

// Connected says that the session is there: the lease lasts as long as its cluster.
func (m *Manager) Connected(port uint16) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.ports[port]; l != nil && l.state == Ready {
		l.state, l.message = Connected, "its cluster is connected"
		l.tell()
	}
}

// Ended says that the last node of the cluster on port is gone.
func (m *Manager) Ended(port uint16) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.ports[port]; l != nil && l.state == Connected {
		m.end(l, Ended, "its cluster has ended")
	}
}

// Held is how many workers of the pool are reserved for leases and not taken yet.
func (m *Manager) Held() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for _, l := range m.ports {
		for _, p := range l.held {
			names = append(names, p.worker.Name())
		}
	}
	return names
}
