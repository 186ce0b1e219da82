package psock

// run reads as many whole items as it can from the start of p, while the top
// frame is one of items, and returns how many bytes that is, maybe none. It does
// what word does, but for the items that long lists are made of, without storing
// anything in between. Whatever it leaves (an item that is cut, rare, long, or
// wrong) is for word.
func (s *Scanner) run(p []byte) int {
	due, i := s.top.due(), 0
loop:
	for due > 0 && due < maxDue>>1 && len(p)-i >= 8 {
		w := s.decode(p[i:])
		l := &layouts[byte(w)]
		switch l.shape {
		case shapeEmpty:
			i += 4
			due--
		case shapeRef:
			if w>>8 == 0 {
				break loop
			}
			i += 4
			due--
		case shapeFixed:
			i += 4
			due += int64(l.n) - 1
		case shapeCell:
			i += 4
			due += 1 + attrs(w) + int64(w/flagTag&1)
		case shapeChar:
			n := int64(int32(s.decode(p[i+4:])))
			if n == -1 {
				n = 0
			}
			if n < 0 || n > int64(len(p)-i-8) {
				break loop
			}
			i += 8 + int(n)
			due += attrs(w) - 1
		case shapeVector:
			n := int64(int32(s.decode(p[i+4:])))
			size := n * int64(l.n)
			if n < 0 || size > int64(len(p)-i-8) {
				break loop
			}
			i += 8 + int(size)
			due += attrs(w) - 1
		case shapeList:
			n := int64(int32(s.decode(p[i+4:])))
			if n < 0 {
				break loop
			}
			i += 8
			due += n + attrs(w) - 1
		default:
			break loop
		}
	}
	s.pos += int64(i)
	if due == 0 {
		s.pop()
	} else {
		s.top = newFrame(opItems, due)
	}
	if i == 0 {
		return s.word(p)
	}
	return i
}
