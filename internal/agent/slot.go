package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/link"
	"go.uber.org/zap"
)

// stableRun is how long after its start a worker's end does not count as a failure
// to start any more.
const stableRun = 10 * time.Second

// slot is one place for a worker. Two goroutines own its two halves: keepRunning
// the worker, keepConnected the connection to the rendezvous. They meet in the
// fields that mu guards; it is never held during network I/O.
type slot struct {
	agent *Agent
	index int
	log   *zap.Logger

	// telling is held while the slot's state changes or its worker has ended and the
	// rendezvous is told, so that it hears the last news last. Taken before mu.
	telling sync.Mutex

	mu       sync.Mutex
	state    link.StateMessage
	proven   bool       // a worker has been warm since the last failure
	conn     *link.Conn // nil while not connected
	worker   *worker    // nil while there is none
	draining bool
	told     usage // what the rendezvous knows
}

func newSlot(a *Agent, index int) *slot {
	return &slot{
		agent: a, index: index, log: a.config.Log.With(zap.Int("slot", index)),
		state: link.StateMessage{State: link.Starting},
	}
}

// ready says why the slot is not ready, nil when it is.
func (s *slot) ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining:
		return errors.New("draining")
	case s.state.State == link.Failed:
		return errors.New(s.state.Reason)
	case s.conn == nil:
		return errors.New("not connected to the rendezvous")
	case !s.proven:
		return fmt.Errorf("worker is %s", s.state.State)
	}
	return nil
}

// announce sets the state that the rendezvous is told, now and after a reconnect.
func (s *slot) announce(ctx context.Context, message link.StateMessage) {
	s.telling.Lock()
	defer s.telling.Unlock()
	s.mu.Lock()
	switch message.State {
	case link.Warm:
		s.proven = true
	case link.Failed:
		s.proven = false
	}
	s.state = message
	conn := s.conn
	s.mu.Unlock()
	tell(ctx, conn, link.State, message)
}

// lastWords is how long what is said after the drain budget may take, by R and then by
// the agent.
const lastWords = time.Second

// tell sends, if there is a connection. Behind what a session does not read it
// blocks; soon after ctx has ended that is enough, and the connection is closed. One
// that fails is noticed by the goroutine that reads it.
func tell(ctx context.Context, conn *link.Conn, t link.Type, message any) {
	if conn == nil {
		return
	}
	sent := make(chan struct{})
	defer close(sent)
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-sent:
		case <-time.After(lastWords):
			conn.Close()
		}
	})
	defer stop()
	if err := conn.Send(t, message); err != nil {
		conn.Close()
	}
}

// keepRunning starts a worker, waits for its end, and starts the next, until ctx
// ends; then a bound worker may go on until its session ends or hard does.
func (s *slot) keepRunning(ctx, hard context.Context) {
	pause := newBackoff(500*time.Millisecond, 30*time.Second)
	for failed := false; ctx.Err() == nil; {
		if !failed {
			// Another attempt is no news: until it succeeds, what there is to say is
			// why the last one failed.
			s.announce(hard, link.StateMessage{State: link.Starting})
		}
		w, err := s.start(ctx)
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			failed = true
			wait := pause.NextBackOff()
			s.agent.config.Metrics.startFailures.Inc()
			s.log.Error("worker cannot start", zap.Error(err), zap.Duration("retryIn", wait))
			s.announce(hard, link.StateMessage{State: link.Failed, Reason: err.Error()})
			sleep(ctx, wait, nil)
			continue
		}
		failed = false
		s.mu.Lock()
		s.worker = w
		s.mu.Unlock()
		s.log.Info("worker ready", zap.Int("pid", w.process.PID()), zap.Duration("took", time.Since(w.started)))
		s.announce(hard, link.StateMessage{State: link.Warm, PID: w.process.PID(), R: s.agent.awaitVersion(ctx)})
		s.await(ctx, hard, w)
		exit := w.end(hard)
		w.clean()
		s.report(hard, w, exit)
		if w.wasUsed() || time.Since(w.started) > stableRun {
			pause.Reset()
		} else if !sleep(ctx, pause.NextBackOff(), nil) {
			break
		}
	}
	s.announce(hard, link.StateMessage{State: link.Draining})
}

// await returns when w has to end or has ended. Once ctx has ended, an idle worker
// ends at once, and one that a session has reserved when the rendezvous gives it
// back or ends the session, which it does after the call that is under way.
func (s *slot) await(ctx, hard context.Context, w *worker) {
	select {
	case <-w.finished:
		return
	case <-ctx.Done():
	}
	s.mu.Lock()
	s.draining = true
	reserved := s.conn != nil && w.reserved
	s.mu.Unlock()
	s.announce(hard, link.StateMessage{State: link.Draining})
	if !reserved {
		return
	}
	select {
	case <-w.finished:
	case <-hard.Done():
		s.log.Warn("drain budget spent, ending the worker in the middle of its call")
		w.finish(drainSpent)
	}
}

// report logs how w, which the slot has no more, ended and tells the rendezvous.
func (s *slot) report(ctx context.Context, w *worker, exit link.ExitMessage) {
	if exit.Expected {
		s.log.Info("worker ended", zap.String("cause", exit.Cause), zap.Duration("lived", time.Since(w.started)))
	} else {
		s.log.Warn("worker died", zap.String("cause", exit.Cause), zap.Duration("lived", time.Since(w.started)), zap.Strings("lines", exit.Lines))
	}
	s.agent.config.Metrics.ended(exit.Expected)
	s.telling.Lock()
	defer s.telling.Unlock()
	s.mu.Lock()
	s.worker = nil
	conn := s.conn
	s.mu.Unlock()
	tell(ctx, conn, link.Exit, exit)
}
