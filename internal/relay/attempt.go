package relay

import (
	"time"

	"github.com/psock-runtime/psock-runtime/internal/facts"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// attempt is a session's time with one worker: what the worker sends goes through it
// (it is the worker's Sink). On a worker that takes a lost one's place it holds back
// what the session has read already.
type attempt struct {
	session *Session
	worker  Worker
	over    chan struct{} // closed when the worker has ended
	leave   chan struct{} // signalled when the worker is better not kept

	// Guarded by Session.mu.
	down     psock.Scanner
	draining bool
	offered  bool // whoever waits may have the worker
	ended    bool
	cause    string // how the worker ended; constant once over is closed
	explain  func() string
	unfit    string // why it cannot take the lost one's place

	// What is held back of the answers, see filter.
	replayed int  // answers that were repeated so far
	repeats  int  // answers that the session has
	seen     int  // conditions of the call under way that the session has
	verify   bool // the first answer after these has to confirm a reset
	fate     fate // of the message that is arriving
	held     []byte

	lesson []byte // the answer that is arriving, if others may be given it, see learn
}

// fate is what becomes of a message.
type fate int

const (
	undecided fate = iota
	passed
	dropped
)

// confirmationLimit bounds the answer that confirms a reset; it has 150 bytes.
const confirmationLimit = 4 << 10

// begin makes the attempt with worker the current one. Nothing is held back from a
// session that has made no call.
func (s *Session) begin(worker Worker) *attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.history
	a := &attempt{
		session: s, worker: worker, over: make(chan struct{}), leave: make(chan struct{}, 1),
		seen: s.conditions, verify: h.reset && !h.done && len(h.since.outcomes) == 0,
	}
	a.down.Classes = facts.Done
	if worker.SetUp() == (SetUp{}) {
		a.repeats = h.repeats()
	}
	s.current = a
	return a
}

// Data passes on what the worker sends. Once the session does not take it any
// more, it is dropped: the session has gone, and the worker is about to.
func (a *attempt) Data(p []byte) {
	s := a.session
	s.writing.Lock()
	defer s.writing.Unlock()
	p, idle := a.scan(p)
	if len(p) > 0 {
		if err := s.out.write(p); err != nil {
			s.deafen()
		}
	}
	if idle {
		a.goodbye()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spare && s.current == a && s.calls == 0 && !s.partial {
		s.offer(false)
	}
	s.spare = false
}

// scan follows the answers in p and returns what the session is to read of them; idle
// says that no call is under way after that and that the worker should go.
func (a *attempt) scan(p []byte) (pass []byte, idle bool) {
	s := a.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != a || a.unfit != "" {
		return nil, false
	}
	if a.replayed < a.repeats || a.seen > 0 || a.verify || len(a.held) > 0 {
		p = a.filter(p)
	} else {
		a.follow(p)
	}
	s.activity.DownBytes += int64(len(p))
	s.observer.Bytes(Down, len(p))
	return p, a.draining && !s.activity.Busy && !s.activity.Opaque
}

// follow notes the answers in p, all of which is passed on. Called with the lock held.
func (a *attempt) follow(p []byte) {
	s := a.session
	for len(p) > 0 {
		n, done := a.down.Scan(p)
		a.learn(p[:n], done)
		p = p[n:]
		s.midway = !done
		if done {
			s.answered(a.down.Message())
		}
	}
	s.noteOpaque(a.down.Opaque())
}

// answered notes a message that the session has read. Called with the lock held.
func (s *Session) answered(m psock.Message) {
	if m.Kind != psock.KindValue {
		return
	}
	if !m.Final {
		s.conditions++
		return
	}
	s.conditions = 0
	if s.calls == 0 {
		return
	}
	if s.history.ask != nil {
		s.deaths = nil
	}
	s.history.answered(m, s.calls > 1)
	s.callDone(m.Success)
	s.spare = s.calls == 0 && (s.history.done || s.recovery.Shared && !s.history.reset)
}

// callDone counts a finished call. Called with the lock held.
func (s *Session) callDone(success bool) {
	s.calls--
	now := time.Now()
	took := now.Sub(s.activity.Since)
	s.activity.Busy, s.activity.Since = s.calls > 0 || s.partial, now
	s.activity.Calls++
	s.activity.BusyTime += took
	s.observer.Call(took, success)
	if s.current != nil {
		s.current.worker.Busy(took)
	}
	s.rest()
}

// filter returns what of p the session has not read yet from the worker that is lost.
// Called with the lock held.
func (a *attempt) filter(p []byte) (pass []byte) {
	s := a.session
	for len(p) > 0 && a.unfit == "" {
		n, done := a.down.Scan(p)
		if err := a.down.Opaque(); err != nil {
			a.fail(err.Error())
			break
		}
		switch a.fate {
		case undecided:
			a.held = append(a.held, p[:n]...)
			if a.fate = a.decide(done); a.fate == passed {
				a.learn(a.held, done)
				pass = append(pass, a.held...)
			}
			if a.fate != undecided {
				a.held = nil
			}
		case passed:
			a.learn(p[:n], done)
			pass = append(pass, p[:n]...)
		}
		p = p[n:]
		s.midway = a.fate == passed && !done
		if done {
			a.repeated(a.fate, a.down.Message())
			a.fate = undecided
		}
	}
	return pass
}

// decide says what becomes of the message that is arriving, done when all of it is
// there.
func (a *attempt) decide(done bool) fate {
	elements := a.down.Elements()
	if elements == 0 && !done {
		return undecided
	}
	final := elements == 5
	switch {
	case a.replayed < a.repeats:
		return dropped
	case a.verify && final && !done && len(a.held) < confirmationLimit:
		return undecided
	case a.verify && final && a.down.Message().Text != facts.ResetText:
		// It was the session's state that a worker elsewhere has lost.
		a.session.history.since.spoilt = true
		a.fail("the call after it was none of future's")
		return dropped
	case !final && a.seen > 0:
		return dropped
	}
	return passed
}

// repeated notes a message that filter has let through or not.
func (a *attempt) repeated(fate fate, m psock.Message) {
	h := a.session.history
	switch {
	case fate == passed:
		if m.Final {
			a.verify, a.seen = false, 0
		}
		a.session.answered(m)
	case m.Kind != psock.KindValue || a.unfit != "":
	case !m.Final:
		if a.replayed == a.repeats {
			a.seen--
		}
	case a.replayed < a.repeats:
		if m.Success != h.outcome(a.replayed) {
			a.fail("a call that sets a worker up ended otherwise than on the one that was lost")
		}
		a.replayed++
	}
}

// fail ends a worker that cannot take the lost one's place. Called with the lock held.
func (a *attempt) fail(why string) {
	a.unfit = why
	a.worker.Abort()
}

// EOF is followed by Ended. A session that has part of an answer need not wait.
func (a *attempt) EOF() {
	s := a.session
	s.mu.Lock()
	defer s.mu.Unlock()
	a.cutShort()
}

// cutShort ends the session's stream at once if nothing that comes can mend it, and reports whether it
// has. Called with the lock held.
func (a *attempt) cutShort() bool {
	s := a.session
	cut := s.current == a && (s.midway || s.activity.Opaque)
	if cut {
		s.out.closeWrite()
	}
	return cut
}

// Drain gives the worker up after the call that is under way, or now.
func (a *attempt) Drain() {
	s := a.session
	s.mu.Lock()
	a.draining = true
	idle := !s.activity.Busy && !s.activity.Opaque
	s.mu.Unlock()
	if idle {
		a.goodbye()
	}
}

func (a *attempt) goodbye() {
	select {
	case a.leave <- struct{}{}:
	default:
	}
}

// Ended records how the worker ended.
func (a *attempt) Ended(cause string, explain func() string) {
	s := a.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.ended {
		return
	}
	a.ended, a.cause, a.explain = true, cause, explain
	if a.unfit != "" {
		a.cause, a.explain = a.unfit, nil
	}
	if a.cutShort() {
		s.ends(a.cause)
	}
	close(a.over)
}
