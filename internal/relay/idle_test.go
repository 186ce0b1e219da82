package relay_test

import (
	"bytes"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/relay"
)

// A large future's data is kept until it is done, and no longer.
func TestForgets(t *testing.T) {
	s := start(t, &worker{}, nil)
	s.future(t, call("EXEC", make([]byte, 500_000)))
	if memory, _ := s.budget.Used(); memory < 500_000 {
		t.Errorf("%d bytes are kept", memory)
	}
	s.Data(value("42"))
	s.read(t, len(value("42")))
	eventually(t, "the history to be forgotten", func() bool { memory, _ := s.budget.Used(); return memory < 100_000 })
	s.ends(t, "killed")
	s.write(t, call("EXEC", nil))
	s.readError(t, "worker worker-a/0 was lost before this call: killed; it cannot be made up for: what a future was sent is forgotten when it is done")
}

// A worker that an idle session does not need goes to somebody who waits, and the
// session's next call to another.
func TestOffered(t *testing.T) {
	last := call("EXEC", []byte("compute"))
	for name, tc := range map[string]struct {
		calls, want []byte
	}{
		"never used":     {nil, last},
		"after a future": {last, reset()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, &worker{}, nil)
			if tc.calls != nil {
				s.future(t, tc.calls)
				s.Data(result())
				s.read(t, len(result()))
			}
			receive(t, s.worker.offers, "the worker to be offered")
			close(s.worker.recalled)
			receive(t, s.worker.ended, "the worker to be ended")
			other := newWorker("other")
			s.spare <- other
			s.write(t, tc.want)
			receive(t, other.bound, "another worker to be bound")
			s.worker = other
			if got := other.await(t, len(tc.want)); !bytes.Equal(got, tc.want) {
				t.Errorf("the other worker was sent %q", got)
			}
		})
	}
}

// A session whose futures run once keeps a worker between the calls of one, and takes it
// back if it was offered before that was said.
func TestNotOffered(t *testing.T) {
	t.Parallel()
	between := func(attempts int) *session {
		s := startWith(t, relay.Recovery{Attempts: attempts}, &worker{}, nil, someRoom)
		s.write(t, reset())
		s.worker.await(t, len(reset()))
		s.Data(confirmed())
		s.read(t, len(confirmed()))
		return s
	}
	once, later := between(1), between(3)
	receive(t, later.worker.offers, "the worker to be offered")
	select {
	case <-once.worker.offers:
		t.Error("a worker is offered whose future must not run twice")
	default:
	}
	later.Once(true)
	receive(t, later.worker.kept, "it to be taken back")
}
