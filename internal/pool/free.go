package pool

import (
	"container/list"
	"iter"
)

// free is the list of the slots whose workers are free, longest waiting first. Any of
// them may leave it at any time, at the same cost for ten thousand as for one.
type free struct{ slots list.List }

func (f *free) size() int { return f.slots.Len() }

// all goes through the slots, longest waiting first; the one that it is at may leave.
func (f *free) all() iter.Seq[*slot] {
	return func(yield func(*slot) bool) {
		for e := f.slots.Front(); e != nil; {
			next := e.Next()
			if !yield(e.Value.(*slot)) {
				return
			}
			e = next
		}
	}
}

// put adds s, behind all others.
func (f *free) put(s *slot) { s.element = f.slots.PushBack(s) }

// remove removes s, if it is there.
func (f *free) remove(s *slot) {
	if s.element != nil {
		f.slots.Remove(s.element)
		s.element = nil
	}
}
