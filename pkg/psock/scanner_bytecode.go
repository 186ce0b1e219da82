package psock

// Byte code is written in a form of its own. The item gives the number of calls
// that occur in it more than once. Then comes the code itself, an item; the
// number of its constants; and for each constant its type, which says how it
// goes on: byte code again without that first number, a call or pairlist in a
// compact form (with each repeated one written once and referred to), or, for
// any other type, an ordinary item with flags of its own.

// codeWord acts on the words of byte code that are not the start of something.
func (s *Scanner) codeWord(want want, w uint32) {
	switch want {
	case wantRepeats:
		if int32(w) < 0 {
			s.fail("byte code with %d repeated calls", int32(w))
			return
		}
		s.pushCode()
	case wantDefIndex:
		s.want = wantDefType
	case wantDefType:
		s.call(w)
	case wantRefIndex:
	}
}

// pushCode makes the code and the number of its constants due.
func (s *Scanner) pushCode() {
	s.push(opConstLen, 1)
	s.push(opItems, 1)
}

// code acts on the first word of a part of byte code.
func (s *Scanner) code(w uint32) {
	op := s.top.op()
	s.take()
	switch {
	case op == opConstLen:
		if int32(w) < 0 {
			s.fail("byte code with %d constants", int32(w))
			return
		}
		s.push(opConsts, int64(w))
	case op == opConsts && w == typeByteCode:
		s.pushCode()
	case w == typeRepeat:
		s.want = wantRefIndex
	case w == typeRepeatDef:
		s.want = wantDefIndex
	case w == typeCall, w == typePairlist, w == typeAttrCall, w == typeAttrPairlist:
		s.call(w)
	default:
		s.push(opItems, 1)
	}
}

// call makes due what a call or pairlist of the given type consists of:
// attributes if it has any, the tag, and then head and tail, which may be calls
// again.
func (s *Scanner) call(w uint32) {
	s.push(opCalls, 2)
	switch w {
	case typeCall, typePairlist:
		s.push(opItems, 1)
	case typeAttrCall, typeAttrPairlist:
		s.push(opItems, 2)
	default:
		s.fail("repeated call of type %d", int32(w))
	}
}
