package pool_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// joinGroup is a slot of an agent with two, in a group, that has been welcomed.
func (r *rendezvous) joinGroup(t *testing.T, name, group string, slot int) *agent {
	t.Helper()
	message := hello(name)
	message.Group, message.Slot, message.Slots = group, slot, 2
	a := r.dial(t, message)
	a.expect(link.Welcome)
	return a
}

func sorted(names []string) []string {
	slices.Sort(names)
	return names
}

func TestIdle(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	busy := r.joinGroup(t, "busy", "", 0)
	busy.state(link.Warm)
	eventually(t, "a warm worker", func() bool { return r.count(pool.Warm) == 1 })
	w := r.hold(t, busy)
	// The other slot of an agent that is in use is nobody's to take.
	r.joinGroup(t, "busy", "", 1).state(link.Warm)
	// Of idle ones those that would be missed least come first.
	r.joinGroup(t, "useless", "default", 0).state(link.Failed)
	eventually(t, "the failure", func() bool { return r.count(pool.Failed) == 1 })
	for i, name := range []string{"first", "second"} {
		r.joinGroup(t, name, "default", 0).state(link.Warm)
		eventually(t, "a warm worker", func() bool { return r.count(pool.Warm) == i+2 })
	}
	r.joinGroup(t, "other", "gpu", 0).state(link.Warm)
	eventually(t, "a warm worker", func() bool { return r.count(pool.Warm) == 4 })

	if got := fmt.Sprint(r.Idle("default")); got != "[useless second first]" {
		t.Errorf("idle: %s", got)
	}
	if got := fmt.Sprint(r.Idle("gpu"), r.Idle("none")); got != "[other] []" {
		t.Errorf("idle of other groups: %s", got)
	}
	if got := fmt.Sprint(sorted(r.Agents("default")), r.Agents("gpu")); got != "[busy first second useless] [other]" {
		t.Errorf("agents: %s", got)
	}
	if got := r.Wanted(); !maps.Equal(got, map[string]int{"default": 1, "gpu": 0}) {
		t.Errorf("wanted: %v", got)
	}
	if r.Cordon("busy") {
		t.Error("an agent in use was cordoned")
	}
	w.Release()
	busy.expect(link.Release)
	eventually(t, "the release", func() bool { return len(r.Idle("default")) == 4 })
	if got := r.Wanted(); got["default"] != 0 {
		t.Errorf("wanted: %v", got)
	}
}

// A cordoned agent's workers are given to nobody, those that come later included; back
// in the pool they go to whoever waits.
func TestCordon(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.park(t, "agent")
	if !r.Cordon("agent") {
		t.Fatal("an idle agent was not cordoned")
	}
	r.expectCounts(t, map[pool.State]int{pool.Cordoned: 1})
	if got := r.Idle("group"); len(got) != 0 {
		t.Errorf("idle: %v", got)
	}
	waiting := r.queue(context.Background(), t)
	a.state(link.Failed)
	eventually(t, "the failure", func() bool { return r.count(pool.Failed) == 1 })
	a.state(link.Warm)
	eventually(t, "the next worker to be cordoned", func() bool { return r.count(pool.Cordoned) == 1 })
	r.Uncordon("agent")
	a.grant()
	if w := mustGet(t, waiting); w.Name() != "agent/0" {
		t.Errorf("got %s", w.Name())
	}
}

// An agent may be cordoned before it has connected: its pod is to go before it is up.
func TestCordonAhead(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	if !r.Cordon("agent") {
		t.Fatal("an agent that is not there was not cordoned")
	}
	a := r.join(t, "agent")
	a.state(link.Warm)
	eventually(t, "it to be cordoned", func() bool { return r.count(pool.Cordoned) == 1 })
	a.state(link.Draining)
	eventually(t, "it to drain", func() bool { return r.count(pool.Draining) == 1 })
	r.Uncordon("agent")
	r.expectCounts(t, map[pool.State]int{pool.Draining: 1})
	a.Close()
	eventually(t, "the agent to go", func() bool { return len(r.Agents("group")) == 0 })

	// Its name means nothing any more.
	r.park(t, "agent")
	r.expectCounts(t, map[pool.State]int{pool.Warm: 1})
}

// A worker that a session holds and has no use for is wanted by nobody, and comes back
// before its agent is cordoned; one that is needed again by then stays.
func TestCordonIdleHolder(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.joinGroup(t, "a", "default", 0)
	a.state(link.Warm)
	eventually(t, "a warm worker", func() bool { return r.count(pool.Warm) == 1 })
	w, s := r.bind(t, a)
	if r.Wanted()["default"] != 1 || len(r.Idle("default")) != 0 || r.Cordon("a") {
		t.Error("a worker in use counts as idle")
	}
	w.Offer(pool.SetUp{1}, false)
	if r.Wanted()["default"] != 1 || r.Cordon("a") {
		t.Error("a worker between two futures counts as idle")
	}
	w.Offer(pool.SetUp{1}, true)
	if r.Wanted()["default"] != 0 || fmt.Sprint(r.Idle("default")) != "[a]" {
		t.Errorf("wanted %v, idle %v", r.Wanted(), r.Idle("default"))
	}
	if r.Cordon("a") {
		t.Error("cordoned while a session holds it")
	}
	want(t, w.Recalled(), "the worker to be asked back")
	w.Keep()
	if recalled(w) {
		t.Error("still asked back, though it is needed")
	}
	w.Offer(pool.SetUp{1}, true)
	r.Cordon("a")
	want(t, w.Recalled(), "the worker to be asked back")
	if !w.Yield() {
		t.Fatal("it is to go")
	}
	w.End()
	a.expect(link.EOF)
	a.send(link.Exit, link.ExitMessage{Cause: "its session ended", Expected: true})
	s.expect(t, "ended: its session ended")
	a.state(link.Warm)
	eventually(t, "a warm worker", func() bool { return r.count(pool.Warm) == 1 })
	if !r.Cordon("a") {
		t.Error("a free agent is not cordoned")
	}
}

// What a tenant has use for is wanted although it waits for less.
func TestWantedTotal(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	plan := r.tenant("plan")
	plan.Total = 6
	r.queueWanted(t, plan)
	gpu := r.tenant("gpu")
	gpu.Group = "gpu"
	r.queueWanted(t, gpu)
	r.queueWanted(t, gpu)
	if got := r.Wanted(); got[""] != 6 || got["gpu"] != 2 {
		t.Errorf("wanted %v", got)
	}
}

// A worker turns from the end of one use until somebody has its successor, unless that
// comes to nothing.
func TestTurning(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(a *agent){
		"had":    func(a *agent) { a.state(link.Warm); a.grant() },
		"failed": func(a *agent) { a.state(link.Failed) },
		"lost":   func(a *agent) { a.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, nil)
			a := r.park(t, "a")
			w, _ := r.bind(t, a)
			if r.Scarce("group") {
				t.Error("workers are scarce though nobody waits")
			}
			waiting := r.queueRanked(t, 0)
			if r.Turning("") {
				t.Error("a worker that is in use turns")
			}
			if !r.Scarce("group") {
				t.Error("a worker is not scarce that somebody waits for")
			}
			w.Offer(pool.SetUp{1}, true)
			if !w.Yield() {
				t.Fatal("nobody should have it")
			}
			w.End()
			a.expect(link.EOF)
			a.send(link.Exit, link.ExitMessage{Cause: "its session ended", Expected: true})
			eventually(t, "its successor to start", func() bool { return r.count(pool.Starting) == 1 })
			if r.Scarce("group") {
				t.Error("scarce, though one is on its way")
			}
			if !r.Turning("") || !r.Turning("group") || r.Turning("gpu") {
				t.Errorf("turning: %v, of its group: %v, of another: %v", r.Turning(""), r.Turning("group"), r.Turning("gpu"))
			}
			end(a)
			eventually(t, "the end of that", func() bool { return r.count(pool.Starting) == 0 })
			if r.Turning("") {
				t.Error("it turns for ever")
			}
			if name == "had" {
				mustGet(t, waiting)
			}
		})
	}
}
