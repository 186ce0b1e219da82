package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/facts"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// loss is the end of a worker that a session had.
type loss struct {
	worker, cause string
	explain       func() string // says more than cause, after some time; nil if nothing does
	inCall        bool
	taken         bool // it was given to somebody else, or there was none yet
}

func (l loss) String() string { return "worker " + l.worker + ": " + l.cause }

// LossReason is why a call failed with its worker instead of running again.
type LossReason string

// The reasons, in the order in which they are looked for.
const (
	NotFollowed LossReason = "not_followed" // the stream is not known to be R's
	Answered    LossReason = "answer_begun" // the session has part of the answer
	NoReset     LossReason = "no_reset"     // the session showed no sign of future
	NotKept     LossReason = "not_kept"     // what to send again is not there
	StateLost   LossReason = "state"        // what was set between futures was there alone
	Attempts    LossReason = "attempts"     // too many workers died under it
	NoWorker    LossReason = "no_worker"    // none became ready
)

// LossReasons lists every LossReason.
var LossReasons = []LossReason{NotFollowed, Answered, StateLost, NoReset, NotKept, Attempts, NoWorker}

// lostError is what the session's R is told.
type lostError struct {
	reason LossReason
	text   string
}

func (e *lostError) Error() string { return e.text }

// lost notes that the attempt's worker has ended.
func (s *Session) lost(a *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = nil
	s.history.lose()
	s.vacancy = loss{worker: a.worker.Name(), cause: a.cause, explain: a.explain, inCall: s.calls > 0 || s.partial}
	if s.vacancy.inCall && !a.draining {
		s.deaths = append(s.deaths, s.vacancy)
	}
}

// detach gives up a worker whose agent drains, or that somebody else should have, if no
// call is under way: the session's next one goes to another. One that drains between two
// calls of a future which does not run twice is kept for the rest of it.
func (s *Session) detach(a *attempt) {
	s.sending.Lock()
	s.mu.Lock()
	unasked := s.midway || s.activity.Opaque
	within := s.history.reset && !s.history.done && (s.runsOnce() || s.history.own)
	gone := s.current == a && s.calls == 0 && !s.partial && !unasked && (a.draining && !within || a.offered && a.worker.Yield())
	if unasked { // the worker sends what nobody has asked for: it is none to pass on
		a.keep()
	}
	if gone {
		s.current = nil
		s.history.lose()
		s.vacancy = loss{worker: a.worker.Name(), cause: "its agent was told to end"}
		if !a.draining {
			s.vacancy.cause, s.vacancy.taken = "it was idle, and another session needed it", true
		}
	}
	s.mu.Unlock()
	s.sending.Unlock()
	if gone {
		a.worker.End()
	}
}

// settle finds a session a worker if it has none and a call needs one. It reports
// whether the session can go on.
func (s *Session) settle(ctx context.Context) bool {
	vacant, open, err := s.state()
	if !vacant {
		return true
	}
	if err == nil || err.reason == StateLost || err.reason == NoReset || err.reason == NotKept || err.reason == Attempts {
		if open {
			return true
		}
	}
	if s.answersItself(true) {
		return true
	}
	if err == nil {
		if err = s.resume(ctx); err == nil || ctx.Err() != nil {
			return true
		}
	}
	if s.explainLosses() && err.reason != NoWorker {
		if _, _, err = s.state(); err == nil { // Once has been told otherwise meanwhile
			return s.settle(ctx)
		}
	}
	return s.answer(err)
}

// state says whether there is no worker, whether a call is not due yet or may turn out
// to be a reset, and what recoverable does.
func (s *Session) state() (vacant, open bool, err *lostError) {
	s.sending.Lock()
	defer s.sending.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current == nil, s.calls == 0 && !s.held && (!s.partial || !s.history.flushed), s.recoverable()
}

// explainLosses replaces the causes of losses by what else is known, waiting for that
// if need be. It reports whether any has changed.
func (s *Session) explainLosses() (changed bool) {
	s.mu.Lock()
	losses := append(slices.Clone(s.deaths), s.vacancy)
	s.mu.Unlock()
	for i := range losses {
		if losses[i].explain != nil {
			losses[i].cause, losses[i].explain, changed = losses[i].explain(), nil, true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if changed && len(s.deaths) == len(losses)-1 { // else another future has begun
		s.deaths, s.vacancy = losses[:len(losses)-1], losses[len(losses)-1]
	}
	return changed
}

// recoverable says why another worker cannot go on where the last one ended, nil if
// it can. Called with sending and the lock held.
func (s *Session) recoverable() *lostError {
	h, when := s.history, "in this call"
	if !s.vacancy.inCall {
		when = "before this call"
	}
	text := fmt.Sprintf("worker %s was lost %s: %s", s.vacancy.worker, when, s.vacancy.cause)
	if s.vacancy.worker == "" {
		text = "an earlier call got no worker"
	}
	kept := errors.Join(h.setUp.err(), h.since.err())
	switch {
	case s.activity.Opaque:
		return &lostError{NotFollowed, text}
	case s.denied != nil:
		return s.denied
	case s.midway:
		return &lostError{Answered, text}
	case s.missed != "" && !s.asks():
		return &lostError{StateLost, explainMissed(s.missed)}
	case h.owesLoss():
		return &lostError{StateLost, explainState(text)}
	case !s.vacancy.taken && !s.renewable():
		return &lostError{NoReset, text}
	case s.runsOnce() && !s.asks() && (s.vacancy.inCall || len(h.since.outcomes) > 0):
		return &lostError{Attempts, text}
	case len(s.deaths) > 0 && len(s.deaths) >= s.recovery.Attempts && !(s.asks() && len(s.deaths) < 3):
		return &lostError{Attempts, s.explainDeaths(text)}
	case h.setUp.spoilt || h.since.spoilt:
		return &lostError{NotKept, text}
	case kept != nil:
		return &lostError{NotKept, text + "; it cannot be made up for: " + strings.ReplaceAll(kept.Error(), "\n", "; ")}
	}
	return nil
}

func (s *Session) explainDeaths(one string) string {
	if len(s.deaths) == 1 {
		return one
	}
	all := make([]string, len(s.deaths))
	for i, death := range s.deaths {
		all[i] = death.String()
	}
	return fmt.Sprintf("%s; %d workers were lost with this future, the limit of --max-attempts: %s", one, len(all), strings.Join(all, "; "))
}

// resume binds another worker and sends it what brings it to where the last one was.
func (s *Session) resume(ctx context.Context) *lostError {
	for {
		worker, err := s.acquire(ctx)
		if err != nil && s.answersItself(true) {
			return nil
		}
		s.sending.Lock()
		s.mu.Lock()
		lost, was := s.recoverable(), s.vacancy
		s.mu.Unlock()
		if lost == nil && errors.Is(err, context.Canceled) && ctx.Err() == nil {
			s.sending.Unlock()
			continue // the answer came to be known, but the session has sent more
		}
		if lost == nil && err != nil {
			lost = &lostError{NoWorker, err.Error()}
			if was.worker != "" {
				lost.text = fmt.Sprintf("worker %s was lost: %s; no other takes its place: %v", was.worker, was.cause, err)
			}
		}
		if lost != nil {
			s.sending.Unlock()
			if err == nil {
				worker.Release()
			}
			return lost
		}
		bound := s.replay(worker)
		s.sending.Unlock()
		if !bound {
			continue
		}
		if was.inCall {
			s.rerun(was, worker)
		}
		return nil
	}
}

func (s *Session) need() Need {
	s.sending.Lock()
	defer s.sending.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return Need{Lost: !s.vacancy.taken && s.vacancy.inCall, SetUps: s.history.setUps(s.calls)}
}

// rerun notes that a future runs again that was lost with was.
func (s *Session) rerun(was loss, worker Worker) {
	s.mu.Lock()
	s.activity.Reruns++
	s.reruns++
	attempt := s.reruns + 1
	s.mu.Unlock()
	s.observer.Rerun(was.worker, was.cause, worker.Name(), attempt)
}

// replay binds worker and sends it what is kept, or, if it is set up, what is due. It
// reports whether the worker was there to begin with. That it ends on the way is told
// by Ended. Called with sending held.
func (s *Session) replay(worker Worker) (bound bool) {
	s.mu.Lock()
	due, kept := s.calls, s.history.reader()
	if setUp := worker.SetUp(); setUp != (SetUp{}) {
		if !slices.Contains(s.history.setUps(due), setUp) { // more has been sent since it was asked for
			s.mu.Unlock()
			worker.Release()
			return false
		}
		kept = s.history.rest(due)
	}
	s.mu.Unlock()
	a := s.begin(worker)
	if err := worker.Bind(a); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.current = nil
		return false
	}
	defer s.commit()
	frame := make([]byte, Headroom+firstBuffer)
	for {
		n, err := kept.Read(frame[Headroom:])
		if n > 0 && s.send(a, frame[:Headroom+n]) != nil {
			return true // followed by Ended
		}
		if err == io.EOF {
			return true
		}
		if err != nil {
			s.mu.Lock()
			s.history.since.lose(err)
			a.fail(err.Error())
			s.mu.Unlock()
			return true
		}
		if n == firstBuffer && len(frame) < bulkBuffer {
			frame = make([]byte, Headroom+bulkBuffer)
		}
	}
}

// commit keeps what the worker has been sent with the rest, if there is room: else the worker, which
// may have answered meanwhile, is the session's alone. Called with sending held.
func (s *Session) commit() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history.commit()
	s.reconsider()
}

// answer puts an R error in the place of every answer that is due: one that future knows, in
// that of a future's last call. It reports whether
// the session can go on: one whose stream does not allow it, or whose call has a tag,
// is over. parallel's clusterApplyLB drops answers without the tag, and the error with
// them.
func (s *Session) answer(lost *lostError) bool {
	s.sending.Lock()
	defer s.sending.Unlock()
	s.writing.Lock()
	defer s.writing.Unlock()
	due, open := s.takeDue(lost)
	reply := psock.AppendError(nil, lost.text, s.xdr)
	if due == 1 && s.history.launches {
		reply = psock.AppendCondition(nil, lost.text, facts.LaunchErrors, s.xdr)
	}
	for range due {
		if err := s.out.write(reply); err != nil {
			return false
		}
	}
	return open
}

// takeDue counts the calls that lost is the answer of as done, and says whether the
// session can go on. A call of which only a part was sent is answered later.
func (s *Session) takeDue(lost *lostError) (due int, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	broken := lost.reason == NotFollowed || lost.reason == Answered
	if s.calls == 0 && !broken {
		if s.partial && lost.reason == NoWorker {
			s.denied = lost
		}
		return 0, true
	}
	s.observer.Lost(lost.reason, lost.text)
	if broken || s.tagged || s.partial {
		if lost.reason == StateLost { // R is told by the end of the connection
			s.toldLoss()
		}
		return 0, false
	}
	s.conditions, s.deaths, s.denied, s.vacancy.inCall = 0, nil, nil, false
	switch h := s.history; {
	case h.ask != nil: // a question: nothing is missed of it
	case lost.reason == StateLost:
		s.toldLoss()
	case h.reset:
		h.since.spoilt = true
	case s.calls > 1 || lost.reason != NoWorker: // else no worker has had it
		h.setUp.spoilt, h.prepared = true, false
	}
	if s.history.ask == nil { // no worker has had the call, or R is told what is lost
		s.history.state = state{}
	}
	s.history.unsend()
	due, s.calls = s.calls, 0
	s.activity.Busy, s.activity.Since = false, time.Now()
	return due, true
}
