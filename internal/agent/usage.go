package agent

import (
	"sync"
	"time"

	"github.com/prometheus/procfs"
	"github.com/psock-runtime/psock-runtime/internal/link"
)

// What of a worker's memory is no news: what an R that computes takes and gives back
// all the time.
const (
	smallChange = 1 << 20
	smallPart   = 16 // of what was told
)

// usage is what a worker took when the rendezvous was told.
type usage struct {
	worker *worker
	conn   *link.Conn
	memory int64
}

// tellUsage tells the rendezvous what the slot's worker takes, if that is news. It is
// called at each heartbeat. An R that nobody has sent anything to is read once: it
// waits, and an idle agent has nothing to do.
func (s *slot) tellUsage(conn *link.Conn) (told bool) {
	// Not before the state: the rendezvous takes that for the news of another worker,
	// and would forget what it has been told.
	if !s.telling.TryLock() {
		return false
	}
	defer s.telling.Unlock()
	s.mu.Lock()
	w, last := s.worker, s.told
	announced := s.conn == conn && (s.state.State == link.Warm || s.state.State == link.Draining)
	s.mu.Unlock()
	if w == nil || !announced {
		return false
	}
	known := last.worker == w && last.conn == conn
	if known && !w.wasUsed() {
		return false
	}
	now, found := s.agent.memory.of(w.process.PID())
	if !found || known && abs(now-last.memory) < max(smallChange, last.memory/smallPart) {
		return false
	}
	if !conn.TrySend(link.Usage, link.UsageMessage{MemoryBytes: now}) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = usage{w, conn, now}
	return true
}

func abs(n int64) int64 { return max(n, -n) }

// memory is the resident memory of this machine's or container's process groups. All
// slots share one look at /proc; none is made while no slot asks.
type memory struct {
	age time.Duration // how old an answer may be

	mu     sync.Mutex
	looked time.Time
	groups map[int]int64
}

// of is the resident memory of a process group, in bytes. What its processes share
// counts for each.
func (m *memory) of(group int) (bytes int64, found bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	bytes, found = m.groups[group]
	if found && time.Since(m.looked) < m.age {
		return bytes, true
	}
	m.groups, m.looked = make(map[int]int64), time.Now()
	processes, err := procfs.AllProcs()
	if err != nil {
		return 0, false
	}
	for _, p := range processes {
		if stat, err := p.Stat(); err == nil { // it may have ended
			m.groups[stat.PGRP] += int64(stat.ResidentMemory())
		}
	}
	bytes, found = m.groups[group]
	return bytes, found
}
