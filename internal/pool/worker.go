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
// goroutine that reads the slot's connection: while Data blocks, that connection
// is not read, and nobody else's is touched.
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

// Worker is one R process, handed out by Acquire to one holder, for one session.
type Worker struct {
	slot *slot
	place
	number    uint32        // of the reservation
	confirmed chan struct{} // closed by the agent's answer
	recalled  chan struct{} // closed when somebody comes before this holder
	over      chan struct{} // closed when the worker has ended or was given back

	// Guarded by Pool.mu.
	sink    Sink
	cluster string
	ending  *time.Timer // aborts it; nil before End
	kept    bool        // needed again after all: it comes back when its call is answered
}

var (
	// errUnconfirmed: the agent did not grant the reservation.
	errUnconfirmed = errors.New("the reservation was not confirmed")
	// errOver: the worker has ended, or was given back.
	errOver = errors.New("the worker has ended")
)

// Name is the agent's name and the slot: "future-worker-7d4f9-x2x9k/0".
func (w *Worker) Name() string { return w.slot.name() }

// Over is closed when the worker has ended or its connection is lost.
func (w *Worker) Over() <-chan struct{} { return w.over }

// Recalled is closed when somebody waits for this worker: a caller of a lower rank,
// while it is reserved, or any caller, after Offer. The holder should give it back:
// with Release, unless it binds it at once, or with End, when its call is answered.
func (w *Worker) Recalled() <-chan struct{} { return w.recalled }

func (w *Worker) isRecalled() bool {
	select {
	case <-w.recalled:
		return true
	default:
		return false
	}
}

// reserve asks the agent for its worker and waits for the answer.
func (p *Pool) reserve(ctx context.Context, w *Worker) error {
	s := w.slot
	if err := w.send(func() error { return s.conn.SendNumber(link.Reserve, w.number) }); err != nil {
		return err
	}
	limit := time.NewTimer(p.config.ReserveLimit)
	defer limit.Stop()
	select {
	case <-w.confirmed:
		return nil
	case <-w.over:
		return errOver
	case <-ctx.Done():
		w.Release()
		return ctx.Err()
	case <-limit.C:
		s.log.Warn("worker does not answer, closing its connection", zap.Duration("waited", p.config.ReserveLimit))
		s.conn.Close()
		return errUnconfirmed
	}
}

// send calls write, which writes to the slot's connection, unless w is over. Both
// are under the slot's lock, and the next holder's Reserve is, too: nothing that
// was meant for one worker reaches its successor.
func (w *Worker) send(write func() error) error {
	s := w.slot
	s.sending.Lock()
	defer s.sending.Unlock()
	select {
	case <-w.over:
		return errOver
	default:
	}
	err := write()
	if err != nil {
		s.conn.Close()
	}
	return err
}

// Release gives back a worker that nobody has sent anything to. It does nothing
// for a worker that is over or was bound.
func (w *Worker) Release() {
	s, p := w.slot, w.slot.pool
	s.sending.Lock()
	defer s.sending.Unlock()
	p.mu.Lock()
	if s.holder != w || s.state != Reserved {
		p.mu.Unlock()
		return
	}
	s.finishUse()
	p.mu.Unlock()

	// Sent before the worker is offered, so that the next Reserve comes after it.
	if err := s.conn.SendNumber(link.Release, w.number); err != nil {
		s.conn.Close()
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.state == Reserved && s.holder == nil {
		p.offer(s)
	}
}

// Bind gives the reserved worker to sink; cluster is shown in snapshots. It fails
// when the worker has ended meanwhile.
func (w *Worker) Bind(sink Sink, cluster string) error {
	s, p := w.slot, w.slot.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.holder != w || s.state != Reserved {
		return fmt.Errorf("worker %s has ended", w.Name())
	}
	w.sink, w.cluster = sink, cluster
	p.setState(s, Bound, "")
	return nil
}

// Offer says that the bound worker is not needed at present: it is recalled when a
// caller waits. Keep takes that back.
func (w *Worker) Offer() {
	s, p := w.slot, w.slot.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.holder == w && s.state == Bound && !w.isRecalled() {
		p.spare[w] = true
		p.recall()
	}
}

// Keep says that the bound worker is needed again. If it has been recalled meanwhile,
// another one is instead.
func (w *Worker) Keep() {
	p := w.slot.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.spare, w)
	if w.isRecalled() {
		w.kept = true
		p.recall()
	}
}

// SendData sends bytes of the PSOCK connection: frame[link.HeaderSize:]. It blocks
// while the worker does not read. It fails when the worker is over.
func (w *Worker) SendData(frame []byte) error {
	return w.send(func() error { return w.slot.conn.SendData(frame) })
}

// Busy adds to the time that the slot's workers have spent in finished calls.
func (w *Worker) Busy(d time.Duration) {
	p := w.slot.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	w.slot.busy += d
}

// End tells the agent that the session has finished sending: its R ends now. An
// agent that does not get to it, since its R does not read what was sent before,
// loses its connection, and has to end R for that reason.
func (w *Worker) End() {
	s, p := w.slot, w.slot.pool
	p.mu.Lock()
	bound := s.holder == w && s.state == Bound
	if bound {
		delete(p.spare, w)
		p.setState(s, Ending, "")
		w.ending = time.AfterFunc(p.config.EndLimit, w.Abort)
	}
	p.mu.Unlock()
	if !bound {
		return
	}
	_ = w.send(s.conn.SendEOF) // a failure has closed the connection
}

// Abort ends the worker by closing its connection, whatever is on its way to it.
// It does nothing when the worker is over.
func (w *Worker) Abort() {
	w.slot.pool.mu.Lock()
	held := w.slot.holder == w
	w.slot.pool.mu.Unlock()
	if held {
		w.slot.log.Warn("its session is over and the worker does not take that in, closing its connection")
		w.slot.conn.Close()
	}
}
