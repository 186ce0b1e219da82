package psock

import (
	"encoding/binary"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxErrorText is far above what R shows of an error message (8 KB), and far
// below what would make R slow to read it.
const maxErrorText = 64 << 10

// AppendError appends to dst the message by which a worker reports that its
// call failed, and returns the longer slice. It is, in serialization version 2
// so that any R can read it:
//
//	list(type = "VALUE",
//	     value = structure(message, class = c("snow-try-error", "try-error")),
//	     success = FALSE,
//	     time = structure(c(user.self = 0, ..., sys.child = 0), class = "proc_time"),
//	     tag = NULL)
//
// as workCommand() in R's parallel package builds it. message is UTF-8; what is
// not valid in it or is a NUL, which R strings cannot hold, becomes U+FFFD, and
// beyond 64 KB it is cut. xdr selects big-endian XDR, otherwise it is native
// binary of a little-endian machine; R reads either.
//
// One difference remains: parallel's own tag repeats what the EXEC asked for.
// future and parallel's own functions never set it to anything that they read
// back, except clusterApplyLB and parLapplyLB.
func AppendError(dst []byte, message string, xdr bool) []byte {
	return appendAnswer(dst, xdr, false, func(w *writer) {
		w.strings(typeString|flagObject|flagAttr, errorText(message))
		w.symbol("class")
		w.strings(typeString, "snow-try-error", "try-error")
		w.words(typeNull)
	})
}

// AppendText appends to dst the message by which a worker answers text, as a character
// vector of one string, and returns the longer slice. It is as [AppendError] has it
// otherwise, but for success = TRUE.
func AppendText(dst []byte, text string, xdr bool) []byte {
	return appendAnswer(dst, xdr, true, func(w *writer) {
		w.strings(typeString, errorText(text))
	})
}

// AppendCondition appends to dst the message by which a worker answers an R condition of
// these classes, as a value, and returns the longer slice:
//
//	structure(list(message = message, call = NULL), class = classes)
//
// It is as [AppendText] has it otherwise.
func AppendCondition(dst []byte, message string, classes []string, xdr bool) []byte {
	return appendAnswer(dst, xdr, true, func(w *writer) {
		w.words(typeList|flagObject|flagAttr, 2)
		w.strings(typeString, errorText(message))
		w.words(typeNull)
		w.symbol("class")
		w.strings(typeString, classes...)
		w.symbol("names")
		w.strings(typeString, "message", "call")
		w.words(typeNull)
	})
}

// appendAnswer appends the answer of a work loop with the value that write writes.
func appendAnswer(dst []byte, xdr, success bool, write func(w *writer)) []byte {
	w := writer{b: dst, order: binary.LittleEndian}
	if xdr {
		w.order = binary.BigEndian
		w.b = append(w.b, "X\n"...)
	} else {
		w.b = append(w.b, "B\n"...)
	}
	// Version 2, written by R 4.2.2, readable from R 2.3.0 on.
	w.words(2, 0x040202, 0x020300)

	w.words(typeList|flagAttr, 5)
	w.strings(typeString, "VALUE")
	write(&w)
	logical := uint32(0)
	if success {
		logical = 1
	}
	w.words(typeLogical, 1, logical)
	w.words(typeDouble|flagObject|flagAttr, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	w.symbol("names")
	w.strings(typeString, "user.self", "sys.self", "elapsed", "user.child", "sys.child")
	w.symbol("class")
	w.strings(typeString, "proc_time")
	w.words(typeNull)
	w.words(typeNull)
	w.symbol("names")
	w.strings(typeString, "type", "value", "success", "time", "tag")
	w.words(typeNull)
	return w.b
}

// errorText makes message one that an R string can hold.
func errorText(message string) string {
	if len(message) > maxErrorText {
		// Not within a character.
		n := maxErrorText
		for n > maxErrorText-utf8.UTFMax && !utf8.RuneStart(message[n]) {
			n--
		}
		message = message[:n]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(message, "\uFFFD"), "\x00", "\uFFFD")
}

// writer appends R objects in one byte order.
type writer struct {
	b       []byte
	order   binary.AppendByteOrder
	symbols []string
}

func (w *writer) words(words ...uint32) {
	for _, v := range words {
		w.b = w.order.AppendUint32(w.b, v)
	}
}

// strings appends a character vector whose flags are given.
func (w *writer) strings(flags uint32, values ...string) {
	w.words(flags, uint32(len(values)))
	for _, v := range values {
		w.char(v)
	}
}

// char appends one string. R marks each with its encoding, in the general
// purpose bits: bit 3 for UTF-8, bit 6 for plain ASCII.
func (w *writer) char(v string) {
	mark := uint32(1 << 6)
	for i := range len(v) {
		if v[i] >= utf8.RuneSelf {
			mark = 1 << 3
			break
		}
	}
	w.words(typeChar|mark<<12, uint32(len(v)))
	w.b = append(w.b, v...)
}

// symbol starts a cell of a pairlist with a tag. R numbers the symbols of a message, and
// refers to one that was there before.
func (w *writer) symbol(name string) {
	if i := slices.Index(w.symbols, name); i >= 0 {
		w.words(typePairlist|flagTag, uint32(i+1)<<8|typeReference)
		return
	}
	w.symbols = append(w.symbols, name)
	w.words(typePairlist|flagTag, typeSymbol)
	w.char(name)
}
