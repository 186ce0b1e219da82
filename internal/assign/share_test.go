package assign

import (
	"slices"
	"testing"
	"time"
)

// scene is a Core with slots of one agent whose workers are warm, and a clock.
type scene struct {
	*world
}

func newScene(t *testing.T, slots int) scene {
	w := newWorld(t, 1)
	for range slots {
		s := &Slot{Agent: "agent", Group: DefaultGroup}
		w.slots, w.lives[s] = append(w.slots, s), &life{}
		w.apply(Joined{s})
		w.report(s, Warm)
	}
	return scene{w}
}

func (s scene) tenant(name string) *Tenant {
	t := s.core.NewTenant(name, 0)
	s.tenants = append(s.tenants, t)
	return t
}

func (s scene) ask(want Want) *Want {
	s.t.Helper()
	s.wants[&want] = true
	s.apply(Asked{&want})
	return &want
}

// holding is the only grant of the tenant.
func (s scene) holding(t *Tenant) *Grant {
	s.t.Helper()
	i := slices.IndexFunc(s.grants, func(g *Grant) bool { return g.Tenant == t })
	if i < 0 || t.held != 1 {
		s.t.Fatalf("%s holds %d workers, want 1", t.Name, t.held)
	}
	return s.grants[i]
}

// bound is a new tenant that has as many workers as it may need.
func (s scene) bound(name string, workers int) *Tenant {
	s.t.Helper()
	t := s.tenant(name)
	for range workers {
		s.ask(Want{Tenant: t})
	}
	for _, g := range slices.Clone(s.grants) {
		if g.Tenant == t {
			s.use(g)
		}
	}
	return t
}

// With fewer workers than tenants, one that has a worker keeps it for a rest between two calls,
// and for a turn in all; another node of its own may have it at any time.
func TestTurns(t *testing.T) {
	s := newScene(t, 1)
	mine := s.bound("mine", 1)
	g := s.holding(mine)
	other := s.ask(Want{Tenant: s.tenant("other")})
	s.spareIt(g, false)
	if due := s.core.NextWake(); s.recall[g] || due.Sub(s.now) != restLimit {
		t.Errorf("recalled: %v, to be looked at in %s, want that after %s", s.recall[g], due.Sub(s.now), restLimit)
	}
	own := s.ask(Want{Tenant: mine})
	if g.heir != own {
		t.Error("another node of its own does not get it at once")
	}
	s.apply(Needed{g})
	for passed := time.Duration(0); passed < turn; passed += restLimit / 2 { // it computes
		if g.heir == other {
			t.Errorf("it goes to the other one after %s", passed)
		}
		s.apply(Needed{g})
		s.pass(restLimit / 2)
		s.spareIt(g, false)
	}
	if g.heir != other {
		t.Error("it does not go to the other one after its turn")
	}
}

// A worker that rests goes to whoever waits, after the rest; one that is idle at once.
func TestRest(t *testing.T) {
	for name, test := range map[string]struct {
		idle bool
		wait time.Duration
	}{"spare": {false, restLimit}, "idle": {true, 0}} {
		s := newScene(t, 1)
		g := s.holding(s.bound("mine", 1))
		s.spareIt(g, test.idle)
		other := s.ask(Want{Tenant: s.tenant("other")})
		if test.wait > 0 {
			s.pass(test.wait - 1)
			if s.recall[g] {
				t.Errorf("%s: recalled before %s", name, test.wait)
			}
			s.pass(1)
		}
		if g.heir != other {
			t.Errorf("%s: not recalled after %s", name, test.wait)
		}
		s.yield(g)
		s.exit(g.Slot)
		s.report(g.Slot, Warm)
		if s.holding(other.Tenant).SetUp != (SetUp{}) {
			t.Errorf("%s: the other one has a worker that was used", name)
		}
	}
}

// A tenant takes part in one change of hands in a turn, however many workers it has: else the one
// worker that cannot be divided would go round as fast as calls end.
func TestTurnsOfMany(t *testing.T) {
	s := newScene(t, 5)
	mine, other := s.bound("mine", 3), s.bound("other", 2)
	s.pass(2 * turn)
	ask := func(t *Tenant) { s.ask(Want{Tenant: t, SetUps: []SetUp{{1}, {2}, {3}}}) }
	ask(other)
	trades := 0
	for range 4 * int(turn/restLimit) { // for two turns
		for _, g := range slices.Clone(s.grants) {
			if s.recall[g] {
				s.yield(g)
				if g.Slot.state == Ending {
					trades++
					s.exit(g.Slot)
					s.report(g.Slot, Warm)
				}
				ask(g.Tenant)
				continue
			}
			if g.State() == Reserved {
				s.use(g)
			}
			s.apply(Needed{g})
		}
		s.pass(restLimit / 2)
		for _, g := range slices.Clone(s.grants) {
			s.spareIt(g, false)
		}
	}
	if trades < 2 || trades > 3 {
		t.Errorf("%d workers changed hands in two turns, want one in each", trades)
	}
	if both := mine.held + other.held; both != 5 {
		t.Errorf("they hold %d workers, want 5", both)
	}
}

// The nodes of a cluster that comes node by node may have what another tenant can spare when they
// have waited for a turn, one after the other: the core is woken for each.
func TestTurnsOfNodes(t *testing.T) {
	s := newScene(t, 6)
	s.bound("mine", 6)
	for _, g := range s.grants {
		s.spareIt(g, false)
	}
	whole := s.tenant("whole")
	for range 2 {
		s.ask(Want{Tenant: whole, Whole: true})
		s.pass(time.Second)
	}
	for i, wait := range []time.Duration{turn - 2*time.Second, time.Second} {
		if due := s.core.NextWake().Sub(s.now); due != wait {
			t.Errorf("node %d: the next look is in %s, want %s", i, due, wait)
		}
		s.pass(wait)
		if len(s.recall) != i+1 {
			t.Errorf("node %d: %d workers are recalled, want %d", i, len(s.recall), i+1)
		}
	}
}

// With more nodes than workers, all busy, tenants have equal shares within a turn and a rest,
// however many they are and whoever came first.
func TestSharesAreFair(t *testing.T) {
	for _, test := range []struct{ workers, tenants int }{{4, 2}, {6, 3}, {12, 5}, {30, 7}, {3, 3}} {
		s := newScene(t, test.workers)
		greedy := s.bound("first", test.workers)
		tenants := []*Tenant{greedy}
		for len(tenants) < test.tenants {
			next := s.tenant("next")
			tenants = append(tenants, next)
			for range test.workers {
				s.ask(Want{Tenant: next})
			}
		}
		for passed := time.Duration(0); passed < turn+restLimit; passed += restLimit / 5 {
			s.compute(restLimit / 5)
		}
		least, most := test.workers, 0
		for _, tenant := range tenants {
			least, most = min(least, tenant.held), max(most, tenant.held)
		}
		if most-least > 1 {
			t.Errorf("%d workers and %d tenants: one has %d, another %d", test.workers, test.tenants, least, most)
		}
	}
}

// compute has each tenant's workers be in a call for so long, and between two calls at its end.
func (s scene) compute(lasts time.Duration) {
	for _, g := range slices.Clone(s.grants) {
		switch g.State() {
		case Reserved, Claimed:
			s.use(g)
		case Spare:
			s.apply(Needed{g})
		}
	}
	s.pass(lasts)
	for _, g := range slices.Clone(s.grants) {
		s.spareIt(g, false)
		if s.recall[g] {
			s.yield(g)
			if slot := g.Slot; slot.state == Ending {
				s.exit(slot)
				s.report(slot, Warm)
			}
		}
	}
}

// The list of free slots is in the order in which they came, and any may leave it at any time.
func TestFree(t *testing.T) {
	var f line
	slots := make([]*Slot, 5)
	for i := range slots {
		slots[i] = new(Slot)
		f.put(slots[i])
	}
	expect := func(wanted ...*Slot) {
		t.Helper()
		if got := slices.Collect(f.all()); !slices.Equal(got, wanted) || f.size() != len(wanted) {
			t.Fatalf("%d are there, of size %d, want %d or others", len(got), f.size(), len(wanted))
		}
	}
	expect(slots...)
	f.remove(slots[2])
	f.remove(slots[2])
	f.remove(new(Slot))
	expect(slots[0], slots[1], slots[3], slots[4])
	f.remove(slots[0])
	f.put(slots[2])
	expect(slots[1], slots[3], slots[4], slots[2])
	for s := range f.all() { // each leaves while it is looked at
		f.remove(s)
	}
	expect()
}
