package relay_test

import (
	"bytes"
	"github.com/psock-runtime/psock-runtime/internal/relay"
	"strings"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// The ways in which a session's end comes: Run returns when both sides are done,
// with the cause of the worker's.

func TestSessionEnds(t *testing.T) {
	s := start(t, &worker{}, nil)
	s.r.Close()
	receive(t, s.worker.ended, "the worker to be told")
	// Its last words find nobody, and stop nobody.
	for range 100 {
		s.Data(bytes.Repeat([]byte("x"), 1<<16))
	}
	s.Ended("its session ended")
	if cause := receive(t, s.cause, "Run to return"); cause != "its session ended" {
		t.Errorf("cause %q", cause)
	}
	s.cause <- "" // for the cleanup
}

func TestWorkerEnds(t *testing.T) {
	s := start(t, &worker{}, nil)
	s.Data([]byte("last words"))
	s.EOF()
	if got := s.read(t, 10); string(got) != "last words" {
		t.Errorf("R reads %q", got)
	}
	s.readEnd(t)
	s.Ended("killed by signal 9")
	s.Ended("said twice")
	if cause := receive(t, s.cause, "Run to return"); cause != "killed by signal 9" {
		t.Errorf("cause %q", cause)
	}
	s.cause <- ""
}

// A worker that does not take any more: the session is told when it is known why.
func TestWorkerGone(t *testing.T) {
	s := start(t, &worker{fails: true}, nil)
	s.write(t, call("EXEC", nil))
	receive(t, s.worker.failed, "the worker to be sent something")
	s.Ended("the connection was lost")
	s.readError(t, "worker worker-a/0 was lost in this call: the connection was lost")
}

// readError reads the R error that stands in an answer's place.
func (s *session) readError(t *testing.T, text string) {
	t.Helper()
	want := psock.AppendError(nil, text, false)
	if got := s.read(t, len(want)); !bytes.Equal(got, want) {
		t.Errorf("R reads %q, want the error %q", got, text)
	}
}

// A worker that dies in a call: the session gets an error that says why, at once
// and before the end of the stream, and nothing where the stream does not allow it.
func TestLostInCall(t *testing.T) {
	exec, good := call("EXEC", nil), answer(t)
	for name, tc := range map[string]struct {
		sent, answered []byte
		want           string
		ends, drained  bool
	}{
		"in a call":           {sent: exec, want: "worker worker-a/0 was lost in this call: killed"},
		"in the second call":  {sent: append(bytes.Clone(exec), exec...), answered: good, want: "worker worker-a/0 was lost in this call: killed"},
		"in a call, draining": {sent: exec, want: "worker worker-a/0 was lost in this call: killed", drained: true},
		"in the answer":       {sent: exec, answered: good[:len(good)-1], ends: true},
		"opaque":              {sent: []byte("GET / HTTP/1.0"), ends: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, &worker{}, nil)
			s.write(t, tc.sent)
			s.worker.await(t, len(tc.sent))
			if tc.answered != nil {
				s.Data(tc.answered)
				s.read(t, len(tc.answered))
			}
			if tc.drained {
				s.Drain()
			}
			s.EOF()
			s.Ended("killed")
			if tc.want != "" {
				s.readError(t, tc.want)
			}
			if tc.ends {
				s.readEnd(t)
				return
			}
			// Every call after that fails, too: what the worker knew is gone.
			s.write(t, exec)
			s.readError(t, strings.Replace(tc.want, "in this call", "before this call", 1))
		})
	}
}

// A worker that dies between calls: the next call gets the error, not before all of
// it has been sent.
func TestLostBetweenCalls(t *testing.T) {
	exec, large, good := call("EXEC", nil), call("EXEC", make([]byte, 1<<20)), answer(t)
	for name, tc := range map[string]struct{ before, after []byte }{
		"before a call":               {nil, exec},
		"before a large call":         {nil, large},
		"while a call was sent":       {exec[:len(exec)-1], exec[len(exec)-1:]},
		"while a large call was sent": {large[:1<<19], large[1<<19:]},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, &worker{}, nil)
			s.write(t, exec)
			s.worker.await(t, len(exec))
			s.Data(good)
			s.read(t, len(good))
			s.write(t, tc.before)
			s.worker.await(t, len(exec)+len(tc.before))
			s.EOF()
			s.ends(t, "killed")
			go s.r.Write(tc.after)
			when := "before"
			if tc.before != nil {
				when = "in"
			}
			s.readError(t, "worker worker-a/0 was lost "+when+" this call: killed")
			// stopCluster() ends it.
			s.write(t, call("DONE", nil))
			s.r.CloseWrite()
			s.readEnd(t)
		})
	}
}

// A worker that drains leaves an idle session, which goes on as one that has lost it.
func TestDrainIdle(t *testing.T) {
	s := start(t, &worker{}, nil)
	s.write(t, call("EXEC", nil))
	s.worker.await(t, len(call("EXEC", nil)))
	s.Data(value("set"))
	s.read(t, len(value("set")))
	s.Drain()
	receive(t, s.worker.ended, "the worker to be told")
	s.ends(t, "drained")
	s.write(t, call("EXEC", nil))
	s.readError(t, "worker worker-a/0 was lost before this call: its agent was told to end")
}

// A call that is under way is finished, its answer arrives, and then the node ends.
func TestDrainBusy(t *testing.T) {
	s := start(t, &worker{}, nil)
	exec := call("EXEC", nil)
	s.write(t, exec)
	s.worker.await(t, len(exec))
	s.Drain()
	good := answer(t)
	for _, part := range [][]byte{good[:50], good[50:]} {
		select {
		case <-s.worker.ended:
			t.Fatal("the worker was told to end before it had answered")
		default:
		}
		s.Data(part)
	}
	if got := s.read(t, len(good)); !bytes.Equal(got, good) {
		t.Errorf("R reads %q", got)
	}
	receive(t, s.worker.ended, "the worker to be told")
	if name := s.Worker(); name != "" {
		t.Errorf("bound to %s", name)
	}
}

// Whether a stream that is not followed is busy is not known: it goes on until the
// agent's budget is spent.
func TestDrainOpaque(t *testing.T) {
	s := start(t, &worker{}, nil)
	odd := []byte("this is not R, and long enough to be sure of it")
	s.write(t, odd)
	s.worker.await(t, len(odd))
	s.Drain()
	s.Data(odd)
	s.read(t, len(odd))
	select {
	case <-s.worker.ended:
		t.Fatal("the worker was told to end, perhaps in the middle of a call")
	default:
	}
}

// A session that is killed while its worker does not read: the worker is ended all
// the same. One that is there is waited for.
func TestKilledWhileTheWorkerDoesNotRead(t *testing.T) {
	s := start(t, &worker{deaf: true}, nil)
	s.write(t, call("EXEC", make([]byte, 100)))
	limit := time.NewTimer(2500 * time.Millisecond) // two looks
	defer limit.Stop()
	select {
	case <-s.worker.aborted:
		t.Fatal("aborted although the session is there")
	case <-limit.C:
	}
	s.r.Close()
	receive(t, s.worker.aborted, "the worker to be aborted")
}

// Two calls under way, as after an interrupt: busy until both are answered.
func TestTwoCallsAtOnce(t *testing.T) {
	s := start(t, &worker{}, nil)
	one := call("EXEC", make([]byte, 100))
	s.write(t, one)
	s.write(t, one)
	s.worker.await(t, 2*len(one))
	s.Drain()
	final := answer(t)
	s.Data(final)
	s.read(t, len(final))
	if a := s.Activity(); !a.Busy || a.Calls != 1 {
		t.Errorf("after one of two answers: %+v", a)
	}
	s.Data(final)
	s.read(t, len(final))
	if a := s.Activity(); a.Busy || a.Calls != 2 {
		t.Errorf("after both answers: %+v", a)
	}
	receive(t, s.worker.ended, "the worker to be told")
}

// A session that says that it is done gets the end of its connection at once, with a worker
// and without: R waits for that before it goes on.
func TestDoneIsTheEnd(t *testing.T) {
	for name, s := range map[string]*session{"bound": start(t, &worker{}, nil), "vacant": startShared(t, relay.Recovery{}, someRoom)} {
		t.Run(name, func(t *testing.T) {
			s.write(t, call("DONE", nil))
			s.readEnd(t)
		})
	}
}
