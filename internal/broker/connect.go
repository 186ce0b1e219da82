package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/relay"
	"github.com/psock-runtime/psock-runtime/internal/sockdiag"
	"github.com/psock-runtime/psock-runtime/internal/socket"
)

// patience is how long a worker stands by for a session that has not shown yet that it wants
// one: R does so at once, but its machine may be short of processors, or wait for a name service.
const patience = time.Second

// first is what was read first from a session: frame holds relay.Headroom bytes
// of room and then the data.
type first struct {
	frame []byte
	err   error
}

// errForeign: the listener wants no worker; the text is a label of the metric.
type errForeign string

func (e errForeign) Error() string { return string(e) }

// connect dials the session and starts to read from it.
func (n *node) connect(ctx context.Context) error {
	var dialer net.Dialer
	conn, err := dialer.DialTCP(ctx, "tcp4", netip.AddrPort{}, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), n.demand.Port))
	if err != nil {
		return fmt.Errorf("session on port %d: %w", n.demand.Port, err)
	}
	client, err := socket.New(conn)
	if err != nil {
		conn.Close()
		return fmt.Errorf("session on port %d: %w", n.demand.Port, err)
	}
	n.client = client
	n.connectedFrom(conn.LocalAddr().(*net.TCPAddr).AddrPort().Port())
	go func() {
		frame := make([]byte, relay.Headroom+4096)
		read, err := client.Read(frame[relay.Headroom:])
		if read > 0 {
			err = nil
		}
		n.first <- first{frame[:relay.Headroom+read], err}
	}()
	return nil
}

// recognise waits for the sign that the listener is an R session which wants a
// worker: R accepts one connection and closes the listener. A cluster that starts
// its own workers keeps it open until they are there, and greets each connection
// with a call; it takes no offence when one of them hangs up. Nothing else is hung up
// on, however long it takes, for R has nobody else to talk to once it has accepted. No worker
// stands by for longer than patience.
func (n *node) recognise(ctx context.Context) error {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		select {
		case <-n.demand.gone:
			return nil
		case f := <-n.first:
			n.first <- f // for open, or for nobody
			if f.err != nil {
				if n.broker.listening(n.demand) {
					return errForeign(hungUp)
				}
				return errGone
			}
			if n.broker.listening(n.demand) {
				return errForeign(ownWorkers)
			}
			return nil
		case <-limit.C:
			if !n.broker.listening(n.demand) {
				return nil // seen late
			}
			n.drop()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ownedAsSeen makes sure that who has connected is who was seen to listen: the port
// could have changed hands between the two. The session has accepted the connection
// by now; before that nobody owns it.
func (n *node) ownedAsSeen() error {
	if n.broker.config.PeerUID == nil {
		return nil
	}
	uid, err := n.broker.config.PeerUID(n.client.LocalAddr(), n.client.RemoteAddr())
	if err != nil {
		return errGone
	}
	if uid != n.demand.UID {
		return errForeign(otherUser)
	}
	return nil
}

// abandoned reports whether no process has the session's end of the connection open: it
// has not been accepted yet, or its owner was killed with data on its way.
func (n *node) abandoned() bool {
	if n.broker.config.PeerUID == nil {
		return false
	}
	_, err := n.broker.config.PeerUID(n.client.LocalAddr(), n.client.RemoteAddr())
	return errors.Is(err, sockdiag.ErrNotFound)
}
