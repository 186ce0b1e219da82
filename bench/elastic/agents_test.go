package elastic_test

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/pool"
)

// restart is how long a fresh R takes (docs/scaling.md).
const restart = 400 * time.Millisecond

// timing: heartbeats are not what is looked at here, and would be half of the work.
var timing = link.Timing{Heartbeat: time.Minute, Silence: 3 * time.Minute}

// agent is a fake one with one slot. It speaks the protocol and has no R: a call is a
// number of nanoseconds, after which it is answered.
type agent struct {
	conn *link.Conn

	mu   sync.Mutex
	held bool        // somebody has the worker
	call *time.Timer // of what is computed, or of the R that starts
}

// connect is an agent whose pod has started, and the pool's side of its connection.
func connect(ctx context.Context, p *pool.Pool, name, node string, running *sync.WaitGroup) *agent {
	near, far := link.Pipe(timing)
	a := &agent{conn: near}
	welcome := make(chan struct{}, 1)
	running.Go(func() { _ = p.Serve(ctx, far, func() {}) }) // an error shows in the pool
	running.Go(func() { a.serve(welcome) })
	_ = a.conn.Send(link.Hello, link.HelloMessage{
		Version: link.Version, Agent: name, Instance: "of-" + name, Slots: 1, Group: pool.DefaultGroup, Build: "bench", Node: node, R: "4.5.1",
	})
	select {
	case <-welcome:
		a.warm()
	case <-ctx.Done():
	}
	return a
}

func (a *agent) warm() { a.say(link.Warm) }

func (a *agent) say(state link.WorkerState) {
	// A connection that is no more is the end of the agent.
	_ = a.conn.Send(link.State, link.StateMessage{State: state, PID: 17})
}

// serve does what an agent does, until its connection ends.
func (a *agent) serve(welcome chan<- struct{}) {
	for {
		frame, err := a.conn.Next()
		if err != nil {
			a.conn.Close()
			a.set(false, nil)
			return
		}
		switch frame.Type {
		case link.Welcome:
			a.conn.StartHeartbeat()
			welcome <- struct{}{}
		case link.Reserve:
			a.set(true, nil)
			_ = a.conn.SendNumber(link.Reserved, frame.Number())
		case link.Release:
			a.set(false, nil)
		case link.Data:
			took := time.Duration(binary.BigEndian.Uint64(frame.Payload))
			a.set(true, time.AfterFunc(took, func() { _ = a.conn.SendData(make([]byte, link.HeaderSize+1)) }))
		case link.EOF:
			a.set(false, nil)
			a.replace()
		}
	}
}

// replace is the end of a session's worker and the start of the next one.
func (a *agent) replace() {
	_ = a.conn.SendEOF()
	_ = a.conn.Send(link.Exit, link.ExitMessage{Cause: "its session ended", Expected: true})
	a.say(link.Starting)
	a.set(false, time.AfterFunc(restart, a.warm))
}

// set notes who has the worker and what it does, instead of what it did.
func (a *agent) set(held bool, call *time.Timer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.call != nil {
		a.call.Stop()
	}
	a.held, a.call = held, call
}

func (a *agent) isHeld() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.held
}

// leave is the end of its pod.
func (a *agent) leave() {
	a.say(link.Draining)
	a.conn.Close()
}

// call is what a worker is sent that computes for so long.
func call(took time.Duration) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, link.HeaderSize), uint64(took))
}
