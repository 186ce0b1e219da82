package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/leftover"
	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/scratch"
	"github.com/psock-runtime/psock-runtime/internal/socket"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
	"go.uber.org/zap"
)

// worker is one R process and its PSOCK connection, for one session at most.
type worker struct {
	slot    *slot
	process *psock.Process
	conn    *socket.Conn // R's end of PSOCK, on loopback
	started time.Time
	folder  scratch.Folder
	user    *scratch.User    // of the scratch folders
	left    *leftover.Worker // the processes that it leaves

	// Guarded by slot.mu.
	reserved    bool
	reservation uint32 // its number, that of the last one

	used        atomic.Bool
	interrupted atomic.Bool // R has been sent SIGINT, or is about to be
	dead        atomic.Bool // R has ended

	finishing sync.Once
	reason    string        // written before finished is closed
	expected  bool          // the same
	finished  chan struct{} // closed when the worker has to end or has ended
	drained   chan struct{} // closed when everything R wrote has been passed on
}

// start starts R and waits until it has connected: a warm worker.
func (s *slot) start(ctx context.Context) (w *worker, err error) {
	// R dials; nobody else is let in, and the listener is closed behind it.
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("listening for R on loopback: %w", err)
	}
	defer listener.Close()
	folder, user, err := s.agent.prepare()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.agent.leave(user)
			s.agent.folders.Discard(folder)
		}
	}()
	started, left := time.Now(), s.agent.processes.Start(string(folder))
	spec := s.agent.spec(folder, listener.Addr().(*net.TCPAddr).Port)
	spec.Output = func(line psock.Line) {
		s.log.Info("R", zap.String("line", line.Text), zap.Bool("stderr", line.Stderr))
	}
	spec.Ended = func() { s.endLeft(left) }
	process, err := psock.Start(spec)
	if err != nil {
		s.endLeft(left) // nothing, which it has to be told
		return nil, err
	}
	conn, err := s.accept(ctx, listener, process)
	if err != nil {
		process.Stop(s.agent.config.StopGrace)
		return nil, err
	}
	left.Warm()
	if err := user.Warm(); err != nil {
		conn.Close()
		process.Stop(s.agent.config.StopGrace)
		return nil, err
	}
	w = &worker{
		slot: s, process: process, conn: conn, started: started, folder: folder, user: user, left: left,
		finished: make(chan struct{}), drained: make(chan struct{}),
	}
	go w.relay()
	return w, nil
}

// accept waits for R's connection.
func (s *slot) accept(ctx context.Context, listener *net.TCPListener, process *psock.Process) (conn *socket.Conn, err error) {
	type result struct {
		conn *socket.Conn
		err  error
	}
	accepted := make(chan result, 1)
	go func() {
		conn, err := s.acceptOwn(listener)
		accepted <- result{conn, err}
	}()
	limit := time.NewTimer(s.agent.config.StartLimit)
	defer limit.Stop()
	defer func() {
		if err != nil {
			// It may have been accepted in this very moment.
			listener.Close()
			if r := <-accepted; r.conn != nil {
				r.conn.Close()
			}
		}
	}()
	select {
	case r := <-accepted:
		if r.err != nil {
			accepted <- r // for the above
		}
		return r.conn, r.err
	case <-process.Done():
		return nil, fmt.Errorf("the worker ended before it was ready: %s", process.Exit())
	case <-limit.C:
		return nil, fmt.Errorf("the worker did not connect within %s of its start", s.agent.config.StartLimit)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// acceptOwn accepts the first connection of this user's.
func (s *slot) acceptOwn(listener *net.TCPListener) (*socket.Conn, error) {
	for {
		conn, err := listener.AcceptTCP()
		if err != nil {
			return nil, err
		}
		if err := s.agent.own(conn); err != nil {
			s.log.Warn("refused a connection to R's loopback port", zap.Error(err))
			conn.Close()
			continue
		}
		return socket.New(conn)
	}
}

// own refuses a connection of another user's process, which could pose as R.
func (a *Agent) own(conn *net.TCPConn) error {
	if a.config.PeerUID == nil {
		return nil
	}
	uid, err := a.config.PeerUID(conn.LocalAddr(), conn.RemoteAddr())
	if err != nil {
		return err
	}
	if int(uid) != os.Geteuid() {
		return fmt.Errorf("the process at %s belongs to user %d, R runs as user %d", conn.RemoteAddr(), uid, os.Geteuid())
	}
	return nil
}

// deliver writes the session's bytes, which came over from, to R, blocking while R
// does not read. That may take hours, since R reads between calls; when from is
// lost meanwhile, nobody wants them any more.
func (w *worker) deliver(from *link.Conn, p []byte) {
	if w.used.CompareAndSwap(false, true) {
		w.left.Used()
		w.slot.agent.notMarked(w.user.Use())
	}
	if _, err := w.conn.WriteWhile(p, time.Second, from.Check); err != nil {
		if from.Check() != nil {
			from.Close() // the next read fails, and disconnected sees to the worker
			return
		}
		// R has gone; relay and the process tell the story.
		w.conn.CloseRead()
	}
}

// relay passes R's bytes on until R closes its end or the rendezvous is lost.
func (w *worker) relay() {
	defer close(w.drained)
	const firstBuffer, bulkBuffer = 4 << 10, 256 << 10
	buffer := make([]byte, link.HeaderSize+firstBuffer)
	for {
		if w.dead.Load() {
			w.boundRead()
		}
		n, err := w.conn.Read(buffer[link.HeaderSize:])
		if n == 0 && err != nil {
			break
		}
		conn := w.connection()
		if conn == nil || w.interrupted.Load() {
			continue // nobody listens; disconnected or end has seen to the rest
		}
		if err := conn.SendData(buffer[:link.HeaderSize+n]); err != nil {
			conn.Close()
			continue
		}
		if n == len(buffer)-link.HeaderSize && len(buffer) < bulkBuffer {
			buffer = make([]byte, link.HeaderSize+bulkBuffer)
		}
	}
	if conn := w.connection(); conn != nil && w.used.Load() {
		if err := conn.SendEOF(); err != nil {
			conn.Close()
		}
	}
	// R ends when its loop does; if it was not told to, that is its death.
	w.finishAs("R closed its connection", false)
}

// boundRead bounds the wait for what a dead R has written. Its last bytes are on
// their way, but the end of the stream may never come: R code that has started a
// daemon has given it R's connection, too.
func (w *worker) boundRead() {
	const lastBytes = 500 * time.Millisecond
	if err := w.conn.SetReadDeadline(time.Now().Add(lastBytes)); err != nil {
		w.conn.CloseRead()
	}
}

func (w *worker) connection() *link.Conn {
	w.slot.mu.Lock()
	defer w.slot.mu.Unlock()
	if !w.reserved {
		return nil
	}
	return w.slot.conn
}

// Reasons to end a worker that matter to how it is ended.
const (
	sessionEnded   = "its session ended"
	rendezvousLost = "the connection to the rendezvous was lost"
	// drainSpent ends it in the middle of its call.
	drainSpent = "the agent is stopping and cannot wait any longer"
)

// finish tells the worker to end.
func (w *worker) finish(reason string) { w.finishAs(reason, true) }

func (w *worker) finishAs(reason string, expected bool) {
	w.finishing.Do(func() {
		w.reason, w.expected = reason, expected
		close(w.finished)
	})
}

func (w *worker) isFinished() bool {
	select {
	case <-w.finished:
		return true
	default:
		return false
	}
}

// wasUsed reports whether a session has sent it anything.
func (w *worker) wasUsed() bool { return w.used.Load() }

// clean removes what the worker has left, once it has ended.
func (w *worker) clean() {
	w.slot.agent.leave(w.user)
	w.slot.agent.folders.Discard(w.folder)
}

// end brings the worker to its end and says how it came to it. What R wrote before
// it died is passed on, however slowly the session reads it, unless the session is
// over or hard has ended.
func (w *worker) end(hard context.Context) link.ExitMessage {
	w.finish("the agent is stopping")
	grace := w.slot.agent.config.StopGrace
	if w.wasUsed() {
		w.left.Remember(w.process.PID())
	}
	w.conn.CloseWrite()
	w.interrupt()
	w.endsWithin(grace)
	w.process.Stop(grace)
	w.dead.Store(true)
	w.boundRead()
	if w.expected {
		var cancel context.CancelFunc
		hard, cancel = context.WithTimeout(hard, grace)
		defer cancel()
	}
	// What R wrote is on its way; a session that reads it then hears why its worker ended.
	late := make(chan struct{})
	stop := context.AfterFunc(hard, func() { time.AfterFunc(lastWords, func() { close(late) }) })
	defer stop()
	select {
	case <-w.drained:
	case <-late:
		if conn := w.connection(); conn != nil {
			conn.Close()
		}
		<-w.drained
	}
	w.conn.Close()
	exit := w.process.Exit()
	message := link.ExitMessage{Cause: exit.String(), Kind: kind(exit), Expected: w.expected || exit.Code == 0 && exit.Signal == 0}
	if w.expected {
		message.Cause = w.reason
		if w.reason == drainSpent {
			message.Kind = link.ExitDrained
		}
	} else {
		message.Lines = exit.LastLines
	}
	return message
}

// moment is how long an R that reads may take to end once its connection has: it
// does so in 10 ms, and code that runs at its exit is not to be interrupted.
const moment = 100 * time.Millisecond

// interrupt interrupts an R that goes on computing for a session that is over, so
// that its on.exit() and finally code runs. Its work loop catches the interrupt,
// reads on, finds its connection closed, and ends. No other R is interrupted: future
// would answer with an error for what is then not lost but has failed.
func (w *worker) interrupt() {
	if w.reason != sessionEnded && w.reason != rendezvousLost || w.endsWithin(moment) {
		return
	}
	select {
	case <-w.drained: // it has closed its connection: it is ending
		return
	default:
	}
	w.interrupted.Store(true)
	w.process.Interrupt()
}

// endsWithin waits up to d for R to end.
func (w *worker) endsWithin(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-w.process.Done():
		return true
	case <-timer.C:
		return false
	}
}

// kind is the sort of death that exit is.
func kind(exit psock.Exit) link.ExitKind {
	switch {
	case exit.OutOfMemory:
		return link.ExitNoMemory
	case exit.Signal != 0:
		return link.ExitSignal
	}
	return link.ExitStatus
}
