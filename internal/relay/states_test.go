package relay_test

import (
	"bytes"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/facts"
	"github.com/psock-runtime/psock-runtime/internal/journal"
	"github.com/psock-runtime/psock-runtime/internal/relay"
)

// The states of a Session, for TestMethodsInEachState.

// waits is a shared session whose call waits for a worker.
func waits(t *testing.T, call []byte) *session {
	s := startShared(t, relay.Recovery{}, someRoom)
	s.write(t, call)
	receive(t, s.needs, "a worker to be asked for")
	return s
}

// tooLong is more of a call than is taken without a worker.
var tooLong = call("EXEC", make([]byte, 60<<10))

var unboundStates = map[string]sessionState{
	"not run yet": {
		enter: func(t *testing.T) *session { return newSession(t, relay.Recovery{}, someRoom) },
		leave: func(t *testing.T, s *session) {
			s.worker = newWorker("a")
			s.run(t, func() (string, error) { return s.Run(s.worker, nil) })
			receive(t, s.worker.bound, "the worker to be bound")
		},
		after: view{worker: "a"}, once: anyhow,
	},
	"its worker is over before it runs": {
		enter: func(t *testing.T) *session { return newSession(t, relay.Recovery{}, someRoom) },
		leave: func(t *testing.T, s *session) {
			gone := newWorker("a")
			gone.gone = true
			if _, err := s.Run(gone, nil); err == nil {
				t.Error("Run binds a worker that is over")
			}
			s.r.Close()
		},
		during: []view{{worker: "a"}}, after: view{worker: "a"}, once: anyhow,
	},
	"vacant": {
		enter:  func(t *testing.T) *session { return startShared(t, relay.Recovery{}, someRoom) },
		before: view{shares: true},
		leave: func(t *testing.T, s *session) {
			s.write(t, reset())
			s.takes(t, "a")
		},
		during: []view{{busy: true}}, after: view{shares: true, worker: "a", busy: true}, once: anyhow,
	},
	"waits for a worker": {
		enter:  func(t *testing.T) *session { return waits(t, reset()) },
		before: view{shares: true, busy: true},
		leave:  func(t *testing.T, s *session) { s.takes(t, "a") },
		after:  view{shares: true, worker: "a", busy: true}, once: anyhow,
	},
	"gets none": {
		enter:  func(t *testing.T) *session { return waits(t, reset()) },
		before: view{shares: true, busy: true},
		leave: func(t *testing.T, s *session) {
			s.spare <- nil
			s.readError(t, "0 of 1 workers are ready")
		},
		after: view{shares: true}, once: anyhow,
	},
	"waits with a part of a call": {
		enter:  func(t *testing.T) *session { return waits(t, tooLong) },
		before: view{shares: true, busy: true},
		leave: func(t *testing.T, s *session) {
			s.takes(t, "a")
			s.worker.await(t, len(tooLong))
		},
		after: view{shares: true, worker: "a", busy: true, keeps: true, lost: true}, once: anyhow,
	},
	"gets none for a part of a call": {
		enter:  func(t *testing.T) *session { return waits(t, tooLong) },
		before: view{shares: true, busy: true},
		leave: func(t *testing.T, s *session) {
			s.spare <- nil
			s.readError(t, "0 of 1 workers are ready")
		},
		after: view{shares: true}, during: []view{{lost: true}}, once: anyhow,
	},
	"answers by itself": {
		enter:  func(t *testing.T) *session { return startShared(t, relay.Recovery{}, someRoom) },
		before: view{shares: true},
		leave: func(t *testing.T, s *session) {
			for range 50 {
				s.asks(t, told(facts.Validation), valid())
			}
		},
		during: []view{{busy: true}}, after: view{shares: true}, once: anyhow,
	},
}

var boundStates = map[string]sessionState{
	"idle": {
		enter:  func(t *testing.T) *session { return start(t, &worker{}, nil) },
		before: view{worker: "worker-a/0"},
		leave: func(t *testing.T, s *session) {
			s.write(t, reset())
			s.worker.await(t, len(reset()))
		},
		after: view{worker: "worker-a/0", shares: true, busy: true}, once: anyhow,
	},
	"idle, and lost": {
		enter:  func(t *testing.T) *session { return start(t, &worker{}, nil) },
		before: view{worker: "worker-a/0"},
		leave:  func(t *testing.T, s *session) { s.ends(t, "killed") },
		once:   anyhow,
	},
	"busy": {
		enter: func(t *testing.T) *session {
			s := start(t, &worker{}, nil)
			s.write(t, reset())
			s.worker.await(t, len(reset()))
			return s
		},
		before: view{worker: "worker-a/0", shares: true, busy: true},
		leave: func(t *testing.T, s *session) {
			s.Data(confirmed())
			s.read(t, len(confirmed()))
		},
		after: view{worker: "worker-a/0", shares: true}, once: anyhow,
	},
	"busy, and its agent drains": {
		enter: func(t *testing.T) *session {
			s := start(t, &worker{}, nil)
			s.computes(t)
			s.Drain()
			return s
		},
		before: view{worker: "worker-a/0", shares: true, busy: true},
		leave: func(t *testing.T, s *session) {
			s.Data(result())
			s.read(t, len(result()))
			receive(t, s.worker.ended, "the worker to go")
		},
		after: view{shares: true}, once: anyhow,
	},
	"not followed": {
		enter: func(t *testing.T) *session {
			s := start(t, &worker{}, nil)
			s.write(t, []byte("GET / HTTP/1.0"))
			s.worker.await(t, 14)
			return s
		},
		before: view{worker: "worker-a/0", opaque: true, lost: true},
		leave: func(t *testing.T, s *session) {
			s.Ended("killed")
			s.readEnd(t)
		},
		after: view{opaque: true, lost: true}, once: anyhow,
	},
	"its answer is not read": {
		enter: func(t *testing.T) *session {
			s := startWithin(t, journal.Limits{Each: 10 << 10, Memory: 10 << 10})
			s.scarce.Store(true)
			s.computes(t)
			s.answers(large(12 << 20))
			s.unread(t, true)
			return s
		},
		before: view{worker: "worker-a/0", shares: true, busy: true, unread: true},
		leave: func(t *testing.T, s *session) {
			s.read(t, len(large(12<<20)))
		},
		during: []view{{busy: true}, {unread: true}}, after: view{worker: "worker-a/0", shares: true}, once: anyhow,
	},
	"a call within a call": {
		enter: func(t *testing.T) *session {
			s := start(t, &worker{}, nil)
			whole := named(call("EXEC", make([]byte, 1000)))
			s.write(t, whole[:500])
			s.worker.await(t, 500)
			return s
		},
		before: view{worker: "worker-a/0", busy: true},
		leave: func(t *testing.T, s *session) {
			s.write(t, named(call("EXEC", []byte("another"))))
			s.readEnd(t)
			receive(t, s.worker.ended, "the worker to be ended")
		},
		after: view{worker: "worker-a/0", busy: true}, once: anyhow,
	},
}

// halfway is a session whose future has read two answers, and waits for the last. What the second
// call has set may be the user's for all that is known.
func halfway(t *testing.T) *session {
	s := start(t, &worker{}, nil)
	s.future(t, call("EXEC", []byte("compute")))
	return s
}

// repeated are the answers that a halfway session has read.
var repeated = append(confirmed(), value("set")...)

var futureStates = map[string]sessionState{
	"between two calls of a future": {
		enter: func(t *testing.T) *session {
			s := start(t, &worker{}, nil)
			s.makes(t, 0, reset(), confirmed())
			return s
		},
		before: view{worker: "worker-a/0", shares: true},
		leave: func(t *testing.T, s *session) {
			s.makes(t, len(reset()), call("EXEC", []byte("compute")), result())
			receive(t, s.worker.offers, "the worker to be offered")
		},
		during: []view{{busy: true}}, after: view{worker: "worker-a/0", shares: true}, once: anyhow,
	},
	"after a future, and somebody else needs the worker": {
		enter: func(t *testing.T) *session {
			s := start(t, &worker{}, nil)
			s.done(t, 0)
			receive(t, s.worker.offers, "the worker to be offered")
			return s
		},
		before: view{worker: "worker-a/0", shares: true},
		leave: func(t *testing.T, s *session) {
			close(s.worker.recalled)
			receive(t, s.worker.ended, "the worker to go")
		},
		after: view{shares: true}, once: anyhow,
	},
	"recovering": {
		enter: func(t *testing.T) *session {
			s := halfway(t)
			s.ends(t, "killed")
			receive(t, s.needs, "a worker to be asked for")
			return s
		},
		before: view{shares: true, busy: true, lost: true},
		leave:  func(t *testing.T, s *session) { s.takes(t, "b") },
		after:  view{worker: "b", shares: true, busy: true, lost: true, reruns: 1},
	},
	"recovering, and none takes its place": {
		enter: func(t *testing.T) *session {
			s := halfway(t)
			s.ends(t, "killed")
			receive(t, s.needs, "a worker to be asked for")
			return s
		},
		before: view{shares: true, busy: true, lost: true},
		leave: func(t *testing.T, s *session) {
			s.spare <- nil
			s.readError(t, "worker worker-a/0 was lost: killed; no other takes its place: 0 of 1 workers are ready")
		},
		after: view{shares: true},
	},
	"repeating": {
		enter: func(t *testing.T) *session {
			s := halfway(t)
			s.lose(t, "b")
			return s
		},
		before: view{worker: "worker-b/0", shares: true, busy: true, lost: true, reruns: 1},
		leave: func(t *testing.T, s *session) {
			s.Data(append(bytes.Clone(repeated), result()...))
			s.read(t, len(result()))
		},
		after: view{worker: "worker-b/0", shares: true, reruns: 1}, once: anyhow,
	},
	"lost as one that runs once": {
		enter:  halfway,
		before: view{worker: "worker-a/0", shares: true, busy: true, lost: true},
		leave: func(t *testing.T, s *session) {
			s.Ended("killed")
			s.readError(t, "worker worker-a/0 was lost in this call: killed")
		},
		during: []view{{busy: true}}, after: view{shares: true}, once: []bool{true},
	},
	"more is sent than is kept": {
		enter: func(t *testing.T) *session {
			s := startIn(t, &worker{}, nil, journal.Limits{Each: 20 << 10, Memory: 20 << 10})
			s.makes(t, 0, reset(), confirmed())
			return s
		},
		before: view{worker: "worker-a/0", shares: true},
		leave: func(t *testing.T, s *session) {
			sent := len(reset())
			for range 20 { // each is recorded until there is no more room
				sent = s.makes(t, sent, call("EXEC", make([]byte, 60<<10)), result())
				sent = s.makes(t, sent, reset(), confirmed())
			}
		},
		during: []view{{busy: true}}, after: view{worker: "worker-a/0", shares: true}, once: anyhow,
	},
	"more is sent before the first future than is kept": {
		enter: func(t *testing.T) *session {
			return startWith(t, relay.Recovery{Together: true, Shared: true}, &worker{}, nil, journal.Limits{})
		},
		before: view{worker: "worker-a/0", shares: true},
		leave: func(t *testing.T, s *session) {
			sent := 0
			for range 20 {
				sent = s.makes(t, sent, call("EXEC", make([]byte, 10<<10)), value("set"))
			}
		},
		during: []view{{busy: true}}, after: view{worker: "worker-a/0", shares: true, lost: true}, once: anyhow,
	},
}

var stateStates = map[string]sessionState{
	"keeps its worker": {
		enter:  pinned,
		before: view{worker: "worker-a/0", keeps: true, lost: true},
		leave:  func(t *testing.T, s *session) { s.ends(t, "killed") },
		after:  view{lost: true, already: true}, once: anyhow,
	},
	"has lost what it has set": {
		enter: func(t *testing.T) *session {
			s := pinned(t)
			s.ends(t, "killed")
			return s
		},
		before: view{lost: true, already: true},
		leave: func(t *testing.T, s *session) {
			s.write(t, reset())
			s.readError(t, "worker worker-a/0 was lost before this call: killed"+stateLost)
		},
		during: []view{{busy: true}}, after: view{shares: true}, once: anyhow,
	},
	"replaces one that had set something": {
		enter:  clone,
		before: view{shares: true, lost: true},
		leave:  func(t *testing.T, s *session) { s.first(t, introduction(), value("me")) },
		during: []view{{busy: true}}, after: view{worker: "first", shares: true, lost: true}, once: anyhow,
	},
	"replaces one, and has a worker for a question": {
		enter: func(t *testing.T) *session {
			s := clone(t)
			s.first(t, introduction(), value("me"))
			return s
		},
		before: view{worker: "first", shares: true, lost: true},
		leave: func(t *testing.T, s *session) {
			s.write(t, reset())
			s.readError(t, "worker z was lost"+stateMissed)
			receive(t, s.worker.ended, "the worker to go")
		},
		during: []view{{busy: true}}, after: view{shares: true}, once: anyhow,
	},
	"replaces one, and R has left a question": {
		enter:  asking,
		before: view{worker: "first", shares: true, busy: true, lost: true},
		leave: func(t *testing.T, s *session) {
			s.write(t, options())
			s.readError(t, "worker z was lost"+stateMissed)
			s.readError(t, "worker z was lost"+stateMissed)
			receive(t, s.worker.ended, "the worker to go")
		},
		during: []view{{busy: true}, {keeps: true}}, after: view{shares: true}, once: anyhow,
	},
}

var endStates = map[string]sessionState{
	"R has ended": {
		enter: func(t *testing.T) *session {
			s := pinned(t)
			if err := s.r.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			receive(t, s.worker.ended, "the worker to be ended")
			return s
		},
		before: view{worker: "worker-a/0", keeps: true, lost: true},
		leave: func(t *testing.T, s *session) {
			s.Ended("its session ended")
			s.ran(t, "its session ended")
		},
		after: view{worker: "worker-a/0", keeps: true, lost: true}, once: anyhow,
	},
	"R is done with it": {
		enter:  pinned,
		before: view{worker: "worker-a/0", keeps: true, lost: true},
		leave: func(t *testing.T, s *session) {
			s.write(t, call("DONE", nil))
			s.readEnd(t)
		},
		during: []view{{busy: true}}, after: view{worker: "worker-a/0", keeps: true, stopped: true}, once: anyhow,
	},
}
