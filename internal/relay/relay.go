// Package relay carries the bytes of one PSOCK connection between an R session,
// on loopback, and the worker that it is bound to, unchanged. It knows from the message scanner
// which calls pass. A future whose worker is lost is sent again to another one; the session does
// not notice. A question that needs no worker is answered here. The connection ends when R has
// left a call in its middle and made another one.
package relay

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/journal"
	"github.com/psock-runtime/psock-runtime/internal/socket"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// Worker is the worker's end, just what this package needs of it.
type Worker interface {
	// Name is how an R error calls the worker.
	Name() string
	// Bind has sink told what the worker sends. It fails when the worker has ended.
	Bind(sink Sink) error
	// Release gives back a worker that was not bound.
	Release()
	// SetUp is how nodes that had the worker before have set it up; zero for a fresh one.
	SetUp() SetUp
	// Recalled is closed when somebody else should have the worker, after Offer has said
	// that it is not needed at present, and how it is set up; idle says that nothing
	// points to its use soon. Keep takes that back.
	Recalled() <-chan struct{}
	Offer(setUp SetUp, idle bool)
	Keep()
	// Yield gives it to whoever should have it, after which End has to be called, and
	// reports whether there still is anybody.
	Yield() bool
	// Busy adds to the time that the worker has spent in finished calls.
	Busy(took time.Duration)
	// SendData sends frame[Headroom:] to the worker and blocks while it does not
	// read. It fails only when the worker is no more, of which the sink is told. The
	// first Headroom bytes are the callee's to use.
	SendData(frame []byte) error
	// End says that the session has finished sending; the worker ends.
	End()
	// Abort ends the worker although what was sent to it is still on its way, and
	// makes a SendData that blocks return.
	Abort()
}

// Sink takes what a worker sends, see pool.Sink.
type Sink interface {
	Data(p []byte)
	EOF()
	Drain()
	Ended(cause string, explain func() string)
}

// Recovery is how a session gets workers, the first one apart.
type Recovery struct {
	// Acquire reserves a worker. Its error tells the user why there is none. ctx ends
	// with the session.
	Acquire func(ctx context.Context, need Need) (Worker, error)
	// Attempts is how many workers one future may be lost with; with 1, none runs
	// twice.
	Attempts int
	// Budget bounds what is kept to be sent again, and what is that R does not read yet.
	Budget *journal.Budget
	// Scarce reports whether anybody waits for a worker that this session's would do for.
	Scarce func() bool
	// Shared: the cluster's nodes take turns on workers from the beginning.
	Shared bool
	// Together: they do so before the first future as well. A call that sets all of them
	// up may then be made on one worker for each node that has it.
	Together bool
	// Answers are what the cluster's workers have answered to questions. With nil every node
	// asks its own worker.
	Answers *Answers
	// Missed says why the node that this one replaces has lost what calls that are no futures
	// had set on it, "" for a node that misses nothing. See Session.StateIfEnded.
	Missed string
}

// Need is what worker a session needs.
type Need struct {
	Lost   bool    // the last one was lost in a call, and not given to somebody else
	SetUps []SetUp // that serve as well as a fresh one
}

// Headroom is the room before the payload that a Worker's SendData may use.
const Headroom = 4

const (
	// firstBuffer holds any call of a few arguments.
	firstBuffer = 16 << 10
	// bulkBuffer is what one read takes of a large object. Beyond it nothing was
	// gained; a reader that is slow keeps at most this much of a session's data.
	bulkBuffer = 256 << 10
	// smallFrame is one behind which R may hold the rest of a call back until it is
	// acknowledged. The kernel acknowledges bulk data as it comes.
	smallFrame = 32 << 10
	// hangUpPace is how often a session is looked at whose worker does not read.
	hangUpPace = time.Second
	// forgetAfter is how long after its last answer a large history is kept. The
	// calls that set a future up follow each other within milliseconds; when no other
	// has come, the future is done.
	forgetAfter = time.Second
	// offerAfter is how long after its last answer a session's worker is idle: anybody's
	// who waits. It is far longer than what passes between the calls of one computation,
	// and far shorter than the demand timeout.
	offerAfter = 10 * time.Second
)

// Session is one node of an R session. It is bound to a worker while that matters;
// one that has lost its worker between two calls is vacant until the next. Run
// carries what the session sends, an attempt what its worker answers.
type Session struct {
	client   *socket.Conn
	observer Observer
	recovery Recovery
	gone     func() bool

	// sending is held while the session's bytes are passed on or sent again. Locks
	// are taken in the order sending, writing, mu.
	sending sync.Mutex
	up      psock.Scanner
	inner   inner // relayUp's alone
	history *history

	writing sync.Mutex // held while an answer is passed on
	out     *outbox

	watched atomic.Bool // watch is set
	blocked atomic.Bool // a SendData is under way
	watch   *time.Timer
	idling  atomic.Bool // idle is set
	idle    *time.Timer
	wanted  chan struct{} // a vacant session has made a call
	settled chan struct{} // it has been seen to what was wanted
	deaf    chan struct{} // closed when no more is read from the session
	deafen  func()

	mu         sync.Mutex
	activity   Activity
	calls      int  // sent in full and not answered; more than one after an interrupt
	partial    bool // one more is being sent
	xdr        bool // how the last call was written
	tagged     bool // a call is under way whose answer must repeat its tag
	midway     bool // part of an answer has been passed on
	conditions int  // passed on ahead of the answer of the call under way
	current    *attempt
	vacancy    loss       // why there is no worker
	held       bool       // no more is taken of a call before there is one
	denied     *lostError // a call of which a part is sent gets none
	deaths     []loss     // of workers under the future
	reruns     int        // of the future
	once       bool       // the session does not want its futures to run twice
	missed     string     // Recovery.Missed, until R has been told
	endedBy    string     // why the connection ends, "" if it does not, or R closes it
	stopped    bool       // R has said that it is done with the node
	spare      bool       // the worker is to be offered once the answer is written
}

// Activity is what a session is doing and has done.
type Activity struct {
	Busy      bool          `json:"busy"`             // a call is under way
	Since     time.Time     `json:"since,omitzero"`   // when the call began, or the last one ended
	Calls     int64         `json:"calls"`            // finished calls
	BusyTime  time.Duration `json:"busyNanoseconds"`  // time in finished calls
	UpBytes   int64         `json:"bytesToWorker"`    // session to worker
	DownBytes int64         `json:"bytesToSession"`   // worker to session
	Reruns    int64         `json:"reruns,omitempty"` // futures sent again
	Opaque    bool          `json:"opaque,omitempty"` // the stream is not followed; Busy and Calls are not known
	Unread    bool          `json:"unread,omitempty"` // R does not read an answer, of which no more can be kept
}

// New makes the session of client, whose connection it owns once Run has bound it.
// gone, unless nil, says whether nobody has the connection's other end open any more:
// what a session has sent and nobody reads holds up the sign of its end, so that
// HungUp cannot tell.
func New(client *socket.Conn, observer Observer, recovery Recovery, gone func() bool) *Session {
	if gone == nil {
		gone = func() bool { return false }
	}
	s := &Session{
		client: client, observer: observer, recovery: recovery, gone: gone,
		history: newHistory(recovery.Budget),
		wanted:  make(chan struct{}, 1), settled: make(chan struct{}, 1), deaf: make(chan struct{}),
		activity: Activity{Since: time.Now()},
	}
	s.history.together, s.missed = recovery.Together, recovery.Missed
	s.out = newOutbox(client, recovery.Budget, func() bool { return recovery.Scarce() && s.Shares() },
		s.answerLost)
	s.deafen = sync.OnceFunc(func() {
		close(s.deaf)
		client.CloseRead() // wakes relayUp
	})
	s.watch = time.AfterFunc(hangUpPace, s.lookForHangUp)
	s.watch.Stop()
	s.idling.Store(true)
	s.idle = time.AfterFunc(forgetAfter, s.lookForIdleness)
	s.idle.Stop()
	s.idle.Reset(forgetAfter) // it has been written before it fires
	return s
}

// Run binds worker, unless it is nil, and relays until the session is done, or a worker
// is lost and no other can take its place. A session without a worker gets one for its
// first call. frame, if not nil, holds what has been read from the session already,
// after Headroom bytes of room. The cause is how the last worker ended. It fails when
// worker cannot be bound; then it has done nothing.
func (s *Session) Run(worker Worker, frame []byte) (cause string, err error) {
	if worker == nil {
		s.vacancy.taken = true
	} else if err := worker.Bind(s.begin(worker)); err != nil {
		s.idle.Stop()
		return "", err
	}
	ctx, sent := context.WithCancel(context.Background())
	go func() {
		defer sent()
		s.relayUp(frame)
	}()
	cause = s.supervise(ctx)
	s.out.close()
	s.watch.Stop()
	s.idle.Stop()
	s.sending.Lock()
	defer s.sending.Unlock()
	s.history.close()
	return cause, nil
}

// supervise binds and unbinds workers until ctx ends, with what the session sends.
func (s *Session) supervise(ctx context.Context) (cause string) {
	for {
		var over, leave chan struct{}
		var recalled <-chan struct{}
		a := s.bound()
		if a != nil {
			over, leave, recalled = a.over, a.leave, a.worker.Recalled()
		}
		select {
		case <-ctx.Done():
			if a != nil {
				s.mu.Lock()
				s.ends(leftBy)
				s.mu.Unlock()
				a.worker.End()
				<-a.over
				cause = a.cause
			}
			return cause
		case <-over:
			cause = a.cause
			s.lost(a)
		case <-leave:
			s.detach(a)
		case <-recalled:
			s.detach(a)
		case <-s.wanted:
		}
		if !s.settle(ctx) {
			s.out.closeWrite()
			s.deafen()
			<-ctx.Done()
			return cause
		}
		signal(s.settled)
	}
}

func (s *Session) bound() *attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// answerLost ends the connection because of an answer that was kept.
func (s *Session) answerLost(text string) {
	s.mu.Lock()
	s.ends(text)
	s.mu.Unlock()
	s.observer.Lost(NotKept, text)
}

// Once says whether futures are to run once at most.
func (s *Session) Once(once bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.once = once
	s.reconsider()
}

// runsOnce reports whether no future runs twice. Called with the lock held.
func (s *Session) runsOnce() bool { return s.once || s.recovery.Attempts <= 1 }

// Shares reports whether the session's worker goes to others between its calls: it runs
// futures, and nothing else.
func (s *Session) Shares() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.history.reset {
		return !s.history.foreign && !s.history.own && !s.activity.Opaque
	}
	return s.recovery.Shared
}

// Keeps reports whether the session's worker goes to nobody else for as long as the session
// lives: a call that is no future's has set something on it.
func (s *Session) Keeps() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current != nil && s.history.own
}

// Worker is the name of the worker that the session is bound to, "" for none.
func (s *Session) Worker() string {
	if a := s.bound(); a != nil {
		return a.worker.Name()
	}
	return ""
}

// Activity says what the session is doing and has done.
func (s *Session) Activity() Activity {
	s.mu.Lock()
	defer s.mu.Unlock()
	activity := s.activity
	activity.Unread = s.out.unread.Load()
	return activity
}
