package relay_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/facts"
)

// call is a message of the master's as serialize(xdr = FALSE) writes it:
// list(kind, payload), the payload a raw vector.
func call(kind string, payload []byte) []byte {
	const vec, str, char, raw = 19, 16, 9 | 1<<18, 24 // SEXPTYPEs, and the ASCII flag of a CHARSXP
	b := []byte("B\n")
	for _, word := range []uint32{2, 0x040202, 0x020300, vec, 2, str, 1, char, uint32(len(kind))} {
		b = binary.LittleEndian.AppendUint32(b, word)
	}
	b = append(b, kind...)
	b = binary.LittleEndian.AppendUint32(b, raw)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// answer is what a worker of real R sent as the value of a call.
func answer(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("../../pkg/psock/testdata/scanner/answer-SOCK0node.bin")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// reset is future's call that erases the worker's global environment, and what the
// worker answers.
func reset() []byte     { return call("EXEC", []byte("rm(list = vars); future-grmall")) }
func confirmed() []byte { return value("future-grmall") }

// message is list("VALUE", text, TRUE, ...) of as many elements, as a worker sends it.
func message(elements uint32, text string) []byte {
	const vec, str, char, logical, double, null = 19, 16, 9 | 1<<18, 10, 14, 254 // SEXPTYPEs, and the ASCII flag of a CHARSXP
	b := []byte("B\n")
	words := func(words ...uint32) {
		for _, word := range words {
			b = binary.LittleEndian.AppendUint32(b, word)
		}
	}
	words(2, 0x040202, 0x020300, vec, elements)
	for _, s := range []string{"VALUE", text} {
		words(str, 1, char, uint32(len(s)))
		b = append(b, s...)
	}
	words(logical, 1, 1)
	if elements == 5 {
		words(double, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		words(null)
	}
	return b
}

// value is the answer of a call, condition what future sends ahead of it.
func value(text string) []byte     { return message(5, text) }
func condition(text string) []byte { return message(3, text) }

// result is the answer of a future's last call: its value has a class.
func result() []byte { return resultOf("") }

// resultOf is one that holds text.
func resultOf(of string) []byte {
	const vec, object, attr, pair, tag, symbol, str, char, logical, double, null = 19, 1 << 8, 1 << 9, 2, 1 << 10, 1, 16, 9 | 1<<18, 10, 14, 254
	b := []byte("B\n")
	words := func(words ...uint32) {
		for _, word := range words {
			b = binary.LittleEndian.AppendUint32(b, word)
		}
	}
	text := func(s string) {
		words(char, uint32(len(s)))
		b = append(b, s...)
	}
	words(2, 0x040202, 0x020300, vec, 5, str, 1)
	text("VALUE")
	words(vec|object|attr, 1, str, 1)
	text(of)
	words(pair|tag, symbol)
	text("class")
	words(str, 1)
	text("FutureResult")
	words(null)
	words(logical, 1, 1, double, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, null)
	return b
}

// introduction is what parallelly asks each new node.
func introduction() []byte { return told(facts.Introduction) }

// told is a call that is told to be one, with some more words.
func told(is facts.Call, more ...byte) []byte {
	for _, f := range facts.All {
		if f.Call == is {
			return call("EXEC", append(bytes.Join(f.Words, nil), more...))
		}
	}
	panic(fmt.Sprint("nothing tells a ", is))
}
