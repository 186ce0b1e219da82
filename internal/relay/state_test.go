package relay_test

import (
	"bytes"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/facts"
	"github.com/psock-runtime/psock-runtime/internal/relay"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// stateLost ends the error that R reads once when state is lost with a worker.
const stateLost = "; what calls that are no futures have set on it, as clusterEvalQ() does, is lost with it: set it again, and go on"

// options is a call of the user's, as clusterEvalQ(cl, options(k = 42)).
func options() []byte { return call("EXEC", []byte("options(k = 42)")) }

// notOffered fails if the worker has been offered. What would have offered it is over: the worker
// has taken another call since.
func (s *session) notOffered(t *testing.T) {
	t.Helper()
	if len(s.worker.offers) > 0 {
		t.Error("a worker with state is offered")
	}
}

// gets has the session make a call, for which it gets another worker, and returns what that is sent.
func (s *session) gets(t *testing.T, name string, call []byte, n int) []byte {
	t.Helper()
	w := newWorker(name)
	s.spare <- w
	s.write(t, call)
	receive(t, w.bound, "another worker to be bound")
	s.worker = w
	return w.await(t, n)
}

// What is set between two futures keeps the worker for as long as the node lives, whatever
// futures follow.
func TestStateBetweenFutures(t *testing.T) {
	s := start(t, &worker{}, nil)
	sent := s.done(t, 0)
	receive(t, s.worker.offers, "the worker to be offered")
	sent = s.makes(t, sent, options(), value("NULL"))
	for range 3 {
		sent = s.done(t, sent)
		s.notOffered(t)
		if s.Shares() || !s.Keeps() {
			t.Error("the node shares a worker with state")
		}
	}
}

// When that worker is lost, R is told once, by the next call that may depend on the state, and
// then the node is as a new one. The node is valid meanwhile: future would make another one
// silently.
func TestStateLost(t *testing.T) {
	const before, in = "worker worker-a/0 was lost before this call: killed" + stateLost, "worker worker-a/0 was lost in this call: killed" + stateLost
	set := func(t *testing.T) (s *session, sent int) {
		s = start(t, &worker{}, nil)
		sent = s.done(t, 0)
		return s, s.makes(t, sent, options(), value("NULL"))
	}
	fresh := func(t *testing.T, s *session) {
		t.Helper()
		s.asks(t, told(facts.Validation), valid())
		if got := s.gets(t, "other", reset(), len(reset())); !bytes.Equal(got, reset()) {
			t.Errorf("the other worker was sent %q", got)
		}
		s.Data(confirmed())
		s.read(t, len(confirmed()))
		s.makes(t, len(reset()), call("EXEC", []byte("compute")), result())
		receive(t, s.worker.offers, "a worker without state to be offered")
	}
	t.Run("told to the next future", func(t *testing.T) {
		s, sent := set(t)
		s.done(t, sent)
		s.ends(t, "killed")
		for range 2 {
			s.asks(t, told(facts.Validation), valid())
		}
		s.write(t, reset())
		s.readError(t, before)
		fresh(t, s)
	})
	t.Run("told to the next call", func(t *testing.T) {
		s, _ := set(t)
		s.ends(t, "killed")
		s.asks(t, told(facts.Validation), valid())
		s.write(t, options())
		s.readError(t, before)
		s.asks(t, told(facts.Validation), valid())
		if got := s.gets(t, "other", options(), len(options())); !bytes.Equal(got, options()) {
			t.Errorf("the other worker was sent %q", got)
		}
		s.Data(value("NULL"))
		s.read(t, len(value("NULL")))
		s.done(t, len(options()))
		s.notOffered(t) // it has state again
	})
	t.Run("a question does not take it", func(t *testing.T) {
		s, _ := set(t)
		s.ends(t, "killed")
		s.write(t, introduction())
		s.readError(t, before)
		s.write(t, reset())
		s.readError(t, before)
		fresh(t, s)
	})
	t.Run("in a future", func(t *testing.T) {
		s, sent := set(t)
		sent = s.makes(t, sent, reset(), confirmed())
		last := call("EXEC", []byte(facts.LaunchErrors[0]))
		s.write(t, last)
		s.worker.await(t, sent+len(last))
		s.Ended("killed")
		want := psock.AppendCondition(nil, in, facts.LaunchErrors, false)
		if got := s.read(t, len(want)); !bytes.Equal(got, want) {
			t.Errorf("R reads %q", got)
		}
		fresh(t, s)
	})
	t.Run("in the call that sets it", func(t *testing.T) {
		s := start(t, &worker{}, nil)
		sent := s.done(t, 0)
		s.write(t, options())
		s.worker.await(t, sent+len(options()))
		s.Ended("killed")
		s.readError(t, in)
		fresh(t, s)
	})
	t.Run("with an agent that drains", func(t *testing.T) {
		s, _ := set(t)
		s.Drain()
		receive(t, s.worker.ended, "the worker to go")
		s.write(t, reset())
		s.readError(t, "worker worker-a/0 was lost before this call: its agent was told to end"+stateLost)
		fresh(t, s)
	})
	t.Run("set before the first future", func(t *testing.T) {
		s := start(t, &worker{}, nil)
		s.makes(t, 0, options(), value("NULL"))
		s.ends(t, "killed")
		s.asks(t, told(facts.Validation), valid())
		s.write(t, reset())
		s.readError(t, before)
		fresh(t, s)
	})
	t.Run("more than is kept", func(t *testing.T) {
		s := start(t, &worker{}, nil)
		s.makes(t, 0, call("EXEC", make([]byte, 300<<10)), value("NULL"))
		s.ends(t, "killed")
		s.asks(t, told(facts.Validation), valid())
		s.write(t, reset())
		s.readError(t, before)
		fresh(t, s)
	})
	t.Run("by what looked like a reset", func(t *testing.T) {
		s := start(t, &worker{}, nil)
		s.makes(t, 0, reset(), value("another"))
		s.ends(t, "killed")
		s.asks(t, told(facts.Validation), valid())
		s.write(t, reset())
		s.readError(t, before)
		fresh(t, s)
	})
	t.Run("after a future that was not launched", func(t *testing.T) {
		s := start(t, &worker{}, nil)
		sent := s.makes(t, 0, reset(), confirmed())
		s.makes(t, sent, options(), value("NULL"))
		s.ends(t, "killed")
		s.asks(t, told(facts.Validation), valid())
		s.write(t, reset())
		s.readError(t, before)
		fresh(t, s)
	})
}

// A worker that is still there when its node gets none is not lost: nothing was set.
func TestStateRefused(t *testing.T) {
	s := start(t, &worker{}, nil)
	s.done(t, 0)
	receive(t, s.worker.offers, "the worker to be offered")
	close(s.worker.recalled)
	receive(t, s.worker.ended, "the worker to go")
	s.spare <- nil
	s.write(t, options())
	s.readError(t, "worker worker-a/0 was lost: it was idle, and another session needed it; no other takes its place: 0 of 1 workers are ready")
	s.gets(t, "other", reset(), len(reset()))
	s.Data(confirmed())
	s.read(t, len(confirmed()))
	s.makes(t, len(reset()), call("EXEC", []byte("compute")), result())
	receive(t, s.worker.offers, "the worker to be offered")
}

// What future does between two futures is no state: it attaches packages before it erases the
// worker (earlySignal = TRUE), and collects garbage after a future.
func TestFuturesOwnCalls(t *testing.T) {
	own := func(text string) [2][]byte { return [2][]byte{call("EXEC", []byte("function() "+text)), value(text)} }
	for name, calls := range map[string][][2][]byte{
		"packages":              {own("future-requirePackages")},
		"garbage, future 1.75":  {{reset(), confirmed()}, own(facts.ClearedText), own("future-gc")},
		"garbage, future 1.31":  {{reset(), confirmed()}, own(facts.ClearedText), {told(facts.Collect), value("1 2")}},
		"garbage by the user":   {{told(facts.Collect), value("1 2")}},
		"a namespace is loaded": {{told(facts.Load), value("TRUE")}},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, &worker{}, nil)
			sent := s.done(t, 0)
			receive(t, s.worker.offers, "the worker to be offered")
			for _, c := range calls {
				sent = s.makes(t, sent, c[0], c[1])
			}
			receive(t, s.worker.offers, "the worker to be offered again")
			sent = s.makes(t, sent, options(), value("NULL"))
			for len(s.worker.offers) > 0 {
				<-s.worker.offers
			}
			s.done(t, s.done(t, sent))
			s.notOffered(t)
		})
	}
}

// Nodes that are set up together have that repeated; what is set between two futures keeps a
// worker there, too.
func TestStateTogether(t *testing.T) {
	s := startShared(t, relay.Recovery{Together: true}, someRoom)
	sent := s.first(t, options(), value("NULL"))
	receive(t, s.worker.offers, "the worker to be offered")
	s.ends(t, "killed")
	both := append(options(), reset()...)
	if got := s.gets(t, "other", reset(), len(both)); !bytes.Equal(got, both) {
		t.Errorf("the other worker was sent %q", got)
	}
	s.Data(append(value("NULL"), confirmed()...))
	s.read(t, len(confirmed()))
	sent = s.makes(t, sent+len(reset()), call("EXEC", []byte("compute")), result())
	receive(t, s.worker.offers, "the worker to be offered")
	sent = s.makes(t, sent, options(), value("NULL"))
	s.done(t, s.done(t, sent))
	s.notOffered(t)
}
