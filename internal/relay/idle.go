package relay

import "time"

// lookForHangUp looks after a session whose worker does not read, which may take
// hours: R reads its connection between calls; or that has none. A session that was
// killed meanwhile must not keep its worker, or its place, for as long.
func (s *Session) lookForHangUp() {
	s.watched.Store(false)
	if !s.blocked.Load() {
		return
	}
	if s.client.HungUp() || s.gone() {
		s.mu.Lock()
		s.ends(leftBy)
		s.mu.Unlock()
		if a := s.bound(); a != nil {
			a.worker.Abort()
		}
		s.deafen()
		return
	}
	if !s.watched.Swap(true) {
		s.watch.Reset(hangUpPace)
	}
}

// rest has the session looked at in a while, now that it may be idle.
func (s *Session) rest() {
	if !s.idling.Swap(true) {
		s.idle.Reset(forgetAfter)
	}
}

// lookForIdleness looks after a session that makes no calls: it forgets what a future
// was sent that is done, and offers the worker to whoever waits.
func (s *Session) lookForIdleness() {
	s.idling.Store(false)
	again := func() {
		s.idling.Store(true)
		s.idle.Reset(forgetAfter)
	}
	if !s.sending.TryLock() {
		again()
		return
	}
	defer s.sending.Unlock()
	if !s.writing.TryLock() { // its R does not read its last answer
		again()
		return
	}
	defer s.writing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls > 0 || s.partial || s.activity.Opaque {
		return
	}
	quiet := time.Since(s.activity.Since)
	switch {
	case quiet < forgetAfter:
	case s.history.done:
		s.history.forget()
	case s.history.since.Size() > smallHistory:
		s.history.since.lose(errForgotten)
	}
	if quiet < offerAfter {
		next := forgetAfter - quiet
		if next <= 0 {
			next = offerAfter - quiet
		}
		s.idling.Store(true)
		s.idle.Reset(next)
		return
	}
	s.offer(true)
}

// offer lets somebody else have the worker, if the next call can be made on another.
// Called with the lock held, while no call is under way.
func (s *Session) offer(idle bool) {
	if a := s.current; a != nil && !a.draining && s.history.movable(s.runsOnce()) {
		a.offered = true
		a.worker.Offer(s.history.sum, idle)
	}
}

// reconsider takes an offer back that must not be taken up any more. Called with the lock
// held.
func (s *Session) reconsider() {
	if a := s.current; a != nil && !s.history.movable(s.runsOnce()) {
		a.keep()
	}
}

// keep takes the worker's offer back, if there is one. Called with the lock held.
func (a *attempt) keep() {
	if a.offered {
		a.offered = false
		a.worker.Keep()
	}
}
