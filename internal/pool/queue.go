package pool

import (
	"cmp"
	"slices"
	"time"
)

// waiter is a caller of Acquire that waits.
type waiter struct {
	Want
	arrived  uint64
	since    time.Time
	promised bool         // a worker is on its way to it
	given    chan *Worker // buffered: a worker is given at most once
}

// enqueue makes u wait. Called with the lock held.
func (p *Pool) enqueue(u *waiter) {
	t := u.Tenant
	if len(t.waiting) == 0 {
		behind, _ := slices.BinarySearchFunc(p.queue, t.age, func(t *Tenant, age uint64) int { return cmp.Compare(t.age, age) })
		p.queue = slices.Insert(p.queue, behind, t)
	}
	t.waiting = append(t.waiting, u)
	p.count(u, 1)
}

// count counts a waiter in, or out.
func (p *Pool) count(u *waiter, n int) {
	p.unmet += n
	if u.Urgent {
		u.Tenant.urgent += n
	}
	if u.Whole {
		p.wholes += n
	}
}

// dequeue makes u wait no longer; it reports whether it did. Called with the lock held.
func (p *Pool) dequeue(u *waiter) bool {
	t := u.Tenant
	i := slices.Index(t.waiting, u)
	if i < 0 {
		return false
	}
	p.unpromise(u)
	p.count(u, -1)
	t.waiting = slices.Delete(t.waiting, i, i+1)
	if len(t.waiting) == 0 {
		p.queue = slices.DeleteFunc(p.queue, func(other *Tenant) bool { return other == t })
	}
	return true
}

func (p *Pool) waits(u *waiter) bool { return u != nil && slices.Contains(u.Tenant.waiting, u) }

func (p *Pool) promise(u *waiter) {
	u.promised = true
	u.Tenant.promised++
	p.unmet--
}

func (p *Pool) unpromise(u *waiter) {
	if u != nil && u.promised {
		u.promised = false
		u.Tenant.promised--
		p.unmet++
	}
}

// first is the waiter of t that comes first for a worker of group, nil if there is none;
// one that a worker is on its way to counts if promised says so.
func (t *Tenant) first(group string, promised bool) *waiter {
	if t.promised == len(t.waiting) && !promised {
		return nil
	}
	var best *waiter
	for _, u := range t.waiting {
		if !InGroup(group, u.Group) || u.promised && !promised {
			continue
		}
		if u.Urgent || t.urgent == 0 {
			return u
		}
		if best == nil {
			best = u
		}
	}
	return best
}

// untilTurn is for how long u, of a cluster that comes node by node, has still to wait
// before it may have somebody else's worker; 0 for any other.
func (u *waiter) untilTurn() time.Duration {
	if !u.Whole || u.Total > 0 {
		return 0
	}
	return max(0, turn-time.Since(u.since))
}
