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
	element *list.Element // in the line of its state; nil in none
	// freeSince is when the worker became warm, or its session could last spare it.
	freeSince time.Time
	counted   bool // as used, by its group
	turning   bool // as turning, by its group
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

	since   time.Time // when the tenant got the worker
	heir    *Want     // that the worker was recalled for
	parting bool      // that is another tenant's
	left    SetUp     // as its holder leaves it
	rested  State     // Spare or Idle, before it was recalled
}

// State is what the grant's slot is in, Gone when the grant is over or the slot's connection was
// replaced.
func (g *Grant) State() State {
	if g.Slot.grant != g {
		return Gone
	}
	return g.Slot.state
}

// line is a list of slots whose workers are not needed, the one that has not been for longest first.
// Any of them may leave it at any time, at the same cost for ten thousand as for one.
type line struct{ slots list.List }

func (l *line) size() int { return l.slots.Len() }

// all goes through the slots, in their order; the one that it is at may leave.
func (l *line) all() iter.Seq[*Slot] {
	return func(yield func(*Slot) bool) {
		for e := l.slots.Front(); e != nil; {
			next := e.Next()
			if !yield(e.Value.(*Slot)) {
				return
			}
			e = next
		}
	}
}

// put inserts s in the order of freeSince: a worker that stays after a recall gets its old place.
func (l *line) put(s *Slot) {
	e := l.slots.Back()
	for e != nil && e.Value.(*Slot).freeSince.After(s.freeSince) {
		e = e.Prev()
	}
	if e == nil {
		s.element = l.slots.PushFront(s)
		return
	}
	s.element = l.slots.InsertAfter(s, e)
}

// remove removes s, if it is there.
func (l *line) remove(s *Slot) {
	if s.element != nil {
		l.slots.Remove(s.element)
		s.element = nil
	}
}
