package psock

// Most of a stream needs no stack. Items nest, but what comes after a list is
// the same wherever it stands: the next item. So it is enough to count how many
// items are due, and a list of n adds n to the count. Only byte code has words
// between its items, and so does the message itself, whose elements are told
// apart; those make a frame of their own. It also makes no difference that
// attributes come before the data of some types and after that of others.

// frame is what the words to come belong to: an op in the low byte, above it
// how many of them are due. 8 bytes, so that the deepest stack is 56 KB.
type frame uint64

const (
	opEnd      = iota + 1 // nothing: the message is complete
	opItems               // items
	opMessage             // the one item that is the message
	opElements            // items that are the elements of the message
	opCall                // items that are the elements of an EXEC's data
	opAttrs               // the one item that is the attributes of the value
	opConsts              // constants of byte code
	opCalls               // calls and pairlists among them, in their own form
	opConstLen            // the number of constants
)

const (
	endFrame   frame = opEnd
	maxFrames        = 7 << 10
	keepFrames       = 32 // a stack this size stays allocated between messages
	// maxDue bounds the sum of what is due, far above any length R can write
	// (2^48), so that it cannot overflow.
	maxDue = 1 << 52
)

func newFrame(op uint64, due int64) frame { return frame(uint64(due)<<8 | op) }
func (f frame) op() uint64                { return uint64(f) & 0xff }
func (f frame) due() int64                { return int64(f >> 8) }

// push makes n words of op due before anything else.
func (s *Scanner) push(op uint64, n int64) {
	if n == 0 {
		return
	}
	if s.top.op() == op {
		n += s.top.due()
		if n > maxDue {
			s.fail("more than 2^52 items due")
			return
		}
		s.top = newFrame(op, n)
		return
	}
	if s.top != endFrame {
		if len(s.stack) >= maxFrames {
			s.fail("byte code nested too deep")
			return
		}
		if len(s.stack) == cap(s.stack) {
			s.grow()
		}
		s.stack = append(s.stack, s.top)
	}
	s.top = newFrame(op, n)
}

// grow doubles the stack, up to its bound.
func (s *Scanner) grow() {
	n := min(max(2*cap(s.stack), keepFrames), maxFrames)
	s.stack = append(make([]frame, 0, n), s.stack...)
}

// take counts one word of the top frame as read. A frame goes when its last
// word starts, not when that ends, so that a chain of last words (the cells of
// a pairlist) stays as deep as its first.
func (s *Scanner) take() {
	if s.top.due() > 1 {
		s.top -= 1 << 8
		return
	}
	s.pop()
}

func (s *Scanner) pop() {
	if n := len(s.stack); n > 0 {
		s.top, s.stack = s.stack[n-1], s.stack[:n-1]
		return
	}
	s.top = endFrame
}

// want is what the next word is.
type want uint8

const (
	wantFlags    want = iota // what the top frame says
	wantMagic                // the two bytes that name the format
	wantVersion              // 2 or 3
	wantWriter               // version of R that wrote it
	wantReader               // oldest version of R that can read it
	wantEncoding             // version 3: length of the writer's encoding's name
	wantLength               // length of the item
	wantHigh                 // upper half of a length >= 2^31
	wantLow                  // lower half
	wantLocked               // environment: whether it is locked
	wantIndex                // index of a reference
	wantZero                 // names of a string vector: there are none
	wantStrings              // length of a string vector
	wantRepeats              // byte code: number of calls that are repeated
	wantDefIndex             // byte code: index of the call that comes next
	wantDefType              // byte code: type of the call that comes next
	wantRefIndex             // byte code: index of a call that came before
)

// step acts on one word.
func (s *Scanner) step(w uint32) {
	want := s.want
	s.want = wantFlags
	switch want {
	case wantFlags:
		s.first(w)
	case wantVersion, wantWriter, wantReader, wantEncoding:
		s.header(want, w)
	case wantLength, wantHigh, wantLow:
		s.length(want, w)
	case wantLocked:
		s.push(opItems, 4)
	case wantZero:
		if w != 0 {
			s.fail("a string vector with names")
		}
		s.want = wantStrings
	case wantStrings:
		if int32(w) < 0 {
			s.fail("string vector of length %d", int32(w))
			return
		}
		s.push(opItems, int64(w))
	case wantIndex:
	default:
		s.codeWord(want, w)
	}
}

// header acts on the words before the object.
func (s *Scanner) header(want want, w uint32) {
	switch want {
	case wantVersion:
		if w != 2 && w != 3 {
			s.fail("serialization version %d", int32(w))
			return
		}
		s.item = w
		s.want = wantWriter
	case wantWriter:
		s.want = wantReader
	case wantReader:
		if s.item == 3 {
			s.want = wantEncoding
			return
		}
		s.push(opMessage, 1)
	case wantEncoding:
		// R itself takes no more than 63 (R_CODESET_MAX).
		if w > 63 {
			s.fail("encoding name of %d bytes", int32(w))
			return
		}
		s.skip = int64(w)
		s.push(opMessage, 1)
	}
}

// first acts on the first word of something, which the top frame names.
func (s *Scanner) first(w uint32) {
	switch s.top.op() {
	case opItems:
		s.take()
		s.itemFlags(w)
	case opMessage:
		s.take()
		s.root = byte(w) == typeList
		s.itemFlags(w)
	case opElements:
		s.attrs = 0
		s.role = s.element(s.elems - s.top.due())
		s.take()
		s.itemFlags(w)
	case opAttrs:
		if len(s.Classes) > 0 {
			s.attrs = attrStrings
		}
		s.take()
		s.itemFlags(w)
	case opCall:
		if s.top.due() == 1 { // fun, args, return, tag
			s.role = roleTag
		}
		s.take()
		s.itemFlags(w)
	default:
		s.code(w)
	}
}

// itemFlags acts on the flags of an item.
func (s *Scanner) itemFlags(w uint32) {
	l := layouts[byte(w)]
	s.item = w
	if s.role == roleTag {
		s.role = roleNone
		s.msg.Tagged = l.shape != shapeEmpty
	}
	if s.role != roleNone && l.shape != shapeVector && l.shape != shapeList && l.shape != shapeChar {
		s.role = roleNone
	}
	switch l.shape {
	case shapeEmpty:
	case shapeFixed:
		s.push(opItems, int64(l.n))
	case shapeItems:
		s.push(opItems, int64(l.n)+attrs(w))
	case shapeCell:
		s.push(opItems, 2+attrs(w)+int64(w/flagTag&1))
	case shapeVector, shapeList, shapeChar, shapeName:
		s.want = wantLength
	case shapeEnv:
		s.want = wantLocked
	case shapeStrings:
		s.want = wantZero
	case shapeRef:
		if w>>8 == 0 {
			s.want = wantIndex
		}
	case shapeByteCode:
		s.push(opItems, attrs(w)) // behind the constants
		s.want = wantRepeats
	default:
		s.fail("unknown type %d", w&0xff)
	}
}

// length acts on the length of the item whose flags are in s.item, which is one
// word or, from 2^31 on, a -1 and two.
func (s *Scanner) length(want want, w uint32) {
	n := int64(int32(w))
	l := layouts[byte(s.item)]
	switch {
	case want == wantHigh:
		// R's own limit. It leaves room for 16 bytes an element in 2^53.
		if w > 1<<16 {
			s.fail("vector of %d * 2^32 elements", w)
			return
		}
		s.high = int64(w) << 32
		s.want = wantLow
		return
	case want == wantLow:
		n = s.high | int64(w)
	case n == -1 && l.shape == shapeChar: // NA
		s.role = roleNone
		n = 0
	case n == -1 && l.shape != shapeName:
		s.want = wantHigh
		return
	case n < 0:
		s.fail("length %d", n)
		return
	}
	s.body(l, n)
}

// body makes due what follows the length of an item: n elements, and its
// attributes.
func (s *Scanner) body(l layout, n int64) {
	if s.role == roleValue && byte(s.item) == typeList {
		s.push(opAttrs, attrs(s.item))
	} else {
		s.push(opItems, attrs(s.item))
	}
	switch {
	case s.root:
		s.root = false
		s.elems = n
		s.push(opElements, n)
	case s.role == roleCall && byte(s.item) == typeList:
		s.role = roleNone
		s.push(opCall, n)
	case l.shape == shapeList:
		s.list(n)
		s.push(opItems, n)
	case l.shape == shapeVector:
		s.skip = n * int64(l.n)
		s.vector(n)
	default:
		s.skip = n
		s.char(n)
	}
}
