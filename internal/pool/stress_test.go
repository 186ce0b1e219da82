package pool_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

const (
	stressAgents   = 20
	stressCallers  = 50
	stressSessions = 12
	stressSilence  = 200 * time.Millisecond // what an agent that does not answer costs
)

// mortal is an agent's slot that dies in every way there is until it is calm.
type mortal struct {
	r        *rendezvous
	index    int
	calm     *atomic.Bool
	reserved bool // as the agent sees it
}

// run connects again and again until ctx ends.
func (m *mortal) run(ctx context.Context) {
	for life := 0; ctx.Err() == nil; life++ {
		conn, err := link.Dial(ctx, m.r.listener.Addr().String(), nil, link.Timing{})
		if err != nil {
			continue
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		// The name tells one connection's worker from the next one's; the instance is
		// the same in two lives, of which the second replaces the first.
		h := hello(fmt.Sprintf("agent-%d-%d", m.index, life))
		h.Instance = fmt.Sprintf("%d-%d", m.index, life/2)
		if err := conn.Send(link.Hello, h); err == nil {
			_ = m.live(conn)
		}
		stop()
		conn.Close()
	}
}

// live returns when the connection has ended or is to be dropped.
func (m *mortal) live(conn *link.Conn) error {
	m.reserved = false
	for {
		frame, err := conn.Next()
		if err != nil {
			return err
		}
		chance := 100
		if !m.calm.Load() {
			chance = rand.IntN(30) // below 4 are mishaps
		}
		switch frame.Type {
		case link.Welcome:
			// Only a session that hangs is silent, and that must show.
			conn.StartHeartbeat()
			err = conn.Send(link.State, link.StateMessage{State: link.Warm})
		case link.Reserve:
			err = m.onReserve(conn, frame.Number(), chance)
		case link.Release:
			m.reserved = false
		case link.Data:
			err = m.onData(conn, frame.Payload, chance)
		case link.EOF:
			if m.reserved {
				err = m.replace(conn, true)
			}
		}
		if err != nil {
			return err
		}
	}
}

// replace is the end of a worker and the start of the next.
func (m *mortal) replace(conn *link.Conn, expected bool) error {
	m.reserved = false
	err := conn.Send(link.Exit, link.ExitMessage{Cause: "ended", Expected: expected})
	if err == nil {
		err = conn.Send(link.State, link.StateMessage{State: link.Starting})
	}
	if err == nil {
		err = conn.Send(link.State, link.StateMessage{State: link.Warm})
	}
	return err
}

func (m *mortal) onReserve(conn *link.Conn, number uint32, chance int) error {
	switch chance {
	case 0:
		return context.Canceled // dropped
	case 1:
		return m.replace(conn, false)
	case 2:
		return nil // no answer
	case 3:
		if err := conn.Send(link.State, link.StateMessage{State: link.Draining}); err != nil {
			return err
		}
		return context.Canceled // there is no way back from draining
	}
	m.reserved = true
	return conn.SendNumber(link.Reserved, number)
}

func (m *mortal) onData(conn *link.Conn, p []byte, chance int) error {
	switch {
	case chance == 0:
		return context.Canceled
	case chance == 1:
		return m.replace(conn, false)
	case !m.reserved:
		return nil // the rest of a session that is over
	}
	return conn.SendData(dataFrame(string(p)))
}

// ledger knows who was given which worker last.
type ledger struct {
	mu   sync.Mutex
	last map[string]*pool.Worker
}

// enter fails when w is given to a second holder before the first one's is over.
func (l *ledger) enter(w *pool.Worker) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.last[w.Name()]
	l.last[w.Name()] = w
	if before == nil {
		return nil
	}
	select {
	case <-before.Over():
		return nil
	default:
		return fmt.Errorf("worker %s has two holders", w.Name())
	}
}

// session acquires a worker and does what a node does with it, or gives up.
func (l *ledger) session(r *rendezvous) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if rand.IntN(5) == 0 {
		// Short enough to end in every phase of Acquire.
		ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(3000))*time.Microsecond)
		defer cancel()
	}
	want := r.want(rand.IntN(3)) // one tenant takes what there is, two want all they ask for
	want.SetUps = []pool.SetUp{{1}}
	w, err := r.Acquire(ctx, want)
	if err != nil {
		if ctx.Err() == nil || w != nil {
			return fmt.Errorf("Acquire: %v, %w", w, err)
		}
		return nil
	}
	if err := l.enter(w); err != nil {
		return err
	}
	s := newSink()
	if rand.IntN(5) == 0 {
		w.Release()
		return nil
	}
	if err := w.Bind(s); err != nil {
		return nil // it has died meanwhile
	}
	_ = w.SendData(dataFrame("ping"))
	limit := time.After(patience)
	for over := false; !over; {
		select {
		case event := <-s.events:
			if over = event != "data ping" && event != "drain"; !over && rand.IntN(2) == 0 {
				w.Offer(pool.SetUp{1}, rand.IntN(2) == 0)
				if rand.IntN(2) == 0 {
					w.Keep()
				} else if w.Yield() {
					w.End()
					return nil // another session may have it as it is, and hears of its end
				}
			}
			if !over {
				w.End()
			}
		case <-limit:
			return fmt.Errorf("worker %s: the session does not end", w.Name())
		}
	}
	select {
	case <-w.Over():
	default:
		return fmt.Errorf("worker %s has ended and is not over", w.Name())
	}
	return nil
}

func TestStress(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *pool.Config) { c.ReserveLimit = stressSilence })
	ctx, stop := context.WithCancel(context.Background())
	var calm atomic.Bool
	var agents, callers sync.WaitGroup
	defer agents.Wait()
	defer stop()
	for i := range stressAgents {
		m := &mortal{r: r, index: i, calm: &calm}
		agents.Go(func() { m.run(ctx) })
	}
	l := &ledger{last: make(map[string]*pool.Worker)}
	failed := make(chan error, stressCallers*stressSessions)
	for range stressCallers {
		callers.Go(func() {
			for range stressSessions {
				if err := l.session(r); err != nil {
					failed <- err
				}
			}
		})
	}
	callers.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	// Nobody wants anything any more: every slot finds back to a free worker.
	calm.Store(true)
	eventually(t, "all workers to be warm", func() bool {
		states, waiting := r.Counts()
		return states[pool.Warm] == stressAgents && waiting == 0 && len(r.Workers()) == stressAgents
	})
	r.expectCounts(t, map[pool.State]int{pool.Warm: stressAgents})
	if got := r.Wanted(); len(got) != 1 || got["group"] != 0 || r.Turning("") {
		t.Errorf("wanted: %v, turning: %v", got, r.Turning(""))
	}
	stop()
	agents.Wait()
	eventually(t, "all slots to go", func() bool { return len(r.Workers()) == 0 })
	r.expectCounts(t, nil)
	if got := r.Wanted(); len(got) != 0 || len(r.Agents("group")) != 0 {
		t.Errorf("wanted: %v, agents: %v", got, r.Agents("group"))
	}
}
