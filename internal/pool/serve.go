package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/link"
	"go.uber.org/zap"
)

// Serve speaks with one slot until its connection ends, ctx ends or the slot
// breaks the protocol. It owns conn and closes it.
func (p *Pool) Serve(ctx context.Context, conn *link.Conn) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	w, err := p.welcome(conn)
	if err != nil {
		return err
	}
	w.log.Info("slot joined", zap.String("address", conn.RemoteAddr().String()))
	err = w.read()
	p.mu.Lock()
	sink, state := w.sink, w.state
	w.sink = nil
	p.remove(w)
	w.finishUse()
	p.mu.Unlock()
	if sink != nil {
		sink.Ended(fmt.Sprintf("the connection to worker %s was lost: %v", w.Name(), err))
	}
	if ctx.Err() != nil || errors.Is(err, io.EOF) && state != Bound {
		w.log.Info("slot left")
		return nil
	}
	w.log.Warn("slot lost", zap.String("state", string(state)), zap.Error(err))
	return err
}

// welcome reads the Hello and answers it.
func (p *Pool) welcome(conn *link.Conn) (*Worker, error) {
	// A stranger that sends one byte at a time is bounded as a whole.
	limit := time.AfterFunc(link.HandshakeLimit, func() { conn.Close() })
	defer limit.Stop()
	frame, err := conn.Next()
	if err != nil {
		return nil, fmt.Errorf("waiting for hello: %w", err)
	}
	if frame.Type != link.Hello {
		return nil, fmt.Errorf("%w: the first frame is %s, want hello", link.ErrProtocol, frame.Type)
	}
	hello, err := link.Decode[link.HelloMessage](frame.Type, frame.Payload)
	if err == nil && hello.Version != link.Version {
		err = fmt.Errorf("%w: the agent speaks protocol %d, this rendezvous %d: use images of the same release", link.ErrProtocol, hello.Version, link.Version)
	}
	w := &Worker{pool: p, conn: conn, hello: hello, lost: make(chan struct{})}
	w.log = p.config.Log.With(zap.String("worker", w.Name()))
	if err == nil {
		err = p.add(w)
	}
	if err != nil {
		// Best effort: the agent logs the reason.
		_ = conn.Send(link.Reject, link.RejectMessage{Reason: err.Error()})
		return nil, err
	}
	if err := conn.Send(link.Welcome, link.WelcomeMessage{Version: link.Version, Build: p.config.Build}); err != nil {
		p.mu.Lock()
		p.remove(w)
		p.mu.Unlock()
		return nil, err
	}
	conn.StartHeartbeat()
	return w, nil
}

// read handles the slot's frames until its connection fails.
func (w *Worker) read() error {
	for {
		frame, err := w.conn.Next()
		if err != nil {
			return err
		}
		switch frame.Type {
		case link.Data:
			if sink := w.currentSink(); sink != nil {
				sink.Data(frame.Payload)
			}
		case link.EOF:
			if sink := w.currentSink(); sink != nil {
				sink.EOF()
			}
		case link.Reserved:
			w.onReserved(frame.Number())
		case link.State:
			message, err := link.Decode[link.StateMessage](frame.Type, frame.Payload)
			if err != nil {
				return err
			}
			w.onState(message)
		case link.Exit:
			message, err := link.Decode[link.ExitMessage](frame.Type, frame.Payload)
			if err != nil {
				return err
			}
			w.onExit(message)
		default:
			return fmt.Errorf("%w: an agent does not send %s", link.ErrProtocol, frame.Type)
		}
	}
}

// currentSink is read without contention by the one reading goroutine; the lock
// only orders it after Bind.
func (w *Worker) currentSink() Sink {
	w.pool.mu.Lock()
	defer w.pool.mu.Unlock()
	return w.sink
}

func (w *Worker) onReserved(number uint32) {
	w.pool.mu.Lock()
	defer w.pool.mu.Unlock()
	if number == w.reservation && w.confirmed != nil {
		close(w.confirmed)
		w.confirmed = nil
	}
}

// finishUse tells who holds the worker that it is over. Called with the lock held.
func (w *Worker) finishUse() {
	if w.over != nil {
		close(w.over)
	}
	w.over, w.confirmed, w.user = nil, nil, nil
}

func (w *Worker) onState(message link.StateMessage) {
	p := w.pool
	p.mu.Lock()
	previous, sink := w.state, w.sink
	w.pid = message.PID
	if message.State == link.Draining {
		p.withdraw(w)
		if sink == nil {
			w.finishUse()
			p.setState(w, Draining, message.Reason)
		}
		p.mu.Unlock()
		if sink != nil {
			sink.Drain()
		}
		return
	}
	// Any other state is that of a worker which nobody holds: the one that was
	// held is over.
	p.withdraw(w)
	w.sink = nil
	w.finishUse()
	if message.State == link.Warm {
		p.offer(w)
	} else {
		p.setState(w, State(message.State), message.Reason)
	}
	p.mu.Unlock()
	if sink != nil {
		sink.Ended("the worker was replaced")
	}
	if message.State == link.Failed {
		w.log.Warn("worker cannot start", zap.String("reason", message.Reason))
		return
	}
	if previous != State(message.State) {
		w.log.Debug("worker state", zap.String("state", string(message.State)))
	}
}

func (w *Worker) onExit(message link.ExitMessage) {
	p := w.pool
	p.mu.Lock()
	sink := w.sink
	w.sink = nil
	p.withdraw(w)
	w.finishUse()
	if w.state != Draining {
		p.setState(w, Starting, "")
	}
	if message.Expected {
		w.lastExit = ""
	} else {
		w.lastExit = message.Cause
		p.config.Metrics.deaths.Inc()
	}
	p.mu.Unlock()
	w.conn.Shrink()
	if !message.Expected {
		w.log.Warn("worker died", zap.String("cause", message.Cause), zap.Strings("lines", message.Lines))
	}
	if sink != nil {
		sink.Ended(message.Cause)
	}
}
