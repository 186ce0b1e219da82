package pool_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// What the agent announces is shown as it is, with its reason.
func TestAnnouncedStates(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.join(t, "agent")
	eventually(t, "the slot", func() bool { return len(r.Workers()) == 1 })
	if got := r.snapshot(t); got.State != pool.Starting {
		t.Errorf("before its first state: %+v", got)
	}
	for _, state := range []link.WorkerState{link.Installing, link.Starting, link.Failed, link.Warm, link.Failed, link.Starting} {
		reason := "because of " + string(state)
		a.send(link.State, link.StateMessage{State: state, Reason: reason, PID: 4})
		eventually(t, string(state), func() bool { return r.snapshot(t).State == pool.State(state) })
		wanted := pool.Snapshot{
			Agent: "agent", Group: "group", Build: "1.0", Node: "node", PID: 4, State: pool.State(state), Reason: reason,
		}
		if state == link.Warm {
			wanted.Reason = "" // there is nothing to explain
		}
		got := r.snapshot(t)
		if got.Address == "" || got.Since.IsZero() {
			t.Errorf("%+v", got)
		}
		if diff := cmp.Diff(wanted, got, cmpopts.IgnoreFields(pool.Snapshot{}, "Address", "Since")); diff != "" {
			t.Error(diff)
		}
		r.expectCounts(t, map[pool.State]int{pool.State(state): 1})
		for _, other := range pool.States {
			n := r.metric(t, "rendezvous_workers", string(other))
			if (n == 1) != (other == pool.State(state)) {
				t.Errorf("%s: the metric says that %v are %s", state, n, other)
			}
		}
	}
}

// A worker that stopped being warm is not handed out.
func TestNoLongerWarm(t *testing.T) {
	t.Parallel()
	for name, stop := range map[string]func(a *agent){
		"exit":     func(a *agent) { a.send(link.Exit, link.ExitMessage{Cause: "killed"}) },
		"failed":   func(a *agent) { a.state(link.Failed) },
		"draining": func(a *agent) { a.state(link.Draining) },
		"closed":   func(a *agent) { a.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, nil)
			gone := r.park(t, "gone")
			there := r.park(t, "there")
			stop(gone)
			eventually(t, "one warm worker", func() bool { return r.count(pool.Warm) == 1 })
			if w := r.hold(t, there); w.Name() != "there/0" {
				t.Errorf("got %s", w.Name())
			}
		})
	}
}

func TestDrainIdle(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.park(t, "agent")
	a.state(link.Draining)
	eventually(t, "draining", func() bool { return r.count(pool.Draining) == 1 })
	a.send(link.Exit, link.ExitMessage{Cause: "the agent is stopping", Expected: true})
	a.Close()
	if err := want(t, r.served, "the connection's end"); err != nil {
		t.Error(err)
	}
	r.expectCounts(t, nil)
}

// A bound worker's session is told, and goes on until it ends itself.
func TestDrainBound(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.park(t, "agent")
	w, s := r.bind(t, a)
	a.send(link.State, link.StateMessage{State: link.Draining})
	s.expect(t, "drain")
	if got := r.snapshot(t); got.State != pool.Bound || got.PID != 17 {
		t.Errorf("draining in a session: %+v", got)
	}
	a.data("the last result")
	s.expect(t, "data the last result")
	w.End()
	a.expect(link.EOF)
	a.send(link.Exit, link.ExitMessage{Cause: "its session ended", Expected: true})
	s.expect(t, "ended: its session ended")
	a.state(link.Draining)
	eventually(t, "draining", func() bool { return r.count(pool.Draining) == 1 })
	r.expectCounts(t, map[pool.State]int{pool.Draining: 1})
}

// The agent waits for the end of what it has granted: an untouched worker is given
// back at once, and its holder looks for another.
func TestDrainReserved(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.park(t, "agent")
	c := r.acquire(t.Context())
	number := a.expect(link.Reserve).Number()
	a.check(a.SendNumber(link.Reserved, number))
	w := mustGet(t, c)
	a.state(link.Draining)
	if released := a.expect(link.Release).Number(); released != number {
		t.Errorf("reserved %d, released %d", number, released)
	}
	want(t, w.Over(), "the worker to be over")
	w.Release()
	if err := w.Bind(newSink()); err == nil {
		t.Error("a draining worker could be bound")
	}
	a.send(link.Exit, link.ExitMessage{Cause: "the agent is stopping", Expected: true})
	a.Close()
	want(t, r.served, "the connection's end")
	r.expectCounts(t, nil)
}

// The same instance and slot: the agent knows that its old connection is dead.
func TestReconnectReplaces(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *pool.Config) { c.MaxWorkers = 1 })
	old := r.park(t, "agent")
	w, s := r.bind(t, old)
	again := r.join(t, "agent")
	old.ends()
	if event := want(t, s.events, "the end of the session"); event[:6] != "ended:" {
		t.Errorf("the sink was told %q", event)
	}
	want(t, w.Over(), "the old worker to be over")
	want(t, r.served, "the old connection's end")
	r.expectCounts(t, map[pool.State]int{pool.Starting: 1})
	again.state(link.Warm)
	next, nextSink := r.bind(t, again)
	w.End()
	again.data("new")
	nextSink.expect(t, "data new")
	next.End()
	again.expect(link.EOF)
	s.expect(t)
}

// A free one that is replaced is not handed out.
func TestReconnectReplacesAFreeWorker(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	old := r.park(t, "agent")
	c := make(chan struct{})
	go func() { old.ends(); close(c) }()
	again := r.join(t, "agent")
	want(t, c, "the old connection to end")
	r.expectCounts(t, map[pool.State]int{pool.Starting: 1})
	again.state(link.Warm)
	eventually(t, "a warm worker", func() bool { return r.count(pool.Warm) == 1 })
	r.hold(t, again)
}

func TestWorkersAreSorted(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	for _, slot := range []struct {
		agent string
		slot  int
	}{{"b", 0}, {"a", 10}, {"a", 2}, {"c", 0}} {
		h := hello(slot.agent)
		h.Slot, h.Slots = slot.slot, 11
		r.dial(t, h).expect(link.Welcome)
	}
	var got []any
	for _, w := range r.Workers() {
		got = append(got, w.Agent, w.Slot)
	}
	if diff := cmp.Diff([]any{"a", 2, "a", 10, "b", 0, "c", 0}, got); diff != "" {
		t.Error(diff)
	}
}

// What the worker takes is shown until that worker is no more, and summed up for the
// metrics.
func TestUsage(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a, b := r.park(t, "a"), r.park(t, "b")
	a.send(link.Usage, link.UsageMessage{MemoryBytes: 3000})
	b.send(link.Usage, link.UsageMessage{MemoryBytes: 2000})
	eventually(t, "the usage", func() bool { return r.metric(t, "rendezvous_workers_memory_bytes") == 5000 })
	if n := r.metric(t, "rendezvous_largest_worker_memory_bytes"); n != 3000 {
		t.Errorf("the largest has %v", n)
	}
	if all := r.Workers(); all[0].MemoryBytes != 3000 || all[1].MemoryBytes != 2000 {
		t.Errorf("%+v", all)
	}
	a.send(link.Exit, link.ExitMessage{Cause: "killed"})
	b.state(link.Starting)
	eventually(t, "nothing", func() bool { return r.metric(t, "rendezvous_workers_memory_bytes") == 0 })
}

// R's version comes with hello or with a state, and stays.
func TestRVersion(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	early := hello("early")
	early.R = "4.2.2"
	first := r.dial(t, early)
	first.expect(link.Welcome)
	late := r.join(t, "late")
	late.send(link.State, link.StateMessage{State: link.Warm, R: "4.5.1"})
	late.state(link.Failed)
	eventually(t, "the failure", func() bool { return r.count(pool.Failed) == 1 })
	if all := r.Workers(); all[0].RVersion != "4.2.2" || all[1].RVersion != "4.5.1" {
		t.Errorf("%+v", all)
	}
}

// Deaths are those that nobody had asked for.
func TestDeathsAreCounted(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.park(t, "agent")
	for i, exit := range []link.ExitMessage{
		{Cause: "killed"}, {Cause: "its session ended", Expected: true}, {Cause: "exit status 1"},
	} {
		a.send(link.Exit, exit)
		a.state(link.Warm)
		eventually(t, "the next worker", func() bool { return r.snapshot(t).State == pool.Warm })
		a.send(link.Usage, link.UsageMessage{MemoryBytes: int64(i + 1)})
		eventually(t, "its usage", func() bool { return r.snapshot(t).MemoryBytes == int64(i+1) })
	}
	if got := r.snapshot(t); got.Deaths != 2 || got.LastExit != "exit status 1" {
		t.Errorf("%+v", got)
	}
}
