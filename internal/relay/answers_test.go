package relay_test

import (
	"bytes"

	"fmt"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/facts"
	"github.com/psock-runtime/psock-runtime/internal/relay"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// valid is what a worker answers when future asks whether its node works.
func valid() []byte { return psock.AppendText(nil, facts.ValidationText, false) }

// asks sends a call that no worker gets, and reads its answer.
func (s *session) asks(t *testing.T, question, want []byte) {
	t.Helper()
	s.write(t, question)
	if got := s.read(t, len(want)); !bytes.Equal(got, want) {
		t.Fatalf("R reads %q, want %q", got, want)
	}
}

// A node is valid whatever has become of its worker: its next future gets another. Before
// and after its first future, with state on the lost worker and without, however the
// question arrives.
func TestValidation(t *testing.T) {
	question := told(facts.Validation)
	for name, before := range map[string]func(s *session) int{
		"untouched":  func(*session) int { return 0 },
		"set up":     func(s *session) int { return s.makes(t, 0, call("EXEC", []byte("x <- 1")), value("set")) },
		"futures":    func(s *session) int { return s.done(t, 0) },
		"with state": func(s *session) int { return s.makes(t, s.done(t, 0), call("EXEC", []byte("x <<- 1")), value("set")) },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, &worker{}, nil)
			sent := before(s)
			s.asks(t, question, valid())
			s.done(t, sent) // the worker was not asked
			s.ends(t, "killed")
			for range 3 {
				s.asks(t, question, valid())
			}
			s.worker = newWorker("another")
			s.spare <- s.worker
			s.write(t, question[:10])
			s.write(t, question[10:])
			if got := s.read(t, len(valid())); !bytes.Equal(got, valid()) {
				t.Fatalf("R reads %q", got)
			}
			s.write(t, reset())
			if name == "set up" || name == "with state" { // of which R is told once
				s.readError(t, "worker worker-a/0 was lost before this call: killed"+stateLost)
				s.asks(t, question, valid())
				s.write(t, reset())
			}
			receive(t, s.worker.bound, "another worker to be bound")
		})
	}
}

// makes has the session make a call after the worker has been sent n bytes.
func (s *session) makes(t *testing.T, n int, call, answer []byte) (sent int) {
	t.Helper()
	s.write(t, call)
	s.worker.await(t, n+len(call))
	s.Data(answer)
	s.read(t, len(answer))
	return n + len(call)
}

// A question that a worker has a part of is the worker's to answer; when that one is lost,
// the answer comes all the same.
func TestValidationInPieces(t *testing.T) {
	question := told(facts.Validation)
	s := start(t, &worker{}, nil)
	sent := s.done(t, 0)
	s.write(t, question[:10])
	s.worker.await(t, sent+10)
	s.write(t, question[10:])
	s.worker.await(t, sent+len(question))
	s.Data(valid())
	s.read(t, len(valid()))
	sent += len(question)
	s.write(t, question[:10])
	s.worker.await(t, sent+10)
	s.write(t, question[10:])
	s.worker.await(t, sent+len(question))
	s.Ended("killed")
	if got := s.read(t, len(valid())); !bytes.Equal(got, valid()) {
		t.Fatalf("R reads %q", got)
	}
	s.worker = newWorker("other")
	s.spare <- s.worker
	s.write(t, reset())
	receive(t, s.worker.bound, "another worker to be bound")
}

// What a future's worker is sent between two futures to ask who it is leaves no state: the
// worker may go.
func TestQuestionBetweenFutures(t *testing.T) {
	s := start(t, &worker{}, nil)
	sent := s.done(t, 0)
	receive(t, s.worker.offers, "the worker to be offered")
	sent = s.makes(t, sent, introduction(), value("me"))
	receive(t, s.worker.offers, "the worker to be offered again")
	s.write(t, introduction())
	s.worker.await(t, sent+len(introduction()))
	other := newWorker("other")
	s.spare <- other
	s.Ended("killed")
	receive(t, other.bound, "another worker to be bound")
	s.worker = other
	if got := other.await(t, len(introduction())); !bytes.Equal(got, introduction()) {
		t.Errorf("the other worker was sent %q", got)
	}
	s.Data(value("somebody"))
	if got := s.read(t, len(value("somebody"))); !bytes.Equal(got, value("somebody")) {
		t.Errorf("R reads %q", got)
	}
}

// Loading a namespace is done again on each worker that takes a lost one's place, and does
// not keep the worker where it is.
func TestLoads(t *testing.T) {
	s := startShared(t, relay.Recovery{}, someRoom)
	load := told(facts.Load)
	s.worker = newWorker("first")
	s.spare <- s.worker
	s.write(t, load)
	receive(t, s.worker.bound, "a worker to be bound")
	s.worker.await(t, len(load))
	s.Data(value("TRUE"))
	s.read(t, len(value("TRUE")))
	receive(t, s.worker.offers, "the worker to be offered")
	s.ends(t, "killed")
	s.asks(t, told(facts.Validation), valid())
	s.worker = newWorker("second")
	s.spare <- s.worker
	s.write(t, reset())
	receive(t, s.worker.bound, "another worker to be bound")
	want := append(load, reset()...)
	if got := s.worker.await(t, len(want)); !bytes.Equal(got, want) {
		t.Errorf("the other worker was sent %q", got)
	}
	s.Data(append(value("TRUE"), confirmed()...))
	if got := s.read(t, len(confirmed())); !bytes.Equal(got, confirmed()) {
		t.Errorf("R reads %q", got)
	}
}

// What one node of a cluster was told needs no worker to be told again: at once, or when
// the first one is.
func TestAnswers(t *testing.T) {
	answers := relay.NewAnswers()
	nodes := make([]*session, 3)
	for i := range nodes {
		nodes[i] = startShared(t, relay.Recovery{Answers: answers}, someRoom)
	}
	for _, question := range [][]byte{introduction(), told(facts.Cores), told(facts.Load)} {
		first, waits, later := nodes[0], nodes[1], nodes[2]
		first.worker = newWorker("the only one")
		first.spare <- first.worker
		first.write(t, question)
		receive(t, first.needs, "a need")
		receive(t, first.worker.bound, "the worker to be bound")
		waits.write(t, question)
		receive(t, waits.needs, "a need")
		first.worker.await(t, len(question))
		me := value(fmt.Sprintf("me %d", len(question)))
		first.Data(condition("ahead"))
		first.read(t, len(condition("ahead")))
		first.Data(me[:20])
		first.Data(me[20:])
		for _, s := range []*session{first, waits} {
			if got := s.read(t, len(me)); !bytes.Equal(got, me) {
				t.Fatalf("R reads %q", got)
			}
		}
		later.asks(t, question, me)
		first.ends(t, "killed")
	}
	// The namespace is loaded all the same.
	last := nodes[2]
	last.worker = newWorker("for a future")
	last.spare <- last.worker
	last.write(t, reset())
	receive(t, last.worker.bound, "a worker to be bound")
	want := append(told(facts.Load), reset()...)
	if got := last.worker.await(t, len(want)); !bytes.Equal(got, want) {
		t.Errorf("the worker was sent %q", got)
	}
}

// Others are not given an error, nor an answer that is too long.
func TestNoAnswer(t *testing.T) {
	for _, no := range [][]byte{psock.AppendError(nil, "no", false), value(string(make([]byte, 20<<10)))} {
		answers := relay.NewAnswers()
		for range 2 {
			s := startShared(t, relay.Recovery{Answers: answers}, someRoom)
			s.worker = newWorker("a worker")
			s.spare <- s.worker
			s.write(t, introduction())
			receive(t, s.worker.bound, "a worker to be bound")
			s.worker.await(t, len(introduction()))
			s.Data(no)
			s.read(t, len(no))
		}
	}
}

// A session that ends while it waits for an answer leaves nothing behind.
func TestNoAnswerAnyMore(t *testing.T) {
	s := startShared(t, relay.Recovery{Answers: relay.NewAnswers()}, someRoom)
	s.write(t, introduction())
	receive(t, s.needs, "a need")
	s.r.Close()
}
