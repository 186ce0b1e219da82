package pool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/assign"
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
	// Ended: the worker is no more. Nothing follows. explain, unless nil, says more
	// than cause; it may take some seconds to find out.
	Ended(cause string, explain func() string)
}

// Worker is one R process, handed out by Acquire to one holder, for one session.
type Worker struct {
	slot      *slot
	grant     *assign.Grant
	confirmed chan struct{} // closed by the agent's answer
	over      chan struct{} // closed when the worker has ended or was given back

	// Guarded by Pool.mu.
	sink     Sink
	recalled chan struct{} // closed when somebody else is to have it
	ending   *time.Timer   // aborts it; nil before its session is over
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

// Group is the group of its agent.
func (w *Worker) Group() string { return w.slot.hello.Group }

// SetUp is a digest of the calls by which the worker was set up, zero when it is fresh.
func (w *Worker) SetUp() SetUp { return w.grant.SetUp }

// Recalled is closed when somebody else is to have the worker: an older tenant, while
// it is untouched, or whoever comes next, after Offer. The holder should give it back,
// with Release or Yield, unless it needs it by now; see Keep.
func (w *Worker) Recalled() <-chan struct{} {
	w.slot.pool.mu.Lock()
	defer w.slot.pool.mu.Unlock()
	return w.recalled
}

func (w *Worker) isOver() bool {
	select {
	case <-w.over:
		return true
	default:
		return false
	}
}

// reserve asks the agent for its worker and waits for the answer. One that comes from
// another node of the tenant was asked for then.
func (p *Pool) reserve(ctx context.Context, w *Worker) error {
	s := w.slot
	if w.SetUp() != (SetUp{}) {
		return nil
	}
	if err := w.send(func() error { return s.conn.SendNumber(link.Reserve, w.grant.Number) }); err != nil {
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
	if w.isOver() {
		return errOver
	}
	err := write()
	if err != nil {
		s.conn.Close()
	}
	return err
}

// Release gives back a reserved worker that its holder has sent nothing to. It does
// nothing for a worker that is over or was bound.
func (w *Worker) Release() {
	s, p := w.slot, w.slot.pool
	if w.SetUp() != (SetUp{}) { // others have used it
		w.finish(assign.Released{Grant: w.grant})
		return
	}
	s.sending.Lock()
	defer s.sending.Unlock()
	p.mu.Lock()
	reserved := w.grant.State().Phase() == Reserved
	p.apply(assign.Released{Grant: w.grant})
	p.mu.Unlock()
	if !reserved {
		return
	}
	// Sent before the worker is offered, so that the next Reserve comes after it.
	if err := s.conn.SendNumber(link.Release, w.grant.Number); err != nil {
		s.conn.Close()
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.apply(assign.Returned{Slot: &s.core})
}

// Bind gives the reserved worker to sink. It fails when the worker has ended meanwhile.
func (w *Worker) Bind(sink Sink) error {
	p := w.slot.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.grant.State().Phase() != Reserved {
		return fmt.Errorf("worker %s has ended", w.Name())
	}
	w.sink = sink
	p.apply(assign.Used{Grant: w.grant})
	return nil
}

// Offer says that the bound worker is not needed at present, and how it is set up: it
// is recalled when a caller waits that should have it. idle says that it is not in use
// at all, and so anybody's. Keep takes that back.
func (w *Worker) Offer(setUp SetUp, idle bool) {
	w.apply(assign.Spared{Grant: w.grant, SetUp: setUp, Idle: idle})
}

// Keep says that the bound worker is needed again. If it has been recalled meanwhile,
// another one is instead.
func (w *Worker) Keep() { w.apply(assign.Needed{Grant: w.grant}) }

// Yield gives a bound worker that is not needed to whoever it was recalled for: as it
// is to another node of its tenant, and otherwise by its end, for which End is called.
// It reports whether there is still somebody who should have it, and the holder has not
// taken its offer back.
func (w *Worker) Yield() bool { return w.apply(assign.Yielded{Grant: w.grant}).Phase() != Bound }

// apply applies what the holder says to the core, and returns what the worker is in then.
func (w *Worker) apply(event assign.Event) assign.State {
	p := w.slot.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	p.apply(event)
	return w.grant.State()
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
func (w *Worker) End() { w.finish(assign.Finished{Grant: w.grant}) }

// finish applies an event by which the worker may have to end, and has the agent end it.
func (w *Worker) finish(event assign.Event) {
	p := w.slot.pool
	p.mu.Lock()
	before := w.ending
	p.apply(event)
	ends := w.ending != before
	p.mu.Unlock()
	if ends {
		_ = w.send(w.slot.conn.SendEOF) // a failure has closed the connection
	}
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
