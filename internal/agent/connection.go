package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/link"
	"go.uber.org/zap"
)

// Redialling: a rendezvous that comes back has its workers within a second.
const (
	firstRedial = 50 * time.Millisecond
	lastRedial  = 600 * time.Millisecond
	// settled is how long a connection must have lasted for the next dial to
	// begin anew with firstRedial.
	settled = 5 * time.Second
)

// keepConnected holds the slot's connection to the rendezvous until ctx ends.
func (s *slot) keepConnected(ctx context.Context) {
	pause := newBackoff(firstRedial, lastRedial)
	lastError := ""
	for attempt := s.index; ; attempt++ { // slots spread over the addresses
		address, changed := s.agent.rendezvous(attempt)
		if address == "" {
			if !sleep(ctx, time.Hour, changed) {
				return
			}
			continue
		}
		began := time.Now()
		err := s.connection(ctx, address)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > settled {
			pause.Reset()
			lastError = ""
		}
		// The same failure every half second would bury the log.
		if text := err.Error(); text != lastError {
			s.log.Warn("no connection to the rendezvous, trying on", zap.String("address", address), zap.Error(err))
			lastError = text
		}
		s.agent.config.Metrics.disconnects.Inc()
		wait := pause.NextBackOff()
		s.log.Debug("redialling", zap.Duration("retryIn", wait))
		if !sleep(ctx, wait, changed) {
			return
		}
	}
}

// connection dials, introduces the slot and serves until the connection ends.
func (s *slot) connection(ctx context.Context, address string) error {
	config := s.agent.config
	conn, err := link.Dial(ctx, address, config.TLS, config.Timing)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	welcome, err := s.introduce(conn)
	if err != nil {
		return err
	}
	// Not before it has answered: a connection that waits to be accepted has no owner.
	if err := s.agent.trusted(conn); err != nil {
		return err
	}
	if welcome.Usage {
		conn.AtBeat(func() bool { return s.tellUsage(conn) })
	}
	conn.StartHeartbeat()
	s.connected(ctx, conn)
	s.log.Info("connected to the rendezvous", zap.String("address", address))
	err = s.read(conn)
	s.disconnected()
	return err
}

// trusted refuses, on loopback without TLS, a rendezvous that another user runs:
// what it sends is run as R code.
func (a *Agent) trusted(conn *link.Conn) error {
	remote, ok := conn.RemoteAddr().(*net.TCPAddr)
	if a.config.TLS != nil || a.config.PeerUID == nil || ok && !remote.IP.IsLoopback() {
		return nil
	}
	uid, err := a.config.PeerUID(conn.LocalAddr(), conn.RemoteAddr())
	if err != nil {
		return err
	}
	if uid != 0 && int(uid) != os.Geteuid() {
		return fmt.Errorf("the rendezvous at %s belongs to user %d, this agent to user %d: use 'rendezvous certs' and --tls-dir", remote, uid, os.Geteuid())
	}
	return nil
}

// connected makes conn the slot's connection and tells the rendezvous the state.
func (s *slot) connected(ctx context.Context, conn *link.Conn) {
	s.telling.Lock()
	defer s.telling.Unlock()
	s.mu.Lock()
	s.conn = conn
	state := s.state
	if state.State == link.Warm && (s.worker == nil || s.worker.isFinished()) {
		state = link.StateMessage{State: link.Starting} // it is being ended
	}
	s.mu.Unlock()
	tell(ctx, conn, link.State, state)
}

func (s *slot) introduce(conn *link.Conn) (welcome link.WelcomeMessage, err error) {
	config := s.agent.config
	limit := time.AfterFunc(link.HandshakeLimit, func() { conn.Close() })
	defer limit.Stop()
	err = conn.Send(link.Hello, link.HelloMessage{
		Version: link.Version, Agent: config.Name, Instance: config.Instance,
		Slot: s.index, Slots: config.Slots, Group: config.Group, Build: config.Build,
		Node: config.Node, R: s.agent.knownVersion(), Silence: int(link.Patience / time.Second),
	})
	if err != nil {
		return welcome, err
	}
	frame, err := conn.Next()
	if err != nil {
		return welcome, fmt.Errorf("waiting for the rendezvous' answer: %w", err)
	}
	switch frame.Type {
	case link.Welcome:
		return link.Decode[link.WelcomeMessage](frame.Type, frame.Payload)
	case link.Reject:
		reject, err := link.Decode[link.RejectMessage](frame.Type, frame.Payload)
		if err != nil {
			return welcome, err
		}
		return welcome, fmt.Errorf("the rendezvous refused this slot: %s", reject.Reason)
	default:
		return welcome, fmt.Errorf("%w: the rendezvous answered hello with %s", link.ErrProtocol, frame.Type)
	}
}

// read handles the rendezvous' frames until the connection fails.
func (s *slot) read(conn *link.Conn) error {
	for {
		frame, err := conn.Next()
		if err != nil {
			return err
		}
		switch frame.Type {
		case link.Data:
			if w := s.held(); w != nil {
				w.deliver(conn, frame.Payload)
			}
		case link.EOF:
			if w := s.held(); w != nil {
				w.finish(sessionEnded)
			}
			conn.Shrink()
		case link.Reserve:
			s.reserve(conn, frame.Number())
		case link.Release:
			s.release(frame.Number())
		default:
			return fmt.Errorf("%w: a rendezvous does not send %s", link.ErrProtocol, frame.Type)
		}
	}
}

// held is the worker if it is reserved. Data that arrives for none is the rest of
// a session whose worker has ended.
func (s *slot) held() *worker {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.worker == nil || !s.worker.reserved {
		return nil
	}
	return s.worker
}

// reserve grants the worker if it is there, untouched and to stay. Otherwise the
// rendezvous learns from the state that follows or has gone out already.
func (s *slot) reserve(conn *link.Conn, number uint32) {
	s.mu.Lock()
	w := s.worker
	granted := w != nil && !s.draining && !w.isFinished()
	if granted {
		w.reserved, w.reservation = true, number
	}
	s.mu.Unlock()
	if !granted {
		return
	}
	if err := conn.SendNumber(link.Reserved, number); err != nil {
		conn.Close()
	}
}

// release takes back what reserve has granted with the same number.
func (s *slot) release(number uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.worker == nil || !s.worker.reserved || s.worker.reservation != number {
		return
	}
	s.worker.reserved = false
	if s.draining {
		s.worker.finish("the agent is stopping")
	}
}

// disconnected fences a worker that is in a session: the session is lost to it,
// and it must not go on computing. An untouched one is parked again, or ends if the agent
// does: nobody releases it any more.
func (s *slot) disconnected() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = nil
	if w := s.worker; w != nil && w.reserved {
		w.reserved = false
		switch {
		case w.wasUsed():
			w.finish(rendezvousLost)
		case s.draining:
			w.finish("the agent is stopping")
		}
	}
}
