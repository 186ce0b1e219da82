package admin

import (
	"container/list"
	"net"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// bound keeps the connections of a server few: one too many ends the one that has been idle for
// the longest time. Whoever asks at once, as probes and scrapes do, is answered however many
// others do nothing; to wait with accepting would leave them behind those.
type bound struct {
	most   int
	closed prometheus.Counter

	mu   sync.Mutex
	open map[net.Conn]*list.Element // nil for one that is being answered
	idle list.List                  // of net.Conn, the longest idle first
}

func newBound(most int, closed prometheus.Counter) *bound {
	return &bound{most: most, closed: closed, open: make(map[net.Conn]*list.Element)}
}

// note is the ConnState of an http.Server.
func (b *bound) note(conn net.Conn, state http.ConnState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.open[conn]; e != nil {
		b.idle.Remove(e)
	}
	switch state {
	case http.StateNew, http.StateIdle:
		b.open[conn] = b.idle.PushBack(conn)
	case http.StateActive:
		b.open[conn] = nil
	default:
		delete(b.open, conn)
	}
	for len(b.open) > b.most && b.idle.Len() > 0 {
		longest := b.idle.Remove(b.idle.Front()).(net.Conn)
		delete(b.open, longest)
		_ = longest.Close() // the server notes that it is closed
		b.closed.Inc()
	}
}
