package relay

import (
	"bytes"
	"crypto/sha256"
	"sync"

	"github.com/psock-runtime/psock-runtime/internal/facts"
)

const (
	// answerLimit bounds an answer that is kept for other nodes: that to an Introduction has
	// 4 KB.
	answerLimit = 16 << 10
	// mostAnswers bounds how many a cluster has: four are asked for, in either byte order.
	mostAnswers = 16
)

// Answers are what workers of a cluster have answered to its nodes' questions. Its nodes
// take turns on workers that are alike: one that has no worker need not get one to be told
// again what another node was told.
type Answers struct {
	mu    sync.Mutex
	known map[question]answer
	asked map[question]chan struct{} // closed when the answer is known
}

// question is a digest of a call.
type question [sha256.Size]byte

type answer struct{ call, bytes []byte }

// NewAnswers makes an empty one.
func NewAnswers() *Answers {
	return &Answers{known: make(map[question]answer), asked: make(map[question]chan struct{})}
}

// to is what is known to answer call; nil for nothing.
func (a *Answers) to(call []byte) *answer {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if known, ok := a.known[sha256.Sum256(call)]; ok {
		return &known
	}
	return nil
}

// learn keeps the answer to call.
func (a *Answers) learn(call, bytes []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := question(sha256.Sum256(call))
	if _, ok := a.known[q]; ok || len(a.known) >= mostAnswers {
		return
	}
	a.known[q] = answer{call, bytes}
	if told := a.asked[q]; told != nil {
		close(told)
		delete(a.asked, q)
	}
}

// told is closed when the answer to call is known; nil if it never may be.
func (a *Answers) told(call []byte) <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := question(sha256.Sum256(call))
	told := a.asked[q]
	if _, ok := a.known[q]; ok {
		told = make(chan struct{})
		close(told)
		return told
	}
	if told == nil && len(a.known)+len(a.asked) < mostAnswers {
		told = make(chan struct{})
		a.asked[q] = told
	}
	return told
}

// learn takes the next bytes of an answer that the session reads, done with the last of
// them, for other nodes as well. Called with the lock held, before the answer is noted.
func (a *attempt) learn(p []byte, done bool) {
	s := a.session
	if s.answers() == nil || s.history.ask == nil || s.history.asked == facts.Validation {
		return
	}
	if len(a.lesson)+len(p) <= answerLimit {
		a.lesson = append(a.lesson, p...)
	}
	if !done {
		return
	}
	m := a.down.Message()
	if m.Final && m.Success && m.Bytes == int64(len(a.lesson)) {
		s.answers().learn(s.history.ask, bytes.Clone(a.lesson))
	}
	a.lesson = nil
}
