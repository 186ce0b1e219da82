package relay

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"slices"
	"sync/atomic"

	"github.com/psock-runtime/psock-runtime/internal/facts"
	"github.com/psock-runtime/psock-runtime/internal/journal"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

const (
	// headLimit bounds the calls that are told by their words.
	headLimit = facts.Limit
	// unsentLimit bounds what is taken of a call for which there is no worker: enough to
	// know whether it is a reset.
	unsentLimit = headLimit
	// setUpLimit bounds what is kept of the calls before a session's first reset:
	// what makeClusterPSOCK asks of a new worker, and what a user sets up on all. Nodes that
	// are set up together keep what the budget allows: they could not take turns without it.
	setUpLimit = 256 << 10
	// setUpFree of that is kept whatever the budget: without it a node cannot move, and
	// makeClusterPSOCK's calls have some 3 KB.
	setUpFree = 12 << 10
	// mostCalls bounds the calls that one history has: a future makes one for each
	// global variable.
	mostCalls = 100_000
	// smallHistory is kept while a worker is idle, however long that is.
	smallHistory = 64 << 10
	// mostLoads bounds the namespaces that a node's worker is known to have loaded: future
	// asks for two.
	mostLoads = 16
)

var (
	errSetUp     = errors.New("more was sent before the first future than is kept")
	errForgotten = errors.New("what a future was sent is forgotten when it is done")
)

// history is what a fresh worker has to be sent to stand where a lost one stood: the
// calls before the session's first reset, and those from its last reset on, with the
// message that is being sent. Its bytes are guarded by Session.sending.
//
// Of a node with state no other worker takes the place, see state.
//
// It does not hold questions, which leave the worker as it was. It keeps the loading of
// namespaces apart: a fresh worker does that first.
type history struct {
	// ask is a question under way, or the loading of a namespace, when nothing else is;
	// asked says which. These three are guarded by Session.mu alone.
	ask   []byte
	asked facts.Call
	loads [][]byte // the calls that have loaded a namespace

	// launches: the last call that is kept is answered by a launch error when it is lost.
	launches bool

	setUp part
	since part
	reset bool // there was one
	// together: other nodes of the session's cluster may be set up on the same worker.
	together bool

	// Guarded by Session.mu as well.
	done    bool // the future since the last reset is: it has no use for what it was sent
	foreign bool // after that came a call that was none of future's
	// prepared: setUp has calls that are neither future's own nor parallelly's.
	prepared bool
	state    // what calls that are none of future's have set

	// The digest of the set-up calls so far, of all and without the last.
	digest      hash.Hash
	sum, before SetUp
	start, last int64 // where in setUp the message in progress begins, and the one before it

	head    []byte // the message in progress, until it is known to be no reset
	flushed bool   // it is known, and the message is in a part, or in unsent
	dropped bool   // nobody is going to be sent the message

	vacant bool   // there is no worker
	unsent []byte // what comes after the parts and no worker was sent: it is kept whatever the budget
}

// SetUp is a digest of set-up calls: workers that have the same are set up alike.
type SetUp = [sha256.Size]byte

// part is some calls of one session.
type part struct {
	*journal.Journal
	failure  atomic.Pointer[error] // why they are not kept; told while they are recorded
	outcomes []bool                // whether each answered call succeeded; guarded by Session.mu
	spoilt   bool                  // they are of no use, whatever is kept; guarded by Session.mu
}

func newHistory(budget *journal.Budget) *history {
	h := &history{setUp: part{Journal: journal.New(budget, setUpFree)}, since: part{Journal: journal.New(budget, 0)}, digest: sha256.New()}
	h.digest.Sum(h.sum[:0])
	return h
}

func (h *history) close() {
	h.setUp.Reset()
	h.since.Reset()
}

// record keeps the next bytes of the message that the session sends.
func (h *history) record(p []byte) {
	if h.dropped {
		return
	}
	if !h.flushed && len(h.head)+len(p) <= headLimit {
		h.head = append(h.head, p...)
		return
	}
	if !h.flushed {
		launches := facts.TakesLaunchErrors(slices.Concat(h.head, p[:min(len(p), headLimit)]))
		h.flush()
		h.launches = launches
	}
	h.keep(p)
}

// flush takes the message in progress for one that is no reset.
func (h *history) flush() {
	if h.flushed {
		return
	}
	h.flushed = true
	h.launches = facts.TakesLaunchErrors(h.head)
	h.keep(h.head)
	h.head = h.head[:0]
	if cap(h.head) > 4<<10 {
		h.head = nil
	}
}

// fits reports whether n bytes more are kept even if there is no worker.
func (h *history) fits(n int) bool { return len(h.unsent)+len(h.head)+n <= unsentLimit }

// keep keeps p: with what no worker was sent while there is none, else where it belongs.
func (h *history) keep(p []byte) {
	if h.part().err() != nil {
		return
	}
	if !h.reset {
		h.digest.Write(p)
	}
	if h.vacant && len(h.unsent)+len(p) <= unsentLimit {
		h.unsent = append(h.unsent, p...)
		return
	}
	h.commit()
	h.store(p)
}

// commit puts what a worker has been sent by now where the rest is.
func (h *history) commit() {
	if len(h.unsent) > 0 {
		h.store(h.unsent)
		h.unsent = nil
	}
}

// store puts p where it belongs, or gives the calls up that it belongs to.
func (h *history) store(p []byte) {
	part := h.part()
	if part.err() != nil {
		return
	}
	if !h.reset && !h.together && part.Size()+int64(len(p)) > setUpLimit {
		part.lose(errSetUp)
		return
	}
	if err := part.Append(p); err != nil {
		part.lose(err)
	}
}

// part is where the message in progress belongs.
func (h *history) part() *part {
	if h.reset {
		return &h.since
	}
	return &h.setUp
}

// drop forgets the message in progress, and what follows of it.
func (h *history) drop() {
	if h.dropped {
		return
	}
	if !h.flushed {
		h.launches = facts.TakesLaunchErrors(h.head)
	}
	h.dropped, h.flushed, h.head = true, false, nil
	h.unsend()
}

func (p *part) lose(err error) {
	p.failure.Store(&err)
	p.Reset()
}

// err is why the calls are not kept, nil if they are.
func (p *part) err() error {
	if failure := p.failure.Load(); failure != nil {
		return *failure
	}
	return nil
}

// restart makes the message in progress, a reset, the first of the calls since; vacant says that
// there is no worker. Called with Session.mu held as well.
func (h *history) restart(vacant bool) {
	h.unlaunched(vacant)
	h.forget()
	h.reset, h.done, h.foreign = true, false, false
}

// forget drops what was sent since the last reset. Called with Session.mu held as well.
func (h *history) forget() {
	h.since.Reset()
	h.since.failure.Store(nil)
	h.since.outcomes, h.since.spoilt = nil, false
}

// answered notes the answer of the oldest call that had none: its value, if that is a
// short string, and whether that is a future's result. The first answer since a reset
// confirms it: what was none has changed the worker in ways that nobody knows. more says
// that other calls wait for theirs: those behind a future's last one are none of its. Called
// with Session.mu held.
func (h *history) answered(m psock.Message, more bool) {
	if h.ask != nil {
		if h.asked == facts.Load && m.Success && !h.loaded(h.ask) {
			h.loads = append(h.loads, h.ask)
		}
		h.ask = nil
		return
	}
	h.confirm(m, more)
	part := &h.setUp
	if h.reset {
		part = &h.since
		if len(part.outcomes) == 0 && m.Text != facts.ResetText && !h.done {
			part.spoilt, h.setUp.spoilt = true, true
			h.own = true
		}
	} else if m.Class != "" { // its reset, behind another call, was not seen to be one
		part.spoilt = true
	}
	if part.spoilt || h.done {
		return
	}
	part.outcomes = append(part.outcomes, m.Success)
	part.spoilt = len(part.outcomes) > mostCalls
	if h.reset && m.Class != "" {
		h.end(more)
	}
}

// movable reports whether the next call can be made on another worker: it is going to
// be a reset, since futures run here and nothing else does, or nothing was done but to
// ask who the worker is. once says that no future runs twice. Called with Session.mu held
// as well.
func (h *history) movable(once bool) bool {
	switch {
	case h.own || h.setUp.err() != nil || h.setUp.spoilt:
		return false
	case h.done:
		return !h.foreign
	case h.reset: // between two calls of one future
		return h.since.err() == nil && !h.since.spoilt && !h.strange && !once
	}
	return h.together || h.plain()
}

// plain reports whether the worker is as a fresh one, but for namespaces. Called with
// Session.mu held.
func (h *history) plain() bool {
	return !h.reset && len(h.setUp.outcomes) == 0 && !h.setUp.spoilt && h.setUp.err() == nil
}

// setUps are the workers of other nodes that can take the calls due from here on: those
// on which the same was done. A set-up call that is due may have been made there as
// well, by the node that it was made for. Called with Session.mu held as well.
func (h *history) setUps(due int) []SetUp {
	due -= h.questions()
	switch {
	case h.setUp.err() != nil || h.setUp.spoilt || h.reset && len(h.since.outcomes) > 0:
		return nil
	case h.reset || due == 0:
		return []SetUp{h.sum}
	case due == 1 && !h.flushed && len(h.head) == 0:
		return []SetUp{h.before, h.sum}
	}
	return nil
}

// unsend forgets what no worker was sent. Called with Session.mu held as well.
func (h *history) unsend() {
	h.unsent, h.ask = nil, nil
	if h.reset || h.setUp.err() != nil {
		return
	}
	h.digest.Reset()
	if _, err := io.Copy(h.digest, h.setUp.Reader()); err != nil {
		h.setUp.lose(err)
		return
	}
	h.digest.Sum(h.sum[:0])
	h.start = h.setUp.Size()
}

// next ends the message in progress.
func (h *history) next() {
	if h.dropped {
		h.dropped = false
		return
	}
	h.flush()
	h.flushed = false
	h.mark()
}

// mark notes where a message in setUp ends.
func (h *history) mark() {
	if !h.reset && h.setUp.err() == nil { // else nobody asks for the digest
		h.before = h.sum
		h.digest.Sum(h.sum[:0])
		h.last, h.start = h.start, h.setUp.Size()+int64(len(h.unsent))
	}
}

// reader reads all that a fresh worker is sent, the message in progress included.
func (h *history) reader() io.Reader {
	loads := bytes.NewReader(bytes.Join(h.loads, nil))
	return io.MultiReader(loads, h.setUp.Reader(), h.since.Reader(), h.due())
}

// repeats is how many calls of these are answered already. Called with Session.mu held.
func (h *history) repeats() int {
	return len(h.loads) + len(h.setUp.outcomes) + len(h.since.outcomes)
}

// outcome is how the first of these calls ended, the second and so on. Called with
// Session.mu held.
func (h *history) outcome(i int) (success bool) {
	if i -= len(h.loads); i < 0 {
		return true
	}
	if i < len(h.setUp.outcomes) {
		return h.setUp.outcomes[i]
	}
	return h.since.outcomes[i-len(h.setUp.outcomes)]
}

// due reads what no worker was sent.
func (h *history) due() io.Reader {
	return io.MultiReader(bytes.NewReader(h.ask), bytes.NewReader(h.unsent), bytes.NewReader(h.head))
}

// rest reads what a worker is sent that is set up: the calls due.
func (h *history) rest(due int) io.Reader {
	rest := io.MultiReader(h.since.Reader(), h.due())
	if h.reset {
		return rest
	}
	from := h.start
	if due > h.questions() {
		from = h.last
	}
	setUp := h.setUp.Reader()
	if _, err := io.CopyN(io.Discard, setUp, from); err != nil {
		return failingReader{err}
	}
	return io.MultiReader(setUp, rest)
}

// failingReader has nothing but an error.
type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }
