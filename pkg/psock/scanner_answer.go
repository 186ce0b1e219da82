package psock

import (
	"encoding/binary"
	"math"
	"time"
)

// role is what an item tells about the message, if anything.
type role uint8

const (
	roleNone role = iota
	roleType
	roleValue
	roleSuccess
	roleTime
	roleCall  // the data of an EXEC
	roleTag   // the tag in it
	roleClass // a string among the attributes of the value
)

// attrStrings is how many strings among the attributes of a value are looked at: those of
// a future's result are its names, up to 20, and its class. Looking is slow.
const attrStrings = 64

// element returns the role of the element of the message at index i.
func (s *Scanner) element(i int64) role {
	switch {
	case i == 0:
		return roleType
	case i == 1 && s.msg.Kind == KindExec:
		return roleCall
	}
	if s.msg.Kind != KindValue || i > 3 {
		return roleNone
	}
	return [...]role{1: roleValue, 2: roleSuccess, 3: roleTime}[i]
}

// list is called with the length of a list. A role lives on in its first
// element when that is the only one and both are strings. The value must have
// no attributes either: a string of some class, such as an error, is not plain.
func (s *Scanner) list(n int64) {
	plain := s.item&(flagObject|flagAttr) == 0
	if n != 1 || byte(s.item) != typeString || s.role != roleType && (s.role != roleValue || !plain) {
		s.role = roleNone
	}
}

// vector is called with the length of a vector of numbers, before its data.
func (s *Scanner) vector(n int64) {
	switch {
	case s.role == roleSuccess && byte(s.item) == typeLogical && n == 1:
		s.wantData(4)
	case s.role == roleTime && byte(s.item) == typeDouble && n >= 3:
		s.wantData(24)
	default:
		s.role = roleNone
	}
}

// char is called with the length of a string, before its bytes.
func (s *Scanner) char(n int64) {
	if s.attrs > 0 {
		s.attrs--
		if s.named(n) {
			s.role = roleClass
			s.wantData(uint8(n))
			return
		}
	}
	if s.role == roleNone {
		return
	}
	if s.role > roleValue || n > int64(len(s.capture)) || n == 0 {
		s.role = roleNone
		return
	}
	s.wantData(uint8(n))
}

// named reports whether one of the classes that are looked for has n bytes.
func (s *Scanner) named(n int64) bool {
	for _, class := range s.Classes {
		if int64(len(class)) == n {
			return n <= int64(len(s.capture))
		}
	}
	return false
}

// wantData copies the first n bytes of the data that comes next into capture.
func (s *Scanner) wantData(n uint8) {
	s.capN, s.capLen = 0, n
}

// captured takes what is in capture into the message.
func (s *Scanner) captured() {
	b := s.capture[:s.capLen]
	role := s.role
	s.role = roleNone
	s.capN, s.capLen = 0, 0
	switch role {
	case roleType:
		for k := KindExec; k <= KindValue; k++ {
			if string(b) == k.String() {
				s.msg.Kind = k
			}
		}
	case roleValue:
		s.msg.Text = string(b)
	case roleClass:
		for _, class := range s.Classes {
			if s.msg.Class == "" && string(b) == class {
				s.msg.Class = class
			}
		}
	case roleSuccess:
		s.gotFlag = true
		s.msg.Success = s.decode(b) == 1 // NA is the smallest integer
	case roleTime:
		s.msg.Elapsed = s.seconds(b[16:])
		s.msg.Final = s.gotFlag && s.elems == 5
	}
}

// seconds decodes a double that counts seconds. What cannot be an elapsed time
// is zero.
func (s *Scanner) seconds(b []byte) time.Duration {
	u := binary.LittleEndian.Uint64(b)
	if s.msg.XDR {
		u = binary.BigEndian.Uint64(b)
	}
	f := math.Float64frombits(u)
	// NaN fails both comparisons. A century keeps well within a Duration.
	if f > 0 && f < 100*365*24*3600 {
		return time.Duration(math.Round(f * float64(time.Second)))
	}
	return 0
}
