package assign

import "time"

// Fair shares. Free workers go to the tenant that has the fewest. One that a tenant has, but does
// not need at present, is recalled for another node of the same tenant at any time, since that
// costs nothing. For another tenant, which costs a new R, the two limits below apply. A tenant that
// needs all it asks for, and asks for more than an equal share, gets another tenant's worker only
// when that is idle: otherwise the worker would rest until the others come.
const (
	// restLimit is how long a tenant may keep a worker between two calls while others
	// wait. It is longer than what passes between the futures of one computation, which
	// looks for a free node every 0.2 s (future.wait.interval), and than what a new R
	// costs: at 250 ms two sessions on three workers restarted each of them every 2.6 s.
	restLimit = time.Second
	// turn is how long a tenant that has just one worker more than another keeps it when
	// both have use for it. With fewer workers than tenants they take turns; a change of
	// hands costs a new R, some 0.4 s. In that time a tenant takes part in one such change,
	// however many workers it has: among 41 with 72 or 71 each there is always a worker
	// that was somewhere for long enough, and 240 changed hands in a second (bench/elastic).
	turn = 5 * time.Second
)

// next returns the want that gets the next worker of group, nil if none does. Wants that a worker is
// on its way to count only if promised is true. from is the worker's grant, nil for a free worker.
func (c *Core) next(group string, promised bool, from *Grant) *Want {
	var best, whole *Want
	for _, t := range c.queue {
		w := t.first(group, promised)
		switch {
		case w == nil || !w.fits():
		case w.Urgent:
			return w
		case w.Whole:
			if whole == nil && c.suits(w, from) { // the queue is in the order of their age
				whole = w
			}
		case best == nil || t.share() < best.Tenant.share() || t.share() == best.Tenant.share() && w.arrived < best.arrived:
			best = w
		}
	}
	if best == nil || whole != nil && whole.Tenant.share() < best.Tenant.share() {
		return whole
	}
	return best
}

// suits reports whether w, which needs all that its tenant asks for, may have the worker of
// another tenant: when it is free or idle, or when w's tenant asks for no more than each would
// have if all that compete had the same. One that comes node by node may be for more: it has
// waited for a turn then.
func (c *Core) suits(w *Want, from *Grant) bool {
	if from == nil || from.State() == Idle {
		return true
	}
	if c.untilTurn(w) > 0 {
		return false
	}
	total := w.Total
	if total == 0 { // for all that is known, this node is the last
		total = w.Tenant.share() + 1
	}
	shares, tenants := 0, len(c.queue)
	for _, t := range c.queue {
		shares += t.share()
	}
	if len(from.Tenant.waiting) == 0 {
		shares += from.Tenant.share()
		tenants++
	}
	return total <= shares/tenants
}

// untilTurn is for how long w, of a cluster that comes node by node, must still wait before it may
// have another tenant's worker; 0 for any other.
func (c *Core) untilTurn(w *Want) time.Duration {
	if !w.Whole || w.Total > 0 {
		return 0
	}
	return max(0, turn-c.now.Sub(w.since))
}

// nextTurn is in what time another cluster that comes node by node will have waited for a turn, 0
// for none.
func (c *Core) nextTurn() (left time.Duration) {
	if c.wholes == 0 {
		return 0
	}
	for _, t := range c.queue {
		for _, w := range t.waiting {
			if !w.promised {
				left = sooner(left, c.untilTurn(w))
				break
			}
		}
	}
	return left
}

// heir is the want that is to have the spare worker of g now, for which first comes first; if
// there is none, in what time there may be.
func (c *Core) heir(g *Grant, first *Want) (heir *Want, wait time.Duration) {
	own := g.Tenant.first(g.Slot.Group, false)
	if first == nil || first == own {
		return own, 0
	}
	has, wants := g.Tenant.share(), first.Tenant.share()
	wait = restLimit - c.now.Sub(g.Slot.freeSince)
	switch {
	case g.State() == Idle || wait <= 0 || has > wants+1:
		return first, 0
	case has > wants:
		left := turn - min(c.now.Sub(g.since), c.now.Sub(g.Tenant.traded), c.now.Sub(first.Tenant.traded))
		if left <= 0 {
			return first, 0
		}
		wait = min(wait, left)
	}
	if own != nil {
		return own, 0
	}
	return nil, wait
}
