package pool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/link"
	"go.uber.org/zap"
)

// Sink takes what a bound worker sends. All its methods are called by the one
// goroutine that reads the worker's connection: while Data blocks, that worker's
// connection is not read, and nobody else's is touched.
type Sink interface {
	// Data takes the next bytes of the PSOCK connection; p is valid during the call.
	Data(p []byte)
	// EOF: the worker has closed its end of the PSOCK connection.
	EOF()
	// Drain: the worker's agent is going away; the session should end after the
	// call that is under way, if any.
	Drain()
	// Ended: the worker is no more. Nothing follows.
	Ended(cause string)
}

// Worker is one slot of one agent.
type Worker struct {
	pool  *Pool
	conn  *link.Conn
	hello link.HelloMessage
	log   *zap.Logger
	lost  chan struct{} // closed by Pool.remove: the slot's connection is gone

	// Guarded by pool.mu.
	state       State
	reason      string
	since       time.Time
	pid         int
	lastExit    string
	sink        Sink
	user        any
	reservation uint32
	confirmed   chan struct{} // closed when the agent has confirmed reservation
	over        chan struct{} // closed when the reserved or bound worker has ended
}

// errUnconfirmed: the agent did not grant the reservation.
var errUnconfirmed = errors.New("the reservation was not confirmed")

func (w *Worker) gone() bool {
	select {
	case <-w.lost:
		return true
	default:
		return false
	}
}

// Name is the agent's name and the slot: "future-worker-7d4f9-x2x9k/0".
func (w *Worker) Name() string { return fmt.Sprintf("%s/%d", w.hello.Agent, w.hello.Slot) }

// Over is closed when the reserved or bound worker has ended or its connection is
// lost; valid from Acquire to Release.
func (w *Worker) Over() <-chan struct{} {
	w.pool.mu.Lock()
	defer w.pool.mu.Unlock()
	return w.over
}

// reserve asks the agent for its worker and waits for the answer.
func (w *Worker) reserve(ctx context.Context) error {
	p := w.pool
	p.mu.Lock()
	p.next++
	number := p.next
	confirmed, over := make(chan struct{}), make(chan struct{})
	w.reservation, w.confirmed, w.over = number, confirmed, over
	p.mu.Unlock()

	if err := w.conn.SendNumber(link.Reserve, number); err != nil {
		w.conn.Close()
		return err
	}
	limit := time.NewTimer(p.config.ReserveLimit)
	defer limit.Stop()
	select {
	case <-confirmed:
		return nil
	case <-w.lost:
		return errUnconfirmed
	case <-over:
		return errUnconfirmed
	case <-ctx.Done():
		return ctx.Err()
	case <-limit.C:
		w.log.Warn("worker does not answer, closing its connection", zap.Duration("waited", p.config.ReserveLimit))
		w.conn.Close()
		return errUnconfirmed
	}
}

// Release gives a reserved worker back that nobody has sent anything to.
func (w *Worker) Release() {
	p := w.pool
	p.mu.Lock()
	if w.gone() || w.state != Reserved {
		p.mu.Unlock()
		return
	}
	number := w.reservation
	w.confirmed, w.over = nil, nil
	p.mu.Unlock()

	// Sent before the worker is offered, so that the next Reserve comes after it.
	if err := w.conn.SendNumber(link.Release, number); err != nil {
		w.conn.Close()
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.state == Reserved {
		p.offer(w)
	}
}

// Bind gives the reserved worker to sink; user is shown in snapshots. It fails
// when the worker has ended meanwhile.
func (w *Worker) Bind(sink Sink, user any) error {
	p := w.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.gone() || w.state != Reserved {
		return fmt.Errorf("worker %s has ended", w.Name())
	}
	p.setState(w, Bound, "")
	w.sink, w.user = sink, user
	return nil
}

// SendData sends bytes of the PSOCK connection: frame[link.HeaderSize:]. It blocks
// while the worker does not read.
func (w *Worker) SendData(frame []byte) error { return w.conn.SendData(frame) }

// End tells the agent that the session has finished sending: its R ends now.
func (w *Worker) End() {
	p := w.pool
	p.mu.Lock()
	if w.gone() || w.state != Bound {
		p.mu.Unlock()
		return
	}
	p.setState(w, Ending, "")
	p.mu.Unlock()
	if err := w.conn.SendEOF(); err != nil {
		w.conn.Close()
	}
}
