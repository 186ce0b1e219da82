package relay

import (
	"bytes"

	"github.com/psock-runtime/psock-runtime/internal/facts"
	"github.com/psock-runtime/psock-runtime/pkg/psock"
)

// lastCall bounds the calls that are looked for behind one that R has left in its middle:
// future's question whether the node works has 439 bytes.
const lastCall = 8 << 10

// headers begin the messages of R's serialize(): version 2 or 3, in either byte order.
var headers = [][]byte{[]byte("B\n\x02\x00\x00\x00"), []byte("B\n\x03\x00\x00\x00"), []byte("X\n\x00\x00\x00\x02"), []byte("X\n\x00\x00\x00\x03")}

// leavesCall reports whether p, of which the session says that it is from the middle of a
// call, ends with another whole call. R from 4.4 on can be interrupted while it sends: what it
// sends next on that connection is another call, whose answer it waits for, while the worker
// takes it for data and waits for more. R writes a call of this size at once, and nothing
// behind it before it is answered.
func leavesCall(p []byte) bool {
	if !facts.EndsCall(p) {
		return false
	}
	p = p[max(0, len(p)-lastCall):]
	for _, header := range headers {
		for end := len(p); end > 0; {
			at := bytes.LastIndex(p[:end], header)
			if at < 0 {
				break
			}
			var scanner psock.Scanner
			if n, done := scanner.Scan(p[at:]); done && n == len(p)-at && scanner.Message().Kind == psock.KindExec {
				return true
			}
			end = at
		}
	}
	return false
}

// abandons reports whether the session has left the call that it was sending, p being what
// came last. The connection is of no use then: R gets an error, from
// which future makes the node again. Called with sending held.
func (s *Session) abandons(p []byte) bool {
	if !s.up.InMessage() || s.up.Opaque() != nil || !leavesCall(p) {
		return false
	}
	s.observer.Lost(NotFollowed, "R has left a call in its middle, as after an interrupt, and made another one")
	s.out.closeWrite()
	return true
}
