package agent_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/agent"
	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// A worker is for one session; its slot has a fresh one afterwards.
func TestWorkerIsForOneSession(t *testing.T) {
	s := start(t, "echo", nil)
	s.await(pool.Warm, 1)
	s.eventually("readiness", func() bool { return s.agent.Ready() == nil })
	first := s.pid()
	session := s.bind()
	session.send("hello")
	session.expect("hello")
	session.End()
	session.expect("(eof)", "(ended) its session ended")
	s.await(pool.Warm, 1)
	if again := s.pid(); again == first {
		t.Errorf("the worker %d was used again", first)
	}
}

// A worker that was reserved and given back untouched is the same afterwards.
func TestUntouchedWorkerIsParkedAgain(t *testing.T) {
	s := start(t, "echo", nil)
	s.await(pool.Warm, 1)
	before := s.pid()
	for range 3 {
		w, err := s.Acquire(context.Background(), s.want())
		if err != nil {
			t.Fatal(err)
		}
		w.Release()
	}
	s.await(pool.Warm, 1)
	if after := s.pid(); after != before {
		t.Errorf("the worker was %d and is %d", before, after)
	}
}

// A worker that dies in a session: its node learns why, the next one comes.
func TestDeathInASessionIsExplained(t *testing.T) {
	s := start(t, "echo", nil)
	s.await(pool.Warm, 1)
	session := s.bind()
	session.send("die")
	session.expect("(eof)", "(ended) exit status 9")
	s.await(pool.Warm, 1)
	if last := s.Workers()[0].LastExit; !strings.Contains(last, "exit status 9") {
		t.Errorf("the last exit is %q", last)
	}
	// An idle one.
	if err := syscall.Kill(s.pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.eventually("the news of its death", func() bool { return strings.Contains(s.Workers()[0].LastExit, "killed") })
	s.await(pool.Warm, 1)
	s.expectDeaths("exited", 1)
	s.expectDeaths("signal", 1)
}

func TestReasonWhyRCannotStart(t *testing.T) {
	s := start(t, "broken", nil)
	s.await(pool.Failed, 1)
	reason := s.Workers()[0].Reason
	if !strings.Contains(reason, "exit status 3") || !strings.Contains(reason, "this R is broken") {
		t.Errorf("the reason is %q", reason)
	}
	s.eventually("not to be ready", func() bool {
		err := s.agent.Ready()
		return err != nil && strings.Contains(err.Error(), "slot 0: ") && strings.Contains(err.Error(), "this R is broken")
	})
}

// A failed installation is each slot's reason, and is tried again.
func TestFailedInstallationIsTriedAgain(t *testing.T) {
	var attempts atomic.Int32
	again := make(chan struct{})
	s := start(t, "echo", func(c *agent.Config) {
		c.Slots = 2
		c.Install = func(ctx context.Context) error {
			if attempts.Add(1) == 1 {
				return errors.New("no such package")
			}
			select {
			case <-again:
			case <-ctx.Done():
			}
			return ctx.Err()
		}
	})
	s.await(pool.Failed, 2)
	if reason := s.Workers()[1].Reason; reason != "no such package" {
		t.Errorf("the reason is %q", reason)
	}
	close(again)
	s.await(pool.Warm, 2)
	if n := attempts.Load(); n != 2 {
		t.Errorf("%d attempts, want 2", n)
	}
}

func TestDrain(t *testing.T) {
	s := start(t, "echo", func(c *agent.Config) { c.Slots = 3 })
	s.await(pool.Warm, 3)
	busy := s.bind()
	busy.send("one")
	busy.expect("one")
	untouched, err := s.Acquire(context.Background(), s.want())
	if err != nil {
		t.Fatal(err)
	}
	s.stop()
	// The idle one and the untouched one leave; the bound one may go on.
	busy.expect("(drain)")
	<-untouched.Over()
	s.eventually("the idle workers to leave", func() bool {
		states, _ := s.Counts()
		return states[pool.Draining] == 2 && states[pool.Bound] == 1
	})
	if err := s.agent.Ready(); err == nil || !strings.Contains(err.Error(), "draining") {
		t.Errorf("Ready: %v", err)
	}
	busy.send("two")
	busy.expect("two")
	busy.End()
	busy.expect("(eof)", "(ended)")
	if err := <-s.ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	s.expectDeaths("drained", 0)
	s.eventually("no slot", func() bool { return len(s.Workers()) == 0 })
}

// A worker that was reserved when the rendezvous was lost, and that nobody has touched,
// does not keep an agent that drains.
func TestDrainDisconnected(t *testing.T) {
	s := start(t, "echo", func(c *agent.Config) { c.DrainBudget = 10 * patience })
	s.await(pool.Warm, 1)
	address := s.agents.Addr().String()
	s.shutDown()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	raw, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := link.Accept(context.Background(), raw, nil, link.Timing{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	read := func(want link.Type) {
		t.Helper()
		for {
			frame, err := conn.Next()
			if err != nil {
				t.Fatalf("waiting for %s: %v", want, err)
			}
			if frame.Type == want {
				return
			}
		}
	}
	read(link.Hello)
	if err := conn.Send(link.Welcome, link.WelcomeMessage{Version: link.Version}); err != nil {
		t.Fatal(err)
	}
	read(link.State) // warm
	if err := conn.SendNumber(link.Reserve, 1); err != nil {
		t.Fatal(err)
	}
	read(link.Reserved)
	s.stop()
	read(link.State) // draining
	conn.Close()
	select {
	case err := <-s.ended:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(patience):
		t.Error("the agent waits for a release that nobody sends")
	}
}

// The budget is spent: the worker is ended in the middle of its call.
func TestDrainBudget(t *testing.T) {
	s := start(t, "echo", func(c *agent.Config) { c.DrainBudget = 100 * time.Millisecond })
	s.await(pool.Warm, 1)
	busy := s.bind()
	busy.send("one")
	busy.expect("one")
	s.stop()
	busy.expect("(drain)", "(eof)", "(ended) the agent is stopping and cannot wait any longer")
	if err := <-s.ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	s.expectDeaths("drained", 1)
}

// The rendezvous is lost and comes back: a worker in a session is ended, an idle
// one is parked again as it is.
func TestRendezvousLost(t *testing.T) {
	s := start(t, "echo", func(c *agent.Config) { c.Slots = 2 })
	s.await(pool.Warm, 2)
	used := s.bind()
	used.send("one")
	used.expect("one")
	pids := make(map[pool.State]int)
	for _, w := range s.Workers() {
		pids[w.State] = w.PID
	}
	s.shutDown()
	used.expect("(ended) its connection was lost")
	s.eventually("the end of the worker that was used", func() bool { return syscall.Kill(pids[pool.Bound], 0) == syscall.ESRCH })
	if err := s.agent.Ready(); err == nil || !strings.Contains(err.Error(), "not connected") {
		t.Errorf("Ready: %v", err)
	}
	s.shutDown = s.serve(s.agents.Addr().String())
	s.await(pool.Warm, 2)
	found := false
	for _, w := range s.Workers() {
		found = found || w.PID == pids[pool.Warm]
	}
	if !found {
		t.Errorf("the idle worker %d was replaced: %+v", pids[pool.Warm], s.Workers())
	}
}

// A rendezvous that is lost while R does not read what its session has sent: the
// worker is ended, and a fresh one parked with the next.
func TestRendezvousLostWhileRDoesNotRead(t *testing.T) {
	s := start(t, "deaf", func(c *agent.Config) { c.StopGrace = 10 * time.Millisecond })
	s.await(pool.Warm, 1)
	before := s.pid()
	session := s.bind()
	var sends atomic.Int64
	refused := make(chan struct{})
	go func() {
		defer close(refused)
		for session.SendData(make([]byte, link.HeaderSize+link.MaxData)) == nil {
			sends.Add(1)
		}
	}()
	// Everything in between is full when no more is taken; the agent's reader waits.
	look := time.NewTicker(300 * time.Millisecond)
	defer look.Stop()
	for last := int64(0); last == 0 || last != sends.Load(); <-look.C {
		last = sends.Load()
	}
	s.shutDown()
	<-refused
	s.shutDown = s.serve(s.agents.Addr().String())
	s.await(pool.Warm, 1)
	if after := s.pid(); after == before {
		t.Errorf("the worker %d computes on", before)
	}
}

// An R that computes is interrupted when its session is over, and only then; what it
// says to that goes nowhere.
func TestInterrupt(t *testing.T) {
	for _, tc := range []struct {
		name, how   string
		grace       time.Duration
		end         func(*system, *session)
		interrupted bool
		events      []string
	}{
		{"the session ends", "echo", 10 * patience, func(_ *system, s *session) { s.End() }, true, []string{"(eof)", "(ended) its session ended"}},
		{"the rendezvous is lost", "echo", 10 * patience, func(s *system, _ *session) { s.shutDown() }, true, []string{"(ended) its connection was lost"}},
		{"R computes on", "stubborn", 10 * time.Millisecond, func(_ *system, s *session) { s.End() }, true, []string{"(eof)", "(ended) its session ended"}},
		{"the drain budget is spent", "echo", 10 * time.Millisecond, func(s *system, _ *session) { s.stop() }, false, []string{"(drain)", "(eof)", "(ended) the agent is stopping and cannot wait any longer"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "interrupted")
			s := start(t, tc.how, func(c *agent.Config) {
				c.StopGrace, c.DrainBudget = tc.grace, time.Millisecond
				c.Env = append(c.Env, interruptedFile+"="+file)
			})
			s.await(pool.Warm, 1)
			r := s.pid()
			session := s.bind()
			session.send("compute")
			session.expect("computing")
			tc.end(s, session)
			session.expect(tc.events...)
			s.eventually("R's end", func() bool { return syscall.Kill(r, 0) == syscall.ESRCH })
			if _, err := os.Stat(file); (err == nil) != tc.interrupted {
				t.Errorf("interrupted: %v, want %v", err == nil, tc.interrupted)
			}
		})
	}
}
