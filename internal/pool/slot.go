package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/assign"
	"github.com/psock-runtime/psock-runtime/internal/link"
	"go.uber.org/zap"
)

// slot is one slot of one agent: a connection, and what the agent says of the
// worker behind it. Its connection is read by the goroutine in Serve alone.
type slot struct {
	pool  *Pool
	conn  *link.Conn
	hello link.HelloMessage
	log   *zap.Logger
	lost  chan struct{} // closed by forget

	id, address string

	sending sync.Mutex // see Worker.send; never taken with Pool.mu held

	// Guarded by Pool.mu, as is hello.R.
	core     assign.Slot // what its worker is assigned to
	holder   *Worker     // who has the worker, nil for nobody
	reason   string      // that the agent gives for its state
	pid      int
	lastExit string
	deaths   int           // as Snapshot has them
	memory   int64         // the same
	busy     time.Duration // of all its workers, in finished calls
}

func (s *slot) name() string { return s.id }

// forget takes the slot out of the pool, with what has happened to it. Called with the lock held,
// more than once for a slot that was replaced.
func (s *slot) forget(event assign.Event) {
	p := s.pool
	p.apply(event)
	select {
	case <-s.lost:
	default:
		close(s.lost)
		delete(p.slots, key{s.hello.Agent, s.hello.Slot})
	}
}

// disconnect is forget for a slot that Serve has done with. It returns where its worker's news went, nil
// if nowhere. Called with the lock held.
func (s *slot) disconnect() Sink {
	sink := s.heldBy()
	s.forget(assign.Lost{Slot: &s.core})
	delete(s.pool.served, &s.core)
	return sink
}

// heldBy is where the worker's news goes, nil if nowhere. Called with the lock held.
func (s *slot) heldBy() Sink {
	if s.holder == nil {
		return nil
	}
	return s.holder.sink
}

// Serve speaks with one slot until its connection ends, ctx ends or the slot
// breaks the protocol. It owns conn and closes it. introduced is called when the
// slot has said who it is. An error says why it never came to that.
func (p *Pool) Serve(ctx context.Context, conn *link.Conn, introduced func()) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	s, err := p.welcome(ctx, conn, introduced)
	if err != nil {
		return err
	}
	p.config.Log.Info("slot joined", zap.String("worker", s.name()), zap.String("address", s.address))
	err = s.read()
	conn.Close() // before it is asked for reasons: an agent that is there dials again
	p.mu.Lock()
	state := s.core.State().Phase()
	sink := s.disconnect()
	p.mu.Unlock()
	orderly := ctx.Err() != nil || errors.Is(err, io.EOF) && state != Bound
	cause := fmt.Sprintf("its connection was lost: %v", err)
	explain := sync.OnceValue(func() string {
		if !orderly && p.config.Why != nil {
			if why := p.config.Why(ctx, s.hello.Agent); why != "" {
				return why + "; " + cause
			}
		}
		return cause
	})
	if sink != nil {
		if ctx.Err() == nil && state == Bound { // not one that was ending
			p.config.Metrics.died(exitLost)
		}
		sink.Ended(cause, explain)
	}
	if orderly {
		s.log.Info("slot left")
	} else {
		s.log.Warn("slot lost", zap.String("state", string(state)), zap.String("cause", explain()))
	}
	return nil
}

// welcome reads the Hello and answers it. Whoever is answered has been introduced.
func (p *Pool) welcome(ctx context.Context, conn *link.Conn, introduced func()) (*slot, error) {
	// A stranger that sends one byte at a time is bounded as a whole.
	limit := time.AfterFunc(cmp.Or(p.config.HelloLimit, link.HandshakeLimit), func() { conn.Close() })
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
	hello.Group = cmp.Or(hello.Group, DefaultGroup)
	s := &slot{
		pool: p, conn: conn, hello: hello, lost: make(chan struct{}),
		core: assign.Slot{Agent: hello.Agent, Group: hello.Group},
		id:   workerName(hello.Agent, hello.Slot), address: conn.RemoteAddr().String(),
	}
	// Lazily: most have nothing to say for days, and the buffer of each would be 1.4 KB.
	s.log = p.config.Log.WithLazy(zap.String("worker", s.name()))
	if err == nil && p.config.Admit != nil {
		err = p.config.Admit(ctx, conn, hello)
	}
	if err == nil {
		err = p.enter(ctx, s)
	}
	if err != nil {
		// Best effort: the agent logs the reason.
		_ = conn.Send(link.Reject, link.RejectMessage{Reason: err.Error()})
		return nil, err
	}
	introduced()
	if err := conn.Send(link.Welcome, link.WelcomeMessage{Version: link.Version, Build: p.config.Build, Usage: true}); err != nil {
		p.mu.Lock()
		s.disconnect()
		p.mu.Unlock()
		return nil, err
	}
	conn.Bears(time.Duration(hello.Silence) * time.Second)
	conn.StartHeartbeat()
	return s, nil
}

// read handles the slot's frames until its connection fails.
func (s *slot) read() error {
	for {
		frame, err := s.conn.Next()
		if err != nil {
			return err
		}
		switch frame.Type {
		case link.Data:
			if sink := s.sink(); sink != nil {
				sink.Data(frame.Payload)
			}
		case link.EOF:
			if sink := s.sink(); sink != nil {
				sink.EOF()
			}
		case link.Reserved:
			s.onReserved(frame.Number())
		case link.State:
			message, err := link.Decode[link.StateMessage](frame.Type, frame.Payload)
			if err != nil {
				return err
			}
			s.onState(message)
		case link.Exit:
			message, err := link.Decode[link.ExitMessage](frame.Type, frame.Payload)
			if err != nil {
				return err
			}
			s.onExit(message)
		case link.Usage:
			message, err := link.Decode[link.UsageMessage](frame.Type, frame.Payload)
			if err != nil {
				return err
			}
			s.onUsage(message)
		default:
			return fmt.Errorf("%w: an agent does not send %s", link.ErrProtocol, frame.Type)
		}
	}
}

// sink is where the bound worker's bytes go; nil drops them: they are the last
// ones of a session that is over.
func (s *slot) sink() Sink {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	return s.heldBy()
}

func (s *slot) onReserved(number uint32) {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	if w := s.holder; w != nil && w.grant.Number == number {
		select {
		case <-w.confirmed: // an agent that says it twice
		default:
			close(w.confirmed)
		}
	}
}

// reported are the states that an agent may report.
var reported = map[link.WorkerState]assign.State{
	link.Installing: assign.Installing, link.Starting: assign.Starting, link.Warm: assign.Warm,
	link.Failed: assign.Failed, link.Draining: assign.Draining,
}

func (s *slot) onState(message link.StateMessage) {
	state, known := reported[message.State]
	if !known {
		return // link.Decode lets none through
	}
	p := s.pool
	p.mu.Lock()
	before := s.holder
	p.apply(assign.Reported{Slot: &s.core, State: state})
	if before != nil && before == s.holder { // it ends after the call under way, if it still works
		sink := before.sink
		p.mu.Unlock()
		if sink != nil && state == assign.Draining {
			sink.Drain()
		}
		return
	}
	if s.core.State() == assign.Draining && state != assign.Draining {
		p.mu.Unlock()
		return // the core does not hear it, either
	}
	// The worker that was held is over.
	s.pid, s.memory, s.reason = message.PID, 0, message.Reason
	if message.State == link.Warm {
		s.reason = ""
	}
	if message.R != "" {
		s.hello.R = message.R
	}
	p.mu.Unlock()
	if before != nil && before.sink != nil {
		before.sink.Ended("the worker was replaced", nil)
	}
	if message.State == link.Draining && before != nil {
		// The agent waits for the end of what it has granted.
		if err := s.conn.SendNumber(link.Release, before.grant.Number); err != nil {
			s.conn.Close()
		}
	}
	if message.State == link.Failed {
		s.log.Warn("worker cannot start", zap.String("reason", message.Reason))
		return
	}
	s.log.Debug("worker state", zap.String("state", string(message.State)))
}

func (s *slot) onExit(message link.ExitMessage) {
	p := s.pool
	p.mu.Lock()
	sink := s.heldBy()
	p.apply(assign.Exited{Slot: &s.core})
	s.lastExit, s.memory = "", 0
	if s.core.State() != assign.Draining {
		s.reason = ""
	}
	if !message.Expected {
		s.lastExit = message.Cause
		s.deaths++
	}
	if !message.Expected || message.Kind == link.ExitDrained {
		p.config.Metrics.died(message.Kind)
	}
	p.mu.Unlock()
	s.conn.Shrink()
	if !message.Expected {
		s.log.Warn("worker died", zap.String("cause", message.Cause), zap.Strings("lines", message.Lines))
	}
	if sink != nil {
		sink.Ended(message.Cause, nil)
	}
}

func (s *slot) onUsage(message link.UsageMessage) {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	s.memory = message.MemoryBytes
}
