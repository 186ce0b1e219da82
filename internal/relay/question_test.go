package relay_test

import (
	"bytes"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/facts"
	"github.com/psock-runtime/psock-runtime/internal/relay"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// first has the session make its first call, on a worker that it has to get.
func (s *session) first(t *testing.T, call, answer []byte) (sent int) {
	t.Helper()
	s.worker = newWorker("first")
	s.spare <- s.worker
	s.write(t, call)
	receive(t, s.worker.bound, "a worker to be bound")
	s.worker.await(t, len(call))
	s.Data(answer)
	s.read(t, len(answer))
	return len(call)
}

// What a node was told after it had set its worker up is not told to others.
func TestAnswersOfOtherSetUp(t *testing.T) {
	answers := relay.NewAnswers()
	a := startShared(t, relay.Recovery{Answers: answers}, someRoom)
	b := startShared(t, relay.Recovery{Answers: answers}, someRoom)
	question := told(facts.Cores)
	sent := a.first(t, call("EXEC", []byte("options(mc.cores = 1)")), value("set"))
	a.makes(t, sent, question, value("1"))
	b.first(t, question, value("8"))
}

// What a node was told before it set its worker up it is not told again.
func TestAnswerFromBeforeTheSetUp(t *testing.T) {
	s := startShared(t, relay.Recovery{Answers: relay.NewAnswers(), Together: true}, someRoom)
	load, set := told(facts.Load), call("EXEC", []byte(".libPaths('/lib')"))
	sent := s.first(t, load, value("FALSE"))
	receive(t, s.worker.offers, "the worker to be offered")
	s.makes(t, sent, set, value("set"))
	receive(t, s.worker.offers, "the worker to be offered")
	close(s.worker.recalled)
	receive(t, s.worker.ended, "the worker to go")
	s.worker = newWorker("second")
	s.spare <- s.worker
	s.write(t, load)
	receive(t, s.worker.bound, "a worker to be asked")
}

// A namespace that is loaded after other calls is loaded after them on the next worker, too.
func TestLoadOrder(t *testing.T) {
	s := startWith(t, relay.Recovery{Together: true}, &worker{}, nil, someRoom)
	load, set := told(facts.Load), call("EXEC", []byte(".libPaths('/lib')"))
	sent := s.makes(t, 0, set, value("set"))
	s.makes(t, sent, load, value("TRUE"))
	s.ends(t, "killed")
	s.worker = newWorker("second")
	s.spare <- s.worker
	s.write(t, reset())
	receive(t, s.worker.bound, "another worker to be bound")
	want := append(append(set, load...), reset()...)
	if got := s.worker.await(t, len(want)); !bytes.Equal(got, want) {
		t.Errorf("the other worker was sent %q", got)
	}
}

// A question that is lost is an R error, whatever the future before it takes.
func TestLostQuestion(t *testing.T) {
	s := start(t, &worker{}, nil)
	sent := s.makes(t, 0, reset(), confirmed())
	s.makes(t, sent, call("EXEC", []byte(facts.LaunchErrors[0])), result())
	s.ends(t, "killed")
	s.spare <- nil
	s.write(t, introduction())
	s.readError(t, "worker worker-a/0 was lost: killed; no other takes its place: 0 of 1 workers are ready")
}

// A future whose last call is large fails with a launch error also when it gets no worker.
func TestLaunchErrorOfLargeCall(t *testing.T) {
	s := start(t, &worker{}, nil)
	s.makes(t, 0, reset(), confirmed())
	s.ends(t, "killed")
	s.spare <- nil
	s.write(t, call("EXEC", append([]byte(facts.LaunchErrors[0]), make([]byte, 100<<10)...)))
	want := psock.AppendCondition(nil, "worker worker-a/0 was lost: killed; no other takes its place: 0 of 1 workers are ready", facts.LaunchErrors, false)
	if got := s.read(t, len(want)); !bytes.Equal(got, want) {
		t.Errorf("R reads %q", got)
	}
}

// An answer that becomes known when more has been sent takes no worker from the calls.
func TestAnswerBehindTheTimes(t *testing.T) {
	answers := relay.NewAnswers()
	a := startShared(t, relay.Recovery{Answers: answers}, someRoom)
	b := startShared(t, relay.Recovery{Answers: answers}, someRoom)
	question, more := told(facts.Cores), call("EXEC", []byte("x"))
	a.worker = newWorker("first")
	a.spare <- a.worker
	a.write(t, question)
	receive(t, a.worker.bound, "a worker to be bound")
	a.worker.await(t, len(question))
	b.write(t, question)
	receive(t, b.needs, "a need")
	b.write(t, more)
	eventually(t, "both calls to be there", func() bool { return b.Activity().UpBytes == int64(len(question)+len(more)) })
	a.Data(value("8"))
	a.read(t, len(value("8")))
	b.worker = newWorker("second")
	b.spare <- b.worker
	receive(t, b.worker.bound, "a worker to be bound")
	b.worker.await(t, len(question)+len(more))
	for _, answer := range [][]byte{value("8"), value("done")} {
		b.Data(answer)
		if got := b.read(t, len(answer)); !bytes.Equal(got, answer) {
			t.Fatalf("R reads %q", got)
		}
	}
}

// Workers that die under a question do not count against what follows it.
func TestDeathsUnderQuestions(t *testing.T) {
	s := startWith(t, relay.Recovery{Attempts: 1}, &worker{}, nil, someRoom)
	question := told(facts.Validation)
	s.write(t, question[:10])
	s.worker.await(t, 10)
	s.write(t, question[10:])
	s.worker.await(t, len(question))
	s.Ended("killed")
	s.read(t, len(valid()))
	s.worker = newWorker("second")
	s.spare <- s.worker
	s.write(t, call("EXEC", []byte("x")))
	receive(t, s.worker.bound, "another worker to be bound")
}

// A question is asked again although no future runs twice.
func TestQuestionWithOneAttempt(t *testing.T) {
	s := startWith(t, relay.Recovery{Attempts: 1}, &worker{}, nil, someRoom)
	s.write(t, introduction())
	s.worker.await(t, len(introduction()))
	other := newWorker("second")
	s.spare <- other
	s.Ended("killed")
	receive(t, other.bound, "another worker to be bound")
	s.worker = other
}

// The node of a future that got no worker is valid.
func TestValidAfterFailedFuture(t *testing.T) {
	s := startWith(t, relay.Recovery{Together: true}, &worker{}, nil, someRoom)
	sent := s.makes(t, 0, call("EXEC", []byte("set up")), value("set"))
	s.makes(t, sent, reset(), confirmed())
	s.ends(t, "killed")
	s.spare <- nil
	s.write(t, call("EXEC", []byte("compute")))
	s.readError(t, "worker worker-a/0 was lost: killed; no other takes its place: 0 of 1 workers are ready")
	s.asks(t, told(facts.Validation), valid())
}

// To load a namespace many times is to load it once.
func TestManyLoads(t *testing.T) {
	s := startShared(t, relay.Recovery{}, someRoom)
	load := told(facts.Load)
	sent := s.first(t, load, value("TRUE"))
	for range 17 {
		receive(t, s.worker.offers, "the worker to be offered")
		sent = s.makes(t, sent, load, value("TRUE"))
	}
	receive(t, s.worker.offers, "the worker to be offered")
}

// A node that gets no worker any more is not valid: future makes it again.
func TestNotValid(t *testing.T) {
	s := start(t, &worker{}, nil)
	sent := s.makes(t, 0, call("EXEC", []byte("set up")), value("set"))
	s.write(t, call("EXEC", []byte("more")))
	s.worker.await(t, sent+len(call("EXEC", []byte("more"))))
	s.Ended("killed")
	s.readError(t, "worker worker-a/0 was lost in this call: killed")
	s.write(t, told(facts.Validation))
	s.readError(t, "worker worker-a/0 was lost before this call: killed")
}
