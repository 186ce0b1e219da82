package relay_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/journal"
)

// Answers that R does not read while somebody waits for a worker.

// computes has the session make the last call of a future.
func (s *session) computes(t *testing.T) {
	t.Helper()
	s.write(t, reset())
	sent := s.worker.await(t, len(reset()))
	s.Data(confirmed())
	s.read(t, len(confirmed()))
	s.write(t, call("EXEC", nil))
	s.worker.await(t, len(sent)+len(call("EXEC", nil)))
}

// large is an answer of a future with so many bytes, and some, that are no others'.
func large(bytes int) []byte {
	p := make([]byte, bytes)
	_, _ = rand.NewChaCha8([32]byte{byte(bytes)}).Read(p) // it never fails
	return append(call("VALUE", p), result()...)
}

// answers has the worker send p, in pieces; done is closed when all is taken.
func (s *session) answers(p []byte) (done chan struct{}) {
	done = make(chan struct{})
	sink := s.worker.sink
	go func() {
		defer close(done)
		for piece := 100_000; len(p) > 0; piece += 77_777 {
			n := min(piece, len(p))
			sink.Data(p[:n])
			p = p[n:]
		}
	}()
	return done
}

// unread waits until R's not reading holds something up, or does not.
func (s *session) unread(t *testing.T, want bool) {
	t.Helper()
	eventually(t, fmt.Sprintf("unread to be %v", want), func() bool { return s.Activity().Unread == want })
}

// A worker is offered when R has its answer, not before: until then it is its reader who
// waits.
func TestOfferedWhenRead(t *testing.T) {
	s := start(t, &worker{}, nil)
	s.computes(t)
	answer := large(64 << 20)
	done := s.answers(answer)
	s.read(t, 1)
	if len(s.worker.offers) > 0 {
		t.Error("offered while its answer is on the way")
	}
	s.read(t, len(answer)-1)
	receive(t, done, "the answer to be passed on")
	receive(t, s.worker.offers, "the worker to be offered")
}

// If somebody waits for a worker, the answer is kept for R, whose next answers come after it.
func TestKept(t *testing.T) {
	for name, limits := range map[string]journal.Limits{
		"in memory": {Each: 100 << 20, Memory: 100 << 20},
		"on disk":   {Disk: 100 << 20},
		"on both":   {Each: 1 << 20, Memory: 1 << 20, Disk: 100 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			s := startWithin(t, limits)
			s.scarce.Store(true)
			s.computes(t)
			answer := large(40 << 20)
			receive(t, s.answers(answer), "the answer to be kept")
			receive(t, s.worker.offers, "the worker to be offered")
			close(s.worker.recalled)
			receive(t, s.worker.ended, "the worker to go")

			// The worker of the next call is lost while R still does not read.
			other := newWorker("other")
			s.spare <- other
			s.write(t, append(reset(), call("EXEC", nil)...))
			receive(t, other.bound, "another worker to be bound")
			s.worker = other
			other.await(t, len(reset())+len(call("EXEC", nil)))
			s.Data(confirmed())
			s.Data(value("progress")[:20])
			s.EOF()
			s.Ended("killed")

			want := append(append(answer, confirmed()...), value("progress")[:20]...)
			if got := s.read(t, len(want)); !bytes.Equal(got, want) {
				t.Error("R reads something else")
			}
			s.readEnd(t)
		})
	}
}

// What there is no room for waits, and is known to.
func TestNoRoomForAnswers(t *testing.T) {
	for name, limits := range map[string]journal.Limits{
		"for nothing":  {},
		"for a part":   {Each: 1 << 20, Memory: 1 << 20},
		"for a second": {Each: 1 << 20, Memory: 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			s := startWithin(t, limits)
			s.scarce.Store(true)
			s.computes(t)
			answer := large(40 << 20)
			done := s.answers(answer)
			s.unread(t, true)
			if len(s.worker.offers) > 0 {
				t.Error("offered while its answer is on the way")
			}
			if name == "for a second" { // R reads a part, and stops again
				first := s.read(t, 10<<20)
				if !bytes.Equal(first, answer[:len(first)]) {
					t.Error("R reads something else")
				}
				answer = answer[len(first):]
				s.unread(t, true)
			}
			if got := s.read(t, len(answer)); !bytes.Equal(got, answer) {
				t.Error("R reads something else")
			}
			receive(t, done, "the answer to be passed on")
			s.unread(t, false)
			receive(t, s.worker.offers, "the worker to be offered")
		})
	}
}

// Room that others make is used, whether some is kept already or not.
func TestRoomForAnswers(t *testing.T) {
	for name, free := range map[string]int64{"some is kept": 2 << 20, "nothing is": 0} {
		t.Run(name, func(t *testing.T) {
			s := startWithin(t, journal.Limits{Disk: 50 << 20})
			others := journal.New(s.budget, 0)
			t.Cleanup(others.Reset) // before what start looks at
			if err := others.Append(make([]byte, 50<<20-free)); err != nil {
				t.Fatal(err)
			}
			s.scarce.Store(true)
			s.computes(t)
			answer := large(40 << 20)
			done := s.answers(answer)
			s.unread(t, true)
			others.Reset()
			receive(t, done, "the answer to be kept")
			receive(t, s.worker.offers, "the worker to be offered")
			if got := s.read(t, len(answer)); !bytes.Equal(got, answer) {
				t.Error("R reads something else")
			}
		})
	}
}

// An R that goes leaves nothing behind.
func TestGoneWithAnswersKept(t *testing.T) {
	s := startWithin(t, journal.Limits{Disk: 100 << 20})
	s.scarce.Store(true)
	s.computes(t)
	receive(t, s.answers(large(40<<20)), "the answer to be kept")
	s.r.Close()
	receive(t, s.worker.ended, "the worker to be told")
	s.Ended("its session ended")
	if cause := receive(t, s.cause, "Run to return"); cause != "its session ended" {
		t.Errorf("cause %q", cause)
	}
	s.cause <- "" // for the cleanup
}

// Neither does one that goes while an answer waits for room.
func TestGoneWithoutRoom(t *testing.T) {
	s := startWithin(t, journal.Limits{Each: 1 << 20, Memory: 1 << 20})
	s.scarce.Store(true)
	s.computes(t)
	done := s.answers(large(40 << 20))
	s.unread(t, true)
	s.r.Close()
	receive(t, done, "the answer to be dropped")
	receive(t, s.worker.ended, "the worker to be told")
	s.Ended("its session ended")
	receive(t, s.cause, "Run to return")
	s.cause <- ""
}
