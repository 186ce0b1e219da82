package relay

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/journal"
	"github.com/psock-runtime/psock-runtime/internal/socket"
)

// unreadAfter is how long R does not read an answer before it is kept. An R that takes
// an answer has no such pauses, and one that does something else is not slower for it.
const unreadAfter = 100 * time.Millisecond

var errUnread = errors.New("the session does not read")

// outbox is what a session has been answered, on the way to its R. That reads one node
// at a time: an answer that it does not read would keep its worker from the node that R
// waits for, and so R from reading it. So the rest of such an answer is kept.
type outbox struct {
	client *socket.Conn
	budget *journal.Budget
	due    func() error      // errUnread if an answer that R does not read is to be kept now
	lost   func(text string) // told why what was kept is not

	unread atomic.Bool // R does not read, and no more can be kept

	passing sync.WaitGroup
	passed  chan struct{} // some of what is kept has been read

	mu      sync.Mutex
	kept    *journal.Journal // what comes next, nil when nothing does
	err     error            // why nothing reaches R any more
	closing bool
}

// newOutbox makes an empty one. worth says whether an answer is to be kept that R does not
// read, lost is told why one that was kept is lost.
func newOutbox(client *socket.Conn, budget *journal.Budget, worth func() bool, lost func(text string)) *outbox {
	o := &outbox{client: client, budget: budget, lost: lost, passed: make(chan struct{}, 1)}
	o.due = func() error {
		if worth() {
			return errUnread
		}
		return nil
	}
	return o
}

// write sends p to R, or keeps it. It fails when R does not hear any more. One caller at a
// time may write.
func (o *outbox) write(p []byte) error {
	if !o.keeps() {
		n, err := o.client.WriteWhile(p, unreadAfter, o.due)
		if !errors.Is(err, errUnread) {
			return err
		}
		p = p[n:]
	}
	defer o.unread.Store(false)
	for {
		n, alone, err := o.keep(p)
		p = p[n:]
		if err != nil || len(p) == 0 {
			return err
		}
		o.unread.Store(true)
		if !alone {
			select {
			case <-o.passed:
			case <-time.After(unreadAfter): // others may have made room
			}
			continue
		}
		n, err = o.client.WriteWhile(p, unreadAfter, o.due)
		p = p[n:]
		if !errors.Is(err, errUnread) {
			return err
		}
	}
}

func (o *outbox) keeps() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.kept != nil || o.err != nil
}

// keep keeps as many bytes of p as there is room for; alone says that there was none, and
// that nothing is kept.
func (o *outbox) keep(p []byte) (n int, alone bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return 0, false, o.err
	}
	kept := o.kept
	if kept == nil {
		kept = journal.New(o.budget, 0)
	}
	before := kept.Size()
	// What it does not take, for whatever reason, waits.
	_ = kept.Append(p)
	n = int(kept.Size() - before)
	if o.kept == nil && n > 0 {
		o.kept = kept
		o.passing.Go(o.pass)
	}
	return n, o.kept == nil, nil
}

// pass writes what is kept until nothing is.
func (o *outbox) pass() {
	buffer := make([]byte, firstBuffer)
	for batch := o.next(); batch != nil; batch = o.next() {
		if batch.Size() > firstBuffer && len(buffer) == firstBuffer {
			buffer = make([]byte, bulkBuffer)
		}
		err := o.send(batch, buffer)
		batch.Reset()
		if err != nil {
			o.fail(err)
		}
		signal(o.passed)
	}
}

// next is what is to be written next; nil if there is nothing, and then nothing is kept.
func (o *outbox) next() *journal.Journal {
	o.mu.Lock()
	defer o.mu.Unlock()
	batch := o.kept
	if o.err == nil && batch.Size() > 0 {
		o.kept = journal.New(o.budget, 0)
		return batch
	}
	batch.Reset()
	o.kept = nil
	if o.closing {
		o.client.CloseWrite()
	}
	signal(o.passed)
	return nil
}

func (o *outbox) send(batch *journal.Journal, buffer []byte) error {
	reader := batch.Reader()
	for {
		n, err := reader.Read(buffer)
		if n > 0 {
			if _, err := o.client.Write(buffer[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			o.lost(fmt.Sprintf("an answer that R had not read is lost: %v", err))
			return err
		}
	}
}

// fail notes that nothing reaches R any more. Its next read of the connection fails, and
// so does R's.
func (o *outbox) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = err
	o.client.CloseRead()
	o.client.CloseWrite()
}

// closeWrite ends R's stream after what is kept.
func (o *outbox) closeWrite() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closing = o.kept != nil; !o.closing {
		o.client.CloseWrite()
	}
}

// close waits until R has read what is kept, or has gone, and closes the connection.
func (o *outbox) close() {
	o.passing.Wait()
	o.client.CloseWrite()
	o.client.Close()
}
