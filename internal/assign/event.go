package assign

// Event is something that has happened.
type Event interface{ apply(c *Core) }

// Effect is something that the caller of Apply has to do.
type Effect interface{ effect() }

type (
	// Joined: the slot's agent has connected.
	Joined struct{ Slot *Slot }
	// Replaced: another connection takes the slot's place, or its own is known to be dead. Its
	// grant lasts until Lost: what the worker has said last may be an answer that R still reads.
	Replaced struct{ Slot *Slot }
	// Lost: the slot's connection has ended.
	Lost struct{ Slot *Slot }
	// Reported: the agent says what the slot's worker does: Installing, Starting, Failed, Warm or
	// Draining. A worker that was held is over, unless the agent drains and a session uses the
	// worker or has just ended.
	Reported struct {
		Slot  *Slot
		State State
	}
	// Exited: the slot's worker has ended.
	Exited struct{ Slot *Slot }

	// Asked: the want begins to wait.
	Asked struct{ Want *Want }
	// Withdrawn: the want waits no longer.
	Withdrawn struct{ Want *Want }
	// Declined: the tenant does not take a grant of which nobody has told the agent yet.
	Declined struct{ Grant *Grant }
	// Released: the tenant gives back what its session has not used. One that another node of the
	// tenant has used ends.
	Released struct{ Grant *Grant }
	// Returned: the agent has been told that the slot's worker was released.
	Returned struct{ Slot *Slot }
	// Used: a session uses the worker from now on.
	Used struct{ Grant *Grant }
	// Spared: the session does not need its worker at present, and leaves it set up so. Idle: it
	// has not needed it for long.
	Spared struct {
		Grant *Grant
		SetUp SetUp
		Idle  bool
	}
	// Needed: the session needs its worker again. If it was recalled meanwhile, the core
	// looks for another worker for that want.
	Needed struct{ Grant *Grant }
	// Yielded: the session gives the worker to whom it was recalled for, if anyone still should
	// have it: handed over as it is to a node of its tenant, and else by its end.
	Yielded struct{ Grant *Grant }
	// Finished: the session has sent all that it sends to the worker.
	Finished struct{ Grant *Grant }
	// Completed: the tenant has all that it asked for, and keeps what it holds.
	Completed struct{ Tenant *Tenant }

	// Cordon asks to take the agent out: none of its workers is granted until Uncordon. Nothing is
	// taken out while a session uses one of them; workers that are idle are evicted first.
	Cordon struct{ Agent string }
	// Uncordon puts the agent back.
	Uncordon struct{ Agent string }
	// Wake: the time of NextWake has come.
	Wake struct{}
)

type (
	// Granted: the want has its worker, by this grant.
	Granted struct {
		Want  *Want
		Grant *Grant
	}
	// Recall: the holder should give the worker back, unless it needs it by now.
	Recall struct{ Grant *Grant }
	// Restored: the holder keeps the worker that it was to give back.
	Restored struct{ Grant *Grant }
	// Over: the tenant no longer holds the worker.
	Over struct{ Grant *Grant }
	// Finish: the agent must end the worker.
	Finish struct{ Grant *Grant }
)

func (Granted) effect()  {}
func (Recall) effect()   {}
func (Restored) effect() {}
func (Over) effect()     {}
func (Finish) effect()   {}

func (e Joined) apply(c *Core) {
	c.enlist(e.Slot)
	c.move(e.Slot, Starting)
}

func (e Replaced) apply(c *Core) {
	c.remove(e.Slot)
	c.balance()
}

func (e Lost) apply(c *Core) {
	c.finish(e.Slot)
	c.remove(e.Slot)
	c.balance()
}

func (c *Core) remove(s *Slot) {
	if s.state == Gone {
		return
	}
	c.disinherit(s)
	if s.grant != nil { // which cannot give back what is lost
		c.restore(s.grant, Gone)
	}
	c.move(s, Gone)
	c.delist(s)
}

func (e Reported) apply(c *Core) {
	s := e.Slot
	switch {
	case s.state == Gone:
		return // the last frame of a connection that was replaced
	case e.State == s.state || s.state == Draining:
		return // nothing new; there is no way back from draining
	case e.State == Draining && (s.state == Leaving || s.state == Ending):
		return // it ends anyway
	case e.State == Draining && s.state.bound():
		c.restore(s.grant, Departing)
		c.balance()
		return
	}
	c.restart(s)
	switch e.State {
	case Warm:
		c.offer(s)
		return
	case Failed, Draining:
		c.disinherit(s)
	}
	c.move(s, e.State)
	c.balance()
}

// restart notes that the worker of s is over, if it had one, and the next one is to come.
func (c *Core) restart(s *Slot) {
	c.finish(s)
	if s.state != Draining && s.state != Gone {
		c.move(s, Starting)
	}
}

func (e Exited) apply(c *Core) {
	c.restart(e.Slot)
	c.balance()
}

func (e Asked) apply(c *Core) {
	c.enqueue(e.Want)
	c.balance()
}

func (e Withdrawn) apply(c *Core) {
	if c.dequeue(e.Want) {
		c.balance()
	}
}

func (e Declined) apply(c *Core) {
	s := e.Grant.Slot
	switch e.Grant.State() {
	case Reserved, Claimed:
		c.inherit(s)
		c.finish(s)
		c.offer(s)
	}
}

func (e Released) apply(c *Core) {
	g := e.Grant
	switch state := g.State(); {
	case state != Reserved && state != Claimed:
	case g.SetUp != SetUp{}:
		c.leave(g)
		c.end(g)
	default:
		c.inherit(g.Slot)
		c.finish(g.Slot)
		c.move(g.Slot, Returning)
		c.balance() // the tenant may hold another one
	}
}

func (e Returned) apply(c *Core) {
	if e.Slot.state == Returning {
		c.offer(e.Slot)
	}
}

func (e Used) apply(c *Core) {
	g := e.Grant
	switch g.State() {
	case Reserved:
		delete(c.untouched, g)
		c.move(g.Slot, Bound)
	case Claimed:
		delete(c.untouched, g)
		c.restore(g, Bound)
		c.balance()
	}
}

func (e Spared) apply(c *Core) {
	g := e.Grant
	state := g.State()
	if state != Bound && state != Spare && state != Idle {
		return
	}
	g.left = e.SetUp
	if state == Bound {
		g.Slot.freeSince = c.now
	}
	if e.Idle || state == Idle {
		c.move(g.Slot, Idle)
	} else {
		c.move(g.Slot, Spare)
	}
	c.balance()
}

func (e Needed) apply(c *Core) {
	g := e.Grant
	switch g.State() {
	case Spare, Idle:
		c.move(g.Slot, Bound)
	case Recalled, Evicted:
		c.restore(g, Bound)
		c.balance()
	}
}

func (e Yielded) apply(c *Core) {
	g := e.Grant
	switch g.State() {
	case Evicted, Departing:
		c.leave(g)
		return
	case Recalled:
		if !g.heir.waits() {
			c.restore(g, g.rested)
		}
	case Spare, Idle:
	default:
		return
	}
	if g.heir == nil {
		if heir, _ := c.heir(g, c.next(g.Slot.Group, false, g)); heir != nil {
			c.recall(g, heir)
		}
	}
	if g.heir != nil {
		c.yield(g, g.heir)
	}
	c.balance() // a worker that stays may be for someone later
}

// yield gives the worker of g to heir, who waits.
func (c *Core) yield(g *Grant, heir *Want) {
	if !heir.takes(g) {
		c.leave(g)
		return
	}
	c.finish(g.Slot)
	c.dequeue(heir)
	c.hold(g.Slot, heir, g)
}

func (e Finished) apply(c *Core) {
	g := e.Grant
	if g.State().bound() {
		c.leave(g)
	}
	if g.State() == Leaving {
		c.end(g)
	}
}

func (e Completed) apply(c *Core) {
	e.Tenant.complete = true
	for g := range c.untouched {
		if g.Tenant == e.Tenant && g.State() == Claimed {
			c.restore(g, Reserved)
		}
	}
	c.balance()
}

func (Wake) apply(c *Core) { c.balance() }
