package relay

import (
	"time"

	"github.com/psock-runtime/psock-runtime/internal/facts"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// relayUp carries bytes from the session to its worker until the session ends.
func (s *Session) relayUp(frame []byte) {
	buffer := make([]byte, Headroom+firstBuffer)
	for {
		if len(frame) > Headroom {
			if !s.forward(frame) {
				return
			}
			if len(frame) == len(buffer) && len(buffer) < bulkBuffer {
				// A full read: a large object is coming.
				buffer = make([]byte, bulkBuffer)
			}
		}
		n, err := s.read(buffer[Headroom:])
		if n == 0 && err != nil {
			return
		}
		frame = buffer[:Headroom+n]
	}
}

// forward passes frame on, or, while there is no worker, keeps it for the next, as much
// as is kept without one: beyond that the session waits. What a worker that has just been
// lost does not take is kept as well. It reports whether the session is still there: else the
// frame is left out, and what follows makes no sense.
func (s *Session) forward(frame []byte) bool {
	s.sending.Lock()
	defer s.sending.Unlock()
	for s.mustWait(len(frame) - Headroom) {
		s.sending.Unlock()
		heard := s.await()
		s.sending.Lock()
		if !heard {
			return false
		}
	}
	whole := !s.up.InMessage()
	messages, cut := s.scanUp(frame[Headroom:])
	if cut {
		s.abandon()
		return false
	}
	if s.up.InMessage() && len(frame) <= smallFrame {
		s.client.Acknowledge()
	}
	// What was in one piece no worker has a part of.
	if s.answersItself(whole && messages == 1) {
		return true
	}
	if a := s.bound(); a != nil && !s.withdraw(a) {
		_ = s.send(a, frame) // a failure is followed by Ended
		return true
	}
	signal(s.wanted)
	return true
}

// mustWait reports whether n bytes more are to be taken only when there is a worker
// for them: no more is kept without one. Called with sending held.
func (s *Session) mustWait(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = s.current == nil && !s.history.fits(n) && s.recoverable() == nil
	if s.held {
		s.stir()
	}
	return s.held
}

// await has the session get a worker, and returns when that is decided. It reports
// whether the session is still there.
func (s *Session) await() bool {
	s.block()
	defer s.blocked.Store(false)
	signal(s.wanted)
	select {
	case <-s.settled:
		return true
	case <-s.deaf:
		return false
	}
}

// signal wakes who waits for c, or is about to.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// block has the session looked after while what it sends is waited with. The timer is set
// once a second at most: to set and stop it with each frame would wake a thread each time.
func (s *Session) block() {
	s.blocked.Store(true)
	if !s.watched.Swap(true) {
		s.watch.Reset(hangUpPace)
	}
}

// send passes frame on to the worker.
func (s *Session) send(a *attempt, frame []byte) error {
	s.block()
	defer s.blocked.Store(false)
	return a.worker.SendData(frame)
}

// scanUp follows the calls that the session makes, and records them. It returns how many
// messages ended, and whether p must not be passed on, see cut. Called with sending held; mu is
// not held meanwhile, since the history may be on a slow disk.
func (s *Session) scanUp(p []byte) (messages int, cut bool) {
	s.mu.Lock()
	s.activity.UpBytes += int64(len(p))
	s.observer.Bytes(Up, len(p))
	s.stir()
	s.history.vacant = s.current == nil
	if s.denied != nil {
		s.history.drop()
	}
	s.mu.Unlock()
	for len(p) > 0 {
		followed := s.up.Opaque() == nil
		n, done := s.up.Scan(p)
		if s.cut(p[:n], done, followed) {
			return messages, true
		}
		if s.up.Opaque() == nil {
			s.history.record(p[:n])
		}
		p = p[n:]
		if done {
			messages++
			s.messageSent(s.up.Message(), len(p) == 0)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.partial = s.up.InMessage()
	s.noteOpaque(s.up.Opaque())
	return messages, false
}

// stir notes that the session is sending a call. Called with sending and the lock held.
func (s *Session) stir() {
	if !s.activity.Busy && s.up.Opaque() == nil {
		// Busy from the first byte: an agent that drains must not end a worker
		// to which a call is on its way.
		s.activity.Busy, s.activity.Since = true, time.Now()
	}
	if s.history.done && s.calls == 0 && !s.partial {
		s.history.forget()
	}
	s.history.overtake()
	s.partial = true
	if a := s.current; a != nil {
		a.keep()
	}
}

// messageSent notes the end of a message of the session; last says that nothing has come
// behind it yet. Called with sending held.
func (s *Session) messageSent(m psock.Message, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch m.Kind {
	case psock.KindExec:
		call := facts.Unknown
		if s.calls == 0 {
			call = s.history.call()
		}
		if call == facts.Validation { // of a node that future takes for free
			s.history.unlaunched(s.current == nil)
		}
		s.calls++
		s.xdr, s.tagged = m.XDR, m.Tagged
		switch {
		case call == facts.Reset:
			s.history.restart(s.current == nil)
			s.deaths, s.reruns = nil, 0
		case last && s.history.pose(call):
			return // it is kept apart
		default:
			s.history.sent(call)
		}
	case psock.KindDone:
		s.stopped = true
		s.activity.Busy = s.calls > 0
		// stopNode() of parallel reads nothing more, and closes the connection: R 4.6 waits up
		// to 5 s for the worker to do so first.
		s.out.closeWrite()
	}
	s.history.next()
}

// noteOpaque counts, once, a session that is no longer followed. Called with the
// lock held.
func (s *Session) noteOpaque(err error) {
	if err == nil || s.activity.Opaque {
		return
	}
	s.activity.Opaque, s.activity.Busy = true, false
	s.observer.Opaque(err)
}
