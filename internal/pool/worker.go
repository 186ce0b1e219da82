package pool

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"slices"
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
	// Ended: the worker is no more. Nothing follows. explain, unless nil, says more
	// than cause; it may take some seconds to find out.
	Ended(cause string, explain func() string)
}

// Worker is one R process, handed out by Acquire to one holder, for one session.
type Worker struct {
	slot      *slot
	tenant    *Tenant
	number    uint32        // of the reservation
	since     time.Time     // when the tenant got it
	setUp     SetUp         // by nodes of the tenant that had it before; zero: fresh
	confirmed chan struct{} // closed by the agent's answer
	over      chan struct{} // closed when the worker has ended or was given back

	// Guarded by Pool.mu.
	sink       Sink
	recalled   chan struct{} // closed when somebody else is to have it
	heir       *waiter       // whom it was recalled for
	parting    bool          // that is another tenant's
	evicted    bool          // it was recalled for nobody
	spare      *list.Element // in Pool.spare; nil while it is needed
	spareSince time.Time
	idle       bool        // it has been spare for long
	left       SetUp       // as its holder leaves it
	leaving    bool        // Yield has decided that it ends
	ending     *time.Timer // aborts it; nil before End
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
func (w *Worker) SetUp() SetUp { return w.setUp }

// Recalled is closed when somebody else is to have the worker: an older tenant, while
// it is untouched, or whoever comes next, after Offer. The holder should give it back,
// with Release or Yield, unless it needs it by now; see Keep.
func (w *Worker) Recalled() <-chan struct{} {
	w.slot.pool.mu.Lock()
	defer w.slot.pool.mu.Unlock()
	return w.recalled
}

// recall asks for w on behalf of u. Called with the lock held.
func (w *Worker) recall(u *waiter) {
	w.slot.pool.promise(u)
	w.heir = u
	if u.Tenant != w.tenant {
		w.parting = true
		w.tenant.leaving++
		w.tenant.traded = time.Now()
		u.Tenant.traded = w.tenant.traded
	}
	close(w.recalled)
}

// stay takes back that w is about to leave its tenant. Called with the lock held.
func (w *Worker) stay() {
	if w.parting {
		w.parting = false
		w.tenant.leaving--
	}
	w.slot.pool.unpromise(w.heir)
	w.heir = nil
}

// evict asks for w on nobody's behalf: it is to go. Called with the lock held.
func (w *Worker) evict() {
	w.slot.pool.spare.remove(w)
	w.slot.pool.recount(w.slot)
	w.evicted = true
	close(w.recalled)
}

// unrecall takes that back, if it was done. Called with the lock held.
func (w *Worker) unrecall() {
	if !w.isRecalled() {
		return
	}
	w.recalled, w.evicted = make(chan struct{}), false
	w.stay()
}

// isRecalled is called with the lock held.
func (w *Worker) isRecalled() bool {
	select {
	case <-w.recalled:
		return true
	default:
		return false
	}
}

// reserve asks the agent for its worker and waits for the answer. One that comes from
// another node of the tenant was asked for then.
func (p *Pool) reserve(ctx context.Context, w *Worker) error {
	s := w.slot
	if w.setUp != (SetUp{}) {
		return nil
	}
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

// Release gives back a reserved worker that its holder has sent nothing to. It does
// nothing for a worker that is over or was bound.
func (w *Worker) Release() {
	s, p := w.slot, w.slot.pool
	if w.setUp != (SetUp{}) { // others have used it
		w.discard()
		return
	}
	s.sending.Lock()
	defer s.sending.Unlock()
	p.mu.Lock()
	if s.holder != w || s.state != Reserved {
		p.mu.Unlock()
		return
	}
	s.heir, w.heir = w.heir, nil
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

// discard ends a reserved worker.
func (w *Worker) discard() {
	s, p := w.slot, w.slot.pool
	p.mu.Lock()
	reserved := s.holder == w && s.state == Reserved
	if reserved {
		w.leave()
	}
	p.mu.Unlock()
	if reserved {
		w.End()
	}
}

// Bind gives the reserved worker to sink. It fails when the worker has ended meanwhile.
func (w *Worker) Bind(sink Sink) error {
	s, p := w.slot, w.slot.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.holder != w || s.state != Reserved {
		return fmt.Errorf("worker %s has ended", w.Name())
	}
	w.sink = sink
	delete(p.untouched, w)
	p.setState(s, Bound, "")
	if w.isRecalled() {
		w.unrecall()
		p.balance()
	}
	return nil
}

// Offer says that the bound worker is not needed at present, and how it is set up: it
// is recalled when a caller waits that should have it. idle says that it is not in use
// at all, and so anybody's. Keep takes that back.
func (w *Worker) Offer(setUp SetUp, idle bool) {
	s, p := w.slot, w.slot.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.holder != w || s.state != Bound || w.isRecalled() {
		return
	}
	w.left, w.idle = setUp, w.idle || idle
	if w.spare == nil {
		w.spareSince = time.Now()
		p.spare.put(w)
	}
	p.recount(s)
	p.balance()
}

// Keep says that the bound worker is needed again. If it has been recalled meanwhile,
// another one is instead.
func (w *Worker) Keep() {
	p := w.slot.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spare.remove(w)
	w.idle = false
	p.recount(w.slot)
	if w.isRecalled() {
		w.unrecall()
		p.balance()
	}
}

// Yield gives a bound worker that is not needed to whoever it was recalled for: as it
// is to another node of its tenant, and otherwise by its end, for which End is called.
// It reports whether there is still somebody who should have it, and the holder has not
// taken its offer back.
func (w *Worker) Yield() bool {
	s, p := w.slot, w.slot.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.holder != w || s.state != Bound {
		return true
	}
	if w.evicted || s.draining {
		w.leave()
		return true
	}
	if w.spare == nil && !w.isRecalled() {
		return false
	}
	u := w.heir
	if !p.waits(u) {
		w.unrecall()
		if u, _ = p.heir(w, p.next(w.slot.hello.Group, false, w), time.Now()); u == nil {
			p.spare.put(w)
			p.recount(s)
			p.balance() // it may be somebody's later
			return false
		}
		w.recall(u)
	}
	if u.Tenant != w.tenant || !slices.Contains(u.SetUps, w.left) {
		w.leave()
		return true
	}
	s.finishUse()
	p.dequeue(u)
	next := p.hold(s, u)
	next.number, next.since, next.setUp = w.number, w.since, w.left
	u.given <- next
	return true
}

// leave decides that w ends, and its successor goes to its heir. Called with the lock
// held.
func (w *Worker) leave() {
	p := w.slot.pool
	w.leaving = true
	p.spare.remove(w)
	p.setState(w.slot, Ending, "")
	w.slot.heir, w.heir = w.heir, nil
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
	if s.holder == w && s.state == Bound {
		w.leave()
	}
	ends := w.leaving
	if ends {
		w.leaving = false
		w.ending = time.AfterFunc(p.config.EndLimit, w.Abort)
	}
	p.mu.Unlock()
	if !ends {
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
