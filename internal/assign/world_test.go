package assign

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// world plays agents and sessions at random against a Core, and checks it after each event.
type world struct {
	t      *testing.T
	random *rand.Rand
	core   *Core
	now    time.Time
	seen   map[transition]int

	slots   []*Slot // that are connected or whose grants last
	lives   map[*Slot]*life
	tenants []*Tenant
	wants   map[*Want]bool // that wait
	grants  []*Grant       // that are not over
	granted map[*Slot]*Grant
	recall  map[*Grant]bool // that are asked back
	ended   map[*Grant]bool // whose end the agent was asked for
	names   int
	demand  int // how many of 100 events are wants
}

type transition struct{ from, to State }

// life is what has happened to a slot's present worker.
type life struct {
	user  *Tenant // whose session has used it
	setUp SetUp   // what that has left
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{
		t: t, random: rand.New(rand.NewPCG(seed, 0)), core: New(), now: time.Unix(1e9, 0), seen: make(map[transition]int),
		lives: make(map[*Slot]*life), wants: make(map[*Want]bool), granted: make(map[*Slot]*Grant),
		recall: make(map[*Grant]bool), ended: make(map[*Grant]bool),
	}
	w.demand = []int{3, 15}[w.random.IntN(2)]
	w.core.moved = func(from, to State) {
		w.seen[transition{from, to}]++
		listed := slices.Contains(states[from].next, to)
		if !listed && to != Gone && (to != Starting || from == Draining) {
			w.fatalf("a slot moves from %s to %s", from, to)
		}
	}
	return w
}

func (w *world) fatalf(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf(format, args...)
}

// pass lets time pass, at the end of which the core is woken if that is due.
func (w *world) pass(time time.Duration) {
	w.t.Helper()
	w.now = w.now.Add(time)
	if due := w.core.NextWake(); !due.IsZero() && !due.After(w.now) {
		w.apply(Wake{})
	}
}

// apply applies an event and carries out its effects.
func (w *world) apply(event Event) {
	w.t.Helper()
	w.effects(w.core.Apply(w.now, event))
	w.check(event)
}

func (w *world) effects(all []Effect) {
	w.t.Helper()
	for _, effect := range all {
		switch e := effect.(type) {
		case Granted:
			w.onGranted(e)
		case Recall:
			if w.granted[e.Grant.Slot] != e.Grant || w.recall[e.Grant] {
				w.fatalf("a grant is recalled that is over or was recalled")
			}
			w.recall[e.Grant] = true
		case Restored:
			if !w.recall[e.Grant] {
				w.fatalf("a grant is restored that was not recalled")
			}
			delete(w.recall, e.Grant)
		case Over:
			if w.granted[e.Grant.Slot] != e.Grant {
				w.fatalf("a grant is over twice")
			}
			delete(w.granted, e.Grant.Slot)
			delete(w.recall, e.Grant)
			delete(w.ended, e.Grant)
			w.grants = slices.DeleteFunc(w.grants, func(g *Grant) bool { return g == e.Grant })
		case Finish:
			if w.granted[e.Grant.Slot] != e.Grant || w.ended[e.Grant] {
				w.fatalf("an agent is asked for the end of a worker that is over or ends")
			}
			w.ended[e.Grant] = true
		}
	}
}

// onGranted checks that the want waited, and that nobody else has or had the worker.
func (w *world) onGranted(e Granted) {
	w.t.Helper()
	s, life := e.Grant.Slot, w.lives[e.Grant.Slot]
	switch {
	case !w.wants[e.Want]:
		w.fatalf("a want is granted that does not wait")
	case w.granted[s] != nil:
		w.fatalf("a slot is granted that is held")
	case !InGroup(s.Group, e.Want.Group):
		w.fatalf("a worker of group %q is granted to a want for %q", s.Group, e.Want.Group)
	case e.Grant.SetUp == SetUp{} && life.user != nil:
		w.fatalf("a used worker is granted as a fresh one")
	case e.Grant.SetUp != SetUp{} && (life.user != e.Want.Tenant || life.setUp != e.Grant.SetUp || !slices.Contains(e.Want.SetUps, e.Grant.SetUp)):
		w.fatalf("a worker is handed over that the want does not serve, or that another tenant used")
	}
	delete(w.wants, e.Want)
	w.granted[s] = e.Grant
	w.grants = append(w.grants, e.Grant)
}

// check compares what the core counts with what there is, and looks for a want that it forgets.
func (w *world) check(event Event) {
	w.t.Helper()
	c := w.core
	phases, used, turning, slots := map[Phase]int{}, map[string]int{}, map[string]int{}, map[string]int{}
	promised := make(map[*Want]int)
	free, spare := 0, 0
	for _, s := range w.slots {
		if g := w.granted[s]; g != s.grant || s.state != Gone && (g != nil) != s.state.held() {
			w.fatalf("after %T: a slot is %s, held: %v", event, s.state, g != nil)
		}
		for _, heir := range []*Want{s.heir, grantOf(s).heir} {
			if heir != nil {
				promised[heir]++
			}
		}
		if g := w.granted[s]; s.state.Phase() == PhaseEnding {
			delete(w.recall, g) // it is given back
		} else if g != nil && w.recall[g] != (s.state == Claimed || s.state == Recalled || s.state == Evicted) {
			w.fatalf("after %T: a worker is %s, and asked back: %v", event, s.state, w.recall[g])
		}
		if s.state == Gone {
			continue
		}
		phases[s.state.Phase()]++
		slots[s.Group]++
		used[s.Group] += oneIf(s.state.used())
		turning[s.Group] += oneIf(s.turns())
		free += oneIf(s.state == Warm)
		spare += oneIf(s.state == Spare || s.state == Idle)
		w.checkForgotten(event, s)
	}
	for _, phase := range Phases {
		if c.phases[phase] != phases[phase] {
			w.fatalf("after %T: %d slots are %s, and %d are counted", event, phases[phase], phase, c.phases[phase])
		}
	}
	for name, g := range c.groups {
		if g.slots != slots[name] || g.used != used[name] || g.turning != turning[name] {
			w.fatalf("after %T: group %s counts %d, %d, %d, and has %d, %d, %d", event, name, g.slots, g.used, g.turning, slots[name], used[name], turning[name])
		}
	}
	if c.free.size() != free || c.spare.size() != spare {
		w.fatalf("after %T: %d on the free list of %d, %d on the spare one of %d", event, c.free.size(), free, c.spare.size(), spare)
	}
	w.checkWants(event, promised)
}

func grantOf(s *Slot) *Grant {
	if s.grant == nil {
		return &Grant{}
	}
	return s.grant
}

// checkForgotten fails if a want could have the worker of s now.
func (w *world) checkForgotten(event Event, s *Slot) {
	w.t.Helper()
	if s.state != Warm && s.state != Idle && s.state != Spare {
		return
	}
	for _, t := range w.core.queue {
		want := t.first(s.Group, s.state == Warm)
		if want == nil || !want.fits() {
			continue
		}
		if s.state != Spare {
			w.fatalf("after %T: a worker is %s, and a want waits", event, s.state)
		}
		if due := w.core.NextWake(); !want.Whole && (due.IsZero() || due.Sub(w.now) > restLimit) {
			w.fatalf("after %T: a worker is spare, a want waits, and nothing wakes the core", event)
		}
	}
}

// checkWants compares the core's counts of wants with what waits.
func (w *world) checkWants(event Event, promised map[*Want]int) {
	w.t.Helper()
	c := w.core
	unmet, wholes, waiting := 0, 0, 0
	for i, t := range c.queue {
		if i > 0 && c.queue[i-1].age >= t.age {
			w.fatalf("after %T: the queue is not in the order of age", event)
		}
		for _, want := range t.waiting {
			unmet += oneIf(!want.promised)
			wholes += oneIf(want.Whole)
			waiting++
			if !w.wants[want] || promised[want] != oneIf(want.promised) {
				w.fatalf("after %T: a want waits: %v, is promised: %v, %d workers are on their way to it", event, w.wants[want], want.promised, promised[want])
			}
		}
	}
	if unmet != c.unmet || wholes != c.wholes || waiting != len(w.wants) {
		w.fatalf("after %T: %d unmet, %d whole, %d in all; counted %d, %d, %d", event, unmet, wholes, len(w.wants), c.unmet, c.wholes, waiting)
	}
	for _, t := range w.tenants {
		held, parting := 0, 0
		for _, g := range w.grants {
			held += oneIf(g.Tenant == t)
			parting += oneIf(g.Tenant == t && g.parting)
		}
		if held != t.held || parting != t.parting || t.most > 0 && held > t.most {
			w.fatalf("after %T: a tenant holds %d, of which %d leave; counted %d and %d of at most %d", event, held, parting, t.held, t.parting, t.most)
		}
	}
}

// held reports whether a tenant holds the worker of a slot in s.
func (s State) held() bool {
	switch s {
	case Reserved, Claimed, Leaving, Ending:
		return true
	}
	return s.bound()
}
