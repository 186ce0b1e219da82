package facts

import (
	"bytes"
	"encoding/binary"
)

// attaches reports whether a call is clusterEvalQ(cl, library(name)), or with require(): that is
// clusterCall(cl, eval, quote(library(name)), envir = .GlobalEnv) (parallel 4.2.2, 4.6.1), which is
// sent with the body of base's eval(). Anything more in it, another argument or another
// expression, makes it another call.
func attaches(message []byte) bool {
	var order byteOrder = binary.LittleEndian
	if bytes.HasPrefix(message, []byte("X\n")) {
		order = binary.BigEndian
	}
	eval := function(inBase, formal("expr", missing))(nil, order)
	if !bytes.Contains(message, eval) || !bytes.Contains(message, []byte("enclos")) {
		return false
	}
	for _, by := range []string{"library", "require"} {
		call := arguments(2, symbolCall(by))(nil, order)
		if at := bytes.LastIndex(message, call); at >= 0 {
			return oneName(message[at+len(call):], order)
		}
	}
	return false
}

// byteOrder reads and writes.
type byteOrder interface {
	binary.ByteOrder
	binary.AppendByteOrder
}

// symbolCall is the beginning of the unevaluated call function(...): up to its first argument.
func symbolCall(function string) word {
	return func(b []byte, order binary.AppendByteOrder) []byte {
		b = char(numbers(b, order, typeCall, typeSymbol), order, function)
		return numbers(b, order, typePairlist)
	}
}

// oneName reports whether p begins with a name or a string, which is the last argument of an
// unevaluated call that is followed by the global environment.
func oneName(p []byte, order byteOrder) bool {
	rest, found := bytes.CutPrefix(p, numbers(nil, order, typeSymbol, typeChar|ascii))
	if !found {
		rest, found = bytes.CutPrefix(p, numbers(nil, order, typeString, 1, typeChar|ascii))
	}
	if !found || len(rest) < 4 {
		return false
	}
	n := order.Uint32(rest)
	rest = rest[4:]
	return uint64(n) <= uint64(len(rest)) && bytes.HasPrefix(rest[n:], numbers(nil, order, typeNull, global))
}
