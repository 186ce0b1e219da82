package pool

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// inUse reports whether a session has use for the slot's worker, or is about to. Called
// with the lock held.
func (s *slot) inUse() bool {
	if s.holder != nil {
		return !s.idles()
	}
	return s.turns() || s.state == Reserved
}

// turns reports whether the slot's R ends or starts for somebody who waits. Called with the
// lock held.
func (s *slot) turns() bool { return s.state == Ending || s.heir != nil }

// idles reports whether a session has the slot's worker and no use for it. Called with
// the lock held.
func (s *slot) idles() bool { return s.holder != nil && s.holder.spare != nil && s.holder.idle }

// group is the workers of one group. What is asked every second is kept, since ten
// thousand slots are in no processor's cache.
type group struct {
	agents  map[string]bool
	slots   int
	used    int // slots whose workers sessions have use for
	turning int // slots whose R ends or starts for somebody who waits
}

// recount brings up to date what the slot counts for in its group. Called with the lock
// held, when that may have changed.
func (p *Pool) recount(s *slot) {
	used := s.holder != nil && s.state != Ending && s.state != "" && !s.idles()
	turning := s.turns()
	if used == s.used && turning == s.turning {
		return // as of a slot that is gone, whose group may be, too
	}
	g := p.groups[s.hello.Group]
	g.used += oneIf(used) - oneIf(s.used)
	g.turning += oneIf(turning) - oneIf(s.turning)
	s.used, s.turning = used, turning
}

func oneIf(counts bool) int {
	if counts {
		return 1
	}
	return 0
}

// enlist and delist keep the slots of each agent, and the agents of each group. Called
// with the lock held.
func (p *Pool) enlist(s *slot) {
	p.agents[s.hello.Agent] = append(p.agents[s.hello.Agent], s)
	g := p.groups[s.hello.Group]
	if g == nil {
		g = &group{agents: make(map[string]bool)}
		p.groups[s.hello.Group] = g
	}
	g.agents[s.hello.Agent] = true
	g.slots++
}

func (p *Pool) delist(s *slot) {
	left := slices.DeleteFunc(p.agents[s.hello.Agent], func(other *slot) bool { return other == s })
	p.agents[s.hello.Agent] = left
	if len(left) == 0 {
		delete(p.agents, s.hello.Agent)
	}
	g := p.groups[s.hello.Group]
	g.slots--
	if slices.ContainsFunc(left, func(other *slot) bool { return other.hello.Group == s.hello.Group }) {
		return
	}
	delete(g.agents, s.hello.Agent)
	if len(g.agents) == 0 {
		delete(p.groups, s.hello.Group)
	}
}

// Agents names the connected agents of a group, in no order.
func (p *Pool) Agents(name string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.groups[name]
	if g == nil {
		return nil
	}
	return slices.AppendSeq(make([]string, 0, len(g.agents)), maps.Keys(g.agents))
}

// Idle names the agents of a group that no session uses: all their slots are warm, or
// have no worker at present, or one that its session has no use for. Least useful first:
// with the fewest warm workers, and then those that would be handed out last; behind them
// those that sessions hold. Cordoned ones are not among them.
func (p *Pool) Idle(group string) []string {
	type agent struct {
		name string
		held int
		warm int
		last time.Time // when it became warm
	}
	p.mu.Lock()
	var idle []agent
	for name, slots := range p.agents {
		if slots[0].hello.Group != group || p.cordons[name] || slices.ContainsFunc(slots, (*slot).inUse) {
			continue
		}
		a := agent{name: name}
		for _, s := range slots {
			if s.idles() {
				a.held++
			}
			if s.state == Warm {
				a.warm++
			}
			if s.since.After(a.last) {
				a.last = s.since
			}
		}
		idle = append(idle, a)
	}
	p.mu.Unlock()
	slices.SortFunc(idle, func(a, b agent) int {
		if c := cmp.Or(cmp.Compare(a.held, b.held), cmp.Compare(a.warm, b.warm), b.last.Compare(a.last)); c != 0 {
			return c
		}
		return cmp.Compare(a.name, b.name)
	})
	names := make([]string, len(idle))
	for i, a := range idle {
		names[i] = a.name
	}
	return names
}

// Cordon takes an agent out of the pool: none of its workers is handed out until
// Uncordon. It fails, and takes nothing out, when a session uses one of them. One that a
// session has no use for is asked back, and Cordon succeeds when it has come. An agent
// that is not there is cordoned when it comes.
func (p *Pool) Cordon(agent string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	slots := p.agents[agent]
	if slices.ContainsFunc(slots, (*slot).inUse) {
		return false
	}
	held := false
	for _, s := range slots {
		if s.idles() {
			held = true
			s.holder.evict()
		}
	}
	if held {
		return false
	}
	p.cordons[agent] = true
	for _, s := range slots {
		if s.state == Warm {
			p.warm.remove(s)
			p.setState(s, Cordoned, "")
		}
	}
	return true
}

// Uncordon puts the agent back into the pool, if it is there, and forgets its name.
func (p *Pool) Uncordon(agent string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.cordons, agent)
	for _, s := range p.agents[agent] {
		if s.state == Cordoned {
			p.offer(s)
		}
	}
}

// Wanted counts the workers that tenants want, by group: those that they use, of their
// groups, and those that they wait for, of any group, "". Each group that has a slot here
// is in it.
func (p *Pool) Wanted() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[string]int)
	for name, g := range p.groups {
		all[name] = g.used
	}
	for _, t := range p.queue {
		last := t.waiting[len(t.waiting)-1]
		wants := max(len(t.waiting), last.Total-t.held)
		if t.most > 0 {
			wants = min(wants, max(0, t.most-t.held))
		}
		all[last.Group] += wants
	}
	return all
}

// Slots counts the slots of a group, "" for all.
func (p *Pool) Slots(group string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for announced, g := range p.groups {
		if InGroup(announced, group) {
			n += g.slots
		}
	}
	return n
}

// Scarce reports whether anybody waits for a worker such as those of the group, and none is
// on its way.
func (p *Pool) Scarce(group string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.queue, func(t *Tenant) bool { return t.first(group, false) != nil })
}

// Turning reports whether a worker of the group is between two uses: its R ends or starts,
// for somebody who waits.
func (p *Pool) Turning(group string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for announced, g := range p.groups {
		if g.turning > 0 && InGroup(announced, group) {
			return true
		}
	}
	return false
}
