package relay

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/facts"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// call tells what the message in progress, of which all is there, is for. The worker's
// answer confirms a reset.
func (h *history) call() facts.Call {
	if h.flushed || h.dropped {
		return facts.Unknown
	}
	return facts.Of(h.head)
}

// pose takes the message in progress, of which all is there, for a question or the loading
// of a namespace, and reports whether it is one. There is none in the middle of a future.
// Called with Session.mu held as well, while no other call is under way.
func (h *history) pose(call facts.Call) bool {
	switch {
	case h.reset && !h.done && !h.since.spoilt: // in the middle of a future
		return false
	case call.Keeps():
	case call == facts.Load && h.plain() && (len(h.loads) < mostLoads || h.loaded(h.head)):
	default:
		return false
	}
	h.ask, h.asked, h.head = h.head, call, nil
	h.launches = false
	return true
}

// loaded reports whether call has loaded a namespace already. Called with Session.mu held.
func (h *history) loaded(call []byte) bool {
	return slices.ContainsFunc(h.loads, func(load []byte) bool { return bytes.Equal(load, call) })
}

// overtake makes a question under way a call as any other: something is sent behind it, and
// which of the two a lost worker has had is not known. Called with Session.mu held as well.
func (h *history) overtake() {
	if ask := h.ask; ask != nil {
		h.ask = nil
		h.keep(ask)
		h.mark()
	}
}

// questions counts the calls due that are not kept with the others: one or none.
func (h *history) questions() int {
	if h.ask != nil {
		return 1
	}
	return 0
}

// asks reports whether all that is under way is a question, or the loading of a namespace:
// any worker can be asked again. Called with the lock held.
func (s *Session) asks() bool { return s.history.ask != nil && s.calls == 1 && !s.partial }

// renewable reports whether nothing is missed of the state that the lost worker had. Called
// with the lock held.
func (s *Session) renewable() bool {
	h := s.history
	switch {
	case h.done:
		return s.asks() && !h.foreign
	case h.reset:
		return true
	}
	return h.plain() && (s.asks() || !s.vacancy.inCall)
}

// answersItself answers the question under way in a worker's place, if its answer is known.
// That a node works is: its next future gets a worker. free says that no worker has been
// sent a part of it. It reports whether it has answered.
func (s *Session) answersItself(free bool) bool {
	s.mu.Lock()
	known := s.ownAnswer(free)
	s.mu.Unlock()
	if known == nil {
		return false
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.out.write(known); err != nil {
		s.deafen()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.current; a != nil && a.draining && !s.activity.Busy {
		a.goodbye()
	}
	return true
}

// ownAnswer takes the answer to the question under way, if it is known. Called with the
// lock held.
func (s *Session) ownAnswer(free bool) []byte {
	h := s.history
	if !s.asks() || s.activity.Opaque || s.midway || s.denied != nil {
		return nil
	}
	var reply []byte
	switch known := s.answers().to(h.ask); {
	case h.asked == facts.Validation && s.current == nil && !h.missing && (h.setUp.spoilt || h.setUp.err() != nil):
		return nil // it gets no worker any more: future makes it again
	case h.asked == facts.Validation && (free || s.current == nil):
		reply = psock.AppendText(nil, facts.ValidationText, s.xdr)
	case known != nil && s.current == nil:
		reply, h.ask = known.bytes, known.call // one copy for all nodes
	default:
		return nil
	}
	h.answered(psock.Message{Success: true}, false)
	s.calls, s.deaths, s.vacancy.inCall = 0, nil, false
	s.activity.Busy, s.activity.Since = false, time.Now()
	s.activity.DownBytes += int64(len(reply))
	s.observer.Bytes(Down, len(reply))
	s.rest()
	if h.done || s.recovery.Shared && !h.reset {
		s.offer(false)
	}
	return reply
}

// acquire reserves a worker for the calls under way. It fails early when they are a question
// whose answer becomes known meanwhile.
func (s *Session) acquire(ctx context.Context) (Worker, error) {
	if told := s.told(); told != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		go func() {
			select {
			case <-told:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	return s.recovery.Acquire(ctx, s.need())
}

// answers are what may answer a question of this node: one whose worker is as a fresh one.
// Called with the lock held.
func (s *Session) answers() *Answers {
	if !s.history.plain() {
		return nil
	}
	return s.recovery.Answers
}

// told is closed when the answer to the question under way is known; nil if it is not one.
func (s *Session) told() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answers() == nil || !s.asks() {
		return nil
	}
	return s.answers().told(s.history.ask)
}
