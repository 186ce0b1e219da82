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
	if got := r.InUse(); !maps.Equal(got, map[string]int{"default": 1, "gpu": 0}) {
		t.Errorf("in use: %v", got)
	}
	if r.Cordon("busy") {
		t.Error("an agent in use was cordoned")
	}
	w.Release()
	busy.expect(link.Release)
	eventually(t, "the release", func() bool { return len(r.Idle("default")) == 4 })
	if got := r.InUse(); got["default"] != 0 {
		t.Errorf("in use: %v", got)
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
