package relay_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/facts"
	"github.com/psock-runtime/psock-runtime/internal/relay"
)

// pinned is a session that has set something on its worker.
func pinned(t *testing.T) *session {
	s := start(t, &worker{}, nil)
	s.makes(t, s.done(t, 0), options(), value("NULL"))
	return s
}

// clone is a session that misses what another node had.
func clone(t *testing.T) *session {
	return startShared(t, relay.Recovery{Missed: "worker z was lost"}, someRoom)
}

// asking is a session that misses that, with a question under way, which R has left.
func asking(t *testing.T) *session {
	s := clone(t)
	s.write(t, told(facts.Load))
	s.takes(t, "first")
	s.worker.await(t, len(told(facts.Load)))
	return s
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
