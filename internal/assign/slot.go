package assign

import (
	"container/list"
	"iter"
	"time"
)

// Slot is one place for a worker at an agent. Its names must not change after Joined.
type Slot struct {
	Agent, Group string

	state   State
	since   time.Time     // when its phase began
	grant   *Grant        // of the tenant that holds its worker; nil for nobody
	heir    *Want         // that is to have its next worker
	element *list.Element // in Core.free; nil while it is not free
	counted bool          // as used, by its group
	turning bool          // as turning, by its group
}

// State is what the slot is in.
func (s *Slot) State() State { return s.state }

// Since is when the phase of the slot's state began.
func (s *Slot) Since() time.Time { return s.since }

// Holder is the tenant that holds the slot's worker, nil for nobody.
func (s *Slot) Holder() *Tenant {
	if s.grant == nil {
		return nil
	}
	return s.grant.Tenant
}

// turns reports whether the slot's R ends or starts for a want.
func (s *Slot) turns() bool { return s.state.Phase() == PhaseEnding || s.heir != nil }

// inUse reports whether a session has use for the slot's worker, or is about to.
func (s *Slot) inUse() bool {
	return s.turns() || s.state == Returning || s.grant != nil && s.state != Idle
}

// Grant is the right of a tenant to the worker of a slot.
type Grant struct {
	Slot   *Slot
	Tenant *Tenant
	// Number is that of the reservation, which the agent is told. It outlives a hand-over.
	Number uint32
	// SetUp is how nodes of the tenant have set the worker up that had it before; zero: fresh.
	SetUp SetUp

	since      time.Time     // when the tenant got the worker
	heir       *Want         // that the worker was recalled for
	parting    bool          // that is another tenant's
	left       SetUp         // as its holder leaves it
	rested     State         // Spare or Idle, before it was recalled
	element    *list.Element // in Core.spare; nil while it is not there
	spareSince time.Time
}

// State is what the grant's slot is in, Gone when the grant is over or the slot's connection was
// replaced.
func (g *Grant) State() State {
	if g.Slot.grant != g {
		return Gone
	}
	return g.Slot.state
}

// free is the list of the slots whose workers are free, longest waiting first. Any of them may
// leave it at any time, at the same cost for ten thousand as for one.
type free struct{ slots list.List }

func (f *free) size() int { return f.slots.Len() }

// all goes through the slots, longest waiting first; the one that it is at may leave.
func (f *free) all() iter.Seq[*Slot] { return each[*Slot](&f.slots) }

// put adds s, behind all others.
func (f *free) put(s *Slot) { s.element = f.slots.PushBack(s) }

// remove removes s, if it is there.
func (f *free) remove(s *Slot) {
	if s.element != nil {
		f.slots.Remove(s.element)
		s.element = nil
	}
}

// spares is the list of the workers that their sessions do not need at present, longest spare
// first.
type spares struct{ grants list.List }

func (s *spares) size() int { return s.grants.Len() }

// all goes through the grants; the one that it is at may leave.
func (s *spares) all() iter.Seq[*Grant] { return each[*Grant](&s.grants) }

// put inserts g in the order of spareSince, unless it is in the list: a worker that stays after a
// recall gets its old place.
func (s *spares) put(g *Grant) {
	if g.element != nil {
		return
	}
	e := s.grants.Back()
	for e != nil && e.Value.(*Grant).spareSince.After(g.spareSince) {
		e = e.Prev()
	}
	if e == nil {
		g.element = s.grants.PushFront(g)
		return
	}
	g.element = s.grants.InsertAfter(g, e)
}

// remove removes g, if it is there.
func (s *spares) remove(g *Grant) {
	if g.element != nil {
		s.grants.Remove(g.element)
		g.element = nil
	}
}

// each goes through a list; the element that it is at may leave.
func each[T any](l *list.List) iter.Seq[T] {
	return func(yield func(T) bool) {
		for e := l.Front(); e != nil; {
			next := e.Next()
			if !yield(e.Value.(T)) {
				return
			}
			e = next
		}
	}
}
