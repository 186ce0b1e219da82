package relay_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/facts"
	"github.com/psock-runtime/psock-runtime/internal/journal"
	"github.com/psock-runtime/psock-runtime/internal/relay"
)

// done sends a whole future, and reads its answers.
func (s *session) done(t *testing.T, sent int) (total int) {
	t.Helper()
	for _, c := range [][2][]byte{{reset(), confirmed()}, {call("EXEC", []byte("compute")), result()}} {
		s.write(t, c[0])
		sent += len(c[0])
		s.worker.await(t, sent)
		s.Data(c[1])
		s.read(t, len(c[1]))
	}
	return sent
}

// A future that is done is not kept, and its worker is offered at once.
func TestFutureDone(t *testing.T) {
	t.Run("the next one runs alone", func(t *testing.T) {
		s := start(t, &worker{}, nil)
		s.done(t, 0)
		receive(t, s.worker.offers, "the worker to be offered")
		s.ends(t, "killed")
		other := newWorker("other")
		s.spare <- other
		s.write(t, reset())
		receive(t, other.bound, "another worker to be bound")
		s.worker = other
		if got := other.await(t, len(reset())); !bytes.Equal(got, reset()) {
			t.Errorf("the other worker was sent %q", got)
		}
		if need := receive(t, s.needs, "a need"); need.Lost {
			t.Error("an idle worker's end counts as the loss of a call")
		}
	})
	t.Run("another call is none of the future's", func(t *testing.T) {
		s := start(t, &worker{}, nil)
		s.done(t, 0)
		s.ends(t, "killed")
		s.write(t, call("EXEC", nil))
		s.readError(t, "worker worker-a/0 was lost before this call: killed")
	})
	t.Run("nor does that one run again", func(t *testing.T) {
		s := start(t, &worker{}, nil)
		sent := s.done(t, 0)
		receive(t, s.worker.offers, "the worker to be offered")
		for range 2 {
			s.write(t, call("EXEC", nil))
			sent += len(call("EXEC", nil))
			s.worker.await(t, sent)
			receive(t, s.worker.kept, "the worker to be needed again")
			s.Data(value("42"))
			s.read(t, len(value("42")))
		}
		s.write(t, call("EXEC", nil))
		s.worker.await(t, sent+len(call("EXEC", nil)))
		s.Ended("killed")
		s.readError(t, "worker worker-a/0 was lost in this call: killed"+stateLost)
		if len(s.worker.offers) > 0 {
			t.Error("a worker was offered whose state nobody knows")
		}
	})
}

// A worker that another node has set up alike is sent what is due alone; any other is
// sent it all.
func TestSetUpWorker(t *testing.T) {
	s := startWith(t, relay.Recovery{Together: true}, &worker{}, nil, someRoom)
	s.write(t, call("EXEC", []byte("set up")))
	s.worker.await(t, len(call("EXEC", []byte("set up"))))
	s.Data(value("me"))
	s.read(t, len(value("me")))
	s.done(t, len(call("EXEC", []byte("set up"))))
	setUp := receive(t, s.worker.offers, "the worker to be offered")
	if setUp == (relay.SetUp{}) {
		t.Fatal("a worker that was used is offered as a fresh one")
	}
	move := func(other *worker, want []byte) {
		t.Helper()
		close(s.worker.recalled)
		receive(t, s.worker.ended, "the worker to go")
		s.spare <- other
		s.write(t, reset())
		receive(t, other.bound, "another worker to be bound")
		if need := receive(t, s.needs, "a need"); len(need.SetUps) != 1 || need.SetUps[0] != setUp || need.Lost {
			t.Errorf("%+v", need)
		}
		s.worker = other
		if got := other.await(t, len(want)); !bytes.Equal(got, want) {
			t.Errorf("the other worker was sent %q", got)
		}
	}
	alike := newWorker("alike")
	alike.setUp = setUp
	move(alike, reset())
	s.Data(confirmed())
	s.read(t, len(confirmed()))
	last := call("EXEC", []byte("compute"))
	s.write(t, last)
	s.worker.await(t, len(reset())+len(last))
	s.Data(result())
	s.read(t, len(result()))
	receive(t, s.worker.offers, "the other worker to be offered")
	fresh := newWorker("fresh")
	move(fresh, append(call("EXEC", []byte("set up")), reset()...))
	s.Data(append(value("another"), confirmed()...))
	if got := s.read(t, len(confirmed())); !bytes.Equal(got, confirmed()) {
		t.Errorf("R reads %q", got)
	}
}

// A session of a shared cluster begins without a worker. If the nodes are set up
// together, its set-up calls are made on whatever worker is set up as far, or had the same
// call from another node.
func TestShared(t *testing.T) {
	s := startShared(t, relay.Recovery{Together: true}, someRoom)
	first := newWorker("first")
	s.spare <- first
	s.write(t, call("EXEC", []byte("set up")))
	receive(t, first.bound, "a worker to be bound")
	need := receive(t, s.needs, "a need")
	if len(need.SetUps) != 2 || need.Lost {
		t.Fatalf("%+v", need)
	}
	s.worker = first
	first.await(t, len(call("EXEC", []byte("set up"))))
	s.Data(value("me"))
	s.read(t, len(value("me")))
	if setUp := receive(t, first.offers, "the worker to be offered"); setUp != need.SetUps[1] {
		t.Error("it is not set up as a node of the same calls wants it")
	}
	for i, alike := range []relay.SetUp{1: {1, 2, 3}} {
		close(s.worker.recalled)
		receive(t, s.worker.ended, "the worker to go")
		s.write(t, call("EXEC", []byte{byte(i)}))
		need = receive(t, s.needs, "a need")
		other := newWorker(fmt.Sprint("other-", i))
		other.setUp = alike
		if i == 0 {
			other.setUp = need.SetUps[i]
		}
		s.spare <- other
		if i == 1 { // as if the session had sent more meanwhile
			receive(t, other.released, "the worker to be given back")
			other = newWorker("fresh")
			s.spare <- other
		}
		receive(t, other.bound, "a worker to be bound")
		s.worker = other
		want := call("EXEC", []byte{byte(i)})
		if i == 1 {
			want = append(append(call("EXEC", []byte("set up")), call("EXEC", []byte{0})...), want...)
		}
		if got := other.await(t, len(want)); !bytes.Equal(got, want) {
			t.Fatalf("the worker was sent %q, want %q", got, want)
		}
		if i == 1 {
			s.Data(append(value("me"), value("42")...))
		}
		s.Data(value("42"))
		s.read(t, len(value("42")))
		receive(t, other.offers, "the worker to be offered")
	}
}

// A worker's end is told at once, and why it ended when that is known, if R is told.
func TestExplained(t *testing.T) {
	s := start(t, &worker{}, nil)
	s.write(t, call("EXEC", nil))
	s.worker.await(t, len(call("EXEC", nil)))
	s.worker.sink.Ended("its connection was lost", func() string { return "OOMKilled; its connection was lost" })
	s.readError(t, "worker worker-a/0 was lost in this call: OOMKilled; its connection was lost")
}

// What a plan's session does before its first future other than to ask who its worker is
// keeps that worker where it is, for as long as the node lives.
func TestSharedState(t *testing.T) {
	s := startShared(t, relay.Recovery{}, someRoom)
	first := newWorker("first")
	s.spare <- first
	s.write(t, introduction())
	receive(t, first.bound, "a worker to be bound")
	s.worker = first
	sent := len(introduction())
	first.await(t, sent)
	s.Data(value("me"))
	s.read(t, len(value("me")))
	receive(t, first.offers, "the worker to be offered")
	for range 2 {
		s.write(t, call("EXEC", []byte("x <<- x + 1")))
		sent += len(call("EXEC", []byte("x <<- x + 1")))
		first.await(t, sent)
		s.Data(value("set"))
		s.read(t, len(value("set")))
	}
	for range 2 {
		sent = s.done(t, sent) // an offer of the worker after the first one would have come before
	}
	if len(first.offers) > 0 {
		t.Error("a worker was offered that has state")
	}
}

// A call that got no worker leaves nothing behind: the next one gets one as if it had not
// been.
func TestSharedRefused(t *testing.T) {
	s := startShared(t, relay.Recovery{}, someRoom)
	s.spare <- nil
	s.write(t, call("EXEC", []byte("set up")))
	s.readError(t, "0 of 1 workers are ready")
	w := newWorker("late")
	s.spare <- w
	s.write(t, introduction())
	receive(t, w.bound, "a worker to be bound")
	s.worker = w
	if got := w.await(t, len(introduction())); !bytes.Equal(got, introduction()) {
		t.Fatalf("the worker was sent %q", got)
	}
	s.Data(value("me"))
	s.read(t, len(value("me")))
	receive(t, w.offers, "the worker to be offered")
	close(w.recalled)
	receive(t, w.ended, "the worker to go")
	other := newWorker("other")
	s.spare <- other
	s.write(t, reset())
	receive(t, other.bound, "another worker to be bound")
	s.worker = other
	want := reset()
	if got := other.await(t, len(want)); !bytes.Equal(got, want) {
		t.Errorf("the other worker was sent %q", got)
	}
}

// One that got no worker is not of those that were made, which asked for nothing.
func TestIntroductionRefused(t *testing.T) {
	s := startShared(t, relay.Recovery{}, someRoom)
	s.spare <- nil
	s.write(t, introduction())
	s.readError(t, "0 of 1 workers are ready")
	w := newWorker("late")
	s.spare <- w
	state := call("EXEC", []byte("x <<- 1"))
	s.write(t, state)
	receive(t, w.bound, "a worker to be bound")
	s.worker = w
	w.await(t, len(state))
	s.Data(value("set"))
	s.read(t, len(value("set")))
	s.write(t, state) // an offer of the worker would have come before
	w.await(t, 2*len(state))
	if len(w.offers) > 0 {
		t.Error("a worker with state is offered")
	}
}

// A worker that answers before what it was sent is kept is offered, and no longer when
// there turns out to be no room.
func TestAnsweredBeforeItIsKept(t *testing.T) {
	s := startShared(t, relay.Recovery{Together: true}, journal.Limits{})
	w := newWorker("quick")
	w.slow = make(chan struct{})
	set := call("EXEC", make([]byte, 14<<10))
	s.spare <- w
	s.write(t, set)
	receive(t, w.bound, "a worker to be bound")
	s.worker = w
	w.await(t, len(set))
	s.Data(value("set"))
	s.read(t, len(value("set")))
	receive(t, w.offers, "the worker to be offered")
	close(w.slow)
	receive(t, w.kept, "the worker to be the session's alone")
}

// While others have spent what may be kept, a plan begins and moves all the same: what no
// worker was sent is not what may be given up.
func TestSharedWithoutJournal(t *testing.T) {
	s := newSession(t, relay.Recovery{Shared: true}, someRoom)
	others := journal.New(s.budget, 0)
	for others.Append(make([]byte, 4<<10)) == nil {
	}
	s.run(t, func() (string, error) { return s.Run(nil, nil) })
	t.Cleanup(others.Reset) // before what run looks at
	var made []byte
	for i, call := range [][2][]byte{{told(facts.Load), value("TRUE")}, {reset(), confirmed()}} {
		w := newWorker(fmt.Sprint("worker-", i))
		s.spare <- w
		s.write(t, call[0])
		receive(t, w.bound, "a worker to be bound")
		made = append(made, call[0]...)
		s.worker = w
		if got := w.await(t, len(made)); !bytes.Equal(got, made) {
			t.Fatalf("the worker was sent %q, want %q", got, made)
		}
		if i > 0 {
			s.Data(value("me"))
		}
		s.Data(call[1])
		if got := s.read(t, len(call[1])); !bytes.Equal(got, call[1]) {
			t.Fatalf("R reads %q", got)
		}
		if i == 0 {
			receive(t, w.offers, "the worker to be offered")
			close(w.recalled)
			receive(t, w.ended, "the worker to go")
		}
	}
}

// What R sends behind a future's last call, as after an interrupt, is none of the future's: a
// worker that has done it is the session's alone.
func TestBehindTheLastCall(t *testing.T) {
	s := start(t, &worker{}, nil)
	last, other := call("EXEC", []byte("compute")), call("EXEC", []byte("x <<- 1"))
	sent := s.future(t, last)
	s.write(t, other)
	s.worker.await(t, len(sent)+len(other))
	s.Data(result())
	s.Data(value("set"))
	s.read(t, len(result())+len(value("set")))
	s.write(t, other) // an offer of the worker would have come before
	s.worker.await(t, len(sent)+2*len(other))
	if len(s.worker.offers) > 0 {
		t.Error("a worker was offered that has state")
	}
}

// A future whose reset R sends behind another call, as after an interrupt, is not seen to
// begin: it is nothing that a node is set up by, and does not run again.
func TestFirstResetBehindACall(t *testing.T) {
	s := start(t, &worker{}, nil)
	set, last := call("EXEC", []byte("x <- 1")), call("EXEC", []byte("compute"))
	sent := bytes.Join([][]byte{set, reset(), last}, nil)
	s.write(t, sent)
	s.worker.await(t, len(sent))
	answers := bytes.Join([][]byte{value("set"), confirmed(), result()}, nil)
	s.Data(answers)
	s.read(t, len(answers))
	s.ends(t, "killed")
	s.write(t, reset())
	s.readError(t, "worker worker-a/0 was lost before this call: killed"+stateLost)
}

// A session whose stream ends while it waits for a worker is read no further: what comes
// after the gap is nobody's.
func TestEndedWhileItWaits(t *testing.T) {
	s := startShared(t, relay.Recovery{}, someRoom)
	calls := bytes.Repeat(call("EXEC", make([]byte, 1000)), 22)
	const first = 1100 // a call, and a part of one
	s.write(t, calls[:first])
	receive(t, s.needs, "a worker to be asked for")
	// What is held back of the rest ends in the middle of a call.
	s.write(t, calls[first:])
	s.spare <- nil
	s.readEnd(t)
	s.r.Close()
	receive(t, s.cause, "Run to return")
	if a := s.Activity(); a.Opaque {
		t.Errorf("what was left out is taken for a stream that is not R's: %+v", a)
	}
	s.cause <- ""
}
