package assign

import (
	"cmp"
	"slices"
	"time"
)

// recall asks for the worker of g back, for w.
func (c *Core) recall(g *Grant, w *Want) {
	c.promise(w)
	g.heir = w
	if w.Tenant != g.Tenant {
		g.parting = true
		g.Tenant.parting++
		g.Tenant.traded, w.Tenant.traded = c.now, c.now
	}
	to := Claimed
	if g.State() != Reserved {
		g.rested, to = g.State(), Recalled
	}
	c.move(g.Slot, to)
	c.emit(Recall{g})
}

// stay takes back that the worker of g is about to leave its tenant.
func (c *Core) stay(g *Grant) {
	if g.parting {
		g.parting = false
		g.Tenant.parting--
	}
	c.unpromise(g.heir)
	g.heir = nil
}

// restore takes back that the worker of g was recalled or evicted, if it was, and moves it on.
func (c *Core) restore(g *Grant, to State) {
	from := g.State()
	c.stay(g)
	c.move(g.Slot, to)
	if from == Claimed || from == Recalled || from == Evicted {
		c.emit(Restored{g})
	}
}

// leave decides that the worker of g ends, and its successor goes to its heir.
func (c *Core) leave(g *Grant) {
	c.inherit(g.Slot)
	c.move(g.Slot, Leaving)
}

// end has the agent end the worker of g, which leaves.
func (c *Core) end(g *Grant) {
	c.move(g.Slot, Ending)
	c.emit(Finish{g})
}

// recallSpare recalls spare workers for the wants that come first. It returns how long to wait
// before the next look; 0 means that none is needed.
func (c *Core) recallSpare() (again time.Duration) {
	if c.unmet == 0 || c.spare.size() == 0 {
		return 0
	}
	var first *Want // that comes first for workers such as the last one
	var last *Grant
	for s := range c.spare.all() {
		g := s.grant
		if last == nil || last.State() != g.State() || last.Slot.Group != g.Slot.Group || c.wholes > 0 {
			first = c.next(g.Slot.Group, false, g)
		}
		last = g
		w, wait := c.heir(g, first)
		if w == nil {
			again = sooner(again, max(0, wait))
			continue
		}
		c.recall(g, w)
		if c.unmet == 0 {
			break
		}
		last = nil // another one comes first now
	}
	return sooner(again, c.nextTurn())
}

// recallUntouched asks for workers back that no session has used, from tenants that need all they
// ask for: for older ones of these, for those whose sessions compute already, and, after a rest,
// for whoever has fewer. The last one that was granted comes back first. It returns in what time
// to look again for the latter, 0 for never.
func (c *Core) recallUntouched() (again time.Duration) {
	if len(c.untouched) == 0 {
		return 0
	}
	claims, ordinary := c.claims()
	if len(claims) == 0 {
		return 0
	}
	var untouched []*Grant
	for g := range c.untouched {
		if g.State() == Reserved && !g.Tenant.complete {
			untouched = append(untouched, g)
		}
	}
	if len(untouched) == 0 {
		return 0
	}
	if ordinary {
		again = restLimit
	}
	slices.SortFunc(untouched, func(a, b *Grant) int {
		return cmp.Or(cmp.Compare(b.Tenant.age, a.Tenant.age), cmp.Compare(b.Number, a.Number))
	})
	for _, w := range claims {
		if !w.fits() { // by an earlier claim
			continue
		}
		i := slices.IndexFunc(untouched, func(g *Grant) bool {
			return InGroup(g.Slot.Group, w.Group) && c.precedes(w, g)
		})
		if i >= 0 {
			c.recall(untouched[i], w)
			untouched = slices.Delete(untouched, i, i+1)
		}
	}
	return again
}

// claims are the wants that may be for what others hold untouched, oldest tenant first. ordinary
// says that one of them is neither urgent nor of a tenant that needs all it asks for.
func (c *Core) claims() (claims []*Want, ordinary bool) {
	for _, t := range c.queue {
		for _, w := range t.waiting {
			if !w.promised && w.fits() && !(w.Whole && t.age == c.tenants) { // the youngest has no claims
				claims = append(claims, w)
				ordinary = ordinary || !w.Whole && !w.Urgent
			}
		}
	}
	return claims, ordinary
}

// precedes reports whether w comes before the tenant of g, whose session has not used the worker.
func (c *Core) precedes(w *Want, g *Grant) bool {
	switch {
	case w.Tenant == g.Tenant:
		return false
	case w.Urgent:
		return true
	case w.Whole:
		return g.Tenant.age > w.Tenant.age
	}
	return c.now.Sub(g.since) >= restLimit && g.Tenant.share() > w.Tenant.share()+1
}
