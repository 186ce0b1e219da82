package lease

import (
	"sync"
	"time"

	"go.uber.org/zap"
)

// gather reserves l's workers, and others for those that end before they are taken,
// until l.gathering ends.
func (m *Manager) gather(l *lease) {
	var places sync.WaitGroup
	defer places.Wait()
	turns := make(chan struct{}, acquiring)
	for range l.needs() {
		select {
		case turns <- struct{}{}:
			places.Go(func() { m.fill(l, turns) })
		case <-l.gathering.Done():
			return
		}
	}
}

// fill keeps one place of l filled until its worker is taken, or l.gathering ends. It
// begins with a turn to wait for a worker.
func (m *Manager) fill(l *lease, turns chan struct{}) {
	for {
		w, err := m.config.Workers.Acquire(l.gathering, l.want())
		<-turns
		if err != nil {
			return
		}
		p := &place{worker: w, taken: make(chan struct{})}
		if m.hold(l, p) && !m.standBy(l, p) {
			return
		}
		w.Release() // nothing, for one that is over
		select {
		case turns <- struct{}{}:
		case <-l.gathering.Done():
			return
		}
	}
}

// standBy holds p's worker until it is to be replaced by another, and reports false when
// somebody has taken it.
func (m *Manager) standBy(l *lease, p *place) (replace bool) {
	recalled := p.worker.Recalled()
	for {
		select {
		case <-p.taken:
			return false
		case <-p.worker.Over():
		case <-l.gathering.Done():
		case <-recalled:
			if m.giveBack(l, p) {
				return true
			}
			recalled = nil // it has been taken back
			continue
		}
		return m.drop(l, p)
	}
}

// hold notes that p's worker is reserved, unless l has no use for it any more.
func (m *Manager) hold(l *lease, p *place) bool {
	m.mu.Lock()
	if l.gathering.Err() != nil {
		m.mu.Unlock()
		return false
	}
	l.held = append(l.held, p)
	l.hope = time.Now()
	complete := l.state == Waiting && len(l.held) == l.needs()
	if l.state == Waiting {
		l.tell()
	}
	m.mu.Unlock()
	if complete {
		m.settle(l)
	}
	return true
}

// drop takes p out of l, unless somebody has taken its worker meanwhile.
func (m *Manager) drop(l *lease, p *place) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return l.remove(p)
}

// giveBack drops p while l waits for others: such a lease gives back what somebody who
// comes before it waits for, as a cluster does that forms. One that is ready has been
// promised.
func (m *Manager) giveBack(l *lease, p *place) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return l.state == Waiting && l.remove(p)
}

// settle makes l ready, whose workers are all reserved. A session without a lease may
// have taken the port meanwhile: R chooses at random. l then gets another one.
func (m *Manager) settle(l *lease) {
	occupied, err := m.config.Occupied()
	if err != nil {
		m.config.Log.Error("cannot list listening sockets, a lease keeps its port unseen", zap.Error(err))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if l.state != Waiting || len(l.held) != l.needs() {
		return
	}
	if occupied[l.Port] && !m.assignPort(l, occupied) {
		m.config.Metrics.refuse(NoPort)
		m.end(l, Refused, "its port is in use, and no other is free")
		return
	}
	m.config.Workers.Complete(l.Tenant)
	l.state, l.settled = Ready, time.Now()
	l.message = "connect within " + connectLimit.String()
	l.tell()
}

// lookAfter ends the leases whose time is over, and brings what those that wait are
// told up to date.
func (m *Manager) lookAfter() {
	type outlook struct {
		text   string
		coming bool
	}
	outlooks := make(map[kind]outlook)
	var late []*lease
	for k := range m.waiting() {
		text, coming := m.config.Limits.Coming(k.group, k.share)
		outlooks[k] = outlook{text, coming}
	}
	m.mu.Lock()
	now := time.Now()
	for len(m.past) > 0 && now.Sub(m.past[0].settled) > rememberFor {
		m.forget(m.past[0])
	}
	for _, l := range m.ports {
		m.expire(l, now)
		o, known := outlooks[l.kind()]
		if l.state != Waiting || !known {
			continue
		}
		if o.coming {
			l.hope = now
		}
		if o.text != l.news {
			l.news = o.text
			l.tell()
		}
		if now.Sub(l.hope) > m.config.DemandTimeout {
			late = append(late, l)
		}
	}
	m.mu.Unlock()
	for _, l := range late {
		m.giveUp(l)
	}
}

// kind is what the outlook of a lease depends on.
type kind struct {
	group string
	share bool
}

func (l *lease) kind() kind { return kind{l.Group, l.Share} }

// waiting are the kinds of the leases that wait.
func (m *Manager) waiting() map[kind]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	kinds := make(map[kind]bool)
	for _, l := range m.ports {
		if l.state == Waiting {
			kinds[l.kind()] = true
		}
	}
	return kinds
}

// expire ends l if its session is gone. Called with the lock held.
func (m *Manager) expire(l *lease, now time.Time) {
	switch {
	case l.state == Ready && now.Sub(l.settled) > connectLimit:
		m.end(l, Ended, "nobody connected to it within "+connectLimit.String())
	case l.state != Connected && l.askers == 0 && now.Sub(l.renewed) > renewal:
		m.end(l, Ended, "nobody asked for it for "+renewal.String())
	}
}

// giveUp refuses a lease whose workers have not become ready in time.
func (m *Manager) giveUp(l *lease) {
	m.mu.Lock()
	held, needs, waited := len(l.held), l.needs(), time.Since(l.since)
	m.mu.Unlock()
	why := m.config.Limits.Missing(l.Group, held, needs, waited)
	m.mu.Lock()
	defer m.mu.Unlock()
	if l.state != Waiting || len(l.held) > held {
		return
	}
	m.config.Metrics.refuse(NoWorkers)
	m.config.Log.Warn("no workers for a lease, its session gets an R error", zap.String("lease", l.ID), zap.Uint32("uid", l.UID), zap.String("error", why))
	m.end(l, Refused, why)
}
