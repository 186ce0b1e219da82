package relay_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/relay"
)

// A call that is larger than what is kept waits in R for its worker.
func TestLargeShared(t *testing.T) {
	large := call("EXEC", make([]byte, 16<<20))
	begin := func(t *testing.T) (s *session, written chan error) {
		s = startShared(t, relay.Recovery{Together: true}, someRoom)
		written = make(chan error, 1)
		go func() {
			_, err := s.r.Write(large)
			written <- err
		}()
		receive(t, s.needs, "a need")
		return s, written
	}
	t.Run("it gets one", func(t *testing.T) {
		s, written := begin(t)
		if memory, disk := s.budget.Used(); memory+disk > 0 {
			t.Errorf("%d bytes are kept in memory and %d on disk", memory, disk)
		}
		w := newWorker("late")
		s.spare <- w
		receive(t, w.bound, "a worker to be bound")
		s.worker = w
		if got := w.await(t, len(large)); !bytes.Equal(got, large) {
			t.Errorf("the worker was sent %d bytes, or others; want %d", len(got), len(large))
		}
		if err := receive(t, written, "the call to be sent"); err != nil {
			t.Error(err)
		}
		s.Data(value("set"))
		s.read(t, len(value("set")))
		receive(t, w.offers, "the worker to be offered")
	})
	t.Run("it gets none", func(t *testing.T) {
		s, written := begin(t)
		s.spare <- nil
		if err := receive(t, written, "the call to be sent"); err != nil {
			t.Error(err)
		}
		s.readError(t, "0 of 1 workers are ready")
		w := newWorker("late")
		s.spare <- w
		s.write(t, reset())
		receive(t, w.bound, "a worker to be bound")
		s.worker = w
		if got := w.await(t, len(reset())); !bytes.Equal(got, reset()) {
			t.Errorf("the worker was sent %d bytes", len(got))
		}
	})
	t.Run("it gets none, and is none", func(t *testing.T) {
		s := startShared(t, relay.Recovery{Together: true}, someRoom)
		s.spare <- nil
		// The end of its list is no object; by then it is refused.
		broken := append(call("EXEC", make([]byte, 100<<10)), bytes.Repeat([]byte{99, 0, 0, 0}, 1000)...)
		binary.LittleEndian.PutUint32(broken[18:], 3)
		s.write(t, broken)
		s.readEnd(t)
	})
	t.Run("its session dies", func(t *testing.T) {
		s, written := begin(t)
		s.r.Close() // what was sent is still to be read, so that its end does not show
		s.gone.Store(true)
		receive(t, written, "the write to fail")
		s.cause <- receive(t, s.cause, "Run to return")
	})
}
