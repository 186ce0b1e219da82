package pool

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
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
		hello: link.HelloMessage{Agent: "agent", Instance: "i", Slots: 1},
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
	if s.holder != second || s.state != Reserved {
		t.Errorf("the slot is %s, its holder the second caller: %v", s.state, s.holder == second)
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
			s.finishUse()
			s.pool.remove(s)
			s.pool.mu.Unlock()
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, s := newSlot(t)
			giveUp(t, p, func() {
				s.onState(link.StateMessage{State: link.Warm})
				test.meanwhile(s)
			})
			if s.state != test.want || s.holder != nil {
				t.Errorf("the slot is %q, held: %v, want it %q", s.state, s.holder != nil, test.want)
			}
			free := 0
			if test.want == Warm {
				free = 1
			}
			if p.warm.size() != free || len(p.queue) != 0 {
				t.Errorf("%d on the free list, want %d; %d wait", p.warm.size(), free, len(p.queue))
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
	if p.warm.size() != 0 || s.holder != second {
		t.Errorf("%d on the free list, held by the second caller: %v", p.warm.size(), s.holder == second)
	}
	second.Release()
	if p.warm.size() != 1 || s.state != Warm {
		t.Errorf("%d on the free list, %s", p.warm.size(), s.state)
	}
}

// An answer to a reservation that was given up is not one to the reservation after it.
func TestLateConfirmation(t *testing.T) {
	p, s := newSlot(t)
	s.onState(link.StateMessage{State: link.Warm})
	first := mustTake(t, p)
	first.Release()
	second := mustTake(t, p)
	s.onReserved(first.number)
	select {
	case <-second.confirmed:
		t.Fatal("confirmed by the answer to another reservation")
	default:
	}
	s.onReserved(second.number)
	s.onReserved(second.number)
	<-second.confirmed
}

// Two tenants that both have use for a worker take turns; so does one that has one more
// than the other.
func TestTurns(t *testing.T) {
	p, s := newSlot(t)
	s.onState(link.StateMessage{State: link.Warm})
	mine, other := p.NewTenant("mine", 0), p.NewTenant("other", 0)
	w, err := p.take(context.Background(), Want{Tenant: mine})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Bind(nil); err != nil {
		t.Fatal(err)
	}
	u := &waiter{Want: Want{Tenant: other}, given: make(chan *Worker, 1)}
	p.enqueue(u)
	now := time.Now()
	w.spareSince = now
	heir := func() (*waiter, time.Duration) { return p.heir(w, p.next(s.hello.Group, false, w), now) }
	if heir, wait := heir(); heir != nil || wait != restLimit {
		t.Errorf("at first: %v, in %s", heir, wait)
	}
	own := &waiter{Want: Want{Tenant: mine}, given: make(chan *Worker, 1)}
	p.enqueue(own)
	if heir, _ := heir(); heir != own {
		t.Errorf("%v instead of another node of its own", heir)
	}
	w.since = now.Add(-turn)
	if heir, _ := heir(); heir != u {
		t.Errorf("%v after its turn", heir)
	}
	// One that has as many does not take turns with it.
	other.held = 1
	if heir, _ := heir(); heir != own {
		t.Errorf("%v, though the other one has as many", heir)
	}
}

// A tenant takes part in one change of hands at a time, however many workers it has: else
// the one worker that cannot be divided would go round as fast as calls end.
func TestTurnsOfMany(t *testing.T) {
	p, s := newSlot(t)
	s.onState(link.StateMessage{State: link.Warm})
	mine, other := p.NewTenant("mine", 0), p.NewTenant("other", 0)
	w, err := p.take(context.Background(), Want{Tenant: mine})
	if err == nil {
		err = w.Bind(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	u := &waiter{Want: Want{Tenant: other}, given: make(chan *Worker, 1)}
	p.enqueue(u)
	mine.held, other.held = 3, 2
	w.since = w.since.Add(-2 * turn)
	now := time.Now()
	w.spareSince = now
	heir := func() *waiter { heir, _ := p.heir(w, u, now); return heir }
	if heir() != u {
		t.Error("it is not given to the other one after its turn")
	}
	p.mu.Lock()
	w.recall(u)
	w.stay()
	p.mu.Unlock()
	if heir() != nil {
		t.Error("given at once, though both have just changed hands")
	}
	for name, one := range map[string]*Tenant{"mine": mine, "other": other} {
		mine.traded, other.traded = time.Time{}, time.Time{}
		one.traded = now.Add(-turn / 2)
		if heir() != nil {
			t.Errorf("given at once, though %s has just changed hands", name)
		}
	}
}

// The nodes of a cluster that comes node by node have waited for a turn one after the
// other: there is a look for each.
func TestTurnsOfNodes(t *testing.T) {
	p, _ := newSlot(t)
	whole := p.NewTenant("whole", 0)
	var nodes []*waiter
	for _, ago := range []time.Duration{turn, turn - time.Second, 0} {
		u := &waiter{Want: Want{Tenant: whole, Whole: true}, since: time.Now().Add(-ago), given: make(chan *Worker, 1)}
		p.enqueue(u)
		nodes = append(nodes, u)
	}
	for i, most := range []time.Duration{0, time.Second, turn} {
		if left := p.nextTurn(); left > most || most > 0 && left == 0 {
			t.Errorf("node %d: %s", i, left)
		}
		p.promise(nodes[i])
	}
	if left := p.nextTurn(); left != 0 {
		t.Errorf("%s, though a worker is on its way to each", left)
	}
}
