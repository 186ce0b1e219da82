package assign

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// DefaultGroup is the group of agents that name none.
const DefaultGroup = "default"

// InGroup reports whether a worker of the group announced serves a want for one of group, "" for
// any.
func InGroup(announced, group string) bool { return group == "" || announced == group }

// group is the workers of one group. What is asked every second is kept, since ten thousand slots
// are in no processor's cache.
type group struct {
	agents  map[string]bool
	slots   int
	used    int // slots whose workers tenants have use for
	turning int // slots whose R ends or starts for a want
}

// recount brings up to date what the slot counts for in its group, when that may have changed.
func (c *Core) recount(s *Slot) {
	used, turning := s.state.used(), s.turns()
	if used == s.counted && turning == s.turning {
		return // as of a slot that is gone, whose group may be, too
	}
	g := c.groups[s.Group]
	g.used += oneIf(used) - oneIf(s.counted)
	g.turning += oneIf(turning) - oneIf(s.turning)
	s.counted, s.turning = used, turning
}

func oneIf(counts bool) int {
	if counts {
		return 1
	}
	return 0
}

// enlist adds the slot to its agent, and the agent to its group.
func (c *Core) enlist(s *Slot) {
	c.agents[s.Agent] = append(c.agents[s.Agent], s)
	g := c.groups[s.Group]
	if g == nil {
		g = &group{agents: make(map[string]bool)}
		c.groups[s.Group] = g
	}
	g.agents[s.Agent] = true
	g.slots++
}

func (c *Core) delist(s *Slot) {
	left := slices.DeleteFunc(c.agents[s.Agent], func(other *Slot) bool { return other == s })
	c.agents[s.Agent] = left
	if len(left) == 0 {
		delete(c.agents, s.Agent)
	}
	g := c.groups[s.Group]
	g.slots--
	if slices.ContainsFunc(left, func(other *Slot) bool { return other.Group == s.Group }) {
		return
	}
	delete(g.agents, s.Agent)
	if len(g.agents) == 0 {
		delete(c.groups, s.Group)
	}
}

// Agents names the connected agents of a group, in no order.
func (c *Core) Agents(name string) []string {
	g := c.groups[name]
	if g == nil {
		return nil
	}
	return slices.AppendSeq(make([]string, 0, len(g.agents)), maps.Keys(g.agents))
}

// SlotsOf are the slots of an agent. The next event may change them.
func (c *Core) SlotsOf(agent string) []*Slot { return c.agents[agent] }

// IdleAgents are agents that no session uses.
type IdleAgents []idleAgent

type idleAgent struct {
	name string
	held int       // slots whose workers sessions hold
	warm int       // slots whose workers are warm
	last time.Time // when the last one became so
}

// IdleAgents are the agents of a group that no session uses: all their slots are warm, or have no
// worker at present, or one that its session has no use for. Cordoned ones are not among them.
func (c *Core) IdleAgents(group string) (all IdleAgents) {
	for name, slots := range c.agents {
		if slots[0].Group != group || c.cordons[name] || slices.ContainsFunc(slots, (*Slot).inUse) {
			continue
		}
		a := idleAgent{name: name}
		for _, s := range slots {
			switch s.state {
			case Idle:
				a.held++
			case Warm:
				a.warm++
			}
			if s.since.After(a.last) {
				a.last = s.since
			}
		}
		all = append(all, a)
	}
	return all
}

// Names are those of the agents, least useful first: with the fewest warm workers, and then those
// that would be granted last; behind them those that sessions hold.
func (all IdleAgents) Names() []string {
	slices.SortFunc(all, func(a, b idleAgent) int {
		return cmp.Or(cmp.Compare(a.held, b.held), cmp.Compare(a.warm, b.warm), b.last.Compare(a.last), cmp.Compare(a.name, b.name))
	})
	names := make([]string, len(all))
	for i, a := range all {
		names[i] = a.name
	}
	return names
}

func (e Cordon) apply(c *Core) {
	slots := c.agents[e.Agent]
	if slices.ContainsFunc(slots, (*Slot).inUse) {
		return
	}
	evicted := false
	for _, s := range slots {
		if s.state == Idle {
			evicted = true
			c.move(s, Evicted)
			c.emit(Recall{s.grant})
		}
	}
	if evicted {
		return
	}
	c.cordons[e.Agent] = true
	for _, s := range slots {
		if s.state == Warm {
			c.move(s, Cordoned)
		}
	}
}

func (e Uncordon) apply(c *Core) {
	delete(c.cordons, e.Agent)
	for _, s := range c.agents[e.Agent] {
		if s.state == Cordoned {
			c.offer(s)
		}
	}
}

// Cordoned reports whether the agent is taken out.
func (c *Core) Cordoned(agent string) bool { return c.cordons[agent] }

// Wanted counts the workers that tenants want, by group: those that they use, of their groups, and
// those that they wait for, of any group, "". Each group that has a slot here is in it.
func (c *Core) Wanted() map[string]int {
	all := make(map[string]int)
	for name, g := range c.groups {
		all[name] = g.used
	}
	for _, t := range c.queue {
		last := t.waiting[len(t.waiting)-1]
		wants := max(len(t.waiting), last.Total-t.held)
		if t.most > 0 {
			wants = min(wants, max(0, t.most-t.held))
		}
		all[last.Group] += wants
	}
	return all
}

// Waiting is how many wants wait.
func (c *Core) Waiting() (n int) {
	for _, t := range c.queue {
		n += len(t.waiting)
	}
	return n
}

// Phases is how many slots are in each phase.
func (c *Core) Phases() map[Phase]int {
	counts := make(map[Phase]int, len(Phases))
	for _, phase := range Phases {
		counts[phase] = c.phases[phase]
	}
	return counts
}

// Slots counts the slots of a group, "" for all.
func (c *Core) Slots(group string) (n int) {
	for announced, g := range c.groups {
		if InGroup(announced, group) {
			n += g.slots
		}
	}
	return n
}

// Scarce reports whether a want that a worker of the group would serve waits, and no worker is on
// its way to it.
func (c *Core) Scarce(group string) bool {
	return slices.ContainsFunc(c.queue, func(t *Tenant) bool { return t.first(group, false) != nil })
}

// Turning reports whether a worker of the group is between two uses: its R ends or starts, for a
// want.
func (c *Core) Turning(group string) bool {
	for announced, g := range c.groups {
		if g.turning > 0 && InGroup(announced, group) {
			return true
		}
	}
	return false
}
