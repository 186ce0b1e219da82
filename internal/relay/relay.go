// Package relay carries the bytes of one PSOCK connection between an R session,
// on loopback, and the worker that it is bound to. It changes, delays and keeps
// none of them, and knows from the message scanner which calls pass.
package relay

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/socket"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// Worker is the worker's end, just what this package needs of it.
type Worker interface {
	// Name is how an R error calls the worker.
	Name() string
	// SendData sends frame[Headroom:] to the worker and blocks while it does not
	// read. The first Headroom bytes are the callee's to use.
	SendData(frame []byte) error
	// End says that the session has finished sending; the worker ends.
	End()
	// Abort ends the worker although what was sent to it is still on its way, and
	// makes a SendData that blocks return.
	Abort()
}

// Headroom is the room before the payload that a Worker's SendData may use.
const Headroom = 4

const (
	// firstBuffer holds any call of a few arguments.
	firstBuffer = 16 << 10
	// bulkBuffer is what one read takes of a large object. Beyond it nothing was
	// gained; a reader that is slow keeps at most this much of a session's data.
	bulkBuffer = 256 << 10
	// hangUpPace is how often a session is looked at whose worker does not read.
	hangUpPace = time.Second
)

// Session is one node of an R session, bound to a worker. Run reads from the
// session; the worker's connection calls Data, EOF, Drain and Ended (it is a
// pool.Sink). The session's connection is closed by whichever side finishes last,
// or at once when the worker is lost.
type Session struct {
	client   *socket.Conn
	worker   Worker
	observer Observer
	gone     func() bool

	up   psock.Scanner // session to worker; only Run
	down psock.Scanner // worker to session; only Data

	sending atomic.Bool // a SendData is under way
	watched atomic.Bool // watch is set
	watch   *time.Timer

	mu       sync.Mutex
	activity Activity
	calls    int  // sent in full and not answered; more than one after an interrupt
	partial  bool // one more is being sent
	xdr      bool // how the last call was written
	tagged   bool // a call is under way whose answer must repeat its tag
	midway   bool // part of an answer has been passed on
	draining bool
	ended    bool
	cause    string
	over     chan struct{} // closed with ended
}

// Activity is what a session is doing and has done.
type Activity struct {
	Busy      bool          `json:"busy"`             // a call is under way
	Since     time.Time     `json:"since,omitzero"`   // when the call began, or the last one ended
	Calls     int64         `json:"calls"`            // finished calls
	BusyTime  time.Duration `json:"busyNanoseconds"`  // time in finished calls
	UpBytes   int64         `json:"bytesToWorker"`    // session to worker
	DownBytes int64         `json:"bytesToSession"`   // worker to session
	Opaque    bool          `json:"opaque,omitempty"` // the stream is not followed; Busy and Calls are not known
}

// New makes the session of client, whose connection it owns from here on. gone, unless
// nil, says whether nobody has the connection's other end open any more: what a session
// has sent and nobody reads holds up the sign of its end, so that HungUp cannot tell.
func New(client *socket.Conn, worker Worker, observer Observer, gone func() bool) *Session {
	if gone == nil {
		gone = func() bool { return false }
	}
	s := &Session{
		client: client, worker: worker, observer: observer, gone: gone,
		activity: Activity{Since: time.Now()}, over: make(chan struct{}),
	}
	s.watch = time.AfterFunc(hangUpPace, s.lookForHangUp)
	s.watch.Stop()
	return s
}

// Run relays what the session sends until the session or the worker is done, and
// returns when both are. frame, if not nil, holds what has been read from the
// session already, after Headroom bytes of room. The cause is how the worker
// ended.
func (s *Session) Run(frame []byte) (cause string) {
	s.relayUp(frame)
	s.worker.End()
	<-s.over
	s.answer()
	s.client.CloseWrite()
	s.client.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause
}

// answer tells the session why its worker is lost, in the answer's place: an R error
// of the call that is under way. A session that has no call under way, or has part
// of an answer already, sees the end of its connection.
func (s *Session) answer() {
	s.mu.Lock()
	text := fmt.Sprintf("worker %s was lost in this call: %s", s.worker.Name(), s.cause)
	answers := 0
	if s.answerable() {
		answers = s.calls
	}
	s.mu.Unlock()
	for range answers {
		if _, err := s.client.Write(psock.AppendError(nil, text, s.xdr)); err != nil {
			return
		}
	}
}

// answerable reports whether calls are under way whose answer can be put in the
// worker's place. A call with a tag is none: parallel's clusterApplyLB drops answers
// without it, and the error with them. Called with the lock held.
func (s *Session) answerable() bool {
	return s.calls > 0 && !s.tagged && !s.partial && !s.midway && !s.activity.Opaque
}

// relayUp carries bytes from the session to the worker until one of them ends.
func (s *Session) relayUp(frame []byte) {
	buffer := make([]byte, Headroom+firstBuffer)
	for {
		if len(frame) > Headroom {
			s.scanUp(frame[Headroom:])
			if err := s.send(frame); err != nil {
				return
			}
			if len(frame) == len(buffer) && len(buffer) < bulkBuffer {
				// A full read: a large object is coming.
				buffer = make([]byte, bulkBuffer)
			}
		}
		n, err := s.client.Read(buffer[Headroom:])
		if n == 0 && err != nil {
			return
		}
		frame = buffer[:Headroom+n]
	}
}

// send passes frame on to the worker. The timer is set once a second at most: to set
// and stop it with each frame would wake a thread each time.
func (s *Session) send(frame []byte) error {
	s.sending.Store(true)
	defer s.sending.Store(false)
	if !s.watched.Swap(true) {
		s.watch.Reset(hangUpPace)
	}
	return s.worker.SendData(frame)
}

// lookForHangUp looks after a session whose worker does not read, which may take
// hours: R reads its connection between calls. A session that was killed meanwhile
// must not keep its worker for as long.
func (s *Session) lookForHangUp() {
	s.watched.Store(false)
	if !s.sending.Load() {
		return
	}
	if s.client.HungUp() || s.gone() {
		s.worker.Abort()
		return
	}
	if !s.watched.Swap(true) {
		s.watch.Reset(hangUpPace)
	}
}

// scanUp follows the calls that the session makes.
func (s *Session) scanUp(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.activity.UpBytes += int64(len(p))
	s.observer.Bytes(Up, len(p))
	if !s.activity.Busy && s.up.Opaque() == nil {
		// Busy from the first byte: an agent that drains must not end a worker
		// to which a call is on its way.
		s.activity.Busy, s.activity.Since = true, time.Now()
	}
	for len(p) > 0 {
		n, done := s.up.Scan(p)
		p = p[n:]
		s.partial = !done
		if !done {
			continue
		}
		switch s.up.Message().Kind {
		case psock.KindExec:
			s.calls++
			s.xdr = s.up.Message().XDR
			s.tagged = s.up.Message().Tagged
		case psock.KindDone:
			s.activity.Busy = s.calls > 0
		}
	}
	s.noteOpaque(s.up.Opaque())
}

// Data passes on what the worker sends. Once the session does not take it any
// more, it is dropped: the session has gone, and the worker is about to.
func (s *Session) Data(p []byte) {
	answered := s.scanDown(p)
	_, err := s.client.Write(p)
	if err != nil {
		s.client.CloseRead() // wakes Run
	}
	if answered && s.isDraining() {
		s.endForDrain()
	}
}

// scanDown follows the answers; answered says that no call is under way after p.
func (s *Session) scanDown(p []byte) (answered bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.activity.DownBytes += int64(len(p))
	s.observer.Bytes(Down, len(p))
	for len(p) > 0 {
		n, done := s.down.Scan(p)
		p = p[n:]
		s.midway = !done
		if m := s.down.Message(); done && m.Kind == psock.KindValue && m.Final {
			s.callDone(m)
		}
	}
	s.noteOpaque(s.down.Opaque())
	return !s.activity.Busy && !s.activity.Opaque
}

// callDone counts a finished call. Called with the lock held.
func (s *Session) callDone(m psock.Message) {
	if s.calls == 0 {
		return
	}
	s.calls--
	now := time.Now()
	took := now.Sub(s.activity.Since)
	s.activity.Busy, s.activity.Since = s.calls > 0 || s.partial, now
	s.activity.Calls++
	s.activity.BusyTime += took
	s.observer.Call(took, m.Success)
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

// EOF passes the worker's end of stream on: R in the session reads it at once and
// reports the node as lost. While a call is under way it waits for the reason, which
// Ended brings.
func (s *Session) EOF() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.answerable() {
		s.client.CloseWrite()
	}
}

// Drain ends the session after the call that is under way, or now.
func (s *Session) Drain() {
	s.mu.Lock()
	s.draining = true
	idle := !s.activity.Busy && !s.activity.Opaque
	s.mu.Unlock()
	if idle {
		s.endForDrain()
	}
}

func (s *Session) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// endForDrain closes the session's end in good order, so that R has read the last
// answer before it sees the end of the stream, and wakes Run.
func (s *Session) endForDrain() {
	s.client.CloseWrite()
	s.client.CloseRead()
}

// Ended records how the worker ended and ends the session's connection.
func (s *Session) Ended(cause string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.ended, s.cause = true, cause
	close(s.over)
	if !s.answerable() {
		s.client.CloseWrite()
	}
	s.client.CloseRead() // wakes Run, which closes the connection
}

// Activity says what the session is doing and has done.
func (s *Session) Activity() Activity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.activity
}
