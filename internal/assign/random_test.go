package assign

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// step is one random event.
func (w *world) step() {
	w.t.Helper()
	if w.random.IntN(3) == 0 {
		w.pass([]time.Duration{time.Millisecond, 100 * time.Millisecond, restLimit, turn}[w.random.IntN(4)])
	}
	switch n := w.random.IntN(100); {
	case n < 4:
		w.join()
	case n < 20:
		w.agent()
	case n < 20+w.demand:
		w.want()
	case n < 40:
		w.withdraw()
	case n < 44:
		w.scaler()
	default:
		w.holder()
	}
}

func (w *world) join() {
	if len(w.slots) >= 8 {
		return
	}
	w.names++
	agent := w.names / 2
	s := &Slot{Agent: fmt.Sprint("agent-", agent), Group: []string{"a", "a", "b"}[agent%3]}
	w.slots = append(w.slots, s)
	w.lives[s] = &life{}
	w.apply(Joined{s})
}

// agent reports something about one of its slots.
func (w *world) agent() {
	w.t.Helper()
	if len(w.slots) == 0 {
		return
	}
	s := w.slots[w.random.IntN(len(w.slots))]
	switch n := w.random.IntN(40); {
	case n == 0:
		w.lose(s)
	case n == 1 && s.state != Gone:
		w.apply(Replaced{s})
	case n < 8:
		w.exit(s)
	case s.state == Returning:
		w.apply(Returned{s})
	case s.state.held() && n < 30: // mostly as agents are
	case s.state.held() && n < 38:
		w.report(s, Draining)
	default:
		w.report(s, []State{Installing, Starting, Failed, Draining, Warm, Warm, Warm, Warm, Warm, Warm}[w.random.IntN(10)])
	}
}

func (w *world) lose(s *Slot) {
	w.slots = slices.DeleteFunc(w.slots, func(other *Slot) bool { return other == s })
	w.apply(Lost{s})
	delete(w.lives, s)
}

func (w *world) exit(s *Slot) {
	w.lives[s] = &life{}
	w.apply(Exited{s})
}

func (w *world) report(s *Slot, state State) {
	if state != Draining || !s.state.held() {
		w.lives[s] = &life{}
	}
	w.apply(Reported{s, state})
}

func (w *world) want() {
	if len(w.tenants) < 5 || w.random.IntN(20) == 0 {
		w.tenants = append(w.tenants, w.core.NewTenant([]string{"shared", "shared", "whole"}[w.random.IntN(3)], []int{0, 0, 1, 3}[w.random.IntN(4)]))
		if t := w.tenants[0]; len(w.tenants) > 8 && t.held == 0 && len(t.waiting) == 0 {
			w.tenants = w.tenants[1:]
		}
	}
	if len(w.wants) >= 12 {
		return
	}
	t := w.tenants[w.random.IntN(len(w.tenants))]
	want := &Want{
		Tenant: t, Group: []string{"", "", "a", "b"}[w.random.IntN(4)],
		Urgent: w.random.IntN(8) == 0, Total: w.random.IntN(4), SetUps: []SetUp{{1}, {2}},
	}
	want.Whole = t.Name == "whole" && !want.Urgent
	w.wants[want] = true
	w.apply(Asked{want})
}

func (w *world) withdraw() {
	for _, t := range w.core.queue {
		want := t.waiting[w.random.IntN(len(t.waiting))]
		delete(w.wants, want)
		w.apply(Withdrawn{want})
		return
	}
}

func (w *world) scaler() {
	agent := fmt.Sprint("agent-", w.random.IntN(w.names/2+2))
	if len(w.slots) > 0 && w.random.IntN(10) > 0 {
		agent = w.slots[w.random.IntN(len(w.slots))].Agent
	}
	if w.random.IntN(2) == 0 {
		w.apply(Cordon{agent})
		for _, s := range w.core.SlotsOf(agent) {
			if s.state == Evicted && w.random.IntN(4) == 0 { // its pod is deleted all the same
				w.report(s, Draining)
			}
		}
		if w.core.Cordoned(agent) && slices.ContainsFunc(w.core.SlotsOf(agent), (*Slot).inUse) {
			w.fatalf("an agent is cordoned, and in use")
		}
	} else {
		w.apply(Uncordon{agent})
	}
}

// holder says something about a worker that it has.
func (w *world) holder() {
	w.t.Helper()
	if len(w.grants) == 0 {
		return
	}
	g := w.grants[w.random.IntN(len(w.grants))]
	life := w.lives[g.Slot]
	switch state := g.State(); {
	case state == Gone:
	case state == Reserved || state == Claimed:
		switch n := w.random.IntN(10); {
		case n < 5:
			w.use(g)
		case n < 7:
			w.apply(Released{g})
		case n < 8 && life.user == nil:
			w.apply(Declined{g})
		case n < 9:
			w.apply(Completed{g.Tenant})
		}
	case state == Leaving:
		w.apply(Finished{g})
	case w.recall[g] && w.random.IntN(2) == 0 || w.random.IntN(20) == 0:
		w.yield(g)
	default:
		switch w.random.IntN(8) {
		case 0:
			w.apply(Finished{g})
		case 1, 2, 3:
			w.apply(Needed{g})
			if s := g.State(); s.bound() && s != Bound && s != Departing {
				w.fatalf("a worker that is needed is %s", s)
			}
		default:
			w.spareIt(g, w.random.IntN(4) == 0)
		}
	}
}

func (w *world) use(g *Grant) {
	w.lives[g.Slot].user = g.Tenant
	w.apply(Used{g})
}

func (w *world) spareIt(g *Grant, idle bool) {
	setUp := SetUp{byte(1 + w.random.IntN(3))}
	if s := g.State(); s == Bound || s == Spare || s == Idle { // else it is not heard
		w.lives[g.Slot].setUp = setUp
	}
	w.apply(Spared{g, setUp, idle})
}

func (w *world) yield(g *Grant) {
	w.apply(Yielded{g})
	if g.State() == Leaving {
		w.apply(Finished{g})
	}
}

// settle has every agent work and every session give back what it is asked for, until nobody
// waits: no want is forgotten for good.
func (w *world) settle() {
	w.t.Helper()
	for _, s := range slices.Clone(w.slots) {
		if s.state == Gone || s.state == Draining || s.state == Departing {
			w.lose(s)
		}
	}
	for range 4 { // a worker of each group, whatever was lost
		w.names++
		w.join()
	}
	for agent := range w.core.cordons {
		w.apply(Uncordon{agent})
	}
	for range 200 {
		if len(w.wants) == 0 {
			return
		}
		for _, s := range slices.Clone(w.slots) {
			switch {
			case s.state == Returning:
				w.apply(Returned{s})
			case s.state == Ending:
				w.exit(s)
			case !s.state.held() && s.state != Warm:
				w.report(s, Warm)
			}
		}
		for _, g := range slices.Clone(w.grants) {
			w.letGo(g)
		}
		w.pass(restLimit / 2)
	}
	for want := range w.wants {
		if groups := w.core.groups; want.Group == "" || groups[want.Group] != nil {
			w.fatalf("a want of %d waits for ever: %+v of %+v; %v", len(w.wants), want, want.Tenant, w.core.Phases())
		}
	}
}

// letGo has a session do next what one does that computes, and then rests.
func (w *world) letGo(g *Grant) {
	switch state := g.State(); {
	case state == Reserved || state == Claimed:
		w.use(g)
	case state == Bound || state == Spare:
		w.spareIt(g, state == Spare)
	case state == Leaving:
		w.apply(Finished{g})
	case state == Idle && !(&Want{Tenant: g.Tenant}).fits(): // a cluster that ends
		w.apply(Finished{g})
	case w.recall[g]:
		w.yield(g)
	}
}

// events is how many random events TestRandomEvents plays; ASSIGN_EVENTS is another number.
const events = 1_000_000

// Whatever happens, each worker has one holder and no session meets what another has left, counts
// agree, no want is forgotten, slots move only as the table of states says, and along each way in
// it.
func TestRandomEvents(t *testing.T) {
	t.Parallel()
	n := events
	if text := os.Getenv("ASSIGN_EVENTS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal("ASSIGN_EVENTS: ", err)
		}
	}
	first := rand.Uint64()
	t.Log("the first seed is ", first)
	seen := make(map[transition]int)
	const lasts = 2000
	for seed := first; n > 0; seed, n = seed+1, n-lasts {
		w := newWorld(t, seed)
		w.seen = seen
		for range lasts {
			w.step()
		}
		w.settle()
		if t.Failed() {
			t.Fatal("seed ", seed)
		}
	}
	for from, state := range states {
		for _, to := range state.next {
			if seen[transition{State(from), to}] == 0 {
				t.Errorf("no slot has moved from %s to %s", State(from), to)
			}
		}
	}
}
