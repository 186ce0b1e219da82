package relay

import (
	"bytes"
	"errors"
	"os"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/facts"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

const (
	// abandonedAfter is how long nothing comes behind a call within a call until that is taken
	// for what R waits for: R sends a call without a pause, and nothing behind it before it is
	// answered.
	abandonedAfter = 200 * time.Millisecond
	// kindBytes is how much of a message tells its kind, which takes some 50 bytes.
	kindBytes = 128
	// innerCalls bounds how many calls are followed that lie within each other.
	innerCalls = 4
	// formatBytes name the format and the version of a message: its first ones.
	formatBytes = 6
)

// inner follows a call in the middle of another. R from 4.4 on can be interrupted while it
// sends: what it sends next on that connection is another call, whose answer it waits for,
// while the worker takes it for data, and waits for more or computes with it. That call may be
// left as well. Data may hold a whole call, too: R does not wait behind that.
type inner struct {
	begin   []byte // how the messages of this connection begin: formatBytes
	depth   int
	scanner psock.Scanner
	began   bool   // a message that may be such a call is in progress, or has ended just now
	tail    []byte // the last bytes, in which one may begin
	next    *inner // within the call in progress; nil before that is known to be one
}

// follow takes the next bytes of the outer call, without those that begin it.
func (c *inner) follow(p []byte) {
	if len(p) > 0 && c.ended() { // it was data
		*c = inner{begin: c.begin, depth: c.depth}
	}
	for len(p) > 0 {
		behind := 0 // where the next one may begin if this is none
		if !c.began {
			if p, behind = c.find(p); !c.began {
				return
			}
		}
		if n, taken := c.step(p); taken {
			p = p[n:]
		} else {
			p = p[behind:]
		}
	}
}

// find looks for the beginning of a message, and returns what of p is to be scanned of it, and
// where in that the next one may begin.
func (c *inner) find(p []byte) (rest []byte, behind int) {
	both := append(c.tail, p[:min(len(p), formatBytes-1)]...)
	if at := bytes.Index(both, c.begin); at >= 0 && at < len(c.tail) {
		begun := both[at:len(c.tail)]
		c.start() // with another tail
		c.scanner.Scan(begun)
		return p, 0
	}
	if at := bytes.Index(p, c.begin); at >= 0 {
		c.start()
		return p[at:], 1
	}
	if both = append(c.tail, p[max(0, len(p)-formatBytes+1):]...); len(both) >= formatBytes {
		both = both[len(both)-formatBytes+1:]
	}
	c.tail = append(c.tail[:0], both...)
	return nil, 0
}

func (c *inner) start() { *c = inner{begin: c.begin, depth: c.depth, began: true} }

// step follows the message in progress for n bytes. They are taken for good if it is a call,
// or may be one yet.
func (c *inner) step(p []byte) (n int, taken bool) {
	if !c.call() { // its kind is looked at before all of it is
		n, done := c.scanner.Scan(p[:min(len(p), kindBytes)])
		c.began = c.scanner.Opaque() == nil && (c.call() || !done && c.scanner.Message().Bytes < kindBytes)
		if c.call() && c.depth < innerCalls {
			c.next = &inner{begin: c.begin, depth: c.depth + 1}
		}
		if done && n < len(p) {
			c.began = false
		}
		return n, c.began || done && c.call()
	}
	n, done := c.scanner.Scan(p)
	if c.next != nil {
		c.next.follow(p[:n])
	}
	if c.scanner.Opaque() == nil && (!done || n == len(p)) {
		return n, true
	}
	// It was data, as a whole or by its beginning. What lies within may be the call.
	if next := c.next; next != nil && next.began {
		next.depth = c.depth
		*c = *next
	} else {
		c.began = false
	}
	return n, true
}

func (c *inner) call() bool { return c.scanner.Message().Kind == psock.KindExec }

// open reports whether a call is in progress, or has ended with the last byte.
func (c *inner) open() bool { return c.began && c.call() }

// ended reports whether a call has ended with the last byte.
func (c *inner) ended() bool {
	return c.open() && !c.scanner.InMessage() || c.began && c.next != nil && c.next.ended()
}

// cut follows the calls within the message of which p are the last bytes so far, and reports
// whether it has no end of its own: R has left it, and made another call, whose bytes are
// taken for its. A stream that was not followed before p is followed no more. Called with
// sending held.
func (s *Session) cut(p []byte, ended, followed bool) bool {
	if !followed && !s.inner.began {
		return false
	}
	switch m := s.up.Message(); {
	case m.Bytes != int64(len(p)):
		s.inner.follow(p)
	case ended || len(p) < formatBytes: // R is interrupted when a send has to wait
		s.inner = inner{}
	default:
		s.inner = inner{begin: bytes.Clone(p[:formatBytes])}
		s.inner.follow(p[formatBytes:])
	}
	// Whoever has the end of its own ends as each call does.
	return s.inner.open() && (s.up.Opaque() != nil || ended && (s.inner.ended() || !facts.EndsCall(p)))
}

// abandon ends the connection, which is of no use once R has left a call: R gets an error, from
// which future makes the node again.
func (s *Session) abandon() {
	const cause = "R has left a call in its middle, as after an interrupt, and made another one"
	s.mu.Lock()
	s.ends(cause)
	s.mu.Unlock()
	s.observer.Lost(NotFollowed, cause)
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
