package psock

import (
	"encoding/binary"
	"math"
	"strings"
	"testing"
)

// native is the start of a native binary stream of version 2.
func native(words ...uint32) []byte {
	b := []byte("B\n")
	for _, w := range append([]uint32{2, 0x040202, 0x020300}, words...) {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}

const minus = math.MaxUint32 // -1

// TestScannerOpaque gives the scanner what R does not write. The stream is
// opaque at the same byte however it is cut, and stays so.
func TestScannerOpaque(t *testing.T) {
	// A list whose first element is byte code, a constant of which is such a
	// list again: every level leaves an item and a constant behind.
	nest := native(typeList, 2)
	level := native(typeByteCode, 0, typeNull, 2, typeList, typeList, 2)[14:]
	nest = append(nest, []byte(strings.Repeat(string(level), 5000))...)
	many := native(typeList, minus, 1<<16, 0)
	many = append(many, []byte(strings.Repeat(string(native(typeList, minus, 1<<16, 0)[14:]), 20))...)

	tests := []struct {
		name string
		data []byte
		want string
	}{
		{"text", []byte("A\n2\n"), "text format, which PSOCK does not use, at byte 0 of"},
		{"other protocol", []byte("GET / HTTP/1.0\r\n"), `no serialized object but "GE" at byte 0 of`},
		{"version", []byte("X\n\x00\x00\x00\x04"), "serialization version 4 at byte 2 of"},
		{"big-endian native", []byte("B\n\x00\x00\x00\x03"), "serialization version 50331648 at byte 2 of"},
		{"encoding", []byte("X\n\x00\x00\x00\x03\x00\x04\x02\x02\x00\x03\x05\x00\x00\x00\x00\x40"), "encoding name of 64 bytes at byte 14 of"},
		{"unknown type", native(0), "unknown type 0 at byte 14 of"},
		{"class reference", native(246), "unknown type 246 at byte 14 of"},
		{"nested unknown type", native(typeList, 2, typeNull, 99), "unknown type 99 at byte 26 of"},
		{"negative length", native(typeInteger, minus-1), "length -2 at byte 18 of"},
		{"negative string", native(typeString, 1, typeChar, minus-1), "length -2 at byte 26 of"},
		{"negative name", native(typeBuiltin, minus), "length -1 at byte 18 of"},
		{"absurd length", native(typeDouble, minus, 1<<16+1, 0), "vector of 65537 * 2^32 elements at byte 22 of"},
		{"names of names", native(typeNamespace, 1), "a string vector with names at byte 18 of"},
		{"negative names", native(typePackage, 0, minus), "string vector of length -1 at byte 22 of"},
		{"negative repeats", native(typeByteCode, minus), "byte code with -1 repeated calls at byte 18 of"},
		{"negative constants", native(typeByteCode, 0, typeNull, minus), "byte code with -1 constants at byte 26 of"},
		{"repeated vector", native(typeByteCode, 1, typeNull, 1, typeRepeatDef, 0, typeInteger), "repeated call of type 13 at byte 38 of"},
		{"deep byte code", nest, "byte code nested too deep"},
		{"too many items", many, "more than 2^52 items due"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			first := ""
			for _, size := range []int{1, 2, 3, 5, 64, len(tt.data)} {
				var s Scanner
				if found := scan(t, &s, tt.data, true, always(size)); len(found) != 0 {
					t.Fatalf("found messages: %+v", found)
				}
				err := s.Opaque()
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("in pieces of %d: got error %v, want %q", size, err, tt.want)
				}
				if first == "" {
					first = err.Error()
				}
				if err.Error() != first {
					t.Errorf("in pieces of %d: %q, of 1: %q", size, err, first)
				}
				if n, done := s.Scan(AppendError(nil, "x", true)); n == 0 || done || !s.InMessage() || s.Skip() != math.MaxInt64 {
					t.Errorf("an opaque stream goes on: %d, %v", n, done)
				}
			}
		})
	}
}

// TestScannerLongVectors checks lengths that no test can write, by Skip and
// Advance.
func TestScannerLongVectors(t *testing.T) {
	var s Scanner
	s.Scan(native(typeList, 2, typeComplex, minus, 3, 5))
	const size = (3<<32 + 5) * 16
	if got := s.Skip(); got != size-1 {
		t.Fatalf("Skip: got %d, want %d", got, int64(size-1))
	}
	s.Advance(size - 1)
	if got := s.Skip(); got != 0 {
		t.Fatalf("Skip at the last byte: got %d", got)
	}
	rest := binary.LittleEndian.AppendUint32([]byte{0}, typeNull)
	if n, done := s.Scan(rest); n != len(rest) || !done {
		t.Fatalf("got %d, %v", n, done)
	}
	if got, want := s.Message().Bytes, int64(14+6*4+size+4); got != want {
		t.Errorf("Bytes: got %d, want %d", got, want)
	}
}

func TestScannerAdvanceTooFar(t *testing.T) {
	for _, n := range []int64{-1, 8, math.MaxInt64} {
		var s Scanner
		s.Scan(native(typeDouble, 1))
		s.Advance(n)
		if s.Opaque() == nil {
			t.Errorf("Advance(%d) of 7: not opaque", n)
		}
	}
}

// TestScannerRareItems ends messages of items that R writes only in extreme
// cases, at their last byte.
func TestScannerRareItems(t *testing.T) {
	const levels = 100
	nested := native(typeList, 2)
	level := native(typeByteCode, 0, typeNull, 2, typeList, typeList, 2)[14:]
	nested = append(nested, []byte(strings.Repeat(string(level), levels))...)
	null := native(typeNull)[14:]
	nested = append(nested, []byte(strings.Repeat(string(null), 3*levels+2))...)

	tests := map[string][]byte{
		"index of a reference beyond 2^23": native(typeList, 2, typeReference, 1<<24, typeNull),
		"persistent name":                  native(typePersistent, 0, 1, typeChar, 0),
		"string with attributes":           native(typeString, 1, typeChar|flagAttr, 0, typeNull),
		"flags that a symbol ignores":      native(typeSymbol|flagAttr|flagTag, typeChar, 0),
		"null with flags":                  native(typeNull | flagAttr),
		"byte code in byte code":           nested,
	}
	for name, data := range tests {
		for _, size := range []int{1, 5, len(data)} {
			var s Scanner
			found := scan(t, &s, data, false, always(size))
			if len(found) != 1 || found[0].End != int64(len(data)) || s.Opaque() != nil {
				t.Errorf("%s, in pieces of %d: %+v of %d bytes, %v", name, size, found, len(data), s.Opaque())
			}
		}
	}
}
