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

// spares is the list of the bound workers that their holders do not need at present,
// longest spare first.
type spares struct{ workers list.List }

func (s *spares) size() int { return s.workers.Len() }

// all goes through the workers; the one that it is at may leave.
func (s *spares) all() iter.Seq[*Worker] {
	return func(yield func(*Worker) bool) {
		for e := s.workers.Front(); e != nil; {
			next := e.Next()
			if !yield(e.Value.(*Worker)) {
				return
			}
			e = next
		}
	}
}

// put adds w, if it is not there, at the place that w.spareSince gives it: the last, but
// for one that was there before.
func (s *spares) put(w *Worker) {
	if w.spare != nil {
		return
	}
	e := s.workers.Back()
	for e != nil && e.Value.(*Worker).spareSince.After(w.spareSince) {
		e = e.Prev()
	}
	if e == nil {
		w.spare = s.workers.PushFront(w)
		return
	}
	w.spare = s.workers.InsertAfter(w, e)
}

// remove removes w, if it is there.
func (s *spares) remove(w *Worker) {
	if w.spare != nil {
		s.workers.Remove(w.spare)
		w.spare = nil
	}
}
