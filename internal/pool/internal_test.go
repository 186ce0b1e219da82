package pool

import (
	"context"
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/psock-runtime/psock-runtime/internal/assign"
	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"go.uber.org/zap"
)

// newSlot is a pool with one slot whose agent says nothing; its frames are played
// by calling what Serve's goroutine would call.
func newSlot(t *testing.T) (*Pool, *slot) {
	t.Helper()
	listener := testkit.Listen(t)
	conn, err := link.Dial(context.Background(), listener.Addr().String(), nil, link.Timing{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	p := New(Config{Log: zap.NewNop(), Metrics: NewMetrics(prometheus.NewRegistry()), MaxWorkers: 1})
	s := &slot{
		pool: p, conn: conn, log: zap.NewNop(), lost: make(chan struct{}),
		hello: link.HelloMessage{Agent: "agent", Instance: "i", Slots: 1}, core: assign.Slot{Agent: "agent"},
	}
	if rival, err := p.add(s); rival != nil || err != nil {
		t.Fatal(rival, err)
	}
	return p, s
}

func mustTake(t *testing.T, p *Pool) *Worker {
	t.Helper()
	w, err := p.take(context.Background(), Want{Tenant: p.NewTenant("cluster", 0)})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// A worker may end, and the next one of its slot be given away, between the moment
// in which a caller is given the slot and that in which it asks the agent.
func TestTakenWorkerIsReplaced(t *testing.T) {
	p, s := newSlot(t)
	s.onState(link.StateMessage{State: link.Warm})
	first := mustTake(t, p)
	s.onExit(link.ExitMessage{Cause: "killed"})
	s.onState(link.StateMessage{State: link.Warm})
	second := mustTake(t, p)
	if err := p.reserve(context.Background(), first); !errors.Is(err, errOver) {
		t.Errorf("the first caller got a worker that is another's: %v", err)
	}
	// Nor does what is on its way to the first reach the second.
	if err := first.SendData(make([]byte, link.HeaderSize+1)); !errors.Is(err, errOver) {
		t.Errorf("data for a worker that has ended: %v", err)
	}
	first.End()
	first.Release()
	if s.holder != second || s.core.State().Phase() != Reserved {
		t.Errorf("the slot is %s, its holder the second caller: %v", s.core.State(), s.holder == second)
	}
	select {
	case <-second.Over():
		t.Error("the second caller's worker is over")
	default:
	}
}

// A caller may be given a worker in the moment in which it gives up. The worker is
// then the next caller's, but not if it has ended meanwhile.
func TestGivenToOneThatGivesUp(t *testing.T) {
	for name, test := range map[string]struct {
		meanwhile func(s *slot)
		want      State
	}{
		"nothing happens": {func(*slot) {}, Warm},
		"it ends":         {func(s *slot) { s.onExit(link.ExitMessage{}) }, Starting},
		"it drains":       {func(s *slot) { s.onState(link.StateMessage{State: link.Draining}) }, Draining},
		"it is replaced": {func(s *slot) {
			s.onExit(link.ExitMessage{})
			s.onState(link.StateMessage{State: link.Warm})
		}, Warm},
		"its connection is lost": {func(s *slot) {
			s.pool.mu.Lock()
			s.disconnect()
			s.pool.mu.Unlock()
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, s := newSlot(t)
			giveUp(t, p, func() {
				s.onState(link.StateMessage{State: link.Warm})
				test.meanwhile(s)
			})
			if s.core.State().Phase() != test.want || s.holder != nil {
				t.Errorf("the slot is %q, held: %v, want it %q", s.core.State(), s.holder != nil, test.want)
			}
			free := 0
			if test.want == Warm {
				free = 1
			}
			if p.core.Phases()[Warm] != free || p.core.Waiting() != 0 {
				t.Errorf("%d on the free list, want %d; %d wait", p.core.Phases()[Warm], free, p.core.Waiting())
			}
		})
	}
}

// givenUp is a context that ends, and runs something just before a caller that waits
// for it hears of that.
type givenUp struct {
	context.Context
	before func()
}

func (c givenUp) Done() <-chan struct{} {
	c.before()
	return c.Context.Done()
}

// giveUp calls take so that both its worker and the end of its context are there
// when it looks. It looks at either at random, so it is asked until it has given up.
func giveUp(t *testing.T, p *Pool, meanwhile func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		w, err := p.take(givenUp{ctx, meanwhile}, Want{Tenant: p.NewTenant("cluster", 0)})
		if err != nil {
			return
		}
		w.slot.onState(link.StateMessage{State: link.Starting})
	}
}

// A holder that releases its worker while that ends and is replaced does not offer
// the next holder's worker.
func TestReleaseOfAReplacedWorker(t *testing.T) {
	p, s := newSlot(t)
	s.onState(link.StateMessage{State: link.Warm})
	first := mustTake(t, p)
	s.onState(link.StateMessage{State: link.Warm}) // over, and free again
	second := mustTake(t, p)
	first.Release()
	if p.core.Phases()[Warm] != 0 || s.holder != second {
		t.Errorf("%d on the free list, held by the second caller: %v", p.core.Phases()[Warm], s.holder == second)
	}
	second.Release()
	if p.core.Phases()[Warm] != 1 || s.core.State().Phase() != Warm {
		t.Errorf("%d on the free list, %s", p.core.Phases()[Warm], s.core.State())
	}
}

// An answer to a reservation that was given up is not one to the reservation after it.
func TestLateConfirmation(t *testing.T) {
	p, s := newSlot(t)
	s.onState(link.StateMessage{State: link.Warm})
	first := mustTake(t, p)
	first.Release()
	second := mustTake(t, p)
	s.onReserved(first.grant.Number)
	select {
	case <-second.confirmed:
		t.Fatal("confirmed by the answer to another reservation")
	default:
	}
	s.onReserved(second.grant.Number)
	s.onReserved(second.grant.Number)
	<-second.confirmed
}
