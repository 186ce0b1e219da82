package assign

import (
	"cmp"
	"slices"
	"time"
)

// SetUp is a digest of the calls by which a worker was set up; the zero value is that of a worker
// that no session has used.
type SetUp = [32]byte

// Tenant is who workers are shared among: one cluster, or a lease.
type Tenant struct {
	Name string
	most int    // workers that it may hold; 0 is no bound
	age  uint64 // numbers the tenants as they come

	held     int       // workers that it holds
	promised int       // of its wants, those that a worker is on its way to
	parting  int       // of its workers, those that other tenants are to have
	traded   time.Time // when it last gave or was promised another tenant's worker
	complete bool      // see Completed
	waiting  []*Want   // in the order in which they came
	urgent   int       // of these
}

// NewTenant makes a tenant that may hold at most most workers at a time; 0 is no bound. One that
// is made later comes later.
func (c *Core) NewTenant(name string, most int) *Tenant {
	c.tenants++
	return &Tenant{Name: name, most: most, age: c.tenants}
}

// share is what the tenant is about to have.
func (t *Tenant) share() int { return t.held + t.promised - t.parting }

// Want asks for one worker.
type Want struct {
	Tenant *Tenant
	Group  string // of the worker; "": any
	// Whole: the tenant needs all that it asks for before it can begin. The older of two such tenants
	// comes first and gets what the younger one holds and has not used. Otherwise each could hold
	// half, and neither could begin.
	Whole bool
	// Urgent: the worker takes the place of one that was lost in a call.
	Urgent bool
	// Total is how many workers the tenant has use for, if more than it waits for and has.
	Total int
	// SetUps are those that serve as well as a fresh worker, if a node of the same tenant is done
	// with one.
	SetUps []SetUp

	arrived  uint64
	since    time.Time
	waiting  bool // in Tenant.waiting
	promised bool // a worker is on its way to it
}

// waits reports whether w, which may be nil, still waits.
func (w *Want) waits() bool { return w != nil && w.waiting }

// fits reports whether the tenant may get a worker for w now. A worker of its own that is on its way
// to w still counts as held.
func (w *Want) fits() bool {
	t := w.Tenant
	return t.most == 0 || t.held+t.promised-oneIf(w.promised) < t.most
}

// takes reports whether the worker of g, as it is, serves w.
func (w *Want) takes(g *Grant) bool {
	return w.Tenant == g.Tenant && slices.Contains(w.SetUps, g.left)
}

// enqueue makes w wait.
func (c *Core) enqueue(w *Want) {
	c.arrived++
	w.arrived, w.since, w.waiting = c.arrived, c.now, true
	t := w.Tenant
	if len(t.waiting) == 0 {
		behind, _ := slices.BinarySearchFunc(c.queue, t.age, func(t *Tenant, age uint64) int { return cmp.Compare(t.age, age) })
		c.queue = slices.Insert(c.queue, behind, t)
	}
	t.waiting = append(t.waiting, w)
	c.count(w, 1)
}

// count counts a want that waits in, or out.
func (c *Core) count(w *Want, n int) {
	c.unmet += n
	if w.Urgent {
		w.Tenant.urgent += n
	}
	if w.Whole {
		c.wholes += n
	}
}

// dequeue makes w wait no longer; it reports whether it did.
func (c *Core) dequeue(w *Want) bool {
	if !w.waiting {
		return false
	}
	c.unpromise(w)
	c.count(w, -1)
	w.waiting = false
	t := w.Tenant
	i := slices.Index(t.waiting, w)
	t.waiting = slices.Delete(t.waiting, i, i+1)
	if len(t.waiting) == 0 {
		c.queue = slices.DeleteFunc(c.queue, func(other *Tenant) bool { return other == t })
	}
	return true
}

func (c *Core) promise(w *Want) {
	w.promised = true
	w.Tenant.promised++
	c.unmet--
}

func (c *Core) unpromise(w *Want) {
	if w != nil && w.promised {
		w.promised = false
		w.Tenant.promised--
		c.unmet++
	}
}

// first is the tenant's want that comes first for a worker of group, nil if there is none; one
// that a worker is on its way to counts if promised says so.
func (t *Tenant) first(group string, promised bool) *Want {
	if t.promised == len(t.waiting) && !promised {
		return nil
	}
	var best *Want
	for _, w := range t.waiting {
		if !InGroup(group, w.Group) || w.promised && !promised {
			continue
		}
		if w.Urgent || t.urgent == 0 {
			return w
		}
		if best == nil {
			best = w
		}
	}
	return best
}
