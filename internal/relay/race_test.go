package relay_test

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/relay"
)

// view is what the methods of a Session return that other goroutines call.
type view struct {
	worker        string
	shares, keeps bool
	lost, stopped bool
	already       bool // what it has set is lost, and R has not been told
	busy          bool
	reruns        int64
	opaque        bool
	unread        bool
}

// calls ask for a part of the view each.
var calls = map[string]func(*relay.Session, *view){
	"Worker": func(s *relay.Session, v *view) { v.worker = s.Worker() },
	"Shares": func(s *relay.Session, v *view) { v.shares = s.Shares() },
	"Keeps":  func(s *relay.Session, v *view) { v.keeps = s.Keeps() },
	"StateIfEnded": func(s *relay.Session, v *view) {
		lost, stopped := s.StateIfEnded()
		v.lost, v.stopped = lost != "", stopped
	},
	"StateLost": func(s *relay.Session, v *view) { v.already = s.StateLost() != "" },
	"Activity": func(s *relay.Session, v *view) {
		a := s.Activity()
		v.busy, v.reruns, v.opaque, v.unread = a.Busy, a.Reruns, a.Opaque, a.Unread
	},
}

func look(s *relay.Session) (v view) {
	for _, call := range calls {
		call(s, &v)
	}
	return v
}

// part is what of v a method tells.
func (v view) part(method string) (p view) {
	switch method {
	case "Worker":
		p.worker = v.worker
	case "Shares":
		p.shares = v.shares
	case "Keeps":
		p.keeps = v.keeps
	case "StateIfEnded":
		p.lost, p.stopped = v.lost, v.stopped
	case "StateLost":
		p.already = v.already
	case "Activity":
		p.busy, p.reruns, p.opaque, p.unread = v.busy, v.reruns, v.opaque, v.unread
	}
	return p
}

// caller calls one method again and again, and keeps what it has returned.
type caller struct {
	mu    sync.Mutex
	seen  map[view]bool
	calls int
}

// callers call every method of s from goroutines of their own until the test ends, and Once with
// whatever once has.
func callers(t *testing.T, s *relay.Session, once []bool) map[string]*caller {
	all, stop, running := make(map[string]*caller), make(chan struct{}), sync.WaitGroup{}
	goOn := func(f func()) {
		running.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					f()
					runtime.Gosched()
				}
			}
		})
	}
	for method, call := range calls {
		c := &caller{seen: make(map[view]bool)}
		all[method] = c
		goOn(func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			var v view
			call(s, &v)
			c.seen[v] = true
			c.calls++
		})
	}
	i := 0
	goOn(func() {
		s.Once(once[i%len(once)])
		i++
	})
	t.Cleanup(func() { close(stop); running.Wait() })
	return all
}

// check has each caller make some calls more, and fails if any returned since the last check is
// none of the wanted ones.
func check(t *testing.T, all map[string]*caller, when string, want ...view) {
	t.Helper()
	for method, c := range all {
		c.mu.Lock()
		enough := c.calls + 20
		c.mu.Unlock()
		eventually(t, "calls of "+method, func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.calls >= enough
		})
		c.mu.Lock()
		seen := slices.Collect(maps.Keys(c.seen))
		clear(c.seen)
		c.mu.Unlock()
		for _, got := range seen {
			if !slices.ContainsFunc(want, func(v view) bool { return got == v.part(method) }) {
				t.Errorf("%s %s: got %+v, want that of one of %+v", method, when, got, want)
			}
		}
	}
}

// sessionState is one of a Session, and a way out of it.
type sessionState struct {
	enter  func(t *testing.T) *session
	before view
	leave  func(t *testing.T, s *session)
	during []view // beside before and after
	after  view
	once   []bool // what Once is told, false alone if nothing is given
}

// TestMethodsInEachState calls what may be called of a Session from other goroutines, in each of its
// states and while it leaves that. Run runs in its own meanwhile.
func TestMethodsInEachState(t *testing.T) {
	for _, states := range []map[string]sessionState{unboundStates, boundStates, futureStates, stateStates, endStates} {
		for name, state := range states {
			t.Run(name, func(t *testing.T) {
				s := state.enter(t)
				eventually(t, fmt.Sprintf("the state: want %+v", state.before), func() bool { return look(s.Session) == state.before })
				once := state.once
				if once == nil {
					once = []bool{false}
				}
				all := callers(t, s.Session, once)
				check(t, all, "before", state.before)
				state.leave(t, s)
				eventually(t, fmt.Sprintf("the state after it: want %+v", state.after), func() bool { return look(s.Session) == state.after })
				check(t, all, "during", append(state.during, state.before, state.after)...)
				check(t, all, "after", state.after)
			})
		}
	}
}

// anyhow is for states in which it makes no difference whether futures run once.
var anyhow = []bool{true, false}

// takes gives the session, which waits or is about to call, a worker.
func (s *session) takes(t *testing.T, name string) {
	t.Helper()
	w := newWorker(name)
	s.spare <- w
	receive(t, w.bound, "a worker to be bound")
	s.worker = w
}

// ran waits for Run's end.
func (s *session) ran(t *testing.T, want string) {
	t.Helper()
	if cause := receive(t, s.cause, "Run to return"); cause != want {
		t.Errorf("Run returned %q, want %q", cause, want)
	}
	s.cause <- "" // for the cleanup
}
