package link

import (
	"net"
	"time"
)

// Pipe is a connection in memory, for simulations, which have a time of their own: its
// two ends, as Dial and Accept make them.
func Pipe(timing Timing) (dialled, accepted *Conn) {
	near, far := net.Pipe()
	dialled, accepted = newConn(near, pipe{near}, nil, timing), newConn(far, pipe{far}, nil, timing)
	dialled.dialled = true
	return dialled, accepted
}

// pipe is one end. What is written has been read, so nothing waits to be acknowledged, and
// the other side is taken to read always.
type pipe struct{ net.Conn }

func (pipe) HungUp() bool              { return false }
func (pipe) Unanswered() time.Duration { return 0 }
func (pipe) Writable() bool            { return true }
