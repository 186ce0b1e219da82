package relay

import (
	"bytes"
	"errors"
	"os"
	"time"

	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

const (
	// abandonedAfter is how long nothing comes behind a call within a call until that is taken
	// for what R waits for: R sends a call without a pause, and nothing behind it before it is
	// answered.
	abandonedAfter = 200 * time.Millisecond
	// kindBytes is how much of a message tells its kind, which takes some 50 bytes.
	kindBytes = 128
)

// inner follows a call in the middle of another. R from 4.4 on can be interrupted while it
// sends: what it sends next on that connection is another call, whose answer it waits for,
// while the worker takes it for data, and waits for more or computes with it. Data may
// hold a whole call as well: R does not wait behind that. The zero value is ready.
type inner struct {
	scanner psock.Scanner
	began   bool // a message that may be such a call is in progress, or has ended just now
	split   bool // the last byte may be the first of the two that begin a message
}

// follow takes the next bytes of the outer call, without those that begin it.
func (c *inner) follow(p []byte, xdr bool) {
	begin := []byte("B\n")
	if xdr {
		begin = []byte("X\n")
	}
	if len(p) > 0 && c.ended() { // it was data
		*c = inner{}
	}
	for len(p) > 0 {
		behind := 0 // where the next one may begin if this is none
		if !c.began {
			at := bytes.Index(p, begin)
			switch {
			case c.split && p[0] == begin[1]:
				c.start()
				c.scanner.Scan(begin[:1])
				behind = 1
			case at >= 0:
				c.start()
				p, behind = p[at:], 2
			default:
				c.split = p[len(p)-1] == begin[0]
				return
			}
		}
		if n, may := c.step(p); may || c.call() {
			p = p[n:]
		} else {
			p = p[behind:]
		}
	}
}

func (c *inner) start() { *c = inner{began: true} }

// step follows the message in progress, and says of how many bytes and whether it may still be
// the call. The kind is looked at before all of it is.
func (c *inner) step(p []byte) (n int, may bool) {
	most := len(p)
	if !c.call() {
		most = min(most, kindBytes)
	}
	n, done := c.scanner.Scan(p[:most])
	switch {
	case c.scanner.Opaque() != nil, done && n < len(p):
		c.began = false
	case !c.call():
		c.began = !done && c.scanner.Message().Bytes < kindBytes
	}
	return n, c.began
}

func (c *inner) call() bool { return c.scanner.Message().Kind == psock.KindExec }

// open reports whether a call is in progress, or has ended with the last byte.
func (c *inner) open() bool { return c.began && c.call() }

// ended reports whether a call has ended with the last byte.
func (c *inner) ended() bool { return c.open() && !c.scanner.InMessage() }

// cut follows the calls within the message of which p are the last bytes so far, and reports
// whether it has no end of its own: R has left it, and made another call, whose bytes are
// taken for its. Called with sending held.
func (s *Session) cut(p []byte, ended bool) bool {
	m := s.up.Message()
	if began := m.Bytes == int64(len(p)); !began {
		s.inner.follow(p, m.XDR)
	} else if !ended {
		s.inner = inner{}
		s.inner.follow(p[min(2, len(p)):], m.XDR)
	} else {
		s.inner = inner{} // R is interrupted when a send has to wait
	}
	return s.inner.open() && (ended || s.up.Opaque() != nil)
}

// abandon ends the connection, which is of no use once R has left a call: R gets an error, from
// which future makes the node again.
func (s *Session) abandon() {
	s.observer.Lost(NotFollowed, "R has left a call in its middle, as after an interrupt, and made another one")
	s.out.closeWrite()
}

// read reads what the session sends next. It fails when R waits for the answer to
// a call in the middle of another.
func (s *Session) read(p []byte) (int, error) {
	if !s.inner.ended() {
		return s.client.Read(p)
	}
	_ = s.client.SetReadDeadline(time.Now().Add(abandonedAfter)) // a closed connection is told by Read
	n, err := s.client.Read(p)
	_ = s.client.SetReadDeadline(time.Time{})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.abandon()
	}
	return n, err
}
