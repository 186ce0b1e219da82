package psock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
)

// errAdvance is the caller's mistake, but one that leaves the scanner with no
// idea of where it is, so it ends as a malformed stream does.
var errAdvance = errors.New("psock: advanced beyond what may be skipped")

// Scanner follows one direction of a PSOCK connection: a sequence of objects as
// R's serialize() writes them, without a length before or anything between
// them. It finds where each one ends by reading its structure, and keeps none
// of it. Bulk data (numbers, raw vectors, long strings) is stepped over without
// being looked at.
//
// The zero value is ready. A Scanner is not safe for concurrent use.
//
// Formats: XDR and little-endian native binary, versions 2 (R >= 1.4) and 3
// (R >= 3.5). What the words of a stream mean is taken from src/main/serialize.c
// of R, and from what R writes. Whatever is not known, or cannot be right,
// makes the stream opaque for good: there is no way back to a message boundary.
//
// The stream is untrusted. The state of a Scanner is below 1 KB between
// messages and below 64 KB always; nesting does not add to it, except for byte
// code within byte code.
type Scanner struct {
	// Classes are looked for among the attributes of each VALUE, for [Message.Class]: at
	// most 32 bytes each. It is set before the first Scan, and not changed.
	Classes []string

	msg   Message
	start int64 // offset in the stream of the first byte of msg
	pos   int64 // offset in the stream of the next word or data byte
	err   error

	skip  int64 // bytes of bulk data still to come
	top   frame // what the next word belongs to
	stack []frame
	want  want    // what the next word is, when it is not the start of something
	item  uint32  // flags of the item whose length or data is arriving
	high  int64   // upper half of a long length
	elems int64   // number of elements of the message's list
	carry [4]byte // a word that began at the end of the last chunk
	cn    uint8   // bytes in carry
	ended bool    // msg is complete
	root  bool    // the item whose length is arriving is the message
	attrs uint8   // strings to look at among the attributes of the value that are arriving

	role    role     // why the item now arriving is of interest
	gotFlag bool     // the third element was one logical
	capLen  uint8    // bytes wanted of the data now arriving
	capN    uint8    // bytes of it in capture
	capture [32]byte // the short strings and numbers that Message tells
}

// Scan reads the start of p up to the end of the current message. It returns
// how many bytes of p that is, and whether a message ended there: n is len(p)
// unless done, and then p[n:] is the start of the next message. A caller loops
// until p is used up.
//
// The result is the same however the stream is cut into pieces. Scan neither
// keeps p nor writes to it, never blocks, and allocates nothing in proportion
// to what the stream claims. Once the stream is opaque it returns len(p), false.
func (s *Scanner) Scan(p []byte) (n int, done bool) {
	if s.err != nil || len(p) == 0 {
		return len(p), false
	}
	if s.ended || s.top == 0 {
		s.begin()
	}
	for n < len(p) {
		switch {
		case s.skip > 0:
			n += s.data(p[n:])
		case s.cn == 0 && s.want == wantFlags && s.top.op() == opItems && s.role == roleNone && s.attrs == 0 && len(p)-n >= 8:
			n += s.run(p[n:])
		default:
			n += s.word(p[n:])
		}
		if s.err != nil {
			return len(p), false
		}
		if s.top == endFrame && s.want == wantFlags && s.skip == 0 {
			s.end()
			return n, true
		}
	}
	return n, false
}

// Message returns the message in progress or, after Scan has reported the end
// of one and until it is called again, the one that ended. Between messages
// that is the last one; before the first it is zero.
func (s *Scanner) Message() Message {
	m := s.msg
	m.Bytes = s.pos + int64(s.cn) - s.start
	return m
}

// Elements returns the length of the list that the message is, which Message
// describes; 0 until that is known, some 20 bytes into it. It tells the answer of
// parallel's work loop, which has 5, from other VALUEs long before Message.Final does.
func (s *Scanner) Elements() int64 {
	return s.elems
}

// InMessage reports whether the stream is between the first byte and the end of
// a message. Once the stream is opaque it stays true: the message that could
// not be followed has no end.
func (s *Scanner) InMessage() bool {
	return !s.ended && s.pos+int64(s.cn) > s.start
}

// Opaque returns why the stream is no longer followed, nil while it is. The
// error names what was found and its offset in the stream, in bytes.
func (s *Scanner) Opaque() error {
	return s.err
}

// Skip returns how many of the bytes that come next need not be shown to Scan,
// because they are bulk data: the caller may move them by other means, such as
// splice(2), and report them to Advance. It never reaches the end of a message,
// which only Scan reports, and is endless for an opaque stream.
func (s *Scanner) Skip() int64 {
	if s.err != nil {
		return math.MaxInt64
	}
	if s.skip == 0 || s.capN < s.capLen {
		return 0
	}
	return s.skip - 1
}

// Advance reports that n bytes passed that Scan did not see. n must be within
// what Skip returned, otherwise the stream becomes opaque.
func (s *Scanner) Advance(n int64) {
	if s.err != nil || n == 0 {
		return
	}
	if n < 0 || n > s.Skip() {
		s.err = errAdvance
		return
	}
	s.skip -= n
	s.pos += n
}

// begin prepares for the first byte of a message.
func (s *Scanner) begin() {
	s.msg = Message{}
	s.start = s.pos
	s.top = endFrame
	s.want = wantMagic
	s.role = roleNone
	s.gotFlag = false
	s.elems = 0
	s.root = false
	s.attrs = 0
	s.ended = false
}

// end closes a message. A large stack is not kept: thousands of connections may
// sit idle for days after one deep message.
func (s *Scanner) end() {
	s.ended = true
	if cap(s.stack) > keepFrames {
		s.stack = nil
	}
}

// data steps over bulk data at the start of p, copying what little of it is
// wanted, and returns how much of p that was.
func (s *Scanner) data(p []byte) int {
	n := int(min(s.skip, int64(len(p))))
	s.skip -= int64(n)
	s.pos += int64(n)
	if s.capN < s.capLen {
		s.capN += uint8(copy(s.capture[s.capN:s.capLen], p[:n]))
		if s.capN == s.capLen {
			s.captured()
		}
	}
	return n
}

// word reads one word at the start of p, or the part of it that is there, acts
// on it when it is complete, and returns how much of p was used.
func (s *Scanner) word(p []byte) int {
	if s.want == wantMagic {
		return s.magic(p)
	}
	n := 4
	if s.cn == 0 && len(p) >= 4 {
		s.step(s.decode(p))
	} else {
		n = copy(s.carry[s.cn:], p)
		s.cn += uint8(n)
		if s.cn < 4 {
			return n
		}
		s.cn = 0
		s.step(s.decode(s.carry[:]))
	}
	// After the step, so that errors name the offset at which the word began.
	s.pos += 4
	return n
}

// magic reads the two bytes that name the format, as word does.
func (s *Scanner) magic(p []byte) int {
	n := copy(s.carry[s.cn:2], p)
	s.cn += uint8(n)
	if s.cn < 2 {
		return n
	}
	switch string(s.carry[:2]) {
	case "X\n":
		s.msg.XDR = true
	case "B\n":
	case "A\n":
		s.fail("text format, which PSOCK does not use,")
	default:
		s.fail("no serialized object but %q", string(s.carry[:2]))
	}
	s.cn = 0
	s.pos += 2
	s.want = wantVersion
	return n
}

// decode returns the word at the start of p, which has at least four bytes.
func (s *Scanner) decode(p []byte) uint32 {
	w := binary.LittleEndian.Uint32(p)
	if s.msg.XDR {
		w = bits.ReverseBytes32(w)
	}
	return w
}

// fail makes the stream opaque.
func (s *Scanner) fail(format string, args ...any) {
	s.err = fmt.Errorf("psock: "+format+" at byte %d of the stream", append(args, s.pos)...)
	s.stack = nil
}
