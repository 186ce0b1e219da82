package relay_test

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/psock-runtime/psock-runtime/internal/facts"
	"github.com/psock-runtime/psock-runtime/internal/journal"
	"github.com/psock-runtime/psock-runtime/internal/relay"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// lose ends the session's worker and gives it another one.
func (s *session) lose(t *testing.T, cause string) *worker {
	t.Helper()
	other := newWorker(fmt.Sprintf("worker-%s/0", cause))
	s.spare <- other
	s.worker.sink.Ended(cause, nil)
	receive(t, other.bound, "another worker to be bound")
	s.worker = other
	return other
}

// ends ends the session's worker and waits until the session has none.
func (s *session) ends(t *testing.T, cause string) {
	t.Helper()
	s.Ended(cause)
	eventually(t, "the session to have no worker", func() bool { return s.Worker() == "" })
}

// future sends the calls of a future, and reads the answers of all but the last.
func (s *session) future(t *testing.T, last []byte) (sent []byte) {
	t.Helper()
	for _, c := range [][2][]byte{{reset(), confirmed()}, {call("EXEC", []byte("x <- 1")), value("set")}} {
		s.write(t, c[0])
		sent = append(sent, c[0]...)
		s.worker.await(t, len(sent))
		s.Data(c[1])
		s.read(t, len(c[1]))
	}
	s.write(t, last)
	sent = append(sent, last...)
	s.worker.await(t, len(sent))
	return sent
}

// What another worker answers arrives cut anywhere: the session reads on where it was.
func TestRerunCut(t *testing.T) {
	last := call("EXEC", []byte("compute"))
	repeated := bytes.Join([][]byte{confirmed(), value("set"), condition("1")}, nil)
	news := append(condition("2"), value("42")...)
	answers := append(repeated, news...)
	for cut := 1; cut < len(answers); cut++ {
		s := start(t, &worker{}, nil)
		sent := s.future(t, last)
		s.Data(condition("1"))
		s.read(t, len(condition("1")))
		s.lose(t, "killed").await(t, len(sent))
		s.Data(answers[:cut])
		s.Data(answers[cut:])
		if busy := s.Activity().Busy; busy {
			t.Fatalf("cut at %d of %d: the call is not answered", cut, len(answers))
		}
		s.r.CloseWrite()
		receive(t, s.worker.ended, "the worker to be ended")
		s.Ended("its session ended")
		if got, err := io.ReadAll(s.r); !bytes.Equal(got, news) {
			t.Fatalf("cut at %d of %d: R reads %d of %d bytes (%v)", cut, len(answers), len(got), len(news), err)
		}
	}
}

// A worker that is lost at each moment of a future: another one is sent all of it,
// and the session reads each answer once.
func TestRerun(t *testing.T) {
	last, result := call("EXEC", []byte("compute")), value("42")
	t.Run("while it computes", func(t *testing.T) {
		s := start(t, &worker{}, nil)
		sent := s.future(t, last)
		other := s.lose(t, "killed")
		if got := other.await(t, len(sent)); !bytes.Equal(got, sent) {
			t.Fatalf("the other worker was sent %q, want %q", got, sent)
		}
		// In pieces, and then at once.
		for _, b := range confirmed() {
			s.Data([]byte{b})
		}
		s.Data(append(value("set"), result...))
		if got := s.read(t, len(result)); !bytes.Equal(got, result) {
			t.Errorf("R reads %q", got)
		}
		want := `
# HELP rendezvous_reruns_total Futures that were lost with their worker and sent again to another.
# TYPE rendezvous_reruns_total counter
rendezvous_reruns_total 1
`
		eventually(t, "the rerun to be counted", func() bool {
			return testutil.GatherAndCompare(s.registry, strings.NewReader(want), "rendezvous_reruns_total") == nil
		})
		if a := s.Activity(); a.Calls != 3 || a.Busy || a.Reruns != 1 {
			t.Errorf("%+v", a)
		}
	})
	t.Run("between its calls", func(t *testing.T) {
		s := start(t, &worker{}, nil)
		s.write(t, reset())
		s.worker.await(t, len(reset()))
		s.Data(confirmed())
		s.read(t, len(confirmed()))
		s.ends(t, "killed")
		other := newWorker("other")
		s.spare <- other
		s.write(t, last)
		receive(t, other.bound, "another worker to be bound")
		s.worker = other
		other.await(t, len(reset())+len(last))
		s.Data(append(confirmed(), result...))
		if got := s.read(t, len(result)); !bytes.Equal(got, result) {
			t.Errorf("R reads %q", got)
		}
	})
	t.Run("before its first call", func(t *testing.T) {
		s := start(t, &worker{}, nil)
		s.ends(t, "killed")
		other := newWorker("other")
		s.spare <- other
		s.write(t, reset()[:10])
		s.write(t, reset()[10:])
		receive(t, other.bound, "another worker to be bound")
		s.worker = other
		if got := other.await(t, len(reset())); !bytes.Equal(got, reset()) {
			t.Errorf("the other worker was sent %q", got)
		}
		s.Data(confirmed())
		s.read(t, len(confirmed()))
	})
	t.Run("while the reset is under way", func(t *testing.T) {
		s := start(t, &worker{}, nil)
		s.write(t, reset())
		s.worker.await(t, len(reset()))
		s.lose(t, "killed").await(t, len(reset()))
		for _, b := range confirmed() {
			s.Data([]byte{b})
		}
		if got := s.read(t, len(confirmed())); !bytes.Equal(got, confirmed()) {
			t.Errorf("R reads %q", got)
		}
	})
	t.Run("while a large call is sent", func(t *testing.T) {
		s := start(t, &worker{}, nil)
		large := call("EXEC", bytes.Repeat([]byte("0123456789"), 300_000))
		sent := s.future(t, large[:1<<20])
		other := s.lose(t, "killed")
		other.await(t, len(sent))
		s.write(t, large[1<<20:])
		sent = append(sent, large[1<<20:]...)
		if got := other.await(t, len(sent)); !bytes.Equal(got, sent) {
			t.Fatal("the other worker was sent something else")
		}
		s.Data(append(append(confirmed(), value("set")...), result...))
		if got := s.read(t, len(result)); !bytes.Equal(got, result) {
			t.Errorf("R reads %q", got)
		}
	})
	t.Run("after conditions", func(t *testing.T) {
		s := start(t, &worker{}, nil)
		sent := s.future(t, last)
		s.Data(append(condition("1"), condition("2")...))
		s.read(t, len(condition("1"))+len(condition("2")))
		s.lose(t, "killed").await(t, len(sent))
		want := append(condition("3"), result...)
		for _, b := range bytes.Join([][]byte{confirmed(), value("set"), condition("1"), condition("2"), want}, nil) {
			s.Data([]byte{b})
		}
		if got := s.read(t, len(want)); !bytes.Equal(got, want) {
			t.Errorf("R reads %q, want %q", got, want)
		}
	})
	t.Run("fewer conditions the second time", func(t *testing.T) {
		s := start(t, &worker{}, nil)
		sent := s.future(t, last)
		s.Data(condition("1"))
		s.read(t, len(condition("1")))
		s.lose(t, "killed").await(t, len(sent))
		s.Data(append(append(confirmed(), value("set")...), result...))
		if got := s.read(t, len(result)); !bytes.Equal(got, result) {
			t.Errorf("R reads %q", got)
		}
	})
	t.Run("with what was set up before on all nodes together", func(t *testing.T) {
		s := startWith(t, relay.Recovery{Together: true}, &worker{}, nil, someRoom)
		setUp := call("EXEC", []byte("library(x)"))
		s.write(t, setUp)
		s.worker.await(t, len(setUp))
		s.Data(value("x"))
		s.read(t, len(value("x")))
		s.write(t, append(reset(), last...)[:len(reset())])
		s.worker.await(t, len(setUp)+len(reset()))
		s.Data(confirmed())
		s.read(t, len(confirmed()))
		s.write(t, last)
		s.worker.await(t, len(setUp)+len(reset())+len(last))
		other := s.lose(t, "killed")
		if got, want := other.await(t, len(setUp)+len(reset())+len(last)), bytes.Join([][]byte{setUp, reset(), last}, nil); !bytes.Equal(got, want) {
			t.Errorf("the other worker was sent %q", got)
		}
	})
	t.Run("a second future", func(t *testing.T) {
		s := start(t, &worker{}, nil)
		n := len(s.future(t, last))
		s.Data(resultOf("42"))
		s.read(t, len(resultOf("42")))
		s.write(t, reset())
		s.worker.await(t, n+len(reset()))
		if got := s.lose(t, "killed").await(t, len(reset())); !bytes.Equal(got, reset()) {
			t.Errorf("the other worker was sent %q: not the first future again", got)
		}
		s.Data(confirmed())
		s.read(t, len(confirmed()))
	})
	t.Run("on a worker that is gone as well", func(t *testing.T) {
		s := start(t, &worker{}, nil)
		sent := s.future(t, last)
		gone := newWorker("gone")
		gone.gone = true
		s.spare <- gone
		s.lose(t, "killed").await(t, len(sent))
	})
}

// Too many workers that die under one future are one error that names them all; the
// next future is as good as new.
func TestAttempts(t *testing.T) {
	last := call("EXEC", []byte("compute"))
	s := start(t, &worker{}, nil)
	sent := s.future(t, last)
	s.lose(t, "b").await(t, len(sent))
	s.lose(t, "c").await(t, len(sent))
	s.Ended("killed")
	s.readError(t, "worker worker-c/0 was lost in this call: killed; 3 workers were lost with this future, the limit of --max-attempts: "+
		"worker worker-a/0: b; worker worker-b/0: c; worker worker-c/0: killed")
	other := newWorker("worker-d/0")
	s.spare <- other
	s.write(t, reset())
	receive(t, other.bound, "another worker to be bound")
	s.worker = other
	other.await(t, len(reset()))
	s.Data(confirmed())
	s.read(t, len(confirmed()))
}

// A worker whose agent drains does not count, be it idle or at its budget's end.
func TestDrainRerun(t *testing.T) {
	last := call("EXEC", []byte("compute"))
	s := start(t, &worker{}, nil)
	sent := s.future(t, last)
	for i := range 5 {
		s.Drain()
		s.lose(t, fmt.Sprint("drained ", i)).await(t, len(sent))
	}
	s.Data(append(append(confirmed(), value("set")...), value("42")...))
	s.read(t, len(value("42")))
}

// No worker becomes ready: an error that says why.
func TestNoOtherWorker(t *testing.T) {
	s := start(t, &worker{}, nil)
	s.future(t, call("EXEC", nil))
	s.spare <- nil
	s.Ended("killed")
	s.readError(t, "worker worker-a/0 was lost: killed; no other takes its place: 0 of 1 workers are ready")
}

// A session that ends while it waits for a worker.
func TestEndsWhileItWaits(t *testing.T) {
	s := start(t, &worker{}, nil)
	s.future(t, call("EXEC", nil))
	s.Ended("killed")
	s.r.Close()
	receive(t, s.cause, "Run to return")
	s.cause <- ""
}

// What cannot be done again is an error, and no second run.
func TestNoRerun(t *testing.T) {
	last := call("EXEC", []byte("compute"))
	t.Run("part of the answer was read", func(t *testing.T) {
		s := start(t, &worker{}, nil)
		s.future(t, last)
		s.Data(value("42")[:60])
		s.read(t, 60)
		s.Ended("killed")
		s.readEnd(t)
	})
	t.Run("what looked like a reset was none", func(t *testing.T) {
		s := start(t, &worker{}, nil)
		s.write(t, reset())
		s.worker.await(t, len(reset()))
		s.Data(value("another"))
		s.read(t, len(value("another")))
		s.write(t, last)
		s.worker.await(t, len(reset())+len(last))
		s.Ended("killed")
		s.readError(t, "worker worker-a/0 was lost in this call: killed"+stateLost)
	})
	t.Run("and on the other worker", func(t *testing.T) {
		s := start(t, &worker{}, nil)
		s.ends(t, "killed")
		other := newWorker("other")
		s.spare <- other
		s.write(t, reset())
		receive(t, other.bound, "another worker to be bound")
		other.await(t, len(reset()))
		other.sink.Data(value("another"))
		receive(t, other.aborted, "the other worker to be ended")
		other.sink.Ended("aborted", nil)
		s.worker = other
		s.readError(t, "worker other was lost in this call: the call after it was none of future's")
	})
	t.Run("its setting up ends otherwise", func(t *testing.T) {
		s := start(t, &worker{}, nil)
		sent := s.future(t, last)
		other := s.lose(t, "killed")
		other.await(t, len(sent))
		s.Data(append(confirmed(), psock.AppendError(nil, "no package", false)...))
		receive(t, other.aborted, "the other worker to be ended")
		s.spare <- nil
		s.Ended("aborted")
		s.readError(t, "worker worker-killed/0 was lost: a call that sets a worker up ended otherwise than on the one that was lost; no other takes its place: 0 of 1 workers are ready")
	})
	t.Run("more than is kept", func(t *testing.T) {
		s := start(t, &worker{}, nil)
		large := call("EXEC", make([]byte, 102<<20))
		go s.r.Write(append(reset(), large...))
		s.worker.forgets = true
		s.worker.await(t, len(reset()))
		s.Data(confirmed())
		s.read(t, len(confirmed()))
		s.worker.await(t, len(reset())+len(large))
		s.Ended("killed")
		s.readError(t, "worker worker-a/0 was lost in this call: killed; it cannot be made up for: the journals' budget is spent: 1048576 bytes in memory and 104857600 on disk are allowed")
	})
}

// Whatever others may call, they may while a call is recorded that is too large to be kept, before
// the first reset and after it.
func TestAskedWhileRecording(t *testing.T) {
	s := startWithin(t, journal.Limits{Each: 64 << 10, Memory: 64 << 10})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for once := true; ; once = !once {
			select {
			case <-stop:
				return
			default:
				s.Once(once)
				s.Shares()
				s.Worker()
				s.Activity()
			}
		}
	}()
	large := call("EXEC", make([]byte, 1<<20))
	sent := 0
	for range 3 {
		s.makes(t, sent, large, value("kept"))
		sent += len(large)
		sent = s.done(t, sent)
		s.makes(t, sent, large, value("kept"))
		sent += len(large)
	}
	close(stop)
	<-stopped
}

// Once at most: neither a worker that dies nor one that is handed back in a call lets
// a future run again, and a done one does not either. The next future gets a worker.
func TestOnce(t *testing.T) {
	last := call("EXEC", []byte("compute"))
	for name, drained := range map[string]bool{"dies": false, "drains": true} {
		t.Run(name, func(t *testing.T) {
			s := start(t, &worker{}, nil)
			s.Once(true)
			s.future(t, last)
			if drained {
				s.Drain()
			}
			s.Ended("killed")
			s.readError(t, "worker worker-a/0 was lost in this call: killed")
			other := newWorker("other")
			s.spare <- other
			s.write(t, reset())
			receive(t, other.bound, "another worker to be bound")
			s.worker = other
			other.await(t, len(reset()))
			s.Data(confirmed())
			s.read(t, len(confirmed()))
			s.ends(t, "killed")
			s.write(t, last)
			s.readError(t, "worker other was lost before this call: killed")
		})
	}
}

// A user who lets futures run twice, while it is being found out why the worker of one was
// lost that must not, gets it run again.
func TestOnceNoMore(t *testing.T) {
	s := start(t, &worker{}, nil)
	s.Once(true)
	sent := s.future(t, call("EXEC", []byte("compute")))
	other := newWorker("other")
	s.spare <- other
	s.worker.sink.Ended("its connection was lost", func() string {
		s.Once(false)
		return "OOMKilled"
	})
	receive(t, other.bound, "another worker to be bound")
	s.worker = other
	other.await(t, len(sent))
}

// Between two calls of a future that does not run twice the worker is the session's, also
// when its agent drains.
func TestOnceDrained(t *testing.T) {
	last := call("EXEC", []byte("compute"))
	for name, start := range map[string]func() *session{
		"once": func() *session {
			s := start(t, &worker{}, nil)
			s.Once(true)
			return s
		},
		"one attempt": func() *session {
			return startWith(t, relay.Recovery{Attempts: 1}, &worker{}, nil, someRoom)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := start()
			s.write(t, reset())
			s.worker.await(t, len(reset()))
			s.Data(confirmed())
			s.read(t, len(confirmed()))
			s.Drain()
			s.write(t, last)
			s.worker.await(t, len(reset())+len(last))
			s.Data(result())
			s.read(t, len(result()))
			receive(t, s.worker.ended, "the worker to be ended after the future")
		})
	}
}

// A future of a session that takes launch errors fails with one, so that it can be reset,
// wherever in its call that shows, and its node is free for the next.
func TestLaunchErrors(t *testing.T) {
	for _, before := range []int{0, 5000, 12000} {
		s := startWith(t, relay.Recovery{Attempts: 1}, &worker{}, nil, someRoom)
		last := call("EXEC", slices.Concat(make([]byte, before), []byte(facts.LaunchErrors[0]), make([]byte, 100<<10)))
		sent := s.future(t, last[:4000])
		s.write(t, last[4000:])
		s.worker.await(t, len(sent)+len(last)-4000)
		s.ends(t, "killed")
		want := psock.AppendCondition(nil, "worker worker-a/0 was lost in this call: killed", facts.LaunchErrors, false)
		if got := s.read(t, len(want)); !bytes.Equal(got, want) {
			t.Errorf("R reads %q", got)
		}
	}
}
