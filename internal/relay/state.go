package relay

import (
	"cmp"
	"fmt"

	"github.com/psock-runtime/psock-runtime/internal/facts"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// leftBy is the cause of a loss when the session itself has closed the connection: no other is known.
const leftBy = "the session closed the node's connection, as cancel() does"

// state is what calls have set on a node's worker that are neither future's own nor made again
// wherever the node goes (clusterEvalQ(cl, options(k = 42))). A later future may depend on it, and
// would silently have another value on another worker. So such a node keeps its worker for as long
// as it lives; if that is lost all the same, R is told, once, before the node gets another.
// Guarded by Session.mu; pin's callers hold Session.sending as well.
type state struct {
	own     bool // there is such state, or a call is under way that may set it
	missing bool // the worker that had it is lost, and R has not been told
	// under is what the last call is told to be that is no question. undo: own was not true before
	// it, and its answer may show that it is future's.
	under facts.Call
	undo  bool
	// cleared: future has erased the worker after its future; it collects garbage next, and is done.
	cleared bool
	// strange: since the last reset a call was answered that may be none of future's. If no
	// future ends before the next reset, it was none.
	strange bool
}

// pin notes a call that sets state; vacant says that the worker which has it is lost.
func (st *state) pin(vacant bool) {
	st.own = true
	st.missing = st.missing || vacant
}

// unlaunched notes that no future is under way, as a reset or a validation shows, and looks at what
// was called since the last reset: if no future of that has ended, a strange call was the user's.
// vacant says that there is no worker.
func (h *history) unlaunched(vacant bool) {
	if h.reset && !h.done && h.strange {
		h.pin(vacant)
		h.done = true
	}
	h.under, h.undo, h.cleared, h.strange = facts.Unknown, false, false, false
}

// sent notes that all of a call has been sent that is none of those that are told. Called
// with Session.mu held as well.
func (h *history) sent(call facts.Call) {
	h.under, h.undo = call, false
	switch {
	case call.Keeps() || call == facts.Load:
		return
	case h.own:
	case h.done || !h.reset && !h.together && call != facts.Attach:
		h.own, h.undo = true, true
	}
	h.foreign = h.foreign || h.done
}

// confirm notes what an answer shows of the call that it is for; more says that others wait for
// theirs. Called with Session.mu held.
func (h *history) confirm(m psock.Message, more bool) {
	own := m.Success && facts.Own(m.Text) || h.under.Keeps() || h.under == facts.Load
	h.prepared = h.prepared || !own && !h.reset
	switch {
	case own && h.undo: // nothing was sent behind it
		h.own, h.foreign = false, false
	case h.reset && !h.done:
		h.strange = (h.strange || !own) && m.Class == ""
		if h.cleared && facts.Collects(h.under, m.Text) {
			h.end(more)
		}
		h.cleared = m.Text == facts.ClearedText
	}
	h.undo = false
}

// end notes that the future since the last reset is done. Calls behind its last one are none of
// it. Called with Session.mu held.
func (h *history) end(more bool) {
	h.done, h.foreign = true, more
	h.own = h.own || more
}

// lose notes that the node's worker is lost.
func (st *state) lose() { st.missing = st.missing || st.own }

// renew makes the node one that has set nothing, now that R has been told that what it had set
// is lost. Called with Session.sending and Session.mu held.
func (h *history) renew() {
	h.state = state{}
	h.forget()
	h.done, h.foreign = true, false
	h.setUp.Reset()
	h.setUp.failure.Store(nil)
	h.setUp.outcomes, h.setUp.spoilt, h.prepared = nil, false, false
	h.digest.Reset()
	h.digest.Sum(h.sum[:0])
	h.before, h.start, h.last = h.sum, 0, 0
}

// toldLoss notes that R has been told that state is lost: nothing is missed any more. Called with
// Session.sending and Session.mu held.
func (s *Session) toldLoss() {
	s.history.renew()
	s.missed, s.vacancy.taken = "", true
}

// owesLoss reports whether what follows may depend on state that is lost, of which R is to be told
// now. A node that no future has run on yet is of parallel's functions, which go on without what
// is lost: there every call fails, see recoverable. Called with Session.sending and Session.mu held.
func (h *history) owesLoss() bool { return h.missing && h.reset }

// StateIfEnded returns why the state of this node is lost once its connection has ended, for
// Recovery.Missed of the node that replaces it; "" if it has none. Calls that are repeated on each worker
// of the node count as state: the node that replaces it does not know them. done reports that R has sent
// DONE and will not replace the node.
func (s *Session) StateIfEnded() (lost string, done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.history
	switch {
	case s.stopped:
		return "", true
	case s.missed != "":
		return s.missed, false
	case !h.own && !h.missing && !h.prepared && !s.activity.Opaque && !(h.reset && !h.done && h.strange):
		return "", false
	case s.current != nil:
		return lostBefore(s.current.worker.Name(), cmp.Or(s.endedBy, leftBy)), false
	case s.vacancy.worker != "":
		return lostBefore(s.vacancy.worker, s.vacancy.cause), false
	}
	return cmp.Or(s.endedBy, leftBy), false
}

// ends notes why the connection ends, unless that is known. Called with Session.mu held.
func (s *Session) ends(cause string) { s.endedBy = cmp.Or(s.endedBy, cause) }

// StateLost returns why the state of this node is lost although its connection is open: its worker is, and
// R has not been told. "" if it is not.
func (s *Session) StateLost() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || !s.history.missing {
		return ""
	}
	return lostBefore(s.vacancy.worker, s.vacancy.cause)
}

func lostBefore(worker, cause string) string {
	return fmt.Sprintf("worker %s was lost before this call: %s", worker, cause)
}

// withdraw ends the worker that a node has for questions which replaces another, if more than a question is
// under way now: R has not been told yet what it misses, and the answer may depend on that. It reports
// whether it has. Called with sending held.
func (s *Session) withdraw(a *attempt) bool {
	s.mu.Lock()
	withdrawn := s.missed != "" && s.current == a && !s.asks()
	if withdrawn {
		s.current, s.vacancy = nil, loss{taken: true}
	}
	s.mu.Unlock()
	if withdrawn {
		a.worker.End()
	}
	return withdrawn
}

// explainMissed says to a node that replaces another what is lost. The session's own cluster object has
// the node that was replaced, so that calls with it do not reach this one.
func explainMissed(text string) string {
	return fmt.Sprintf("%s; what calls that are no futures have set on it, as clusterEvalQ() does, is lost with it, and this node has replaced it: make the cluster again and set it there, or go on without", text)
}

// explainState says what is lost with a worker and what to do, after what says why it is lost.
func explainState(text string) string {
	return fmt.Sprintf("%s; what calls that are no futures have set on it, as clusterEvalQ() does, is lost with it: set it again, and go on", text)
}
