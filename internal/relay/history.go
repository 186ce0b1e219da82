package relay

import (
	"bytes"
	"errors"
	"io"

	"github.com/psock-runtime/psock-runtime/internal/journal"
)

// resetMark is in the call by which future erases a worker's global environment,
// and is its value: grmall() of future 1.31 to 1.70.
const resetMark = "future-grmall"

const (
	// headLimit bounds what may be such a call; it has 1.8 KB.
	headLimit = 16 << 10
	// setUpLimit bounds what is kept of the calls before a session's first reset:
	// what makeClusterPSOCK asks of a new worker, and what a user sets up on all.
	setUpLimit = 256 << 10
	// mostCalls bounds the calls that one history has: a future makes one for each
	// global variable.
	mostCalls = 100_000
	// smallHistory is kept while a worker is idle, however long that is.
	smallHistory = 64 << 10
)

var (
	errSetUp     = errors.New("more was sent before the first future than is kept")
	errForgotten = errors.New("what a future was sent is forgotten when it is done")
)

// history is what a fresh worker has to be sent to stand where a lost one stood: the
// calls before the session's first reset, and those from its last reset on, with the
// message that is being sent. Its bytes are guarded by Session.sending.
type history struct {
	setUp part
	since part
	reset bool // there was one

	head    []byte // the message in progress, until it is known to be no reset
	flushed bool   // it is known, and the message is in a part
}

// part is some calls of one session.
type part struct {
	*journal.Journal
	err      error  // why they are not kept
	outcomes []bool // whether each answered call succeeded; guarded by Session.mu
	spoilt   bool   // they are of no use, whatever is kept; guarded by Session.mu
}

func newHistory(budget *journal.Budget) *history {
	return &history{setUp: part{Journal: journal.New(budget)}, since: part{Journal: journal.New(budget)}}
}

func (h *history) close() {
	h.setUp.Reset()
	h.since.Reset()
}

// record keeps the next bytes of the message that the session sends.
func (h *history) record(p []byte) {
	if !h.flushed && len(h.head)+len(p) <= headLimit {
		h.head = append(h.head, p...)
		return
	}
	h.flush()
	h.keep(p)
}

// flush takes the message in progress for one that is no reset.
func (h *history) flush() {
	if h.flushed {
		return
	}
	h.flushed = true
	h.keep(h.head)
	h.head = h.head[:0]
	if cap(h.head) > 4<<10 {
		h.head = nil
	}
}

func (h *history) keep(p []byte) {
	part := &h.setUp
	if h.reset {
		part = &h.since
	}
	if part.err != nil {
		return
	}
	if !h.reset && part.Size()+int64(len(p)) > setUpLimit {
		part.lose(errSetUp)
		return
	}
	if err := part.Append(p); err != nil {
		part.lose(err)
	}
}

func (p *part) lose(err error) {
	p.err = err
	p.Reset()
}

// isReset reports whether the message in progress, of which all is there, asks the
// worker to erase its global environment. The worker's answer confirms it.
func (h *history) isReset() bool {
	return !h.flushed && bytes.Contains(h.head, []byte(resetMark))
}

// restart makes the message in progress, a reset, the first of the calls since.
// Called with Session.mu held as well.
func (h *history) restart() {
	h.reset = true
	h.since.Reset()
	h.since.err, h.since.outcomes, h.since.spoilt = nil, nil, false
}

// answered notes the answer of the oldest call that had none; text is its value,
// if that is a short string. The first answer since a reset confirms it: what was
// none has changed the worker in ways that nobody knows. Called with Session.mu held.
func (h *history) answered(success bool, text string) {
	part := &h.setUp
	if h.reset {
		part = &h.since
		if len(part.outcomes) == 0 && text != resetMark {
			part.spoilt, h.setUp.spoilt = true, true
		}
	}
	if part.spoilt {
		return
	}
	part.outcomes = append(part.outcomes, success)
	part.spoilt = len(part.outcomes) > mostCalls
}

// movable reports whether the next call can be made on another worker: it is going to
// be a reset, since futures run here, or nothing but makeClusterPSOCK's own call was
// made. Called with Session.mu held as well.
func (h *history) movable() bool {
	return h.setUp.err == nil && !h.setUp.spoilt && (h.reset || len(h.setUp.outcomes) <= 1)
}

// next ends the message in progress.
func (h *history) next() {
	h.flush()
	h.flushed = false
}

// reader reads all that is kept, the message in progress included.
func (h *history) reader() io.Reader {
	return io.MultiReader(h.setUp.Reader(), h.since.Reader(), bytes.NewReader(h.head))
}
