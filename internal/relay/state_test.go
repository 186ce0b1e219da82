package relay_test

import (
	"bytes"
	"encoding/binary"
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

// stateMissed ends the error that a node reads once that replaces one with state.
const stateMissed = "; what calls that are no futures have set on it, as clusterEvalQ() does, is lost with it, and this node has replaced it: " +
	"make the cluster again and set it there, or go on without"

// A node that replaces one with state answers questions, on a worker if need be, and tells R by the first
// call that may depend on the state that it is lost. What a node leaves is for the one that replaces it.
func TestStateMissed(t *testing.T) {
	for name, last := range map[string][]byte{"a future": reset(), "a call": options()} {
		t.Run(name, func(t *testing.T) {
			s := startShared(t, relay.Recovery{Missed: "worker z was lost"}, someRoom)
			s.asks(t, told(facts.Validation), valid())
			s.first(t, introduction(), value("me"))
			first := s.worker
			if lost, stopped := s.StateIfEnded(); lost != "worker z was lost" || stopped {
				t.Errorf("its state is lost as %q, %v", lost, stopped)
			}
			s.asks(t, told(facts.Validation), valid())
			s.write(t, last)
			s.readError(t, "worker z was lost"+stateMissed)
			receive(t, first.ended, "the worker to go")
			if lost, stopped := s.StateIfEnded(); lost != "" || stopped {
				t.Errorf("its state is lost as %q, %v", lost, stopped)
			}
			if got := s.gets(t, "other", reset(), len(reset())); !bytes.Equal(got, reset()) {
				t.Errorf("the other worker was sent %q", got)
			}
			first.sink.Ended("its session ended", nil)
			if s.Worker() != "other" {
				t.Errorf("the end of its first worker leaves it with %q", s.Worker())
			}
		})
	}
}

// R is told once: a node whose loss it was told of as a call's leaves nothing more to tell.
func TestStateIfEndedWhatWasNotTold(t *testing.T) {
	s := start(t, &worker{}, nil)
	sent := s.makes(t, 0, options(), value("NULL"))
	s.write(t, options())
	s.worker.await(t, sent+len(options()))
	s.Ended("killed")
	s.readError(t, "worker worker-a/0 was lost in this call: killed")
	if lost, _ := s.StateIfEnded(); lost != "" {
		t.Errorf("its state is lost as %q", lost)
	}
}

// Calls that are repeated wherever the node goes are lost to the node that replaces it.
func TestStateIfEnded(t *testing.T) {
	s := startWith(t, relay.Recovery{Together: true}, &worker{}, nil, someRoom)
	sent := s.makes(t, 0, introduction(), value("me"))
	sent = s.makes(t, sent, call("EXEC", []byte("requirePackages()")), value("future-requirePackages"))
	if lost, _ := s.StateIfEnded(); lost != "" {
		t.Errorf("its state is lost as %q", lost)
	}
	sent = s.makes(t, sent, options(), value("NULL"))
	s.done(t, sent)
	const want = "worker worker-a/0 was lost before this call: the session closed the node's connection, as cancel() does"
	if lost, _ := s.StateIfEnded(); lost != want {
		t.Errorf("its state is lost as %q, want %q", lost, want)
	}
}

// A question that R has left, as after an interrupt, and the call behind it: neither is answered by the
// worker that the node has for the question, which has nothing of what is missed.
func TestStateMissedBehindQuestion(t *testing.T) {
	load := told(facts.Load)
	for name, behind := range map[string][]byte{"a call": options(), "a question": introduction(), "a future": reset()} {
		t.Run(name, func(t *testing.T) {
			s := clone(t)
			s.write(t, load)
			s.takes(t, "first")
			s.worker.await(t, len(load))
			s.write(t, behind)
			receive(t, s.worker.ended, "the worker to go")
			s.Data(value("TRUE"))
			for range 2 {
				s.readError(t, "worker z was lost"+stateMissed)
			}
			if got := s.worker.await(t, len(load)); !bytes.Equal(got, load) {
				t.Errorf("the worker was sent %q", got)
			}
			s.worker.sink.Ended("its session ended", nil)
			if got := s.gets(t, "other", reset(), len(reset())); !bytes.Equal(got, reset()) {
				t.Errorf("the other worker was sent %q", got)
			}
		})
	}
}

// Further questions are asked of the same worker.
func TestStateMissedQuestions(t *testing.T) {
	s := clone(t)
	sent := s.first(t, introduction(), value("me"))
	s.asks(t, told(facts.Validation), valid())
	sent = s.makes(t, sent, introduction(), value("me"))
	s.makes(t, sent, told(facts.Load), value("TRUE"))
	s.write(t, options()[:10])
	receive(t, s.worker.ended, "the worker to go")
	s.write(t, options()[10:])
	s.readError(t, "worker z was lost"+stateMissed)
}

// tagged is a call with a tag, as clusterApplyLB() makes it.
func tagged() []byte {
	b := call("EXEC", nil)
	b = b[:len(b)-8]
	for _, word := range []uint32{19, 4, 254, 254, 254, 13, 1, 7} { // list(fun, args, return, tag): three NULL, an integer
		b = binary.LittleEndian.AppendUint32(b, word)
	}
	return b
}

// R is told once where no answer can tell it, too: then its call fails with the connection. The node
// that replaces this one has nothing more to tell.
func TestStateLostWithConnection(t *testing.T) {
	for name, enter := range map[string]func(t *testing.T) *session{
		"lost": func(t *testing.T) *session {
			s := pinned(t)
			s.ends(t, "killed")
			return s
		},
		"missed": clone,
	} {
		t.Run(name, func(t *testing.T) {
			s := enter(t)
			s.write(t, tagged())
			s.readEnd(t)
			if n := s.lost(t, relay.StateLost); n != 1 {
				t.Errorf("%v calls are counted as lost with state", n)
			}
			if lost, _ := s.StateIfEnded(); lost != "" {
				t.Errorf("its state is lost as %q", lost)
			}
		})
	}
}

// The cause is that of the end, where it is known.
func TestStateIfEndedCause(t *testing.T) {
	for cause, end := range map[string]func(t *testing.T, s *session){
		"R has left a call in its middle, as after an interrupt, and made another one": func(t *testing.T, s *session) {
			whole := named(call("EXEC", make([]byte, 1000)))
			s.write(t, whole[:500])
			s.write(t, named(call("EXEC", []byte("another"))))
		},
		"killed": func(t *testing.T, s *session) {
			before := s.worker.total()
			s.write(t, options())
			s.worker.await(t, before+len(options()))
			s.Data(value("NULL")[:20])
			s.read(t, 20)
			s.Ended("killed")
		},
		"the session closed the node's connection, as cancel() does": func(t *testing.T, s *session) {
			before := s.worker.total()
			s.write(t, options())
			s.worker.await(t, before+len(options()))
			s.Data(value("NULL")[:20])
			s.read(t, 20)
			if err := s.r.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			receive(t, s.worker.ended, "the worker to be ended")
			s.Ended("its session ended")
		},
	} {
		t.Run(cause, func(t *testing.T) {
			s := pinned(t)
			end(t, s)
			s.readEnd(t)
			want := "worker worker-a/0 was lost before this call: " + cause
			if lost, done := s.StateIfEnded(); lost != want || done {
				t.Errorf("its state is lost as %q, done %v; want %q", lost, done, want)
			}
		})
	}
}
