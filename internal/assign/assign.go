// Package assign decides who gets which worker: patience, fair shares, recalls, cordons and
// hand-overs. It is pure: it has no clock, goroutine, network, lock or log. Its caller applies
// events to it, one after the other, and carries out the effects of each.
//
// A Slot is one place for a worker at an agent. A Tenant is who workers are shared among: one
// cluster or one lease. A Want asks for one worker for a tenant, and a Grant answers it: the
// tenant holds the slot's worker until the grant is over.
package assign

import "time"

// Core holds everything that decisions depend on. Apply and all methods that read must not run
// at the same time.
type Core struct {
	now     time.Time // of the event that is being applied
	effects []Effect  // that it has so far
	wake    time.Time // see NextWake

	agents    map[string][]*Slot // by the agent's name
	groups    map[string]*group
	cordons   map[string]bool // names of agents
	phases    map[Phase]int   // how many slots are in each
	free      line            // slots whose workers are warm
	spare     line            // slots whose sessions do not need their workers at present
	untouched map[*Grant]bool // of tenants that need all they ask for, before the session uses the worker
	queue     []*Tenant       // that wait, oldest first
	unmet     int             // wants that wait and that no worker is on its way to
	wholes    int             // wants that wait and are of use only together

	number  uint32 // of the last reservation
	arrived uint64 // numbers the wants
	tenants uint64 // how many there have been

	moved func(from, to State) // for tests; nil otherwise
}

// New makes a core without slots and tenants.
func New() *Core {
	return &Core{
		agents: make(map[string][]*Slot), groups: make(map[string]*group), cordons: make(map[string]bool),
		phases: make(map[Phase]int), untouched: make(map[*Grant]bool),
	}
}

// Apply applies an event that happens now, which is never before the last one, and returns what
// the caller has to do about it, in this order.
func (c *Core) Apply(now time.Time, event Event) []Effect {
	c.now, c.effects = now, nil
	event.apply(c)
	return c.effects
}

// NextWake is when Wake must be applied unless another event is applied before, zero for never.
// Each Apply may change it.
func (c *Core) NextWake() time.Time { return c.wake }

func (c *Core) emit(e Effect) { c.effects = append(c.effects, e) }

// balance gives free workers to wants, and recalls those that their holders can do without. It
// follows every change that may let a want be served.
func (c *Core) balance() {
	c.wake = time.Time{}
	if len(c.queue) == 0 {
		return
	}
	c.serve()
	if again := sooner(c.recallUntouched(), c.recallSpare()); again > 0 {
		c.wake = c.now.Add(again)
	}
}

// sooner is the lesser of two times to look again; 0 is never.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// serve grants free workers.
func (c *Core) serve() {
	if c.free.size() == 0 {
		return
	}
	unwanted := make(map[string]bool) // groups whose workers no want can have
	for s := range c.free.all() {
		if len(c.queue) == 0 {
			return
		}
		if unwanted[s.Group] {
			continue
		}
		w := c.next(s.Group, true, nil)
		if w == nil {
			unwanted[s.Group] = true
			continue
		}
		c.give(s, w)
	}
}

// give grants the worker of s, which nobody holds, to w.
func (c *Core) give(s *Slot, w *Want) {
	c.dequeue(w)
	c.hold(s, w, nil)
}

// hold grants the worker of s to w. before, unless nil, is the grant of another node of the same
// tenant, which hands its worker over as it is.
func (c *Core) hold(s *Slot, w *Want, before *Grant) {
	g := &Grant{Slot: s, Tenant: w.Tenant, since: c.now}
	if before != nil {
		g.Number, g.since, g.SetUp = before.Number, before.since, before.left
	} else {
		c.number++
		g.Number = c.number
	}
	s.grant = g
	if w.Whole {
		c.untouched[g] = true
	}
	w.Tenant.held++
	c.move(s, Reserved)
	c.emit(Granted{w, g})
}

// finish ends the grant of s, if it has one. The caller decides what becomes of s.
func (c *Core) finish(s *Slot) {
	g := s.grant
	if g == nil {
		return
	}
	delete(c.untouched, g)
	c.stay(g)
	g.Tenant.held--
	s.grant = nil
	c.emit(Over{g})
}

// offer makes the untouched worker of s available. Its heir gets it, if that still waits; otherwise
// the worker is free.
func (c *Core) offer(s *Slot) {
	heir := s.heir
	s.heir = nil
	c.move(s, Warm)
	switch {
	case c.cordons[s.Agent]:
		c.unpromise(heir)
		c.move(s, Cordoned)
	case heir.waits():
		c.give(s, heir)
	}
	c.balance()
}

// inherit has the next worker of s go to whom its present one was recalled for.
func (c *Core) inherit(s *Slot) { s.heir, s.grant.heir = s.grant.heir, nil }

// disinherit ends that the next worker of s is on its way to a want.
func (c *Core) disinherit(s *Slot) {
	c.unpromise(s.heir)
	s.heir = nil
}
