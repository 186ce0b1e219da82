package pool

import (
	"cmp"
	"slices"
	"time"
)

// Fair shares. Workers that are free go to whoever waits: to the tenant that has the
// fewest. One that a tenant has, but does not need at present, is recalled for another
// node of the same tenant at any time, since that costs nothing; for another tenant,
// which costs a new R, as these say; for one that has no use for a part of what it asks
// for, and asks for more than an equal share, only when it is idle: it would rest there.
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

// SetUp is a digest of the calls by which a worker was set up; the zero value is that of
// a worker which nobody has used.
type SetUp = [32]byte

// Tenant is who workers are shared among: one cluster, or a lease.
type Tenant struct {
	name string
	most int    // workers that it may hold
	age  uint64 // numbers the tenants as they come

	// Guarded by Pool.mu.
	held     int       // workers that it holds
	promised int       // of its waiters, those that a worker is on its way to
	leaving  int       // of its workers, those that were recalled for other tenants
	traded   time.Time // when it last gave or was promised another tenant's worker
	complete bool      // see Pool.Complete
	waiting  []*waiter // in the order in which they came
	urgent   int       // of these
}

// NewTenant makes a tenant that is called name in snapshots and holds at most most
// workers at a time; 0 is no bound.
func (p *Pool) NewTenant(name string, most int) *Tenant {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tenants++
	return &Tenant{name: name, most: most, age: p.tenants}
}

// full reports whether the tenant has as many workers as it may have.
func (t *Tenant) full() bool { return t.most > 0 && t.held+t.promised >= t.most }

// share is what the tenant is about to have.
func (t *Tenant) share() int { return t.held + t.promised - t.leaving }

// Want is what a caller of Acquire needs.
type Want struct {
	Tenant *Tenant
	Group  string // of the workers; "": any
	// Whole: the tenant is of use only when it has all that it asks for. Of two such
	// tenants the older one comes first, and has what the younger one holds untouched,
	// where each would else hold half.
	Whole bool
	// Urgent: the worker is to take the place of one that was lost in a call.
	Urgent bool
	// Total is how many workers the tenant has use for, if more than it waits for and has.
	Total int
	// SetUps are those that serve as well as a fresh worker, if a node of the same
	// tenant is done with one.
	SetUps []SetUp
}

// next is whose turn it is for a worker of group, nil if it is nobody's; those that a
// worker is on its way to count if promised says so. from is the worker, nil for one
// that is free. Called with the lock held.
func (p *Pool) next(group string, promised bool, from *Worker) *waiter {
	var best, whole *waiter
	for _, t := range p.queue {
		u := t.first(group, promised)
		switch {
		case u == nil || t.full() && !u.promised:
		case u.Urgent:
			return u
		case u.Whole:
			if whole == nil && p.suits(u, from) { // the queue is in the order of their age
				whole = u
			}
		case best == nil || t.share() < best.Tenant.share() || t.share() == best.Tenant.share() && u.arrived < best.arrived:
			best = u
		}
	}
	if best == nil || whole != nil && whole.Tenant.share() < best.Tenant.share() {
		return whole
	}
	return best
}

// suits reports whether u, which needs all that its tenant asks for, may have the worker
// of somebody else: when it is free or idle, or when the tenant asks for no more than what
// each had if those who compete had the same. One that comes node by node may be for more:
// it has waited for a turn then. Called with the lock held.
func (p *Pool) suits(u *waiter, from *Worker) bool {
	if from == nil || from.idle {
		return true
	}
	if u.untilTurn() > 0 {
		return false
	}
	total := u.Total
	if total == 0 { // for all that is known, this node is the last
		total = u.Tenant.share() + 1
	}
	shares, tenants := 0, len(p.queue)
	for _, t := range p.queue {
		shares += t.share()
	}
	if len(from.tenant.waiting) == 0 {
		shares += from.tenant.share()
		tenants++
	}
	return total <= shares/tenants
}

// balance gives what is free to whoever waits, and recalls what others can do without.
// Called with the lock held, whenever a caller begins to wait, a worker becomes free or
// spare, or one that was on its way to somebody is no more.
func (p *Pool) balance() {
	if len(p.queue) == 0 {
		return
	}
	p.serve()
	if again := sooner(p.recallUntouched(), p.recallSpare()); again > 0 {
		p.look.Reset(again)
	}
}

// sooner is the lesser of two times to look again; 0 is never.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// recallSpare asks for spare workers back for whoever comes first. It returns in what time
// one that stays may be somebody's, 0 for never. Called with the lock held.
func (p *Pool) recallSpare() (again time.Duration) {
	if p.unmet == 0 || p.spare.size() == 0 {
		return 0
	}
	var first *waiter // who comes first for workers that are as the last one was
	var last *Worker
	now := time.Now()
	for w := range p.spare.all() {
		if last == nil || last.idle != w.idle || last.slot.hello.Group != w.slot.hello.Group || p.wholes > 0 {
			first = p.next(w.slot.hello.Group, false, w)
		}
		last = w
		u, wait := p.heir(w, first, now)
		if u == nil {
			again = sooner(again, max(0, wait))
			continue
		}
		p.spare.remove(w)
		p.recount(w.slot)
		w.recall(u)
		if p.unmet == 0 {
			break
		}
		last = nil // somebody else comes first now
	}
	return sooner(again, p.nextTurn())
}

// nextTurn is in what time another cluster that comes node by node will have waited for a
// turn, 0 for none. Called with the lock held.
func (p *Pool) nextTurn() (left time.Duration) {
	if p.wholes == 0 {
		return 0
	}
	for _, t := range p.queue {
		if i := slices.IndexFunc(t.waiting, func(u *waiter) bool { return !u.promised }); i >= 0 {
			left = sooner(left, t.waiting[i].untilTurn())
		}
	}
	return left
}

// serve hands out free workers. Called with the lock held.
func (p *Pool) serve() {
	if p.warm.size() == 0 {
		return
	}
	unwanted := make(map[string]bool) // groups of workers that nobody can have
	for s := range p.warm.all() {
		if len(p.queue) == 0 {
			return
		}
		if unwanted[s.hello.Group] {
			continue
		}
		u := p.next(s.hello.Group, true, nil)
		if u == nil {
			unwanted[s.hello.Group] = true
			continue
		}
		p.warm.remove(s)
		p.give(s, u)
	}
}

// give hands s to u. Called with the lock held.
func (p *Pool) give(s *slot, u *waiter) {
	p.dequeue(u)
	u.given <- p.hold(s, u)
}

// heir is who is to have the spare worker w now, for which u comes first; if nobody, in
// what time somebody may. Called with the lock held.
func (p *Pool) heir(w *Worker, u *waiter, now time.Time) (heir *waiter, wait time.Duration) {
	own := w.tenant.first(w.slot.hello.Group, false)
	if u == nil || u == own {
		return own, 0
	}
	has, wants := w.tenant.share(), u.Tenant.share()
	wait = restLimit - now.Sub(w.spareSince)
	switch {
	case w.idle || wait <= 0 || has > wants+1:
		return u, 0
	case has > wants:
		left := turn - min(now.Sub(w.since), now.Sub(w.tenant.traded), now.Sub(u.Tenant.traded))
		if left <= 0 {
			return u, 0
		}
		wait = min(wait, left)
	}
	if own != nil {
		return own, 0
	}
	return nil, wait
}

// recallUntouched asks for reserved workers back, from tenants that need all they ask
// for, for such that are older, for those whose sessions compute already, and, after a
// rest, for whoever has fewer; the last first. It returns when to look again for the
// latter, 0 for never. Called with the lock held.
func (p *Pool) recallUntouched() (again time.Duration) {
	if len(p.untouched) == 0 {
		return 0
	}
	var claims []*waiter
	ordinary := false
	for _, t := range p.queue {
		if t.full() {
			continue
		}
		for _, u := range t.waiting {
			if !u.promised && !(u.Whole && t.age == p.tenants) { // the youngest has no claims
				claims = append(claims, u)
				ordinary = ordinary || !u.Whole && !u.Urgent
			}
		}
	}
	if len(claims) == 0 {
		return 0
	}
	var untouched []*Worker
	for w := range p.untouched {
		if w.slot.state == Reserved && !w.tenant.complete && !w.isRecalled() {
			untouched = append(untouched, w)
		}
	}
	if len(untouched) == 0 {
		return 0
	}
	if ordinary {
		again = restLimit
	}
	slices.SortFunc(untouched, func(a, b *Worker) int {
		return cmp.Or(cmp.Compare(b.tenant.age, a.tenant.age), cmp.Compare(b.number, a.number))
	})
	for _, u := range claims {
		if u.Tenant.full() { // by an earlier claim
			continue
		}
		i := slices.IndexFunc(untouched, func(w *Worker) bool {
			return InGroup(w.slot.hello.Group, u.Group) && u.claims(w)
		})
		if i >= 0 {
			untouched[i].recall(u)
			untouched = slices.Delete(untouched, i, i+1)
		}
	}
	return again
}

// claims reports whether u comes before the holder of w, which has not used it.
func (u *waiter) claims(w *Worker) bool {
	switch {
	case u.Tenant == w.tenant:
		return false
	case u.Urgent:
		return true
	case u.Whole:
		return w.tenant.age > u.Tenant.age
	}
	return time.Since(w.since) >= restLimit && w.tenant.share() > u.Tenant.share()+1
}

// Complete says that the tenant has all that it asked for: it keeps what it has.
func (p *Pool) Complete(t *Tenant) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t.complete = true
	for w := range p.untouched {
		if w.tenant == t && w.slot.state == Reserved {
			w.unrecall()
		}
	}
	p.balance()
}
