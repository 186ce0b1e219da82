package pool_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

func TestFirstComeFirstServed(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	var waiting []<-chan result
	for range 4 {
		waiting = append(waiting, r.queue(context.Background(), t))
	}
	if n := r.metric(t, "rendezvous_nodes_waiting"); n != 4 {
		t.Errorf("the metric says that %v wait, want 4", n)
	}
	for i, c := range waiting {
		a := r.join(t, fmt.Sprint("agent-", i))
		a.state(link.Warm)
		a.grant()
		if w := mustGet(t, c); w.Name() != fmt.Sprintf("agent-%d/0", i) {
			t.Errorf("number %d got %s", i, w.Name())
		}
	}
	r.expectCounts(t, map[pool.State]int{pool.Reserved: 4})
}

func TestLongestWarmFirst(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	var agents []*agent
	for i := range 4 {
		agents = append(agents, r.park(t, fmt.Sprint("agent-", i)))
	}
	// One that says it is warm once more has waited less than the others.
	agents[0].state(link.Warm)
	agents[0].state(link.Failed)
	eventually(t, "the failure", func() bool { return r.count(pool.Failed) == 1 })
	agents[0].state(link.Warm)
	eventually(t, "four warm workers", func() bool { return r.count(pool.Warm) == 4 })
	for _, i := range []int{1, 2, 3, 0} {
		if w := r.hold(t, agents[i]); w.Name() != fmt.Sprintf("agent-%d/0", i) {
			t.Errorf("got %s, want agent %d", w.Name(), i)
		}
	}
}

// A caller that goes away while it waits leaves the queue, and what comes next goes
// to the one behind it.
func TestCancelWhileWaiting(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	first := r.queue(ctx, t)
	second := r.queue(context.Background(), t)
	cancel()
	if got := want(t, first, "the cancelled Acquire"); !errors.Is(got.err, context.Canceled) || got.worker != nil {
		t.Fatalf("got %v, %v", got.worker, got.err)
	}
	a := r.join(t, "agent")
	a.state(link.Warm)
	a.grant()
	mustGet(t, second)
	r.expectCounts(t, map[pool.State]int{pool.Reserved: 1})
}

// One that goes away before the agent has answered gives its worker back; an answer
// that comes after that is to nobody.
func TestCancelWhileReserving(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.park(t, "agent")
	ctx, cancel := context.WithCancel(context.Background())
	c := r.acquire(ctx)
	number := a.expect(link.Reserve).Number()
	cancel()
	if got := want(t, c, "the cancelled Acquire"); !errors.Is(got.err, context.Canceled) || got.worker != nil {
		t.Fatalf("got %v, %v", got.worker, got.err)
	}
	if released := a.expect(link.Release).Number(); released != number {
		t.Errorf("reserved number %d, released %d", number, released)
	}
	r.expectCounts(t, map[pool.State]int{pool.Warm: 1})

	second := r.acquire(context.Background())
	a.check(a.SendNumber(link.Reserved, number)) // late
	next := a.expect(link.Reserve).Number()
	select {
	case got := <-second:
		t.Fatalf("a late answer confirmed another's reservation: %v", got)
	default:
	}
	a.check(a.SendNumber(link.Reserved, next))
	a.check(a.SendNumber(link.Reserved, next)) // twice, which changes nothing
	mustGet(t, second)
}

func TestCancelledBefore(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if w, err := r.Acquire(ctx, r.want(0)); w != nil || !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, %v", w, err)
	}
	r.park(t, "agent")
	if w, err := r.Acquire(ctx, r.want(0)); w != nil || !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, %v", w, err)
	}
	r.expectCounts(t, map[pool.State]int{pool.Warm: 1})
}

// An agent that does not answer may be dead: its connection ends, and the caller
// gets the next worker.
func TestUnconfirmedReservation(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *pool.Config) { c.ReserveLimit = 2 * time.Second })
	dead := r.park(t, "dead")
	alive := r.park(t, "alive")
	c := r.acquire(context.Background())
	dead.expect(link.Reserve)
	alive.grant()
	if w := mustGet(t, c); w.Name() != "alive/0" {
		t.Errorf("got %s", w.Name())
	}
	dead.ends()
	eventually(t, "the dead agent to go", func() bool { return len(r.Workers()) == 1 })
	r.expectCounts(t, map[pool.State]int{pool.Reserved: 1})
}

// Everything that ends an unanswered reservation sends the caller to the next worker.
func TestWorkerGoneWhileReserving(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(a *agent){
		"exit":       func(a *agent) { a.send(link.Exit, link.ExitMessage{Cause: "killed"}) },
		"starting":   func(a *agent) { a.state(link.Starting) },
		"draining":   func(a *agent) { a.state(link.Draining) },
		"connection": func(a *agent) { a.Close() },
		"violation":  func(a *agent) { a.check(a.SendNumber(link.Reserve, 1)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, nil)
			first := r.park(t, "first")
			second := r.park(t, "second")
			c := r.acquire(context.Background())
			first.expect(link.Reserve)
			end(first)
			second.grant()
			if w := mustGet(t, c); w.Name() != "second/0" {
				t.Errorf("got %s", w.Name())
			}
		})
	}
}

// The agent hears of the release before it hears of the next reservation.
func TestRelease(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.park(t, "agent")
	c := r.acquire(context.Background())
	first := a.expect(link.Reserve).Number()
	a.check(a.SendNumber(link.Reserved, first))
	w := mustGet(t, c)
	next := r.queue(context.Background(), t)
	w.Release()
	want(t, w.Over(), "a released worker to be over for its holder")
	if number := a.expect(link.Release).Number(); number != first {
		t.Errorf("released %d, want %d", number, first)
	}
	if number := a.expect(link.Reserve).Number(); number == first {
		t.Errorf("number %d was used twice", number)
	} else {
		a.check(a.SendNumber(link.Reserved, number))
	}
	got := mustGet(t, next)

	// The first holder has no say any more.
	w.Release()
	if err := w.Bind(newSink()); err == nil {
		t.Error("a released worker could be bound")
	}
	w.End()
	r.expectCounts(t, map[pool.State]int{pool.Reserved: 1})
	got.Release()
	a.expect(link.Release)
	eventually(t, "the worker to be free", func() bool { return r.count(pool.Warm) == 1 })
}

func TestReleaseOfALostWorker(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.park(t, "agent")
	w := r.hold(t, a)
	a.Close()
	want(t, w.Over(), "the worker to be over")
	w.Release()
	w.End()
	if err := w.Bind(newSink()); err == nil {
		t.Error("a lost worker could be bound")
	}
	eventually(t, "the slot to go", func() bool { return len(r.Workers()) == 0 })
	r.expectCounts(t, nil)
}

// A worker that dies while it is reserved and untouched is over, and the next one
// of its slot is free.
func TestWorkerDiesWhileReserved(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.park(t, "agent")
	w := r.hold(t, a)
	a.send(link.Exit, link.ExitMessage{Cause: "killed"})
	want(t, w.Over(), "the dead worker to be over")
	if err := w.Bind(newSink()); err == nil {
		t.Error("a dead worker could be bound")
	}
	w.Release()
	a.state(link.Warm)
	next := r.hold(t, a)
	if err := next.Bind(newSink()); err != nil {
		t.Error(err)
	}
}

// Of tenants that need all they ask for the oldest comes first, and a worker that a
// younger one holds untouched is recalled.
func TestRanks(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a, b := r.park(t, "a"), r.park(t, "b")
	hold := func(rank int, from *agent) *pool.Worker {
		t.Helper()
		c := r.acquireRanked(rank)
		from.grant()
		return mustGet(t, c)
	}
	older, younger := hold(1, a), hold(2, b)
	r.queueRanked(t, 2)
	third := r.queueRanked(t, 1)
	want(t, younger.Recalled(), "the younger one's worker to be recalled")
	select {
	case <-older.Recalled():
		t.Fatal("the older one's worker was recalled, too")
	default:
	}
	younger.Release()
	b.expect(link.Release)
	b.grant()
	if w := mustGet(t, third); w.Name() != "b/0" {
		t.Errorf("got %s", w.Name())
	}
	// What is bound stays.
	if err := older.Bind(newSink()); err != nil {
		t.Fatal(err)
	}
	r.queueRanked(t, 0)
	select {
	case <-older.Recalled():
		t.Error("a bound worker was recalled")
	default:
	}
}

// A recalled worker that ends instead of coming back: the next one is recalled.
func TestRecalledWorkerEnds(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	agents := []*agent{r.park(t, "a"), r.park(t, "b")}
	r.want(1) // the older one
	var held []*pool.Worker
	for _, a := range agents {
		c := r.acquireRanked(2)
		a.grant()
		held = append(held, mustGet(t, c))
	}
	first := r.queueRanked(t, 1)
	want(t, held[1].Recalled(), "the last one to be recalled")
	agents[1].send(link.Exit, link.ExitMessage{Cause: "killed"})
	want(t, held[0].Recalled(), "the other one to be recalled")
	held[0].Release()
	agents[0].expect(link.Release)
	agents[0].grant()
	mustGet(t, first)
}
